"""Negatives of training targets: items of the pool that the user did not click in training, in either log."""

import numpy as np
from numpy.typing import NDArray

from seerec.data.corpus import TRAIN, Corpus
from seerec.data.draws import below
from seerec.data.histories import Ints
from seerec.data.targets import Targets, pool_of

_REDRAWS = 12


class Negatives:
    """Draws n negatives per target, each a function of (seed, epoch, target, number).

    Parameters
    ----------
    count
        n, at most as many as the pool has.
    seed_of
        Leading coordinates of the draws.
    fresh
        False draws the same negatives for a target in every epoch.
    """

    def __init__(self, corpus: Corpus, targets: Targets, count: int, *, seed_of: tuple[int, int], fresh: bool) -> None:
        self._targets, self._seed, self._fresh = targets, seed_of, fresh
        self._pool = pool_of(corpus, targets.task)
        self._count = min(count, len(self._pool))
        self._items = corpus.items
        self._own = _own_items(corpus)

    def draw(self, at: Ints, epoch: int) -> Ints:
        """Negatives B T n of the targets number ``at`` (B T); after several clashes the last draw stands."""
        target = self._targets.at
        where = (*self._seed, epoch if self._fresh else 0)
        items = self._pool[below(len(self._pool), *where, target[at][..., None], np.arange(self._count))]
        key = self._targets.row[at][..., None] * self._items
        for redraw in range(1, _REDRAWS):
            clash = np.nonzero(_contains(self._own, key + items))
            if not len(clash[0]):
                break
            items[clash] = self._pool[below(len(self._pool), *where, target[at[clash[:2]]], clash[2] + redraw * self._count)]
        return items


def _own_items(corpus: Corpus) -> Ints:
    """Sorted (row, item) keys of what each user clicked in training, in either log."""
    rec_row, role = corpus.rec_row, np.asarray(corpus.rec_role)
    # The training part of a row ends with its last training target; what comes later must not steer training.
    end = np.zeros(len(corpus.row_user), dtype=np.int64) - 1
    np.maximum.at(end, rec_row[role == TRAIN], np.flatnonzero(role == TRAIN))
    time = np.asarray(corpus.rec_time)
    last = np.where(end >= 0, time[end.clip(min=0)] if len(time) else 0, np.iinfo(np.int64).min)
    rec = np.arange(len(role)) <= end[rec_row]
    searched = np.asarray(corpus.search_time) < last[corpus.search_row]
    click_row = np.repeat(corpus.search_row, np.diff(corpus.click_offset))
    clicked = np.repeat(searched, np.diff(corpus.click_offset))
    items = corpus.items
    keys = np.concatenate(
        [
            rec_row[rec] * items + np.asarray(corpus.rec_item)[rec],
            click_row[clicked] * items + np.asarray(corpus.click_item)[clicked],
        ]
    )
    return np.unique(keys)


def _contains(keys: Ints, wanted: Ints) -> NDArray[np.bool_]:
    """Whether each wanted key is among the sorted keys."""
    if not len(keys):
        return np.zeros(wanted.shape, dtype=bool)
    return keys[np.searchsorted(keys, wanted).clip(max=len(keys) - 1)] == wanted
