"""Evaluation candidates: drawn once per split, saved and hashed with the corpus; every model ranks the same items.

Files ``candidates/[search-]SPLIT-NAME.npy`` for the splits val and test, with n targets and c negatives each:

============ ========= =============================================================
``target``   n int64   positions into ``rec_item``, of searches into ``click_item``
``negative`` n c int32 distinct items of the pool, in the order they were drawn
``column``   n uint8   where the positive is put among them, 0..c (wider type above 255)
============ ========= =============================================================

The pool is ``item_pool``, of searches all known items. A negative is never the positive; with ``repeats = drop`` it is no
recommendation or search click either that the target may see. Items come one after the other, each with its share of what is
left: equal shares (``uniform``), or shares by training clicks (``popularity``, i.e. drawn from the interaction list).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerec.config import DataSettings
from seerec.data.arrays import read_array, write_array
from seerec.data.corpus import SPLITS, Corpus, damaged
from seerec.data.targets import Targets, Task, clicks_of, pool_of, positions, targets_at
from seerec.errors import SeerecError

_ROWS = 16_384  # targets drawn together
_ROUNDS = 12  # of redrawing collisions, before the exact way, whose cost grows with the pool
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: Fibonacci hashing
_HALF = np.uint64(32)
_PART = 512  # targets looked at together, few enough for the processor's cache
_CELLS = 4_000_000  # targets x pool items of one exact draw, or events, looked at together


@dataclass(frozen=True)
class CandidateSet:
    """n targets of a split with c negatives each."""

    task: Task
    target: NDArray[np.int64]  # n    positions: ``Targets.at``
    negative: NDArray[np.int32]  # n c
    column: NDArray[Any]  # n    uint8: column of the positive, 0..c
    hash: str

    def items(self, corpus: Corpus, rows: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.int32]:
        """Rows x (c + 1) items to rank, the positive in its column, for some of the targets."""
        negative, column = self.negative[rows], self.column[rows].astype(np.int64)
        width = negative.shape[1] + 1
        is_positive = np.arange(width) == column[:, None]
        items = np.empty((len(negative), width), np.int32)
        clicked = corpus.rec_item if self.task == "recommendation" else corpus.click_item
        items[is_positive] = clicked[self.target[rows]]
        items[~is_positive] = negative.reshape(-1)
        return items


def name_of(split: str, task: Task) -> str:
    """The name of a candidate set in the corpus."""
    return split if task == "recommendation" else f"search-{split}"


def _files(corpus: Corpus, name: str) -> list[Path]:
    """Those of a set's targets, negatives and columns."""
    return [corpus.path / "candidates" / f"{name}-{part}.npy" for part in ("target", "negative", "column")]


def load(corpus: Corpus, split: str, task: Task = "recommendation") -> CandidateSet:
    """The candidate set of ``split`` (val or test), memory-mapped.

    Raises
    ------
    SeerecError
        The corpus has no candidates for this split, or others than were drawn.
    """
    name = name_of(split, task)
    files = _files(corpus, name)
    known = corpus.manifest.get("candidates", {})
    if name not in known or not all(file.is_file() for file in files):
        raise SeerecError(f"{corpus.path} has no candidates for the split {name}.", "Run `seerec prepare` again.")
    try:
        target, negative, column = (read_array(file) for file in files)
        shaped = target.dtype == np.int64 and negative.dtype == np.int32 and negative.shape[:1] == target.shape == column.shape
        agrees = shaped and negative.ndim == 2 and _digest(target, negative, column).hexdigest() == known[name]["hash"]
    except Exception as error:  # damaged bytes make NumPy raise anything
        raise damaged(corpus.path, f"candidates of the split {name}: {error}") from error
    if not agrees:
        raise damaged(corpus.path, f"candidates of the split {name}: not those that were drawn")
    return CandidateSet(task, target, negative, column, known[name]["hash"])


def _digest(*arrays: NDArray[Any]) -> "hashlib._Hash":
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest


