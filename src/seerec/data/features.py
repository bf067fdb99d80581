"""Items, users and words of a corpus: ids, titles, categories and texts, all fitted on the training split.

Rows are read in parts, and of texts and categories only numbers are kept: those of millions of items would fill the memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seerec.data.arrays import write_array
from seerec.data.corpus import FIRST_ID, UNKNOWN
from seerec.data.sql import quoted
from seerec.data.text import Encoded, Lexicon, Tokeniser, encode

_PART = 1 << 19  # rows read together


class _Categories:
    """The category columns of a checked table, whose values get their numbers when all rows have been seen."""

    def __init__(self, checked: duckdb.DuckDBPyConnection, table: str) -> None:
        self.names = [name for name in checked.table(table).columns if name.startswith("category_")]
        self._values = [Lexicon() for _ in self.names]
        self._parts: list[NDArray[np.int32]] = []  # places among the values, -1 where missing

    def add(self, rows: pa.RecordBatch) -> None:
        """The next rows."""
        part = np.empty((len(rows), len(self.names)), np.int32)
        for column, (name, values) in enumerate(zip(self.names, self._values, strict=True)):
            named = rows[name].dictionary_encode()
            code = np.append(values.codes(named.dictionary), np.int32(-1))
            part[:, column] = code[pc.fill_null(named.indices, -1).to_numpy()]
        self._parts.append(part)

    def save(self, file: Path) -> None:
        """I x F int32: 0 missing, 1 unknown, values from 2 in code-point order; rows 0 and 1 are padding and unknown."""
        numbers = [np.append(np.argsort(pc.sort_indices(values.words).to_numpy()) + FIRST_ID, 0) for values in self._values]

        def parts() -> Iterator[NDArray[np.int32]]:
            yield np.repeat(np.array([[0], [UNKNOWN]], np.int32), len(numbers), 1)
            for part in self._parts:
                for column, number in enumerate(numbers):
                    part[:, column] = number[part[:, column]]
                yield part

        write_array(file, (FIRST_ID + sum(map(len, self._parts)), len(numbers)), np.int32, parts())

    def legend(self) -> pa.Table:
        """``column``, ``value`` int32 and ``text`` of every value."""
        texts = [values.words.take(pc.sort_indices(values.words)) for values in self._values]
        columns = [pa.array([name] * len(text), pa.string()) for name, text in zip(self.names, texts, strict=True)]
        numbers = [pa.array(np.arange(FIRST_ID, FIRST_ID + len(text), dtype=np.int32)) for text in texts]
        return pa.table({
            "column": pa.chunked_array(columns, pa.string()),
            "value": pa.chunked_array(numbers, pa.int32()),
            "text": pa.chunked_array(texts, pa.string()),
        })  # fmt: skip


@contextmanager
def _joined(
    checked: duckdb.DuckDBPyConnection, known: pa.Table, features: str, columns: list[str]
) -> Iterator[pa.RecordBatchReader]:
    """``known``, a number and an id, with ``columns`` of the checked table ``features``, in the order of the numbers."""
    number, key = known.column_names
    selected = ", ".join(["k.*", *(f"f.{quoted(name)}" for name in columns)])
    checked.register("known", known)
    try:
        query = f"SELECT {selected} FROM known AS k LEFT JOIN {features} AS f ON f.{key} = k.{key} ORDER BY k.{quoted(number)}"
        with checked.sql(query).to_arrow_reader(_PART) as rows:  # closed: a result that is left open refuses ``unregister``
            yield rows
    finally:
        checked.unregister("known")


def write_features(
    folder: Path,
    checked: duckdb.DuckDBPyConnection,
    items: pa.Table,
    users: pa.Table,
    queries: Encoded,
    uses: NDArray[np.int64],
    lexicon: Lexicon,
    tokeniser: Tokeniser,
) -> dict[str, int]:
    """Write everything about items, users and words into ``folder``; returns their counts.

    Parameters
    ----------
    checked
        Holds the checked tables ``items`` and ``users``.
    items, users
        Those that are known, by number and id, in the order of their numbers.
    queries, uses
        Texts of the queries as codes of ``lexicon``, and in how many training searches each occurs.
    """
    of_items, of_users = _Categories(checked, "items"), _Categories(checked, "users")
    texts = []
    kept = ["item", "item_id", "title", *of_items.names]
    with (
        _joined(checked, items, "items", ["title", "text", *of_items.names]) as rows,
        pq.ParquetWriter(folder / "items.parquet", pa.schema([rows.schema.field(name) for name in kept])) as file,
    ):
        for part in rows:
            texts.append(encode([part["text"]], lexicon))
            of_items.add(part)
            file.write_batch(part.select(kept))
    with _joined(checked, users, "users", of_users.names) as rows:
        for part in rows:
            of_users.add(part)
    pq.write_table(users, folder / "users.parquet")
    count = sum((part.count(len(lexicon)) for part in texts), queries.count(len(lexicon), uses))
    words, word_of_code = tokeniser.fit(lexicon, count)
    pq.write_table(words, folder / "words.parquet")
    lengths = np.concatenate([np.zeros(FIRST_ID + 1, np.int64), *(np.diff(part.offset) for part in texts)])
    np.save(folder / "item_text_offset.npy", np.cumsum(lengths))
    size = sum(len(part.code) for part in texts)
    write_array(folder / "item_text_word.npy", (size,), np.int32, (word_of_code[part.code] for part in texts))
    np.save(folder / "query_offset.npy", queries.offset)
    np.save(folder / "query_word.npy", word_of_code[queries.code])
    for name, categories in (("item", of_items), ("user", of_users)):
        categories.save(folder / f"{name}_category.npy")
        pq.write_table(categories.legend(), folder / f"{name}s_categories.parquet")
    return {"items": len(items), "words": len(words)}
