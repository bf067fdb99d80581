"""One cell: train, evaluate, record."""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import seerec
from seerec import artifact
from seerec.data.candidates import load as load_candidates
from seerec.data.corpus import Corpus
from seerec.data.targets import Task, targets_at
from seerec.errors import SeerecError
from seerec.evaluation.evaluate import evaluate
from seerec.evaluation.metrics import METRICS
from seerec.evaluation.results import Evaluation
from seerec.evidence.question import Cell, Question, accepts, cells, learns, limits
from seerec.evidence.shelf import Shelf
from seerec.evidence.tuning import choose, proposals, settings_of
from seerec.models.registry import model_class
from seerec.progress import Progress
from seerec.training.presets import resolve
from seerec.training.train import Stages, train

_DIVERGED = ("The loss is ", "The model scores NaN")


class Work:
    """Does the cells of one question, one at a time.

    Parameters
    ----------
    corpus
        What all cells are trained on.
    shelf
        Where they are recorded.
    question
        What was asked.
    """

    def __init__(self, corpus: Corpus, shelf: Shelf, question: Question) -> None:
        self.corpus, self.shelf, self.question = corpus, shelf, question
        self.proposals = proposals(question.trials)
        self._choices: dict[str, dict[str, Any]] = {}
        self._fixed = {
            key: {name: value for name, value in question.settings.items() if accepts(key, name, value)}
            for key in question.models
        }

    def fixed(self, model: str) -> dict[str, Any]:
        """What was set for all, of what this model has."""
        return self._fixed[model]

    def ready(self, cell: Cell) -> bool:
        """A seed waits for all trials of its model."""
        return cell.kind == "trial" or self.tuned(cell.model)

    def tuned(self, model: str) -> bool:
        """Whether every trial of a model is recorded."""
        return all(map(self.shelf.has, self.trials(model)))

    def trials(self, model: str) -> list[Cell]:
        """The trials of a model."""
        return [Cell(model, "trial", n) for n in range(self.question.trials)] if learns(model) else []

    def settled(self) -> list[Cell]:
        """Cells whose settings are known before any training: all trials, and the seeds of models without any."""
        every = cells(self.question)
        tuned = {cell.model for cell in every if cell.kind == "trial"}
        return [cell for cell in every if cell.kind == "trial" or cell.model not in tuned]

    def asked(self, cell: Cell) -> dict[str, Any]:
        """What a cell is asked: the names and values that its record must agree with."""
        fixed = self.fixed(cell.model)
        if cell.kind == "trial":
            tried = settings_of(cell.model, self.proposals[cell.number], fixed)
            own: dict[str, Any] = {"seed": 0, "users": self.question.tune_users, "max_minutes": self.question.tune_minutes}
        else:
            tried = self.choice(cell.model)["settings"]
            own = {"seed": cell.number}
            if learns(cell.model):
                own |= limits(cell.model, {**fixed, **tried}, self.question.minutes)
        overrides = {**fixed, **tried, **own}
        config, training = resolve(cell.model, "best", overrides)
        return {
            "model": cell.model,
            "number": cell.number,
            "corpus_hash": self.corpus.content_hash,
            "asked": overrides,
            "config": config.model_dump(),
            "settings": training.model_dump(),
        }

    def tasks(self, model: str) -> tuple[Task, ...]:
        """What a model is evaluated on: search targets too, where it learns from searches and the test split has some."""
        return ("recommendation", "search") if model_class(model).searches and self._search_targets else ("recommendation",)

    @cached_property
    def _search_targets(self) -> bool:
        return len(load_candidates(self.corpus, "test", "search").target) > 0

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """The record of a finished cell, checked against what it is asked now; None before."""
        return self.shelf.record(cell, self.asked(cell)) if self.shelf.has(cell) else None

    def choice(self, model: str) -> dict[str, Any]:
        """What the trials of a model chose, on validation alone; asked when all are recorded."""
        if model not in self._choices:
            records = [record for cell in self.trials(model) if (record := self.record(cell)) is not None]
            best = choose(records, self.proposals) if records else None
            settings = {} if best is None else settings_of(model, self.proposals[best], self.fixed(model))
            names = ("number", "asked", "value", "seconds", "stopped", "failed")
            tried = [{name: record[name] for name in names} for record in records]
            self._choices[model] = {"trial": best, "settings": settings, "trials": tried}
        return self._choices[model]

    def users(self, task: Task) -> NDArray[np.int64]:
        """n: a number for the user of each test target, in the order of the recorded ranks."""
        row = targets_at(self.corpus, load_candidates(self.corpus, "test", task).target, task).row
        return np.unique(self.corpus.user_ids[row], return_inverse=True)[1]

    def do(self, cell: Cell, progress: Progress) -> dict[str, Any]:
        """Train, evaluate (seeds only) and record one cell; returns its record.

        A run whose settings make it diverge is recorded as failed: it would do so again.

        Raises
        ------
        SeerecError
            Anything else that training and evaluation refuse.
        """
        asked, run = self.asked(cell), self.shelf.run(cell)
        part: Stages = "1" if cell.kind == "trial" else "all"
        before = _spent(run)
        began = time.monotonic()
        evaluations: dict[str, Evaluation] = {}
        found: dict[str, Any] = {"failed": None, "value": None, "seconds": {}, "stopped": {}}
        try:
            train(self.corpus, run, model=cell.model, settings=asked["asked"], stages=part, resume=True, progress=progress)
            found |= _learnt(run, asked["settings"]["metric"])
            found["seconds"] = _seconds(run, before, found["validation"]) or {"stage1": round(time.monotonic() - began, 3)}
            if cell.kind == "seed":
                evaluations = self._test(cell, progress)
                found["test"] = {task: evaluation.report() for task, evaluation in evaluations.items()}
        except SeerecError as error:
            if not error.cause.startswith(_DIVERGED):
                raise
            found["failed"] = error.cause
        wall = round(time.monotonic() - began, 3)
        record = {**asked, "cell": cell.kind, **found, "wall_seconds": wall, **_circumstances()}
        self.shelf.keep(cell, record, evaluations)
        _lighten(run, cell)
        return record

    def _test(self, cell: Cell, progress: Progress) -> dict[str, Evaluation]:
        """Test ranks by task."""
        run = self.shelf.run(cell)
        return {task: evaluate(run, corpus=self.corpus.path, task=task, progress=progress) for task in self.tasks(cell.model)}


