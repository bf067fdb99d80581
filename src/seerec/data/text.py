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

    def fit(self, lexicon: Mapping[str, int], count: NDArray[np.int64]) -> tuple[pa.Table, NDArray[np.int32]]:
        """Choose the vocabulary: most frequent words first, ties in the order of their code points.

        Parameters
        ----------
        lexicon
            Word to code, codes 0, 1, 2, ... in the mapping's order.
        count
            How often each code occurs in the training split.

        Returns
        -------
            The table (``word`` int32, ``text``, ``count`` int64), and the word id of every code (1 = left out).
        """
        table = pa.table({"text": pa.array(list(lexicon), pa.string()), "count": count})
        order = pc.sort_indices(table, [("count", "descending"), ("text", "ascending")]).to_numpy()
        order = order[count[order] >= self.min_word_count][: self.max_words]
        ids = np.arange(FIRST_ID, FIRST_ID + len(order), dtype=np.int32)
        word_of_code = np.full(len(lexicon), UNKNOWN, np.int32)
        word_of_code[order] = ids
        return table.take(pa.array(order)).add_column(0, "word", pa.array(ids)), word_of_code


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


def encode(texts: Iterable[pa.Array], lexicon: dict[str, int]) -> Encoded:
    """Tokenise Arrow arrays of texts (null = no words), adding new words to ``lexicon``."""
    lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    codes: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    for chunk in _gathered(texts):
        length, words = _split(_spaced(chunk.cast(pa.string()).fill_null("")))
        named = words.dictionary_encode()
        known = (lexicon.setdefault(word, len(lexicon)) for word in named.dictionary.to_pylist())
        lengths.append(length)
        codes.append(np.fromiter(known, np.int32, len(named.dictionary))[named.indices.to_numpy()])
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
    words = [" ".join(tokenise(text)) for text in texts.filter(other).to_pylist()]
    return pc.replace_with_mask(texts, other, pa.array(words, pa.string()))


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
