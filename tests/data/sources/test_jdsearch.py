"""JDsearch from small logs whose events can be written down by hand, and from the published sample."""

import gzip
import json
import shutil
import tarfile
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seerec
from seerec import cli
from seerec.data.events import Events
from seerec.data.sources.jdsearch import FINAL_QUERY, LISTS, read
from seerec.errors import SeerecError

SAMPLE = Path(__file__).resolve().parents[4] / "shared" / "data" / "jdsearch-sample"
NAMES = ["query", *LISTS.values()]
PRODUCTS = "wid\tname\tbrand_id\tbrand_name\tcate_id_1\tcate_name_1\tcate_id_2\tcate_name_2\tcate_id_3\tcate_name_3\tcate_id_4"
PRODUCTS += (
    "\tcate_name_4\tshop_id\n7\t1\x182\x183\t11\tx\t21\tx\t22\tx\t23\tx\t24\tx\t31\n8\t5\t\tx\t21\tx\t22\tx\t23\tx\t25\tx\t32\n"
)
Event = tuple[int, str, Any, str]
"""Seconds after the event before, query, item, type."""


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk is what these tests would mostly wait for."""
    monkeypatch.setattr("seerec.atomic.os.fsync", lambda _: None)


def user(*events: Event, last: int = 10, query: str = "9\x188", shown: str = "70_71", labels: str = "1.0_0.0") -> dict[str, str]:
    gaps, queries, items, types = ("_".join(map(str, part)) for part in zip(*events, strict=True)) if events else ("", "", "", "")
    return {
        "query": query, "candidate_wid_list": shown, "candidate_label_list": labels, "history_qry_list": queries,
        "history_wid_list": items, "history_type_list": types, "history_time_list": f"{gaps}_{last}".lstrip("_"),
    }  # fmt: skip


def lines(*users: dict[str, str], end: str = "\n") -> str:
    rows = [NAMES, *([one[name] for name in NAMES] for one in users)]
    return "".join("\t".join(row) + end for row in rows)


def load(folder: Path, *users: dict[str, str], **options: Any) -> Events:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "user_behavior_data.txt").write_text(lines(*users), newline="")
    return read(duckdb.connect(), [folder], **options)


def rows(events: Events, table: str, columns: str) -> list[tuple[Any, ...]]:
    order = "ORDER BY line" if table != "quarantine" else ""
    return events.connection.execute(f"SELECT {columns} FROM {table} {order}").fetchall()


def recommended(events: Events) -> list[tuple[Any, ...]]:
    """User, item and seconds before the final query."""
    return rows(events, "recommendations", f"user_id, item_id, ({FINAL_QUERY} - timestamp) / 1000")


def searched(events: Events) -> list[tuple[Any, ...]]:
    """As `recommended`, with search, query and click."""
    return rows(events, "searches", f"user_id, search_id, ({FINAL_QUERY} - timestamp) / 1000, query, item_id, clicked")


def refused(events: Events) -> list[tuple[Any, ...]]:
    return rows(events, "quarantine", "table_name, line, reason")


def test_intervals_run_from_event_to_event_and_the_last_one_to_the_final_query(tmp_path: Path) -> None:
    first = user((0, "-1", 7, "CLICK"), (5, "-1", 8, "CART"), (20, "3\x184", 7, "ORD"), last=100)
    events = load(tmp_path, first, user((0, "-1", 9, "FLW"), last=1, query="5", shown="70", labels="0.0"))
    assert recommended(events) == [("line 2", "7", 125), ("line 2", "8", 120), ("line 3", "9", 1)]
    assert searched(events) == [
        ("line 2", "3", 100, "3 4", "7", True),
        ("line 2", "4", 0, "9 8", "70", True),
        ("line 2", "4", 0, "9 8", "71", False),
        ("line 3", "2", 0, "5", "70", False),
    ]
    assert refused(events) == []
    assert (events.source["clock"], events.source["final_query"]) == ("intervals", "2022-10-17T12:00:00+08:00")
    assert events.counts["recommendations_read"] + events.counts["searches_read"] == 7


def test_neighbours_with_one_query_are_one_search_unless_half_an_hour_passes(tmp_path: Path) -> None:
    log = user(
        (0, "3", 1, "CLICK"), (1800, "3", 2, "CLICK"), (1801, "3", 3, "CLICK"),  # a pause
        (1, "-1", 4, "CLICK"), (1, "3", 5, "CLICK"), (1, "33", 6, "CLICK"), (0, "3", 7, "CLICK"), last=0,
    )  # fmt: skip
    events = load(tmp_path, log)
    assert searched(events)[:6] == [
        ("line 2", "1", 1804, "3", "1", True),  # at the time of the last event of the search
        ("line 2", "1", 1804, "3", "2", True),
        ("line 2", "3", 3, "3", "3", True),
        ("line 2", "5", 1, "3", "5", True),
        ("line 2", "6", 0, "33", "6", True),
        ("line 2", "7", 0, "3", "7", True),
    ]


def test_events_of_one_instant_stay_in_the_order_of_the_log(tmp_path: Path) -> None:
    items = [5, 3, 9, 1, 7, 2, 8]
    events = load(tmp_path, *(user(*((0, "-1", f"{item}{n}", "ORD") for item in items)) for n in range(3)))
    ordered = events.connection.execute("SELECT item_id FROM recommendations ORDER BY user_id, timestamp, line").fetchall()
    assert ordered == [(f"{item}{n}",) for n in range(3) for item in items]


def test_a_second_event_of_an_item_in_its_search_is_a_duplicate(tmp_path: Path) -> None:
    log = user((0, "-1", 7, "CLICK"), (5, "-1", 7, "ORD"), (0, "-1", 7, "CART"), (5, "3", 8, "CLICK"), (60, "3", 8, "ORD"))
    events = load(tmp_path, log)
    assert refused(events) == [("recommendations", 2, "duplicate"), ("searches", 2, "duplicate")]
    assert [item for _, item, _ in recommended(events)] == ["7", "7"]


@pytest.mark.parametrize(
    ("changed", "kept", "clicked"),
    [
        ({"shown": "70_71_72", "labels": "3.0_0.0_2"}, ["70", "71", "72"], ["70", "72"]),
        ({"shown": "70_71", "labels": "0.0_0.0"}, ["70", "71"], []),
        ({"shown": "", "labels": ""}, [None], []),
        ({"shown": "70_70", "labels": "1.0_0.0"}, ["70", "70"], ["70"]),
    ],
)
def test_the_final_query_is_a_search_with_its_candidates(
    changed: dict[str, str], kept: list[str | None], clicked: list[str], tmp_path: Path
) -> None:
    events = load(tmp_path, user((0, "-1", 7, "CLICK"), **changed))  # type: ignore[arg-type]
    assert [item for *_, item, _ in searched(events)] == kept
    assert [item for *_, item, click in searched(events) if click and item] == clicked
    assert refused(events) == []


RIGHT_TO_LEFT = "\u05d0\u05d1"
BAD = [
    ({"history_type_list": "CLICK_CLICK"}, [("lists_unequal", 3)]),
    ({"history_wid_list": "1_2_3_4"}, [("lists_unequal", 4)]),
    ({"history_qry_list": ""}, [("lists_unequal", 3)]),
    ({"history_time_list": "0_1_2"}, [("lists_unequal", 3)]),
    ({"history_time_list": "0_1_2_3_4_5"}, [("lists_unequal", 5)]),
    ({"history_type_list": "click_ Cart _SALE"}, [("type_unknown", 1)]),
    ({"history_type_list": f"CLICK_{RIGHT_TO_LEFT}_"}, [("type_unknown", 2)]),
    ({"history_time_list": "0_x_2_3"}, [("interval_unreadable", 1)]),
    ({"history_time_list": "junk_1_2_3"}, []),
    ({"history_time_list": "0_1_2_"}, [("interval_unreadable", 3)]),
    ({"history_time_list": "0_1_-2_3"}, [("interval_unreadable", 2)]),
    ({"history_time_list": "0_nan_2.5_inf"}, [("interval_unreadable", 3)]),
    ({"history_time_list": "0_1.0_2.0_3e0"}, []),
    ({"history_time_list": "0_8000000000000000_2_3"}, [("time_out_of_range", 1)]),
    ({"history_time_list": "0_999999999_2_3"}, [("time_out_of_range", 1)]),
    ({"history_time_list": "0_" + "9" * 400 + "_2_3"}, [("interval_unreadable", 1)]),
    ({"history_wid_list": "1__3"}, [("item_missing", 1)]),
    ({"history_wid_list": "1_2\0_3"}, [("id_not_text", 1)]),
    ({"history_qry_list": "-1__-1"}, []),
    ({"history_qry_list": f"-1_{RIGHT_TO_LEFT}\x18\u202e_-1"}, []),
    ({"candidate_wid_list": "70"}, [("lists_unequal", 2)]),
    ({"candidate_label_list": ""}, [("lists_unequal", 2)]),
    ({"candidate_label_list": "1.0_nan"}, [("clicked_unreadable", 1)]),
    ({"candidate_label_list": "-1_yes"}, [("clicked_unreadable", 2)]),
    ({"candidate_wid_list": "_71"}, [("item_missing", 1)]),
    ({"query": "\x18", "candidate_wid_list": "", "candidate_label_list": ""}, [("search_empty", 1)]),
    (dict.fromkeys(NAMES[1:], ""), []),
]
"""What is changed of a good line, and the reasons for which how many of its events and candidates are refused."""


def test_what_cannot_be_read_is_refused_with_its_line_and_the_rest_stays(tmp_path: Path) -> None:
    good = user((0, "-1", 1, "CLICK"), (1, "3", 2, "CART"), (2, "-1", 3, "ORD"))
    log = [good | changed for changed, _ in BAD]
    events = load(tmp_path, good, *log)
    expected = {line: reasons for line, (_, reasons) in enumerate(BAD, 3)}
    found = Counter((line, reason) for _, line, reason in refused(events))
    assert {line: [(why, number) for (one, why), number in found.items() if one == line] for line in expected} == expected
    assert (len(log), found[2, "duplicate"]) == (len(expected), 0)
    assert [time for who, _, time in recommended(events) if who == "line 2"] == [13, 10]
    assert counted(events) == sum(size(line) for line in (good, *log))


def size(line: dict[str, str]) -> int:
    """Events of a line's longest list and candidates of the longer one, a final query alone being one."""
    sizes = {role: len(line[name].split("_")) if line[name] else 0 for role, name in LISTS.items()}
    history = max(sizes["items"], sizes["queries"], sizes["types"], sizes["intervals"] - 1)
    return history + max(sizes["candidates"], sizes["labels"], 1)


