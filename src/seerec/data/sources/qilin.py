"""Qilin (Chen et al., 2025): recommendations and searches of Xiaohongshu, as published on the Hugging Face hub.

Six configurations, each a folder of Parquet files (``qilin_files.py``). Training and test are read as one log, as in the
notebooks of LCR-SER's authors, whose split is leave-one-out; the publisher's is not used.

===================== =====================================================================================================
contract              Qilin
===================== =====================================================================================================
recommendations       one row per note of ``rec_result_details_with_idx``; a request is (``user_idx``, ``request_idx``)
searches              one row per note of ``search_result_details_with_idx``; a search is (``user_idx``, ``search_idx``)
items                 title: ``note_title``; text: ``note_content``; categories: ``note_type`` and three taxonomies
users                 gender, platform, age and location, as categories
===================== =====================================================================================================

Lines number the shown notes: training before test, files by name, and in a request by ``position``, then by the place in
its list. Both logs have a time for every note, in units of their own (milliseconds and seconds, as published), and the
notes of one request or search differ in it; ``requests_shown_over_time`` and ``searches_shown_over_time`` count which.

Left out on purpose: ``query`` and ``recent_clicked_note_idxs`` of recommendations (that query may have been asked later,
which would tell the target), rankings by other programs, the configuration ``dqa``, the counters of notes and users (added
up over a time that nobody states, perhaps that of the test) and the forty unnamed numbers of users, which are no
categories. Texts are kept of notes that can become items: clicked ones, and those shown first in a search without a click;
of the others the id alone, so that every note is counted.

Of the notebook's steps these are the same: both parts together, clicks equal to 1, one search for each search id, the first
shown note of a search without a click, targets with something before them, leave-one-out, validation clicks in the history
of test. These differ:

* It gives a search the time of the first note it keeps (a clicked one, or else the first shown); here a search has that of
  its last clicked one, so that no click is seen too early. Up to one click the two agree.
* It lets clicks of one request see each other in the order of the list; here they see what came before its first note.
* Its users have 3 clicks that see something; here, with ``min_user_clicks`` 3, they have 3 clicks.
* It drops notes without title and content, and searches that then keep no note: ``notes="with-text"`` does so too.
* It keeps repeated clicks as targets and draws negatives by clicks: ``repeats="keep"`` and ``sampler="popularity"``.
"""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import duckdb

from seerec.data.columns import UNITS
from seerec.data.events import YEAR_2100, Events, check
from seerec.data.files import create_quarantine
from seerec.data.sources.published import EARLIEST, blank, number, unpacked, whole
from seerec.data.sources.qilin_files import CONFIGURATIONS, TAXONOMIES, Part, parts_in
from seerec.data.sql import quoted, text
from seerec.data.watching import watched
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

USER_FIELDS = ("gender", "platform", "age", "location")
SUGGESTED = {"split": "leave-one-out", "zero_click": "first-shown", "min_user_clicks": 3}
_CONFIGURATION = f"ENUM ({', '.join(map(text, CONFIGURATIONS))})"
_TIME = f"coalesce({number('time')}, {number('top_time')})"
_TABLES = {"recommendations": ("recommendation", "request"), "searches": ("search", "search")}
"""Table to the kind of configuration, and to what one of its rows is."""


