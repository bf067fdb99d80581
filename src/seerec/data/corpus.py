"""The prepared folder: ``manifest.json`` and flat arrays, memory-mapped.

A corpus is read-only. Events are sorted by (row, time, stable row id), where a *row* is one user's log. Training
examples are never expanded: an example is a position, a history a slice.

Arrays (``NAME.npy``), with P rows, E recommendation clicks, Q searches:

================== ============ =====================================================================================
``row_user``       P   int32    model user id of the row; 1 where the user has no training event
``rec_offset``     P+1 int64    clicks of row p are ``rec_offset[p]:rec_offset[p + 1]``
``search_offset``  P+1 int64    searches of row p
``rec_item``       E   int32    clicked item (known items only)
``rec_time``       E   int64    ms UTC
``rec_seen``       E   int32    clicks of the row that this click may see: strictly earlier, and before its request
``rec_search_seen`` E  int32    searches of the row that this click may see: strictly earlier, and before its request
``rec_role``       E   uint8    0 history only, 1 training target, 2 validation target, 3 test target
``search_time``    Q   int64    ms UTC
``search_query``   Q   int32    index into the queries
``search_rec_seen`` Q  int32    clicks of the row that this search, as a target, may see
``search_search_seen`` Q int32  searches of the row that it may see: those that ended before it began
``click_offset``   Q+1 int64    clicked items of search q are ``click_item[click_offset[q]:click_offset[q + 1]]``
``click_item``     any int32    known items only
``click_role``     any uint8    as a target of the search task: 0 none, 1 training, 2 validation, 3 test
``query_offset``   any int64    words of query i are ``query_word[query_offset[i]:query_offset[i + 1]]``
``query_word``     any int32    1 = unknown word
``item_count``     I   int64    training clicks on each item in the recommendation log
``item_pool``      I   bool     may be a candidate: at least one recommendation row before the split bound
``item_category``  I F int32    category value of each of F item columns, 0 = missing, 1 = unknown
``item_text_offset`` I+1 int64  words of an item's text
``item_text_word`` any int32    words of an item's text, same vocabulary as the queries
``user_category``  U G int32    category value of each of G user columns, indexed by model user id
================== ============ =====================================================================================

Tables (``NAME.parquet``): ``items`` (``item`` int32, ``item_id`` text, ``title`` text, then the category columns as
text), ``users`` (``user`` int32, ``user_id`` text), ``rows`` (``row`` int64, ``user_id`` text), ``words`` (``word``
int32, ``text``, ``count``), ``queries`` (``query`` int32, ``text``), ``quarantine`` (``table``, ``line``, ``reason``,
``content``), ``items_categories`` and ``users_categories`` (``column``, ``value`` int32, ``text``: what a category
value means).

Candidate sets (``candidates/[search-]SPLIT-{target,negative,column}.npy``): see ``candidates.py``. Truth labels, for evaluation
only (``truth/search_relevant.npy``, Q int8: 1 the user's own, 0 added noise with the same words and items, 2 off-topic
noise, -1 unknown; ``truth/target_announced.npy``, E int8: 1 where a search announced the interest of this click). No
model ever reads them.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from seerec.data.arrays import read_array
from seerec.data.hashes import checksums, hash_content
from seerec.errors import SeerecError

FORMAT = 2
PADDING, UNKNOWN, FIRST_ID = 0, 1, 2
HISTORY, TRAIN, VALIDATION, TEST = 0, 1, 2, 3
SPLITS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
ARRAYS = [
    "row_user",
    "rec_offset",
    "search_offset",
    "rec_item",
    "rec_time",
    "rec_seen",
    "rec_search_seen",
    "rec_role",
    "search_time",
    "search_query",
    "search_rec_seen",
    "search_search_seen",
    "click_offset",
    "click_item",
    "click_role",
    "query_offset",
    "query_word",
    "item_count",
    "item_pool",
    "item_category",
    "item_text_offset",
    "item_text_word",
    "user_category",
]
TABLES = ["items", "users", "rows", "words", "queries", "quarantine", "items_categories", "users_categories"]


class _Checked(BaseModel):
    """Types as they are in JSON, without conversions; keys that are not named here may be there."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Columns(_Checked):
    """What became of the columns of a side table."""

    category: list[str]


class _Source(_Checked):
    """Where the events come from."""

    name: str
    items_columns: _Columns | None = None
    users_columns: _Columns | None = None


class _Tokeniser(_Checked):
    """How texts become words."""

    version: int
    min_word_count: int
    max_words: int


class _Candidates(_Checked):
    """One candidate set."""

    hash: str
    targets: int
    negatives: int


class _Manifest(_Checked):
    """``manifest.json``: what anyone reads of it, with its type."""

    format: int
    content_hash: str
    checksums: dict[str, str] | None = None  # corpora of before there were any are compared with their hash
    settings: dict[str, Any]
    counts: dict[str, int]
    quarantined: dict[str, dict[str, int]]
    bounds: dict[str, int | None]
    candidates: dict[str, _Candidates]
    tokeniser: _Tokeniser
    source: _Source


