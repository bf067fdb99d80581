"""User Behavior Insights from small logs whose events can be written down by hand."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seerec
from seerec import cli
from seerec.data.events import Events
from seerec.data.sources.ubi import read
from seerec.errors import SeerecError

Record = dict[str, Any]
NOON = 1_732_190_400_000
"""2024-11-21T12:00Z."""
NAN = float("nan")


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk is what these tests would mostly wait for."""
    monkeypatch.setattr("seerec.atomic.os.fsync", lambda _: None)


def query(number: str | None, text: str | None, *hits: Any, at: Any = 0, client: Any = "c", **more: Any) -> Record:
    """``at``: seconds after noon, or the timestamp itself."""
    return {
        "application": "shop", "query_id": number, "client_id": client, "user_query": text, "query_attributes": {},
        "query_response_id": "r", "query_response_hit_ids": list(hits), "object_id_field": "sku", "timestamp": moment(at), **more,
    }  # fmt: skip


def event(action: Any, item: Any, number: str | None = None, at: Any = 0, client: Any = "c", **more: Any) -> Record:
    thing = more.pop("object", {})
    return {
        "application": "shop", "action_name": action, "query_id": number, "client_id": client, "session_id": "s",
        "timestamp": moment(at), "message_type": "INFO", "message": None,
        "event_attributes": {"object": {"object_id": item, "object_id_field": "sku", **thing}, "position": {"ordinal": 1}},
        **more,
    }  # fmt: skip


def moment(at: Any) -> Any:
    return NOON + 1000 * at if isinstance(at, int) else at


FIRST = event("click", "i0", at=-1000, client="first")
"""Without a recommendation there is nothing to prepare."""


def text(*records: Record | str, end: str = "\n") -> str:
    return "".join((record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)) + end for record in records)


def load(folder: Path, *records: Record | str, **options: Any) -> Events:
    (folder / "log.jsonl").write_text(text(*records), encoding="utf-8")
    return read(duckdb.connect(), [folder / "log.jsonl"], **options)


def rows(events: Events, table: str, columns: str) -> list[tuple[Any, ...]]:
    return events.connection.execute(f"SELECT {columns} FROM {table}").fetchall()


def recommended(events: Events) -> list[tuple[Any, ...]]:
    """User, item, seconds after noon, click; without that of `FIRST`."""
    columns = f"user_id, item_id, (timestamp - {NOON}) / 1000, clicked"
    return [row for row in rows(events, "recommendations", columns) if row[0] != "first"]


def searched(events: Events) -> list[tuple[Any, ...]]:
    return rows(events, "searches", f"user_id, search_id, (timestamp - {NOON}) / 1000, query, item_id, clicked")


def refused(events: Events) -> list[tuple[Any, ...]]:
    """Table, line, reason; and what was read is accepted or refused."""
    for table in ("recommendations", "searches", "items"):
        assert events.counts[f"{table}_read"] == events.counts[f"{table}_accepted"] + events.counts[f"{table}_quarantined"]
    return rows(events, "quarantine", "table_name, line, reason")


def test_queries_show_items_and_events_click_them(tmp_path: Path) -> None:
    events = load(
        tmp_path, FIRST,
        query("q1", "red shoe", "b", "a", 7, at=10), query("q2", "\u05e0\u05e2\u05dc", at=50), query("q3", "hat", "h", at=50),
        event("click", "a", "q1", at=20), event("Add_To_Cart", "new", "q1", at=30), event("impression", "b", "q1", at=11),
        event("impression", "p", at=40), event("click", "p", at=41), event("purchase", 12, at=42, client="d"),
    )  # fmt: skip
    assert searched(events) == [
        ("c", "q1", 30, "red shoe", "b", False), ("c", "q1", 30, "red shoe", "a", False), ("c", "q1", 30, "red shoe", "7", False),
        ("c", "q2", 50, "\u05e0\u05e2\u05dc", None, False), ("c", "q3", 50, "hat", "h", False),
        ("c", "q1", 30, "red shoe", "a", True), ("c", "q1", 30, "red shoe", "new", True),
    ]  # fmt: skip
    assert recommended(events) == [("c", "p", 40, False), ("c", "p", 41, True), ("d", "12", 42, True)]
    assert refused(events) == [("searches", 7, "duplicate")]  # b was among the hits
    assert events.counts["records_read"] == 10
    assert rows(events, "recommendations", "DISTINCT request_id") == [(None,)]


