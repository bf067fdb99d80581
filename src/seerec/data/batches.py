"""(seed, epoch, step) -> Batch. Nothing is shuffled or drawn with hidden state, so a run resumes at any step.

A packed training row is a window of one user: at most R clicks and S searches as inputs, and as targets the training clicks
among the last T slots, each of which sees only its own prefix. Windows tile a user's training clicks; where the tiling starts
moves with the epoch. Evaluation rows have one target and the last R and S events.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seerec.batch import Batch
from seerec.config import BatchSettings
from seerec.data.candidates import CandidateSet
from seerec.data.corpus import TRAIN, UNKNOWN, Corpus
from seerec.data.draws import below, bits, uniform
from seerec.data.histories import Histories, Ints, expand

_ORDER, _PHASE, _USER, _NEGATIVE, _ROW = range(5)
_SORT_SPAN = 16  # batches whose rows are sorted by length together, so that little is padded
_REDRAWS = 12


@dataclass(frozen=True)
class Plan:
    """One epoch: window w has training targets ``lo[w]:hi[w]`` (indices into the training targets)."""

    lo: Ints
    hi: Ints
    rec_hi: Ints
    search_hi: Ints


class TrainingBatches:
    """Batches of an epoch by number.

    Parameters
    ----------
    packs
        False gives every target a row of its own, for models whose states are not causal.
    negatives
        n of the 1 + n candidates, at most as many as the pool has; the positive is in column 0.
    fresh
        False draws the same negatives for a target in every epoch.
    """

    def __init__(
        self,
        corpus: Corpus,
        settings: BatchSettings,
        *,
        seed: int,
        packs: bool,
        rows: int,
        negatives: int,
        unknown_user_share: float,
        fresh: bool = True,
    ) -> None:
        self.settings, self.seed, self.rows = settings, seed, rows
        self.unknown_user_share, self.fresh = unknown_user_share, fresh
        self.width = (settings.targets_per_row or max(1, settings.rec_length // 2)) if packs else 1
        self.histories = Histories(corpus, settings)
        self.target = corpus.targets("train")
        self.row = corpus.rec_row[self.target]
        self._offset = np.asarray(corpus.rec_offset)[self.row]
        self._rec_end = self._offset + np.asarray(corpus.rec_seen)[self.target]
        self._search_end = np.asarray(corpus.search_offset)[self.row] + np.asarray(corpus.rec_search_seen)[self.target]
        self._item = np.asarray(corpus.rec_item)[self.target].astype(np.int64)
        self._time = np.asarray(corpus.rec_time)[self.target]
        self._pool = np.flatnonzero(np.asarray(corpus.item_pool))
        self.negatives = min(negatives, len(self._pool))
        self._items = corpus.items
        self._own = _own_items(corpus)
        self._plans: dict[int, Plan] = {}

    def steps(self, epoch: int) -> int:
        """Batches of this epoch."""
        return -(-len(self._plan(epoch).lo) // self.rows)

    def batch(self, epoch: int, step: int) -> Batch:
        """Batch number ``step`` of ``epoch``."""
        plan = self._plan(epoch)
        part = slice(step * self.rows, (step + 1) * self.rows)
        lo, hi = plan.lo[part], plan.hi[part]
        row = self.row[lo]
        bounds = self.histories.last(row, plan.rec_hi[part], plan.search_hi[part])
        at = lo[:, None] + np.arange(int((hi - lo).max()))
        mask = at < hi[:, None]
        at = np.where(mask, at, lo[:, None])
        candidates = np.concatenate([self._item[at][..., None], self._negatives(at, epoch)], 2) * mask[..., None]
        batch = self.histories.batch(
            row,
            bounds,
            np.where(mask, np.clip(self._rec_end[at] - bounds[0][:, None], 0, None), 0),
            np.where(mask, np.clip(self._search_end[at] - bounds[2][:, None], 0, None), 0),
            candidates,
            np.zeros(at.shape, dtype=np.int64),
            np.where(mask, self._time[at], 0),
            (bits(self.seed, _ROW, epoch, step, np.arange(len(row))) >> np.uint64(1)).astype(np.int64),
        )
        hide = uniform(self.seed, _USER, epoch, self.target[lo]) < self.unknown_user_share
        batch.user[np.flatnonzero(hide)] = UNKNOWN
        return batch

    def _negatives(self, at: Ints, epoch: int) -> Ints:
        """B T n items of the pool, none of the user's own training items (the last redraw stands)."""
        where = (self.seed, _NEGATIVE, epoch if self.fresh else 0, self.target[at][..., None])
        draw = np.arange(self.negatives)
        items = self._pool[below(len(self._pool), *where, draw)]
        key = self.row[at][..., None] * self._items
        for redraw in range(1, _REDRAWS):
            clash = np.nonzero(_contains(self._own, key + items))
            if not len(clash[0]):
                break
            fresh = below(len(self._pool), *where[:3], self.target[at[clash[:2]]], clash[2] + redraw * self.negatives)
            items[clash] = self._pool[fresh]
        return items

    def _plan(self, epoch: int) -> Plan:
        if epoch not in self._plans:
            self._plans = {epoch: self._make_plan(epoch)}  # only the current epoch's is kept
        return self._plans[epoch]

    def _make_plan(self, epoch: int) -> Plan:
        slot = self.target - self._offset
        long_row = np.zeros(int(self.row.max(initial=0)) + 1, dtype=bool)
        long_row[self.row[slot >= self.width]] = True
        phase = np.where(long_row[self.row], below(self.width, self.seed, _PHASE, epoch, self.row), 0)
        block = (slot + phase) // self.width
        first = np.ones(len(slot), dtype=bool)
        first[1:] = (self.row[1:] != self.row[:-1]) | (block[1:] != block[:-1])
        lo = np.flatnonzero(first)
        hi = np.append(lo[1:], len(slot))
        rec_hi = np.maximum.reduceat(self._rec_end, lo)
        search_hi = np.maximum.reduceat(self._search_end, lo)
        order = self._order(epoch, (rec_hi - self._offset[lo]).clip(max=self.settings.rec_length) + hi - lo)
        return Plan(lo[order], hi[order], rec_hi[order], search_hi[order])

    def _order(self, epoch: int, length: Ints) -> Ints:
        """Shuffle, sort by length within spans of batches, shuffle the batches; the short last batch stays last."""
        draw = bits(self.seed, _ORDER, epoch, np.arange(len(length)))
        order = np.argsort(draw, kind="stable")
        span = np.arange(len(order)) // (self.rows * _SORT_SPAN)
        order = order[np.lexsort((length[order], span))]
        whole = len(order) // self.rows * self.rows
        batches = order[:whole].reshape(-1, self.rows)
        shuffled = np.argsort(bits(self.seed, _ORDER, epoch, -1 - np.arange(len(batches))), kind="stable")
        return np.concatenate([batches[shuffled].reshape(-1), order[whole:]])


