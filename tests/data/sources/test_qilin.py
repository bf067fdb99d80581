"""Qilin from small Parquet folders whose corpus can be written down by hand."""

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import seerec
from seerec import cli
from seerec.data.corpus import Corpus
from seerec.data.events import Events
from seerec.data.sources.qilin import read
from seerec.errors import SeerecError

Row = dict[str, Any]
DAY = 1_732_204_800_000
NAN = float("nan")


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk is what these tests would mostly wait for."""
    monkeypatch.setattr("seerec.atomic.os.fsync", lambda _: None)


def shown(note: Any, click: Any = 0, at: Any = 0, **more: Any) -> Row:
    """An entry of a list of recommendations, ``at`` seconds after the day began (in ms, as published)."""
    time = None if at is None else DAY + 1000 * at
    return {"note_idx": note, "click": click, "like": 0, "page_time": 0.0, "request_timestamp": time, **more}


def found(note: Any, click: Any = 0.0, at: Any = 0.0, **more: Any) -> Row:
    """An entry of a list of results, which has its time in seconds."""
    return {"note_idx": note, "click": click, "like": 0.0, "page_time": NAN, "search_timestamp": DAY // 1000 + at, **more}


def request(user: Any, number: Any, *entries: Row | None, **more: Any) -> Row:
    return {
        "user_idx": user, "request_idx": number, "query": "asked later", "recent_clicked_note_idxs": [7],
        "session_idx": 1, "rec_result_details_with_idx": list(entries), **more,
    }  # fmt: skip


def search(user: Any, number: Any, query: str | None, *entries: Row | None, **more: Any) -> Row:
    return {
        "user_idx": user, "search_idx": number, "query": query, "query_from_type": 1.0, "dpr_results": [[7.0, 0.5]],
        "search_result_details_with_idx": list(entries), **more,
    }  # fmt: skip


def note(number: Any, title: str | None = "title", content: str | None = "content", **more: Any) -> Row:
    taxonomies = {"taxonomy1_id": "5ab", "taxonomy2_id": "c0", "taxonomy3_id": "nan"}
    return {
        "note_idx": number,
        "note_title": title,
        "note_content": content,
        "note_type": 1.0,
        "imp_num": 5.0,
        **taxonomies,
        **more,
    }


def user(number: Any, **more: Any) -> Row:
    told = {"gender": "female", "platform": "iOS", "age": "19-22", "location": "", "fans_num": 3.0}
    return {**told, "user_idx": number, **more}


def write(folder: Path, files: dict[str, list[Row] | pa.Table]) -> Path:
    """Each list of rows to ``folder/NAME.parquet``; NAME may have folders."""
    for name, rows in files.items():
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    return folder


def small() -> dict[str, list[Row] | pa.Table]:
    """One user: requests 1, 2 (training) and 3 (test), search 1."""
    return {
        "recommendation_train/train-00000-of-00001": [
            request(5, 1, shown(10, 1, 100), shown(11, 0, 100)),
            request(5, 2, shown(12, 1, 200), shown(13, 1, 200), shown(10, 0, 200)),
        ],
        "recommendation_test/train-00000-of-00001": [request(5, 3, shown(14, 1, 300), shown(11, 1, 300))],
        "search_train/train-00000-of-00001": [search(5, 1, "面包机", found(20, 0.0, 150), found(12, 1.0, 151))],
        "search_test/train-00000-of-00001": [search(5, 2, "hat", found(21, 0.0, 250), found(22, 0.0, 251))],
        "notes/train-00000-of-00002": [note(10, "第一", "好吃的面包"), note(11), note(12), note(13)],
        "notes/train-00001-of-00002": [note(14), note(20), note(21), note(22), note(23)],
        "user_feat/train-00000-of-00001": [user(5), user(6)],
    }


def events(folder: Path, files: dict[str, list[Row] | pa.Table] | None = None, **options: Any) -> Events:
    """Checked events of ``small`` with some files replaced."""
    write(folder, small() | {f"{name}/train-00000-of-00001": rows for name, rows in (files or {}).items()})
    if "notes" in (files or {}):
        for path in (folder / "notes").glob("*-of-00002.parquet"):
            path.unlink()
    return read(duckdb.connect(), [folder], **options)


def rows(found: Events, table: str, columns: str) -> list[tuple[Any, ...]]:
    return found.connection.execute(f"SELECT {columns} FROM {table} ORDER BY ALL").fetchall()


def refused(found: Events, table: str) -> list[tuple[int, str]]:
    query = "SELECT line, reason FROM quarantine WHERE table_name = ? ORDER BY line"
    return found.connection.execute(query, [table]).fetchall()


def adds_up(found: Events) -> None:
    for table in ("recommendations", "searches", "items", "users"):
        read, accepted, quarantined = (found.counts[f"{table}_{what}"] for what in ("read", "accepted", "quarantined"))
        assert read == accepted + quarantined


# -- what becomes of the files ---------------------------------------------------------------------------------------


def test_events_of_both_parts(tmp_path: Path) -> None:
    made = events(tmp_path)
    assert rows(made, "recommendations", "line, user_id, item_id, timestamp, clicked, request_id") == [
        (1, "5", "10", DAY + 100_000, True, "1"), (2, "5", "11", DAY + 100_000, False, "1"),
        (3, "5", "12", DAY + 200_000, True, "2"), (4, "5", "13", DAY + 200_000, True, "2"),
        (5, "5", "10", DAY + 200_000, False, "2"),
        (6, "5", "14", DAY + 300_000, True, "3"), (7, "5", "11", DAY + 300_000, True, "3"),
    ]  # fmt: skip
    assert rows(made, "searches", "line, user_id, search_id, timestamp, query, item_id, clicked") == [
        (1, "5", "1", DAY + 151_000, "面包机", "20", False), (2, "5", "1", DAY + 151_000, "面包机", "12", True),
        (3, "5", "2", DAY + 250_000, "hat", "21", False), (4, "5", "2", DAY + 250_000, "hat", "22", False),
    ]  # fmt: skip
    assert made.source["clock"] == {"recommendations": "ms", "searches": "s"}
    assert made.source["files"]["notes"] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert made.suggested == {"split": "leave-one-out", "zero_click": "first-shown", "min_user_clicks": 3}
    assert made.counts["searches_shown_over_time"] == 2
    assert made.counts["requests_shown_over_time"] == 0
    adds_up(made)


def test_all_notes_are_counted_and_those_that_can_be_items_are_described(tmp_path: Path) -> None:
    made = events(tmp_path)
    assert (made.counts["items_read"], made.counts["items_accepted"]) == (9, 9)
    told = {item: (title, text, kind, third) for item, title, text, kind, third in rows(
        made, "items", "item_id, title, text, category_note_type, category_taxonomy3")}  # fmt: skip
    assert told["10"] == ("第一", "第一 好吃的面包 5ab c0", "1", None)
    assert told["21"][0] == "title", "the first shown of a search without a click"
    assert [item for item in sorted(told) if told[item][1] is None] == ["20", "22", "23"]
    assert made.source["items_columns"]["text"] == ["content"]
    assert rows(made, "users", "user_id, category_gender, category_platform, category_age, category_location") == [
        ("5", "female", "iOS", "19-22", None), ("6", "female", "iOS", "19-22", None),
    ]  # fmt: skip


def test_lines_follow_positions_and_lists(tmp_path: Path) -> None:
    entries = [
        shown(10, 1, 9, position=3.0), shown(11, 1, 9, position=1.0), shown(12, 1, 9, position=None),
        shown(13, 1, 9, position=2.0), shown(14, 1, 9, position=2.0), shown(15, 1, 9, position=NAN),
    ]  # fmt: skip
    made = events(tmp_path, {"recommendation_train": [request(5, 1, *entries)]})
    assert [item for _, item in rows(made, "recommendations", "line, item_id")][:6] == ["11", "13", "14", "10", "15", "12"]


def test_numbers_as_floats_and_columns_in_any_order(tmp_path: Path) -> None:
    whole = events(tmp_path / "a")
    files = {}
    for name, given in small().items():
        table = pa.Table.from_pylist(given)
        kinds = [pa.float64() if pa.types.is_integer(kind) else kind for kind in table.schema.types]
        table = table.cast(pa.schema(list(zip(table.schema.names, kinds, strict=True))))
        files[name] = table.select(table.schema.names[::-1]).rename_columns([n.upper() for n in table.schema.names[::-1]])
        for column, values in ((column, files[name][column].to_pylist()) for column in files[name].column_names):
            if column.endswith("DETAILS_WITH_IDX"):
                floats = [[{k: float(v) for k, v in reversed(entry.items())} for entry in entries] for entries in values]
                place = files[name].column_names.index(column)
                files[name] = files[name].set_column(place, column, pa.array(floats))
    write(tmp_path / "b", files)
    floats = read(duckdb.connect(), [tmp_path / "b"])
    for table in ("recommendations", "searches", "items", "users"):
        assert rows(floats, table, "*") == rows(whole, table, "*")


@pytest.mark.parametrize(
    ("name", "unit", "factor"),
    [("request_timestamp", "s", 0.001), ("search_timestamp", "ms", 1), ("timestamp", "us", 1000), ("timestamp", "ns", 1_000_000)],
)
def test_names_and_units_of_times(tmp_path: Path, name: str, unit: str, factor: float) -> None:
    entries = [{"note_idx": number, "click": 1, name: int((DAY + 1000 * number) * factor)} for number in (10, 11, 12)]
    made = events(tmp_path, {"recommendation_train": [request(5, 1, *entries)], "recommendation_test": [request(5, 2, *entries)]})
    assert rows(made, "recommendations", f"line, timestamp - {DAY}") == [(n, 10_000 + (n - 1) % 3 * 1000) for n in range(1, 7)]
    assert made.source["clock"]["recommendations"] == unit
    assert made.counts["requests_shown_over_time"] == 2


def test_times_beside_the_lists(tmp_path: Path) -> None:
    """A search without results then has a time too, and stays as its query."""
    train = [
        search(5, 1, "hat", {"note_idx": 12, "click": 1}, timestamp=DAY // 1000),
        search(5, 2, "coat", timestamp=DAY // 1000 + 9),
    ]
    train[1]["search_result_details_with_idx"] = None
    made = events(tmp_path, {"search_train": train})
    assert rows(made, "searches", "line, timestamp, query, item_id")[:2] == [(1, DAY, "hat", "12"), (2, DAY + 9000, "coat", None)]


def test_a_search_has_the_time_of_its_last_clicked_note(tmp_path: Path) -> None:
    train = [
        search(5, 1, "hat", found(20, 0.0, 10), found(21, 1.0, 20), found(22, 1.0, 30), found(23, 0.0, 4000)),
        search(5, 2, "coat", found(20, 0.0, 60), found(21, 0.0, 50)),
    ]
    made = events(tmp_path, {"search_train": train, "search_test": [search(5, 3, "hat", found(20, 1.0, 70), found(21, 0.0, 80))]})
    times = set(rows(made, "searches", f"search_id, timestamp - {DAY}"))
    assert times == {("1", 30_000), ("2", 60_000), ("3", 70_000)}
    assert made.counts["searches_shown_over_time"] == 3


# -- numbers used twice ----------------------------------------------------------------------------------------------


def test_test_part_may_number_its_requests_anew(tmp_path: Path) -> None:
    again = {
        "recommendation_test": [request(5, 1, shown(14, 1, 300)), request(5, 2, shown(12, 1, 200), shown(13, 1, 200))],
        "search_test": [search(5, 1, "another", found(21, 1.0, 999))],
    }
    made = events(tmp_path, again)
    first, second, anew = (number for line, number in rows(made, "recommendations", "line, request_id") if line in (1, 3, 6))
    assert len({first, second, anew}) == 3
    assert refused(made, "recommendations") == [(7, "duplicate"), (8, "duplicate")], "request 2 is in both parts"
    assert refused(made, "searches") == []
    assert len({number for (number,) in rows(made, "searches", "search_id")}) == 2
    adds_up(made)


# -- what is refused -------------------------------------------------------------------------------------------------


def test_refused_recommendations_say_where_they_stood(tmp_path: Path) -> None:
    train = [
        request(5, 1, shown(10, NAN, 1), shown(11, 1, 1), shown(-3, 1, 1), shown(1.5, 1, 1), shown(None, 1, 1), shown(12, 2, 1),
                None),
        request(5, 2),
        request(5, 3) | {"rec_result_details_with_idx": None},
        request(None, 4, shown(10, 1, 1)),
        request(-1, 4, shown(10, 1, 1)),
        request(5, None, shown(10, 1, 1)),
        request(5, -4, shown(10, 1, 1)),
        request(5, 5, shown(10, 1, None), shown(10, 1, -(10**9)), shown(10, 1, NAN), shown(10, 1, 1.0005e-3)),
        request(5, 6, shown(10, 1, 1), shown(10, 1, 1)),
    ]  # fmt: skip
    made = events(tmp_path, {"recommendation_train": train})
    assert refused(made, "recommendations") == [
        (1, "clicked_unreadable"), (3, "item_not_a_number"), (4, "item_not_a_number"), (5, "item_missing"),
        (6, "clicked_unreadable"), (7, "item_missing"), (8, "nothing_shown"), (9, "nothing_shown"), (10, "user_missing"),
        (11, "user_not_a_number"), (12, "request_missing"), (13, "request_not_a_number"), (14, "time_missing"),
        (15, "time_out_of_range"), (16, "time_not_a_number"), (17, "time_not_whole"), (19, "duplicate"),
    ]  # fmt: skip
    query = "SELECT content FROM quarantine WHERE table_name = 'recommendations' AND line IN (3, 19) ORDER BY line"
    (own,), (contract,) = made.connection.execute(query).fetchall()
    assert "'configuration': recommendation_train, 'row': 1, 'place': 3" in own
    assert "'note_idx': -3" in own
    assert "'configuration': recommendation_train, 'row': 9, 'place': 2" in contract
    adds_up(made)


def test_refused_searches_notes_and_users(tmp_path: Path) -> None:
    train = [
        search(5, None, "hat", found(10)), search(5, 0.5, "hat", found(10)), search(5, 3, "hat"),
        search(5, 4, "hat", found(10, NAN), found(11, 1.0)), search(5, 5, None, found(10, 1.0)),
    ]  # fmt: skip
    notes = [note(10), note(10), note(None), note(-1), note(2.5), note(11)]
    made = events(tmp_path, {"search_train": train, "notes": notes, "user_feat": [user(5), user(5), user(None), user(1.5)]})
    assert refused(made, "searches") == [
        (1, "search_missing"), (2, "search_not_a_number"), (3, "time_missing"), (4, "clicked_unreadable"),
    ]  # fmt: skip
    assert refused(made, "items") == [
        (2, "item_duplicate"), (3, "item_missing"), (4, "item_not_a_number"), (5, "item_not_a_number"),
    ]  # fmt: skip
    assert refused(made, "users") == [(2, "user_duplicate"), (3, "user_missing"), (4, "user_not_a_number")]
    assert ("5", "10", None) in rows(made, "searches", "search_id, item_id, query")
    adds_up(made)


# -- notes without text ----------------------------------------------------------------------------------------------


def bare() -> dict[str, list[Row]]:
    """Notes 30 to 32 have no text, 99 is not described."""
    return {
        "recommendation_train": [request(5, 1, shown(10, 1, 1), shown(30, 1, 1), shown(31, 0, 1), shown(99, 1, 1))],
        "search_train": [
            search(5, 1, "one clicked note has a text", found(30, 1.0, 5), found(10, 1.0, 5), found(11, 0.0, 5)),
            search(5, 2, "no clicked note has one", found(10, 0.0, 6), found(30, 1.0, 6)),
            search(5, 3, "nor has the first shown", found(31, 0.0, 7), found(10, 0.0, 7)),
            search(5, 4, "but here it has", found(10, 0.0, 8), found(31, 0.0, 8)),
        ],
        "notes": [note(10), note(11, None, "x"), note(12, "y", None), note(13), note(14), note(30, None, None), note(31, "", " "),
                  note(32, " \n", "")],
    }  # fmt: skip


def test_notes_without_text_stay_unless_refused(tmp_path: Path) -> None:
    made = events(tmp_path, bare())
    assert refused(made, "recommendations") == refused(made, "searches") == []
    assert made.source["options"] == {"notes": "all"}


def test_with_text_drops_what_the_notebook_drops(tmp_path: Path) -> None:
    made = events(tmp_path, bare(), notes="with-text")
    assert refused(made, "recommendations") == [(line, "note_without_text") for line in (2, 3, 4)]
    assert refused(made, "searches") == [
        (1, "note_without_text"), (4, "search_without_text"), (5, "note_without_text"), (6, "note_without_text"),
        (7, "search_without_text"), (9, "note_without_text"), (10, "note_without_text"), (11, "note_without_text"),
    ]  # fmt: skip
    assert rows(made, "searches", "line, search_id, item_id") == [(2, "1", "10"), (3, "1", "11"), (8, "4", "10")]
    assert made.counts["items_accepted"] == 8
    assert made.source["options"] == {"notes": "with-text"}
    adds_up(made)


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["{0}", "{0}/test-00000-of-00001", "deep/snapshots/1/{0}/train/0000"])
def test_layouts(tmp_path: Path, layout: str) -> None:
    files = {name.split("/")[0]: given for name, given in small().items() if not name.startswith("notes")}
    notes = [row for name, given in small().items() if name.startswith("notes") for row in given]
    write(tmp_path / "b", {layout.format(name): given for name, given in (files | {"notes": notes}).items()})
    write(tmp_path / "b", {"dqa/train-00000-of-00001": [{"x": 1}]})
    made = read(duckdb.connect(), [tmp_path / "b"])
    for table in ("recommendations", "searches", "items", "users"):
        assert rows(made, table, "*") == rows(events(tmp_path / "a"), table, "*")


def test_an_archive_and_folders_one_by_one(tmp_path: Path) -> None:
    whole = events(tmp_path / "raw")
    with tarfile.open(tmp_path / "qilin.tar.gz", "w:gz") as tape:
        tape.add(tmp_path / "raw", "Qilin")
    packed = read(duckdb.connect(), [tmp_path / "qilin.tar.gz"])
    apart = read(duckdb.connect(), sorted((tmp_path / "raw").iterdir()))
    for table in ("recommendations", "searches", "items", "users"):
        assert rows(packed, table, "*") == rows(apart, table, "*") == rows(whole, table, "*")


def message(folder: Path) -> str:
    with pytest.raises(SeerecError) as caught:
        read(duckdb.connect(), [folder])
    return str(caught.value)


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    files = small()
    del files["search_test/train-00000-of-00001"], files["user_feat/train-00000-of-00001"], files["notes/train-00000-of-00002"]
    files["recommendation_train/train-00000-of-00001"] = [{"user_idx": 1, "rec_result_details_with_idx": [{"note_idx": 1}]}]
    files["search_train/train-00000-of-00001"] = [{"user_idx": 1, "search_idx": 1, "search_result_details_with_idx": "[]"}]
    said = message(write(tmp_path, files))
    for part in (
        "lacks search_test, user_feat (found: recommendation_train, recommendation_test, search_train, notes)",
        "notes lacks 1 of its 2 files, first number 0",
        "has no column request_idx (found: user_idx, rec_result_details_with_idx)",
        "no click, request_timestamp or timestamp or search_timestamp in rec_result_details_with_idx (found: note_idx)",
        "has no column query (found: user_idx, search_idx, search_result_details_with_idx)",
        "no lists of structs in search_result_details_with_idx, but string",
    ):
        assert part in said


def test_folders_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "(found: no Parquet files)" in message(tmp_path / "empty")
    home = write(tmp_path / "notes" / "a", small() | {"mine": [{"x": 1}]})
    assert len(rows(read(duckdb.connect(), [home]), "items", "*")) == 9, "folders above the given one name nothing"
    shutil.copytree(home / "notes", home / "copy" / "notes")
    assert "notes lies in several folders" in message(home)


@pytest.mark.parametrize("damage", ["cut", "middle"])
@pytest.mark.parametrize("name", ["search_train/train-00000-of-00001", "notes/train-00001-of-00002"])
def test_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path, small()) / f"{name}.parquet"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[4:120] = b"\xff" * 116
    path.write_bytes(content)
    assert "cannot be read" in message(tmp_path)


# -- to the corpus ---------------------------------------------------------------------------------------------------


def many() -> dict[str, list[Row] | pa.Table]:
    """150 users with 5 requests of 4 notes, two of them clicked, and searches with and without a click between them."""
    requests: list[Row] = []
    searches: list[Row] = []
    for u in range(150):
        for k in range(5):
            first = (7 * u + 13 * k) % 200
            entries = [shown((first + i) % 200, int(i in (0, 2)), 100 * k + u, position=i + 1) for i in range(4)]
            requests.append(request(u, 10 * u + k, *entries))
        for k in range(2):
            click = float(k == 0)
            searches.append(search(u, 10 * u + k, f"query {u % 9}", found((u + k) % 200, 0.0, 50 + 100 * k + u),
                                   found(200 + u % 50, click, 52 + 100 * k + u)))  # fmt: skip
    return {
        "recommendation_train": requests[: 5 * 140], "recommendation_test": requests[5 * 140 :],
        "search_train": searches[: 2 * 140], "search_test": searches[2 * 140 :],
        "notes": [note(number, f"note {number}", "好吃的面包" * (number % 3)) for number in range(250)],
        "user_feat": [user(number) for number in range(150)],
    }  # fmt: skip


def prepared(folder: Path, **settings: Any) -> Corpus:
    write(folder / "raw", many())
    return seerec.prepare(folder / "corpus", source="qilin", paths=[folder / "raw"], settings={"negatives": 20, **settings})


def test_the_corpus_counts_what_the_rows_count(tmp_path: Path) -> None:
    corpus = prepared(tmp_path)
    counts, files = corpus.manifest["counts"], many()
    listed = [
        e
        for name in ("recommendation_train", "recommendation_test")
        for r in files[name]
        for e in r["rec_result_details_with_idx"]
    ]
    assert counts["recommendations_read"] == counts["recommendations_accepted"] == len(listed) == 3000
    assert counts["recommendation_clicks"] + counts["clicks_on_unknown_items"] == sum(e["click"] for e in listed) == 1500
    assert (counts["users"], counts["searches"], counts["searches_without_click"], counts["items_read"]) == (150, 300, 150, 250)
    assert corpus.manifest["settings"]["min_user_clicks"] == 3
    assert corpus.manifest["settings"]["split"] == "leave-one-out"
    assert corpus.manifest["source"]["name"] == "qilin"
    assert corpus.manifest["quarantined"] == {}


@pytest.mark.parametrize(("zero_click", "clicks"), [("first-shown", 2), ("keep", 1), ("drop", 1)])
def test_searches_without_a_click(tmp_path: Path, zero_click: str, clicks: int) -> None:
    corpus = prepared(tmp_path, zero_click=zero_click)
    searches = 1 if zero_click == "drop" else 2
    assert len(corpus.search_time) == 150 * searches
    assert len(corpus.click_item) == 150 * clicks
    if zero_click == "first-shown":
        items = pq.read_table(tmp_path / "corpus" / "items.parquet")
        ids = dict(zip(items["item"].to_pylist(), items["item_id"].to_pylist(), strict=True))
        named = Counter(ids[item] for item in corpus.click_item.tolist())
        expected = Counter(str(200 + u % 50) for u in range(150)) + Counter(str((u + 1) % 200) for u in range(150))
        assert named == expected
        assert (corpus.click_role > 0).sum() <= 150, "what was only shown is no target"


def test_clicks_of_a_request_do_not_see_each_other(tmp_path: Path) -> None:
    corpus = prepared(tmp_path)
    for row in range(150):
        first, end = corpus.rec_offset[row], corpus.rec_offset[row + 1]
        times = corpus.rec_time[first:end].tolist()
        assert corpus.rec_seen[first:end].tolist() == [sum(t < time for t in times) for time in times]
        searched = corpus.search_time[corpus.search_offset[row] : corpus.search_offset[row + 1]].tolist()
        assert corpus.rec_search_seen[first:end].tolist() == [sum(t < time for t in searched) for time in times]


def test_a_request_shown_again_hours_later_sees_what_came_before_its_first_note(tmp_path: Path) -> None:
    files = many()
    files["recommendation_train"][0] = request(0, 0, shown(1, 1, 3), shown(2, 0, 4), shown(1, 0, 9000), shown(2, 1, 9001))
    write(tmp_path / "raw", files)
    corpus = seerec.prepare(tmp_path / "corpus", source="qilin", paths=[tmp_path / "raw"], settings={"negatives": 20})
    assert corpus.rec_time[9] == DAY + 9_001_000
    assert corpus.rec_seen[9] == 0
    assert corpus.manifest["counts"]["requests_shown_over_time"] == 1


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "raw", many())
    given = ["prepare", "qilin", str(tmp_path / "raw"), "--out", str(tmp_path / "corpus"), "--negatives", "20", "--json"]
    assert cli.main([*given, "--notes", "with-text"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["items_read"] == 250
    assert json.loads((tmp_path / "corpus" / "manifest.json").read_text())["source"]["options"] == {"notes": "with-text"}
    assert cli.main([*given, "--notes", "some"]) != 0
