"""(seed, epoch, step) -> Batch. Nothing is shuffled or drawn with hidden state, so a run resumes at any step.

A packed training row is a window of one user: at most R clicks and S searches as inputs, and as targets the training clicks
among the last T slots, each of which sees only its own prefix. Windows tile a user's training clicks; where the tiling starts
moves with the epoch. Evaluation rows, and rows of the search task, have one target and the last R and S events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from seerec.batch import Batch
from seerec.config import BatchSettings
from seerec.data.candidates import CandidateSet
from seerec.data.corpus import UNKNOWN, Corpus
from seerec.data.draws import below, bits, uniform
from seerec.data.histories import Histories, Ints, expand
from seerec.data.negatives import Negatives
from seerec.data.targets import Task, positions, targets_at

_ORDER, _PHASE, _USER, _NEGATIVE, _ROW, _PARTNER = range(6)
_SORT_SPAN = 16  # batches whose rows are sorted by length together, so that little is padded


@dataclass(frozen=True)
class Plan:
    """One epoch: window w has training targets ``lo[w]:hi[w]`` (indices into them); batch i windows ``begin[i]:begin[i + 1]``."""

    lo: Ints
    hi: Ints
    begin: Ints


class TrainingBatches:
    """Batches of an epoch by number.

    Parameters
    ----------
    packs
        False gives every target a row of its own, for models whose states are not causal; so do targets of the search task.
    negatives
        n of the 1 + n candidates, at most as many as the pool has; the positive is in column 0.
    fresh
        False draws the same negatives for a target in every epoch.
    task
        What is predicted.
    rows_kept
        P bool: only these rows of the corpus; None: all.
    paired
        Half the rows end with a target whose item is also the last target of a row in the other half, where there is one.
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
        task: Task = "recommendation",
        rows_kept: NDArray[np.bool_] | None = None,
        paired: bool = False,
    ) -> None:
        self.settings, self.seed, self.paired = settings, seed, paired
        self.rows = max(1, rows // 2) if paired else rows
        self.unknown_user_share = unknown_user_share
        packs = packs and task == "recommendation"
        self.width = (settings.targets_per_row or max(1, settings.rec_length // 2)) if packs else 1
        self.histories = Histories(corpus, settings)
        at = positions(corpus, "train", task)
        targets = targets_at(corpus, at, task)
        if rows_kept is not None:
            targets = targets_at(corpus, at[rows_kept[targets.row]], task)
        self.targets = targets
        self.target, self.row = targets.at, targets.row
        first = np.asarray(corpus.rec_offset)
        if task == "search":
            first = np.asarray(corpus.click_offset)[np.asarray(corpus.search_offset)]
        self._slot = self.target - first[self.row]
        self._length = targets.rec_end - np.asarray(corpus.rec_offset)[self.row]
        self._searched = targets.search_end - np.asarray(corpus.search_offset)[self.row]
        self._negatives = Negatives(corpus, targets, negatives, seed_of=(seed, _NEGATIVE), fresh=fresh)
        self._plans: dict[int, Plan] = {}

    def steps(self, epoch: int) -> int:
        """Batches of this epoch."""
        return len(self._plan(epoch).begin) - 1

    def batch(self, epoch: int, step: int) -> Batch:
        """Batch number ``step`` of ``epoch``."""
        plan = self._plan(epoch)
        part = slice(*plan.begin[step : step + 2])
        return self._batch(plan.lo[part], plan.hi[part], epoch, step)

    def share(self, epoch: int, step: int, steps: int) -> Batch | None:
        """Part ``step`` of ``steps`` equal parts of the epoch, None where there are fewer windows than parts."""
        plan = self._plan(epoch)
        total = len(plan.lo)
        part = slice(step * total // steps, (step + 1) * total // steps)
        return self._batch(plan.lo[part], plan.hi[part], epoch, step) if part.stop > part.start else None

    def _batch(self, lo: Ints, hi: Ints, epoch: int, step: int) -> Batch:
        if self.paired:
            lo, hi = self._with_partners(lo, hi, epoch)
        row, t = self.row[lo], self.targets
        at = lo[:, None] + np.arange(int((hi - lo).max()))
        mask = at < hi[:, None]
        at = np.where(mask, at, lo[:, None])
        # The later of two clicks may see less, where its request began before the other click.
        bounds = self.histories.last(row, t.rec_end[at].max(1), t.search_end[at].max(1))
        candidates = np.concatenate([t.item[at][..., None], self._negatives.draw(at, epoch)], 2) * mask[..., None]
        batch = self.histories.batch(
            row,
            bounds,
            np.where(mask, np.clip(t.rec_end[at] - bounds[0][:, None], 0, None), 0),
            np.where(mask, np.clip(t.search_end[at] - bounds[2][:, None], 0, None), 0),
            candidates,
            np.zeros(at.shape, dtype=np.int64),
            np.where(mask, t.time[at], 0),
            (bits(self.seed, _ROW, epoch, step, np.arange(len(row))) >> np.uint64(1)).astype(np.int64),
            None if t.query is None else t.query[at],
        )
        hide = uniform(self.seed, _USER, epoch, self.target[lo]) < self.unknown_user_share
        batch.user[np.flatnonzero(hide)] = UNKNOWN
        return batch

    @cached_property
    def _by_item(self) -> tuple[Ints, Ints]:
        """The targets in the order of their items, and the place of each in it."""
        order = np.argsort(self.targets.item, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return order, place

    def _with_partners(self, lo: Ints, hi: Ints, epoch: int) -> tuple[Ints, Ints]:
        """These windows, and for each another that ends with a target of the same item, where there is one."""
        by_item, place = self._by_item
        last = hi - 1
        ordered = self.targets.item[by_item]
        item = self.targets.item[last]
        first, end = np.searchsorted(ordered, item), np.searchsorted(ordered, item, side="right")
        several = end - first > 1
        first, count, last = first[several], (end - first)[several], last[several]
        skip = 1 + below(count - 1, self.seed, _PARTNER, epoch, self.target[last])
        partner = by_item[first + (place[last] - first + skip) % count]
        partner = partner[self.row[partner] != self.row[last]]
        start = np.searchsorted(self.row, self.row[partner])
        return np.append(lo, np.maximum(start, partner + 1 - self.width)), np.append(hi, partner + 1)

    def _plan(self, epoch: int) -> Plan:
        if epoch not in self._plans:
            self._plans = {epoch: self._make_plan(epoch)}  # only the current epoch's is kept
        return self._plans[epoch]

    def _make_plan(self, epoch: int) -> Plan:
        long_row = np.zeros(int(self.row.max(initial=0)) + 1, dtype=bool)
        long_row[self.row[self._slot >= self.width]] = True
        phase = np.where(long_row[self.row], below(self.width, self.seed, _PHASE, epoch, self.row), 0)
        block = (self._slot + phase) // self.width
        first = np.ones(len(block), dtype=bool)
        first[1:] = (self.row[1:] != self.row[:-1]) | (block[1:] != block[:-1])
        lo = np.flatnonzero(first)
        hi = np.append(lo[1:], len(block))[: len(lo)]
        length = self._length[hi - 1].clip(max=self.settings.rec_length) + hi - lo
        searched = self._searched[hi - 1].clip(max=self.settings.search_length)
        order, begin = self._order(epoch, length, searched, hi - lo)
        return Plan(lo[order], hi[order], begin)

    def _order(self, epoch: int, length: Ints, searched: Ints, targets: Ints) -> tuple[Ints, Ints]:
        """Shuffle, sort by the lengths of both sides within spans, cut a span where targets add up, shuffle the batches.

        Rows of a batch are of like length, and a batch of long ones has fewer of them: a step's loss is a mean, so that with
        equally many rows a target of a long history would count a tenth of another.
        """
        draw = bits(self.seed, _ORDER, epoch, np.arange(len(length)))
        order = np.argsort(draw, kind="stable")
        span = np.arange(len(order)) // (self.rows * _SORT_SPAN)
        order = order[np.lexsort((searched[order], length[order], span))]
        total = np.bincount(span, targets[order]).astype(np.int64)
        batches = -(-total * len(targets) // max(self.rows * int(targets.sum()), 1))  # of every span
        before = targets[order].cumsum() - targets[order] - (total.cumsum() - total)[span]
        batch = (batches.cumsum() - batches)[span] + before * batches[span] // total[span]
        size = np.bincount(batch, minlength=int(batches.sum()))
        size = size[size > 0]
        shuffled = np.argsort(bits(self.seed, _ORDER, epoch, -1 - np.arange(len(size))), kind="stable")
        first, size = (size.cumsum() - size)[shuffled], size[shuffled]
        return order[expand(first, first + size)[1]], np.append(0, size.cumsum())


class StepBatches:
    """What each step learns from: a batch of recommendations, and where a model learns searches too, its share of those.

    Both tasks run out together: a step's part of the searches is as large as its part of the epoch.
    """

    def __init__(self, recommendations: TrainingBatches, searches: TrainingBatches | None = None) -> None:
        self._recommendations, self._searches = recommendations, searches

    def steps(self, epoch: int) -> int:
        """Steps of this epoch."""
        return self._recommendations.steps(epoch)

    def batches(self, epoch: int, step: int) -> tuple[Batch, ...]:
        """One batch of recommendations, and at most one of searches."""
        found = self._recommendations.batch(epoch, step)
        search = None if self._searches is None else self._searches.share(epoch, step, self.steps(epoch))
        return (found,) if search is None else (found, search)


class EvaluationBatches:
    """The targets of a split with their saved candidates, rows of similar length together.

    ``limit`` takes that many of them, ``rows_kept`` (P bool) those of some rows of the corpus; the same for every model.
    """

    def __init__(
        self,
        corpus: Corpus,
        settings: BatchSettings,
        candidates: CandidateSet,
        limit: int | None = None,
        rows_kept: NDArray[np.bool_] | None = None,
    ) -> None:
        self.settings, self.candidates, self._corpus = settings, candidates, corpus
        self.histories = Histories(corpus, settings)
        chosen = np.arange(len(candidates.target))
        if rows_kept is not None:
            chosen = chosen[rows_kept[targets_at(corpus, candidates.target, candidates.task).row]]
        if limit is not None and limit < len(chosen):
            chosen = np.sort(chosen[np.argsort(bits(0, chosen), kind="stable")[:limit]])
        self.chosen = chosen
        self.targets = t = targets_at(corpus, candidates.target[chosen], candidates.task)
        self.target, self.row = t.at, t.row
        bounds = self.histories.last(self.row, t.rec_end, t.search_end)
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
        bounds = self.histories.last(self.row[index], self.targets.rec_end[index], self.targets.search_end[index])
        at = bounds[2][:, None] + np.arange(length)
        return np.where(at < bounds[3][:, None], at, -1)

    def seen_items(self, index: Ints) -> tuple[Ints, Ints]:
        """(place in ``index``, item) of everything these targets' users clicked before, in either log, uncut."""
        row, c = self.row[index], self._corpus
        rec_owner, rec_at = expand(np.asarray(c.rec_offset)[row], self.targets.rec_end[index])
        search_lo = np.asarray(c.search_offset)[row]
        clicks = np.asarray(c.click_offset)
        click_owner, click_at = expand(clicks[search_lo], clicks[self.targets.search_end[index]])
        items = [np.asarray(c.rec_item)[rec_at], np.asarray(c.click_item)[click_at]]
        return np.concatenate([rec_owner, click_owner]), np.concatenate(items).astype(np.int64)

    def batch(self, index: Ints) -> Batch:
        """The batch of these targets."""
        row = self.row[index]
        bounds = self.histories.last(row, self.targets.rec_end[index], self.targets.search_end[index])
        items = self.candidates.items(self._corpus, self.chosen[index]).astype(np.int64)
        column = self.candidates.column[self.chosen[index]]
        return self.histories.batch(
            row,
            bounds,
            (bounds[1] - bounds[0])[:, None],
            (bounds[3] - bounds[2])[:, None],
            items[:, None, :],
            column[:, None],
            self.targets.time[index][:, None],
            self.target[index],
            None if self.targets.query is None else self.targets.query[index][:, None],
        )
