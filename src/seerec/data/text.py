"""The tokeniser: text in any script to words, and the vocabulary fitted on the training split.

A word is a run of letters and digits (with the marks that combine with them) of the NFKC-normalised, lower-cased text.
Han, kana and Hangul runs become overlapping pairs of characters, because they carry no spaces that one could rely on.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from seerec.config import Settings
from seerec.data.corpus import FIRST_ID, UNKNOWN

_ASCII_WORD = re.compile("[a-z0-9]+")
_CJK = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"  # kana, iteration marks
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
    "\uac00-\ud7a3"  # Hangul
)


_PART = 1 << 26  # bytes of texts
_LETTERS = 1 << 22  # bytes of texts that are not ASCII
_TEXTS = 1 << 17  # texts counted together: bincount widens what it counts
_LETTER = np.array([ord(chr(i).lower()) if chr(i).isalnum() else 0 for i in range(128)] + [*range(128, 256)], np.uint8)
"""Of each byte of UTF-8 the lower-case one, 0 for ASCII that is neither letter nor digit."""


@lru_cache(maxsize=1)
def _unicode_word() -> re.Pattern[str]:
    """A CJK run (group 1), or a run of other letters and digits that may go on with combining marks."""
    marks = "".join(c for c in map(chr, range(0x300, sys.maxunicode + 1)) if unicodedata.category(c).startswith("M"))
    return re.compile(rf"([{_CJK}]+)|(?:(?![{_CJK}])[^\W_])(?:(?![{_CJK}])[^\W_]|[{marks}])*")


def tokenise(text: str) -> list[str]:
    """The words of ``text``, in order; none for text without letters and digits."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    words: list[str] = []
    for run in _unicode_word().finditer(text):
        word = run.group()
        if run.group(1) and len(word) > 1:
            words.extend(word[i : i + 2] for i in range(len(word) - 1))
        else:
            words.append(word)
    return words


class Tokeniser(Settings):
    """Everything that decides which ids a text gets; hashed with the corpus and stored in artifacts."""

    version: Literal[1] = 1
    """Raised when ``tokenise`` changes what it returns."""
    min_word_count: int = Field(1, ge=1)
    """Words seen fewer times in training queries and item text become the unknown word."""
    max_words: int = Field(1_000_000, ge=1)
    """Size limit of the vocabulary; the most frequent words stay."""

    def ids(self, text: str, vocabulary: Mapping[str, int]) -> list[int]:
        """The word ids of ``text``; a word out of the vocabulary becomes 1."""
        return [vocabulary.get(word, UNKNOWN) for word in tokenise(text)]

    def fit(self, lexicon: "Lexicon", count: NDArray[np.int64]) -> tuple[pa.Table, NDArray[np.int32]]:
        """Choose the vocabulary: most frequent words first, ties in the order of their code points.

        Parameters
        ----------
        lexicon
            The words by their codes.
        count
            How often each code occurs in the training split.

        Returns
        -------
            The table (``word`` int32, ``text``, ``count`` int64), and the word id of every code (1 = left out).
        """
        least = self.min_word_count
        if len(count) > self.max_words:  # sorting texts is slow, and most words are too rare to matter
            least = max(least, int(np.partition(count, -self.max_words)[-self.max_words]))
        code = np.flatnonzero(count >= least)
        table = pa.table({"text": lexicon.words.take(pa.array(code)), "count": count[code]})
        order = pc.sort_indices(table, [("count", "descending"), ("text", "ascending")])[: self.max_words]
        chosen = table.take(order)
        ids = np.arange(FIRST_ID, FIRST_ID + len(chosen), dtype=np.int32)
        word_of_code = np.full(len(lexicon), UNKNOWN, np.int32)
        word_of_code[code[order.to_numpy()]] = ids
        return chosen.add_column(0, "word", pa.array(ids)), word_of_code


class Lexicon:
    """Words by their codes 0, 1, 2, ..., in the order in which they came. Millions of them, so they stay Arrow's."""

    def __init__(self) -> None:
        self.words: pa.Array = pa.array([], pa.string())

    def __len__(self) -> int:
        return len(self.words)

    def codes(self, words: pa.Array) -> NDArray[np.int32]:
        """The codes of different words, of which new ones get the next."""
        found = pc.index_in(words, value_set=self.words)
        codes: NDArray[np.int32] = pc.fill_null(found, -1).to_numpy().copy()
        missing = codes < 0
        codes[missing] = np.arange(len(self.words), len(self.words) + np.count_nonzero(missing), dtype=np.int32)
        self.words = pa.concat_arrays([self.words, words.filter(pa.array(missing))])
        return codes


