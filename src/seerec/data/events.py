"""The event contract: two tables, optional item and user tables, and a named reason for every row refused.

A source leaves raw tables of any column types in a DuckDB connection; `check` makes from them ``recommendations``,
``searches``, ``items``, ``users`` and ``quarantine``. Accepted + quarantined = read, per table, always.

Reasons: ``malformed_line``, ``user_missing``, ``item_missing``, ``time_missing``, ``time_not_a_number``,
``time_not_whole``, ``time_out_of_range`` (before 1970 or from 2100 on), ``clicked_unreadable``, ``duplicate``,
``search_empty`` (no word and no click), ``search_inconsistent`` (differs from the first row of its search in time or
query), ``item_duplicate``, ``user_duplicate``.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from seerec.data.files import create_quarantine, quoted, read_file, text, tidy
from seerec.errors import SeerecError

TABLES = ("recommendations", "searches", "items", "users")
REQUIRED = {
    "recommendations": ("user_id", "item_id", "timestamp"),
    "searches": ("user_id", "timestamp", "query"),
    "items": ("item_id",),
    "users": ("user_id",),
}
ALIASES = {
    "user_id": "user_id userid user uid user_idx customer_id customerid reviewerid reviewer_id visitor_id visitorid "
    "member_id account_id author_id session_id sessionid u",
    "item_id": "item_id itemid item iid item_idx movieid movie_id asin parent_asin product_id productid business_id "
    "book_id bookid isbn song_id track_id artist_id video_id videoid news_id article_id document_id goods_id sku "
    "recipe_id anime_id gmap_id app_id i",
    "timestamp": "timestamp time ts unixreviewtime unix_time unix_timestamp event_time created_at date datetime "
    "review_date rating_timestamp t",
    "query": "query search_query query_text keyword keywords q",
    "title": "title name item_name item_title product_title product_name movie_title book_title book-title song_name "
    "article_title",
}
YEAR_2100 = 4_102_444_800_000
WORD = r"[\p{L}\p{N}]"
_LETTER = r"'\p{L}'"
_CATEGORY = re.compile(r"categor|genre|brand|department|manufacturer|publisher|author|artist|studio|(^|_)(type|class)$")
_REFERENCE = re.compile(r"(^|_|[a-z])(id|ID|Id|asin|sku|url|URL|urls|link|image|images|imageURL|imUrl)$")


@dataclass(frozen=True)
class Events:
    """Checked event tables inside a DuckDB connection."""

    connection: duckdb.DuckDBPyConnection
    """Holds ``recommendations``, ``searches``, ``items``, ``users`` and ``quarantine``."""
    source: dict[str, Any]
    """Name, file names and options of the source; goes into the manifest."""
    counts: dict[str, int]
    """``TABLE_read``, ``TABLE_accepted``, ``TABLE_quarantined`` of each table."""


def known_name(column: str, role: str) -> bool:
    """Whether ``column`` is one of the usual names of ``role``, a key of ``ALIASES``."""
    return column.lower() in ALIASES[role].split()


def columns_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Column names of a table or view with their SQL types; empty where there is no such table."""
    (found,) = connection.execute("SELECT count(*) FROM duckdb_columns() WHERE table_name = ?", [table]).fetchone() or (
        0,
    )
    if not found:
        return {}
    return {str(row[0]): str(row[1]) for row in connection.execute(f"DESCRIBE {quoted(table)}").fetchall()}


def check(connection: duckdb.DuckDBPyConnection, source: dict[str, Any]) -> Events:
    """Sort the rows of ``raw_recommendations``, ``raw_searches``, ``raw_items`` and ``raw_users`` into accepted and not.

    Only the first raw table must exist. The raw tables are dropped.

    Raises
    ------
    SeerecError
        A required column is missing, or no recommendation row is acceptable.
    """
    connection.execute("SET TimeZone = 'UTC'")
    create_quarantine(connection)
    item_columns: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for table in TABLES:
        columns = columns_of(connection, f"raw_{table}")
        if columns or table == "recommendations":
            _require(table, columns)
        if table in ("recommendations", "searches"):
            select = _event_columns(table, columns)
        else:
            select = _side_columns(connection, table, columns, item_columns)
        if columns:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE seen AS SELECT line, {select}, raw FROM "
                               f"(SELECT *, r::VARCHAR AS raw FROM raw_{table} AS r)")  # fmt: skip
        else:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE seen AS SELECT * FROM (SELECT NULL::BIGINT AS line, {select}, "
                               "NULL::VARCHAR AS raw) WHERE false")  # fmt: skip
        connection.execute(_judge(table))
        counts |= _file_away(connection, table)
    if not counts["recommendations_accepted"]:
        raise _nothing_accepted(connection, counts["recommendations_read"])
    return Events(connection, source | ({"item_columns": item_columns} if item_columns else {}), counts)


