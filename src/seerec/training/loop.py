"""The training loop, for both stages: steps, epochs, validation, schedule, early stopping, checkpoints.

All randomness of a step comes from (seed, stage, epoch, step), so a killed run goes on as if nothing had happened.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from seerec.batch import Batch
from seerec.data.draws import seed_of
from seerec.errors import SeerecError
from seerec.models.inputs import InputLayer
from seerec.progress import Progress
from seerec.training.checkpoint import Position, latest, restore, save
from seerec.training.journal import Journal
from seerec.training.optimizers import Optimizer

Objective = Callable[[tuple[Batch, ...], int], tuple[dict[str, Tensor], dict[str, float]]]
"""A stage's loss: (the batches of a step, update number) -> (weighted terms, diagnostics)."""


class Batches(Protocol):
    """The batches of an epoch, by number."""

    def steps(self, epoch: int) -> int:
        """Steps of this epoch."""

    def batches(self, epoch: int, step: int) -> tuple[Batch, ...]:
        """What one step learns from, one batch per task."""


@dataclass(frozen=True)
class Stage:
    """What one stage of training needs."""

    number: int
    model: nn.Module
    inputs: InputLayer
    batches: Batches
    objective: Objective
    optimizer: Optimizer
    validate: Callable[[], dict[str, float]]
    keep_best: Callable[[dict[str, float]], None]
    """Called at every new best validation, to save the artifact."""
    seed: int
    epochs: int
    patience: int
    learning_rate: float
    metric: str
    rows_open: bool
    """Whether tables gather a step's rows (lazy optimizer) or take gradients whole (dense)."""
    device: torch.device
    augment: Callable[[Batch], Batch] | None = None
    """What changes a batch before its rows are gathered."""
    catalogue: bool = False
    """Whether the objective needs every item's row."""
    max_seconds: float | None = None
    updates: int = 1
    clip_norm: float | None = None
    warmup_steps: int = 0
    decay: float | None = None
    """Factor on the rate after ``decay_patience`` epochs without a new best; None: constant rate."""
    decay_patience: int = 3
    patience_steps: int = 1
    """An epoch of fewer steps counts as that share of one for both kinds of patience."""
    min_learning_rate: float = 0.0
    steps_per_epoch: int | None = None
    validate_first: bool = False
    """Stage 2 must beat the model it starts from, so that one is validated too."""


def run_stage(
    stage: Stage, folder: Path, journal: Journal, progress: Progress, *, checkpoint_seconds: float, keep: int
) -> Position:
    """Train until early stopping or the last epoch, resuming from the newest checkpoint of this stage."""
    position = _begin(stage, folder, journal)
    with ThreadPoolExecutor(1) as pool:
        while not position.finished:
            _epoch(stage, position, folder, journal, progress, pool, checkpoint_seconds, keep)
    return position


def _begin(stage: Stage, folder: Path, journal: Journal) -> Position:
    found = latest(folder)
    journal.cut(found[0].log_bytes if found is not None else 0)
    if found is not None and found[0].stage >= stage.number:
        position, tensors = found
        if position.stage == stage.number:
            restore(tensors, stage.model, stage.optimizer)
            return position
        return Position(stage.number, finished=True)
    position = Position(stage.number, log_bytes=journal.length)
    if stage.validate_first:
        _judge(stage, position, journal, stage.validate(), epoch=-1, steps=0)
    position.finished = stage.epochs == 0
    return position


