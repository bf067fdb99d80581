"""The notes of the simulated Qilin: titles, contents and counters in words of two Han characters."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seerec.data.draws import below, uniform
from seerec.data.simulation.coverage import Ints, ragged
from seerec.data.simulation.people import Topics
from seerec.data.simulation.words import Words, han_words, joined, numbers

CATEGORIES, TOPICS = 40, 400
_COUNTERS = (
    "imp_num", "imp_rec_num", "imp_search_num", "click_num", "click_rec_num", "click_search_num", "like_num", "collect_num",
    "comment_num", "share_num", "screenshot_num", "hide_num", "rec_like_num", "rec_collect_num", "rec_comment_num",
    "rec_share_num", "rec_follow_num", "search_like_num", "search_collect_num", "search_comment_num", "search_share_num",
    "search_follow_num", "accum_like_num", "accum_collect_num", "accum_comment_num", "view_time", "rec_view_time",
    "search_view_time", "valid_view_times", "full_view_times",
)  # fmt: skip
_WORDS = 60_000
_TITLE, _CONTENT, _KIND, _COUNT, _TAXONOMY, _IMAGES, _TOPIC = range(10, 17)  # streams
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Notes:
    """Notes 0 .. ``count`` - 1; the row of a note is its number."""

    seed: int
    count: int
    topics: Topics
    topic: NDArray[np.int16]
    words: Words
    lexicon: pa.Array
    """Words as texts, and behind them the same words with a comma."""

    @staticmethod
    def drawn(seed: int, count: int) -> "Notes":
        """Notes of a seed."""
        topics, note = Topics.nested(CATEGORIES, TOPICS), np.arange(count)
        topic = topics.any(uniform(seed, _TOPIC, 0, note), uniform(seed, _TOPIC, 1, note)).astype(np.int16)
        words = han_words(_WORDS)
        lexicon = pa.concat_arrays([words, pc.binary_join_element_wise(words, "，", "")])
        return Notes(seed, count, topics, topic, Words(seed, _WORDS, TOPICS, 0.35), lexicon)

    def titles(self, note: Ints) -> pa.Array:
        """Seven words in the mean."""
        return self._texts(note, 3 + below(9, self.seed, _TITLE, note), _TITLE)

    def tables(self, first: int, last: int) -> Iterator[pa.Table]:
        """Rows first .. last - 1 of the configuration ``notes``, in chunks."""
        for start in range(first, last, _CHUNK):
            yield self._table(np.arange(start, min(start + _CHUNK, last)))

    def _texts(self, note: Ints, size: Ints, stream: int) -> pa.Array:
        words = self.words.texts(note, self.topic[note].astype(np.int64), size, stream + 100)
        _, place = ragged(size)
        return joined(self.lexicon.take(pa.array(words + _WORDS * (place % 8 == 7))), size, "")

    def _table(self, note: Ints) -> pa.Table:
        size = (-60 * np.log1p(-uniform(self.seed, _CONTENT, note))).astype(np.int64).clip(0, 400)
        content = self._texts(note, size, _CONTENT)
        video = uniform(self.seed, _KIND, 0, note) < 0.35
        wide = uniform(self.seed, _KIND, 1, note) < 0.3
        images = np.where(video, 1, 1 + below(9, self.seed, _IMAGES, 0, note))
        columns = {
            "note_title": self.titles(note),
            "note_content": content,
            "note_type": 1.0 + video,
            "video_duration": video * np.rint(10 + 290 * uniform(self.seed, _KIND, 2, note) ** 3),
            "video_height": video * np.where(wide, 1080.0, 1920.0),
            "video_width": video * np.where(wide, 1920.0, 1080.0),
            "image_num": images.astype(np.float64),
            "content_length": pc.utf8_length(content).cast(pa.float64()),
            "commercial_flag": (uniform(self.seed, _KIND, 3, note) < 0.04).astype(np.float64),
            **self._taxonomies(note),
            **self._counters(note),
            "note_idx": note,
            "image_path": self._paths(note, np.minimum(images, 3)),
        }
        return pa.table(columns)

    def _taxonomies(self, note: Ints) -> dict[str, pa.Array]:
        """Texts, ``nan`` for none (as the published toy data has it); each level is nested in the one before."""
        topic = self.topic[note].astype(np.int64)
        deeper = 3 * topic + below(3, self.seed, _TAXONOMY, 0, note)
        depth = np.searchsorted((0.02, 0.05, 0.3), uniform(self.seed, _TAXONOMY, 1, note), side="right")
        return {
            f"taxonomy{level}_id": pc.if_else(pa.array(depth >= level), _codes(prefix, number), "nan")
            for level, prefix, number in ((1, "5ab094be", self.topics.first[topic]), (2, "c0", topic), (3, "c1", deeper))
        }

    def _counters(self, note: Ints) -> dict[str, NDArray[np.float64]]:
        """Whole numbers as floats, long-tailed: frequent notes (the first of a topic) are seen and liked more."""
        seen = 40 * np.exp(6 * uniform(self.seed, _COUNT, 0, note))
        share = {"imp": 1.0, "click": 0.15, "like": 0.01, "view": 2.0, "valid": 0.1, "accum": 0.05}
        return {
            name: np.floor(seen * share.get(name.split("_")[0], 0.004) * uniform(self.seed, _COUNT, 1 + place, note))
            for place, name in enumerate(_COUNTERS)
        }

    def _paths(self, note: Ints, size: Ints) -> pa.Array:
        owner, place = ragged(size)
        folder = pc.binary_join_element_wise("image/part_", numbers(note[owner] % 200), "")
        file = pc.binary_join_element_wise(numbers(place), ".jpg", "")
        path = pc.binary_join_element_wise(folder, numbers(note[owner]), file, "/")
        return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(size)).astype(np.int32)), path)


def _codes(prefix: str, number: Ints) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(numbers(number), 24 - len(prefix), "0"), "")
