"""RePlay's SASRec, timed for a driver; see ``protocol.py``.

Data go the documented way: Parquet files, ``ParquetModule`` and the default transforms of SASRec. lightning's ``Trainer`` takes
the steps, and a callback ends them. The older ``replay.models.nn.sequential.SasRec``, which is deprecated, is left out.
"""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pyarrow as pa
import torch
from protocol import BLOCKS, CANDIDATES, HEADS, Clock, Load, above, serve
from pyarrow import parquet
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.loss import BCESampled
from replay.nn.sequential import SasRec
from replay.nn.transform import UniformNegativeSamplingTransform
from replay.nn.transform.template import make_default_sasrec_transforms

NO_GRU4REC = "RePlay 0.22 has no GRU4Rec: its neural sequential models are SASRec, BERT4Rec and TwoTower"


class Ticks(lightning.Callback):
    """Ends the training when the clock says so."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: dict[str, Any],
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """After the optimizer has moved."""
        trainer.should_stop = self.clock.tick(int(batch["target_padding_mask"].sum()))


def write_rows(load: Load, path: Path) -> None:
    """A row a user: its items and its candidates, both counted from 0."""
    user, _, item = load.events()
    ends = np.cumsum(np.bincount(user, minlength=len(load.sequence)))
    starts = pa.array(np.concatenate([[0], ends]), pa.int32())
    columns = {
        "item_id": pa.ListArray.from_arrays(starts, pa.array(item - 1)),
        "candidates_to_score": pa.array(list(load.candidates() - 1)),
    }
    parquet.write_table(pa.table(columns), path)


class SASRec:
    """RePlay's SASRec."""

    train_note = "lightning Trainer, BCESampled with one negative, which the rows of a batch share; default dropout"
    evaluate_note = "loader of predict, LightningModule.forward with the given candidates of each row"

    def __init__(self, load: Load) -> None:
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = folder / "load.parquet"
        write_rows(load, path)
        source = TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")
        item = TensorFeatureInfo(
            "item_id",
            is_seq=True,
            feature_type=FeatureType.CATEGORICAL,
            embedding_dim=load.width,
            padding_value=load.items,
            cardinality=load.items,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[source],
        )
        schema = TensorSchema([item])
        transforms = make_default_sasrec_transforms(schema)
        transforms["train"].append(UniformNegativeSamplingTransform(load.items, 1))
        self.data = ParquetModule(
            batch_size=load.batch,
            # One more in training: inputs and targets are the same events, shifted.
            metadata={
                "train": {"item_id": {"shape": load.length + 1, "padding": load.items}},
                "predict": {
                    "item_id": {"shape": load.length, "padding": load.items},
                    "candidates_to_score": {"shape": CANDIDATES, "padding": load.items},
                },
            },
            transforms=transforms,
            train_path=str(path),
            predict_path=str(path),
        )
        body = SasRec.from_params(schema, load.width, HEADS, BLOCKS, load.length).body
        self.module = LightningModule(SasRec(body=body, loss=BCESampled()), OptimizerFactory("adam"))

    def train(self, clock: Clock) -> None:
        """Epochs of its trainer until the clock ends them."""
        trainer = lightning.Trainer(
            max_epochs=-1,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            enable_checkpointing=False,
            devices=1,
            accelerator="cpu",
            limit_val_batches=0,
            callbacks=[Ticks(clock)],
        )
        trainer.fit(self.module.train(), datamodule=self.data)

    def evaluate(self, clock: Clock) -> None:
        """Every history, again and again, with what Trainer.predict does to a batch: it cannot be ended within an epoch."""
        self.module.eval()
        self.data.setup("predict")
        with torch.inference_mode():
            while True:
                for batch in self.data.predict_dataloader():
                    scores = self.module(self.data.compiled_transforms["predict"](batch))["logits"]
                    above(scores)
                    if clock.tick(len(scores)):
                        return


if __name__ == "__main__":
    serve("replay", {"sasrec": SASRec}, {"gru4rec": NO_GRU4REC})