def counted(events: Events) -> int:
    """How much was read; all of it is accepted or refused."""
    counts = events.counts
    for table in ("recommendations", "searches"):
        assert counts[f"{table}_read"] == counts[f"{table}_accepted"] + counts[f"{table}_quarantined"]
    return counts["recommendations_read"] + counts["searches_read"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text("017_-.e\x18NCLIK\u05d0\u202e", max_size=12), min_size=7, max_size=7), max_size=4))
def test_whatever_lines_hold_nothing_is_lost(tmp_path: Path, cells: list[list[str]]) -> None:
    log = [user((0, "-1", 1, "CLICK")), *(dict(zip(NAMES, line, strict=True)) for line in cells)]
    assert counted(load(tmp_path, *log)) == sum(map(size, log))


def test_only_the_types_asked_for_are_read(tmp_path: Path) -> None:
    log = user((0, "-1", 1, "CLICK"), (1, "3", 2, "CART"), (2, "3", 3, "ORD"), (1, "3", 4, "CART"), (1, "-1", 5, "sale"), last=0)
    events = load(tmp_path, log, types=["ord", "Click "])
    assert recommended(events) == [("line 2", "1", 5)]
    assert searched(events)[0] == ("line 2", "2", 2, "3", "3", True)  # its search began with the cart
    assert refused(events) == [("recommendations", 2, "type_unknown")]
    assert events.counts["events_left_out"] == 2
    assert events.source["options"] == {"types": ["CLICK", "ORD"]}
    for types in ([], ["SALE"]):
        with pytest.raises(SeerecError, match="types of events"):
            load(tmp_path, log, types=types)