def from_tables(*, recommendations: Any, searches: Any = None, items: Any = None, users: Any = None) -> Events:
    """Checked events from tables in memory or in files: the Python door.

    Each argument is a pandas or Polars frame, an Arrow table, a DuckDB relation, or the path of a CSV, TSV or Parquet
    file. Columns are those of the event contract.

    Raises
    ------
    SeerecError
        As `check`; also for a table of an unknown kind or an unreadable file.
    """
    connection = duckdb.connect()
    given = {"recommendations": recommendations, "searches": searches, "items": items, "users": users}
    kinds = {}
    for table, content in given.items():
        if isinstance(content, (str, Path)):
            kinds[table] = Path(content).name
            read_file(connection, Path(content), f"raw_{table}")
        elif content is not None:
            kinds[table] = type(content).__module__.split(".")[0]
            _copy(connection, table, content)
    return check(connection, {"name": "tables", "tables": kinds})


def _copy(connection: duckdb.DuckDBPyConnection, table: str, content: Any) -> None:
    if isinstance(content, duckdb.DuckDBPyRelation):
        content = content.to_arrow_table()
    try:
        connection.register("given", content)
    except (duckdb.Error, TypeError) as error:
        raise SeerecError(
            f"The {table} table is a {type(content).__name__}, which cannot be read.",
            "Give a pandas or Polars frame, an Arrow table, a DuckDB relation or a file's path.",
        ) from error
    names = list(columns_of(connection, "given"))
    kept = [(old, new) for old, new in zip(names, tidy(names), strict=True) if new.lower() != "line"]
    columns = ", ".join(f"{quoted(old)} AS {quoted(new)}" for old, new in kept)
    connection.execute(f"CREATE TABLE raw_{table} AS SELECT row_number() OVER () AS line, {columns} FROM given")
    connection.unregister("given")


def _require(table: str, columns: dict[str, str]) -> None:
    lowered = {name.lower(): name for name in columns}
    missing = [name for name in REQUIRED[table] if name not in lowered]
    if not missing:
        return
    found = [name for name in columns if name != "line"]
    close = {}
    for name in missing:
        usual = [column for column in found if name in ALIASES and known_name(column, name)]
        usual += [lowered[match] for match in difflib.get_close_matches(name, lowered, cutoff=0.6)]
        if usual:
            close[name] = usual[0]
    fix = f"Name the columns {', '.join(REQUIRED[table])}."
    if close:
        fix = "Rename " + ", ".join(f"`{column}` to `{name}`" for name, column in close.items()) + "."
    elif any(re.search(r"^[\d.]+$", column) for column in found):
        fix = f"Put a header line with {', '.join(REQUIRED[table])} on top."
    raise SeerecError(
        f"The {table} table has no column {', '.join(missing)} (found: {', '.join(found) or 'none'}).", fix
    )


def _id(column: str, kind: str) -> str:
    """SQL for an id as text; blank, NULL and NaN are NULL, 1.0 of a numeric column is 1."""
    if kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL"):
        whole = f"{column} = trunc({column}) AND abs({column}) < 1e18"
        return (
            f"CASE WHEN isnan({column}::DOUBLE) THEN NULL WHEN {whole} THEN {column}::BIGINT::VARCHAR "
            f"ELSE {column}::VARCHAR END"
        )
    return f"CASE WHEN trim({column}::VARCHAR) <> '' THEN {column}::VARCHAR END"


def _time(column: str, kind: str) -> tuple[str, str]:
    """SQL for ms UTC as DOUBLE-safe HUGEINT, and for the reason why there is none (NULL where there is one)."""
    if kind.startswith(("TIMESTAMP", "DATE")):
        finite = f"isfinite({column}::TIMESTAMP)"
        value = f"CASE WHEN {finite} THEN epoch_ms({column}{'' if 'TIME ZONE' in kind else '::TIMESTAMP'}) END"
        return value, f"CASE WHEN {column} IS NULL THEN 'time_missing' WHEN NOT {finite} THEN 'time_not_a_number' END"
    if kind in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"):
        value = f"TRY_CAST({column} AS BIGINT)"
        return value, (
            f"CASE WHEN {column} IS NULL THEN 'time_missing' WHEN {value} IS NULL THEN 'time_out_of_range' END"
        )
    words = f"nullif(trim({column}::VARCHAR), '')"
    number = f"TRY_CAST({words} AS DOUBLE)"
    date = f"epoch_ms(TRY_CAST({words} AS TIMESTAMPTZ))"
    whole = f"isfinite({number}) AND abs({number}) < 1e18 AND {number} = trunc({number})"
    value = f"CASE WHEN {whole} THEN {number}::BIGINT WHEN {number} IS NULL THEN {date} END"
    reason = (
        f"CASE WHEN {words} IS NULL THEN 'time_missing' WHEN {number} IS NULL AND {date} IS NULL "
        f"OR NOT isfinite({number}) THEN 'time_not_a_number' WHEN abs({number}) >= 1e18 THEN 'time_out_of_range' "
        f"WHEN {number} <> trunc({number}) THEN 'time_not_whole' END"
    )
    return value, reason


