"""KuaiSAR (Sun et al., CIKM 2023): recommendations and searches of one video platform, small and large.

Files, as published: ``rec_inter.csv`` and ``src_inter.csv``; ``item_features.csv`` and ``user_features.csv`` where they are
there. ``social_network.csv`` is not read, since no model here uses it. Columns are found by name, in any order.

===================== =====================================================================================================
contract              KuaiSAR
===================== =====================================================================================================
recommendations       one row per item handed out; ``timestamp`` is when, so items handed out together share it
searches              one row per item shown; a search is (``user_id``, ``search_session_id``), its query ``keyword``'s word ids
items                 title: word ids of ``caption``; categories: the four levels of category ids
users                 activity levels and the two anonymous features, as categories
===================== =====================================================================================================

Times without a number are read from the text beside it (Beijing time). Splits: the dates that one public program uses
(protocol.md section 6); where the clicks end tells small from large.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from seerec.data.events import Events, check
from seerec.data.files import quoted, read_file
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
_CELLS = "kuaisar_cells"
_IDS = r"\s*\[\s*(\d+(\.0+)?(\s*,\s*\d+(\.0+)?)*)?\s*\]\s*"


def read(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> Events:
    """Read KuaiSAR as unpacked, or its archive.

    Besides the contract's reasons rows are refused as ``user_not_a_number``, ``item_not_a_number``,
    ``search_not_a_number`` (ids are whole and not negative), ``query_not_a_list`` and ``caption_not_a_list``.

    Raises
    ------
    SeerecError
        Files or columns are missing, or as `read_file` and `check`.
    """
    with unpacked(paths, (".csv", ".csv.gz")) as files:
        found = by_name(files, FILES, ", ".join(str(path) for path in paths))
        plans = {name: _PLANS[name](path) for name, path in found.items()}  # all headers before the first long read
        for name, (table, columns, checks) in plans.items():
            _take(connection, found[name], table, columns, checks)
    source: dict[str, Any] = {"name": "kuaisar", "files": sorted(found)}
    events = check(connection, source, earliest=EARLIEST)
    ((last,),) = connection.execute("SELECT max(timestamp) FROM recommendations").fetchall()
    size = "small" if last < SMALL_ENDS else "large"
    suggested = {"split": "chronological", "zero_click": "first-shown", **SPLITS[size]}
    return Events(connection, events.source | {"size": size}, events.counts, suggested)


_Plan = tuple[str, dict[str, tuple[str, str]], dict[str, str]]
"""Table, contract column -> (file column, SQL), reason -> SQL of when a row is refused for it."""


def _take(
    connection: duckdb.DuckDBPyConnection, path: Path, table: str, columns: dict[str, tuple[str, str]], checks: dict[str, str]
) -> None:
    """``raw_TABLE`` from a file, with what its cells hold by this format."""
    read_file(connection, path, f"raw_{_CELLS}", [column for column, _ in columns.values()])
    connection.execute("UPDATE quarantine SET table_name = $table WHERE table_name = $cells", {"table": table, "cells": _CELLS})
    selected = ", ".join(f"{value} AS {name}" for name, (_, value) in columns.items())
    reason = " ".join(f"WHEN {condition} THEN '{name}'" for name, condition in checks.items())
    connection.execute(f"""
        CREATE TABLE raw_{table} AS
        SELECT line, {selected}, {f"CASE {reason} END" if reason else "NULL::VARCHAR"} AS refused FROM raw_{_CELLS}""")
    refuse(connection, table, f"raw_{_CELLS}")
    connection.execute(f"DROP TABLE raw_{_CELLS}")


def _id(column: str, what: str, missing: str | None) -> tuple[tuple[str, str], dict[str, str]]:
    """An id, and why a row is refused for it; ``missing``: the reason where it may not be blank."""
    unreadable = f"NOT {blank(column)} AND ({whole(column)}) IS NULL"
    return (column, whole(column)), ({missing: blank(column)} if missing else {}) | {f"{what}_not_a_number": unreadable}


def _time(column: str, checks: dict[str, str]) -> tuple[str, str]:
    """Ms UTC of a number or of a text in Beijing time, as its column's name says."""
    if column.lower().endswith("time"):
        value = time_of_text(column, _BEIJING)
        checks |= {"time_missing": blank(column), "time_not_a_number": f"{value} IS NULL"}
        return column, value
    value = number(column)
    sound = f"isfinite({value}) AND abs({value}) < 1e18"
    checks |= {"time_missing": blank(column), "time_not_a_number": f"{value} IS NULL OR NOT isfinite({value})"}
    checks |= {"time_out_of_range": f"NOT ({sound})", "time_not_whole": f"{value} <> trunc({value})"}
    return column, f"CASE WHEN {sound} THEN {value}::BIGINT END"