def _learnt(run: Path, metric: str) -> dict[str, Any]:
    """What a finished run says of its training."""
    result = json.loads((run / "result.json").read_text())
    lines = _lines(run / "metrics.jsonl")
    stopped = {stage: found["stopped"] for stage, found in result.items() if "stopped" in found}
    validation = {stage: {name: found[name] for name in METRICS} for stage, found in result.items()}
    epochs = [f"stage{line['stage']}" for line in lines if line["kind"] == "train"]
    model = artifact.load(artifact.locate(run)).model
    return {
        "value": validation["stage1"][metric],
        "validation": validation,
        "stopped": stopped,
        "curve": [line for line in lines if line["kind"] == "val"],
        "epochs": {stage: epochs.count(stage) for stage in validation},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _seconds(run: Path, before: Mapping[str, float], stages: Iterable[str]) -> dict[str, float]:
    """Training time of each stage, validation included, over all parts of an interrupted run; none for a counting model."""
    found: dict[str, float] = {}
    for line in _lines(run / "timing.jsonl"):
        stage = f"stage{line['stage']}"
        if stage in stages:
            found[stage] = round(found.get(stage, before.get(stage, 0.0)) + line["seconds"], 3)
    return found


def _spent(run: Path) -> dict[str, float]:
    """What the stage that was interrupted had spent at its newest checkpoint: the run's own clock goes by parts."""
    positions = sorted((run / "checkpoints").glob("stage*/position.json"))
    if not positions:
        return {}
    position = json.loads(positions[-1].read_text())
    return {} if position["finished"] else {f"stage{position['stage']}": position["seconds"]}


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def _circumstances() -> dict[str, Any]:
    """Where and when."""
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"seerec": seerec.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _lighten(run: Path, cell: Cell) -> None:
    """Of a recorded trial nothing is needed again, of a seed its models: moving states are many times their size."""
    shutil.rmtree(run if cell.kind == "trial" else run / "checkpoints", ignore_errors=True)