def test_a_search_is_when_the_last_of_its_items_was_first_clicked(tmp_path: Path) -> None:
    events = load(
        tmp_path, FIRST, query("q", "x", "a", "b", at=0),
        event("purchase", "a", "q", at=90_000), event("click", "a", "q", at=5), event("click", "b", "q", at=9),
        event("impression", "z", "q", at=50), event("click", "early", "q", at=-9),
    )  # fmt: skip
    assert {row[2] for row in searched(events)} == {9}
    assert [(line, reason) for _, line, reason in refused(events)] == [(4, "duplicate")]  # a again


def test_equal_times_keep_the_order_of_the_lines_and_of_the_hits(tmp_path: Path) -> None:
    hits = ["e", "b", "z", "a", "y"]
    events = load(tmp_path, FIRST, query("q", "x", *hits), *(event("click", item, at=1) for item in hits))
    order = "ORDER BY user_id, timestamp, line"
    assert events.connection.execute(f"SELECT item_id FROM searches {order}").fetchall() == [(item,) for item in hits]
    clicks = events.connection.execute(f"SELECT item_id FROM recommendations WHERE user_id = 'c' {order}").fetchall()
    assert clicks == [(item,) for item in hits]


@pytest.mark.parametrize(
    ("user", "wanted"),
    [("client_id", ["c", "c", "d"]), ("session_id", ["s1", "s1", "s2"]), ("user_id", ["ann", "ann", "eve"])],
)
def test_a_user_is_a_client_a_session_or_who_signed_in(user: Any, wanted: list[str], tmp_path: Path) -> None:
    first = FIRST | {"user_id": "first", "session_id": "first"}
    log = (
        query("q1", "x", "a"),
        event("click", "b", "q1", at=9, session_id="s9", user_id="late"),
        event("click", "a", "q1", at=1, session_id="s1", user_id="ann"),
        event("click", "b", client="d", session_id="s2", user_id="", object={"user_id": "eve"}),
    )
    events = load(tmp_path, first, *log, user=user)
    assert searched(events)[0][0] == wanted[0]
    assert [row[0] for row in searched(events) if row[-1]] == [{"c": "c", "s1": "s9", "ann": "late"}[wanted[0]], wanted[1]]
    assert [row[0] for row in recommended(events)] == [wanted[2]]


def test_what_a_record_lacks_is_taken_from_the_others_of_its_query(tmp_path: Path) -> None:
    events = load(
        tmp_path, FIRST,
        query("q1", "x", "a", client=None), event("click", "a", "q1", at=3),
        query("q2", "y", "a", client="d"), event("click", "a", "q2", client=" "),
        event("click", "b", "q3", at=7, user_query="never logged"), event("click", "b", "q4"),
        query("q5", "z", "a", client=""),
    )  # fmt: skip
    assert searched(events) == [
        ("c", "q1", 3, "x", "a", False), ("c", "q1", 3, "x", "a", True),
        ("d", "q2", 0, "y", "a", False), ("d", "q2", 0, "y", "a", True),
        ("c", "q3", 7, "never logged", "b", True),
    ]  # fmt: skip
    assert refused(events) == [("searches", 7, "query_unknown"), ("searches", 8, "user_missing")]


def test_a_query_without_words_is_a_request_for_recommendations(tmp_path: Path) -> None:
    events = load(
        tmp_path,
        query("r", None, "a", "b", at=5),
        event("click", "b", "r", at=6),
        query("e", " ", at=7),
        event("click", "a", "e"),
    )
    columns = f"item_id, (timestamp - {NOON}) / 1000, clicked, request_id"
    assert rows(events, "recommendations", columns) == [
        ("a", 5, False, "r"),
        ("b", 5, False, "r"),
        ("b", 6, True, "r"),
        ("a", 0, True, "e"),
    ]
    assert refused(events) == [("searches", 3, "search_empty")]


def test_a_query_id_means_its_first_query(tmp_path: Path) -> None:
    events = load(
        tmp_path, FIRST,
        query("q", "printe", "x", at=9), query("q", "printer", "a", at=1), query("q", "printer", "b", at=5),
        query("q", "", "c", at=8),
    )  # fmt: skip
    assert searched(events) == [("c", "q", 1, "printer", "a", False), ("c", "q", 1, "printer", "b", False)]
    assert [(line, reason) for _, line, reason in refused(events)] == [(2, "search_inconsistent"), (5, "search_inconsistent")]


