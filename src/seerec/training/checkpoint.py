"""A run's moving state: written atomically, resumed bit for bit.

A checkpoint is a folder with ``state.safetensors`` (weights and optimiser) and ``position.json`` (everything else). There is
no loader or generator state to save: batches, dropout and noise are functions of (seed, stage, epoch, step).
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seerec.atomic import atomic_folder, remove_partials
from seerec.errors import SeerecError
from seerec.training.optimizers import Optimizer


@dataclass
class Position:
    """Where a stage stands."""

    stage: int
    epoch: int = 0
    step: int = 0
    updates: int = 0
    """Optimiser steps since the stage began."""
    best: float = float("-inf")
    best_epoch: int = -1
    stale: float = 0.0
    """Epochs since the best; a short one counts as a share."""
    plateau: float = 0.0
    """Epochs since the best or the last decay of the rate."""
    rate_scale: float = 1.0
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums of this epoch's loss terms."""
    log_bytes: int = 0
    """Length of metrics.jsonl at this moment; what a killed run wrote after it is cut off."""
    seconds: float = 0.0
    """Processor time spent, where ``max_minutes`` limits it; else 0, so that the same run has the same bytes."""
    stopped: str = ""
    """``time`` where the limit ended the stage."""
    finished: bool = False


def save(folder: Path, position: Position, model: nn.Module, optimizer: Optimizer, keep: int) -> None:
    """Write a checkpoint and drop all but the newest ``keep``. Raises SeerecError when the disk is full."""
    name = f"stage{position.stage}-epoch{position.epoch:04d}-step{position.step:07d}"
    with atomic_folder(folder / name) as work:
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer.state().items()}
        save_file({name: value.contiguous() for name, value in tensors.items()}, work / "state.safetensors")
        (work / "position.json").write_text(json.dumps(asdict(position)))
    for old in _all(folder)[:-keep]:
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def latest(folder: Path) -> tuple[Position, dict[str, Tensor]] | None:
    """The newest checkpoint that can be read, or None.

    Raises
    ------
    SeerecError
        There are checkpoints but none can be read.
    """
    if folder.is_dir():
        remove_partials(folder)
    found = _all(folder)
    for path in reversed(found):
        try:
            saved: dict[str, Any] = json.loads((path / "position.json").read_text())
            return Position(**saved), load_file(path / "state.safetensors")
        except (OSError, ValueError, TypeError, SafetensorError):
            continue
    if found:
        raise SeerecError(f"No checkpoint in {folder} can be read.", "Start the run anew in another folder.")
    return None


def restore(tensors: dict[str, Tensor], model: nn.Module, optimizer: Optimizer) -> None:
    """Put a checkpoint's tensors back."""
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    optimizer.restore({n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")})


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("stage*-epoch*-step*") if path.is_dir())
