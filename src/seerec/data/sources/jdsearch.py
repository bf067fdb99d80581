"""JDsearch (Liu et al., SIGIR 2023): searches and other behaviour of JD.com's shoppers, words and ids anonymised.

Files, as published: ``user_behavior_data``, and ``product_meta_data`` where it is there (12 million products); ending in .txt,
.tsv or .csv or in nothing, packed or not, and the published samples likewise. One line of the log is one user: a list of
events, then the user's final query with the products that it showed.

===================== =====================================================================================================
contract              JDsearch
===================== =====================================================================================================
``user_id``           ``line N``: there are no user ids, the user is the line of the file
recommendations       events whose history query is -1: the event came from no search
searches              the other events; neighbours in the log with the same query and at most 30 minutes between them are one
                      search. And the final query, with all its candidates; those with a label above 0 are clicked
``timestamp``         see below; a search is at its last event, so that none of its clicks is seen before it happened
items                 title: the words of ``name``; categories: brand, four levels, shop
===================== =====================================================================================================

Every type of event (ORD, CLICK, CART, FLW) is a click, unless ``types`` says otherwise. A second event of one item in one
search (clicked, then bought) is refused as ``duplicate``. ``read`` counts events and candidates, not lines.

Times. Documented: each number of ``history_time_list`` is the interval since the event before it, the first is 0, and the last,
one more than there are events, leads to the final query; the log covers one year that ends with the day of the final
queries, 2022-10-17. Inferred: the unit is seconds (the year is filled, and nights are quiet). So here every final query is at
12:00 Beijing time of that day, and events lie before it: orders and differences of a user's times are exact, while times of
different users may be half a day off. Candidates stand in the file with the clicked ones first, so their order says nothing
about where they were shown: leave ``zero_click`` at keep.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from seerec.data.events import Events, check
from seerec.data.files import read_file
from seerec.data.sources.published import EARLIEST, by_name, columns_in, in_log_order, number, unpacked, whole
from seerec.data.sql import quoted
from seerec.data.watching import watched
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

FINAL_QUERY = 1_665_979_200_000
"""2022-10-17 12:00 in Beijing, in ms UTC."""
SAME_SEARCH = 1800
"""Seconds: a longer pause between two events of one query makes two searches of them."""
TYPES = ("ORD", "CLICK", "CART", "FLW")
LOG, PRODUCTS = "user_behavior_data", "product_meta_data"
LISTS = {
    "items": "history_wid_list", "queries": "history_qry_list", "types": "history_type_list", "intervals": "history_time_list",
    "candidates": "candidate_wid_list", "labels": "candidate_label_list",
}  # fmt: skip
CATEGORIES = {"brand": "brand_id", "shop": "shop_id"} | {f"level_{level}": f"cate_id_{level}" for level in range(1, 5)}
_ENDINGS = tuple(f"{sample}{kind}" for sample in ("", "_sample") for kind in ("", ".txt", ".tsv", ".csv"))


def read(
    connection: duckdb.DuckDBPyConnection,
    paths: Sequence[Path],
    *,
    types: list[str] | None = None,
    progress: Progress = SILENT,
) -> Events:
    """Read JDsearch as unpacked, its archive, or its samples.

    Besides the contract's reasons events and candidates are refused as ``lists_unequal`` (the lists of their line do not belong
    together), ``type_unknown``, ``interval_unreadable`` (it or a later one, so that there is no time) and ``clicked_unreadable``
    (the label).

    Parameters
    ----------
    paths
        The folder, the archive or the files.
    types
        Which events to read; the others are counted as ``events_left_out``. None: all of `TYPES`.

    Raises
    ------
    SeerecError
        Files or columns are missing, a type is unknown, or as `read_file` and `check`.
    """
    kept = sorted({name.strip().upper() for name in types}) if types is not None else sorted(TYPES)
    if not kept or not set(kept) <= set(TYPES):
        raise SeerecError(f"The types of events are {', '.join(kept) or 'none'}.", f"Choose among {', '.join(TYPES)}.")
    endings = [f"{name}{ending}{packed}" for name in (LOG, PRODUCTS) for ending in _ENDINGS for packed in ("", ".gz")]
    with unpacked(paths, endings) as (files, simulated):
        log, products = _chosen(files, ", ".join(str(path) for path in paths))
        lists = columns_in(log, {"query": ["query"]} | {role: [name] for role, name in LISTS.items()})
        described = _product_columns(products) if products else {}
        _read_lists(connection, log, lists, progress)
        if products:
            _read_products(connection, products, described, progress)
    with watched(connection, progress, "taking the lists apart"):
        left_out = _history(connection, kept)
        _candidates(connection)
        _events(connection)
    source = {
        "name": "jdsearch",
        "simulated": simulated,
        "files": [file.name for file in (log, products) if file],
        "absent": [] if products else [PRODUCTS],
        "options": {"types": kept},
        "clock": "intervals",
        "final_query": "2022-10-17T12:00:00+08:00",
    }
    events = check(connection, source, earliest=EARLIEST, progress=progress)
    in_log_order(connection)
    return Events(connection, events.source, events.counts | {"events_left_out": left_out})


def _chosen(files: Sequence[Path], place: str) -> tuple[Path, Path | None]:
    """The log and, where it is there, the products' file."""
    found = by_name(files, {f"{name}{ending}": False for name in (LOG, PRODUCTS) for ending in _ENDINGS}, place)
    logs, products = ([file for name, file in found.items() if name.startswith(kind)] for kind in (LOG, PRODUCTS))
    for several in (logs, products):
        if len(several) > 1:
            raise SeerecError(
                f"{place} holds several files of one kind: {', '.join(file.name for file in several)}.",
                "Give the files themselves instead of the folder.",
            )
    if not logs:
        by_name(files, {f"{LOG}.txt": True}, place)
    return logs[0], products[0] if products else None


