"""The folder of a comparison: one record per finished cell, ranks as small integers, the targets once.

``runs/MODEL/seed-0`` (the run), ``cells/MODEL-seed-0.json`` (its record, written last: a cell that has one is finished),
``cells/MODEL-seed-0.npz`` (``greater`` and ``ties`` of every target), ``targets.npz`` (the targets and their users),
``chosen/MODEL.json``. The files of search targets have ``-search`` in their name.
"""

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerec.atomic import named_disk_errors, remove_partials, write_bytes, write_json
from seerec.errors import SeerecError
from seerec.evaluation.results import Evaluation
from seerec.evidence.question import FORMAT, Cell

Ranks = dict[str, NDArray[Any]]


class Shelf:
    """Reads and writes the records of one comparison."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def run(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.out / "runs" / cell.model / f"{cell.kind}-{cell.number}"

    def has(self, cell: Cell) -> bool:
        """Whether the cell is finished."""
        return self._record(cell).is_file()

    def record(self, cell: Cell, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a finished cell, else None.

        Parameters
        ----------
        asked
            What the cell must have been asked: names and values of the record.

        Raises
        ------
        SeerecError
            The record is damaged, or of other settings.
        """
        file = self._record(cell)
        if not file.is_file():
            return None
        fix = f"Remove {file.name} to run the cell again, or choose another --out."
        try:
            record = json.loads(file.read_text())
            different = [name for name, value in _plain(asked).items() if record[name] != value]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SeerecError(f"The record {file} is damaged ({type(error).__name__}).", fix) from error
        if different:
            name = different[0]
            raise SeerecError(f"The record {file} is of another {name}: {record[name]}, not {_plain(asked)[name]}.", fix)
        found: dict[str, Any] = record
        return found

    def keep(self, cell: Cell, record: Mapping[str, Any], evaluations: Mapping[str, Evaluation]) -> None:
        """Record a finished cell with its test ranks by task; the record itself comes last.

        Raises
        ------
        SeerecError
            The targets are not those of the other cells, or the disk is full.
        """
        for task, found in evaluations.items():
            self._keep_targets(task, found)
            ranks = {name: getattr(found, name) for name in ("greater", "ties")}
            small = {name: values.astype(np.min_scalar_type(int(values.max(initial=0)))) for name, values in ranks.items()}
            write_bytes(self._ranks(cell, task), _npz(small))
        write_json(self._record(cell), {"kind": "seerec-cell", "format": FORMAT, **record})

    def ranks(self, cell: Cell, task: str) -> Ranks | None:
        """``greater`` and ``ties`` of a cell, n each, or None where it has none for this task."""
        return self._arrays(self._ranks(cell, task))

    def targets(self, task: str) -> Ranks | None:
        """``target`` (position in the corpus), ``user`` (a number for each) and ``known``, n each; None before any."""
        return self._arrays(self._targets(task))

    def chosen(self, model: str) -> dict[str, Any] | None:
        """What tuning chose for a model, or None before."""
        file = self.out / "chosen" / f"{model}.json"
        try:
            return dict(json.loads(file.read_text())) if file.is_file() else None
        except (OSError, ValueError, TypeError) as error:
            raise SeerecError(f"{file} is damaged ({type(error).__name__}).", "Remove it: the trials are recorded.") from error

    def keep_chosen(self, model: str, choice: Mapping[str, Any]) -> None:
        """Record what tuning chose."""
        write_json(self.out / "chosen" / f"{model}.json", choice)

    @contextmanager
    def claimed(self, cell: Cell) -> Iterator[bool]:
        """Hold a cell against every other process while the block runs; False where another one holds it."""
        file = self.out / "claims" / cell.name
        with named_disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
            except BlockingIOError:
                free = False
            except OSError:  # a file system without locks
                free = True
            yield free
        finally:
            os.close(descriptor)  # also releases it, as does the end of a killed process

    def clean(self) -> None:
        """Remove what killed writers left. For one process alone in the folder."""
        for folder in (self.out, self.out / "cells", self.out / "chosen"):
            remove_partials(folder)

    def _record(self, cell: Cell) -> Path:
        return self.out / "cells" / f"{cell.name}.json"

    def _ranks(self, cell: Cell, task: str) -> Path:
        return self.out / "cells" / f"{cell.name}{_suffix(task)}.npz"

    def _targets(self, task: str) -> Path:
        return self.out / f"targets{_suffix(task)}.npz"

    def _keep_targets(self, task: str, found: Evaluation) -> None:
        user = np.unique(found.user_id, return_inverse=True)[1]
        kept = self.targets(task)
        if kept is None:
            arrays: Ranks = {"target": found.target, "user": user.astype(np.int32), "known": found.known}
            write_bytes(self._targets(task), _npz(arrays))
        elif not (np.array_equal(kept["target"], found.target) and np.array_equal(kept["user"], user)):
            raise SeerecError(f"The test targets in {self.out} are of another corpus.", "Choose another --out.")

    def _arrays(self, file: Path) -> Ranks | None:
        if not file.is_file():
            return None
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise SeerecError(f"{file} is damaged.", "Remove it with the cell's .json, and the cell is run again.") from error


def _suffix(task: str) -> str:
    return "" if task == "recommendation" else f"-{task}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return dict(json.loads(json.dumps(values)))


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    held = io.BytesIO()
    np.savez_compressed(held, allow_pickle=False, **arrays)
    return held.getvalue()