def test_actions_are_clicks_or_shown_or_refused_by_name(tmp_path: Path) -> None:
    log = [
        event(name, "a", at=k)
        for k, name in enumerate(["Item-Click", "hover", "VIEW", "hover", "\u0448\u0443\u043c", None, "?!", "addToCart"])
    ]
    events = load(tmp_path, FIRST, *log)
    assert [(row[2], row[3]) for row in recommended(events)] == [(0, True), (2, False), (7, True)]
    assert [(line, reason) for _, line, reason in refused(events)] == [(line, "action_unknown") for line in (3, 5, 6, 7, 8)]
    assert events.source["unknown_actions"] == {"hover": 2, "": 1, "?!": 1, "\u0448\u0443\u043c": 1}
    other = load(
        tmp_path, event("hover", "a"), event("\u0428\u0423\u041c", "b"), FIRST, clicks=["hover"], shown=["\u0448\u0443\u043c"]
    )
    assert [row[3] for row in recommended(other)] == [True, False]
    assert refused(other) == [("recommendations", 3, "action_unknown")]
    with pytest.raises(SeerecError, match="watch is both clicked and shown"):
        load(tmp_path, FIRST, shown=["Watch"])


BAD = [
    (event("click", "a", at=None), "time_missing"),
    (event("click", "a", at="yesterday"), "time_not_a_number"),
    (event("click", "a", at=NAN), "time_not_a_number"),
    (event("click", "a", at=NOON + 0.5), "time_not_whole"),
    (event("click", "a", at=NOON // 1000 * 1.0), "time_out_of_range"),
    (event("click", "a", at="2124-11-21T12:00:00Z"), "time_out_of_range"),
    (event("click", "a", at=[1]), "time_not_a_number"),
    (event("click", None), "item_missing"),
    (event("click", " "), "item_missing"),
    (event("click", "a\0b"), "id_not_text"),
    (event("click", "a", client=None), "user_missing"),
    (event("click", "a") | {"event_attributes": "junk"}, "item_missing"),
    ({"application": "shop"}, "record_unknown"),
    ('{"action_name": "click"', "malformed_line"),
    ('["click"]', "malformed_line"),
    ("click", "malformed_line"),
    ('{"action_name": "cl\0ick"}', "malformed_line"),
    ('{"action_name": "cl\x1fick"}', "malformed_line"),
    ('{"a":' * 3000, "malformed_line"),
]


def test_bad_lines_are_refused_by_name_and_the_others_stay(tmp_path: Path) -> None:
    events = load(tmp_path, FIRST, *(bad for bad, _ in BAD), event("click", "z", at=1))
    assert sorted(refused(events)) == [("recommendations", line, reason) for line, (_, reason) in enumerate(BAD, 2)]
    assert recommended(events) == [("c", "z", 1, True)]


def test_a_bad_search_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    log = [
        query("q1", "x", "a", at="never"), event("click", "a", "q1", at=4),
        query("q2", "x", "a", at=4), event("click", "b", "q2", at="never"), event("click", None, "q2"),
        query("q3", "?!", at=5), query("q4", "x", *[None, {"id": 1}, "", "a"], at=6),
        query("q5", "x", at=7, query_response_hit_ids="9"), query("q6", "x", at=8, query_response_hit_ids={"a": 1}),
        query(None, "x", "a", at=9), query(None, "y", "a", at=9),
    ]  # fmt: skip
    events = load(tmp_path, FIRST, *log)
    assert [(line, reason) for _, line, reason in sorted(refused(events))] == [
        (2, "time_not_a_number"), (5, "time_not_a_number"), (6, "item_missing"), (7, "search_empty"), (8, "duplicate")
    ]  # fmt: skip
    assert [(row[1], row[2], row[4]) for row in searched(events)] == [
        ("q1", 4, "a"), ("q2", 4, "a"), ("q4", 6, None), ("q4", 6, '{"id":1}'), ("q4", 6, "a"), ("q5", 7, "9"),
        ("q6", 8, '{"a":1}'), ("record 10", 9, "a"), ("record 11", 9, "a"),
    ]  # fmt: skip


FIELDS = ["action_name", "query_id", "client_id", "user_query", "timestamp", "event_attributes", "query_response_hit_ids"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.recursive(
            st.sampled_from([None, True, 0, -1, 1e300, NAN, "", "q", "\u05d0\0", "2024-01-01"]),
            lambda inner: st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["object", "object_id", "position", "_source", "index"]), inner, max_size=2),
            max_leaves=4,
        ).flatmap(lambda value: st.dictionaries(
            st.sampled_from(FIELDS),
            st.sampled_from([value, "click", NOON, "q"]), min_size=1,
        )),
        max_size=5,
    )
)  # fmt: skip
def test_whatever_records_hold_nothing_is_lost(tmp_path: Path, records: list[Record]) -> None:
    events = load(tmp_path, FIRST, *records)
    refused(events)
    lines = {line for (line,) in rows(events, "quarantine", "line")}
    assert lines <= set(range(1, len(records) + 2))
    assert events.counts["recommendations_read"] + events.counts["searches_read"] >= len(records) + 1


