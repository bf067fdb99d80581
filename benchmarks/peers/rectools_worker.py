"""RecTools' SASRec, timed for a driver; see ``protocol.py``.

Data go the documented way: ``Dataset.construct``, the model's data preparator and its data loaders. pytorch_lightning's
``Trainer``, with the settings that ``SASRecModel`` gives it, takes the steps, and a callback ends them.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from protocol import BLOCKS, HEADS, Clock, Load, above, serve
from pytorch_lightning import Callback, LightningModule, Trainer
from rectools import Columns
from rectools.dataset import Dataset, Interactions
from rectools.models import SASRecModel
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

NO_GRU4REC = "RecTools 0.19 has no GRU4Rec: its neural sequential models are SASRec, BERT4Rec, HSTU and LiGR"


class WholeCatalogue(SASRecDataPreparator):
    """Trains on the first ``users`` users only: those after them are there to make every item known."""

    def __init__(self, users: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.users = users

    def process_dataset_train(self, dataset: Dataset) -> None:
        """As ever, then without the events of the other users."""
        super().process_dataset_train(dataset)
        known = self.train_dataset
        trained = known.user_id_map.convert_to_internal(np.arange(self.users), strict=False)
        events = known.interactions.df
        some = Interactions(events[events[Columns.User].isin(trained)])
        self.train_dataset = Dataset(known.user_id_map, known.item_id_map, some)


class Ticks(Callback):
    """Ends the training when the clock says so."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: dict[str, torch.Tensor],
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """After the optimizer has moved."""
        trainer.should_stop = self.clock.tick(int((batch["y"] != 0).sum()))


def dataset(load: Load) -> Dataset:
    """The load's users, then users that hold the items that no other user has."""
    user, position, item = load.events()
    absent = np.setdiff1d(np.arange(1, load.items + 1), item)
    shape = (-(-len(absent) // load.length), load.length)
    more = np.resize(absent, shape).ravel()
    user = np.concatenate([user, len(load.sequence) + np.arange(len(more)) // load.length])
    position = np.concatenate([position, np.arange(len(more)) % load.length])
    columns = {
        Columns.User: user,
        Columns.Item: np.concatenate([item, more]),
        Columns.Weight: 1,
        Columns.Datetime: pd.Timestamp(0) + pd.to_timedelta(position, unit="s"),
    }
    return Dataset.construct(pd.DataFrame(columns))


class SASRec:
    """RecTools' SASRec."""

    train_note = "pytorch_lightning Trainer, BCE with one negative a target, default dropout and inner width"
    evaluate_note = (
        "loader of recommend(), encode_sessions and similarity_module on the given candidates; the item vectors are taken once, "
        "outside the clock; the public recommend() scores the whole catalogue"
    )

    def __init__(self, load: Load) -> None:
        known, users = dataset(load), len(load.sequence)
        self.peer = SASRecModel(
            n_blocks=BLOCKS,
            n_heads=HEADS,
            n_factors=load.width,
            session_max_len=load.length,
            batch_size=load.batch,
            recommend_batch_size=load.batch,
            loss="BCE",
            n_negatives=1,
            data_preparator_type=WholeCatalogue,
            data_preparator_kwargs={"users": users},
        )
        # What fit() does before its trainer runs: fit() itself would end with an epoch, and begin anew when called again.
        self.peer._build_model_from_dataset(known)
        preparator = self.peer.data_preparator
        self.training = preparator.get_dataloader_train()
        rows = preparator.transform_dataset_u2i(known, np.flatnonzero(load.sequence.any(1)))
        self.histories = preparator.get_dataloader_recommend(rows, load.batch)
        self.candidates = torch.from_numpy(load.candidates())[:, None]

    def train(self, clock: Clock) -> None:
        """Epochs of its trainer until the clock ends them."""
        trainer = Trainer(
            max_epochs=-1,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            enable_checkpointing=False,
            devices=1,
            accelerator="cpu",
            callbacks=[Ticks(clock)],
        )
        trainer.fit(self.peer.lightning_model.train(), self.training)

    def evaluate(self, clock: Clock) -> None:
        """Every history, again and again."""
        net = self.peer.torch_model.eval()
        with torch.no_grad():
            items = net.item_model.get_all_embeddings()
            while True:
                row = 0
                for batch in self.histories:
                    rows = len(batch["x"])
                    last = net.encode_sessions(batch, items)[:, -1:]
                    above(net.similarity_module(last, items, self.candidates[row : row + rows])[:, 0])
                    row += rows
                    if clock.tick(rows):
                        return


if __name__ == "__main__":
    serve("rectools", {"sasrec": SASRec}, {"gru4rec": NO_GRU4REC})
