"""Who searches and is recommended what in the simulated KuaiSAR, before anything is written."""

from dataclasses import dataclass

import numpy as np

from seerec.data.draws import uniform
from seerec.data.simulation.coverage import NONE, Ints, OwnRows, Tail, covering, split, starts
from seerec.data.simulation.kuaisar_items import CATEGORIES, TOPICS, Items
from seerec.data.simulation.people import HOUR, People, Searches, Topics
from seerec.data.simulation.words import Words, number_lists
from seerec.progress import Progress

_START = 1_684_738_200_000  # 2023-05-22 14:50 in Beijing
_NO_CLICK = 0.4  # share of the searches
_HAND_OUT, _SESSION = 4, 6  # mean numbers of rows
_FOLLOWS = (12 * HOUR, 0.6)  # how long after a search hand-outs follow it, and the share of those that do
_SOUGHT = HOUR // 120  # a hand-out with a search within this time was left for it
_CHUNK = 1 << 18
# streams
_ACTS, _SEARCHES, _REC_SIZE, _SRC_SIZE, _QUERY, _KEYWORD, _REC_OWN, _SRC_OWN, _WANTS, _FINDS, _PICKS, _SEES = range(20, 32)


@dataclass(frozen=True)
class Counts:
    """What a data set holds: rows, and different things in them."""

    recommendation_rows: int
    search_rows: int
    queries: int
    items: int
    recommended: int
    searched: int
    users: int
    span: int
    """ms from the first moment to the end."""
    words: int = 394_912

    @property
    def shared(self) -> int:
        """Items both recommended and searched."""
        return self.recommended + self.searched - self.items

    @property
    def hand_outs(self) -> int:
        """Times at which something is recommended."""
        return max(self.recommendation_rows // _HAND_OUT, self.users)

    @property
    def sessions(self) -> int:
        """Searches."""
        return max(self.search_rows // _SESSION, self.queries, self.users)


class World:
    """All that is decided before the first row is written: who, when, and what for."""

    def __init__(self, size: Counts, seed: int, progress: Progress) -> None:
        self.size, self.seed = size, seed
        self.topics = Topics.nested(CATEGORIES, TOPICS)
        self.people = People(seed, size.users, self.topics, _START, size.span)
        self.words = Words(seed, size.words, TOPICS, 0.5)
        steps = (self._search, self._hand_out, self._own_items)
        with progress.task("habits", len(steps), "steps") as bar:
            for step in steps:
                step()
                bar.advance(1)

    def _search(self) -> None:
        row = np.arange(self.size.sessions)
        self.src_start = starts(split(self.size.search_rows, 0.3 - np.log1p(-uniform(self.seed, _SRC_SIZE, row))))
        self.src_user = self.people.user(row, len(row), _SEARCHES)
        _, self.src_time = self.people.moment(self.src_user, row, _SEARCHES)
        wanted = self.people.topic(self.src_user, row, _SEARCHES)
        self.query, topic = covering(wanted, self.size.queries, TOPICS, self.seed, _QUERY)
        self.src_topic = topic[self.query]
        length, words = self.words.distinct_texts(topic, _KEYWORD, 8)
        self.keyword = number_lists(1 + words, length)
        # the row whose item is clicked for certain, mostly among the first ones; none in some sessions
        place = (np.diff(self.src_start) * uniform(self.seed, _PICKS, row, 0) ** 2).astype(np.int64)
        self.picked = np.where(uniform(self.seed, _PICKS, row, 1) < _NO_CLICK, NONE, self.src_start[:-1] + place)

    def _hand_out(self) -> None:
        row = np.arange(self.size.hand_outs)
        self.rec_start = starts(split(self.size.recommendation_rows, 0.3 - np.log1p(-uniform(self.seed, _REC_SIZE, row))))
        self.rec_user = self.people.user(row, len(row), _ACTS)
        _, self.rec_time = self.people.moment(self.rec_user, row, _ACTS)
        within, share = _FOLLOWS
        searches = Searches(self.src_user, self.src_time, _START)
        before, after = searches.around(self.rec_user, self.rec_time, within)
        follows = (before != NONE) & (uniform(self.seed, _SEES, row, 0) < share)
        self.followed = np.where(follows, self.src_topic[before], NONE).astype(np.int16)
        soon = (after != NONE) & (self.src_time[after] - self.rec_time < _SOUGHT)
        self.sought = np.where(soon, self.src_topic[after], NONE).astype(np.int16)

    def _own_items(self) -> None:
        """Topics of items are those that their own rows want, so that all items fit in somewhere."""
        size = self.size
        self.rec_own = OwnRows(size.recommended, size.recommendation_rows, self.seed, _REC_OWN)
        self.src_own = OwnRows(size.searched, size.search_rows, self.seed, _SRC_OWN)
        topic = np.empty(size.items, np.int16)
        for first in range(0, size.recommended, _CHUNK):
            item = np.arange(first, min(first + _CHUNK, size.recommended))
            row = self.rec_own.of(item)
            topic[item] = self.recommendation_topic(row, np.searchsorted(self.rec_start, row, side="right") - 1)
        for first in range(0, size.searched, _CHUNK):
            found = np.arange(first, min(first + _CHUNK, size.searched))
            row = self.src_own.of(found)
            topic[self.item_found(found)] = self.search_topic(row, np.searchsorted(self.src_start, row, side="right") - 1)
        self.items = Items(self.seed, size.items, size.recommended, topic)
        self.rec_tail = Tail(topic[: size.recommended], TOPICS)
        self.src_tail = Tail(topic[self.item_found(np.arange(size.searched))], TOPICS)

    def item_found(self, found: Ints) -> Ints:
        """The item of a number among the searched ones: the shared ones come first, then those behind all recommended ones."""
        return np.where(found < self.size.shared, found, found + self.size.items - self.size.searched)

    def recommendation_topic(self, row: Ints, hand_out: Ints) -> Ints:
        """The topic that a recommendation row wants."""
        own = self.people.topic(self.rec_user[hand_out], row, _WANTS)
        followed = self.followed[hand_out].astype(np.int64)
        return np.where((followed != NONE) & (uniform(self.seed, _WANTS, 0, row) < 0.6), followed, own)

    def search_topic(self, row: Ints, session: Ints) -> Ints:
        """The topic that a search row wants: the query's, four times in five and for the row that is clicked for certain."""
        asked = (uniform(self.seed, _FINDS, 0, row) < 0.8) | (row == self.picked[session])
        other = self.topics.any(uniform(self.seed, _FINDS, 1, row), uniform(self.seed, _FINDS, 2, row))
        return np.where(asked, self.src_topic[session], other)
