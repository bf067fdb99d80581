"""Columns of any type and name, as SQL for the columns of the event contract."""

import difflib
import re
from typing import Any

import duckdb

from seerec.data.sql import quoted
from seerec.errors import SeerecError

REQUIRED = {
    "recommendations": ("user_id", "item_id", "timestamp"),
    "searches": ("user_id", "timestamp", "query"),
    "items": ("item_id",),
    "users": ("user_id",),
}
ALIASES = {
    "user_id": "user_id userid user uid user_idx customer_id customerid reviewerid reviewer_id visitor_id visitorid "
    "member_id account_id session_id sessionid",
    "item_id": "item_id itemid item iid item_idx movieid movie_id parent_asin asin product_id productid business_id "
    "book_id bookid isbn song_id track_id video_id videoid news_id article_id document_id goods_id sku recipe_id "
    "anime_id gmap_id app_id artist_id",
    "timestamp": "timestamp time ts unixreviewtime unix_time unix_timestamp event_time created_at datetime date "
    "review_date rating_timestamp",
    "query": "query search_query query_text keyword keywords",
    "title": "title name item_name item_title product_title product_name movie_title book_title book-title song_name "
    "article_title",
}
"""Usual names of each role, in lower case; the first that a table has is taken."""

UNITS = ((1e11, "s", "* 1000"), (1e14, "ms", ""), (1e17, "us", "/ 1000"), (float("inf"), "ns", "/ 1000000"))
"""A median time below the bound is in this unit: seconds reach 1e11 in the year 5138, ms passed it in 1973."""

_IDS = ("user_id", "item_id", "request_id", "search_id")
_FLOAT_TEXT = "VARCHAR of whole floats"
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_CATEGORY = re.compile(r"categor|genre|brand|department|manufacturer|publisher|author|artist|studio|(^|_)(type|class)$")
_REFERENCE = re.compile(r"(_|^)(id|asin|sku|url|urls|uri|link|image|images)$|(Id|ID|URL|Url)$")


