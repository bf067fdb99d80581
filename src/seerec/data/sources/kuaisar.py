"""KuaiSAR (Sun et al., CIKM 2023): recommendations and searches of one video platform, small and large.

Files, as published: ``rec_inter.csv`` and ``src_inter.csv``; ``item_features.csv`` and ``user_features.csv`` where they are
there. ``social_network.csv`` is not read, since no model here uses it. Columns are found by name, in any order.

===================== =====================================================================================================
contract              KuaiSAR
===================== =====================================================================================================
recommendations       one row per item handed out; ``timestamp`` is when, so items handed out together share it
searches              one row per item shown; a search is (``user_id``, ``search_session_id``), its query the word ids of
                      ``keyword``
items                 title: ``caption``, a list of word ids; categories: the four levels of category ids
users                 activity levels and the two anonymous features, as categories
===================== =====================================================================================================

A time is a number of ms or, in a file without the column of numbers, a text (Beijing time). Splits: the dates that one public
program uses (protocol.md section 6); where the recommendations end tells small from large.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from seerec.data.events import Events, check
from seerec.data.files import plain_scan, scanned
from seerec.data.lines import line_per_row
from seerec.data.sources.published import (
    EARLIEST,
    blank,
    by_name,
    columns_in,
    number,
    refuse,
    time_of_text,
    unpacked,
    whole,
)  # fmt: skip
from seerec.data.sql import quoted
from seerec.data.watching import watched
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

FILES = {"rec_inter.csv": True, "src_inter.csv": True, "item_features.csv": False, "user_features.csv": False}
"""Whether a file must be there."""
LEVELS = ("first", "second", "third", "fourth")
USER_FIELDS = ("search_active_level", "rec_active_level", "onehot_feat1", "onehot_feat2")
SMALL_ENDS = 1_685_548_800_000
"""2023-06-01 in Beijing, after the last row of the small set and within the large one."""
SPLITS = {
    "small": {"val_start": "2023-05-28T00:00:00+08:00", "test_start": "2023-05-29T00:00:00+08:00"},
    "large": {"val_start": "2023-06-03T00:00:00+08:00", "test_start": "2023-06-05T00:00:00+08:00"},
}
_BEIJING = "+08:00"
_NUMBER = r"\d+(?:\.0*)?"
_LIST = rf"\s*(?:\[\s*(?:{_NUMBER}(?:(?:\s*,\s*|\s+){_NUMBER})*)?\s*\])?\s*"
_STRAY = 0.01
"""Of the recommendations so many may lie after the small set's end: a few wrong times do not make it the large one."""


def read(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], *, progress: Progress = SILENT) -> Events:
    """Read KuaiSAR as unpacked, or its archive.

    Besides the contract's reasons rows are refused as ``user_not_a_number``, ``item_not_a_number``,
    ``search_missing``, ``search_not_a_number`` (ids are whole and not negative), ``query_not_a_list`` and
    ``caption_not_a_list``.

    Raises
    ------
    SeerecError
        Files or columns are missing, or as `scanned` and `check`.
    """
    with unpacked(paths, (".csv", ".csv.gz")) as (files, simulated):
        found, plans = _planned(files, ", ".join(str(path) for path in paths))
        for name, (table, columns, refusals) in plans.items():
            _take(connection, found[name], table, columns, refusals, progress)
    absent = [name for name in FILES if name not in found]
    source: dict[str, Any] = {"name": "kuaisar", "files": sorted(found), "absent": absent, "simulated": simulated}
    events = check(connection, source, earliest=EARLIEST, progress=progress)
    ((later,),) = connection.execute(f"SELECT avg((timestamp >= {SMALL_ENDS})::DOUBLE) FROM recommendations").fetchall()
    size = "large" if later > _STRAY else "small"
    suggested = {"split": "chronological", "zero_click": "first-shown", **SPLITS[size]}
    return Events(connection, events.source | {"size": size}, events.counts, suggested)


_Plan = tuple[str, dict[str, tuple[str, str]], list[str]]
"""Table, contract column -> (file column, SQL), and CASE branches that name why a row is refused."""


def _planned(files: Sequence[Path], place: str) -> tuple[dict[str, Path], dict[str, _Plan]]:
    """Files by name, and what is read of each; all that is missing, of files and of columns, is said at once."""
    found = by_name(files, dict.fromkeys(FILES, False), place)
    plans, wrong = {}, []
    try:
        by_name(files, FILES, place)
    except SeerecError as error:
        wrong.append(error)
    for name, path in found.items():
        try:
            plans[name] = _PLANS[name](path)
        except SeerecError as error:
            wrong.append(error)
    if wrong:
        fixes = dict.fromkeys(error.fix for error in wrong)
        raise SeerecError(" ".join(error.cause for error in wrong), " ".join(fixes))
    return found, plans


def _take(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    table: str,
    columns: dict[str, tuple[str, str]],
    refusals: list[str],
    progress: Progress,
) -> None:
    """``raw_TABLE`` from a file, with what its cells hold by this format."""
    keep = [column for column, _ in columns.values()]
    selected = ", ".join(f"{value} AS {name}" for name, (_, value) in columns.items())
    refused = f"CASE {' '.join(refusals)} END AS refused"
    plain = plain_scan(path, keep)
    if plain and _took(connection, path, table, f"SELECT {selected}, {refused} FROM {plain}", progress):
        return
    with scanned(connection, path, table, keep, progress) as cells:
        with watched(connection, progress, f"reading {table}"):
            connection.execute(f"CREATE TABLE raw_{table} AS SELECT line, {selected}, {refused} FROM {cells}")
        refuse(connection, table, cells)


