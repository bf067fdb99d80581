"""The event contract: two tables, optional item and user tables, and a named reason for every row refused.

A source leaves raw tables of any column types in a DuckDB connection; `check` makes from them ``recommendations``,
``searches``, ``items``, ``users`` and ``quarantine``. Accepted + quarantined = read, per table, always.

Reasons: ``malformed_line``, ``user_missing``, ``item_missing``, ``id_not_text`` (holds a NUL byte), ``time_missing``,
``time_not_a_number``, ``time_not_whole``, ``time_out_of_range`` (before 1970, in published data before 2000, or from 2100
on), ``clicked_unreadable``, ``duplicate``, ``search_empty`` (no word and no item), ``search_inconsistent`` (differs from the
first row of its search in time or query), ``item_duplicate``, ``user_duplicate``. A row has the first reason that applies.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from seerec.data.columns import columns_of, event_columns, id_kinds, require, side_columns
from seerec.data.files import create_quarantine, read_file, refuse_twice, tidy
from seerec.data.mapping import apply_mapping
from seerec.data.sql import quoted
from seerec.data.watching import watched
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

TABLES = ("recommendations", "searches", "items", "users")
YEAR_2100 = 4_102_444_800_000
_SECONDS = (500_000_000, 10_000_000_000)
_EVENT_TABLES = {
    "recommendations": "line, user_id, item_id, timestamp, clicked, request_id, announced",
    "searches": "line, user_id, search_id, timestamp, query, item_id, clicked, relevant",
}
_TIME = f"""
    WHEN time_reason IS NOT NULL THEN time_reason
    WHEN timestamp NOT BETWEEN getvariable('earliest') AND {YEAR_2100 - 1} THEN 'time_out_of_range'"""
_CHECKS = {
    "recommendations": f"""
    WHEN user_id IS NULL THEN 'user_missing'
    WHEN item_id IS NULL THEN 'item_missing'
    WHEN contains(user_id || item_id, chr(0)) THEN 'id_not_text' {_TIME}
    WHEN clicked IS NULL THEN 'clicked_unreadable'""",
    "searches": f"""
    WHEN user_id IS NULL THEN 'user_missing'
    WHEN contains(user_id || coalesce(item_id, ''), chr(0)) THEN 'id_not_text' {_TIME}
    WHEN clicked IS NULL THEN 'clicked_unreadable'
    WHEN item_id IS NULL AND NOT coalesce(regexp_matches(query, '[\\p{{L}}\\p{{N}}]'), false) THEN 'search_empty'""",
    "items": "WHEN item_id IS NULL THEN 'item_missing' WHEN contains(item_id, chr(0)) THEN 'id_not_text'",
    "users": "WHEN user_id IS NULL THEN 'user_missing' WHEN contains(user_id, chr(0)) THEN 'id_not_text'",
}
_REPEATS = {
    "recommendations": ("duplicate", "user_id, item_id, timestamp, request_id, clicked"),
    "searches": ("duplicate", "user_id, search_id, timestamp, item_id, query, clicked"),
    "items": ("item_duplicate", "item_id"),
    "users": ("user_duplicate", "user_id"),
}


@dataclass(frozen=True)
class Events:
    """Checked event tables inside a DuckDB connection."""

    connection: duckdb.DuckDBPyConnection
    """Holds ``recommendations``, ``searches``, ``items``, ``users`` and ``quarantine``."""
    source: dict[str, Any]
    """Name, file names and options of the source; goes into the manifest."""
    counts: dict[str, int]
    """``TABLE_read``, ``TABLE_accepted``, ``TABLE_quarantined`` of each table, and what the source adds."""
    suggested: dict[str, Any] = field(default_factory=dict)
    """Data settings that go with the source (its published split, ...), where the user says nothing else."""


def check(
    connection: duckdb.DuckDBPyConnection, source: dict[str, Any], *, earliest: int = 0, progress: Progress = SILENT
) -> Events:
    """Sort the rows of ``raw_recommendations``, ``raw_searches``, ``raw_items`` and ``raw_users``.

    Only the first raw table must exist. They are dropped. One without ``line`` holds the lines of a file after its header,
    all of them, in their order. Times before ``earliest`` (ms UTC) are out of range.

    Raises
    ------
    SeerecError
        A required column is missing, ids are lists or structs, or no recommendation row is acceptable.
    """
    connection.execute(f"SET TimeZone = 'UTC'; SET VARIABLE earliest = {earliest}")
    create_quarantine(connection)
    counts: dict[str, int] = {}
    for table in TABLES:
        columns = columns_of(connection, f"raw_{table}")
        if columns or table == "recommendations":
            require(table, columns)
        columns = id_kinds(connection, table, columns)
        if table in _EVENT_TABLES:
            select = event_columns(table, columns)
        else:
            select, used = side_columns(connection, table, columns)
            source = source | ({f"{table}_columns": used} if columns else {})
        if not columns:
            connection.execute(f"CREATE TABLE raw_{table} (line BIGINT)")
        with watched(connection, progress, f"checking {table}"):
            counts |= _sort_rows(connection, table, select)
        connection.execute(f"DROP TABLE raw_{table}")
    if not counts["recommendations_accepted"]:
        raise _nothing_accepted(connection, counts["recommendations_read"], source)
    return Events(connection, source, counts)


def from_tables(
    connection: duckdb.DuckDBPyConnection | None = None,
    *,
    recommendations: Any,
    searches: Any = None,
    items: Any = None,
    users: Any = None,
    columns: Any = None,
    progress: Progress = SILENT,
) -> Events:
    """Checked events from tables in memory or in files: the Python door. ``connection``: where they go, a new one if None.

    Each argument is a pandas or Polars frame, an Arrow table, a DuckDB relation, or the path of a CSV, TSV or Parquet
    file. Columns are those of the event contract, or what ``columns`` makes of them (`mapping.py`); ``line`` of a table in
    memory is the row's number from 1.

    Raises
    ------
    SeerecError
        As `check` and `apply_mapping`; also for a table of an unknown kind or an unreadable file.
    """
    connection = duckdb.connect() if connection is None else connection
    given = {"recommendations": recommendations, "searches": searches, "items": items, "users": users}
    kinds = {}
    for table, content in given.items():
        if isinstance(content, str | Path):
            kinds[table] = Path(content).name
            read_file(connection, Path(content), f"raw_{table}", progress=progress)
        elif content is not None:
            kinds[table] = type(content).__module__.split(".")[0].strip("_")
            _copy(connection, table, content)
    source: dict[str, Any] = {"name": "tables", "tables": kinds}
    if columns is not None:
        apply_mapping(connection, columns)
        source["columns"] = dict(columns)
    numeric = _numbers_as_times(connection)
    events = check(connection, source, progress=progress)
    if numeric:
        _refuse_seconds(connection)
    return events


def _numbers_as_times(connection: duckdb.DuckDBPyConnection) -> bool:
    kinds = {name.lower(): kind for name, kind in columns_of(connection, "raw_recommendations").items()}
    return not kinds.get("timestamp", "").startswith(("TIMESTAMP", "DATE"))


def _refuse_seconds(connection: duckdb.DuckDBPyConnection) -> None:
    """Refuse a log that lies in early 1970 as milliseconds, and between 1985 and 2286 as seconds."""
    row = connection.execute("SELECT min(timestamp), max(timestamp) FROM recommendations").fetchone()
    if row is not None and row[0] >= _SECONDS[0] and row[1] <= _SECONDS[1]:
        raise SeerecError(
            f"The timestamps of the recommendations table look like seconds ({row[0]} to {row[1]}).",
            "Multiply them by 1000, since they are milliseconds, or give ISO dates; likewise in the searches table.",
        )


def _copy(connection: duckdb.DuckDBPyConnection, table: str, content: Any) -> None:
    try:
        if isinstance(content, duckdb.DuckDBPyRelation):
            content = content.to_arrow_table()
        names = getattr(content, "column_names", None) or getattr(content, "columns", [])
        refuse_twice(f"The {table} table", tidy([str(name) for name in names]))  # before DuckDB renames one
        connection.register("given", content)
    except (duckdb.Error, TypeError) as error:
        raise SeerecError(
            f"The {table} table is of the kind {type(content).__name__}, which cannot be read.",
            "Give a pandas or Polars frame, an Arrow table, a DuckDB relation or a file's path.",
        ) from error
    names = list(columns_of(connection, "given"))
    columns = "".join(
        f", {quoted(old)} AS {quoted(new)}" for old, new in zip(names, tidy(names), strict=True) if new.lower() != "line"
    )
    connection.execute(f"CREATE TABLE raw_{table} AS SELECT row_number() OVER () AS line{columns} FROM given")
    connection.unregister("given")


def _sort_rows(connection: duckdb.DuckDBPyConnection, table: str, columns: str) -> dict[str, int]:
    """Accepted rows of ``raw_TABLE`` to ``table``, in their order, the others to ``quarantine``; returns the counts.

    ``columns``: SQL of the contract's columns. Repeats are looked for by a hash of what must not repeat, and compared in full
    only where two hashes are equal: a log seldom has any, and comparing all texts would take most of the memory.
    """
    reason, same = _REPEATS[table]
    kept = _EVENT_TABLES.get(table, "* EXCLUDE (place, line)")
    line = "line" if "line" in columns_of(connection, f"raw_{table}") else "rowid + 2"
    connection.execute(f"""
        CREATE TABLE {table} AS
        SELECT {kept}, place, CASE {_CHECKS[table]} END AS refused
        FROM (SELECT rowid AS place, {line} AS line, {columns} FROM raw_{table})""")
    if table == "searches":
        search = "hash(user_id, search_id)"
        _suspect(connection, table, search, f"hash({search}, timestamp, query)")
        connection.execute(f"""
            UPDATE searches SET refused = 'search_inconsistent' WHERE place IN (
                SELECT place FROM (
                    SELECT *, first_value(timestamp) OVER search AS first_time, first_value(query) OVER search AS first_query
                    FROM searches WHERE refused IS NULL AND {search} IN (SELECT hash FROM suspect)
                    WINDOW search AS (PARTITION BY user_id, search_id ORDER BY place))
                WHERE timestamp <> first_time OR query IS DISTINCT FROM first_query)""")
    _suspect(connection, table, f"hash({same})")
    connection.execute(f"""
        UPDATE {table} SET refused = '{reason}' WHERE place IN (
            SELECT place FROM (
                SELECT place, row_number() OVER (PARTITION BY {same} ORDER BY place) AS number
                FROM {table} WHERE refused IS NULL AND hash({same}) IN (SELECT hash FROM suspect))
            WHERE number > 1)""")
    before = f"(SELECT count(*) FROM quarantine WHERE table_name = '{table}')"  # sources refuse rows of their own
    ((read,),) = connection.execute(f"SELECT count(*) + {before} FROM raw_{table}").fetchall()
    connection.execute(f"""
        INSERT INTO quarantine
        SELECT '{table}', line, reason, content
        FROM (SELECT place, refused AS reason FROM {table} WHERE refused IS NOT NULL)
        JOIN (SELECT rowid AS place, {line} AS line, whole_row::VARCHAR AS content FROM raw_{table} AS whole_row
              WHERE rowid IN (SELECT place FROM {table} WHERE refused IS NOT NULL)) USING (place)
        ORDER BY line, place""")
    connection.execute(f"""
        DROP TABLE suspect;
        DELETE FROM {table} WHERE refused IS NOT NULL;
        ALTER TABLE {table} DROP COLUMN refused;
        ALTER TABLE {table} DROP COLUMN place""")
    ((accepted, quarantined),) = connection.execute(f"SELECT count(*), {before} FROM {table}").fetchall()
    return {f"{table}_read": int(read), f"{table}_accepted": int(accepted), f"{table}_quarantined": int(quarantined)}


def _suspect(connection: duckdb.DuckDBPyConnection, table: str, key: str, whole: str | None = None) -> None:
    """Make the table ``suspect``: every ``hash`` that several rows of ``table`` have which are good so far.

    ``key``: SQL of the hash. ``whole``: SQL of one that also differs where rows of an equal ``key`` may differ; the rows that
    are equal in it count once.
    """
    columns = f"{key} AS hash" + (f", {whole} AS whole" if whole else "")
    found = connection.sql(f"SELECT {columns} FROM {table} WHERE refused IS NULL").fetchnumpy()
    keys = found["hash"] if whole is None else found["hash"][np.unique(found["whole"], return_index=True)[1]]
    keys = np.sort(keys)  # a few bytes a row, where grouping would take many
    given = pa.table({"hash": np.unique(keys[1:][keys[1:] == keys[:-1]])})
    connection.register("given", given)
    connection.execute("CREATE OR REPLACE TEMP TABLE suspect AS SELECT hash FROM given")
    connection.unregister("given")


def _nothing_accepted(connection: duckdb.DuckDBPyConnection, read: int, source: dict[str, Any]) -> SeerecError:
    scaled = source.get("name") == "interactions"
    numbers = "seconds, milliseconds, microseconds or nanoseconds" if scaled else "whole milliseconds"
    row = connection.execute("""
        SELECT reason, count(*), min(line), min_by(content, line) FROM quarantine
        WHERE table_name = 'recommendations' GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 1""").fetchone()
    if row is None:
        return SeerecError("The recommendations table has no rows.", "Give a log with at least one interaction.")
    return SeerecError(
        f"None of {read} recommendation rows is acceptable; {row[1]} are {row[0]}, the first on line {row[2]}: "
        f"{str(row[3])[:200]}.",
        "Check that the columns hold what their names say "
        f"(timestamps: {numbers} since 1970, UTC, or ISO dates such as 2023-05-22T18:30:00).",
    )