def test_titles_are_the_first_by_time(tmp_path: Path) -> None:
    events = load(
        tmp_path,
        event("click", "a", at=9, object={"description": "late"}), event("hover", "a", at=3, object={"name": "early"}),
        event("click", "a", at=1), event("click", "b", at=1, object={"object_detail": "told"}),
        event("click", "e", at=1, object={"object_detail": {"name": "deep", "price": 3}}),
        event("click", "f", at=1, object={"object_detail": {"price": 3}, "description": " "}),
        event("click", None, object={"internal_id": 5, "description": "inside"}),
    )  # fmt: skip
    assert sorted(rows(events, "items", "item_id, title")) == [("5", "inside"), ("a", "early"), ("b", "told"), ("e", "deep")]
    (tmp_path / "items.csv").write_text("item_id,title,brand\na,Given,x\n")
    told = load(tmp_path, event("click", "a", object={"description": "log"}), items=tmp_path / "items.csv")
    assert rows(told, "items", "item_id, title, category_brand") == [("a", "Given", "x")]
    assert told.source["files"] == ["log.jsonl", "items.csv"]
    assert rows(load(tmp_path, FIRST), "items", "*") == []


LOG = (FIRST, query("q", "x", "a", at=1), event("click", "a", "q", at=2), event("click", "p", at=3))


def wrapped(record: Record, number: int) -> Record:
    index = "ubi_events" if "action_name" in record else "ubi_queries"
    return {"_index": index, "_id": str(number), "_score": 1, "_source": record}


def bulk(record: Record, number: int) -> str:
    action = ["index", "create"][number % 2]
    return json.dumps({action: {"_index": "any", "_id": number}}) + "\n" + json.dumps(record)


@pytest.mark.parametrize("shape", ["plain", "wrapped", "bulk", "blank lines", "crlf", "mixed ends", "mark", "last line open"])
def test_exports_of_any_shape_read_alike(shape: str, tmp_path: Path) -> None:
    end = "\r\n" if shape == "crlf" else "\n"
    change = {"wrapped": wrapped, "bulk": bulk}.get(shape, lambda record, _: record)
    log = text(*(change(record, number) for number, record in enumerate(LOG)), end="\n\n  \n" if shape == "blank lines" else end)
    if shape == "mixed ends":
        log = log.replace("\n", "\r\n", 2)
    log = ("\ufeff" if shape == "mark" else "") + (log.rstrip() if shape == "last line open" else log)
    (tmp_path / "log.ndjson").write_bytes(log.encode())
    events = read(duckdb.connect(), [tmp_path])
    assert searched(events) == [("c", "q", 2, "x", "a", False), ("c", "q", 2, "x", "a", True)]
    assert recommended(events) == [("c", "p", 3, True)]
    assert refused(events) == []
    assert events.counts["records_read"] == 4


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    good = text(*LOG).encode().splitlines()
    junk = b'{"action_name": "\xe9"}'
    (tmp_path / "log.json").write_bytes(
        b"\n".join([good[0], b"", junk, good[1], b"oops", good[2], junk, b"", good[3], b"\xff\xfe"])
    )
    events = read(duckdb.connect(), [tmp_path])
    assert [line for _, line, _ in refused(events)] == [3, 5, 7, 10]
    assert {reason for *_, reason in refused(events)} == {"malformed_line"}
    assert all(content.startswith("log.json: ") for (content,) in rows(events, "quarantine", "content"))
    assert len(searched(events)) == 2


