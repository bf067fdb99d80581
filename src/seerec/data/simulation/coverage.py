"""Long tails that leave nothing out: how many rows hold exactly so many different things.

A published count says that 7,493,101 rows name 2,281,034 items. So every item gets one row of its own, drawn from a
stretch of rows that no other item has, and the other rows are drawn from a long tail. Both are functions of the seed
and the row: nothing is kept, and any chunk of rows can be made alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seerec.data.draws import below, uniform

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NONE = -1
_ATTEMPTS = 8
_GOLDEN = 0.6180339887498949


def split(total: int, weights: Floats) -> Ints:
    """Whole numbers of at least 1, about in proportion to ``weights``, whose sum is ``total``."""
    edges = np.cumsum(weights)
    edges = np.rint(edges / edges[-1] * (total - len(weights))).astype(np.int64)
    return 1 + np.diff(edges, prepend=0)


def starts(sizes: Ints) -> Ints:
    """First row of each of consecutive groups of the given sizes, and behind them the number of all rows."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def ragged(sizes: Ints) -> tuple[Ints, Ints]:
    """For each row of consecutive groups: the number of its group, and its place 0, 1, ... there."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    return group, np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def shuffled(number: Ints, count: int) -> Ints:
    """Numbers 0 .. count - 1 in another order: a bijection that sends neighbours far apart, for a count below 2**31."""
    factor = max(1, int(_GOLDEN * count))
    while math.gcd(factor, count) > 1:
        factor += 1
    return number * factor % count


@dataclass(frozen=True)
class OwnRows:
    """One row of its own for each of ``things`` things among ``rows`` rows (things <= rows)."""

    things: int
    rows: int
    seed: int
    stream: int

    def of(self, thing: Ints) -> Ints:
        """The row that belongs to a thing."""
        first = thing * self.rows // self.things
        width = (thing + 1) * self.rows // self.things - first
        return first + below(width, self.seed, self.stream, thing)

    def at(self, row: Ints) -> Ints:
        """The thing to which a row belongs, or -1."""
        thing = ((row + 1) * self.things - 1) // self.rows
        return np.where(self.of(thing) == row, thing, NONE)


class Tail:
    """Things in groups; in each group few are frequent and many are rare."""

    def __init__(self, group: NDArray[np.integer], groups: int) -> None:
        """``group`` of each thing; the first things of a group are the frequent ones."""
        size = np.bincount(group, minlength=groups)
        self._order = np.argsort(group, kind="stable").astype(np.int32)
        # a group without things draws from all of them
        self._size = np.where(size > 0, size, len(group))
        self._start = np.where(size > 0, np.cumsum(size) - size, 0)

    def draw(self, group: Ints, number: Floats) -> Ints:
        """One thing of each group, for numbers uniform on [0, 1)."""
        rank = (self._size[group] * number**3).astype(np.int64)
        return self._order[self._start[group] + rank].astype(np.int64)


def covering(wanted: Ints, things: int, groups: int, seed: int, stream: int) -> tuple[Ints, Ints]:
    """Things for rows that want one of a group, so that each thing occurs.

    Parameters
    ----------
    wanted
        The group that each row wants.

    Returns
    -------
        The thing of each row, and the group of each thing: that of its own row.
    """
    row = np.arange(len(wanted))
    own = OwnRows(things, len(wanted), seed, stream)
    group = wanted[own.of(np.arange(things))]
    thing = Tail(group, groups).draw(wanted, uniform(seed, stream, 1, row))
    mine = own.at(row)
    return np.where(mine == NONE, thing, mine), group


def without_repeats(list_: Ints, thing: Ints, fixed: Bools, redraw: Callable[[Ints, int], Ints]) -> Ints:
    """Things of lists (each row is one place of a list), no thing twice in one list, as far as a few attempts get.

    Parameters
    ----------
    list_
        The list of each row; below 2**23 in one call.
    fixed
        Rows whose thing must stay.
    redraw
        Other things for the given positions of ``thing``, at an attempt 1, 2, ...
    """
    thing = thing.copy()
    for attempt in range(1, _ATTEMPTS + 1):
        key = (list_ - list_[:1]) << 40 | thing << 1
        order = np.argsort(key | ~fixed, kind="stable")
        repeated = order[1:][np.diff(key[order]) == 0]
        repeated = repeated[~fixed[repeated]]
        if not len(repeated):
            break
        thing[repeated] = redraw(repeated, attempt)
    return thing