def columns_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Column names of a table or view with their SQL types, in order; empty where there is no such table."""
    rows = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [table]
    ).fetchall()
    return {str(name): str(kind) for name, kind in rows}


def find(columns: list[str], role: str) -> str | None:
    """The column that bears the first usual name of ``role`` (a key of `ALIASES`), or None."""
    lowered = {name.lower(): name for name in columns}
    return next((lowered[alias] for alias in ALIASES[role].split() if alias in lowered), None)


def require(table: str, columns: dict[str, str]) -> None:
    """Refuse a table that lacks a required column, with the close names that it has."""
    lowered = {name.lower(): name for name in columns}
    missing = [name for name in REQUIRED[table] if name not in lowered]
    if not missing:
        return
    found = [name for name in columns if name != "line"]
    spare = [name for name in found if name.lower() not in REQUIRED[table]]
    close = {}
    for name in missing:
        alike = difflib.get_close_matches(name, [column.lower() for column in spare], n=1, cutoff=0.6)
        best = (find(spare, name) if name in ALIASES else None) or (lowered[alike[0]] if alike else None)
        if best:
            close[name] = best
    fix = f"Name the columns {', '.join(REQUIRED[table])}."
    if close:
        fix = "Rename " + ", ".join(f"`{column}` to `{name}`" for name, column in close.items()) + "."
    elif any(re.fullmatch(r"[\d.]+", column) for column in found):
        fix = f"Put a header line with {', '.join(REQUIRED[table])} on top."
    raise SeerecError(f"The {table} table has no column {', '.join(missing)} (found: {', '.join(found) or 'none'}).", fix)


def id_kinds(connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str]) -> dict[str, str]:
    """``columns`` of ``raw_TABLE``, in which text ids that are all whole numbers, some of them as in 75.0, are marked.

    pandas writes a column of integers like that when one of its cells is empty.

    Raises
    ------
    SeerecError
        An id column holds lists or structs.
    """
    kinds = dict(columns)
    for name, kind in columns.items():
        if name.lower() not in _IDS:
            continue
        refuse_nested(table, name, kind)
        if kind.startswith("VARCHAR") and _are_floats(connection, f"raw_{table}", quoted(name)):
            kinds[name] = _FLOAT_TEXT
    return kinds


def refuse_nested(table: str, name: str, kind: str) -> None:
    """Refuse a column of ids whose type is a list or a struct."""
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")):
        raise SeerecError(
            f"The column {name} of the {table} table is of the type {kind}, which is no id.",
            "Give a column with one text or number in each row.",
        )


def _are_floats(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> bool:
    row = connection.execute(f"""
        SELECT bool_or(contains({column}, '.')) AND
               bool_and(regexp_full_match({column}, '-?\\d+(\\.0+)?')) FILTER (WHERE trim({column}) <> '')
        FROM {table}""").fetchone()
    return row is not None and bool(row[0])


def event_columns(table: str, columns: dict[str, str]) -> str:
    """SQL columns of ``recommendations`` or ``searches``, and ``time_reason``: why there is no time, or NULL.

    An unreadable ``clicked`` is NULL.
    """
    kinds = {name.lower(): kind for name, kind in columns.items()}

    def identifier(name: str) -> str:
        return f"{_id(name, kinds[name])} AS {name}" if name in kinds else f"NULL::VARCHAR AS {name}"

    def label(name: str) -> str:
        return f"TRY_CAST({name} AS TINYINT) AS {name}" if name in kinds else f"NULL::TINYINT AS {name}"

    time, reason = _time(kinds["timestamp"]) if kinds else ("NULL::BIGINT", "NULL::VARCHAR")
    parts = [identifier("user_id"), identifier("item_id"), f"{time} AS timestamp", f"{reason} AS time_reason"]
    parts += [f"{_click(kinds['clicked']) if 'clicked' in kinds else 'true'} AS clicked"]
    if table == "recommendations":
        return ", ".join([*parts, identifier("request_id"), label("announced")])
    query = "NULL::VARCHAR"
    if kinds:
        words = kinds["query"].endswith("]")
        query = "array_to_string(query::VARCHAR[], ' ')" if words else "query::VARCHAR"
    search = f"coalesce({_id('search_id', kinds['search_id'])}, 'line ' || line)" if "search_id" in kinds else "'line ' || line"
    return ", ".join([*parts, f"{search} AS search_id", f"{query} AS query", label("relevant")])


def _click(kind: str) -> str:
    """SQL for ``clicked``: true where blank, NULL where unreadable."""
    if kind == "BOOLEAN":
        return "coalesce(clicked, true)"
    given = "nullif(trim(clicked::VARCHAR), '')"
    number = f"CASE TRY_CAST({given} AS DOUBLE) WHEN 0 THEN false WHEN 1 THEN true END"
    return f"CASE WHEN {given} IS NULL THEN true ELSE coalesce({number}, TRY_CAST({given} AS BOOLEAN)) END"


def side_columns(connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """SQL columns of ``items`` or ``users``, and which columns became title, text, category or nothing.

    Categories are the columns with a category's name (in ``users``: every column); text is every other column that
    mostly holds letters and is neither an id nor an address. Names of categories are words of the item, too, numbers are not.
    """
    key = REQUIRED[table][0]
    parts = [f"{_id(key, columns[_spelt(columns, key)])} AS {key}" if columns else f"NULL::VARCHAR AS {key}"]
    rest = [name for name in columns if name.lower() not in (key, "line")]
    title, texts = None, []
    if table == "items":
        title = next((name for name in rest if name.lower() == "title"), None)
        categories = _categories([name for name in rest if _CATEGORY.search(name.lower())])
        texts = [
            name
            for name in rest
            if name != title and name not in categories and not _REFERENCE.search(name)
            and _is_text(connection, f"raw_{table}", name, columns[name])
        ]  # fmt: skip
        named = [name for name in categories if _is_text(connection, f"raw_{table}", name, columns[name])]
        words = [_cell(name, columns[name]) for name in ([title] if title else []) + texts + named]
        parts += [f"{_cell(title, columns[title]) if title else 'NULL::VARCHAR'} AS title"]
        parts += [f"nullif(concat_ws(' ', {', '.join(words)}), '') AS text" if words else "NULL::VARCHAR AS text"]
    else:
        categories = _categories(rest)
    parts += [f"{_cell(name, columns[name])} AS {quoted(category)}" for name, category in categories.items()]
    ignored = [name for name in rest if name != title and name not in texts and name not in categories]
    return ", ".join(parts), {"title": title, "text": texts, "category": list(categories), "ignored": ignored}


def _spelt(columns: dict[str, str], name: str) -> str:
    return next(column for column in columns if column.lower() == name)


def _id(column: str, kind: str) -> str:
    """SQL for an id as text; blank, NULL and NaN are NULL, 1.0 of a column of numbers is 1."""
    if kind == _FLOAT_TEXT:
        return f"CASE WHEN trim({column}) <> '' THEN split_part({column}, '.', 1) END"
    if kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL"):
        number = f"{column}::DOUBLE"
        return (
            f"CASE WHEN isnan({number}) THEN NULL WHEN {number} = trunc({number}) AND abs({number}) < 1e18 "
            f"THEN {column}::BIGINT::VARCHAR ELSE {column}::VARCHAR END"
        )
    if kind.removeprefix("U") in _INTEGERS:
        return f"{column}::VARCHAR"
    words = f"{column}::VARCHAR"  # what begins beyond the blank is not blank, and trim is slow
    return f"CASE WHEN {words} >= '!' THEN {words} WHEN trim({words}) <> '' THEN {words} END"


def _time(kind: str) -> tuple[str, str]:
    """SQL for ``timestamp`` in ms UTC, and for the reason why there is none (NULL where there is one)."""
    given = '"timestamp"'
    if kind.startswith(("TIMESTAMP", "DATE")):
        time = given if kind.endswith("TIME ZONE") else f"{given}::TIMESTAMP"
        return f"CASE WHEN isfinite({time}) THEN epoch_ms({time}) END", (
            f"CASE WHEN {given} IS NULL THEN 'time_missing' WHEN NOT isfinite({time}) THEN 'time_not_a_number' END"
        )
    if kind.removeprefix("U") in _INTEGERS:
        value = f"TRY_CAST({given} AS BIGINT)"
        return value, (f"CASE WHEN {given} IS NULL THEN 'time_missing' WHEN {value} IS NULL THEN 'time_out_of_range' END")
    words = f"nullif(trim({given}::VARCHAR), '')"
    number = f"TRY_CAST({words} AS DOUBLE)"
    date = f"CASE WHEN regexp_matches({words}, '^\\d{{4}}-') THEN epoch_ms(TRY_CAST({words} AS TIMESTAMPTZ)) END"
    whole = f"isfinite({number}) AND abs({number}) < 1e18 AND {number} = trunc({number})"
    return f"CASE WHEN {whole} THEN {number}::BIGINT WHEN {number} IS NULL THEN {date} END", (
        f"CASE WHEN {words} IS NULL THEN 'time_missing' "
        f"WHEN NOT isfinite({number}) OR ({number} IS NULL AND {date} IS NULL) THEN 'time_not_a_number' "
        f"WHEN abs({number}) >= 1e18 THEN 'time_out_of_range' WHEN {number} <> trunc({number}) THEN 'time_not_whole' END"
    )


def _categories(columns: list[str]) -> dict[str, str]:
    """``category_NAME`` for each column; of columns with the same plain name the first counts."""
    plain = {name: "category_" + re.sub(r"\W+", "_", name.lower()).removeprefix("category_") for name in columns}
    first = {category: name for name, category in reversed(plain.items())}
    return {name: category for name, category in plain.items() if first[category] == name}


def _cell(name: str, kind: str) -> str:
    """SQL for a cell of a side table as text; lists are joined by a bar, blanks are NULL."""
    if kind.endswith("]"):
        return f"nullif(array_to_string({quoted(name)}::VARCHAR[], '|'), '')"
    return _id(quoted(name), kind)


def _is_text(connection: duckdb.DuckDBPyConnection, table: str, name: str, kind: str) -> bool:
    if not kind.startswith(("VARCHAR", "ENUM")):
        return False
    cell = _cell(name, kind)
    row = connection.execute(f"""
        SELECT avg(CASE WHEN TRY_CAST({cell} AS DOUBLE) IS NOT NULL THEN 0 -- fast, and most columns are numbers
                        ELSE (regexp_matches({cell}, '\\p{{L}}') AND NOT regexp_matches({cell}, '^https?://'))::DOUBLE END)
        FROM {quoted(table)}""").fetchone()
    return row is not None and row[0] is not None and row[0] > 0.5