def test_products_have_words_and_categories(tmp_path: Path) -> None:
    (tmp_path / "product_meta_data.tsv").write_text(PRODUCTS)
    events = load(tmp_path, user((0, "-1", 7, "CLICK")))
    assert events.connection.execute("SELECT * EXCLUDE (text) FROM items ORDER BY item_id").fetchall() == [
        ("7", "1 2 3", "11", "31", "21", "22", "23", "24"),
        ("8", "5", None, "32", "21", "22", "23", "25"),
    ]
    assert (events.source["files"], events.source["absent"]) == (["user_behavior_data.txt", "product_meta_data.tsv"], [])
    (tmp_path / "product_meta_data.tsv").write_text(PRODUCTS.replace("shop_id", "shop"))
    with pytest.raises(SeerecError, match="no column shop_id"):
        load(tmp_path, user((0, "-1", 7, "CLICK")))


@pytest.mark.parametrize(("sample", "ending"), [("", ""), ("_sample", ".txt"), ("", ".tsv"), ("_sample", ".csv.gz"), ("", ".gz")])
def test_files_are_found_whatever_their_ending(sample: str, ending: str, tmp_path: Path) -> None:
    pack = gzip.compress if ending.endswith(".gz") else bytes
    name = f"user_behavior_data{sample}{ending}"
    (tmp_path / name).write_bytes(pack(lines(user((0, "-1", 7, "CLICK"))).encode()))
    (tmp_path / f"Product_Meta_Data{ending}").write_bytes(pack(PRODUCTS.encode()))
    (tmp_path / "README.md").write_text("about")
    for place in (tmp_path, tmp_path / name):
        assert recommended(read(duckdb.connect(), [place])) == [("line 2", "7", 10)]


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_the_archive_does_as_well(kind: str, tmp_path: Path) -> None:
    (tmp_path / "JDsearch").mkdir()
    (tmp_path / "JDsearch" / "user_behavior_data.txt").write_text(lines(user((0, "-1", 7, "CLICK"))))
    (tmp_path / "JDsearch" / "._user_behavior_data.txt").write_bytes(b"\0")
    archive = tmp_path / f"JDsearch.{kind}"
    if kind == "zip":
        shutil.make_archive(str(tmp_path / "JDsearch"), "zip", tmp_path, "JDsearch")
    else:
        with tarfile.open(archive, "w:gz") as tape:
            tape.add(tmp_path / "JDsearch", "JDsearch")
    assert recommended(read(duckdb.connect(), [archive])) == [("line 2", "7", 10)]
    archive.write_bytes(archive.read_bytes()[:120])
    with pytest.raises(SeerecError, match="cannot be unpacked"):
        read(duckdb.connect(), [archive])


