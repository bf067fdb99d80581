"""The tokeniser and its vocabulary."""

import random
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seerec.data.text import Lexicon, Tokeniser, encode, tokenise


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("?!... --", []),
        ("Red-Shoes size_42", ["red", "shoes", "size", "42"]),
        ("Ｆｕｌｌ ｗｉｄｔｈ ①", ["full", "width", "1"]),
        ("Café CAFE\u0301", ["café", "café"]),
        ("ÄRGER ΣΊΣΥΦΟΣ", ["ärger", "σίσυφος"]),
        ("हिन्दी", ["हिन्दी"]),
        ("ไทย", ["ไทย"]),
        ("中", ["中"]),
        ("中文书", ["中文", "文书"]),
        ("iphone手机壳15", ["iphone", "手机", "机壳", "15"]),
        ("手、机", ["手", "机"]),
        ("ノート・本", ["ノー", "ート", "本"]),
        ("한국어 책", ["한국", "국어", "책"]),
        ("ﬁne", ["fine"]),
        ("12 7 900", ["12", "7", "900"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert tokenise(text) == words


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_words_are_lower_case_letters_and_digits(text: str) -> None:
    for word in tokenise(text):
        assert word
        assert word == word.lower()
        assert not any(c.isspace() or c == "_" for c in word)
    assert tokenise(f" {text}\n") == tokenise(text)


def test_ascii_and_unicode_ways_agree() -> None:
    text = "Red-Shoes size_42 a1b2"
    assert tokenise(text + " é")[:-1] == tokenise(text)


def test_ids_of_unknown_words() -> None:
    assert Tokeniser().ids("Blue SHOES, blue!", {"shoes": 2}) == [1, 2, 1]


@pytest.mark.parametrize(("min_word_count", "max_words"), [(1, 100), (2, 100), (1, 3), (9, 100)])
def test_fit_against_a_counter(min_word_count: int, max_words: int) -> None:
    texts = ["b a a", None, "c b", "中文", "é é", "z"]
    uses = np.array([2, 5, 1, 1, 1, 0])
    lexicon = Lexicon()
    encoded = encode([pa.array(texts[:2]), pa.array(texts[2:])], lexicon)
    table, word_of_code = Tokeniser(min_word_count=min_word_count, max_words=max_words).fit(
        lexicon, encoded.count(len(lexicon), uses)
    )
    counter: Counter[str] = Counter()
    for text, times in zip(texts, uses, strict=True):
        for word in tokenise(text or ""):
            counter[word] += int(times)
    chosen = sorted((-n, word) for word, n in counter.items() if n >= min_word_count)[:max_words]
    assert table["text"].to_pylist() == [word for _, word in chosen]
    assert table["count"].to_pylist() == [-n for n, _ in chosen]
    assert table["word"].to_pylist() == list(range(2, 2 + len(chosen)))
    vocabulary = dict(zip(table["text"].to_pylist(), table["word"].to_pylist(), strict=True))
    for i, text in enumerate(texts):
        ids = word_of_code[encoded.code[encoded.offset[i] : encoded.offset[i + 1]]].tolist()
        assert ids == Tokeniser().ids(text or "", vocabulary)


def test_nothing_to_encode() -> None:
    encoded = encode([], {})
    table, word_of_code = Tokeniser().fit(Lexicon(), encoded.count(0))
    assert (table.num_rows, len(word_of_code), encoded.offset.tolist()) == (0, 0, [0])


def test_encoding_is_tokenising_one_by_one() -> None:
    """ASCII and other texts side by side, every character among them, in chunks, with nulls and blanks."""
    draw = random.Random(0)
    letters = "ab zA9-_.,[]()  \t\n\0ＡＢé\u0301你好世界かなカナ한국 ß İ ſ"
    texts: list[str | None] = ["".join(draw.choice(letters) for _ in range(draw.randrange(12))) for _ in range(3000)]
    texts += [None, "", " ", *(f"a{chr(i)}B" for i in range(1, sys.maxunicode + 1, 7) if not 0xD800 <= i <= 0xDFFF)]
    lexicon = Lexicon()
    chunks = [pa.array(texts[:1000], pa.string()), pa.array([], pa.string()), pa.array(["x y", *texts[1000:]], pa.string())[1:]]
    encoded = encode(chunks, lexicon)
    words = lexicon.words.to_pylist()
    found = [
        [words[code] for code in encoded.code[start:end]]
        for start, end in zip(encoded.offset[:-1], encoded.offset[1:], strict=True)
    ]
    assert found == [tokenise(text) if text else [] for text in texts]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.none()
        | st.text()
        | st.text(st.sampled_from("ΑΣσ\u0301\u3099\u302aかが中\u200d\n _a1\U00020000한ㄱ\u1100\u1161\u0b3c"))
    )
)
def test_texts_do_not_meet_when_many_are_tokenised(texts: list[str | None]) -> None:
    """Sigmas at ends, marks at beginnings, syllables in parts: what stands in one text says nothing to the next."""
    lexicon = Lexicon()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seerec.data.text._LETTERS", 20)
        encoded = encode([pa.array(texts, pa.string())], lexicon)
    words = lexicon.words.to_pylist()
    bounds = zip(encoded.offset[:-1], encoded.offset[1:], strict=True)
    assert [[words[code] for code in encoded.code[start:end]] for start, end in bounds] == [
        tokenise(text) if text else [] for text in texts
    ]


def test_words_are_counted_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lexicon = Lexicon()
    encoded = encode([pa.array(["b a a", None, "c b", "", "z a", "b"])], lexicon)
    uses = np.array([2, 5, 1, 1, 3, 1])
    whole = encoded.count(len(lexicon)), encoded.count(len(lexicon), uses)
    monkeypatch.setattr("seerec.data.text._TEXTS", 2)
    for one, other in zip(whole, (encoded.count(len(lexicon)), encoded.count(len(lexicon), uses)), strict=True):
        assert (one == other).all()
    assert dict(zip(lexicon.words.to_pylist(), whole[0].tolist(), strict=True)) == {"b": 3, "a": 3, "c": 1, "z": 1}
    assert dict(zip(lexicon.words.to_pylist(), whole[1].tolist(), strict=True)) == {"b": 4, "a": 7, "c": 1, "z": 3}
