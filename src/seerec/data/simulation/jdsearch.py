"""Tab-separated files in the format of JDsearch (Liu et al. 2023), for a share of its 170,000 users.

A history comes in runs of the same purpose: a search whose products follow it, or products found without one. The test
query of a user is about one of the favourite categories. Clicks are kept of the last part of a history only, and one
product in a hundred is missing in the product file, as in the published data. Words and ids are numbers below 1e8.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seerec.data.draws import below, uniform
from seerec.data.simulation.coverage import NONE, Ints, OwnRows, Tail, ragged, shuffled, split, starts, without_repeats
from seerec.data.simulation.lines import Lines
from seerec.data.simulation.people import People, Topics
from seerec.data.simulation.words import Words, choices, joined, numbers
from seerec.progress import Progress

FILES = ("user_behavior_data.txt", "product_meta_data.txt")
SHARES = (0.0001, 1)
"""The smallest and the largest share of the users."""
_BEHAVIOR = (
    "query", "candidate_wid_list", "candidate_label_list", "history_qry_list", "history_wid_list", "history_type_list",
    "history_time_list",
)  # fmt: skip
_PRODUCT = (
    "wid", "name", "brand_id", "brand_name",
    *(f"cate_{part}_{level}" for level in range(1, 5) for part in ("id", "name")), "shop_id",
)  # fmt: skip
_CATEGORIES, _TOPICS = 30, 300
_HASHES = 100_000_000
_WORDS = 200_000
_WORD_MARK = "\x18"
_RUN_ENDS, _FROM_SEARCH = 0.5, 0.45
_EARLY, _LATE = choices(("CART", "ORD", "FLW"), (75, 20, 5)), "CLICK"
_SIZE, _SHOWN, _RUN, _ASKS, _OWN, _PICKS, _TYPE, _GAP, _LABEL, _QUERY, _NAME, _BRAND, _SHOP, _TEST = range(20, 34)  # streams
_CHUNK = 256  # users
_PRODUCTS = 1 << 14


@dataclass(frozen=True)
class Counts:
    """What a data set holds."""

    users: int
    interactions: int
    candidates: int
    products: int


SCALES: dict[str, Counts] = {}
"""None: the whole data set is too big to be wanted."""


def counts(scale: str | float) -> Counts:
    """The counts for a share of 170,000 users, with as many interactions, candidates and products a user as published."""
    users = max(8, round(170_000 * float(scale)))
    return Counts(users, round(153.4 * users), 80 * users, 74 * users)


class _World:
    """All that is decided before the first row is written. Rows are the interactions, and behind them the candidates."""

    def __init__(self, size: Counts, seed: int) -> None:
        self.size, self.seed = size, seed
        user = np.arange(size.users)
        self.topics = Topics.nested(_CATEGORIES, _TOPICS)
        self.people = People(seed, size.users, self.topics, 0, 1)
        self.words = Words(seed, _WORDS, _TOPICS, 0.5)
        weight = np.exp(3.5 * uniform(seed, _SIZE, user))  # the longest history has about 30 times the shortest
        self.history = starts(split(size.interactions, weight))
        self.shown = size.interactions + starts(split(size.candidates, 0.5 + uniform(seed, _SHOWN, user)))
        self.query_topic = self.people.topic(user, user, _TEST)
        row = np.arange(size.interactions)
        begins = uniform(seed, _RUN, row) < _RUN_ENDS
        begins[self.history[:-1]] = True
        self.run = np.maximum.accumulate(np.where(begins, row, 0)).astype(np.int32)
        self.own = OwnRows(size.products, size.interactions + size.candidates, seed, _OWN)
        self.topic = np.empty(size.products, np.int16)
        for own in np.array_split(np.arange(size.products), 1 + size.products // 250_000):
            self.topic[shuffled(own, size.products)] = self._topic(self.own.of(own))
        self.tail = Tail(self.topic, _TOPICS)

    def _topic(self, row: Ints) -> Ints:
        """What a row wants: the topic of its run, or of the test query."""
        past = row < self.size.interactions
        run = self.run[np.where(past, row, 0)].astype(np.int64)
        user = np.searchsorted(self.history, run, side="right") - 1
        tested = np.searchsorted(self.shown, np.where(past, self.shown[0], row), side="right") - 1
        return np.where(past, self.people.topic(user, run, _ASKS), self.query_topic[tested])

    def products(self, row: Ints) -> Ints:
        """The products of rows."""
        mine = self.own.at(row)
        tail = self.tail.draw(self._topic(row), uniform(self.seed, _PICKS, 0, row))
        # shuffled, so that the frequent products, the first ones, do not belong to the first users
        return np.where(mine == NONE, tail, shuffled(mine, self.size.products))

    def candidates(self, list_: Ints, row: Ints) -> Ints:
        """The products of rows that are candidates: none twice in a list."""
        fixed = self.own.at(row) != NONE
        products = self.size.products
        return without_repeats(
            list_, self.products(row), fixed, lambda at, attempt: below(products, self.seed, _PICKS, attempt, row[at])
        )


def write(folder: Path, scale: str | float, seed: int, progress: Progress) -> dict[str, int]:
    """Both files; returns the counts."""
    size = counts(scale)
    world = _World(size, seed)
    with progress.task(FILES[0], size.users, "users") as bar, Lines(folder / FILES[0], _BEHAVIOR, "\t") as file:
        for first in range(0, size.users, _CHUNK):
            user = np.arange(first, min(first + _CHUNK, size.users))
            file.write(*_behavior(world, user))
            bar.advance(len(user))
    described = 0
    with progress.task(FILES[1], size.products, "products") as bar, Lines(folder / FILES[1], _PRODUCT, "\t") as file:
        for product in _described(world):
            file.write(*_product(world, product))
            described += len(product)
            bar.advance(len(product))
    return dict(vars(size)) | {"described_products": described}


def _described(world: _World) -> Iterator[Ints]:
    for first in range(0, world.size.products, _PRODUCTS):
        product = np.arange(first, min(first + _PRODUCTS, world.size.products))
        yield product[uniform(world.seed, _SHOP, 1, product) >= 0.01]


def _behavior(world: _World, user: Ints) -> list[pa.Array]:
    seed, size = world.seed, world.size
    shown = world.shown[user + 1] - world.shown[user]
    owner, place = ragged(shown)
    candidate = world.candidates(owner, world.shown[user][owner] + place)
    # a few users did nothing after their test query; the others' clicks, cart entries and purchases stand first
    done = np.where(uniform(seed, _LABEL, 0, user) < 0.05, 0, 1 + (3 * uniform(seed, _LABEL, 1, user) ** 3).astype(np.int64))
    label = np.where(place < done[owner], 1 + (3 * uniform(seed, _LABEL, 2, owner + user[0], place) ** 3).astype(np.int64), 0)

    length = world.history[user + 1] - world.history[user]
    lived, when = ragged(length)
    row = world.history[user][lived] + when
    run = world.run[row].astype(np.int64)
    queries, which = np.unique(run, return_inverse=True)
    topic = world.people.topic(np.searchsorted(world.history, queries, side="right") - 1, queries, _ASKS)
    searched = uniform(seed, _QUERY, 1, queries) < _FROM_SEARCH
    text = pc.if_else(pa.array(searched), _query(world, queries, topic, _QUERY), "-1").take(pa.array(which))
    late = (when + 0.5) / length[lived] > 0.5
    kind = pc.if_else(pa.array(late), _LATE, _EARLY(uniform(seed, _TYPE, row)))

    # the history's times and that of the test query: seconds since the event before
    timed, position = ragged(length + 1)
    gap = np.exp(15 * uniform(seed, _GAP, user[timed], position) ** 1.5).astype(np.int64) - 1
    return [
        _query(world, user, world.query_topic[user], _TEST),
        joined(_hashed(candidate, size.products), shown, "_"),
        joined(pc.binary_join_element_wise(numbers(label), ".0", ""), shown, "_"),
        joined(text, length, "_"),
        joined(_hashed(world.products(row), size.products), length, "_"),
        joined(kind, length, "_"),
        joined(numbers(np.where(position == 0, 0, gap)), length + 1, "_"),
    ]


def _query(world: _World, thing: Ints, topic: Ints, stream: int) -> pa.Array:
    size = 1 + below(4, world.seed, stream, 2, thing)
    return _text(world.words.texts(thing, topic, size, stream), size)


def _text(words: Ints, size: Ints) -> pa.Array:
    return joined(numbers(1 + shuffled(words, _HASHES - 1)), size, _WORD_MARK)


def _hashed(product: Ints, products: int) -> pa.Array:
    return numbers(1 + shuffled(product + products, _HASHES - 1))


def _product(world: _World, product: Ints) -> list[pa.Array]:
    seed, topic = world.seed, world.topic[product].astype(np.int64)
    size = 10 + below(35, seed, _NAME, 0, product)
    brand = (world.size.products // 20 * uniform(seed, _BRAND, 0, product) ** 3).astype(np.int64)
    brand_size = below(4, seed, _BRAND, 1, brand)
    third = 2 * topic + below(2, seed, _NAME, 1, product)
    columns = [
        _hashed(product, world.size.products),
        _text(world.words.texts(product, topic, size, _NAME), size),
        numbers(1 + shuffled(brand, _HASHES - 1)),
        _text(world.words.texts(brand, brand % _TOPICS, brand_size, _BRAND), brand_size),
    ]
    for level, category in enumerate((world.topics.first[topic], topic, third, third)):
        named = 1 + below(2, seed, _BRAND, 2 + min(level, 2), category)
        columns += [numbers(1 + shuffled(category + 1000 * (1 + level), _HASHES - 1)),
                    _text(world.words.texts(category, category % _TOPICS, named, 900 + min(level, 2)), named)]  # fmt: skip
    shop = (world.size.products // 8 * uniform(seed, _SHOP, 0, product) ** 2).astype(np.int64)
    return [*columns, numbers(1 + shuffled(shop, _HASHES - 1))]
