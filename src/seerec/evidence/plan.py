"""What is to be done and how long it may take, before anything is done.

The time of a cell that is still to do is that of its model's recorded cells of the same kind; where there is none yet, a
second of real training steps is timed. Either way it is at most the cell's limit. Not counted: how soon training stops
early, and, before the first record, validation and evaluation.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seerec.evidence.cells import Work
from seerec.evidence.question import Cell, cells, learns, limits
from seerec.evidence.tuning import left_out
from seerec.progress import Bar, Progress
from seerec.training.presets import resolve
from seerec.training.train import train

_STEPS = 40
_WARM = 2  # steps before the clock starts
SECONDS = 1.0
"""How long the steps of one model are timed."""


class _EnoughError(Exception):
    """The clock has seen enough steps."""


class Stopwatch(Progress):
    """Times the first steps of a training run through its progress bar, and ends it with an exception.

    Parameters
    ----------
    label
        How the bar to time begins; other bars run on unseen.
    seconds
        When it has seen enough.
    """

    def __init__(self, label: str, seconds: float) -> None:
        super().__init__(shown=False)
        self._label, self._seconds = label, seconds
        self.total = self.steps = 0
        self.spent = 0.0

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
        """A bar that does not show anything."""
        with super().task(label, total, unit, done) as bar:
            yield _Clock(self, total, bar) if label.startswith(self._label) else bar

    @property
    def per_epoch(self) -> float:
        """Seconds that all the steps of an epoch would take."""
        return self.total * self.spent / max(self.steps, 1)


class _Clock(Bar):
    def __init__(self, watch: Stopwatch, total: int, bar: Bar) -> None:
        super().__init__(None, 0, "steps")
        self._watch, self._bar, self._seen = watch, bar, 0
        self._last = time.monotonic()
        watch.total, watch.steps, watch.spent = total, 0, 0.0

    def advance(self, count: int, **shown: float) -> None:  # noqa: ARG002
        """Look at the clock."""
        watch, now = self._watch, time.monotonic()
        self._seen += count
        if self._seen > min(_WARM, watch.total - 1):
            watch.steps, watch.spent = watch.steps + count, watch.spent + now - self._last
        self._last = now
        if watch.steps >= _STEPS or watch.spent >= watch._seconds:
            raise _EnoughError


def epoch_seconds(work: Work, model: str, settings: dict[str, Any], seconds: float = SECONDS) -> float:
    """Seconds of an epoch of stage 1 (for a counting model: of its pass), from a few real steps."""
    watch = Stopwatch("stage 1" if learns(model) else "count", seconds)
    with tempfile.TemporaryDirectory(prefix="seerec-plan-") as folder:
        own = {"epochs": 1, "validation_users": 1} if learns(model) else {}
        with suppress(_EnoughError):
            train(work.corpus, Path(folder) / "run", model=model, settings={**settings, **own}, stages="1", progress=watch)
    return watch.per_epoch


def plan(work: Work, seconds: float = SECONDS) -> dict[str, Any]:
    """The plan as a document: cells, done and to do, and the time of the rest, per model and in total (seconds).

    Raises
    ------
    SeerecError
        Settings of some cell are refused, or a record is of other settings.
    """
    question = work.question
    every = cells(question)
    done = {cell: work.record(cell) for cell in every}
    omitted = left_out(question)
    rows = []
    for model in question.models:
        row: dict[str, Any] = {"model": model, "left_out": omitted.get(model, [])}
        epoch: float | None = None
        for kind in ("trial", "seed"):
            own = [cell for cell in every if cell.model == model and cell.kind == kind]
            walls = [record["wall_seconds"] for cell in own if (record := done[cell]) is not None]
            rest = len(own) - len(walls)
            limit = 60 * (question.tune_minutes if kind == "trial" else question.minutes)
            each = sum(walls) / len(walls) if walls else 0.0
            if rest and not walls:
                settings = _first(work, own[0])
                epoch = epoch_seconds(work, model, settings, seconds) if epoch is None else epoch
                each = min(limit, _cell_seconds(work, model, kind, settings, epoch))
            row[kind] = {"cells": len(own), "done": len(walls), "limit": limit, "each": each, "left": rest * each}
        rows.append(row)
    total = {name: sum(row[kind][name] for row in rows for kind in ("trial", "seed")) for name in ("cells", "done", "left")}
    return {"question": question.model_dump(), "corpus": str(work.corpus.path), "rows": rows, "total": total}


def _first(work: Work, cell: Cell) -> dict[str, Any]:
    """Settings whose steps are timed: what was set for all, over the preset."""
    return {**work.fixed(cell.model), "seed": 0}


def _cell_seconds(work: Work, model: str, kind: str, settings: dict[str, Any], epoch: float) -> float:
    """At most so many epochs. A stage 2 is given its whole limit: nothing of it can be timed before stage 1."""
    training = resolve(model, "best", settings)[1]
    question, share = work.question, 1.0
    if not learns(model):
        return epoch
    if kind == "trial" and question.tune_users is not None:
        share = min(1.0, question.tune_users / max(work.corpus.users, 1))
    allowed = limits(model, settings, question.minutes)
    limit, later = 60 * allowed["max_minutes"], 60 * allowed.get("reinforce.max_minutes", 0.0) * (kind == "seed")
    return (min(limit, training.epochs * epoch) if kind == "seed" else training.epochs * epoch * share) + later