@dataclass(frozen=True)
class Corpus:
    """A prepared folder. Arrays are attributes named as in the module's table."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """Open a prepared folder. All of it is read once, to compare it with its checksums.

        Raises
        ------
        SeerecError
            The folder is not a corpus, is incomplete or damaged, or was written by a newer seerec.
        """
        path = Path(path)
        fix = "Give the folder that `seerec prepare` wrote."
        if not (path / "manifest.json").is_file():
            raise SeerecError(f"{path} is not a prepared corpus: it has no manifest.json.", fix)
        try:
            manifest = json.loads((path / "manifest.json").read_text())
        except (ValueError, RecursionError) as error:
            raise SeerecError(f"{path / 'manifest.json'} is not readable JSON ({error}).", fix) from error
        if not isinstance(manifest, dict) or manifest.get("kind") != "seerec-corpus":
            raise SeerecError(f"{path} is not a prepared corpus (its manifest is of another kind).", fix)
        number = manifest.get("format")
        if type(number) is int and number >= 1 and number != FORMAT:
            better = "Prepare again with this seerec" + ("." if number < FORMAT else ", or install a newer one.")
            raise SeerecError(f"{path} has corpus format {number}, this seerec reads {FORMAT}.", better)
        names = [f"{name}.npy" for name in ARRAYS] + [f"{name}.parquet" for name in TABLES]
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise SeerecError(f"{path} is incomplete: {missing[0]} is missing.", "Run `seerec prepare` again.")
        _check_content(path, manifest)
        return cls(path, manifest)

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in ARRAYS:
            raise AttributeError(name)
        array: NDArray[Any] = read_array(self.path / f"{name}.npy")
        object.__setattr__(self, name, array)  # found directly from now on
        return array

    @property
    def content_hash(self) -> str:
        """Hash over arrays, tables and parameters: equal content, equal hash."""
        return str(self.manifest["content_hash"])

    @property
    def users(self) -> int:
        """Size of the user table, ids 0 and 1 included."""
        return int(self.user_category.shape[0])

    @property
    def items(self) -> int:
        """Size of the item table, ids 0 and 1 included."""
        return int(self.item_count.shape[0])

    @property
    def words(self) -> int:
        """Size of the word table, ids 0 and 1 included."""
        return int(self.manifest["counts"]["words"]) + FIRST_ID

    def table(self, name: str) -> pa.Table:
        """One of the Parquet tables: any named in the module's text."""
        return pq.read_table(self.path / f"{name}.parquet")

    @cached_property
    def rec_row(self) -> NDArray[np.int64]:
        """E int64: the row of each click."""
        return np.repeat(np.arange(len(self.row_user)), np.diff(self.rec_offset))

    @cached_property
    def search_row(self) -> NDArray[np.int64]:
        """Q int64: the row of each search."""
        return np.repeat(np.arange(len(self.row_user)), np.diff(self.search_offset))

    @cached_property
    def user_ids(self) -> NDArray[np.object_]:
        """P text: the raw user id of each row."""
        return self.table("rows")["user_id"].to_numpy(zero_copy_only=False)

    def targets(self, split: str) -> NDArray[np.int64]:
        """Positions (into ``rec_item``) of the targets of a split: train, val or test."""
        return np.flatnonzero(self.rec_role == SPLITS[split])

    def truth(self, name: str) -> NDArray[np.int8] | None:
        """A truth label array, or None where the source knows no truth."""
        file = self.path / "truth" / f"{name}.npy"
        return read_array(file) if file.is_file() else None


def damaged(path: Path, what: str) -> SeerecError:
    """The error of a corpus whose files are not as they were written."""
    return SeerecError(f"The corpus {path} is damaged ({what}).", "Prepare it again.")


def _check_content(path: Path, manifest: dict[str, Any]) -> None:
    """Compare arrays, tables and settings with their hash, and what the hash leaves out with what it covers."""
    try:
        checked = _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(path, f"manifest.json, {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from error
    facts = {"settings": checked.settings, "format": checked.format}
    try:
        sums = checked.checksums
        if sums is None:
            same = hash_content(path, facts) == checked.content_hash
        else:
            same = checksums(path, facts | {"content_hash": checked.content_hash}) == sums
        words = pq.read_metadata(path / "words.parquet").num_rows
        columns = {name: read_array(path / f"{name}_category.npy").shape[1] for name in ("item", "user")}
    except Exception as error:  # damaged bytes make the readers of NumPy and Arrow raise anything
        raise damaged(path, (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")) from error
    if not same:
        raise damaged(path, "its content does not match its hash")
    tokeniser = checked.tokeniser
    limits = [1, *(checked.settings.get(name) for name in ("min_word_count", "max_words"))]
    named = {"item": checked.source.items_columns, "user": checked.source.users_columns}
    for what, agrees in {
        "counts.words": checked.counts.get("words") == words,
        "tokeniser": [tokeniser.version, tokeniser.min_word_count, tokeniser.max_words] == limits,
        "candidates": checked.candidates.keys() == {"val", "test", "search-val", "search-test"},
        "bounds": checked.bounds.keys() == {"val_start", "test_start"},
        "source": all(side is None or len(side.category) == columns[name] for name, side in named.items()),
    }.items():
        if not agrees:
            raise damaged(path, f"manifest.json, {what}: not what its arrays and settings say")
