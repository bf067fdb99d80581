"""A prepared folder opens as it was written, wherever it lies, or is refused in a sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seerec.data import candidates
from seerec.data.corpus import ARRAYS, TABLES, Corpus
from seerec.errors import SeerecError

FILES = [f"{name}.npy" for name in ARRAYS] + [f"{name}.parquet" for name in TABLES]
CANDIDATES = [f"candidates/{split}-{name}.npy" for split in ("val", "test") for name in ("target", "negative", "column")]
NEEDED = [
    "format", "content_hash", "settings", "counts", "counts.words", "quarantined", "bounds", "bounds.val_start", "candidates",
    "candidates.val", "candidates.test.hash", "candidates.test.targets", "tokeniser", "tokeniser.version",
    "tokeniser.min_word_count", "tokeniser.max_words", "source", "source.name", "source.items_columns.category",
]  # fmt: skip

HARMLESS: list[Any] = [
    ("bounds.val_start", None), ("bounds.val_start", -7), ("counts", {}), ("quarantined", {}), ("source.name", "x"),
    ("candidates.test.targets", -7), ("candidates.test.hash", "x"),
]  # fmt: skip
"""Of the right type and read by no training; candidates are compared when they are loaded."""


@pytest.fixture
def folder(tiny_corpus: Corpus, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_corpus.path, tmp_path / "moved"))


def refused(folder: Path, cause: str = "is damaged") -> str:
    with pytest.raises(SeerecError, match=cause) as caught:
        Corpus.open(folder)
    assert "\n" not in str(caught.value)
    assert "repare" in caught.value.fix
    return str(caught.value)


def change(folder: Path, key: str, edit: Callable[[dict[str, Any], str], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    *path, last = key.split(".")
    place = manifest
    for name in path:
        place = place[name]
    edit(place, last)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_moved_corpus_opens(folder: Path, tiny_corpus: Corpus) -> None:
    assert Corpus.open(folder).content_hash == tiny_corpus.content_hash


@pytest.mark.parametrize("key", NEEDED)
def test_every_needed_key_of_the_manifest_is_checked(key: str, folder: Path) -> None:
    whole = (folder / "manifest.json").read_bytes()
    change(folder, key, lambda place, name: place.pop(name))
    refused(folder)
    wrong: list[Any] = [None, [], {}, True, "x", 1.5, -7]
    for value in wrong:
        if (key, value) in HARMLESS:
            continue
        (folder / "manifest.json").write_bytes(whole)
        change(folder, key, lambda place, name, value=value: place.update({name: value}))  # type: ignore[misc]
        refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udcff"])
def test_a_manifest_that_is_no_json_is_refused(text: str, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SeerecError, match="not readable JSON"):
        Corpus.open(folder)


@pytest.mark.parametrize("name", [*FILES, *CANDIDATES])
def test_a_file_cut_short_changed_or_gone_is_refused(name: str, folder: Path) -> None:
    whole = (folder / name).read_bytes()
    foreign = [b"PK\x03\x04" + whole[4:]] if name.endswith(".npy") else []  # Parquet is read from its end
    for damage in (whole[:-1], whole[: len(whole) // 2], whole[:3], b"", b"\0" * len(whole), *foreign):
        (folder / name).write_bytes(damage)
        refused(folder)
    (folder / name).unlink()
    refused(folder, "is incomplete|is damaged")


@pytest.mark.parametrize(
    "damage",
    [
        lambda array: array.astype(object),
        lambda array: array.astype(np.float64),
        lambda array: array[:-1],
        lambda array: array.reshape(-1, 1),
        lambda array: np.where(np.arange(len(array)) == 3, array + 1, array).astype(array.dtype),
    ],
    ids=["object", "type", "shorter", "shape", "value"],
)
def test_other_arrays_are_refused(damage: Callable[[Any], Any], folder: Path) -> None:
    for name in ("rec_item", "rec_offset"):
        array = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", damage(array))
        refused(folder)
        np.save(folder / f"{name}.npy", array)
    Corpus.open(folder)


def test_other_words_of_equal_length_are_refused(folder: Path) -> None:
    words = pq.read_table(folder / "words.parquet")
    texts = words["text"].to_pylist()
    texts[0], texts[1] = texts[1], texts[0]
    pq.write_table(words.set_column(1, "text", pa.array(texts)), folder / "words.parquet")
    refused(folder, "does not match its hash")


def test_candidates_that_changed_since_are_refused(folder: Path) -> None:
    corpus = Corpus.open(folder)
    for name in ("target", "negative", "column"):
        file = folder / "candidates" / f"test-{name}.npy"
        drawn = np.load(file)
        changed = drawn.copy()
        changed.reshape(-1)[0] = 7
        for damage in (changed, drawn[:-1], drawn.astype(np.float32), drawn.astype(object)):
            np.save(file, damage)
            with pytest.raises(SeerecError, match="is damaged"):
                candidates.load(corpus, "test")
        np.save(file, drawn)
    candidates.load(corpus, "test")
