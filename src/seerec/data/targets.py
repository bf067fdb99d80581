"""What is to be predicted: clicked recommendations, or the clicked items of searches, with what each may see."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from seerec.data.corpus import FIRST_ID, SPLITS, TRAIN, Corpus
from seerec.data.draws import bits
from seerec.data.histories import Ints

Task = Literal["recommendation", "search"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Targets:
    """n targets of one task."""

    task: Task
    at: Ints  # n   position in ``rec_item`` (recommendation) or ``click_item`` (search)
    row: Ints  # n
    item: Ints  # n
    time: Ints  # n   ms UTC
    rec_end: Ints  # n   clicks before this position of the log are visible
    search_end: Ints  # n   searches before this position are visible
    query: Ints | None  # n   index into the queries, of searches


def positions(corpus: Corpus, split: str, task: Task) -> Ints:
    """Where the targets of a split (train, val, test) are, ascending: see ``Targets.at``."""
    if task == "recommendation":
        return corpus.targets(split)
    return np.flatnonzero(np.asarray(corpus.click_role) == SPLITS[split])


def targets_at(corpus: Corpus, at: Ints, task: Task) -> Targets:
    """The targets at these positions."""
    at = np.asarray(at)
    if task == "recommendation":
        row, event, query = corpus.rec_row[at], at, None
        seen, search_seen = corpus.rec_seen, corpus.rec_search_seen
        item, time = np.asarray(corpus.rec_item), np.asarray(corpus.rec_time)
    else:
        event = np.searchsorted(np.asarray(corpus.click_offset), at, side="right") - 1
        row = corpus.search_row[event]
        query = np.asarray(corpus.search_query)[event].astype(np.int64)
        seen, search_seen = corpus.search_rec_seen, corpus.search_search_seen
        item, time = np.asarray(corpus.click_item), np.asarray(corpus.search_time)
    return Targets(
        task=task,
        at=at,
        row=row,
        item=item[at].astype(np.int64),
        time=time[event],
        rec_end=np.asarray(corpus.rec_offset)[row] + np.asarray(seen)[event],
        search_end=np.asarray(corpus.search_offset)[row] + np.asarray(search_seen)[event],
        query=query,
    )


def pool_of(corpus: Corpus, task: Task) -> Ints:
    """Items that may be negatives: of a recommendation those that were recommended, of a search all known ones."""
    if task == "recommendation":
        return np.flatnonzero(corpus.item_pool)
    return np.arange(FIRST_ID, corpus.items)


def clicks_of(corpus: Corpus, task: Task) -> NDArray[np.int64]:
    """I int64: training clicks on each item; for searches, in either log."""
    count = np.asarray(corpus.item_count)
    if task == "recommendation":
        return count
    return count + np.bincount(np.asarray(corpus.click_item)[np.asarray(corpus.click_role) == TRAIN], minlength=len(count))


def sample_rows(corpus: Corpus, users: int) -> NDArray[np.bool_]:
    """P bool: ``users`` of the rows that have training targets, the same ones whenever the corpus is the same."""
    row = np.unique(corpus.rec_row[corpus.targets("train")])
    kept = np.zeros(len(corpus.row_user), dtype=bool)
    kept[row[np.argsort(bits(0, row), kind="stable")[:users]]] = True
    return kept