def read(
    connection: duckdb.DuckDBPyConnection,
    paths: Sequence[Path],
    *,
    notes: Literal["all", "with-text"] = "all",
    progress: Progress = SILENT,
) -> Events:
    """Read the published folders, or an archive of them.

    Besides the contract's reasons rows are refused as ``user_not_a_number``, ``item_not_a_number``,
    ``request_not_a_number``, ``search_not_a_number`` (ids are whole and not negative), ``request_missing``,
    ``search_missing``, ``nothing_shown`` (a request whose list is empty; a search stays, without items),
    ``note_without_text`` and ``search_without_text``.

    Parameters
    ----------
    notes
        ``with-text`` refuses what shows a note that has neither title nor content or is not described at all, and a search
        when that leaves none of its clicked notes, or not the first that it shows.

    Raises
    ------
    SeerecError
        Configurations, files or columns are missing, or a file is damaged; or as `check`.
    """
    with unpacked(paths, (".parquet",)) as (files, simulated):
        found = parts_in(files, paths)
        shown = {table: found[f"{kind}_train"] + found[f"{kind}_test"] for table, (kind, _) in _TABLES.items()}
        create_quarantine(connection)
        with _readable(paths):
            with watched(connection, progress, "reading what was shown"):
                clock = {table: _read_events(connection, table, parts) for table, parts in shown.items()}
            with watched(connection, progress, "reading notes"):
                _read_items(connection, found["notes"], judge=notes == "with-text")
            _read_users(connection, found["user_feat"])
    if notes == "with-text":
        _require_text(connection)
    names = {"requests_shown_over_time": "recommendations", "searches_shown_over_time": "searches"}
    counts = {name: _shown_over_time(connection, table) for name, table in names.items()}
    _time_searches(connection)
    for table in ("recommendations", "searches", "items", "users"):
        _refuse(connection, table)
    source: dict[str, Any] = {
        "name": "qilin",
        "simulated": simulated,
        "files": {name: [part.path.name for part in parts] for name, parts in found.items()},
        "options": {"notes": notes},
        "clock": clock,
    }
    events = check(connection, source, earliest=EARLIEST, progress=progress)
    return Events(connection, events.source, events.counts | counts, dict(SUGGESTED))


