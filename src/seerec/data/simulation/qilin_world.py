"""Who searches and is recommended what in the simulated Qilin, before anything is written."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from seerec.data.draws import below, uniform
from seerec.data.simulation.coverage import NONE, Bools, Ints, Tail, covering, ragged, split, starts, without_repeats
from seerec.data.simulation.people import HOUR, People, Searches
from seerec.data.simulation.qilin_notes import TOPICS, Notes
from seerec.data.simulation.words import joined

_START, _SPAN = 1_732_204_800_000, 7 * 24 * HOUR  # 2024-11-22 in Beijing, a week
_NO_SEARCH_CLICK, _NO_CLICK = 0.3, 0.03  # shares of the searches, of the recommendation requests
_FOLLOWS = (12 * HOUR, 0.6)  # how long after a search requests follow it, and the share of those that do
_AGAIN = 0.02  # share of the recommendation requests whose first half is shown a second time, hours later
_RECENT = 20
_SIZE, _QUERY, _KEYWORD, _WANTS, _PICKS, _PAST = range(30, 36)  # streams
_SEARCHES, _RECOMMENDS = 40, 41


@dataclass(frozen=True)
class Counts:
    """What a data set holds."""

    search_train: int = 44_024
    search_test: int = 6_192
    recommendation_train: int = 83_437
    recommendation_test: int = 11_115
    notes: int = 1_983_938
    users: int = 15_482
    queries: int = 44_820
    shown_results: int = 969_866
    shown_recommendations: int = 1_438_435


@dataclass(frozen=True)
class Requests:
    """Searches, or requests for recommendations, N of each; in each, notes are shown."""

    stream: int
    user: Ints
    session: Ints
    time: Ints
    """ms."""
    topic: Ints
    """What a search asks for, what a request follows, or -1."""
    start: Ints
    """N + 1: the first shown note of each, and the number of all."""
    picked: Ints
    """The shown note that is clicked for certain, or -1."""
    test: Bools
    """The latest are test rows."""

    def rows(self, request: Ints) -> tuple[Ints, Ints, Ints]:
        """The shown notes of some requests: their numbers, the place of their request among these, their place in its list."""
        owner, place = ragged(self.start[request + 1] - self.start[request])
        return self.start[request][owner] + place, owner, place


class World:
    """All that is decided before the first row is written."""

    def __init__(self, size: Counts, seed: int) -> None:
        self.size, self.seed = size, seed
        self.notes = Notes.drawn(seed, size.notes)
        self._tail = Tail(self.notes.topic, TOPICS)
        self._people = People(seed, size.users, self.notes.topics, _START, _SPAN)

        user, session, time = self._when(_SEARCHES, size.search_train + size.search_test)
        row = np.arange(len(user))
        self.query, topic = covering(self._people.topic(user, row, _SEARCHES), size.queries, TOPICS, seed, _QUERY)
        lengths, words = self.notes.words.distinct_texts(topic, _KEYWORD, 6)
        self.query_text = joined(self.notes.lexicon.take(pa.array(words)), lengths, "")
        self.searches = Requests(
            _SEARCHES, user, session, time, topic[self.query],
            *self._lists(_SEARCHES, len(user), size.shown_results, _NO_SEARCH_CLICK), _latest(time, size.search_test),
        )  # fmt: skip

        user, session, time = self._when(_RECOMMENDS, size.recommendation_train + size.recommendation_test)
        row, (within, share) = np.arange(len(user)), _FOLLOWS
        before, _ = Searches(self.searches.user, self.searches.time, _START).around(user, time, within)
        follows = (before != NONE) & (uniform(seed, _WANTS, row) < share)
        self.recommendations = Requests(
            _RECOMMENDS, user, session, time, np.where(follows, self.searches.topic[before], NONE),
            *self._lists(_RECOMMENDS, len(user), size.shown_recommendations, _NO_CLICK), _latest(time, size.recommendation_test),
        )  # fmt: skip

    def _when(self, stream: int, rows: int) -> tuple[Ints, Ints, Ints]:
        """User, session and time of each request."""
        row = np.arange(rows)
        user = self._people.user(row, rows, stream)
        visit, time = self._people.moment(user, row, stream)
        return user, user * self._people.visits + visit, time

    def _lists(self, stream: int, rows: int, shown: int, idle: float) -> tuple[Ints, Ints]:
        """Where each request's list starts, and the certain click of each: mostly among the first places."""
        row = np.arange(rows)
        start = starts(split(shown, 0.2 - np.log1p(-uniform(self.seed, _SIZE, stream, row))))
        place = (np.diff(start) * uniform(self.seed, _PICKS, stream, 0, row) ** 2).astype(np.int64)
        return start, np.where(uniform(self.seed, _PICKS, stream, 1, row) < idle, NONE, start[:-1] + place)

    def shown(self, requests: Requests, request: Ints) -> tuple[Ints, Bools]:
        """The notes that requests show, and which of them are clicked."""
        seed, stream = self.seed, requests.stream
        row, owner, _ = requests.rows(request)
        user, topic, picked = requests.user[request][owner], requests.topic[request][owner], requests.picked[request][owner]
        share = np.where(row == picked, 1, 0.8) if stream == _SEARCHES else 0.5
        asked = (topic != NONE) & (uniform(seed, stream, 6, row) < share)
        wanted = np.where(asked, topic, self._people.topic(user, row, stream))
        note = self._tail.draw(wanted, uniform(seed, stream, 7, row))
        free = np.zeros(len(row), np.bool_)
        note = without_repeats(owner, note, free, lambda at, attempt: below(self.size.notes, seed, stream, 9 + attempt, row[at]))
        again = np.flatnonzero(self.again(requests, request))
        note[again] = note[again - self._half(requests, request)[owner[again]]]
        about = self.notes.topic[note].astype(np.int64)
        chance = np.where(self._people.likes(user, about), 0.12, 0.03) * np.where(about == topic, 2, 1)
        more = uniform(seed, stream, 8, row) < chance
        return note, (picked != NONE) & (more | (row == picked))

    def again(self, requests: Requests, request: Ints) -> Bools:
        """Which of the shown notes repeat the first half of their list."""
        _, owner, place = requests.rows(request)
        repeats = (uniform(self.seed, _WANTS, 1, request) < _AGAIN) & (requests.stream == _RECOMMENDS)
        half = self._half(requests, request)
        return repeats[owner] & (place >= half[owner]) & (half > 0)[owner] & (place < 2 * half[owner])

    def _half(self, requests: Requests, request: Ints) -> Ints:
        return (requests.start[request + 1] - requests.start[request]) // 2

    def recent(self, requests: Requests, request: Ints) -> tuple[Ints, Ints]:
        """Up to 20 notes that a user is said to have clicked lately: how many, and the notes one after the other."""
        stream = _PAST + 100 * requests.stream
        size = np.minimum(_RECENT, (30 * uniform(self.seed, stream, 0, request)).astype(np.int64))
        owner, place = ragged(size)
        key = request[owner] * _RECENT + place
        topic = self._people.topic(requests.user[request[owner]], key, stream)
        return size, self._tail.draw(topic, uniform(self.seed, stream, 6, key))

    def ranked(self, requests: Requests, request: Ints, length: int, ranking: int) -> Ints:
        """Notes that a program would rank first for each search: ``length`` each, one after the other."""
        key = np.repeat(request, length) * length + np.tile(np.arange(length), len(request))
        return self._tail.draw(np.repeat(requests.topic[request], length), uniform(self.seed, _PAST, ranking, key))


def _latest(time: Ints, count: int) -> Bools:
    order = np.argsort(np.argsort(time, kind="stable"), kind="stable")
    return order >= len(time) - count
