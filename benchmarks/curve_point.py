"""One point of a curve, in a process of its own: `curves.py` starts it and asks it in turns.

The argument is a ``Point`` as JSON. It answers in lines of JSON: first the facts of the point, then, to ``train SECONDS`` or
``evaluate SECONDS`` on standard input, the seconds of each step taken. A failure is answered with ``{"error": reason}``.
"""

import argparse
import ctypes
import gc
import itertools
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steps import Trainer, generator, load, vocabulary

from seerec.batch import Batch
from seerec.models.base import Vocabulary

BATCHES = 4
"""Batches of each kind, taken one after the other."""


@dataclass(frozen=True)
class Point:
    """A model, its sizes and its load."""

    model: str
    seed: int
    items: int
    users: int
    words: int
    length: int = 30
    """Events of either history."""
    rows: int = 64
    targets: int = 15
    """Of a training row; an evaluated row has one."""
    train_candidates: int = 17
    candidates: int = 100
    """Of an evaluated row."""
    width: int = 64
    steps: int = 3
    """K; of LCR-SER alone."""
    threads: int = 1
    pool: int = 200_000
    """Items that may occur, at most half of all: a step then touches as many rows of a table ten times as large."""


class SizedTrainer(Trainer):
    """The steps of ``Trainer`` for other widths, lengths and numbers of reasoning steps."""

    def __init__(self, point: Point, sizes: Vocabulary) -> None:
        overrides = {"model.width": point.width} | ({"model.steps": point.steps} if point.model == "lcr-ser" else {})
        super().__init__(point.model, sizes, point.seed, overrides, point.length)


class Measured:
    """A model with its batches, and how a step of either kind is taken."""

    def __init__(self, point: Point) -> None:
        _refuse_what_does_not_fit(point)
        sizes = vocabulary(point.items, point.words, point.users)
        used = min(point.pool, point.items // 2)
        pool = np.sort(generator(point.seed, 1).choice(point.items - 2, used, replace=False)) + 2
        kinds = {"train": (point.targets, point.train_candidates), "evaluate": (1, point.candidates)}
        self.batches = {
            what: [load(point.seed + 1 + i, point.rows, *shape, sizes, pool, point.length) for i in range(BATCHES)]
            for what, shape in kinds.items()
        }
        self.trainer = SizedTrainer(point, sizes)
        self.turn = {what: itertools.cycle(batches) for what, batches in self.batches.items()}

    def step(self, what: str) -> None:
        """One training step, or one evaluated batch."""
        take = self.trainer.stage1 if what == "train" else self.trainer.rank
        take(next(self.turn[what]))

    def timed(self, what: str, least: float) -> list[float]:
        """Seconds of each step, of as many as take ``least`` seconds together."""
        spent: list[float] = []
        while not spent or sum(spent) < least:
            began = time.perf_counter()
            self.step(what)
            spent.append(time.perf_counter() - began)
        return spent

    def facts(self) -> dict[str, Any]:
        """Distinct item rows of a training step, and the bytes that a step of each kind takes beyond what is there before it.

        A step of each kind comes before: it loads libraries and makes what stays.
        """
        for what in self.batches:
            self.step(what)
        found: dict[str, Any] = {"distinct_items": [_distinct(batch) for batch in self.batches["train"]]}
        found["held_bytes"] = _memory("VmRSS")
        found["step_bytes"] = {}
        for what in self.batches:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept would not be seen growing
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
            before = _memory("VmRSS")
            self.step(what)
            found["step_bytes"][what] = _memory("VmHWM") - before
        return found


def _distinct(batch: Batch) -> int:
    return len(torch.cat([batch.rec.reshape(-1), batch.click.reshape(-1), batch.candidates.reshape(-1)]).unique())


def _memory(name: str) -> int:
    """Bytes of a line of the process's status (Linux): VmRSS is now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}; memory can be measured on Linux alone")


def _refuse_what_does_not_fit(point: Point) -> None:
    """Tables and the optimizer's mean of them must fit; the system would otherwise end somebody's process."""
    needed = 2 * 4 * point.width * (point.items + point.users + point.words)
    free = 1024 * next(int(x.split()[1]) for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable"))
    if needed > 0.9 * free:
        raise MemoryError(f"the tables need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def main() -> None:
    """Build, say the facts, and answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("point", help="JSON")
    point = Point(**json.loads(parser.parse_args().point))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not answer
    torch.set_num_threads(point.threads)
    measured: Measured | None = None
    for line in itertools.chain(["facts"], sys.stdin):
        answer: dict[str, Any]
        try:
            if measured is None:
                measured = Measured(point)
                answer = measured.facts()
            else:
                what, least = line.split()
                answer = {"seconds": measured.timed(what, float(least))}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
        if "error" in answer:
            return


if __name__ == "__main__":
    main()