class _Clicked:
    """Which items the events of a row name, and at which positions of the log."""

    def __init__(self, row: NDArray[np.int64], item: NDArray[np.int32], items: int) -> None:
        key = row * items + item
        order = np.argsort(key, kind="stable")  # the first of equal keys is the first in the log
        self._items = items
        self._key, self._first = key[order], order.astype(np.min_scalar_type(max(len(order), 1)))

    def before(self, row: NDArray[np.int64], item: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether ``row`` names ``item`` before position ``end`` of the log; the three broadcast together."""
        key = row * self._items + item
        if not len(self._key):
            return np.zeros(np.broadcast_shapes(key.shape, end.shape), bool)
        place = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
        named: NDArray[np.bool_] = (self._key[place] == key) & (self._first[place] < end)
        return named


class _Sieve:
    """Which (row, item) no event names, told fast and for most: per row a table of hashes, 16 cells for each of its events.

    Targets come by row, so that the table in use lies in the processor's cache.
    """

    def __init__(self, *events: tuple[NDArray[np.int64], NDArray[np.int32]], rows: int) -> None:
        count = sum((np.bincount(row, minlength=rows) for row, _ in events), np.zeros(rows, np.int64))
        self._size = (16 * count + 1).astype(np.uint64)
        self._first = np.cumsum(self._size) - self._size
        self._named = np.zeros(int(self._size.sum()), bool)
        for row, item in events:
            for first in range(0, len(row), _CELLS):
                some = slice(first, first + _CELLS)
                self._named[self._cell(row[some], item[some])] = True

    def _cell(self, row: NDArray[np.int64], item: NDArray[Any]) -> NDArray[np.int64]:
        key = item.astype(np.uint64)
        key *= _GOLDEN
        key >>= _HALF
        key = key * self._size[row]
        key >>= _HALF
        key += self._first[row]
        return key.view(np.int64)

    def __call__(self, row: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether an event may name ``item`` in ``row``; the two broadcast together."""
        named: NDArray[np.bool_] = self._named[self._cell(row, item)]
        return named


class Histories:
    """The clicks of every row of a corpus, which all its candidate sets look up."""

    def __init__(self, corpus: Corpus) -> None:
        click_row = np.repeat(corpus.search_row, np.diff(corpus.click_offset))
        self.rec = _Clicked(corpus.rec_row, corpus.rec_item, corpus.items)
        self.click = _Clicked(click_row, corpus.click_item, corpus.items)
        events = (corpus.rec_row, corpus.rec_item), (click_row, corpus.click_item)
        self.sieve = _Sieve(*events, rows=len(corpus.row_user))


class _Exclusions:
    """What may not be a negative of a target: the positive and, of ``histories``, the clicks it may see (None: those may)."""

    def __init__(self, corpus: Corpus, targets: Targets, histories: Histories | None) -> None:
        self._positive = targets.item
        self._histories = histories
        if histories is not None:
            row = self._row = targets.row
            self._rec_end = targets.rec_end
            self._click_end = corpus.click_offset[targets.search_end]
            first = corpus.rec_offset[row] + corpus.click_offset[corpus.search_offset[row]]
            self._most = self._rec_end + self._click_end - first

    def fewest_left(self, pool: NDArray[np.int64], wanted: int) -> int:
        """How many items of ``pool`` the target with the most exclusions may be given, where that is below ``wanted``."""
        place = np.arange(len(self._positive))
        if self._histories is not None:
            place = place[len(pool) - 1 - self._most < wanted]  # the others have enough, whatever they saw
        step = max(1, _CELLS // max(len(pool), 1))
        parts = (place[first : first + step] for first in range(0, len(place), step))
        return min((int((~self(part[:, None], pool)).sum(1).min()) for part in parts), default=len(pool))

    def __call__(self, place: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether ``item`` is excluded for the targets number ``place``; the two broadcast together."""
        excluded: NDArray[np.bool_] = item == self._positive[place]
        if self._histories is not None:
            rec, click, sieve = self._histories.rec, self._histories.click, self._histories.sieve
            at = np.nonzero(sieve(self._row[place], item))
            found, item = (np.broadcast_to(given, excluded.shape)[at] for given in (place, item))
            row = self._row[found]
            named = rec.before(row, item, self._rec_end[found]) | click.before(row, item, self._click_end[found])
            excluded[at] |= named
        return excluded


def _repeated(item: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For n x c items: true where the same item stands further left in its row."""
    repeated = np.zeros(item.shape, bool)
    quick = np.sort(item.astype(np.int32), axis=1)  # a stable order costs far more, and few rows have equal items
    rows = np.flatnonzero((quick[:, 1:] == quick[:, :-1]).any(1))
    order = np.argsort(item[rows], axis=1, kind="stable")
    ordered = np.take_along_axis(item[rows], order, 1)
    again = np.zeros(ordered.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    repeated[rows] = again
    return repeated


def _settle(tried: NDArray[np.int64], refused: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Open (-1) the refused cells of n x c items, to the right of those that stay in their order; the rows that have any."""
    tried[refused] = -1
    short = np.flatnonzero(refused.any(1))
    order = np.argsort(refused[short], axis=1, kind="stable")
    tried[short] = np.take_along_axis(tried[short], order, 1)
    return short


class _PoolTooSmallError(Exception):
    """Some target has fewer items left than negatives are wanted."""


class _Draws:
    """Negatives from a pool: ``weight`` shares of each item in what is left."""

    def __init__(
        self, pool: NDArray[np.int64], weight: NDArray[np.int64], excluded: _Exclusions, generator: np.random.Generator
    ) -> None:
        self._pool, self._weight, self._excluded, self._generator = pool, weight, excluded, generator
        self._upto = np.cumsum(weight)
        self._uniform = bool((weight == 1).all())

    def negatives(self, place: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
        """``wanted`` different items for each of the targets number ``place``, in the order they were drawn."""
        excluded = self._excluded
        chosen = self._points((len(place), wanted))
        parts = []
        for first in range(0, len(place), _PART):
            tried = chosen[first : first + _PART]
            tried[:] = self._items(tried)
            parts.append(first + _settle(tried, _repeated(tried) | excluded(place[first : first + _PART, None], tried)))
        still_open = np.concatenate(parts)
        for _ in range(_ROUNDS - 1):
            if not len(still_open):
                break
            tried = chosen[still_open]
            cells = np.nonzero(tried < 0)
            tried[cells] = self._items(self._points(len(cells[0])))
            refused = _repeated(tried)
            refused[cells] |= excluded(place[still_open[cells[0]]], tried[cells])
            short = _settle(tried, refused)
            chosen[still_open] = tried
            still_open = still_open[short]
        step = max(1, _CELLS // len(self._pool))
        for first in range(0, len(still_open), step):
            rows = still_open[first : first + step]
            filled = chosen[rows]
            self._fill(filled, place[rows])
            chosen[rows] = filled
        return chosen

    def _points(self, shape: int | tuple[int, int]) -> NDArray[np.int64]:
        """On the line of all shares."""
        return self._generator.integers(0, self._upto[-1], shape)

    def _items(self, point: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whose shares these are."""
        items: NDArray[np.int64] = self._pool[point if self._uniform else np.searchsorted(self._upto, point, side="right")]
        return items

    def _fill(self, chosen: NDArray[np.int64], place: NDArray[np.int64]) -> None:
        """Fill the open cells (-1, at the right) of ``chosen`` (n c): the smallest exponential times over weights win."""
        wanted, pool = chosen.shape[1], self._pool
        time = self._generator.standard_exponential((len(chosen), len(pool))) / self._weight
        time[self._excluded(place[:, None], pool[None, :])] = np.inf
        row, column = np.nonzero(chosen >= 0)
        time[row, np.searchsorted(pool, chosen[row, column])] = np.inf
        order = np.argsort(time, axis=1, kind="stable")[:, :wanted]
        left = (chosen >= 0).sum(1)
        if (np.isfinite(time).sum(1) + left < wanted).any():
            raise _PoolTooSmallError
        row, column = np.nonzero(chosen < 0)
        chosen[row, column] = pool[order[row, column - left[row]]]


def _too_small(
    corpus: Corpus, settings: DataSettings, pool: NDArray[np.int64], task: Task, histories: Histories | None
) -> SeerecError:
    """The error that names how many negatives every target of both splits can have."""
    at = np.concatenate([positions(corpus, split, task) for split in ("val", "test")])
    left = _Exclusions(corpus, targets_at(corpus, at, task), histories).fewest_left(pool, settings.negatives)
    return SeerecError(
        f"The candidate pool is too small: a target needs {settings.negatives} negatives and only {left} of its {len(pool)} "
        "items are left after its positive and its own history.",
        f"Choose `--negatives {left}`, or give a log with more items." if left else "Give a log with more items.",
    )


def histories_of(corpus: Corpus, settings: DataSettings) -> Histories | None:
    """What `draw` excludes besides the positives; None where repeats are kept."""
    return Histories(corpus) if settings.repeats == "drop" else None


def draw(
    corpus: Corpus, split: str, settings: DataSettings, task: Task = "recommendation", *, histories: Histories | None
) -> CandidateSet:
    """Draw the candidates of ``split`` (val or test) into the corpus's folder; the set is read from there.

    They depend on the corpus, the split, the task and the seed alone. Negatives are many times the size of the log, so
    they are written as they are drawn.

    Parameters
    ----------
    histories
        `histories_of` the corpus, the same for all its sets.

    Raises
    ------
    SeerecError
        The pool holds too few items for some target.
    """
    wanted, target = settings.negatives, positions(corpus, split, task)
    pool, count = pool_of(corpus, task), clicks_of(corpus, task)
    weight = np.ones(len(pool), np.int64) if settings.sampler == "uniform" else count[pool]
    pool, weight = pool[weight > 0], weight[weight > 0]
    if len(pool) < wanted and len(target):
        raise _too_small(corpus, settings, pool, task, histories)
    entropy = [settings.seed, SPLITS[split], *([1] if task == "search" else [])]
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
    draws = _Draws(pool, weight, _Exclusions(corpus, targets_at(corpus, target, task), histories), generator)
    files = _files(corpus, name_of(split, task))
    files[0].parent.mkdir(exist_ok=True)
    np.save(files[0], target)
    digest = _digest(target)

    def parts() -> Iterator[NDArray[np.int32]]:
        for start in range(0, len(target), _ROWS):
            some = draws.negatives(np.arange(start, min(start + _ROWS, len(target))), wanted).astype(np.int32)
            digest.update(some.data)
            yield some

    try:
        write_array(files[1], (len(target), wanted), np.int32, parts())
    except _PoolTooSmallError:
        raise _too_small(corpus, settings, pool, task, histories) from None
    column = generator.integers(0, wanted + 1, len(target)).astype(np.min_scalar_type(wanted))
    np.save(files[2], column)
    digest.update(column.data)
    return CandidateSet(task, target, read_array(files[1]), column, digest.hexdigest())
