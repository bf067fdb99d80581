"""KuaiSAR against a reading of the same files by the csv module, one row at a time."""

import csv
import gzip
import io
import json
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import seerec
from seerec import cli
from seerec.data.corpus import Corpus
from seerec.data.events import Events
from seerec.data.simulation import simulate
from seerec.data.sources.kuaisar import read
from seerec.errors import SeerecError
from seerec.progress import SILENT

Row = dict[str, str]
DAY = 1_684_944_000_000  # 2023-05-25 00:00 in Beijing
VAL, TEST = "2023-05-28T00:00:00+08:00", "2023-05-29T00:00:00+08:00"
LATER_VAL, LATER_TEST = "2023-06-03T00:00:00+08:00", "2023-06-05T00:00:00+08:00"
REC = ["user_id", "item_id", "timestamp", "click"]
SRC = ["user_id", "search_session_id", "search_session_timestamp", "keyword", "item_id", "click_cnt"]
LEVELS = ("first", "second", "third", "fourth")


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk is what these tests would mostly wait for."""
    monkeypatch.setattr("seerec.atomic.os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,248 recommendations and 951 shown results of 8 users."""
    folder = tmp_path_factory.mktemp("raw") / "KuaiSAR_final"
    simulate(folder, kind="kuaisar", scale=0.0003, seed=5, progress=SILENT)
    return folder


# -- a reading that shares nothing with the source's -------------------------------------------------------------------


