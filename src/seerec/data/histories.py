"""Slices of the flat corpus arrays as padded histories, without a loop over rows or events."""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerec.batch import Batch
from seerec.config import BatchSettings

Ints = NDArray[np.int64]


class Arrays(Protocol):
    """The event arrays of a corpus (see ``corpus.py``) as attributes: a corpus itself, or histories from outside."""

    def __getattr__(self, name: str) -> NDArray[Any]: ...


class Histories:
    """Padded histories cut from the arrays of a corpus: row b holds clicks ``rec_lo[b]:rec_hi[b]`` and searches likewise."""

    def __init__(self, corpus: Arrays, settings: BatchSettings) -> None:
        self.settings = settings
        # Plain views: fancy indexing of a memmap object costs several times that of the array under it.
        names = "row_user rec_offset search_offset rec_item rec_time search_time search_query click_offset click_item"
        self._a: dict[str, NDArray[Any]] = {
            name: np.asarray(getattr(corpus, name)) for name in [*names.split(), "query_offset", "query_word"]
        }

    def last(self, row: Ints, rec_hi: Ints, search_hi: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Bounds of the last R clicks and S searches before ``rec_hi`` and ``search_hi`` (B each, absolute)."""
        rec_lo = np.maximum(self._a["rec_offset"][row], rec_hi - self.settings.rec_length)
        search_lo = np.maximum(self._a["search_offset"][row], search_hi - self.settings.search_length)
        return rec_lo, rec_hi, search_lo, search_hi

    def batch(
        self,
        row: Ints,
        bounds: tuple[Ints, Ints, Ints, Ints],
        rec_seen: Ints,
        search_seen: Ints,
        candidates: Ints,
        positive: Ints,
        target_time: Ints,
        key: Ints,
        target_query: Ints | None = None,
    ) -> Batch:
        """A batch of B rows; arrays as in ``Batch``, but ``target_query``, of a search batch, is B T indices into the queries."""
        a, (rec_lo, rec_hi, search_lo, search_hi) = self._a, bounds
        rec_at, rec_mask = _slots(rec_lo, rec_hi)
        search_at, searched = _slots(search_lo, search_hi)
        rec = _take(a["rec_item"], rec_at, rec_mask)
        query = _take(a["search_query"], search_at, searched)
        query_lo = _take(a["query_offset"][:-1], query, searched)
        query_hi = _take(a["query_offset"][1:], query, searched)
        words = _ragged(a["query_word"], query_lo, query_hi, self.settings.query_words)
        click_lo = _take(a["click_offset"][:-1], search_at, searched)
        click_hi = _take(a["click_offset"][1:], search_at, searched)
        clicks = _ragged(a["click_item"], click_lo, click_hi, self.settings.clicks)
        b, t = rec_seen.shape
        asked = np.zeros((b, t, words.shape[2]), dtype=np.int64)
        if target_query is not None:
            offset = a["query_offset"]
            asked = _ragged(a["query_word"], offset[target_query], offset[target_query + 1], self.settings.query_words)
        return Batch(
            user=_tensor(a["row_user"][row]),
            rec=_tensor(rec),
            rec_time=_tensor(_take(a["rec_time"], rec_at, rec_mask)),
            query=_tensor(words),
            click=_tensor(clicks),
            search_time=_tensor(_take(a["search_time"], search_at, searched)),
            searched=torch.from_numpy(searched),
            rec_seen=_tensor(rec_seen),
            search_seen=_tensor(search_seen),
            candidates=_tensor(candidates),
            positive=_tensor(positive),
            target_time=_tensor(target_time),
            task=torch.full((b,), int(target_query is not None), dtype=torch.int64),
            target_query=_tensor(asked),
            key=_tensor(key),
        )


def expand(lo: Ints, hi: Ints) -> tuple[Ints, Ints]:
    """All positions of the ranges lo[i]:hi[i], and before them the i each belongs to."""
    owner = np.repeat(np.arange(len(lo)), hi - lo)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(hi - lo) - (hi - lo), hi - lo) + lo[owner]


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))


def _slots(lo: Ints, hi: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Absolute index of each slot (B L, L = longest, at least 1) and which slots are filled."""
    length = max(int((hi - lo).max(initial=0)), 1)
    at = lo[:, None] + np.arange(length)
    return at, at < hi[:, None]


def _take(values: NDArray[Any], at: Ints, mask: NDArray[np.bool_]) -> Ints:
    """``values[at]`` where ``mask``, else 0."""
    if not len(values):
        return np.zeros(at.shape, dtype=np.int64)
    return np.where(mask, values[np.where(mask, at, 0)], 0).astype(np.int64)


def _ragged(values: NDArray[Any], lo: Ints, hi: Ints, limit: int) -> Ints:
    """The first ``limit`` values of each ragged list (any shape) as a padded last axis, at least 1 wide."""
    width = min(max(int((hi - lo).max(initial=0)), 1), limit)
    at = lo[..., None] + np.arange(width)
    return _take(values, at, at < hi[..., None])