def _product_columns(file: Path) -> dict[str, str]:
    return columns_in(file, {"item_id": ["wid"], "title": ["name"]} | {role: [name] for role, name in CATEGORIES.items()})


def _words(cell: str) -> str:
    return f"replace({cell}, chr(24), ' ')"


def _read_lists(connection: duckdb.DuckDBPyConnection, log: Path, columns: dict[str, str], progress: Progress) -> None:
    """``lists``: a row per line, its cells as lists (blank: no elements), and whether they belong together."""
    read_file(connection, log, "raw_log", list(columns.values()), progress)
    connection.execute("UPDATE quarantine SET table_name = 'recommendations' WHERE table_name = 'log'")
    cut = ", ".join(f"coalesce(string_split({quoted(columns[role])}, '_'), []) AS {role}" for role in LISTS)
    connection.execute(f"""
        CREATE TEMP VIEW lists AS
        SELECT *, len(candidates) <> len(labels) AS candidates_unequal,
            len(queries) <> len(items) OR len(types) <> len(items) OR
            (len(intervals) <> len(items) + 1 AND len(items) + len(intervals) > 0) AS history_unequal,
            greatest(len(items), len(queries), len(types), len(intervals) - 1, 0)::INTEGER AS size
        FROM (SELECT line, {_words(quoted(columns["query"]))} AS query, {cut} FROM raw_log)""")


def _history(connection: duckdb.DuckDBPyConnection, kept: Sequence[str]) -> int:
    """``history``: the events of the history lists, perhaps with a reason to refuse them; returns how many were left out.

    ``place`` is the event's in its line, ``search_id`` that of the first event of its search.
    """
    known, wanted = (", ".join(f"'{name}'" for name in names) for names in (TYPES, kept))
    connection.execute(f"""
        CREATE TEMP TABLE history AS
        WITH event AS (
            SELECT line, history_unequal, unnest(range(1, size + 1))::INTEGER AS place,
                nullif(trim(unnest(items)), '') AS item_id, unnest(queries) AS query,
                upper(trim(unnest(types))) AS type, unnest(intervals[2:]) AS interval
            FROM lists),
        timed AS (SELECT *, {whole("interval")} AS seconds FROM event),
        ordered AS (
            SELECT *, sum(seconds) OVER later AS remaining, count(*) OVER later - count(seconds) OVER later AS unreadable,
                query IS DISTINCT FROM lag(query) OVER log OR lag(seconds) OVER log > {SAME_SEARCH} AS begins
            FROM timed
            WINDOW log AS (PARTITION BY line ORDER BY place),
                later AS (PARTITION BY line ORDER BY place ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING))
        SELECT line, place, type, query, item_id,
            ({FINAL_QUERY} - 1000 * least(remaining, 10000000000000))::BIGINT AS timestamp,
            max(CASE WHEN begins THEN place END) OVER (PARTITION BY line ORDER BY place) AS search_id,
            CASE WHEN history_unequal THEN 'lists_unequal'
                WHEN type IS NULL OR type NOT IN ({known}) THEN 'type_unknown'
                WHEN unreadable > 0 THEN 'interval_unreadable'
                WHEN item_id IS NULL THEN 'item_missing' END AS refused
        FROM ordered""")
    unwanted = f"refused IS NULL AND type NOT IN ({wanted})"
    ((left_out,),) = connection.execute(f"SELECT count(*) FROM history WHERE {unwanted}").fetchall()
    connection.execute(f"DELETE FROM history WHERE {unwanted}")
    return int(left_out)