def table(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def whole(cell: str) -> int:
    assert float(cell) == int(float(cell))
    return int(float(cell))


def told(cell: str) -> int:
    return int(datetime.fromisoformat(f"{cell}+08:00").timestamp()) * 1000


def plain(folder: Path, clock: Callable[[Row], int] | None = None) -> tuple[list[Any], list[Any]]:
    """``(line, user, item, time, clicked)`` and ``(line, user, search, item, time, query, clicked)`` of every row."""
    recommendations = [
        (line, str(whole(r["user_id"])), str(whole(r["item_id"])), whole(r["timestamp"]), whole(r["click"]) == 1)
        for line, r in enumerate(table(folder / "rec_inter.csv"), 2)
    ]
    searches = [
        (
            line, str(whole(r["user_id"])), str(whole(r["search_session_id"])), str(whole(r["item_id"])),
            clock(r) if clock else whole(r["search_session_timestamp"]), json.loads(r["keyword"]), whole(r["click_cnt"]) > 0,
        )
        for line, r in enumerate(table(folder / "src_inter.csv"), 2)
    ]  # fmt: skip
    return recommendations, searches


def accepted(events: Events) -> tuple[list[Any], list[Any]]:
    """The same from the checked tables."""
    run = events.connection.execute
    recommendations = run("SELECT line, user_id, item_id, timestamp, clicked FROM recommendations ORDER BY line").fetchall()
    found = run("SELECT line, user_id, search_id, item_id, timestamp, query, clicked FROM searches ORDER BY line").fetchall()
    return recommendations, [(*row[:5], json.loads(row[5] or "[]"), row[6]) for row in found]


def read_folder(*paths: Path) -> Events:
    return read(duckdb.connect(), paths)


def write(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def by_hand(
    folder: Path, recommendations: Iterable[Iterable[Any]], searches: Iterable[Iterable[Any]] = ((1, 1, DAY, "[1]", 1, 1),)
) -> Path:
    """A folder with the two needed files; times in seconds after `DAY` where they are small."""

    def timed(row: Iterable[Any]) -> list[Any]:
        cells = list(row)
        cells[2] = DAY + 1000 * cells[2] if isinstance(cells[2], int) and cells[2] < 10**9 else cells[2]
        return cells

    write(folder / "rec_inter.csv", REC, map(timed, recommendations))
    write(folder / "src_inter.csv", SRC, map(timed, searches))
    return folder


def both_ways() -> list[tuple[int, int, int, int]]:
    """User 1 clicks the items 20 to 29 in turn, user 2 backwards, user 3 others; ten seconds apart from 200 on."""
    turns = {1: range(20, 30), 2: range(29, 19, -1), 3: range(50, 60)}
    return [(user, item, 200 + 10 * i, 1) for user, items in turns.items() for i, item in enumerate(items)]


def rewritten(source: Path, folder: Path, change: Callable[[str, Row], dict[str, Any]]) -> Path:
    """The files of ``source`` with other columns; ``change`` gets a file's name and a row."""
    for path in sorted(source.glob("*.csv")):
        rows = [change(path.name, row) for row in table(path)]
        write(folder / path.name, rows[0], (row.values() for row in rows))
    return folder


# -- rows ---------------------------------------------------------------------------------------------------------------


def test_every_row_of_simulated_files_is_what_the_csv_module_reads(simulated: Path) -> None:
    events = read_folder(simulated)
    recommendations, searches = plain(simulated)
    assert (len(recommendations), len(searches)) == (2248, 951)
    assert accepted(events) == (recommendations, searches)
    run = events.connection.execute
    assert run("SELECT count(*) FROM quarantine").fetchall() == [(0,)]
    items = [
        (str(whole(r["item_id"])), json.loads(r["caption"]), *(str(whole(r[f"{level}_level_category_id"])) for level in LEVELS))
        for r in table(simulated / "item_features.csv")
    ]
    found = run("SELECT item_id, title, * EXCLUDE (item_id, title, text) FROM items ORDER BY rowid").fetchall()
    assert [(row[0], json.loads(row[1]), *row[2:]) for row in found] == items
    fields = ("user_id", "search_active_level", "rec_active_level", "onehot_feat1", "onehot_feat2")
    users = [tuple(row[name] for name in fields) for row in table(simulated / "user_features.csv")]
    assert run("FROM users ORDER BY rowid").fetchall() == users


def test_columns_in_any_order_and_floats_for_whole_numbers(simulated: Path, tmp_path: Path) -> None:
    numbers = {"user_id", "item_id", "search_session_id", "search_session_timestamp", "click", "click_cnt", "timestamp"}
    numbers |= {f"{level}_level_category_id" for level in LEVELS} | {"search_active_level", "onehot_feat1"}

    def change(name: str, row: Row) -> dict[str, Any]:
        order = sorted(row, key=lambda column: random.Random(f"{name} {column}").random())
        cells = {column: f"{whole(row[column])}.0" if column in numbers else row[column] for column in order}
        return {("  KEYWORD " if column == "keyword" else column): cell for column, cell in cells.items()} | {"line": "7"}

    folder = rewritten(simulated, tmp_path / "shuffled", change)
    assert (folder / "rec_inter.csv").read_text().split("\n")[0].split(",")[:12] != REC
    shuffled, published = read_folder(folder), read_folder(simulated)
    assert accepted(shuffled) == accepted(published) == plain(simulated)
    for side in ("items", "users"):
        rows = [events.connection.execute(f"FROM {side} ORDER BY ALL").fetchall() for events in (shuffled, published)]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("name", ["search_session_time", "time"])
def test_texts_of_beijing_time_where_there_are_no_numbers(simulated: Path, tmp_path: Path, name: str) -> None:
    def change(file: str, row: Row) -> dict[str, Any]:
        kept = {column: cell for column, cell in row.items() if column not in ("timestamp", "search_session_timestamp")}
        return {name if file == "src_inter.csv" and column == "search_session_time" else column: c for column, c in kept.items()}

    recommendations, searches = plain(simulated, lambda r: told(r["search_session_time"]))
    seconds = [(*row[:3], row[3] // 1000 * 1000, row[4]) for row in recommendations]
    assert seconds != recommendations  # or the texts would not have been read
    assert accepted(read_folder(rewritten(simulated, tmp_path / "texts", change))) == (seconds, searches)


TIMES = {
    f"{DAY}": DAY, f"{DAY}.0": DAY, "1.684944e12": DAY, "2023-05-25 00:00:00": DAY, "2023/05/25 00:00:00": DAY,
    "2023-05-25T08:00:00": DAY + 8 * 3_600_000, "2023-05-25 00:00:00.250": DAY + 250, " 2023-5-25 0:00:00 ": DAY,
}  # fmt: skip


@pytest.mark.parametrize("column", ["timestamp", "time"])
def test_a_time_is_a_number_or_a_text_whatever_its_column_is_called(column: str, tmp_path: Path) -> None:
    write(tmp_path / "rec_inter.csv", ["user_id", "item_id", column, "click"], [(i, 2, cell, 1) for i, cell in enumerate(TIMES)])
    searches = [(1, i, cell, "[1]", 4, 1) for i, cell in enumerate(TIMES)]
    write(tmp_path / "src_inter.csv", [*SRC[:2], column, *SRC[3:]], searches)
    recommendations, found = accepted(read_folder(tmp_path))
    assert [row[3] for row in recommendations] == [row[4] for row in found] == list(TIMES.values())


def test_the_number_wins_over_the_text_beside_it(tmp_path: Path) -> None:
    folder = by_hand(tmp_path, [])
    write(folder / "rec_inter.csv", ["time", *REC], [("1999-01-01 00:00:00", 1, 2, DAY, 1)])
    write(folder / "src_inter.csv", ["search_session_time", *SRC], [("1999-01-01 00:00:00", 1, 2, DAY, "[1]", 4, 1)])
    recommendations, searches = accepted(read_folder(folder))
    assert (recommendations[0][3], searches[0][4]) == (DAY, DAY)


def test_keywords_are_parsed_never_evaluated(tmp_path: Path) -> None:
    cells = [
        "[20, 34, 3]", "[]", "[7]", " [ 20 , 34 ] ", "[20 34]", "[20.0, 34.0]", "[20]; 1", "20, 34", "[2.5]", "[1,,2]", "[1, 2,]",
        "[-3]", "[1e3]", "[[1]]", "[...]", "[1, 2", "['1']", "[__import__('os').system('true')]", "{1}", "[nan]",
    ]  # fmt: skip
    events = read_folder(by_hand(tmp_path, [(1, 2, 1, 1)], [(1, i, 1, cell, 5, 1) for i, cell in enumerate(cells)]))
    query = dict(events.connection.execute("SELECT search_id::INT, query FROM searches").fetchall())
    words = {cells[i]: text.replace(",", " ").strip("[] ").split() for i, text in query.items()}
    assert words == {
        "[20, 34, 3]": ["20", "34", "3"], "[]": [], "[7]": ["7"], " [ 20 , 34 ] ": ["20", "34"], "[20 34]": ["20", "34"],
        "[20.0, 34.0]": ["20", "34"],
    }  # fmt: skip
    refused = events.connection.execute("SELECT line, reason FROM quarantine ORDER BY line").fetchall()
    assert refused == [(2 + i, "query_not_a_list") for i in range(6, len(cells))]


# -- sessions, clicks, corpus -------------------------------------------------------------------------------------------


def test_a_session_is_a_user_and_a_number(tmp_path: Path) -> None:
    clicks = both_ways()
    searches = [
        (1, 5, 205, "[1, 2]", 21, 1), (1, 5, 205, "[1, 2]", 22, 0), (1, 5, 205, "[1, 2]", 23, 2),
        (2, 5, 245, "[3]", 25, 1),
        (1, 6, 205, "[1, 2]", 24, 1),
        (1, 5, 206, "[1, 2]", 25, 1), (2, 5, 245, "[4]", 26, 1),
    ]  # fmt: skip
    settings = {"split": "leave-one-out", "negatives": 1, "repeats": "keep"}
    folder = by_hand(tmp_path / "raw", clicks, searches)
    corpus = seerec.prepare(tmp_path / "c", source="kuaisar", paths=[folder], settings=settings)
    assert sessions(corpus) == {
        "1": [(DAY + 205_000, ["1", "2"], ["21", "23"]), (DAY + 205_000, ["1", "2"], ["24"])],
        "2": [(DAY + 245_000, ["3"], ["25"])],
    }
    assert corpus.manifest["quarantined"] == {"searches": {"search_inconsistent": 2}}
    lines = corpus.table("quarantine").select(["table", "line", "reason"]).to_pylist()
    assert lines == [{"table": "searches", "line": n, "reason": "search_inconsistent"} for n in (7, 8)]


def sessions(corpus: Corpus) -> dict[str, list[tuple[int, list[str], list[str]]]]:
    """Of each user with searches: time, words and clicked items of each."""
    items = dict(zip(corpus.table("items")["item"].to_pylist(), corpus.table("items")["item_id"].to_pylist(), strict=True))
    queries = corpus.table("queries")["text"].to_pylist()
    found: dict[str, list[tuple[int, list[str], list[str]]]] = {}
    for q, row in enumerate(corpus.search_row):
        words = queries[corpus.search_query[q]].strip("[]").replace(",", " ").split()
        clicked = [items[i] for i in corpus.click_item[corpus.click_offset[q] : corpus.click_offset[q + 1]].tolist()]
        found.setdefault(str(corpus.user_ids[row]), []).append((int(corpus.search_time[q]), words, clicked))
    return found


@pytest.mark.parametrize(
    ("zero_click", "expected"),
    [
        (None, [(["1"], ["22"]), (["2"], ["23", "24"]), (["3"], ["21"])]),
        ("first-shown", [(["1"], ["22"]), (["2"], ["23", "24"]), (["3"], ["21"])]),
        ("keep", [(["1"], []), (["2"], ["23", "24"]), (["3"], ["21"])]),
        ("drop", [(["2"], ["23", "24"]), (["3"], ["21"])]),
    ],
)
def test_a_session_without_a_click(zero_click: str | None, expected: list[Any], tmp_path: Path) -> None:
    clicks = both_ways()
    searches = [
        (1, 5, 205, "[1]", 22, 0), (1, 5, 205, "[1]", 21, 0),  # the file's order is the order in which they were shown
        (1, 6, 206, "[2]", 25, 0), (1, 6, 206, "[2]", 23, 1), (1, 6, 206, "[2]", 24, 3),
        (1, 7, 207, "[3]", 26, 0), (1, 7, 207, "[3]", 21, 1),
    ]  # fmt: skip
    settings = {"split": "leave-one-out", "negatives": 1} | ({"zero_click": zero_click} if zero_click else {})
    folder = by_hand(tmp_path / "raw", clicks, searches)
    corpus = seerec.prepare(tmp_path / "c", source="kuaisar", paths=[folder], settings=settings)
    assert [(words, clicked) for _, words, clicked in sessions(corpus)["1"]] == expected
    assert corpus.manifest["settings"]["zero_click"] == (zero_click or "first-shown")
    assert corpus.manifest["counts"]["searches_without_click"] == 1
    shown = [0] if zero_click in (None, "first-shown") else []
    assert (corpus.click_role == 0).nonzero()[0].tolist() == shown  # what was only shown is never a target


def corpus_by_hand(folder: Path, zero_click: str) -> dict[str, Any]:
    """What protocol.md says about these files, with the dates of the small set."""
    recommendations, searches = plain(folder)
    val, test = (int(datetime.fromisoformat(text).timestamp()) * 1000 for text in (VAL, TEST))
    users = sorted({user for _, user, _, _, clicked in recommendations if clicked})
    posed: dict[tuple[str, str], list[Any]] = {}
    for row in searches:
        if row[1] in users:
            posed.setdefault((row[1], row[2]), []).append(row)
    clicks = {key: list(dict.fromkeys(r[3] for r in rows if r[6])) for key, rows in posed.items()}
    if zero_click == "first-shown":
        clicks = {key: items or [posed[key][0][3]] for key, items in clicks.items()}
    elif zero_click == "drop":
        clicks = {key: items for key, items in clicks.items() if items}
    known = {item for _, user, item, time, clicked in recommendations if clicked and time < val}
    pool = {item for _, user, item, time, _ in recommendations if user in users and time < val}
    known |= {item for key, items in clicks.items() if posed[key][0][4] < val for item in items}
    rows = []
    for user in users:
        own = sorted((time, line, item) for line, u, item, time, c in recommendations if u == user and c and item in known)
        asked = [(posed[key][0][4], posed[key][0][0], key) for key in clicks if key[0] == user]
        asked = sorted(entry for entry in asked if posed[entry[2]][0][5] or known.intersection(clicks[entry[2]]))
        first: dict[str, int] = {}
        for time, _, key in asked:
            for item in clicks[key]:
                first.setdefault(item, time)
        events, seen = [], set()
        for time, _, item in own:
            sees = (sum(t < time for t, _, _ in own), sum(t < time for t, _, _ in asked))
            part = 1 + (time >= val) + (time >= test)
            repeated = item in seen or first.get(item, time) < time
            seen.add(item)
            good = not repeated and any(sees) and (part == 1 or item in pool)
            events.append((item, time, *sees, part if good else 0))
        rows.append((user, events, [(t, posed[k][0][5], [i for i in clicks[k] if i in known]) for t, _, k in asked]))
    return {"rows": rows, "items": known, "pool": pool & known}


@pytest.mark.parametrize("zero_click", ["first-shown", "drop", "keep"])
def test_the_corpus_is_what_the_protocol_says(simulated: Path, zero_click: str, tmp_path: Path) -> None:
    settings = {} if zero_click == "first-shown" else {"zero_click": zero_click}
    corpus = seerec.prepare(tmp_path / "c", source="kuaisar", paths=[simulated], settings=settings)
    expected = corpus_by_hand(simulated, zero_click)
    items = dict(zip(corpus.table("items")["item"].to_pylist(), corpus.table("items")["item_id"].to_pylist(), strict=True))
    rows, found = [], sessions(corpus)
    for p, user in enumerate(corpus.user_ids):
        one = slice(corpus.rec_offset[p], corpus.rec_offset[p + 1])
        arrays = (corpus.rec_time, corpus.rec_seen, corpus.rec_search_seen, corpus.rec_role)
        columns = [[items[i] for i in corpus.rec_item[one].tolist()], *(array[one].tolist() for array in arrays)]
        events = list(zip(*columns, strict=True))
        rows.append((user, events, [(t, [int(w) for w in words], c) for t, words, c in found.get(user, [])]))
    assert rows == expected["rows"]
    assert {items[i] for i in items if i > 1} == expected["items"]
    assert {items[int(i)] for i in corpus.item_pool.nonzero()[0]} == expected["pool"]
    roles = [event[4] for _, events, _ in expected["rows"] for event in events]
    assert {role: roles.count(role) > 20 for role in (0, 1, 3)} == {0: True, 1: True, 3: True}
    assert roles.count(2) > 5


def test_what_was_handed_out_together_is_no_history_of_each_other(simulated: Path, tmp_path: Path) -> None:
    corpus = seerec.prepare(tmp_path / "c", source="kuaisar", paths=[simulated], settings={"repeats": "keep"})
    tied = 0
    for split in ("train", "val", "test"):
        for e in corpus.targets(split).tolist():
            start, end = corpus.rec_offset[corpus.rec_row[e]], corpus.rec_offset[corpus.rec_row[e] + 1]
            times = corpus.rec_time[start:end]
            history = times[: corpus.rec_seen[e]]
            together = np.flatnonzero(times == corpus.rec_time[e])
            assert (history < corpus.rec_time[e]).all()
            assert not (together < corpus.rec_seen[e]).any()
            tied += len(together) > 1
    assert tied > 100


def test_the_manifest_counts_what_is_in_the_files(simulated: Path, tmp_path: Path) -> None:
    corpus = seerec.prepare(tmp_path / "c", source="kuaisar", paths=[simulated])
    counts = corpus.manifest["counts"]
    recommendations, searches = plain(simulated)
    files = {"recommendations": len(recommendations), "searches": len(searches)}
    files |= {side: len(table(simulated / f"{side[:-1]}_features.csv")) for side in ("items", "users")}
    for name, rows in files.items():
        assert (counts[f"{name}_read"], counts[f"{name}_accepted"], counts[f"{name}_quarantined"]) == (rows, rows, 0)
    asked = {(row[1], row[2]) for row in searches}
    clicked = {(row[1], row[2]) for row in searches if row[6]}
    assert counts["searches"] + counts["searches_without_word_or_known_click"] == len(asked)
    assert counts["searches_without_click"] == len(asked - clicked)
    assert counts["recommendation_clicks"] + counts["clicks_on_unknown_items"] == sum(row[4] for row in recommendations)
    assert counts["users"] == len({row[1] for row in recommendations if row[4]})
    by_user = Counter(row[1] for row in recommendations if row[4])
    strict = {"min_user_clicks": min(by_user.values()) + 1, "zero_click": "drop"}
    left = seerec.prepare(tmp_path / "m", source="kuaisar", paths=[simulated], settings=strict).manifest["counts"]
    for name, number in (
        ("users", len({row[1] for row in recommendations if row[4]})), ("searches", len(asked)),
        ("recommendation_clicks", sum(row[4] for row in recommendations)),
    ):  # fmt: skip
        assert counts[f"{name}_before_filters"] == left[f"{name}_before_filters"] == number
        assert left[name] < counts[name]
    assert corpus.manifest["source"]["files"] == ["item_features.csv", "rec_inter.csv", "src_inter.csv", "user_features.csv"]
    assert corpus.manifest["source"]["simulated"] is True


# -- small and large, dates ----------------------------------------------------------------------------------------------


def days(last: int, stray: int = 0) -> list[tuple[int, int, int, int]]:
    """A click of each of 3 users every hour from May 22 to a day of June (or of May, below 0), on 200 items in turn."""
    start, hour = DAY - 3 * 86_400_000, 3_600_000
    hours = 24 * (10 + last)
    rows = [(user, (7 * h + user) % 200, start + h * hour, 1) for h in range(hours) for user in (1, 2, 3)]
    return rows + [(1, 5, 2_000_000_000_000 + i, 1) for i in range(stray)]


@pytest.mark.parametrize(
    ("last", "stray", "size", "dates"),
    [(-1, 0, "small", (VAL, TEST)), (9, 0, "large", (LATER_VAL, LATER_TEST)), (-1, 3, "small", (VAL, TEST))],
)
def test_the_days_tell_small_from_large(last: int, stray: int, size: str, dates: tuple[str, str], tmp_path: Path) -> None:
    corpus = seerec.prepare(
        tmp_path / "c", source="kuaisar", paths=[by_hand(tmp_path / "raw", days(last, stray))], settings={"repeats": "keep"}
    )
    assert corpus.manifest["source"]["size"] == size
    settings = corpus.manifest["settings"]
    assert (settings["split"], settings["val_start"], settings["test_start"]) == ("chronological", *dates)
    bounds = [int(datetime.fromisoformat(date).timestamp()) * 1000 for date in dates]
    assert corpus.manifest["bounds"] == dict(zip(("val_start", "test_start"), bounds, strict=True))
    times = {split: corpus.rec_time[corpus.targets(split)] for split in ("train", "val", "test")}
    assert times["train"].max() < bounds[0] <= times["val"].min()
    assert times["val"].max() < bounds[1] <= times["test"].min()


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ({"val_start": "2023-05-26", "test_start": "2023-05-27"}, (1_685_059_200_000, 1_685_145_600_000)),
        ({"val_start": "2023-05-26", "test_start": "2023-05-27", "seed": 3}, (1_685_059_200_000, 1_685_145_600_000)),
        ({"test_start": "2023-05-30"}, (1_685_203_200_000, 1_685_404_800_000)),
        ({"val_start": "2023-05-27"}, (1_685_145_600_000, 1_685_289_600_000)),
        ({"split": "leave-one-out"}, (None, None)),
        ({"split": "chronological"}, (1_685_203_200_000, 1_685_289_600_000)),
    ],
)  # fmt: skip
def test_what_the_user_says_wins_over_the_dates_of_the_source(
    given: dict[str, Any], bounds: tuple[Any, Any], tmp_path: Path
) -> None:
    folder = by_hand(tmp_path / "raw", days(-1))
    corpus = seerec.prepare(tmp_path / "c", source="kuaisar", paths=[folder], settings={"repeats": "keep", **given})
    assert (corpus.manifest["bounds"]["val_start"], corpus.manifest["bounds"]["test_start"]) == bounds
    assert corpus.manifest["settings"]["zero_click"] == "first-shown"


def test_a_share_replaces_both_dates_of_the_source(tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "raw", days(-1))
    given = {"repeats": "keep", "val_fraction": 0.2, "test_fraction": 0.2}
    bounds = seerec.prepare(tmp_path / "c", source="kuaisar", paths=[folder], settings=given).manifest["bounds"]
    assert bounds["val_start"] < bounds["test_start"]
    assert {1_685_203_200_000, 1_685_289_600_000}.isdisjoint(bounds.values())


# -- files ---------------------------------------------------------------------------------------------------------------


def archive(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in members.items():
                packed.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as tape:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tape.addfile(member, io.BytesIO(content))
    return path


def test_folders_archives_and_packed_files_are_the_same_data(simulated: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in simulated.glob("*.csv")}
    below = {f"KuaiSAR_final/{name}": content for name, content in files.items()}
    mac = {
        "__MACOSX/KuaiSAR_final/._rec_inter.csv": b"x",
        "__MACOSX/KuaiSAR_final/rec_inter.csv": b"x",
        "KuaiSAR_final/.DS_Store": b"x",
    }
    packed = tmp_path / "packed"
    packed.mkdir()
    for name, content in files.items():
        (packed / f"{name}.gz").write_bytes(gzip.compress(content))
    inside = tmp_path / "inside"
    inside.mkdir()
    archive(inside / "KuaiSAR.zip", below)
    places = {
        "the folder above": simulated.parent, "zip": archive(tmp_path / "KuaiSAR.zip", {**below, **mac}),
        "tar.gz": archive(tmp_path / "KuaiSAR.tar.gz", below), "gz": packed, "folder with the archive": inside,
        "flat zip": archive(tmp_path / "flat.zip", {name.upper(): content for name, content in files.items()}),
    }  # fmt: skip
    expected = plain(simulated)
    left = sorted(path.name for path in tmp_path.iterdir())
    for what, place in places.items():
        events = read_folder(place)
        assert accepted(events) == expected, what
        assert events.source["files"] == ["item_features.csv", "rec_inter.csv", "src_inter.csv", "user_features.csv"], what
    assert accepted(read_folder(*sorted(simulated.glob("*.csv")))) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_a_simulated_set_says_so_wherever_its_files_lie(simulated: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in simulated.iterdir()}
    zipped = archive(tmp_path / "any.zip", {f"any/{name}": content for name, content in files.items()})
    unmarked = {name: content for name, content in files.items() if name.endswith(".csv")}
    for paths, said in (
        ([zipped], True),
        ([simulated / name for name in unmarked], True),
        ([archive(tmp_path / "any.tar.gz", files)], True),
        ([archive(tmp_path / "unmarked.zip", unmarked)], False),
    ):
        corpus = seerec.prepare(tmp_path / "corpus", source="kuaisar", paths=paths)
        assert corpus.manifest["source"]["simulated"] is said


def test_what_archives_held_is_removed(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    files = {f"K/{path.name}": path.read_bytes() for path in simulated.glob("*.csv")}
    read_folder(archive(tmp_path / "whole.zip", files))
    with pytest.raises(SeerecError, match=r"lacks src_inter\.csv"):
        read_folder(archive(tmp_path / "part.zip", {"K/rec_inter.csv": files["K/rec_inter.csv"]}))
    assert list((tmp_path / "temporary").iterdir()) == []


def damaged(simulated: Path, folder: Path) -> Iterable[tuple[Path, str]]:
    members = {f"K/{path.name}": path.read_bytes() for path in simulated.glob("*.csv")}
    for kind in ("zip", "tar.gz"):
        good = archive(folder / f"good.{kind}", members).read_bytes()
        for cut in (1, 9, 40, len(good) // 2, len(good) - 5, len(good)):
            (folder / f"cut-{cut}.{kind}").write_bytes(good[: len(good) - cut])
            yield folder / f"cut-{cut}.{kind}", "cannot be unpacked"
        flipped = bytearray(good)
        flipped[len(good) // 3] ^= 0xFF
        (folder / f"flipped.{kind}").write_bytes(flipped)
        yield folder / f"flipped.{kind}", "cannot be unpacked"
    (folder / "letter.zip").write_text("Dear Sir,\n")
    yield folder / "letter.zip", "cannot be unpacked"
    yield (
        archive(folder / "other.zip", {"K/readme.csv": b"a\n1\n"}),
        r"lacks rec_inter\.csv, src_inter\.csv \(found: readme\.csv\)",
    )
    yield archive(folder / "none.zip", {"K/readme.txt": b"a"}), "no such files"
    yield archive(folder / "twice.zip", members | {f"L/{name}": b"" for name in members}), r"holds rec_inter\.csv 2 times"


def test_damaged_archives_are_one_sentence(simulated: Path, tmp_path: Path) -> None:
    for path, words in damaged(simulated, tmp_path):
        with pytest.raises(SeerecError, match=words) as error:
            read_folder(path)
        assert "\n" not in str(error.value), path.name
        assert error.value.fix.endswith("."), path.name


def test_missing_files_and_columns_are_named_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SeerecError, match=r"empty lacks rec_inter\.csv, src_inter\.csv"):
        read_folder(tmp_path / "empty")
    with pytest.raises(SeerecError, match="nowhere does not exist"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(SeerecError, match="no path"):
        read_folder()
    folder = by_hand(tmp_path / "raw", [(1, 2, 1, 1)])
    (folder / "src_inter.csv").rename(folder / "src_inter.txt")
    with pytest.raises(SeerecError, match=r"raw lacks src_inter\.csv \(found: rec_inter\.csv\)"):
        read_folder(folder)
    (folder / "src_inter.txt").rename(folder / "src_inter.csv")
    write(folder / "item_features.csv", ["item_id", "words", "first_level_category_id"], [(1, "[1]", 2)])
    missing = "caption, second_level_category_id, third_level_category_id, fourth_level_category_id"
    with pytest.raises(SeerecError, match=rf"item_features\.csv has no column {missing} \(found: item_id, words, first_"):
        read_folder(folder)
    (folder / "item_features.csv").unlink()
    write(folder / "src_inter.csv", ["user", "search_session_id", "keyword", "clicks"], [(1, 1, "[1]", 1)])
    with pytest.raises(SeerecError, match=r"no column user_id, item_id, search_session_timestamp or [a-z_ ]+ or time, click_cnt"):
        read_folder(folder)
    write(folder / "rec_inter.csv", ["user_id"], [(1,)])
    with pytest.raises(
        SeerecError, match=r"rec_inter\.csv has no column item_id, timestamp or time, click \(found: user_id\)"
    ) as two:
        read_folder(folder)
    assert "src_inter.csv has no column user_id" in two.value.cause
    (folder / "src_inter.csv").unlink()
    with pytest.raises(SeerecError, match=r"lacks src_inter\.csv .*rec_inter\.csv has no column item_id"):
        read_folder(folder)


def test_categories_are_no_words_and_numbers_are_written_alike(tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "raw", days(-1))
    items = sorted({row["item_id"] for row in table(folder / "rec_inter.csv")})
    columns = ["item_id", "caption", *(f"{level}_level_category_id" for level in LEVELS)]
    write(folder / "item_features.csv", columns, [(item, "[7, 8.0]", "13.0", "13", "-1.0", "-1") for item in items])
    corpus = seerec.prepare(tmp_path / "c", source="kuaisar", paths=[folder], settings={"repeats": "keep"})
    categories = {tuple(row.values()) for row in corpus.table("items").select([f"category_{n}" for n in LEVELS]).to_pylist()}
    assert categories == {("13", "13", "-1", "-1")}
    texts = {int(word) for word in corpus.item_text_word}
    assert {row["text"] for row in corpus.table("words").to_pylist() if row["word"] in texts} == {"7", "8"}


def test_side_files_may_be_missing_and_items_unknown_to_them(tmp_path: Path) -> None:
    clicks = both_ways()
    folder = by_hand(tmp_path / "raw", clicks)
    categories = [f"{level}_level_category_id" for level in LEVELS]
    write(
        folder / "item_features.csv",
        ["item_id", "caption", *categories],
        [(20, "[4, 5]", 1, 2, "3.0", ""), (99, "[6]", 1, 1, 1, 1)],
    )
    settings = {"split": "leave-one-out", "negatives": 1}
    corpus = seerec.prepare(tmp_path / "c", source="kuaisar", paths=[folder], settings=settings)
    items = {row["item_id"]: row for row in corpus.table("items").to_pylist()}
    assert "99" not in items
    assert (items["20"]["title"], items["20"]["category_third"], items["20"]["category_fourth"]) == ("[4, 5]", "3", None)
    assert items["21"]["title"] is None
    assert corpus.manifest["counts"]["users_read"] == 0
    assert corpus.manifest["source"]["absent"] == ["user_features.csv"]


# -- the command line ----------------------------------------------------------------------------------------------------


def test_the_whole_way_on_the_command_line(simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: Any) -> tuple[int, dict[str, Any]]:
        code = cli.main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    packed = archive(
        tmp_path / "KuaiSAR.zip", {f"KuaiSAR_final/{path.name}": path.read_bytes() for path in simulated.glob("*.csv")}
    )
    code, found = run("prepare", "kuaisar", packed, "--out", tmp_path / "corpus")
    recommendations, searches = plain(simulated)
    assert code == 0
    assert (found["counts"]["recommendations_read"], found["counts"]["searches_read"]) == (len(recommendations), len(searches))
    assert found["bounds"] == {"val_start": 1_685_203_200_000, "test_start": 1_685_289_600_000}
    content = found["content_hash"]
    code, found = run("prepare", "kuaisar", simulated, "--out", tmp_path / "corpus")
    assert (code, found["content_hash"], found["replaced"]) == (0, content, True)
    dates = ("--val-start", "2023-05-26", "--test-start", "2023-05-27", "--zero-click", "drop")
    code, other = run("prepare", "kuaisar", simulated, "--out", tmp_path / "other", *dates)
    assert other["absent"] == []
    assert (code, other["bounds"]) == (0, {"val_start": 1_685_059_200_000, "test_start": 1_685_145_600_000})
    code, _ = run("train", tmp_path / "corpus", "--model", "popularity", "--out", tmp_path / "run")
    assert code == 0
    code, found = run("evaluate", tmp_path / "run")
    assert code == 0
    code, found = run("recommend", tmp_path / "run", "--user", recommendations[0][1], "-k", 3)
    assert code == 0
    for wrong, words in (((tmp_path / "nowhere",), "does not exist"), ((), "path")):
        code, found = run("prepare", "kuaisar", *wrong, "--out", tmp_path / "third")
        assert code in (1, 2)
        assert words in found["error"]["cause"].lower()
    assert not (tmp_path / "third").exists()