def _event_columns(table: str, columns: dict[str, str]) -> str:
    """SQL columns of an event table, with ``time_reason`` and ``clicked_text`` for the judgement."""
    kinds = {name.lower(): kind for name, kind in columns.items()}

    def identifier(name: str) -> str:
        return f"{_id(quoted(name), kinds[name])} AS {name}" if name in kinds else f"NULL::VARCHAR AS {name}"

    def label(name: str) -> str:
        return f"TRY_CAST({quoted(name)} AS TINYINT) AS {name}" if name in kinds else f"NULL::TINYINT AS {name}"

    time, reason = _time('"timestamp"', kinds["timestamp"]) if kinds else ("NULL::BIGINT", "NULL::VARCHAR")
    parts = [identifier("user_id"), identifier("item_id"), f"{time} AS timestamp", f"{reason} AS time_reason"]
    if table == "recommendations":
        clicked = "nullif(trim(clicked::VARCHAR), '')" if "clicked" in kinds else "NULL::VARCHAR"
        number = f"TRY_CAST({clicked} AS DOUBLE)"
        click = f"coalesce(CASE {number} WHEN 0 THEN false WHEN 1 THEN true END, TRY_CAST({clicked} AS BOOLEAN))"
        parts += [f"CASE WHEN {clicked} IS NULL THEN true ELSE {click} END AS clicked"]
        parts += [identifier("request_id"), label("announced")]
    else:
        query = "NULL::VARCHAR"
        if kinds.get("query", "").endswith("]"):
            query = "array_to_string(query::VARCHAR[], ' ')"
        elif kinds:
            query = _id("query", kinds["query"])
        search = (
            f"coalesce({_id('search_id', kinds['search_id'])}, 'line ' || line)"
            if "search_id" in kinds
            else "'line ' || line"
        )
        parts += [f"{search if kinds else 'NULL::VARCHAR'} AS search_id", f"{query} AS query", label("relevant")]
    return ", ".join(parts)


def _side_columns(
    connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], chosen: dict[str, Any]
) -> str:
    """SQL columns of the item or user table; notes in ``chosen`` what became title, text, category or nothing."""
    key = REQUIRED[table][0]
    kinds = {name.lower(): kind for name, kind in columns.items()}
    parts = [f"{_id(key, kinds[key]) if kinds else 'NULL::VARCHAR'} AS {key}"]
    rest = [name for name in columns if name.lower() not in (key, "line")]
    if table == "users":
        return ", ".join(parts + [f"{_cell(n, columns[n])} AS {c}" for n, c in _category_names(rest).items()])
    title = next((name for name in rest if name.lower() == "title"), None)
    rest = [name for name in rest if name != title]
    categories = _category_names([name for name in rest if _CATEGORY.search(name.lower())])
    rest = [name for name in rest if name not in categories and not _REFERENCE.search(name)]
    texts = [name for name in rest if _is_text(connection, f"raw_{table}", name, columns[name])]
    words = [_cell(name, columns[name]) for name in ([title] if title else []) + texts + list(categories)]
    parts += [f"{_cell(title, columns[title]) if title else 'NULL::VARCHAR'} AS title"]
    parts += [f"nullif(concat_ws(' ', {', '.join(words)}), '') AS text" if words else "NULL::VARCHAR AS text"]
    parts += [f"{_cell(name, columns[name])} AS {category}" for name, category in categories.items()]
    if columns:
        used = {title, *texts, *categories}
        ignored = [name for name in columns if name.lower() not in (key, "line") and name not in used]
        chosen |= {"title": title, "text": texts, "category": list(categories), "ignored": ignored}
    return ", ".join(parts)


def _category_names(columns: list[str]) -> dict[str, str]:
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
    """Text is what mostly holds letters and no addresses."""
    if kind != "VARCHAR" and not kind.startswith(("VARCHAR[", "ENUM")):
        return False
    cell = _cell(name, kind)
    row = connection.execute(
        f"SELECT avg((regexp_matches({cell}, {_LETTER}) AND NOT regexp_matches({cell}, '^https?://'))::DOUBLE) FROM {table}"
    ).fetchone()
    return row is not None and row[0] is not None and row[0] > 0.5