def _candidates(connection: duckdb.DuckDBPyConnection) -> None:
    """``candidates``: those of the final queries, perhaps with a reason to refuse them; a query without any stands alone."""
    label = number("label")
    connection.execute(f"""
        CREATE TEMP VIEW candidates AS
        SELECT line, size + place AS place, size + 1 AS search_id, query, item_id, label, coalesce({label} > 0, false) AS clicked,
            CASE WHEN candidates_unequal THEN 'lists_unequal' WHEN alone THEN NULL
                WHEN {label} IS NULL OR NOT isfinite({label}) OR {label} < 0 THEN 'clicked_unreadable'
                WHEN item_id IS NULL THEN 'item_missing' END AS refused
        FROM (
            SELECT line, query, size, candidates_unequal, candidates = [] AND labels = [] AS alone,
                unnest(range(1, greatest(len(candidates), len(labels), 1) + 1))::INTEGER AS place,
                nullif(trim(unnest(candidates)), '') AS item_id, unnest(labels) AS label
            FROM lists)""")


def _events(connection: duckdb.DuckDBPyConnection) -> None:
    """``raw_recommendations`` and ``raw_searches`` in the order of the log; what is refused goes to quarantine."""
    searched = "coalesce(query, '-1') <> '-1'"
    connection.execute(f"""
        INSERT INTO quarantine
        SELECT CASE WHEN {searched} THEN 'searches' ELSE 'recommendations' END, line, refused, event::VARCHAR
        FROM history AS event WHERE refused IS NOT NULL ORDER BY line, place;
        INSERT INTO quarantine
        SELECT 'searches', line, refused, event::VARCHAR FROM candidates AS event WHERE refused IS NOT NULL ORDER BY line, place;
        DELETE FROM history WHERE refused IS NOT NULL;
        CREATE TABLE raw_recommendations AS
        SELECT line, 'line ' || line AS user_id, item_id, timestamp, type
        FROM history WHERE NOT ({searched}) ORDER BY line, place;
        CREATE TABLE raw_searches AS
        SELECT line, 'line ' || line AS user_id, search_id, timestamp, {_words("query")} AS query, item_id, clicked, type FROM (
            SELECT line, place, search_id, max(timestamp) OVER (PARTITION BY line, search_id) AS timestamp, query, item_id,
                true AS clicked, type
            FROM history WHERE {searched}
            UNION ALL
            SELECT line, place, search_id, {FINAL_QUERY}, query, item_id, clicked, label FROM candidates WHERE refused IS NULL)
        ORDER BY line, place;
        DROP TABLE history; DROP VIEW candidates; DROP VIEW lists; DROP TABLE raw_log""")


def _read_products(connection: duckdb.DuckDBPyConnection, file: Path, columns: dict[str, str], progress: Progress) -> None:
    read_file(connection, file, "raw_products", list(columns.values()), progress)
    connection.execute("UPDATE quarantine SET table_name = 'items' WHERE table_name = 'products'")
    categories = ", ".join(f"{quoted(columns[role])} AS category_{role}" for role in CATEGORIES)
    connection.execute(f"""
        CREATE TABLE raw_items AS
        SELECT line, {quoted(columns["item_id"])} AS item_id, {_words(quoted(columns["title"]))} AS title, {categories}
        FROM raw_products""")
    connection.execute("DROP TABLE raw_products")
