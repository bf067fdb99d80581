"""Rows, clicks and searches as the corpus keeps them: the plan's tables as arrays, and the counts of targets."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seerec.config import DataSettings
from seerec.data.corpus import SPLITS, TRAIN, UNKNOWN
from seerec.data.engines import Tables
from seerec.data.splits import Bounds, no_targets

_FATES = {1: "outside_pool", 2: "repeated", 3: "without_history"}  # of plan/10_fates.sql
Columns = dict[str, NDArray[Any]]


def write_events(tables: Tables, folder: Path, settings: DataSettings, bounds: Bounds) -> tuple[dict[str, int], pa.Table]:
    """Write rows, clicks and searches; returns the counts and the known users."""
    rows = tables.read("SELECT CAST(row_id AS BIGINT) AS row, user_id FROM kept_user ORDER BY row_id")
    rec = _arrays(
        tables,
        "SELECT row_id, item, time, part, recs, searches, fate, CAST(coalesce(announced, -1) AS INTEGER) AS announced "
        "FROM fate ORDER BY row_id, n",
    )
    search = _arrays(
        tables,
        "SELECT row_id, time, query, training, recs, searches, CAST(coalesce(relevant, -1) AS INTEGER) AS relevant "
        "FROM search_seen ORDER BY row_id, n",
    )
    click = _arrays(tables, "SELECT row_id, n, item, role FROM search_target ORDER BY row_id, n, place")
    rec_offset, search_offset = _offsets(rec["row_id"], len(rows)), _offsets(search["row_id"], len(rows))
    before = np.arange(len(rec["item"])) - rec_offset[rec["row_id"]]
    assert (rec["recs"] <= before).all(), "a click would be in its own history"
    before = np.arange(len(search["time"])) - search_offset[search["row_id"]]
    assert (search["searches"] <= before).all(), "a search would be in its own history"
    known = np.zeros(len(rows), bool)
    known[rec["row_id"][rec["part"] == TRAIN]] = True
    known[search["row_id"][search["training"] == 1]] = True
    row_user = np.where(known, np.cumsum(known) + UNKNOWN, UNKNOWN).astype(np.int32)
    role = np.where(rec["fate"] == 0, rec["part"], 0).astype(np.uint8)
    clicking, clicked, searched, asked, silent, *clicks = count_rows(
        tables,
        "FROM (SELECT DISTINCT user_id FROM recommendations WHERE clicked) AS clicking",
        "FROM recommendations WHERE clicked",
        "FROM (SELECT DISTINCT user_id, search_id FROM searches) AS searched",
        "FROM search",
        "FROM posed WHERE clicked = 0",
        *(f"FROM click WHERE part = {part}" for part in SPLITS.values()),
    )
    counts = {
        "users_before_filters": clicking, "recommendation_clicks_before_filters": clicked, "searches_before_filters": searched,
        "users": len(rows), "known_users": int(known.sum()), "recommendation_clicks": len(role),
        "searches": len(search["time"]), "search_clicks": len(click["item"]),
        "searches_without_click": silent,
        "clicks_on_unknown_items": sum(clicks) - len(role),
        "searches_without_word_or_known_click": asked - len(search["time"]),
    } | _count_targets(rec, clicks, settings, bounds)  # fmt: skip
    counts |= {f"search_targets_{split}": int((click["role"] == part).sum()) for split, part in SPLITS.items()}
    save_arrays(folder, {
        "row_user": row_user, "rec_offset": rec_offset, "search_offset": search_offset, "rec_item": rec["item"],
        "rec_time": rec["time"], "rec_seen": rec["recs"], "rec_search_seen": rec["searches"], "rec_role": role,
        "search_time": search["time"], "search_query": search["query"],
        "search_rec_seen": search["recs"], "search_search_seen": search["searches"],
        "click_item": click["item"], "click_role": click["role"].astype(np.uint8),
        "click_offset": _offsets(search_offset[click["row_id"]] + click["n"], len(search["time"])),
    })  # fmt: skip
    if (search["relevant"] >= 0).any():
        relevant = search["relevant"].astype(np.int8)
        if settings.searches == "shuffled":
            relevant[relevant == 1] = 0
        save_arrays(folder, {"truth/search_relevant": relevant})
    if (rec["announced"] >= 0).any():
        save_arrays(folder, {"truth/target_announced": rec["announced"].astype(np.int8)})
    pq.write_table(rows, folder / "rows.parquet")
    users = pa.table({"user": pa.array(row_user[known]), "user_id": rows["user_id"].filter(pa.array(known))})
    return counts, users


def _count_targets(rec: Columns, clicks: list[int], settings: DataSettings, bounds: Bounds) -> dict[str, int]:
    """Targets of each split, and those of its ``clicks`` that are none, by reason."""
    counts = {}
    for (split, part), number in zip(SPLITS.items(), clicks, strict=True):
        fate = np.bincount(rec["fate"][rec["part"] == part], minlength=len(_FATES) + 1)
        found = {name: int(fate[number]) for number, name in _FATES.items()}
        if part != TRAIN:
            found["outside_pool"] += number - int(fate.sum())
        counts[f"targets_{split}"] = int(fate[0])
        counts |= {f"targets_{split}_{name}": count for name, count in found.items() if part != TRAIN or count}
        if not fate[0]:
            if part == TRAIN:
                found["on_items_below_min_item_clicks"] = number - int(fate.sum())
            raise no_targets(split, number, found, settings, bounds)
    return counts


def _arrays(tables: Tables, query: str) -> Columns:
    table = tables.read(query)
    return {name: table[name].to_numpy() for name in table.column_names}


def _offsets(index: NDArray[Any], size: int) -> NDArray[np.int64]:
    """Size + 1 CSR offsets of sorted group numbers."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(index, minlength=size))])


def count_rows(tables: Tables, *rests: str) -> list[int]:
    """Numbers of rows, one for each ``FROM ...``."""
    numbers = ", ".join(f"(SELECT count(*) {rest}) AS number_{place}" for place, rest in enumerate(rests))
    return [int(column[0].as_py()) for column in tables.read(f"SELECT {numbers}").columns]


def save_arrays(folder: Path, arrays: Columns) -> None:
    """Write each array as ``NAME.npy``."""
    for name, array in arrays.items():
        (folder / name).parent.mkdir(exist_ok=True)
        np.save(folder / f"{name}.npy", array)
