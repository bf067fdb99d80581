"""The folder of a comparison: one record per finished cell, ranks as small integers.

``runs/MODEL/seed-0`` (the run), ``cells/MODEL-seed-0.json`` (its record, written last: a cell that has one is finished),
``cells/MODEL-seed-0.npz`` (``greater`` and ``ties`` of every target of the corpus's test split, in its order; of search
targets ``-search.npz``). A record holds a hash of itself and of its ranks, so that no damaged figure gets into a table.
"""

import fcntl
import hashlib
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
            The record is damaged, or answers another question.
        """
        file = self._record(cell)
        if not file.is_file():
            return None
        try:
            record = dict(json.loads(file.read_text()))
            sound = record.pop("hash", None) == _hash(_canonical(record))
        except (OSError, ValueError, TypeError) as error:
            raise self._damaged(cell, file) from error
        if not sound:
            raise self._damaged(cell, file)
        for name, value in _plain(asked).items():
            if record.get(name) != value:
                raise SeerecError(
                    f"The record {file} answers another question: its {name} is {record.get(name)}, not {value}.", self._fix(cell)
                )
        return record

    def keep(self, cell: Cell, record: Mapping[str, Any], evaluations: Mapping[str, Evaluation]) -> None:
        """Record a finished cell with its test ranks by task; the record itself comes last.

        Raises
        ------
        SeerecError
            The disk is full.
        """
        hashes = {}
        for task, found in evaluations.items():
            ranks = {name: getattr(found, name) for name in ("greater", "ties")}
            small = {name: values.astype(np.min_scalar_type(int(values.max(initial=0)))) for name, values in ranks.items()}
            content = _npz(small)
            hashes[task] = _hash(content)
            write_bytes(self._ranks(cell, task), content)
        whole = _plain({"kind": "seerec-cell", "format": FORMAT, **record, "ranks": hashes})
        write_json(self._record(cell), {**whole, "hash": _hash(_canonical(whole))})

    def ranks(self, cell: Cell, record: Mapping[str, Any], task: str) -> Ranks | None:
        """``greater`` and ``ties`` of a recorded cell, n each, or None where it has none for this task.

        Raises
        ------
        SeerecError
            The file is missing, or not the one that was recorded.
        """
        if task not in record["ranks"]:
            return None
        file = self._ranks(cell, task)
        try:
            content = file.read_bytes()
        except OSError as error:
            raise self._damaged(cell, file) from error
        if _hash(content) != record["ranks"][task]:
            raise self._damaged(cell, file)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

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
        for folder in (self.out, self.out / "cells"):
            remove_partials(folder)

    def _record(self, cell: Cell) -> Path:
        return self.out / "cells" / f"{cell.name}.json"

    def _ranks(self, cell: Cell, task: str) -> Path:
        return self.out / "cells" / f"{cell.name}{'' if task == 'recommendation' else f'-{task}'}.npz"

    def _damaged(self, cell: Cell, file: Path) -> SeerecError:
        return SeerecError(f"{file} is damaged or missing.", self._fix(cell))

    def _fix(self, cell: Cell) -> str:
        return f"Remove {self._record(cell)} to run the cell again, or choose another --out."


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True).encode()


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return dict(json.loads(json.dumps(values)))


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    held = io.BytesIO()
    np.savez_compressed(held, allow_pickle=False, **arrays)
    return held.getvalue()