@contextmanager
def _readable(paths: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        reason = str(error).strip().splitlines()[0].rstrip(".: ")
        place = ", ".join(str(path) for path in paths)
        raise SeerecError(f"A file of {place} cannot be read ({reason}).", "Check that all files were copied whole.") from error


def _rows(part: Part, **columns: str) -> str:
    """SQL: columns of a file by role, and ``row``, the number of the row in its configuration, from 1."""
    selected = ", ".join(f"{value} AS {quoted(name)}" for name, value in columns.items())
    return f"""(
        SELECT file_row_number + {part.before + 1} AS row, {selected}
        FROM read_parquet({text(glob.escape(str(part.path)))}, file_row_number = true))"""


def _cells(part: Part) -> str:
    """SQL: one row for each entry of the lists of shown notes, as the file has it; an empty list is one row, with ``nothing``."""
    of = part.columns
    rows = _rows(part, **{name: of.get(name, "NULL") for name in ("user", "request", "query", "details", "top_time")})
    fields = ", ".join(f"{of[name]} AS {name}" for name in ("note", "click", "position", "time"))
    return f"""(
        SELECT row, place, "user", request, query, top_time, nothing, {fields}
        FROM (SELECT * EXCLUDE (details), unnest(details) AS shown, generate_subscripts(details, 1) AS place
              FROM (SELECT * EXCLUDE (details), coalesce(len(details), 0) = 0 AS nothing,
                           CASE WHEN len(details) > 0 THEN details ELSE [NULL] END AS details FROM {rows})))"""


def _read_events(connection: duckdb.DuckDBPyConnection, table: str, parts: list[Part]) -> str:
    """``raw_TABLE``, with ``refused`` and ``said`` (why, and what the file says); returns the unit of the times."""
    times = " UNION ALL ".join(f"SELECT {_TIME} AS time FROM {_cells(part)}" for part in parts)
    ((median,),) = connection.execute(f"SELECT median(time) FROM ({times}) WHERE isfinite(time) AND time > 0").fetchall()
    unit, factor = next((unit, factor) for bound, unit, factor in UNITS if (median or 0) < bound)
    events = " UNION ALL ".join(_events(table, part, f"round({_TIME} {factor})" if factor else _TIME) for part in parts)
    connection.execute(f"""
        CREATE TABLE raw_{table} AS
        SELECT row_number() OVER (ORDER BY configuration, row, position NULLS LAST, place) AS line, * EXCLUDE (position)
        FROM ({events})""")
    kind, name = _TABLES[table]
    test = f"configuration = '{kind}_test'"
    connection.execute(f"""
        UPDATE raw_{table} SET {name}_id = -1 - {name}_id  -- a number of the training part too, but at another time
        WHERE {test} AND (user_id, {name}_id) IN (
            SELECT (user_id, {name}_id) FROM raw_{table} WHERE refused IS NULL GROUP BY user_id, {name}_id
            HAVING min(timestamp) FILTER ({test}) <> min(timestamp) FILTER (NOT {test}))""")
    return unit


def _events(table: str, part: Part, time: str) -> str:
    """SQL: rows of the contract from one file. ``time``: SQL of ms."""
    _, name = _TABLES[table]
    click = f"CASE {number('click')} WHEN 0 THEN false WHEN 1 THEN true END"
    reasons = {"nothing_shown": "nothing"} if table == "recommendations" else {}
    reasons |= _no_id("user", "user") | _no_id("request", name) | _no_id("note", "item", "NOT nothing AND")
    reasons |= {
        "time_missing": f"{_TIME} IS NULL AND {blank('time')} AND {blank('top_time')}",
        "time_not_a_number": f"{_TIME} IS NULL OR NOT isfinite({_TIME})",
        "time_out_of_range": f"{time} NOT BETWEEN {EARLIEST} AND {YEAR_2100 - 1}",
        "time_not_whole": f"{time} <> trunc({time})",
        "clicked_unreadable": f"NOT nothing AND ({click}) IS NULL",
    }
    cells = {"place": "place", "user_idx": '"user"', f"{name}_idx": "request", "note_idx": "note", "click": "click"}
    cells |= {"position": "position", "time": "coalesce(time::VARCHAR, top_time::VARCHAR)"}
    return f"""
        SELECT '{part.configuration}'::{_CONFIGURATION} AS configuration, row::INTEGER AS row, place::INTEGER AS place,
               {number("position")} AS position, {whole("user")} AS user_id, {whole("request")} AS {name}_id,
               {"query::VARCHAR AS query," if table == "searches" else ""} {whole("note")} AS item_id,
               TRY_CAST({time} AS BIGINT) AS timestamp, coalesce({click}, false) AS clicked,
               refused, {_said(part, cells)}
        FROM (SELECT *, {_case(reasons)} AS refused FROM {_cells(part)})"""


def _no_id(column: str, what: str, where: str = "") -> dict[str, str]:
    """Reasons for a cell without an id."""
    none = f"{where} ({whole(column)}) IS NULL"
    return {f"{what}_missing": f"{none} AND {blank(column)}", f"{what}_not_a_number": none}


def _case(reasons: dict[str, str]) -> str:
    return f"CASE {' '.join(f'WHEN {condition} THEN {text(reason)}' for reason, condition in reasons.items())} END"


def _said(part: Part, cells: dict[str, str]) -> str:
    """SQL: where a refused row stands, and what it says."""
    told = ", ".join(f"{text(name)}: {value}" for name, value in cells.items())
    place = f"'configuration': '{part.configuration}', 'row': row"
    return f"CASE WHEN refused IS NOT NULL THEN {{{place}, {told}}}::VARCHAR END AS said"


def _read_items(connection: duckdb.DuckDBPyConnection, parts: list[Part], *, judge: bool) -> None:
    """``raw_items``; ``judge``: with the column ``told``, whether a note has a title or content."""
    connection.execute("""
        CREATE TEMP TABLE kept AS
        SELECT item_id FROM raw_recommendations WHERE refused IS NULL AND clicked
        UNION SELECT item_id FROM raw_searches WHERE refused IS NULL AND clicked
        UNION SELECT arg_min(item_id, line) FROM raw_searches WHERE refused IS NULL AND item_id IS NOT NULL
              GROUP BY user_id, search_id HAVING NOT bool_or(clicked)""")
    fields = {"title": "title::VARCHAR", "content": "content::VARCHAR"}
    fields |= {f"category_{name}": _value(name) for name in ("note_type", *TAXONOMIES)}
    selected = ", ".join(f"CASE WHEN kept THEN {value} END AS {name}" for name, value in fields.items())
    told = r", regexp_matches(concat(title, content), '\S') AS told" if judge else ""
    selects = [
        f"""SELECT row AS line, item_id, {selected}{told}, refused, {_said(part, {"note_idx": "note"})}
            FROM (SELECT *, item_id IN (SELECT item_id FROM kept) AS kept, {_case(_no_id("note", "item"))} AS refused
                  FROM (SELECT *, {whole("note")} AS item_id FROM {_rows(part, **part.columns)}))"""
        for part in parts
    ]
    connection.execute(f"CREATE TABLE raw_items AS {' UNION ALL '.join(selects)}")
    connection.execute("DROP TABLE kept")


def _read_users(connection: duckdb.DuckDBPyConnection, parts: list[Part]) -> None:
    fields = ", ".join(f"{_value(name)} AS {name}" for name in USER_FIELDS)
    selects = [
        f"""SELECT row AS line, user_id, {fields}, refused, {_said(part, {"user_idx": quoted("user")})}
            FROM (SELECT *, {_case(_no_id("user", "user"))} AS refused
                  FROM (SELECT *, {whole("user")} AS user_id FROM {_rows(part, **part.columns)}))"""
        for part in parts
    ]
    connection.execute(f"CREATE TABLE raw_users AS {' UNION ALL '.join(selects)}")


def _value(column: str) -> str:
    """SQL: a category as text, ``3.0`` being 3; blanks and ``nan`` are none."""
    return f"nullif(nullif(regexp_replace(trim({quoted(column)}::VARCHAR), '\\.0+$', ''), ''), 'nan')"


def _require_text(connection: duckdb.DuckDBPyConnection) -> None:
    """Refuse rows of notes without text, and the whole of a search that the notebook would drop for them."""
    lacking = "item_id IS NOT NULL AND item_id NOT IN (SELECT item_id FROM raw_items WHERE told AND refused IS NULL)"
    connection.execute(f"UPDATE raw_recommendations SET refused = 'note_without_text' WHERE refused IS NULL AND {lacking}")
    connection.execute(f"""
        CREATE TEMP TABLE lacking AS
        SELECT line, CASE WHEN bare THEN 'note_without_text' ELSE 'search_without_text' END AS reason
        FROM (SELECT line, bare, bool_and(bare) FILTER (kept) OVER search AS lost
              FROM (SELECT line, user_id, search_id, {lacking} AS bare,
                           clicked OR (NOT bool_or(clicked) OVER shown AND line = min(line) OVER shown) AS kept
                    FROM raw_searches WHERE refused IS NULL WINDOW shown AS (PARTITION BY user_id, search_id))
              WINDOW search AS (PARTITION BY user_id, search_id))
        WHERE bare OR lost""")
    connection.execute("""
        UPDATE raw_searches SET refused = reason FROM lacking WHERE raw_searches.line = lacking.line;
        DROP TABLE lacking; ALTER TABLE raw_items DROP COLUMN told""")


def _shown_over_time(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    """How many requests, or searches, have notes of different times."""
    name = f"{_TABLES[table][1]}_id"
    ((found,),) = connection.execute(f"""
        SELECT count(*) FROM (
            SELECT 1 FROM raw_{table} WHERE refused IS NULL GROUP BY user_id, {name} HAVING min(timestamp) <> max(timestamp))
        """).fetchall()
    return int(found)


def _time_searches(connection: duckdb.DuckDBPyConnection) -> None:
    """One time for each search: that of its last clicked note, or else of the first shown."""
    connection.execute("""
        UPDATE raw_searches SET timestamp = time
        FROM (SELECT user_id, search_id, coalesce(max(timestamp) FILTER (clicked), arg_min(timestamp, line)) AS time
              FROM raw_searches WHERE refused IS NULL GROUP BY user_id, search_id
              HAVING min(timestamp) <> max(timestamp)) AS search
        WHERE refused IS NULL AND raw_searches.user_id = search.user_id AND raw_searches.search_id = search.search_id""")


def _refuse(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    connection.execute(f"""
        INSERT INTO quarantine SELECT '{table}', line, refused, coalesce(said, whole_row::VARCHAR)
        FROM raw_{table} AS whole_row WHERE refused IS NOT NULL ORDER BY line;
        DELETE FROM raw_{table} WHERE refused IS NOT NULL;
        ALTER TABLE raw_{table} DROP COLUMN refused; ALTER TABLE raw_{table} DROP COLUMN said""")
