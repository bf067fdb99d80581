"""What the workers of all peers share: the load that they read, the clock, and the lines that they exchange with a driver.

A worker is a program with one argument, the path of a load file. It reads lines from standard input, ``train MODEL SECONDS``,
``evaluate MODEL SECONDS`` or ``quit``, and answers each but the last with one JSON object in one line of standard output: the
measurement, or ``{"error": reason}``. Whatever else is printed goes to standard error. Nothing here imports seerec.
"""

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CANDIDATES = 100
"""Items that an evaluated row is ranked among."""
HEADS, BLOCKS = 2, 1
"""Of SASRec."""
WARM_UP = 2
"""Steps before the clock starts."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Load:
    """Histories of generated users and the shape of the models.

    ``sequence`` (users, columns): item ids from 1 to ``items``, oldest first, 0 where the row has ended. ``length`` is the
    longest history that a model reads, ``batch`` the users of a step.
    """

    sequence: Ids
    items: int
    width: int
    length: int
    batch: int
    seed: int

    @classmethod
    def read(cls, path: Path) -> "Load":
        """Of an ``.npz`` file with these names."""
        with np.load(path) as file:
            scalars = {name: int(file[name]) for name in ("items", "width", "length", "batch", "seed")}
            return cls(file["sequence"], **scalars)

    def events(self) -> tuple[Ids, Ids, Ids]:
        """User, position in the history and item of every event, by user and position."""
        user, position = self.sequence.nonzero()
        return user, position, self.sequence[user, position]

    def candidates(self) -> Ids:
        """Items to rank for every user, (users, CANDIDATES); which of them is the positive does not matter to the speed."""
        shape = (len(self.sequence), CANDIDATES)
        return np.random.default_rng(self.seed).integers(1, self.items + 1, shape)


class Clock:
    """Seconds of the steps after the first ``WARM_UP``, and what these did."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.done, self.steps, self.seconds = 0, -WARM_UP, 0.0
        self._began = 0.0

    def tick(self, done: int) -> bool:
        """A step that did so many targets or rows has ended; True when ``least`` seconds are over."""
        now = time.perf_counter()
        self.steps += 1
        if self.steps <= 0:
            self._began = now
            return False
        self.done, self.seconds = self.done + done, now - self._began
        return self.seconds >= self.least


class Model(Protocol):
    """One model of a peer on a load. The notes say what ran; both methods step until ``clock.tick`` says that it is enough."""

    train_note: str
    evaluate_note: str

    def train(self, clock: Clock) -> None:
        """Ticks with the targets of each step: (user, position) pairs that its loss is computed for."""

    def evaluate(self, clock: Clock) -> None:
        """Ticks with the rows of each step, every row ranked among its candidates."""


def above(scores: Tensor) -> Tensor:
    """How many candidates score above the first, by row."""
    return (scores[:, 1:] > scores[:, :1]).sum(1)


Builders = Mapping[str, Callable[[Load], Model]]


class Worker:
    """Builds models when they are first asked for, and measures them."""

    def __init__(self, peer: str, load: Load, builders: Builders, missing: Mapping[str, str]) -> None:
        self.peer, self.load, self.builders, self.missing = peer, load, builders, missing
        self.models: dict[str, Model] = {}

    def measure(self, what: str, name: str, least: float) -> dict[str, object]:
        """The answer to one line; ``peak_rss_bytes`` is of the whole process until now, with every model built so far."""
        if name not in self.builders:
            return {"error": self.missing.get(name, f"{self.peer} is not asked for a model {name}")}
        if name not in self.models:
            torch.manual_seed(self.load.seed)
            self.models[name] = self.builders[name](self.load)
        model, clock = self.models[name], Clock(least)
        (model.train if what == "train" else model.evaluate)(clock)
        note = model.train_note if what == "train" else model.evaluate_note
        return {
            "peer": self.peer,
            "model": name,
            "what": what,
            "targets" if what == "train" else "rows": clock.done,
            "seconds": clock.seconds,
            "rate": clock.done / clock.seconds,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "note": f"{clock.steps} steps, {torch.get_num_threads()} threads, torch {torch.__version__}; {note}",
        }

    def answer(self, line: str) -> dict[str, object]:
        """The measurement, or the reason why there is none: a peer that fails must not end its worker."""
        words = line.split()
        if len(words) != 3 or words[0] not in ("train", "evaluate"):
            return {"error": f"not a request: {line.strip()}"}
        try:
            return self.measure(words[0], words[1], float(words[2]))
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}


def serve(peer: str, builders: Builders, missing: Mapping[str, str]) -> None:
    """Answer until ``quit`` or the end of the input; ``missing`` has the reasons for models that the peer does not offer.

    ``SEEREC_BENCH_THREADS`` is the number of torch's threads, by default that of the processors.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # peers print, from C++ too
    torch.set_num_threads(int(os.environ.get("SEEREC_BENCH_THREADS", os.cpu_count() or 1)))
    worker = Worker(peer, Load.read(Path(sys.argv[1])), builders, missing)
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        print(json.dumps(worker.answer(line)), file=answers, flush=True)
