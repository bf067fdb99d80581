"""OpenSearch's User Behavior Insights (UBI): JSON lines of the two indexes ``ubi_queries`` and ``ubi_events``.

Written for the schema up to 1.3 (o19s/ubi); spellings of earlier versions are read as well. What a line is, its fields say: one
with ``action_name`` or ``event_attributes`` is an event, another one with ``query_id`` or ``user_query`` a query. So the two
indexes may lie in one file or in many.

===================== =====================================================================================================
contract              UBI
===================== =====================================================================================================
``user_id``           ``client_id``, or what the option ``user`` says. A query without it has that of its first event; an event
                      of a query without it, that of the query
searches              a query with its ``user_query``: the items of ``query_response_hit_ids``, in order, not clicked; and the
                      events with its ``query_id``. Where the query was not logged, the ``user_query`` of its events counts
recommendations       events without a ``query_id``. A query without a ``user_query`` is a request for recommendations (as the
                      schema has it): its items and events are recommendations, its ``query_id`` is the ``request_id``
``item_id``           ``object_id`` of ``event_attributes.object``, or else ``internal_id``
``clicked``           whether ``action_name`` is one of ``clicks``; those of ``shown`` are not clicked. Letters' case, blanks and
                      underscores do not matter
``timestamp``         ms or ISO date of the record; a search is when the last of its items was first clicked, or else when it was
                      asked, so that none of its clicks is seen before it happened
items                 title: ``description``, ``name`` or ``title`` of the object, or of its ``object_detail``; the first by time
===================== =====================================================================================================

A ``query_id`` means its first query: another text under it later is refused as ``search_inconsistent``, further pages of the same
text add their items. A client that goes on sending the ``query_id`` of its last search with clicks on recommendations makes them
clicks of that search; nothing in the log tells them apart.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import duckdb

from seerec.data.events import YEAR_2100, Events, check
from seerec.data.files import create_quarantine, read_file
from seerec.data.sources.json_lines import SUFFIXES, damaged, document, first_documents, read_json_lines
from seerec.data.sources.published import EARLIEST, in_log_order, unpacked
from seerec.data.sql import text
from seerec.data.watching import watched
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

CLICKS = (
    "click", "item_click", "product_click", "result_click", "click_through", "select", "select_item", "open", "watch", "play",
    "add_to_cart", "add_to_basket", "add_to_wishlist", "save", "bookmark", "favorite", "favourite", "like", "download",
    "purchase", "buy", "order",
)  # fmt: skip
"""Actions that are clicks, unless the user names others."""
SHOWN = (
    "impression", "item_impression", "product_impression", "view", "item_view", "product_view", "view_item", "display",
    "show", "seen",
)  # fmt: skip
"""Actions that say that an item was shown."""
USERS = {
    "client_id": ["client_id"],
    "session_id": ["session_id", "event_attributes.session_id", "query_attributes.session_id"],
    "user_id": ["user_id", "event_attributes.user_id", "event_attributes.object.user_id", "query_attributes.user_id"],
}
_OBJECT = "event_attributes.object"
_DETAIL = f"{_OBJECT}.object_detail"
_FIELDS = {
    "action": ["action_name"],
    "attributes": ["event_attributes"],
    "query_id": ["query_id"],
    "query": ["user_query"],
    "timestamp": ["timestamp"],
    "hits": ["query_response_hit_ids", "query_response_object_ids", "query_response_objects_ids"],
    "item_id": [f"{_OBJECT}.object_id", f"{_OBJECT}.internal_id"],
    "title": [f"{place}.{name}" for place in (_OBJECT, _DETAIL) for name in ("description", "name", "title")],
    "detail": [_DETAIL],
}
_KIND = """CASE WHEN action IS NOT NULL OR attributes IS NOT NULL THEN 'event'
    WHEN query_id IS NOT NULL OR query IS NOT NULL THEN 'query' END"""
_HITS = "CASE WHEN hits[1] = '[' AND json_valid(hits) THEN coalesce(TRY_CAST(hits::JSON AS VARCHAR[]), [NULL]) ELSE [hits] END"


def read(
    connection: duckdb.DuckDBPyConnection,
    paths: Sequence[Path],
    *,
    user: Literal["client_id", "session_id", "user_id"] = "client_id",
    clicks: list[str] | None = None,
    shown: list[str] | None = None,
    items: Path | None = None,
    progress: Progress = SILENT,
) -> Events:
    """Read a UBI log.

    Besides the contract's reasons rows are refused as ``malformed_line`` (no JSON object), ``record_unknown`` (neither a query
    nor an event), ``action_unknown`` (neither in ``clicks`` nor in ``shown``; the manifest counts the names) and
    ``query_unknown`` (an event of a query that was not logged). ``read`` counts rows: a query is one for each of its items, one
    without items and where it is refused.

    Parameters
    ----------
    paths
        Files, a folder of them (.jsonl, .ndjson or .json, or with .gz; others in it are passed over), or an archive.
    user
        Who a user is. ``user_id`` is no field of a query, and only of events of people who had signed in.
    clicks, shown
        Names of actions; None: `CLICKS` and `SHOWN`.
    items
        The items' file, instead of the titles in the log.

    Raises
    ------
    SeerecError
        No file holds a record, no event is about a recommended item, an action is both clicked and shown, or as `read_file`
        and `check`.
    """
    named = {"clicks": _plain(CLICKS if clicks is None else clicks), "shown": _plain(SHOWN if shown is None else shown)}
    both = sorted(set(named["clicks"]) & set(named["shown"]))
    if both:
        raise SeerecError(f"The action {both[0]} is both clicked and shown.", "Give clicks and shown without common names.")
    connection.execute("SET TimeZone = 'UTC'")
    with unpacked(paths, SUFFIXES) as (files, _):
        logs = [file for file in files if file in paths or _holds_records(connection, file)]
        with watched(connection, progress, "reading records"):
            read_json_lines(connection, logs)
    records = _read_records(connection, user, named, ", ".join(str(path) for path in paths))
    _judge(connection)
    source: dict[str, Any] = {
        "name": "ubi",
        "files": sorted(file.name for file in logs),
        "passed_over": sorted(file.name for file in files if file not in logs),
        "options": {"user": user, **named},
        "unknown_actions": _unknown_actions(connection),
    }
    _refuse(connection)
    _recommendations(connection)
    _searches(connection)
    if items is None:
        _titles(connection)
    else:
        read_file(connection, items, "raw_items", progress=progress)
        source["files"].append(items.name)
    connection.execute("DROP TABLE judged; DROP TABLE json_lines")
    events = check(connection, source, earliest=EARLIEST, progress=progress)
    in_log_order(connection)
    return Events(connection, events.source, events.counts | {"records_read": records})


def _plain(names: Sequence[str]) -> list[str]:
    """Names of actions in lower case, letters and digits alone."""
    plain = {"".join(filter(str.isalnum, name.lower())) for name in names}
    return sorted(plain - {""})


def _fields(user: str, lines: str) -> str:
    """SQL: the rows of ``lines`` with every field of their ``content`` as text, NULL where it is blank or missing."""
    fields = _FIELDS | {"user_id": USERS[user]}
    paths = list(dict.fromkeys(path for alternatives in fields.values() for path in alternatives))
    cells = {path: f"nullif(trim(found[{place}]), '')" for place, path in enumerate(paths, 1)}
    columns = [f"coalesce({', '.join(cells[path] for path in alternatives)}) AS {name}" for name, alternatives in fields.items()]
    wanted = ", ".join(text(f"$.{path}") for path in paths)
    return f"""
        SELECT * EXCLUDE (found), {", ".join(columns)}
        FROM (SELECT *, json_extract_string({document("content")}, [{wanted}]) AS found FROM {lines})"""


def _holds_records(connection: duckdb.DuckDBPyConnection, file: Path) -> bool:
    try:
        fields = _fields("client_id", first_documents(file))
        ((held,),) = connection.execute(f"SELECT count({_KIND}) FROM ({fields})").fetchall()
    except duckdb.Error as error:
        raise damaged(file, error) from error
    return bool(held)


def _read_records(connection: duckdb.DuckDBPyConnection, user: str, named: dict[str, list[str]], place: str) -> int:
    """``record``: the fields of every readable line; returns how many are queries or events.

    ``time`` is in ms, NULL where there is none that can be; ``clicked`` is NULL for an unknown action.
    """
    number = "TRY_CAST(timestamp AS DOUBLE)"
    plain = "regexp_replace(lower(action), '[^\\p{L}\\p{N}]', '', 'g')"
    clicks, shown = (", ".join(map(text, ["", *names])) for names in (named["clicks"], named["shown"]))
    lines = "(SELECT file, line, rowid AS place, content FROM json_lines WHERE readable)"
    connection.execute(f"""
        CREATE TEMP TABLE record AS
        SELECT file, line, place, {_KIND} AS kind, action, query_id, query, user_id, timestamp, item_id,
            nullif(hits, '[]') AS hits, coalesce(title, CASE WHEN detail[1] NOT IN ('{{', '[') THEN detail END) AS title,
            CASE WHEN time BETWEEN {EARLIEST} AND {YEAR_2100 - 1} THEN time END AS time,
            CASE WHEN {plain} = '' THEN NULL WHEN {plain} IN ({clicks}) THEN true
                WHEN {plain} IN ({shown}) OR {_KIND} = 'query' THEN false END AS clicked
        FROM (
            SELECT *, CASE WHEN abs({number}) < 1e18 THEN {number}::BIGINT WHEN regexp_matches(timestamp, '^\\d{{4}}-')
                THEN epoch_ms(TRY_CAST(timestamp AS TIMESTAMPTZ)) END AS time
            FROM ({_fields(user, lines)}))""")
    ((found,),) = connection.execute("SELECT count(kind) FROM record").fetchall()
    if not found:
        raise SeerecError(
            f"{place} holds no query and no event of UBI.",
            "Give JSON lines of ubi_queries and ubi_events, a record in each; `jq -c '.hits.hits[]'` makes them of an answer.",
        )
    return int(found)


def _judge(connection: duckdb.DuckDBPyConnection) -> None:
    """``judged``: the records with what is known of their query, their table, and perhaps a reason to refuse them."""
    first = "coalesce({}, {})".format(*(
        f"first({{0}} ORDER BY time, place) FILTER (kind = '{kind}' AND {{0}} IS NOT NULL)" for kind in ("query", "event")
    ))  # fmt: skip
    connection.execute(f"""
        CREATE TEMP TABLE judged AS
        WITH asked AS (
            SELECT query_id, bool_or(kind = 'query') AS logged,
                {first.format("query")} AS query, {first.format("user_id")} AS user_id,
                coalesce(min(time) FILTER (kind = 'query'), min(time)) AS asked
            FROM record WHERE query_id IS NOT NULL GROUP BY query_id)
        SELECT file, line, place, kind, action, query_id, timestamp, time, hits, item_id, title, clicked,
            coalesce(record.user_id, asked.user_id) AS user_id, coalesce(asked, time) AS asked,
            coalesce(asked.query, record.query) AS query,
            CASE WHEN query_id IS NULL THEN kind = 'event'
                ELSE logged AND asked.query IS NULL AND (kind = 'event' OR hits IS NOT NULL) END AS recommended,
            CASE WHEN kind IS NULL THEN 'record_unknown' WHEN clicked IS NULL THEN 'action_unknown'
                WHEN kind = 'query' THEN if(asked.query IS DISTINCT FROM record.query AND logged, 'search_inconsistent', NULL)
                WHEN query_id IS NOT NULL AND NOT logged AND asked.query IS NULL THEN 'query_unknown'
                WHEN item_id IS NULL THEN 'item_missing' END AS refused
        FROM record LEFT JOIN asked USING (query_id);
        DROP TABLE record""")


def _unknown_actions(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """The fifty commonest, with how many events each names."""
    unknown = connection.execute("""
        SELECT coalesce(action, ''), count(*) AS events FROM judged WHERE refused = 'action_unknown'
        GROUP BY action ORDER BY events DESC, action LIMIT 50""")
    return dict(unknown.fetchall())


def _refuse(connection: duckdb.DuckDBPyConnection) -> None:
    """A line that is no record counts as a search where its file holds queries alone, and else as a recommendation."""
    create_quarantine(connection)
    connection.execute("""
        INSERT INTO quarantine
        WITH queries AS (SELECT file FROM judged GROUP BY file HAVING bool_and(kind = 'query'))
        SELECT if(recommended OR (kind IS NULL AND json_lines.file NOT IN (FROM queries)), 'recommendations', 'searches'),
            json_lines.line, coalesce(refused, 'malformed_line'), json_lines.file || ': ' || content
        FROM json_lines LEFT JOIN judged ON judged.place = json_lines.rowid
        WHERE NOT readable OR refused IS NOT NULL ORDER BY json_lines.rowid""")


def _rows(recommended: str) -> str:
    """SQL: what is accepted so far, a query once for each item that it showed (``number`` 1, 2, ...)."""
    accepted = f"FROM judged WHERE refused IS NULL AND {recommended}"
    return f"""(
        SELECT *, 0 AS number {accepted} AND kind = 'event'
        UNION ALL
        SELECT * REPLACE (nullif(trim(unnest({_HITS})), '') AS item_id), generate_subscripts({_HITS}, 1) AS number
        {accepted} AND kind = 'query')"""


def _recommendations(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(f"""
        CREATE TABLE raw_recommendations AS
        SELECT line, file, user_id, item_id, timestamp, clicked, query_id AS request_id
        FROM {_rows("recommended")} ORDER BY line, place, number""")
    ((rows,),) = connection.execute("SELECT count(*) FROM raw_recommendations").fetchall()
    if not rows:
        unknown = ", ".join(_unknown_actions(connection))
        raise SeerecError(
            "The log holds no recommendation: no event with an object and a known action is outside of searches"
            + (f" (unknown actions: {unknown[:200]})." if unknown else "."),
            "Events of recommended items have no query_id, or one without user_query; --clicks names their actions.",
        )


def _searches(connection: duckdb.DuckDBPyConnection) -> None:
    """A search is at the latest of its items' first clicks; rows without a sound time keep what stands there."""
    connection.execute(f"""
        CREATE TABLE raw_searches AS
        WITH timed AS (
            SELECT *, CASE WHEN clicked THEN min(time) OVER (PARTITION BY user_id, search_id, item_id, clicked) END AS first_click
            FROM (SELECT *, coalesce(query_id, 'record ' || place) AS search_id FROM {_rows("NOT recommended")}))
        SELECT line, file, user_id, search_id, query, item_id, clicked, CASE WHEN time IS NULL THEN timestamp
            ELSE greatest(asked, max(first_click) OVER (PARTITION BY user_id, search_id))::VARCHAR END AS timestamp
        FROM timed ORDER BY line, place, number""")


def _titles(connection: duckdb.DuckDBPyConnection) -> None:
    """``raw_items`` from the events, where any tells about its object."""
    connection.execute("""
        CREATE TABLE raw_items AS
        SELECT first(line ORDER BY time, place) AS line, item_id, first(title ORDER BY time, place) AS title
        FROM judged WHERE kind = 'event' AND item_id IS NOT NULL AND title IS NOT NULL GROUP BY item_id ORDER BY line, item_id""")
    ((described,),) = connection.execute("SELECT count(*) FROM raw_items").fetchall()
    if not described:
        connection.execute("DROP TABLE raw_items")
