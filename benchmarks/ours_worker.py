"""One of our models, timed for the driver; see `answers.py` for the lines.

    echo train lcr-ser 5 | python benchmarks/ours_worker.py LOAD.npz

``train`` is stage 1, ``reinforce`` stage 2, ``evaluate`` ranks 100 candidates a row. One process holds one model, so that its
peak of memory is the model's. Products are in the precision that the program chooses, or all in that of ``--precision``.
``--straightforward`` takes stage 2 without anything shared, in torch's operations. ``--started MOMENT`` takes the first training
step instead, says when it had ended, and goes.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from answers import Answer, peak_bytes, serve, set_threads
from curve_point import Point, SizedTrainer
from peers.protocol import CANDIDATES, Clock
from steps import generator, load, vocabulary
from straightforward import objective
from torch import Tensor

from seerec.batch import SEARCH, Batch
from seerec.kernels import Precision
from seerec.kernels import library as loading
from seerec.models.base import NeuralRecommender
from seerec.models.inputs import Table
from seerec.models.lcr_ser import LCRSER

IMPORTED = time.monotonic()
BATCHES = 4
"""Batches of each kind, taken one after the other."""
SEARCH_SHARE = 88 / 1024
"""Search rows to recommendation targets of a step, for models that learn both: as in the log of UniSAR's authors."""

Given = tuple[Batch, ...]


def point_of(file: Path, model: str, steps: int = 3) -> Point:
    """The model on the load of a file, which the driver has written."""
    with np.load(file) as held:
        names = ("seed", "users", "words", "length", "targets", "width")
        sizes = {name: int(held[name]) for name in names}
        rows, items = int(held["batch"]), int(held["items"]) + 2  # rows 0 and 1 of our tables are no items
    return Point(model=model, items=items, rows=rows, train_candidates=2, candidates=CANDIDATES, steps=steps, **sizes)


class Learner(SizedTrainer):
    """Steps with all that the training loop does: a model's own changes to a batch, and the search rows that it learns from."""

    def learn(self, given: Given) -> None:
        """One step of stage 1."""
        model = self.model
        batches = [model.augment(batch) for batch in given]

        def terms() -> dict[str, Tensor]:
            found = model.objective(batches[0], model.encode(batches[0]))
            for search in batches[1:]:
                own = model.objective(search, model.encode(search))
                found |= {f"search_{name}": model.config.search_weight * term for name, term in own.items()}
            return found

        model.train()
        self._step(tuple(batches), terms, self.settings.learning_rate)

    def straightforward(self) -> Callable[[Batch], None]:
        """A function that takes one step of stage 2 in which rollouts share nothing, in torch's operations."""
        loading.library = loading.Library(None, "torch's operations, as asked")
        assert isinstance(self.model, LCRSER)
        settings = self.settings.reinforce
        plain = objective(self.model, settings)
        return lambda batch: self._step((batch,), lambda: plain(batch)[0], settings.learning_rate)