def _recommendations(path: Path) -> _Plan:
    found = columns_in(path, {"user": ["user_id"], "item": ["item_id"], "time": ["timestamp", "time"], "click": ["click"]})
    user, checks = _id(found["user"], "user", "user_missing")
    item, more = _id(found["item"], "item", "item_missing")
    checks |= more
    time = _time(found["time"], checks)
    click = f"CASE {number(found['click'])} WHEN 0 THEN false WHEN 1 THEN true END"
    checks["clicked_unreadable"] = f"({click}) IS NULL"
    return "recommendations", {"user_id": user, "item_id": item, "timestamp": time, "clicked": (found["click"], click)}, checks


def _searches(path: Path) -> _Plan:
    found = columns_in(
        path,
        {
            "user": ["user_id"], "search": ["search_session_id"], "query": ["keyword"], "item": ["item_id"],
            "time": ["search_session_timestamp", "timestamp", "search_session_time", "time"], "clicks": ["click_cnt"],
        },
    )  # fmt: skip
    user, checks = _id(found["user"], "user", "user_missing")
    search, more = _id(found["search"], "search", "search_missing")
    item, others = _id(found["item"], "item", None)
    checks |= more | others
    time = _time(found["time"], checks)
    checks["clicked_unreadable"] = f"({whole(found['clicks'])}) IS NULL"
    query, checks["query_not_a_list"] = _words(found["query"])
    columns = {
        "user_id": user, "search_id": search, "item_id": item, "timestamp": time, "query": (found["query"], query),
        "clicked": (found["clicks"], f"{number(found['clicks'])} > 0"),
    }  # fmt: skip
    return "searches", columns, checks


def _words(column: str) -> tuple[str, str]:
    """Word ids with a blank between them, and when the cell is no list of whole numbers (blank: no words)."""
    cell = quoted(column)
    plain = f"CASE WHEN contains({cell}, '.') THEN regexp_replace({cell}, '\\.0+', '', 'g') ELSE {cell} END"
    words = f"trim(replace(replace(trim({plain}, '[] '), ',', ' '), '  ', ' '))"
    return words, f"NOT {blank(column)} AND NOT regexp_full_match({cell}, '{_IDS}')"


def _items(path: Path) -> _Plan:
    wanted = {name: [name] for name in ("item_id", "caption", *(f"{level}_level_category_id" for level in LEVELS))}
    found = columns_in(path, wanted)
    item, checks = _id(found["item_id"], "item", "item_missing")
    words, unreadable = _words(found["caption"])
    columns = {"item_id": item, "title": (found["caption"], words)}
    for level in LEVELS:
        column = found[f"{level}_level_category_id"]
        columns[f"category_{level}"] = column, _value(column)
    return "items", columns, checks | {"caption_not_a_list": unreadable}


def _users(path: Path) -> _Plan:
    found = columns_in(path, {name: [name] for name in ("user_id", *USER_FIELDS)})
    user, checks = _id(found["user_id"], "user", "user_missing")
    return "users", {"user_id": user} | {name: (found[name], _value(found[name])) for name in USER_FIELDS}, checks


def _value(column: str) -> str:
    """A category as text, ``3.0`` being 3."""
    return f"coalesce(({whole(column)})::VARCHAR, {quoted(column)})"


_PLANS = {
    "rec_inter.csv": _recommendations, "src_inter.csv": _searches,
    "item_features.csv": _items, "user_features.csv": _users,
}  # fmt: skip
