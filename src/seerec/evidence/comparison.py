"""``compare_models``: the whole table of a corpus, resumable, by one process or several."""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seerec.atomic import write_bytes
from seerec.data.candidates import load as load_candidates
from seerec.data.corpus import Corpus
from seerec.errors import DiskError, SeerecError
from seerec.evidence import tables
from seerec.evidence.cells import Work
from seerec.evidence.plan import SECONDS, plan
from seerec.evidence.question import FORMAT, Cell, ask, cells, check, pin
from seerec.evidence.shelf import Shelf
from seerec.evidence.standing import standing
from seerec.evidence.tuning import space
from seerec.progress import SILENT, Bar, Progress

POLL = 2.0
"""Seconds between two looks at cells that other processes hold."""
PLACE = Path("runs") / "compare"
"""Where comparisons go that were given no place, in a folder of the corpus's name."""
Tell = Callable[[dict[str, Any]], None]


class Comparison:
    """One question on one corpus in one folder.

    Parameters
    ----------
    corpus
        A prepared folder.
    out
        Where cells and tables go (None: ``PLACE``); the same question in the same folder goes on where it stopped.
    against
        The model that the others are tested against. None: ``lcr-ser`` where it is one of them, else the first.
    asked
        Fields of ``Question``; ``models`` is ``all``, keys with commas between them, or a list of keys.

    Raises
    ------
    SeerecError
        The question makes no sense, or the folder holds something else.
    """

    def __init__(
        self, corpus: Corpus | str | Path, out: str | Path | None = None, *, against: str | None = None, **asked: Any
    ) -> None:
        self.corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
        self.question = ask(**{"models": "all", **asked})
        self.out = PLACE / self.corpus.path.resolve().name if out is None else Path(out)
        default = "lcr-ser" if "lcr-ser" in self.question.models else self.question.models[0]
        self.against = default if against is None else against
        if self.against not in self.question.models:
            raise SeerecError(f"{against} is not one of the models compared.", f"Choose {', '.join(self.question.models)}.")
        self._facts = {
            "kind": "seerec-comparison", "format": FORMAT, "corpus": str(self.corpus.path),
            "corpus_hash": self.corpus.content_hash, "question": self.question.model_dump(), "space": space(),
        }  # fmt: skip
        check(self.out, self._facts)
        self.work = Work(self.corpus, Shelf(self.out), self.question)
        self.broken: dict[str, str] = {}
        load_candidates(self.corpus, "test")  # what cannot be evaluated is not worth training
        for model in self.question.models:
            self.work.tasks(model)
        for cell in self.work.settled():
            self.work.asked(cell)  # refuses settings before anything is trained

    def plan(self, seconds: float = SECONDS) -> dict[str, Any]:
        """What is to be done and about how long it takes; writes nothing."""
        return plan(self.work, seconds)

    def run(self, progress: Progress = SILENT, tell: Tell | None = None) -> dict[str, Any]:
        """Do what is missing, write the tables, return their document.

        A cell that ends in an error nobody foresaw does not stop the others: it stays missing, its traceback is in ``broken/``,
        and the next call tries it again.

        Parameters
        ----------
        tell
            Called after each cell with its record and ``finished`` and ``cells``, how many there are.
        """
        pin(self.out, self._facts)
        self.table()  # a damaged record is found before anything is trained
        try:
            while rest := self._rest():
                if not any(self._try(cell, progress, tell) for cell in rest) and self._rest():
                    time.sleep(POLL)
        except BaseException:
            with contextlib.suppress(SeerecError):  # what is being raised matters more
                tables.write(self.out, self.table())
            raise
        document = self.table()
        tables.write(self.out, document)
        return document

    def table(self) -> dict[str, Any]:
        """What is recorded so far."""
        return standing(self.work, self.against, self.broken)

    def _rest(self) -> list[Cell]:
        """Cells without a record that can still get one."""
        missing = [cell for cell in cells(self.question) if not self.work.shelf.has(cell) and cell.name not in self.broken]
        blocked = {cell.model for cell in cells(self.question) if cell.kind == "trial" and cell.name in self.broken}
        return [cell for cell in missing if cell.kind == "trial" or cell.model not in blocked]

    def _try(self, cell: Cell, progress: Progress, tell: Tell | None) -> bool:
        """Do one cell unless it has to wait; whether anything was done."""
        if not self.work.ready(cell):
            return False
        with self.work.shelf.claimed(cell) as free:
            if not free or self.work.shelf.has(cell):
                return False
            every = cells(self.question)
            finished = sum(map(self.work.shelf.has, every))
            name = f"[{finished + 1} of {len(every)}] {cell.model} {cell.kind} {cell.number}: "
            try:
                record = self.work.do(cell, _Named(progress, name))
            except Exception as error:
                if isinstance(error, MemoryError | OSError | DiskError) or isinstance(error.__cause__, OSError):
                    raise  # the machine's doing: the next cell would end alike
                self.broken[cell.name] = error.cause if isinstance(error, SeerecError) else f"{type(error).__name__}: {error}"
                write_bytes(self.out / "broken" / f"{cell.name}.txt", traceback.format_exc().encode())
                return True
            (self.out / "broken" / f"{cell.name}.txt").unlink(missing_ok=True)
            if tell is not None:
                tell({**record, "finished": finished + 1, "cells": len(every)})
        return True


class _Named(Progress):
    """Bars whose labels begin with the cell they belong to."""

    def __init__(self, progress: Progress, name: str) -> None:
        super().__init__(progress.shown)
        self._progress, self._name = progress, name

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
        """See ``Progress.task``."""
        with self._progress.task(self._name + label, total, unit, done) as bar:
            yield bar


def compare_models(
    corpus: Corpus | str | Path,
    out: str | Path | None = None,
    *,
    models: str | Iterable[str] = "all",
    seeds: int = 5,
    trials: int = 5,
    tune_users: int | None = 5000,
    tune_minutes: float = 3.0,
    minutes: float = 20.0,
    settings: dict[str, Any] | None = None,
    against: str | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Train, tune and evaluate models on a corpus and compare them in one table.

    Parameters
    ----------
    corpus
        A prepared folder.
    out
        Where everything goes; None: ``runs/compare/`` and the corpus's name. Called again with the same arguments, it goes
        on where it stopped; other processes may work on the same folder at the same time.
    models
        ``all`` (the rows of the paper's table), or registry keys.
    seeds
        Seeds of every model.
    trials, tune_users, tune_minutes
        Settings tried for each model, on how many users (None: all), with how much training time each.
    minutes
        Training time of a seed.
    settings
        By dotted name, for every model that has them.
    against
        The model that the others are tested against.

    Returns
    -------
    The document that is also in ``table.json``: models, and per task rows with ``metrics`` and ``against``.

    Raises
    ------
    SeerecError
        Wrong arguments, a folder that holds something else, a full disk.
    """
    comparison = Comparison(
        corpus, out, against=against, models=models, seeds=seeds, trials=trials, tune_users=tune_users,
        tune_minutes=tune_minutes, minutes=minutes, settings=settings or {},
    )  # fmt: skip
    return comparison.run(progress)