class Measured:
    """A model with batches of each kind."""

    def __init__(self, point: Point, precision: Precision | None = None, plain: bool = False) -> None:
        self.sizes, self.plain = vocabulary(point.items, point.words, point.users), plain
        self.learner = Learner(point, self.sizes)
        if precision is not None:
            self.learner.learning_in = self.learner.ranking_in = precision
        model: NeuralRecommender[Any] = self.learner.model
        self.point = point if model.packs else replace(point, targets=1)  # one row for each target
        self.evaluation_rows = min(self.learner.settings.batch.evaluation_rows, 8 * point.rows)
        self.batches: dict[str, list[Given]] = {}
        if model.learns_transitions:
            for batch, *_ in self.given("train"):
                model.observe(batch)

    def given(self, what: str) -> list[Given]:
        """What steps of a kind read, made when it is first asked for."""
        if what not in self.batches:
            make = {"train": self._trained, "evaluate": self._evaluated, "reinforce": self._reinforced}[what]
            self.batches[what] = [make(self.point.seed + 1 + i) for i in range(BATCHES)]
        return self.batches[what]

    def _load(self, seed: int, rows: int, targets: int, candidates: int) -> Batch:
        return load(seed, rows, targets, candidates, self.sizes, length=self.point.length)

    def _trained(self, seed: int) -> Given:
        point, model = self.point, self.learner.model
        batch = self._load(seed, point.rows, point.targets, point.train_candidates)
        if model.paired:  # half the rows end with the items of the other half
            half = point.rows // 2
            batch.candidates[half : 2 * half, :, 0] = batch.candidates[:half, :, 0]
        if not model.searches:
            return (batch,)
        rows = max(1, round(point.rows * point.targets * SEARCH_SHARE))
        search = self._load(seed + BATCHES, rows, 1, point.train_candidates)
        words = torch.from_numpy(generator(seed, 2).integers(2, point.words, search.target_query.shape))
        return batch, search.with_(task=torch.full_like(search.task, SEARCH), target_query=words)

    def _evaluated(self, seed: int) -> Given:
        return (self._load(seed, self.evaluation_rows, 1, self.point.candidates),)

    def _reinforced(self, seed: int) -> Given:
        settings = self.learner.settings
        # As many targets as a default step has, with as many a row as in stage 1.
        rows = max(1, min(settings.reinforce.rows, self.point.rows) // 2)
        return (self._load(seed, rows, self.point.targets, 1 + settings.reinforce.negatives),)

    def step(self, what: str) -> Callable[[Given], object]:
        """A function that takes one step of a kind."""
        if what == "train":
            return self.learner.learn
        if what == "evaluate":
            return lambda given: self.learner.rank(given[0])
        tune = self.learner.straightforward() if self.plain else self.learner.stage2(self.learner.settings.reinforce)
        return lambda given: tune(given[0])

    def facts(self) -> dict[str, Any]:
        """Bytes of parameters and of the optimizer's state, and what a training step touches."""
        model, optimizer = self.learner.model, self.learner.optimizer
        batch, *searches = self.given("train")[0]
        tables = [module for module in model.modules() if isinstance(module, Table)]
        model.inputs.open(batch, *searches)
        touched = sum(len(table.touched) for table in tables if table.touched is not None)
        model.inputs.close()
        every = sum(p.numel() for p in model.parameters())
        state = sum(t.numel() * t.element_size() for t in optimizer.state().values())
        return {
            "parameter_bytes": 4 * every,
            "optimizer_bytes": state,
            "dense_parameters": every - sum(table.weight.numel() for table in tables),
            "touched_rows": touched,
            "rows": self.point.rows,
            "T": self.point.targets,
            "search_rows": sum(len(search.user) for search in searches),
            "mean_visible_clicks": float(batch.rec_seen.double().mean()),
            "mean_visible_searches": float(batch.search_seen.double().mean()),
        }


class Worker:
    """Builds its model at the first request."""

    def __init__(self, file: Path, steps: int, precision: Precision | None, plain: bool) -> None:
        self.file, self.steps, self.precision, self.plain = file, steps, precision, plain
        self.before = peak_bytes()
        self.measured: Measured | None = None
        self.taken: dict[str, tuple[Callable[[Given], object], Iterator[Given]]] = {}

    def measure(self, what: str, name: str, least: float) -> Answer:
        """Steps of one kind until ``least`` seconds are over, after two that warm up."""
        if what not in ("train", "evaluate", "reinforce"):
            return {"error": f"this worker answers train, evaluate and reinforce, not {what}"}
        if self.measured is None:
            self.measured = Measured(point_of(self.file, name, self.steps), self.precision, self.plain)
        measured = self.measured
        if measured.point.model != name:
            return {"error": f"this process holds {measured.point.model}: start another one for {name}"}
        if what not in self.taken:
            self.taken[what] = measured.step(what), itertools.cycle(measured.given(what))
        step, batches = self.taken[what]
        clock = Clock(least)
        while True:
            given = next(batches)
            step(given)
            done = sum(batch.rec_seen.numel() for batch in given)
            if clock.tick(done):
                break
        rows = measured.evaluation_rows if what == "evaluate" else measured.batches[what][0][0].rec_seen.shape[0]
        facts = measured.facts() if what == "train" else {"rows": rows}
        precision = measured.learner.ranking_in if what == "evaluate" else measured.learner.learning_in
        how = f"{torch.get_num_threads()} threads, torch {torch.__version__}, {loading.library.said}, products in {precision}"
        return {
            "model": name, "what": what, "rate": clock.done / clock.seconds, "seconds": clock.seconds,
            "peak_rss_bytes": peak_bytes(), "before_bytes": self.before, **facts,
            "note": f"{clock.steps} steps of {done}, {how}",
        }  # fmt: skip


def first_step(file: Path, model: str, started: float) -> Answer:
    """Seconds from the start of the process, a moment of the parent's clock, to the end of the first training step."""
    set_threads()
    point = point_of(file, model)
    sizes = vocabulary(point.items, point.words, point.users)
    began = time.monotonic()
    learner = Learner(point, sizes)
    built = time.monotonic()
    batch = load(point.seed, point.rows, point.targets, point.train_candidates, sizes, length=point.length)
    made = time.monotonic()
    learner.learn((batch,))
    ended = time.monotonic()
    return {
        "imports": IMPORTED - started, "build": built - began, "first_step": ended - made,
        "to_first_step": ended - started - (made - built), "batch_left_out": made - built,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("load", type=Path)
    parser.add_argument("--steps", type=int, default=3, help="K, of LCR-SER alone")
    parser.add_argument("--precision", choices=get_args(Precision), help="of all products; as the program chooses")
    parser.add_argument("--straightforward", action="store_true", help="of reinforce")
    parser.add_argument("--started", type=float, help="the parent's monotonic clock when it started this process")
    parser.add_argument("--model", default="lcr-ser", help="of --started")
    given = parser.parse_args()
    if given.started is None:
        serve(Worker(given.load, given.steps, given.precision, given.straightforward).measure)
    else:
        print(json.dumps(first_step(given.load, given.model, given.started)))