def _took(connection: duckdb.DuckDBPyConnection, path: Path, table: str, query: str, progress: Progress) -> bool:
    """Make ``raw_TABLE``, without ``line``, if every line is a row that is not refused: files are large, and mostly good."""
    try:
        with watched(connection, progress, f"reading {path.name}"):
            connection.execute(f"CREATE TABLE raw_{table} AS {query}")
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except duckdb.Error:
        return False
    ((rows, refused),) = connection.execute(f"SELECT count(*), count(refused) FROM raw_{table}").fetchall()
    if refused or not rows or not line_per_row(path, rows):
        connection.execute(f"DROP TABLE raw_{table}")
        return False
    connection.execute(f"ALTER TABLE raw_{table} DROP COLUMN refused")
    return True


def _id(column: str, what: str) -> tuple[tuple[str, str], str]:
    """An id that must be there, and the branch that refuses others."""
    value = whole(column)
    missing = f"CASE WHEN {blank(column)} THEN '{what}_missing' ELSE '{what}_not_a_number' END"
    return (column, value), f"WHEN ({value}) IS NULL THEN {missing}"


def _time(column: str) -> tuple[tuple[str, str], str]:
    """Ms UTC of a number, or of a text in Beijing time."""
    given = number(column)
    value = f"""CASE WHEN {given} IS NULL THEN {time_of_text(column, _BEIJING)}
                     WHEN abs({given}) < 1e18 AND {given} = trunc({given}) THEN {given}::BIGINT END"""
    why = f"""CASE WHEN {blank(column)} THEN 'time_missing'
                   WHEN {given} IS NULL OR NOT isfinite({given}) THEN 'time_not_a_number'
                   WHEN abs({given}) < 1e18 THEN 'time_not_whole' ELSE 'time_out_of_range' END"""
    return (column, value), f"WHEN ({value}) IS NULL THEN {why}"


def _recommendations(path: Path) -> _Plan:
    found = columns_in(path, {"user": ["user_id"], "item": ["item_id"], "time": ["timestamp", "time"], "click": ["click"]})
    user, no_user = _id(found["user"], "user")
    item, no_item = _id(found["item"], "item")
    time, no_time = _time(found["time"])
    click = f"CASE {number(found['click'])} WHEN 0 THEN false WHEN 1 THEN true END"
    columns = {"user_id": user, "item_id": item, "timestamp": time, "clicked": (found["click"], click)}
    return "recommendations", columns, [no_user, no_item, no_time, f"WHEN ({click}) IS NULL THEN 'clicked_unreadable'"]


def _searches(path: Path) -> _Plan:
    found = columns_in(
        path,
        {
            "user": ["user_id"], "search": ["search_session_id"], "query": ["keyword"], "item": ["item_id"],
            "time": ["search_session_timestamp", "timestamp", "search_session_time", "time"], "clicks": ["click_cnt"],
        },
    )  # fmt: skip
    user, no_user = _id(found["user"], "user")
    search, no_search = _id(found["search"], "search")
    item = whole(found["item"])
    no_item = f"WHEN CASE WHEN ({item}) IS NULL THEN NOT ({blank(found['item'])}) ELSE false END THEN 'item_not_a_number'"
    time, no_time = _time(found["time"])
    clicks = whole(found["clicks"])
    columns = {
        "user_id": user, "search_id": search, "item_id": (found["item"], item), "timestamp": time,
        "query": _words(found["query"]), "clicked": (found["clicks"], f"{number(found['clicks'])} > 0"),
    }  # fmt: skip
    unreadable = [f"WHEN ({clicks}) IS NULL THEN 'clicked_unreadable'", _no_list(found["query"], "query")]
    return "searches", columns, [no_user, no_search, no_item, no_time, *unreadable]


def _words(column: str) -> tuple[str, str]:
    """A list of word ids as text, ``[3.0]`` being ``[3]``."""
    words = quoted(column)
    return column, f"CASE WHEN contains({words}, '.') THEN regexp_replace({words}, '\\.0*', '', 'g') ELSE {words} END"


def _no_list(column: str, what: str) -> str:
    """The branch that refuses a cell which is not blank and no list of numbers."""
    return f"WHEN NOT regexp_full_match({quoted(column)}, '{_LIST}') THEN '{what}_not_a_list'"


def _items(path: Path) -> _Plan:
    wanted = {name: [name] for name in ("item_id", "caption", *(f"{level}_level_category_id" for level in LEVELS))}
    found = columns_in(path, wanted)
    item, no_item = _id(found["item_id"], "item")
    columns = {"item_id": item, "title": _words(found["caption"])}
    for level in LEVELS:
        column = found[f"{level}_level_category_id"]
        columns[f"category_{level}"] = column, _value(column)
    return "items", columns, [no_item, _no_list(found["caption"], "caption")]


def _users(path: Path) -> _Plan:
    found = columns_in(path, {name: [name] for name in ("user_id", *USER_FIELDS)})
    user, no_user = _id(found["user_id"], "user")
    return "users", {"user_id": user} | {name: (found[name], _value(found[name])) for name in USER_FIELDS}, [no_user]


def _value(column: str) -> str:
    """A category as text, ``3.0`` being 3."""
    value = number(column)
    plain = f"CASE WHEN abs({value}) < 9e15 AND {value} = trunc({value}) THEN {value}::BIGINT::VARCHAR END"
    return f"coalesce({plain}, {quoted(column)})"


_PLANS = {
    "rec_inter.csv": _recommendations, "src_inter.csv": _searches,
    "item_features.csv": _items, "user_features.csv": _users,
}  # fmt: skip
