"""Interaction logs without searches, plus item text; the searches are constructed (`constructed.py`).

Two shapes: one row per interaction, with a time column or in the users' own order; or one row per user, a list of items
oldest first, and optionally a column with the last one. Columns are recognised by their usual names.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from seerec.data.columns import UNITS, columns_of, find, refuse_nested
from seerec.data.events import Events, check
from seerec.data.files import create_quarantine, header, read_file
from seerec.data.sources.constructed import construct
from seerec.data.sql import quoted
from seerec.data.watching import watched
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

_KINDS = {".csv", ".tsv", ".txt", ".inter", ".item", ".parquet", ".pq", ".gz"}
_LIST = re.compile(
    r"(item|product|movie|video|news|asin)s?_?(id)?s?_?(list|seq|sequence|history)|items|item_?ids|sequence|history"
)
_GIVE_ITEMS = "Give the items' file with --items: a column of item ids and a title or other text."


def read(
    connection: duckdb.DuckDBPyConnection,
    paths: Sequence[Path],
    *,
    items: Path | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    p_search: float = 0.4,
    noise: float = 0.3,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Events:
    """Read an interaction log and item text, check them and construct searches.

    In ``counts``, ``recommendations_*`` are the interactions of the log; ``searches_own`` of the accepted ones became
    searches, and ``searches_added`` were added.

    Parameters
    ----------
    paths
        A folder that holds the log and the items, or the file(s).
    items
        The items' file, where ``paths`` does not hold it or holds several.
    user_column, item_column, time_column
        Columns of the log, where their names are unusual. A log without a time column is read in its own order.
    p_search, noise, seed
        See `constructed.py`.

    Raises
    ------
    SeerecError
        No log or no item text is found, or several could be meant; or as `read_file`, `check` and `construct`.
    """
    log, items = _choose([Path(path) for path in paths], items, user_column, item_column)
    read_file(connection, log, "raw_log", progress=progress)
    columns = columns_of(connection, "raw_log")
    connection.execute("UPDATE quarantine SET table_name = 'recommendations' WHERE table_name = 'log'")
    user = _column(log, columns, "user_id", user_column)
    sequence = None if item_column else _list_column(list(columns))
    if sequence:
        clock = "order"
        _sequences(connection, columns, user, sequence, find(list(columns), "item_id"))
    else:
        item = _column(log, columns, "item_id", item_column)
        time = _column(log, columns, "timestamp", time_column) if time_column else find(list(columns), "timestamp")
        clock = _rows(connection, columns, user, item, time)
    connection.execute("DROP TABLE raw_log")
    _read_items(connection, items, item_column, progress)
    options = {"p_search": p_search, "noise": noise, "seed": seed}
    given = {"user_column": user_column, "item_column": item_column, "time_column": time_column}
    source: dict[str, Any] = {
        "name": "interactions",
        "files": [log.name, items.name],
        "options": options | {name: value for name, value in given.items() if value},
        "shape": "sequences" if sequence else "rows",
        "clock": clock,
    }
    events = check(connection, source, progress=progress)
    with watched(connection, progress, "constructing searches"):
        made = construct(connection, p_search=p_search, noise=noise, seed=seed, clocks=clock != "order")
    return Events(connection, events.source, events.counts | made)


def _choose(paths: list[Path], items: Path | None, user_column: str | None, item_column: str | None) -> tuple[Path, Path]:
    """The log's file and the items' file, told apart by their headers."""
    files = [file for path in paths for file in (_tables(path) if path.is_dir() else [path])]
    logs: list[Path] = []
    texts: list[tuple[Path, bool]] = []
    for file in files:
        if items is not None and file.resolve() == items.resolve():
            continue
        names = _header(file, alone=file in paths)
        is_user = user_column in names if user_column else find(names, "user_id") is not None
        is_item = item_column in names if item_column else find(names, "item_id") is not None
        if is_user and (is_item or _list_column(names)):
            logs.append(file)
        elif find(names, "item_id") or is_item:
            texts.append((file, find(names, "title") is not None))
    place = ", ".join(str(path) for path in paths)
    if not logs:
        seen = "; ".join(f"{file.name}: {', '.join(_header(file, alone=False))}" for file in files[:5])
        headers = {name for file in files for name in _header(file, alone=False)}
        for flag, given in (("--user-column", user_column), ("--item-column", item_column)):
            if given and given not in headers:
                raise SeerecError(f"{place} has no column {given} (found in {seen or 'no tables'}).", f"Choose one with {flag}.")
        raise SeerecError(
            f"{place} holds no interaction log: no table has a user and an item column ({seen or 'no tables'}).",
            "Name the columns user_id and item_id (or a list such as item_id_list), or give --user-column, --item-column.",
        )
    if len(logs) > 1:
        raise SeerecError(
            f"{place} holds several interaction logs: {', '.join(file.name for file in logs)}.",
            "Give the file itself instead of the folder, and the items' file with --items.",
        )
    if items is not None:
        return logs[0], items
    titled = [file for file, has_title in texts if has_title] or [file for file, _ in texts]
    if not titled:
        raise SeerecError(f"{place} holds no items' file, and searches are constructed from item text.", _GIVE_ITEMS)
    if len(titled) > 1:
        raise SeerecError(
            f"{place} holds several items' files: {', '.join(file.name for file in titled)}.",
            "Choose one with --items.",
        )
    return logs[0], titled[0]


def _tables(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in _KINDS)


def _header(file: Path, *, alone: bool) -> list[str]:
    """Column names; a file of a folder that is no table has none."""
    try:
        return header(file)
    except SeerecError:
        if alone:
            raise
        return []


def _list_column(columns: list[str]) -> str | None:
    return next((name for name in columns if _LIST.fullmatch(name.lower())), None)


def _column(file: Path, columns: dict[str, str], role: str, given: str | None) -> str:
    found = given if given in columns else None if given else find(list(columns), role)
    if found is None:
        names = ", ".join(name for name in columns if name != "line")
        raise SeerecError(
            f"{file} has no column {given or role} (found: {names}).",
            f"Choose one with --{role.removesuffix('_id').removesuffix('stamp')}-column.",
        )
    return found


def _rows(connection: duckdb.DuckDBPyConnection, columns: dict[str, str], user: str, item: str, time: str | None) -> str:
    """``raw_recommendations`` from one row per interaction; returns the clock: order, date, s, ms, us or ns."""
    clock, value = "order", f"1000 * row_number() OVER (PARTITION BY {quoted(user)} ORDER BY line)"
    if time is not None:
        clock, value = "date", quoted(time)
        number = f"TRY_CAST({value} AS DOUBLE)"
        if not columns[time].startswith(("TIMESTAMP", "DATE")):
            row = connection.execute(f"SELECT median({number}) FROM raw_log WHERE isfinite({number}) AND {number} > 0").fetchone()
            if row is not None and row[0] is not None:
                clock, factor = next((unit, factor) for bound, unit, factor in UNITS if row[0] < bound)
                scaled = f"round({number} {factor})::VARCHAR" if factor else f"{value}::VARCHAR"
                sound = f"isfinite({number}) AND {number} >= 0"  # a refused row shows what the file says
                value = f"CASE WHEN {sound} THEN {scaled} ELSE {value}::VARCHAR END"
    connection.execute(
        f"CREATE TABLE raw_recommendations AS SELECT line, {quoted(user)} AS user_id, {quoted(item)} AS item_id, "
        f"{value} AS timestamp FROM raw_log ORDER BY line"
    )
    return clock


def _sequences(
    connection: duckdb.DuckDBPyConnection, columns: dict[str, str], user: str, sequence: str, last: str | None
) -> None:
    """``raw_recommendations`` from one row per user. Of several rows of a user the longest counts, the first of equals."""
    create_quarantine(connection)
    listed = quoted(sequence)
    if columns[sequence].endswith("]"):
        refuse_nested("recommendations", sequence, columns[sequence].removesuffix("[]"))
        listed = f"{listed}::VARCHAR[]"
    else:
        commas = connection.execute(f"SELECT bool_or(contains({listed}, ',')) FROM raw_log").fetchone()
        separator = r"\s*,\s*" if commas and commas[0] else r"\s+"
        listed = f"regexp_split_to_array(trim({listed}, ' []'), '{separator}')"
    listed = f"list_filter(coalesce({listed}, []), lambda item: item <> '')"
    if last is not None:
        refuse_nested("recommendations", last, columns[last])
        listed = f"list_concat({listed}, list_filter([{quoted(last)}::VARCHAR], lambda item: item <> ''))"
    connection.execute(f"""
        CREATE TEMP TABLE sequence AS
        SELECT line, user_id, whole, row_number() OVER (PARTITION BY user_id ORDER BY len(whole) DESC, line) AS number
        FROM (SELECT line, {quoted(user)} AS user_id, {listed} AS whole FROM raw_log)""")
    connection.execute("""
        INSERT INTO quarantine
        SELECT 'recommendations', line, 'sequence_duplicate', concat_ws(' ', user_id, array_to_string(whole, ' '))
        FROM sequence WHERE number > 1 AND user_id IS NOT NULL ORDER BY line""")
    connection.execute("""
        CREATE TABLE raw_recommendations AS
        SELECT line, user_id, item_id, 1000 * position AS timestamp FROM (
            SELECT line, user_id, unnest(CASE WHEN whole = [] THEN [NULL] ELSE whole END) AS item_id,
                   generate_subscripts(CASE WHEN whole = [] THEN [NULL] ELSE whole END, 1) AS position
            FROM sequence WHERE number = 1 OR user_id IS NULL)
        ORDER BY line, position""")
    connection.execute("DROP TABLE sequence")


def _read_items(connection: duckdb.DuckDBPyConnection, file: Path, item_column: str | None, progress: Progress) -> None:
    read_file(connection, file, "raw_items", progress=progress)
    columns = columns_of(connection, "raw_items")
    item = item_column if item_column in columns else _column(file, columns, "item_id", None)
    title = find([name for name in columns if name != item], "title")
    for name, role in ((item, "item_id"), (title, "title")):
        if name is not None and name != role:
            connection.execute(f"ALTER TABLE raw_items RENAME {quoted(name)} TO {role}")
