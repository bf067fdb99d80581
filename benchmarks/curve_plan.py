"""What the curves of `curves.py` are: what is varied, over which values, and what is held."""

import itertools
import os
from dataclasses import dataclass, replace
from typing import Any

from curve_point import Point


@dataclass(frozen=True)
class Curve:
    """What is varied, where ratios start, and what is held otherwise than by default."""

    field: str
    values: tuple[int, ...]
    base: int
    models: tuple[str, ...] = ("lcr-ser", "sasrec")
    held: tuple[tuple[str, int], ...] = ()


def thread_counts() -> tuple[int, ...]:
    """1, 2, 4 and so on, and all processors."""
    every = os.cpu_count() or 1
    return (*itertools.takewhile(lambda n: n < every, (1 << i for i in range(20))), every)


LONG = (("rows", 16), ("targets", 5))
"""Of the curve of lengths: five targets fit into the shortest history, and 1,000 events of 64 rows do not fit everywhere."""
CURVES = {
    "items": Curve("items", (10_000, 100_000, 1_000_000, 10_000_000), 1_000_000),
    "length": Curve("length", (10, 30, 100, 300, 1000), 30, held=LONG),
    "steps": Curve("steps", (0, 1, 2, 3, 5), 3, ("lcr-ser",)),
    "width": Curve("width", (32, 64, 128), 64),
    "candidates": Curve("candidates", (10, 100, 1000), 100),
    "threads": Curve("threads", thread_counts(), 1),
    "rows": Curve("rows", (8, 16, 32, 64, 128, 256), 64),
    "users": Curve("users", (1_000, 10_000, 100_000, 1_000_000, 10_000_000), 100_000),
}
QUICK = {
    "items": Curve("items", (1_000, 10_000, 100_000), 10_000),
    "length": Curve("length", (10, 30, 100), 30, held=(("rows", 4), ("targets", 5))),
    "steps": Curve("steps", (0, 3), 3, ("lcr-ser",)),
    "width": Curve("width", (32, 64), 64),
    "candidates": Curve("candidates", (10, 100), 100),
    "threads": CURVES["threads"],
    "rows": Curve("rows", (4, 8), 8),
    "users": Curve("users", (1_000, 10_000), 1_000),
}


def point_of(curve: Curve, model: str, value: int, common: dict[str, Any]) -> Point:
    """A point of a curve."""
    point = replace(Point(model=model, **common), **dict(curve.held), **{curve.field: value})
    return replace(point, train_candidates=value) if curve.field == "candidates" else point