def _without_column(text: bytes) -> bytes:
    return text.replace(b"history_time_list", b"times")


@pytest.mark.parametrize(
    ("name", "change", "cause"),
    [
        ("log.txt", bytes, "lacks user_behavior_data.txt"),
        ("user_behavior_data.txt", _without_column, "no column history_time_list"),
        ("user_behavior_data.txt", lambda text: text.split(b"\n", 1)[1], "no column query"),
        ("user_behavior_data.txt", lambda text: text[:0], "is empty"),
        ("user_behavior_data.txt", lambda text: text[: text.index(b"\n") + 1], "no readable rows"),
        ("user_behavior_data.txt", lambda text: text.decode().encode("utf-16"), "UTF-16"),
        ("user_behavior_data.txt", lambda text: text.replace(b"-1", b"\xe9"), "not UTF-8"),
        ("user_behavior_data.txt", lambda text: text.replace(b"CLICK", b"SALE"), "2 are type_unknown, the first on line 2"),
        ("user_behavior_data.txt.gz", lambda text: gzip.compress(text * 50)[:90], "user_behavior_data.txt.gz"),
        ("user_behavior_data.txt.gz", bytes, "user_behavior_data.txt.gz"),
    ],
)
def test_a_problem_of_the_whole_file_is_named(name: str, change: Any, cause: str, tmp_path: Path) -> None:
    text = lines(user((0, "-1", 7, "CLICK")), user((0, "-1", 7, "CLICK"))).encode()
    (tmp_path / name).write_bytes(change(text))
    with pytest.raises(SeerecError, match=cause) as caught:
        read(duckdb.connect(), [tmp_path])
    assert caught.value.fix