def _epoch(
    stage: Stage,
    position: Position,
    folder: Path,
    journal: Journal,
    progress: Progress,
    pool: ThreadPoolExecutor,
    checkpoint_seconds: float,
    keep: int,
) -> None:
    steps = stage.batches.steps(position.epoch)
    if stage.steps_per_epoch is not None:
        steps = min(steps, stage.steps_per_epoch)
    saved, clock = time.monotonic(), time.thread_time()
    waiting = pool.submit(stage.batches.batches, position.epoch, position.step)
    label = f"stage {stage.number} epoch {position.epoch + 1}/{stage.epochs}"
    with progress.task(label, total=steps, unit="steps", done=position.step) as bar:
        while position.step < steps:
            batches = waiting.result()
            if position.step + 1 < steps:
                waiting = pool.submit(stage.batches.batches, position.epoch, position.step + 1)
            report = _step(stage, position, batches)
            for name, value in report.items():
                position.sums[name] = position.sums.get(name, 0.0) + value
            position.step += 1
            position.updates += 1
            bar.advance(1, loss=report["loss"])
            clock = _spend(stage, position, clock)
            if position.stopped:
                break
            if position.step < steps and time.monotonic() - saved >= checkpoint_seconds:
                position.log_bytes = journal.length
                save(folder, position, stage.model, stage.optimizer, keep)
                saved = time.monotonic()
    means = {name: value / max(position.step, 1) for name, value in position.sums.items()}
    journal.write({"stage": stage.number, "epoch": position.epoch, "kind": "train", **means})
    _judge(stage, position, journal, stage.validate(), position.epoch, position.step)
    _decay(stage, position)
    _spend(stage, position, clock)
    position.epoch, position.step, position.sums = position.epoch + 1, 0, {}
    position.finished = position.epoch >= stage.epochs or position.stale >= stage.patience or bool(position.stopped)
    position.log_bytes = journal.length
    save(folder, position, stage.model, stage.optimizer, keep)


def _spend(stage: Stage, position: Position, clock: float) -> float:
    """Add the time since ``clock`` to what the stage has spent, and stop it at its limit; returns the time.

    The training thread's processor time: other work on the machine does not shorten a model's share.
    """
    now = time.thread_time()
    if stage.max_seconds is not None:
        position.seconds += now - clock
        if position.seconds >= stage.max_seconds:
            position.stopped = "time"
    return now


def _step(stage: Stage, position: Position, given: tuple[Batch, ...]) -> dict[str, float]:
    """One step: loss, gradient, clip, move. Returns the loss terms and diagnostics."""
    report: dict[str, float] = {}
    for update in range(stage.updates):
        torch.manual_seed(seed_of(stage.seed, stage.number, position.epoch, position.step, update))
        batches = tuple((batch if stage.augment is None else stage.augment(batch)).to(stage.device) for batch in given)
        if stage.rows_open:
            stage.inputs.open(*batches, catalogue=stage.catalogue)
        terms, report = stage.objective(batches, update)
        loss = torch.stack(list(terms.values())).sum()
        stage.optimizer.zero_grad()
        loss.backward()
        if stage.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(stage.optimizer.parameters(), stage.clip_norm)
            report = {**report, "gradient_norm": float(norm)}
        stage.optimizer.step(_rate(stage, position))
        stage.inputs.close()
        report = {"loss": float(loss.detach()), **{name: float(value.detach()) for name, value in terms.items()}, **report}
    if not math.isfinite(report["loss"]):
        raise SeerecError(
            f"The loss is {report['loss']} at stage {stage.number}, epoch {position.epoch + 1}, step {position.step + 1}.",
            f"Lower the learning rate (`--set {'reinforce.' * (stage.number == 2)}learning_rate=...`) or a setting far from "
            "its default, and start anew.",
        )
    return report


def _rate(stage: Stage, position: Position) -> float:
    warm = min(1.0, (position.updates + 1) / stage.warmup_steps) if stage.warmup_steps else 1.0
    return max(stage.learning_rate * position.rate_scale, min(stage.min_learning_rate, stage.learning_rate)) * warm


def _judge(stage: Stage, position: Position, journal: Journal, metrics: dict[str, float], epoch: int, steps: int) -> None:
    """Record a validation after ``steps``; keep the model if it is the best so far."""
    best = metrics[stage.metric] > position.best
    if best:
        position.best, position.best_epoch, position.stale, position.plateau = metrics[stage.metric], epoch, 0.0, 0.0
        stage.keep_best(metrics)
    else:
        counts = min(1.0, steps / stage.patience_steps)
        position.stale += counts
        position.plateau += counts
    rate = _rate(stage, position)
    journal.write({"stage": stage.number, "epoch": epoch, "kind": "val", "rate": rate, "best": best, **metrics})


def _decay(stage: Stage, position: Position) -> None:
    if stage.decay is not None and position.plateau >= stage.decay_patience:
        position.rate_scale *= stage.decay
        position.plateau = 0.0
