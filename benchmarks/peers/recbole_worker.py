"""RecBole's SASRec and GRU4Rec, timed for a driver; see ``protocol.py``.

Data go the documented way: atomic files, ``create_dataset``, ``data_preparation`` with the default split of sequential models
(the last two events of a user are for validation and test) and the default augmentation, a row for every prefix. ``Trainer``'s
own epoch loop takes the steps. A batch holds about as many targets as the ``batch`` users of the other peers.
"""

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from protocol import BLOCKS, CANDIDATES, HEADS, Clock, Load, above, serve
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed
from torch import Tensor

PAIRS = 4096
"""(row, candidate) pairs that ``predict`` gets at once: RecBole's default ``eval_batch_size``."""


def write_files(load: Load, folder: Path) -> None:
    """The load as RecBole's atomic files; the item file makes every item known, also those without an event."""
    user, position, item = load.events()
    folder.mkdir()
    events = {"user_id:token": user, "item_id:token": item, "timestamp:float": position}
    pd.DataFrame(events).to_csv(folder / f"{folder.name}.inter", sep="\t", index=False)
    items = {"item_id:token": np.arange(1, load.items + 1)}
    pd.DataFrame(items).to_csv(folder / f"{folder.name}.item", sep="\t", index=False)


class RecBole:
    """One of its sequential models."""

    def __init__(self, load: Load, name: str, sizes: dict[str, Any], checked: bool) -> None:
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        write_files(load, folder / "load")
        os.chdir(folder)  # the trainer writes its logs into the current folder
        settings = {
            "data_path": str(folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
            "use_gpu": False,
            "seed": load.seed,
            "MAX_ITEM_LIST_LENGTH": load.length,
            "loss_type": "BPR",
            "train_batch_size": load.batch * (load.length - 1),
            "eval_batch_size": load.batch,
            **sizes,
        }
        config = Config(model=name, dataset="load", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        self.training, _, self.test = data_preparation(config, create_dataset(config))
        self.model = get_model(config["model"])(config, self.training.dataset).to(config["device"])
        self.trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, self.model)
        self.candidates = torch.from_numpy(load.candidates())
        self.checked = checked
        self.evaluate_note = ""
        self.train_note = (
            f"Trainer's epoch loop, {self.training.step} prefixes a batch, BPR with one negative, "
            f"anomaly detection {'on, as importing RecBole leaves it' if checked else 'switched off'}"
        )

    def train(self, clock: Clock) -> None:
        """Epochs of its trainer over as many batches as fit."""
        with torch.autograd.set_detect_anomaly(self.checked):
            self.trainer._train_epoch(self._steps(clock), 0)

    def _steps(self, clock: Clock) -> Iterator[Interaction]:
        """Batches; the trainer asks for the next one when its step has ended."""
        while True:
            for batch in self.training:
                yield batch
                if clock.tick(len(batch)):
                    return

    def evaluate(self, clock: Clock) -> None:
        """By the faster of the two ways that RecBole has to score some items."""
        self.model.eval()
        with torch.no_grad():
            way = self._faster()
            while True:
                row = 0
                for histories, *_ in self.test:
                    candidates = self.candidates[row : row + len(histories)]
                    above(way(histories, candidates))
                    row += len(histories)
                    if clock.tick(len(histories)):
                        return

    def _faster(self) -> Callable[[Interaction, Tensor], Tensor]:
        """The way that takes the shorter time for the first batch, seen twice."""
        histories = next(iter(self.test))[0]
        spent: dict[str, float] = {}
        ways = {"predict, every pair of a row and a candidate on its own": self._by_pairs,
                "full_sort_predict, which scores the whole catalogue": self._by_catalogue}  # fmt: skip
        for name, way in ways.items():
            for _ in range(2):
                began = time.perf_counter()
                way(histories, self.candidates[: len(histories)])
                spent[name] = time.perf_counter() - began
        name = min(spent, key=spent.__getitem__)
        self.evaluate_note = f"FullSortEvalDataLoader, {name} (the faster of its two ways)"
        return ways[name]

    def _by_pairs(self, histories: Interaction, candidates: Tensor) -> Tensor:
        scores = []
        for start in range(0, len(histories), PAIRS // CANDIDATES):
            rows = slice(start, start + PAIRS // CANDIDATES)
            pairs = histories[rows].repeat_interleave(CANDIDATES)
            pairs.update(Interaction({self.model.ITEM_ID: candidates[rows].reshape(-1)}))
            scores.append(self.model.predict(pairs))
        return torch.cat(scores).view(candidates.shape)

    def _by_catalogue(self, histories: Interaction, candidates: Tensor) -> Tensor:
        found: Tensor = self.model.full_sort_predict(histories)
        return found.gather(1, candidates)


def sasrec(load: Load, checked: bool = True) -> RecBole:
    """Of the width of the load; inner width and dropout are RecBole's defaults."""
    return RecBole(load, "SASRec", {"n_layers": BLOCKS, "n_heads": HEADS, "hidden_size": load.width}, checked)


def gru4rec(load: Load, checked: bool = True) -> RecBole:
    """Item vectors of the width of the load; the state has 128, RecBole's default."""
    return RecBole(load, "GRU4Rec", {"embedding_size": load.width}, checked)


if __name__ == "__main__":
    # Importing RecBole's sequential models switches on autograd's anomaly detection (sine.py), for every model. Its users pay
    # for that; ``-unchecked`` says what the models cost without.
    models = {"sasrec": sasrec, "gru4rec": gru4rec}
    unchecked = {f"{name}-unchecked": partial(build, checked=False) for name, build in models.items()}
    serve("recbole", {**models, **unchecked}, {})