@dataclass(frozen=True)
class Encoded:
    """Texts as codes of a growing lexicon: text i is ``code[offset[i]:offset[i + 1]]``."""

    offset: NDArray[np.int64]
    code: NDArray[np.int32]

    def count(self, size: int, uses: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """How often each of ``size`` codes occurs when text i is used ``uses[i]`` times, or once."""
        total = np.zeros(size, np.int64)
        for first in range(0, len(self.offset) - 1, _TEXTS):
            ends = self.offset[first : first + _TEXTS + 1]
            weight = None if uses is None else np.repeat(uses[first : first + _TEXTS], np.diff(ends))
            total += np.bincount(self.code[ends[0] : ends[-1]], weight, minlength=size).astype(np.int64)
        return total


def encode(texts: Iterable[pa.Array], lexicon: Lexicon) -> Encoded:
    """Tokenise Arrow arrays of texts (null = no words), adding new words to ``lexicon``."""
    lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    codes: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    for chunk in _gathered(texts):
        length, words = _split(_spaced(chunk.cast(pa.string()).fill_null("")))
        named = words.dictionary_encode()
        lengths.append(length)
        codes.append(lexicon.codes(named.dictionary)[named.indices.to_numpy()])
    return Encoded(np.cumsum(np.concatenate(lengths)), np.concatenate(codes))


def _gathered(texts: Iterable[pa.Array]) -> Iterator[pa.Array]:
    """The same texts in parts of about `_PART` bytes: every part looks up each of its different words once."""
    waiting: list[pa.Array] = []
    for chunk in texts:
        if waiting and sum(part.nbytes for part in waiting) + chunk.nbytes > _PART:
            yield pa.concat_arrays(waiting)
            waiting = []
        waiting.append(chunk)
    if waiting:
        yield pa.concat_arrays(waiting)


def _spaced(texts: pa.Array) -> pa.Array:
    """ASCII texts as they are, of the others the words with blanks between them."""
    other = pc.invert(pc.string_is_ascii(texts))
    if not pc.any(other).as_py():
        return texts
    return pc.replace_with_mask(texts, other, pa.concat_arrays([_words_of(part) for part in _slices(texts.filter(other))]))


def _slices(texts: pa.Array) -> Iterator[pa.Array]:
    """The same texts in parts of about `_LETTERS` bytes, at least one text each."""
    ends = np.cumsum(pc.binary_length(texts).to_numpy())
    first = 0
    while first < len(texts):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _LETTERS, side="right")))
        yield texts.slice(first, last - first)
        first = last


@lru_cache(maxsize=1)
def _classes() -> NDArray[np.uint8]:
    """Of each code point 1 for letters and digits, 2 for combining marks, 3 for CJK, and 0."""
    cjk = re.compile(f"[{_CJK}]")
    points = map(chr, range(sys.maxunicode + 1))
    return np.array(
        [3 if cjk.match(c) else 1 if c.isalnum() else 2 if unicodedata.category(c).startswith("M") else 0 for c in points],
        np.uint8,
    )


def _words_of(texts: pa.Array) -> pa.Array:
    """Of each text its words with a blank after each: `tokenise`, on the code points of all texts at once."""
    lines = pc.binary_join_element_wise(pc.replace_substring(texts, "\n", " "), "", "\n")  # "\n" ends a text, and nothing else
    _, ends, content = lines.buffers()
    bound = np.frombuffer(ends, np.int32)[lines.offset : lines.offset + len(lines) + 1]
    whole = content.to_pybytes()[bound[0] : bound[-1]].decode()
    whole = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", whole).lower())
    point = np.frombuffer(whole.encode("utf-32-le"), np.uint32)
    kind = _classes()[point]
    ends_text = point == ord("\n")
    # Marks belong to the word whose letters they follow.
    place = np.arange(len(point), dtype=np.int32)
    bearer = np.maximum.accumulate(np.where(kind == 2, 0, place))
    kind = np.where(kind == 2, (kind[bearer] == 1).astype(np.uint8), kind)
    following, before = np.append(kind[1:], 0), np.append(0, kind[:-1])
    ends_word = (kind == 1) & (following != 1)
    pair = (kind == 3) & (following == 3)
    alone = (kind == 3) & (following != 3) & (before != 3)
    length = 1 * (kind == 1) + ends_word + 3 * pair + 2 * alone + ends_text
    end = np.cumsum(length)
    start = end - length
    made = np.full(end[-1], ord(" "), np.uint32)
    for chosen, step in (((kind == 1) | pair | alone | ends_text, 0), (pair, 1)):
        at = np.flatnonzero(chosen)
        made[start[at] + step] = point[at + step]
    spaced = made.tobytes().decode("utf-32-le").encode()
    offset = np.append(0, np.flatnonzero(np.frombuffer(spaced, np.uint8) == ord("\n")) + 1).astype(np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offset), pa.py_buffer(spaced))


def _split(texts: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Number of words of each text, and all words: what `tokenise` does with ASCII, on the bytes of all texts at once."""
    _, ends, content = texts.buffers()
    bound = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    letter = _LETTER[np.frombuffer(content or b"", np.uint8)[bound[0] : bound[-1]]]
    bound = bound - bound[0]
    inside = letter != 0
    begins = inside.copy()
    begins[1:] &= ~inside[:-1]
    first = bound[:-1][bound[:-1] < bound[1:]]
    begins[first] = inside[first]  # a text never goes on with the word of the one before
    count = np.diff(np.searchsorted(np.flatnonzero(begins), bound))
    offset = np.append(np.flatnonzero(begins[inside]), np.count_nonzero(inside)).astype(np.int32)
    words = pa.StringArray.from_buffers(len(offset) - 1, pa.py_buffer(offset), pa.py_buffer(letter[inside]))
    return count, words
