"""The items of the simulated KuaiSAR: what their numbers mean, and ``item_features.csv``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seerec.data.draws import below, uniform
from seerec.data.simulation.coverage import Ints, shuffled
from seerec.data.simulation.lines import Lines
from seerec.data.simulation.people import Topics
from seerec.data.simulation.words import Words, choices, number_lists, numbers
from seerec.progress import Bar

CATEGORIES, TOPICS = 38, 297
COLUMNS = [
    "item_id", "caption", "author_id", "item_type", "upload_time", "upload_type",
    *(f"{level}_level_category_{part}" for level in ("first", "second", "third", "fourth") for part in ("id", "name", "name_en")),
]  # fmt: skip
TYPES = ("VIDEO", "USER", "COMMODITY", "IMAGE_ATLAS", "LIVE", "MUSIC", "ADVERT")
"""As ``src_inter.csv`` names them. Only videos and image atlases are recommended."""
_TYPE_SHARES = np.cumsum((0.6, 0.13, 0.08, 0.07, 0.06, 0.04, 0.02))
_VIDEO, _ATLAS = 0, 3
_FEATURE_TYPES = pa.array(["NORMAL", "UNKNOWN", "UNKNOWN", "IMAGE_ATLAS", "UNKNOWN", "UNKNOWN", "UNKNOWN"])
_UPLOADS = choices(("LongImport", "ShortImport", "LongCamera", "ShortCamera", "PictureSet", "UNKNOWN"), (9, 6, 2, 3, 2, 1))
_FIRST_NAMES = (
    ("搞笑", "Funny"), ("颜值", "Good looks"), ("美食", "Food"), ("游戏", "Games"), ("音乐", "Music"),
    ("影视", "Films"), ("情感", "Feelings"), ("时尚", "Fashion"), ("亲子", "Parenting"), ("宠物", "Pets"),
    ("体育", "Sports"), ("汽车", "Cars"), ("三农", "Countryside"), ("动漫", "Animation"), ("舞蹈", "Dance"),
    ("旅游", "Travel"), ("健康", "Health"), ("教育", "Lessons"), ("科技", "Technology"), ("军事", "Military"),
    ("时事", "News"), ("财经", "Finance"), ("历史", "History"), ("读书", "Books"), ("手工", "Handicraft"),
    ("绘画", "Painting"), ("摄影", "Photography"), ("房产", "Property"), ("家居", "Home"), ("美妆", "Beauty"),
    ("健身", "Fitness"), ("星座", "Horoscopes"), ("法律", "Law"), ("职场", "Work"), ("奇闻", "Curiosities"),
    ("生活", "Life"), ("明星", "Stars"), ("综艺", "Variety shows"),
)  # fmt: skip

_OTHER_IDS = 100_000_000_000  # users, live rooms and wares are numbered elsewhere
_NO_DAY, _END = "1970-01-01", np.datetime64("2023-06-01")
_TYPE, _LENGTH, _WORD, _AUTHOR, _UPLOAD, _KNOWN, _DURATION = range(10, 17)  # streams
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Items:
    """Items 0 .. ``count`` - 1, of which the first ``recommended`` are recommended."""

    seed: int
    count: int
    recommended: int
    topic: NDArray[np.int16]
    """The topic of each item."""

    def type(self, item: Ints) -> Ints:
        """Index into `TYPES`."""
        number = uniform(self.seed, _TYPE, item)
        found = np.searchsorted(_TYPE_SHARES[:-1], number, side="right")
        return np.where(item < self.recommended, np.where(number < 0.05, _ATLAS, _VIDEO), found)

    def id(self, item: Ints) -> Ints:
        """The published kind of id: videos and atlases from 1, others above 1e11."""
        kind = self.type(item)
        return 1 + shuffled(item, self.count) + np.where((kind == _VIDEO) | (kind == _ATLAS), 0, _OTHER_IDS)

    def duration(self, item: Ints) -> Ints:
        """Length in ms: 5 s to 5 min, mostly short."""
        return (5000 * 60 ** (uniform(self.seed, _DURATION, item) ** 1.5)).astype(np.int64)

    def write(self, path: Path, topics: Topics, words: Words, bar: Bar) -> None:
        """``item_features.csv``."""
        categories = _Categories(topics)
        with Lines(path, COLUMNS) as file:
            for first in range(0, self.count, _CHUNK):
                row = np.arange(first, min(first + _CHUNK, self.count))
                item = shuffled(row, self.count)
                file.write(*self._features(item, words), *categories.columns(self.seed, item, self.topic[item].astype(np.int64)))
                bar.advance(len(row))

    def _features(self, item: Ints, words: Words) -> list[pa.Array]:
        kind = self.type(item)
        size = (-9 * np.log1p(-uniform(self.seed, _LENGTH, item))).astype(np.int64).clip(0, 60)
        caption = 1 + words.texts(item, self.topic[item].astype(np.int64), size, _WORD)
        author = uniform(self.seed, _AUTHOR, item, 0)
        author_id = 1 + (max(1, self.count // 6) * uniform(self.seed, _AUTHOR, item, 1) ** 2).astype(np.int64)
        age = (-120 * np.log1p(-uniform(self.seed, _UPLOAD, item, 0))).astype(np.int64).clip(1, 3000)
        day = pa.array(_END - age).cast(pa.string())
        return [
            pa.array(self.id(item)),
            number_lists(caption, size),
            pa.array(np.where(author < 0.03, 0, author_id)),
            _FEATURE_TYPES.take(pa.array(kind)),
            pc.if_else(pa.array(uniform(self.seed, _UPLOAD, item, 1) < 0.02), _NO_DAY, day),
            _UPLOADS(uniform(self.seed, _UPLOAD, item, 2)),
        ]


class _Categories:
    """Four nested levels; id 0 stands for none. A topic is a second-level category with three children of two each."""

    def __init__(self, topics: Topics) -> None:
        self._first = topics.first
        levels = (np.arange(CATEGORIES), topics.first, np.repeat(topics.first, 3), np.repeat(topics.first, 6))
        self._text = [_named(first, numbered=level > 0) for level, first in enumerate(levels)]

    def columns(self, seed: int, item: Ints, topic: Ints) -> list[pa.Array]:
        """Four columns of three fields each: id, name, English name."""
        third = 3 * topic + below(3, seed, _KNOWN, item, 0)
        fourth = 2 * third + below(2, seed, _KNOWN, item, 1)
        depth = np.searchsorted((0.08, 0.13, 0.6, 0.95), uniform(seed, _KNOWN, item, 2), side="right")
        return [
            text.take(pa.array(np.where(depth > level, 1 + category, 0)))
            for level, (text, category) in enumerate(zip(self._text, (self._first[topic], topic, third, fourth), strict=True))
        ]


def _named(first: Ints, *, numbered: bool) -> pa.Array:
    """``id,name,name_en`` of none and of the categories 1, 2, ..., called after their first-level category."""
    own = numbers(1 + np.arange(len(first)))
    names = [pa.array(language).take(pa.array(first)) for language in zip(*_FIRST_NAMES, strict=True)]
    if numbered:
        names = [pc.binary_join_element_wise(name, own, " ") for name in names]
    return pa.concat_arrays([pa.array(["0,空,empty"]), pc.binary_join_element_wise(own, *names, ",")])
