"""Words as numbers, and texts made of them: long-tailed over a vocabulary, and partly told by the topic.

Each topic has 64 words of its own. A word is one of these with a fixed chance, otherwise one of a long tail over the
whole vocabulary, so that queries and texts of one topic share words.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seerec.data.draws import below, bits, uniform
from seerec.data.simulation.coverage import Floats, Ints, ragged, shuffled

_TOPIC_WORDS = 3  # a stream
_OWN = 64
_HAN = bytes(byte for row in range(0xB0, 0xD7) for cell in range(0xA1, 0xFF) for byte in (row, cell)).decode("gb2312")
"""The 3,666 frequent characters with which GB 2312 begins."""


@dataclass(frozen=True)
class Words:
    """Numbers 0 .. ``count`` - 1 of the words of texts about ``topics`` topics."""

    seed: int
    count: int
    topics: int
    own: float
    """Share of the words that are the topic's own."""

    def draw(self, topic: Ints, number: Floats) -> Ints:
        """A word about each topic, for numbers uniform on [0, 1)."""
        table = below(self.count, self.seed, _TOPIC_WORDS, np.arange(self.topics)[:, None], np.arange(_OWN))
        about = number < self.own
        mine = table[topic, (_OWN * np.where(about, number / self.own, 0) ** 2).astype(np.int64)]
        tail = (self.count * np.where(about, 0, (number - self.own) / (1 - self.own)) ** 3).astype(np.int64)
        return np.where(about, mine, shuffled(tail, self.count))

    def texts(self, thing: Ints, topic: Ints, size: Ints, stream: int) -> Ints:
        """The words, one after the other, of texts of the given sizes: functions of (thing, place)."""
        text, place = ragged(size)
        return self.draw(topic[text], uniform(self.seed, stream, thing[text], place))

    def distinct_texts(self, topic: Ints, stream: int, longest: int) -> tuple[Ints, Ints]:
        """Short texts, no two alike: their sizes, and their words one after the other."""
        text, place = np.arange(len(topic)), np.arange(longest)
        size = 1 + below(min(4, longest), self.seed, stream, text, 0)
        words = np.where(
            place < size[:, None], self.draw(topic[:, None], uniform(self.seed, stream, text[:, None], 1 + place)), -1
        )
        attempt = 0
        while len(again := _repeated(words)):
            attempt += 1
            size[again] = np.minimum(size[again] + 1, longest)
            number = uniform(self.seed, stream, again[:, None], 1 + place, attempt)
            words[again] = np.where(place < size[again, None], self.draw(topic[again, None], number), -1)
        return size, words[words >= 0]


def _repeated(rows: Ints) -> Ints:
    """The rows that equal an earlier one."""
    _, first = np.unique(bits(*rows.T), return_index=True)
    return np.setdiff1d(np.arange(len(rows)), first, assume_unique=True)


def joined(parts: pa.Array, sizes: Ints, separator: str) -> pa.Array:
    """Texts of consecutive ``parts`` (strings), ``sizes`` of them each."""
    offsets = pa.array(np.append(0, np.cumsum(sizes)).astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, parts), separator)


def numbers(values: NDArray[np.integer]) -> pa.Array:
    """Numbers as decimal strings."""
    return pa.array(values).cast(pa.string())


def number_lists(values: Ints, sizes: Ints) -> pa.Array:
    """Texts such as ``"[20, 34, 3]"``, quoted for a CSV file."""
    return pc.binary_join_element_wise('"[', joined(numbers(values), sizes, ", "), ']"', "")


def han_words(count: int) -> pa.Array:
    """``count`` different words of two Han characters (at most 3666**2)."""
    code = shuffled(np.arange(count), len(_HAN) ** 2)
    characters = pa.array(list(_HAN))
    first, second = (characters.take(pa.array(index)) for index in (code // len(_HAN), code % len(_HAN)))
    return pc.binary_join_element_wise(first, second, "")


def choices(names: tuple[str, ...], shares: tuple[float, ...]) -> Callable[[Floats], pa.Array]:
    """A function from uniform numbers to ``names``, frequent by ``shares`` (of any sum)."""
    bounds = np.cumsum(shares) / np.sum(shares)
    table = pa.array(names)
    return lambda number: table.take(pa.array(np.searchsorted(bounds[:-1], number, side="right")))