def _judge(table: str) -> str:
    """SQL that adds to every row of ``seen`` the first reason to refuse it, or NULL."""
    time = f"WHEN time_reason IS NOT NULL THEN time_reason WHEN timestamp NOT BETWEEN 0 AND {YEAR_2100 - 1} THEN 'time_out_of_range'"  # noqa: E501
    own = {
        "recommendations": f"WHEN user_id IS NULL THEN 'user_missing' WHEN item_id IS NULL THEN 'item_missing' {time} "
        "WHEN clicked IS NULL THEN 'clicked_unreadable'",
        "searches": f"WHEN user_id IS NULL THEN 'user_missing' {time} "
        f"WHEN item_id IS NULL AND NOT coalesce(regexp_matches(query, '{WORD}'), false) THEN 'search_empty'",
        "items": "WHEN item_id IS NULL THEN 'item_missing'",
        "users": "WHEN user_id IS NULL THEN 'user_missing'",
    }[table]
    same, again = {
        "recommendations": ("user_id, item_id, timestamp, request_id", "duplicate"),
        "searches": ("user_id, search_id, timestamp, item_id, query", "duplicate"),
        "items": ("item_id", "item_duplicate"),
        "users": ("user_id", "user_duplicate"),
    }[table]
    rows = f"SELECT *, CASE {own} END AS own FROM seen"
    if table == "searches":
        first = "OVER (PARTITION BY user_id, search_id, own IS NULL ORDER BY line)"
        rows = (
            "SELECT * REPLACE (CASE WHEN own IS NOT NULL THEN own WHEN timestamp <> first_time "
            "OR query IS DISTINCT FROM first_query THEN 'search_inconsistent' END AS own) FROM "
            f"(SELECT *, first_value(timestamp) {first} AS first_time, first_value(query) {first} AS first_query "
            f"FROM ({rows}))"
        )
    return f"""
        CREATE OR REPLACE TEMP TABLE judged AS
        SELECT * EXCLUDE (raw), CASE WHEN reason IS NOT NULL THEN raw::VARCHAR END AS content FROM (
            SELECT *, coalesce(own, CASE WHEN number > 1 THEN '{again}' END) AS reason FROM (
                SELECT *, row_number() OVER (PARTITION BY own IS NULL, {same} ORDER BY line) AS number FROM ({rows})))
        """


def _file_away(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, int]:
    """Accepted rows of ``judged`` to the table, the others to ``quarantine``; returns the counts."""
    hidden = {"line", "time_reason", "own", "first_time", "first_query", "number", "reason", "content"}
    order = {"recommendations": "line, timestamp", "searches": "line, timestamp"}.get(table, "line")
    names = [name for name in columns_of(connection, "judged") if name not in hidden]
    names = {
        "recommendations": "line user_id item_id timestamp clicked request_id announced".split(),
        "searches": "line user_id search_id timestamp query item_id relevant".split(),
    }.get(table, names)
    connection.execute(
        f"CREATE OR REPLACE TABLE {table} AS SELECT {', '.join(names)} FROM judged WHERE reason IS NULL ORDER BY {order}"
    )
    connection.execute(
        f"INSERT INTO quarantine SELECT '{table}', line, reason, content FROM judged WHERE reason IS NOT NULL ORDER BY {order}"
    )
    row = connection.execute(
        f"SELECT (SELECT count(*) FROM judged) + (SELECT count(*) FROM quarantine WHERE table_name = '{table}') "
        f"- (SELECT count(*) FROM judged WHERE reason IS NOT NULL), (SELECT count(*) FROM {table}), "
        f"(SELECT count(*) FROM quarantine WHERE table_name = '{table}')"
    ).fetchone()
    assert row is not None
    for kind in ("TABLE", "VIEW"):
        found = connection.execute(
            f"SELECT count(*) FROM duckdb_{kind.lower()}s() WHERE {kind.lower()}_name = 'raw_{table}'"
        ).fetchone()
        if found and found[0]:
            connection.execute(f"DROP {kind} raw_{table}")
    connection.execute("DROP TABLE seen")
    connection.execute("DROP TABLE judged")
    return {f"{table}_read": int(row[0]), f"{table}_accepted": int(row[1]), f"{table}_quarantined": int(row[2])}


def _nothing_accepted(connection: duckdb.DuckDBPyConnection, read: int) -> SeerecError:
    row = connection.execute(
        "SELECT reason, count(*), min(line), min_by(content, line) FROM quarantine WHERE table_name = 'recommendations' "
        "GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 1"
    ).fetchone()
    if row is None:
        return SeerecError("The recommendations table has no rows.", "Give a log with at least one interaction.")
    return SeerecError(
        f"None of {read} recommendation rows is acceptable; {row[1]} are {row[0]}, first line {row[2]}: {str(row[3])[:200]}.",
        "Check that the columns hold what their names say (timestamps: whole milliseconds since 1970, UTC).",
    )