def test_files_of_a_folder_are_found_by_what_they_hold(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    (folder / "2024").mkdir(parents=True)
    for name, records in (("ubi_queries.ndjson", LOG[1:2]), ("a.jsonl.gz", LOG[2:3]), ("2024/b.json", (LOG[0], LOG[3], "junk"))):
        packed = gzip.compress if name.endswith(".gz") else bytes
        (folder / name).write_bytes(packed((text(*records) + ("junk" if name.startswith("ubi") else "")).encode()))
    (folder / "package.json").write_text('{\n  "name": "shop"\n}\n')
    (folder / "items.jsonl").write_text('{"sku": "a"}\n')
    (folder / "empty.jsonl").touch()
    events = read(duckdb.connect(), [folder])
    assert searched(events) == [("c", "q", 2, "x", "a", True), ("c", "q", 2, "x", "a", False)]  # of two files' first lines
    assert sorted(refused(events)) == [("recommendations", 3, "malformed_line"), ("searches", 2, "malformed_line")]
    assert events.source["files"] == ["a.jsonl.gz", "b.json", "ubi_queries.ndjson"]
    assert events.source["passed_over"] == ["empty.jsonl", "items.jsonl", "package.json"]
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as packed_folder:
        for file in folder.rglob("*.*"):
            packed_folder.write(file, file.relative_to(tmp_path))
    assert len(searched(read(duckdb.connect(), [tmp_path / "export.zip"]))) == 2


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("log.jsonl", b"", "no query and no event"),
        ("log.jsonl", b'{"sku": "a"}\n', "no query and no event"),
        ("log.json", b'[\n{"action_name": "click"}\n]'.replace(b"\n", b" "), "no query and no event"),
        ("log.jsonl", text(FIRST).encode("utf-16"), "no query and no event"),
        ("log.jsonl", text(*LOG[1:3]).encode(), "no recommendation"),
        ("log.jsonl", text(event("stroll", "a")).encode(), "no recommendation.*unknown actions: stroll"),
        ("log.jsonl", text(event("click", "a", client=None)).encode(), "1 are user_missing, the first on line 1"),
        ("log.jsonl.gz", gzip.compress(text(*[FIRST] * 2000).encode(), 0)[:9000], "cannot be read"),
        ("log.jsonl.gz", text(FIRST).encode(), "cannot be read"),
    ],
)
def test_a_problem_of_the_whole_file_is_named(name: str, content: bytes, cause: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for place in (tmp_path / name, tmp_path):
        with pytest.raises(SeerecError, match=cause) as caught:
            read(duckdb.connect(), [place])
        assert caught.value.fix
    with pytest.raises(SeerecError, match="does not exist"):
        read(duckdb.connect(), [tmp_path / "nowhere"])


def shop() -> list[Record]:
    log = []
    for user in range(6):
        for k in range(8):
            item = f"i{(user * 2 + k) % 9}"
            if k % 3 == 0:
                log += [query(f"q{user}-{k}", "warm \u05e0\u05e2\u05dc", item, at=100 * k, client=f"u{user}")]
            asked = {"number": f"q{user}-{k}"} if k % 3 == 0 and k else {}
            log += [event("click", item, at=100 * k + 5, client=f"u{user}", object={"description": f"thing {item}"}, **asked)]
    return log


def test_a_log_becomes_the_same_corpus_from_python_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.jsonl").write_text(text(*shop()), encoding="utf-8")
    chosen = {"negatives": 2, "repeats": "keep"}
    options = {"clicks": ["click", "tap"], "user": "client_id"}
    corpus = seerec.prepare(tmp_path / "a", source="ubi", paths=[tmp_path / "log.jsonl"], options=options, settings=chosen)
    asked = ["prepare", "ubi", str(tmp_path / "log.jsonl"), "--clicks", "click,tap", "--user", "client_id", "--negatives", "2"]
    assert cli.main([*asked, "--repeats", "keep", "--json", "--out", str(tmp_path / "b")]) == 0
    assert json.loads(capsys.readouterr().out)["content_hash"] == corpus.content_hash
    counts = corpus.manifest["counts"]
    assert (corpus.items, counts["searches"], counts["searches_without_click"]) == (11, 18, 6)
    assert corpus.table("items")["title"].to_pylist()[0] == "thing i0"
    for option, value in (("user", "browser"), ("clicks", "click"), ("shown", [1])):
        with pytest.raises(SeerecError, match=f"option {option}"):
            seerec.prepare(tmp_path / "c", source="ubi", paths=[tmp_path], options={option: value})
    assert not (tmp_path / "c").exists()