class EvaluationBatches:
    """The targets of a split with their saved candidates, rows of similar length together."""

    def __init__(self, corpus: Corpus, settings: BatchSettings, candidates: CandidateSet, limit: int | None = None) -> None:
        self.settings, self.candidates, self._corpus = settings, candidates, corpus
        self.histories = Histories(corpus, settings)
        chosen = np.arange(len(candidates.target))
        if limit is not None and limit < len(chosen):
            chosen = np.sort(np.argsort(bits(0, chosen), kind="stable")[:limit])
        self.chosen = chosen
        self.target = candidates.target[chosen]
        self.row = corpus.rec_row[self.target]
        self._rec_end = np.asarray(corpus.rec_offset)[self.row] + np.asarray(corpus.rec_seen)[self.target]
        self._search_end = np.asarray(corpus.search_offset)[self.row] + np.asarray(corpus.rec_search_seen)[self.target]
        self._item = np.asarray(corpus.rec_item)[self.target].astype(np.int64)
        self._time = np.asarray(corpus.rec_time)[self.target]
        bounds = self.histories.last(self.row, self._rec_end, self._search_end)
        self._order = np.argsort((bounds[1] - bounds[0]) + (bounds[3] - bounds[2]), kind="stable")

    def __len__(self) -> int:
        return -(-len(self.target) // self.settings.evaluation_rows)

    def __iter__(self) -> Iterator[tuple[Ints, Batch]]:
        """Pairs of (indices into ``target``, Batch with T = 1)."""
        for step in range(len(self)):
            index = self._order[step * self.settings.evaluation_rows : (step + 1) * self.settings.evaluation_rows]
            yield index, self.batch(index)

    def search_places(self, index: Ints, length: int) -> Ints:
        """B S positions of the searches in these targets' batch, -1 where a slot is empty."""
        bounds = self.histories.last(self.row[index], self._rec_end[index], self._search_end[index])
        at = bounds[2][:, None] + np.arange(length)
        return np.where(at < bounds[3][:, None], at, -1)

    def seen_items(self, index: Ints) -> tuple[Ints, Ints]:
        """(place in ``index``, item) of everything these targets' users clicked before, in either log, uncut."""
        row, c = self.row[index], self._corpus
        rec_owner, rec_at = expand(np.asarray(c.rec_offset)[row], self._rec_end[index])
        search_lo = np.asarray(c.search_offset)[row]
        clicks = np.asarray(c.click_offset)
        click_owner, click_at = expand(clicks[search_lo], clicks[self._search_end[index]])
        items = [np.asarray(c.rec_item)[rec_at], np.asarray(c.click_item)[click_at]]
        return np.concatenate([rec_owner, click_owner]), np.concatenate(items).astype(np.int64)

    def batch(self, index: Ints) -> Batch:
        """The batch of these targets."""
        row = self.row[index]
        bounds = self.histories.last(row, self._rec_end[index], self._search_end[index])
        items = self.candidates.items(self._corpus, self.chosen[index]).astype(np.int64)
        column = self.candidates.column[self.chosen[index]]
        return self.histories.batch(
            row,
            bounds,
            (bounds[1] - bounds[0])[:, None],
            (bounds[3] - bounds[2])[:, None],
            items[:, None, :],
            column[:, None],
            self._time[index][:, None],
            self.target[index],
        )


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