def test_two_logs_could_mean_either(tmp_path: Path) -> None:
    for name in ("user_behavior_data.txt", "user_behavior_data_sample.txt"):
        (tmp_path / name).write_text(lines(user((0, "-1", 7, "CLICK"))))
    with pytest.raises(SeerecError, match="several files of one kind"):
        read(duckdb.connect(), [tmp_path])
    with pytest.raises(SeerecError, match="does not exist"):
        read(duckdb.connect(), [tmp_path / "nowhere"])


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_line_ends_do_not_matter_and_short_lines_are_refused(start: bytes, end: str, tmp_path: Path) -> None:
    log = lines(user((0, "-1", 7, "CLICK")), user((0, "-1", 8, "CLICK"), labels="1.0_0.0"), end=end)
    first, second, third = log.split(end)[:3]
    broken = end.join([first, second, "7\t8", third.replace("1.0_0.0", "1.0"), second, ""])
    (tmp_path / "user_behavior_data").write_bytes(start + broken.encode())
    events = read(duckdb.connect(), [tmp_path])
    assert recommended(events) == [("line 2", "7", 10), ("line 4", "8", 10), ("line 5", "7", 10)]
    assert refused(events) == [
        ("recommendations", 3, "malformed_line"), ("searches", 4, "lists_unequal"), ("searches", 4, "lists_unequal")
    ]  # fmt: skip


def shoppers(users: int = 6) -> list[dict[str, str]]:
    return [
        user(*((60, "-1" if k % 3 else "4\x18\u05d0", (u * 2 + k) % 9, "CLICK") for k in range(8)), shown=f"{u}_8", labels="1_0")
        for u in range(users)
    ]


def test_a_log_becomes_the_same_corpus_from_python_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "user_behavior_data.txt").write_text(lines(*shoppers()))
    corpus = seerec.prepare(
        tmp_path / "a",
        source="jdsearch",
        paths=[tmp_path],
        options={"types": ["CLICK"]},
        settings={"negatives": 2, "repeats": "keep"},
    )
    asked = ["prepare", "jdsearch", str(tmp_path), "--types", "click", "--negatives", "2", "--repeats", "keep", "--json"]
    assert cli.main([*asked, "--out", str(tmp_path / "b")]) == 0
    assert json.loads(capsys.readouterr().out)["content_hash"] == corpus.content_hash
    assert corpus.table("rows")["user_id"].to_pylist() == [f"line {n}" for n in range(2, 8)]
    with pytest.raises(SeerecError, match="option types = 'CLICK'"):
        seerec.prepare(tmp_path / "c", source="jdsearch", paths=[tmp_path], options={"types": "CLICK"})
    assert not (tmp_path / "c").exists()


