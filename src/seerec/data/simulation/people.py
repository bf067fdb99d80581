"""Who acts when, and what for: users with favourite categories, who come in visits and whose searches have consequences.

A user has three favourite first-level categories, and in each of them other second-level categories (*topics*) than the
next user. Visits follow the hours of the day. Whatever a user does wants a topic, three times in four one of a
favourite category.
"""

from dataclasses import dataclass

import numpy as np

from seerec.data.draws import below, uniform
from seerec.data.simulation.coverage import NONE, Bools, Floats, Ints, OwnRows, split

HOUR = 3_600_000
_FAVOURITES = (0.55, 0.85)  # bounds of the shares of the first, second and third favourite
_EXPLORES = 0.25
_VISITS_A_DAY = 3
_VISIT_MS = 900_000  # mean distance of an action from the beginning of its visit
_HOURS = np.array([4, 2, 1, 1, 1, 2, 4, 6, 7, 7, 7, 8, 10, 9, 8, 7, 7, 8, 9, 11, 12, 13, 11, 7], np.float64)
_VISIT, _FAVOURITE = 1, 2  # streams; those of the callers begin at 10


@dataclass(frozen=True)
class Topics:
    """Second-level categories 0 .. T - 1, each of one first-level category 0 .. C - 1; those of a category stand together."""

    first: Ints
    """T: the first-level category."""
    start: Ints
    """C: its first topic."""
    count: Ints
    """C: how many topics it has."""

    @staticmethod
    def nested(categories: int, topics: int) -> "Topics":
        """Topics of which the first categories have more."""
        count = split(topics, 1 / (6 + np.arange(categories)))
        return Topics(np.repeat(np.arange(categories), count), np.cumsum(count) - count, count)

    def any(self, number: Floats, other: Floats) -> Ints:
        """Topics for two independent uniform numbers; the first categories, and in each the first topics, are frequent."""
        category = (len(self.count) * number * np.sqrt(number)).astype(np.int64)
        return self.start[category] + (self.count[category] * other**2).astype(np.int64)


class People:
    """Users 0 .. U - 1 and their habits; every answer is a function of the seed and of what is asked about."""

    def __init__(self, seed: int, users: int, topics: Topics, start: int, span: int) -> None:
        """``start``: ms UTC; ``span``: ms."""
        self.users, self.topics, self._seed, self._start, self._span = users, topics, seed, start, span
        number = uniform(seed, _FAVOURITE, np.arange(users)[:, None], np.arange(3))
        self._favourite = (len(topics.count) * number * np.sqrt(number)).astype(np.int64)
        self._edges = np.append(np.arange(0, span, HOUR), span).astype(np.float64)
        weight = _HOURS[((start + self._edges[:-1]) // HOUR + 8).astype(np.int64) % 24] * np.diff(self._edges)
        self._reached = np.append(0, np.cumsum(weight)) / weight.sum()
        self.visits = max(2, round(_VISITS_A_DAY * span / (24 * HOUR)))

    def user(self, row: Ints, rows: int, stream: int) -> Ints:
        """The user of each of ``rows`` actions: all users act, few of them often."""
        number = uniform(self._seed, stream, 0, row)
        mine = OwnRows(self.users, rows, self._seed, stream).at(row)
        # the most active user does about 30 times the mean, the least active a fifth of it
        return np.where(mine == NONE, (self.users * np.expm1(5 * number) / np.expm1(5)).astype(np.int64), mine)

    def moment(self, user: Ints, row: Ints, stream: int) -> tuple[Ints, Ints]:
        """The visit (0, 1, ... for each user) and the time (ms UTC) of each action."""
        visit = below(self.visits, self._seed, stream, 1, row)
        begin = np.interp(uniform(self._seed, _VISIT, user, visit), self._reached, self._edges)
        later = -np.log1p(-uniform(self._seed, stream, 2, row)) * _VISIT_MS
        return visit, self._start + (begin + later).astype(np.int64) % self._span

    def topic(self, user: Ints, row: Ints, stream: int) -> Ints:
        """The topic that each action wants."""
        which = np.searchsorted(_FAVOURITES, uniform(self._seed, stream, 3, row), side="right")
        topics, number = self.topics, uniform(self._seed, stream, 4, row)
        explores = number < _EXPLORES
        elsewhere = (len(topics.count) * (number / _EXPLORES) ** 1.5).astype(np.int64)
        category = np.where(explores, np.where(explores, elsewhere, 0), self._favourite[user, which])
        rank = (topics.count[category] * uniform(self._seed, stream, 5, row) ** 2).astype(np.int64)
        return topics.start[category] + (rank + user) % topics.count[category]

    def likes(self, user: Ints, topic: Ints) -> Bools:
        """Is the topic one of a favourite category?"""
        return (self._favourite[user] == self.topics.first[topic][:, None]).any(1)


class Searches:
    """The searches of all users in the order of time, to be asked which one came before a moment."""

    def __init__(self, user: Ints, time: Ints, origin: int) -> None:
        """``origin``: a time (ms) before all, by less than 2**32."""
        self._user, self._time, self._origin = user, time, origin
        key = user << 32 | (time - origin)
        self._order = np.argsort(key, kind="stable")
        self._key = key[self._order]

    def around(self, user: Ints, time: Ints, within: int) -> tuple[Ints, Ints]:
        """The user's last search before each moment and the first one after it, or -1 where none is within so many ms."""
        place = np.searchsorted(self._key, user << 32 | (time - self._origin))
        return self._near(place - 1, user, time, within), self._near(place, user, time, within)

    def _near(self, place: Ints, user: Ints, time: Ints, within: int) -> Ints:
        inside = (place >= 0) & (place < len(self._order))
        search = self._order[np.where(inside, place, 0)]
        near = inside & (self._user[search] == user) & (np.abs(self._time[search] - time) <= within)
        return np.where(near, search, NONE)
