"""How long a training step waits for its data: the real loop on a simulated corpus.

    python benchmarks/waiting.py --users 800

The loop makes the next batch in a thread while a step is taken, and does not say what it still had to wait. So its pool is
replaced by one whose results say it. One epoch of stage 1 at the default settings; validation is outside. Prints JSON.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

from answers import Answer, set_threads

from seerec.data.door import prepare
from seerec.progress import SILENT, Bar, Progress
from seerec.training import loop
from seerec.training.train import train


class Spent(Progress):
    """Seconds and steps of stage 1; its bar is open while steps are taken, and for nothing else."""

    def __init__(self) -> None:
        super().__init__(shown=False)
        self.seconds, self.steps = 0.0, 0

    @contextlib.contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
        """As ever."""
        began = time.perf_counter()
        with super().task(label, total, unit, done) as bar:
            yield bar
        if label.startswith("stage 1"):
            self.seconds += time.perf_counter() - began
            self.steps += total


class Pool(ThreadPoolExecutor):
    """Notes the seconds that ``result`` of each of its futures takes."""

    waited: list[float]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """As ever."""
        future = super().submit(fn, *args, **named)
        result = future.result

        def timed(timeout: float | None = None) -> Any:
            began = time.perf_counter()
            found = result(timeout)
            self.waited.append(time.perf_counter() - began)
            return found

        future.result = timed  # type: ignore[method-assign]
        return future


def waiting(model: str, users: int, seed: int) -> Answer:
    """Share of the steps' time that was waited, with and without the first batch of the epoch, which nothing overlaps."""
    spent, waited = Spent(), list[float]()
    with tempfile.TemporaryDirectory() as folder, patch.object(loop, "ThreadPoolExecutor", Pool):
        Pool.waited = waited
        corpus = prepare(Path(folder) / "corpus", source="simulated", options={"users": users, "seed": seed}, progress=SILENT)
        settings = {"epochs": 1, "validation_users": 64, "seed": seed}
        train(corpus, Path(folder) / "run", model=model, settings=settings, stages="1", progress=spent)
    later = spent.seconds - waited[0]
    return {
        "model": model, "users": users, "steps": spent.steps, "seconds": spent.seconds, "waited_first_s": waited[0],
        "share": sum(waited[1:]) / later if len(waited) > 1 else None, "share_with_first": sum(waited) / spent.seconds,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lcr-ser")
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    set_threads()
    print(json.dumps(waiting(given.model, given.users, given.seed)))