def plain_reading() -> tuple[dict[str, list[tuple[str, int]]], dict[str, list[tuple[int, str, list[str]]]]]:
    """The sample's clicks (item, time) and searches (time, query, clicked items) of each user, without SQL."""
    clicks, searches = {}, {}
    for number, line in enumerate((SAMPLE / "user_behavior_data_sample.txt").read_text().split("\n")[1:-1], 2):
        query, shown, labels, *lists = (cell.split("_") for cell in line.split("\t"))
        queries, items, _, gaps = lists
        times = [FINAL_QUERY - 1000 * sum(map(int, gaps[place + 1 :])) for place in range(len(items))]
        events = list(zip(queries, items, times, strict=True))
        clicks[f"line {number}"] = [(item, time) for asked, item, time in events if asked == "-1"]
        found = []
        for asked, group in groupby(events, lambda event: event[0]):  # no pause of the sample is long
            if asked != "-1":
                together = list(group)
                found.append((together[-1][2], asked.replace("\x18", " "), [item for _, item, _ in together]))
        chosen = [item for item, label in zip(shown, labels, strict=True) if float(label) > 0]
        searches[f"line {number}"] = [*found, (FINAL_QUERY, query[0].replace("\x18", " "), chosen)]
    return clicks, searches


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the published sample is not here")
def test_the_published_sample_reads_as_a_plain_reading_of_it(tmp_path: Path) -> None:
    clicks, searches = plain_reading()
    events = read(duckdb.connect(), [SAMPLE])
    assert {reason for *_, reason in refused(events)} == {"duplicate"}
    shown = sum(labels.count("_") + 1 for _, _, labels, *_ in (line.split("\t") for line in _sample_lines()))
    assert events.counts["recommendations_read"] == sum(map(len, clicks.values()))
    assert events.counts["searches_read"] == shown + sum(len(items) for found in searches.values() for *_, items in found[:-1])
    for who, expected in clicks.items():
        found = [(item, time) for one, item, time in rows(events, "recommendations", "user_id, item_id, timestamp") if one == who]
        assert found == list(dict.fromkeys(expected))
    kept = rows(events, "searches", "user_id, search_id, timestamp, query, item_id, clicked")
    for who, wanted in searches.items():
        mine = [row[1:] for row in kept if row[0] == who]
        told = [
            (key[1], key[2], [item for *_, item, click in group if click]) for key, group in groupby(mine, lambda row: row[:3])
        ]
        assert told == [(time, query, list(dict.fromkeys(items))) for time, query, items in wanted]
    bounds = {"split": "chronological", "val_start": "2022-10-12T02:47:00", "test_start": "2022-10-13", "repeats": "keep"}
    corpus = seerec.prepare(tmp_path / "c", source="jdsearch", paths=[SAMPLE], settings={**bounds, "negatives": 9})
    names = dict(zip(corpus.table("items")["item"].to_pylist(), corpus.table("items")["item_id"].to_pylist(), strict=True))
    asked = corpus.table("queries")["text"].to_pylist()
    for row, who in enumerate(corpus.table("rows")["user_id"].to_pylist()):
        part = slice(corpus.rec_offset[row], corpus.rec_offset[row + 1])
        found = list(zip((names[item] for item in corpus.rec_item[part]), corpus.rec_time[part].tolist(), strict=True))
        assert found == [event for event in dict.fromkeys(clicks[who]) if event[0] in names.values()]
        part = slice(corpus.search_offset[row], corpus.search_offset[row + 1])
        posed = [(time, asked[query]) for time, query in zip(corpus.search_time[part], corpus.search_query[part], strict=True)]
        assert posed == [(time, query) for time, query, _ in searches[who]]


def _sample_lines() -> list[str]:
    return (SAMPLE / "user_behavior_data_sample.txt").read_text().split("\n")[1:-1]
