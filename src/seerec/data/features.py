"""Items, users and words of a corpus: ids, titles, categories and texts, all fitted on the training split."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seerec.data.corpus import FIRST_ID, UNKNOWN
from seerec.data.sql import quoted
from seerec.data.text import Encoded, Lexicon, Tokeniser, encode


def item_features(checked: duckdb.DuckDBPyConnection, items: pa.Table) -> pa.Table:
    """Known ``items`` (item, item_id, clicks, pool) in the order of their ids, with title, text and the category columns."""
    return _joined(checked, items, "items", ["title", "text"])


def user_features(checked: duckdb.DuckDBPyConnection, users: pa.Table) -> pa.Table:
    """Known ``users`` (user, user_id) in the order of their ids, with the category columns."""
    return _joined(checked, users, "users", [])


def _joined(checked: duckdb.DuckDBPyConnection, known: pa.Table, features: str, columns: list[str]) -> pa.Table:
    """``known``, whose first two columns are the number and the id, with columns of the checked table ``features``."""
    number, key, *_ = known.column_names
    columns = columns + [name for name in checked.table(features).columns if name.startswith("category_")]
    selected = ", ".join(["k.*", *(f"f.{quoted(name)}" for name in columns)])
    checked.register("known", known)
    try:
        query = f"SELECT {selected} FROM known AS k LEFT JOIN {features} AS f ON f.{key} = k.{key} ORDER BY k.{quoted(number)}"
        return checked.sql(query).to_arrow_table()
    finally:
        checked.unregister("known")


def categories(table: pa.Table) -> tuple[list[str], NDArray[np.int32], list[pa.Table]]:
    """Number the category columns of known items or users.

    Returns
    -------
        The column names; I x F int32 (0 missing, 1 unknown, values from 2 in code-point order; rows 0 and 1 are padding
        and unknown); per column a table of ``column``, ``value`` int32, ``text``.
    """
    names = [name for name in table.column_names if name.startswith("category_")]
    ids = np.zeros((table.num_rows + FIRST_ID, len(names)), np.int32)
    ids[UNKNOWN] = UNKNOWN
    legends = []
    for place, name in enumerate(names):
        values = pc.unique(table[name].drop_null())
        values = values.take(pc.sort_indices(values))
        found = pc.index_in(table[name], value_set=values)
        ids[FIRST_ID:, place] = pc.fill_null(pc.add(found, FIRST_ID), 0).to_numpy()
        number = pa.array(np.arange(FIRST_ID, FIRST_ID + len(values), dtype=np.int32))
        legends.append(pa.table({"column": pa.array([name] * len(values), pa.string()), "value": number, "text": values}))
    return names, ids, legends


def write_features(
    folder: Path,
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
    queries, uses
        Texts of the queries as codes of ``lexicon``, and in how many training searches each occurs.
    """
    texts = encode(items["text"].chunks, lexicon)
    count = queries.count(len(lexicon), uses) + texts.count(len(lexicon))
    words, word_of_code = tokeniser.fit(lexicon, count)
    item_names, item_category, item_legends = categories(items)
    _, user_category, user_legends = categories(users)
    head = np.zeros(FIRST_ID, np.int64)
    arrays: dict[str, NDArray[Any]] = {
        "query_offset": queries.offset,
        "query_word": word_of_code[queries.code],
        "item_text_offset": np.concatenate([head, texts.offset]),
        "item_text_word": word_of_code[texts.code],
        "item_category": item_category,
        "user_category": user_category,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    pq.write_table(items.select(["item", "item_id", "title", *item_names]), folder / "items.parquet")
    pq.write_table(users.select(["user", "user_id"]), folder / "users.parquet")
    pq.write_table(words, folder / "words.parquet")
    empty = pa.table({"column": pa.array([], pa.string()), "value": pa.array([], pa.int32()), "text": pa.array([], pa.string())})
    for name, legends in (("items", item_legends), ("users", user_legends)):
        pq.write_table(pa.concat_tables([empty, *legends]), folder / f"{name}_categories.parquet")
    return {"items": items.num_rows, "words": words.num_rows}
