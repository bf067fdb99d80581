"""The event contract: every named check, every kind of table, every kind of bad file."""

import gzip
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seerec.data.events import Events, check, from_tables
from seerec.data.files import read_file
from seerec.errors import SeerecError

GOOD = {"user_id": "u", "item_id": "i", "timestamp": 5}
GOOD_SEARCH = {"user_id": "u", "search_id": "s", "timestamp": 5, "query": "red shoe", "item_id": "i"}


def rows(events: Events, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    return events.connection.execute(f"SELECT {columns} FROM {table}").fetchall()


def refused(events: Events) -> list[tuple[Any, ...]]:
    return rows(events, "quarantine", "table_name, line, reason")


def frame(*records: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(records), dtype=object)


@pytest.mark.parametrize(
    ("reason", "bad", "near"),
    [
        ("user_missing", {"user_id": None}, {"user_id": "0"}),
        ("user_missing", {"user_id": "  "}, {"user_id": " a b "}),
        ("item_missing", {"item_id": None}, {"item_id": "é"}),
        ("item_missing", {"item_id": ""}, {"item_id": "None"}),
        ("time_missing", {"timestamp": None}, {"timestamp": "0"}),
        ("time_not_a_number", {"timestamp": "yesterday"}, {"timestamp": "2020-01-01"}),
        ("time_not_a_number", {"timestamp": "nan"}, {"timestamp": "7.0"}),
        ("time_not_a_number", {"timestamp": "inf"}, {"timestamp": "1e12"}),
        ("time_not_a_number", {"timestamp": "2020-13-01"}, {"timestamp": "2020-12-01T10:00:00Z"}),
        ("time_not_a_number", {"timestamp": "epoch"}, {"timestamp": "1970-01-01"}),
        ("time_not_whole", {"timestamp": "7.5"}, {"timestamp": "8.0"}),
        ("time_out_of_range", {"timestamp": "-1"}, {"timestamp": "0"}),
        ("time_out_of_range", {"timestamp": "4102444800000"}, {"timestamp": "4102444799999"}),
        ("time_out_of_range", {"timestamp": "1e30"}, {"timestamp": "1e3"}),
        ("clicked_unreadable", {"clicked": "perhaps"}, {"clicked": "false"}),
        ("clicked_unreadable", {"clicked": "2"}, {"clicked": "1"}),
    ],
)
def test_a_recommendation_check_refuses_the_bad_row_and_keeps_the_near_one(
    reason: str, bad: dict[str, Any], near: dict[str, Any]
) -> None:
    plain = {**GOOD, "timestamp": "5", "clicked": "true"}
    events = from_tables(recommendations=frame(plain, {**plain, **bad}, {**plain, "user_id": "v", **near}))
    assert refused(events) == [("recommendations", 2, reason)]
    assert [line for (line,) in rows(events, "recommendations", "line")] == [1, 3]


@pytest.mark.parametrize("other", [{"user_id": "v"}, {"item_id": "j"}, {"timestamp": 6}, {"request_id": "q"}, {"clicked": False}])
def test_only_exact_repeats_are_duplicates_and_the_first_stays(other: dict[str, Any]) -> None:
    plain = {**GOOD, "request_id": "r", "clicked": True}
    events = from_tables(recommendations=frame(plain, plain, {**plain, **other}))
    assert refused(events) == [("recommendations", 2, "duplicate")]
    assert [line for (line,) in rows(events, "recommendations", "line")] == [1, 3]


def test_a_click_counts_when_the_same_item_was_shown_without_one_before() -> None:
    shown = {**GOOD, "request_id": "r", "clicked": False}
    events = from_tables(recommendations=frame(shown, {**shown, "clicked": True}))
    assert rows(events, "recommendations", "line, clicked") == [(1, False), (2, True)]


@pytest.mark.parametrize(
    ("reason", "bad", "near"),
    [
        ("user_missing", {"user_id": None}, {}),
        ("time_missing", {"timestamp": None}, {"timestamp": 6}),
        ("time_out_of_range", {"timestamp": -1}, {"timestamp": 0}),
        ("search_empty", {"query": "?! …", "item_id": None}, {"query": "?! …"}),
        ("search_empty", {"query": None, "item_id": None}, {"query": "鞋", "item_id": None}),
        ("duplicate", {"search_id": "s"}, {"search_id": "s", "item_id": "j"}),
        ("search_inconsistent", {"search_id": "s", "timestamp": 6}, {"search_id": "s", "item_id": "j"}),
        ("search_inconsistent", {"search_id": "s", "query": "blue", "item_id": "k"}, {"query": "blue"}),
        ("search_inconsistent", {"search_id": "s", "query": None}, {"query": None}),
    ],
)
def test_a_search_check_refuses_the_bad_row_and_keeps_the_near_one(
    reason: str, bad: dict[str, Any], near: dict[str, Any]
) -> None:
    searches = frame(GOOD_SEARCH, {**GOOD_SEARCH, "search_id": "bad", **bad}, {**GOOD_SEARCH, "search_id": "near", **near})
    events = from_tables(recommendations=frame(GOOD), searches=searches)
    assert refused(events) == [("searches", 2, reason)]
    assert [line for (line,) in rows(events, "searches", "line")] == [1, 3]


def test_a_search_is_judged_by_its_first_good_row() -> None:
    searches = frame({**GOOD_SEARCH, "timestamp": None, "query": "x"}, GOOD_SEARCH, {**GOOD_SEARCH, "item_id": "j"})
    assert refused(from_tables(recommendations=frame(GOOD), searches=searches)) == [("searches", 1, "time_missing")]


def test_side_tables_keep_the_first_of_an_id_and_need_one() -> None:
    events = from_tables(
        recommendations=frame(GOOD),
        items=frame({"item_id": "i", "title": "First"}, {"item_id": "i", "title": "Second"}, {"item_id": None, "title": "x"}),
        users=frame({"user_id": "u", "age": "30"}, {"user_id": "u", "age": "40"}, {"user_id": None, "age": "50"}),
    )
    assert sorted(refused(events)) == [
        ("items", 2, "item_duplicate"), ("items", 3, "item_missing"),
        ("users", 2, "user_duplicate"), ("users", 3, "user_missing"),
    ]  # fmt: skip
    assert rows(events, "items", "item_id, title, text") == [("i", "First", "First")]
    assert rows(events, "users") == [("u", "30")]


def test_ids_that_pandas_wrote_as_floats_are_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1.0,75.0,1\n,76.0,2\n2.0,-7,3\n")
    (tmp_path / "searches.csv").write_text("user_id,item_id,timestamp,query\n1,,1,x\n2,75.00,1,x\n")
    (tmp_path / "items.csv").write_text("item_id,title\n75.0,x\n76,y\n")
    (tmp_path / "users.csv").write_text("user_id,age\n1.0,3\n")
    events = from_tables(**{
        name: tmp_path / f"{file}.csv"
        for name, file in {"recommendations": "log", "searches": "searches", "items": "items", "users": "users"}.items()
    })  # fmt: skip
    assert rows(events, "recommendations", "user_id, item_id") == [("1", "75"), ("2", "-7")]
    assert rows(events, "searches", "user_id, item_id") == [("1", None), ("2", "75")]
    assert rows(events, "items", "item_id") == [("75",), ("76",)]
    assert rows(events, "users", "user_id") == [("1",)]


@pytest.mark.parametrize("other", ["1.0-beta", "75.5", "x", "1e3", "75."])
def test_ids_with_any_other_text_stay_as_they_are(other: str) -> None:
    events = from_tables(recommendations=frame({**GOOD, "item_id": "75.0"}, {**GOOD, "item_id": other}))
    assert [item for (item,) in rows(events, "recommendations", "item_id")] == ["75.0", other]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("item_id", ["i"], r"VARCHAR\[\]"), ("user_id", {"a": 0}, "STRUCT"), ("request_id", [1], "BIGINT")],
)
def test_nested_ids_are_refused(name: str, value: Any, kind: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**GOOD, name: value}])
    pq.write_table(table, tmp_path / "log.parquet")
    for log in (table, tmp_path / "log.parquet"):
        with pytest.raises(SeerecError, match=f"column {name} of the recommendations table is of the type {kind}"):
            from_tables(recommendations=log)


def test_a_quarantined_row_shows_its_content() -> None:
    events = from_tables(recommendations=frame(GOOD, {**GOOD, "user_id": None, "item_id": "lost"}))
    assert "lost" in rows(events, "quarantine", "content")[0][0]


_CELL = st.sampled_from([None, "", "1", "2", "é", "0", "-5", "x y", "nan", "1e99", "2020-01-01", "2.5", "?!"])


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(_CELL, _CELL, _CELL, _CELL, _CELL), min_size=1, max_size=30))
def test_accepted_and_quarantined_are_what_was_read(cells: list[tuple[Any, ...]]) -> None:
    def table(*names: str) -> pa.Table:
        return pa.table({name: pa.array([row[i] for row in cells], pa.string()) for i, name in enumerate(names)})

    connection = duckdb.connect()
    good = pa.table({name: pa.array([str(value)]) for name, value in (GOOD | {"clicked": 1, "request_id": "r"}).items()})
    given_tables = {
        "recommendations": pa.concat_tables([good, table("user_id", "item_id", "timestamp", "clicked", "request_id")]),
        "searches": table("user_id", "search_id", "timestamp", "query", "item_id"),
        "items": table("item_id", "title"),
        "users": table("user_id", "age"),
    }
    events = from_tables(**given_tables)
    for name, content in given_tables.items():
        accepted, (quarantined,) = rows(events, name, "count(*)")[0][0], events.connection.execute(
            "SELECT count(*) FROM quarantine WHERE table_name = ?", [name]
        ).fetchone() or (0,)  # fmt: skip
        assert events.counts[f"{name}_read"] == content.num_rows == accepted + quarantined
        assert (events.counts[f"{name}_accepted"], events.counts[f"{name}_quarantined"]) == (accepted, quarantined)
    assert not rows(events, "quarantine WHERE reason IS NULL OR line IS NULL")
    connection.close()


def test_every_kind_of_table_gives_the_same_events(tmp_path: Path) -> None:
    table = pa.table({"user_id": [2**62, 7], "item_id": ["a", "b c"], "timestamp": [1, 2]})
    pq.write_table(table, tmp_path / "log.parquet")
    table.to_pandas().to_csv(tmp_path / "log.csv", index=False)
    table.to_pandas().to_csv(tmp_path / "log.tsv.gz", index=False, sep="\t")
    kinds: list[Any] = [table, table.to_pandas(), pl.from_arrow(table), duckdb.from_arrow(table), tmp_path / "log.parquet"]
    expected = [("4611686018427387904", "a", 1, True, None, None), ("7", "b c", 2, True, None, None)]
    for kind in [*kinds, str(tmp_path / "log.csv"), tmp_path / "log.tsv.gz"]:
        assert rows(from_tables(recommendations=kind), "recommendations", "* EXCLUDE (line)") == expected, type(kind)


def test_ids_of_any_type_become_text() -> None:
    table = pa.table(
        {
            "user_id": pa.array([1.0, 2.5, None, float("nan")], pa.float64()),
            "item_id": pa.array([2**64 - 1, 0, 1, 2], pa.uint64()),
            "timestamp": [1.0, 2.0, 3.0, 4.0],
        }
    )
    events = from_tables(recommendations=table)
    assert rows(events, "recommendations", "user_id, item_id") == [("1", "18446744073709551615"), ("2.5", "0")]
    assert [reason for *_, reason in refused(events)] == ["user_missing", "user_missing"]


def test_times_of_any_type_become_milliseconds() -> None:
    instant = pd.Timestamp("2020-01-01T12:00:00")
    noon = 1_577_880_000_000
    kinds: list[Any] = [
        pa.array([instant], pa.timestamp("ns")), pa.array([instant], pa.timestamp("s")),
        pa.array([instant.tz_localize("UTC")], pa.timestamp("us", tz="Asia/Tokyo")),
        pa.array([float(noon)]), pa.array(["2020-01-01 12:00:00"]), pa.array(["2020-01-01T13:00:00+01:00"]),
    ]  # fmt: skip
    for column in kinds:
        events = from_tables(recommendations=pa.table({"user_id": ["u"], "item_id": ["i"], "timestamp": column}))
        assert rows(events, "recommendations", "timestamp") == [(noon,)], column.type
    day = pa.table({"user_id": ["u"], "item_id": ["i"], "timestamp": pa.array([instant.date()], pa.date32())})
    assert rows(from_tables(recommendations=day), "recommendations", "timestamp") == [(noon - 12 * 3_600_000,)]


@pytest.mark.parametrize("column", [[True, False, True], [1, 0, None], ["true", "false", ""], [1.0, 0.0, float("nan")]])
def test_clicks_are_read_from_any_type_and_true_by_default(column: list[Any]) -> None:
    table = pd.DataFrame({"user_id": ["u"] * 3, "item_id": ["i", "j", "k"], "timestamp": [1, 2, 3], "clicked": column})
    assert rows(from_tables(recommendations=table), "recommendations", "clicked") == [(True,), (False,), (True,)]


def test_a_query_of_word_ids_is_joined_and_a_missing_search_id_comes_from_the_line() -> None:
    searches = pd.DataFrame({"user_id": [1, 1], "timestamp": [1, 1], "query": [[12, 7], [5]]})
    events = from_tables(recommendations=frame(GOOD), searches=searches)
    assert rows(events, "searches", "query, search_id, item_id") == [("12 7", "line 1", None), ("5", "line 2", None)]


def test_item_columns_become_title_text_and_categories() -> None:
    items = pl.DataFrame(
        {
            "item_id": ["i"], "title": ["Red Shoe"], "description": ["for running"], "genres": ["Sport|Outdoor"], "Brand": [7],
            "price": [3.5], "imageURL": ["https://x/y"], "other_id": ["abc"], "raw": [1], "tags": [["soft", "light"]],
        }
    )  # fmt: skip
    events = from_tables(recommendations=frame(GOOD), items=items)
    assert rows(events, "items") == [("i", "Red Shoe", "Red Shoe for running soft|light Sport|Outdoor", "Sport|Outdoor", "7")]
    assert events.source["items_columns"] == {
        "title": "title", "text": ["description", "tags"], "category": ["genres", "Brand"],
        "ignored": ["price", "imageURL", "other_id", "raw"],
    }  # fmt: skip


def test_optional_tables_exist_even_when_empty() -> None:
    events = from_tables(recommendations=frame(GOOD))
    for table in ("searches", "items", "users", "quarantine"):
        assert rows(events, table) == []
    assert rows(events, "(DESCRIBE searches)", "column_name, column_type") == [
        ("line", "BIGINT"), ("user_id", "VARCHAR"), ("search_id", "VARCHAR"), ("timestamp", "BIGINT"),
        ("query", "VARCHAR"), ("item_id", "VARCHAR"), ("clicked", "BOOLEAN"), ("relevant", "TINYINT"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "cause", "fix"),
    [
        ({"uid": 1, "item_id": 2, "timestamp": 3}, "no column user_id (found: uid, item_id, timestamp)", "`uid` to `user_id`"),
        ({"user_id": 1, "itemid": 2, "time": 3}, "no column item_id, timestamp", "`itemid` to `item_id`, `time` to `timestamp`"),
        ({"user_id": 1, "item_id": 2, "tiemstamp": 3}, "timestamp", "Rename `tiemstamp`"),
        ({"1": 1, "22": 2, "3.5": 3}, "no column user_id", "Put a header line"),
    ],
)
def test_missing_columns_are_named_with_the_fix(columns: dict[str, int], cause: str, fix: str) -> None:
    with pytest.raises(SeerecError) as error:
        from_tables(recommendations=frame(columns))
    assert cause in error.value.cause
    assert fix in error.value.fix


@pytest.mark.parametrize(("first", "last"), [(500_000_000, 1_700_000_000), (1_700_000_000, 10_000_000_000)])
def test_seconds_are_not_taken_for_milliseconds(first: Any, last: Any) -> None:
    for kind in (int, float, str):
        with pytest.raises(SeerecError, match="look like seconds") as error:
            from_tables(recommendations=frame({**GOOD, "timestamp": kind(first)}, {**GOOD, "timestamp": kind(last)}))
        assert "1000" in error.value.fix
    from_tables(recommendations=frame({**GOOD, "timestamp": 1000}, {**GOOD, "timestamp": last}))
    from_tables(recommendations=frame({**GOOD, "timestamp": first}, {**GOOD, "timestamp": 10**12}))


def test_dates_of_early_1970_and_positions_are_times() -> None:
    day = pd.Timestamp("1970-01-10", tz="UTC")
    from_tables(recommendations=pd.DataFrame([{**GOOD, "timestamp": day}]))
    from_tables(recommendations=frame({**GOOD, "timestamp": 1000}, {**GOOD, "timestamp": 499_999_000}))


def test_an_id_with_a_nul_byte_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([GOOD, {**GOOD, "user_id": "a\0b"}, {**GOOD, "item_id": "\0"}]), tmp_path / "log.parquet")
    items = frame({"item_id": "a\0b"}, {"item_id": "i"})
    users = frame({"user_id": "a\0b"}, {"user_id": "i"})
    searches = frame(GOOD_SEARCH, {**GOOD_SEARCH, "search_id": "t", "item_id": "a\0"})
    events = from_tables(recommendations=tmp_path / "log.parquet", searches=searches, items=items, users=users)
    assert sorted(refused(events)) == [
        ("items", 1, "id_not_text"), ("recommendations", 2, "id_not_text"), ("recommendations", 3, "id_not_text"),
        ("searches", 2, "id_not_text"), ("users", 1, "id_not_text"),
    ]  # fmt: skip


def test_utf_16_is_named_with_its_conversion(tmp_path: Path) -> None:
    text = "user_id,item_id,timestamp\n1,2,3\n"
    for encoding, name in (("utf-16", "UTF-16 "), ("utf-16-le", "UTF-16LE "), ("utf-16-be", "UTF-16BE ")):
        (tmp_path / "log.csv").write_bytes(text.encode(encoding))
        with pytest.raises(SeerecError, match="not UTF-8 text") as error:
            from_tables(recommendations=tmp_path / "log.csv")
        assert f"iconv -f {name}-t UTF-8" in error.value.fix


def test_a_log_without_any_good_row_says_why() -> None:
    with pytest.raises(
        SeerecError, match="None of 2 recommendation rows is acceptable; 2 are time_not_a_number, the first on line 1"
    ):
        from_tables(recommendations=frame({**GOOD, "timestamp": "x"}, {**GOOD, "timestamp": "y"}))
    with pytest.raises(SeerecError, match="has no rows"):
        from_tables(recommendations=frame(GOOD)[:0])
    with pytest.raises(SeerecError, match="of the kind int, which cannot be read"):
        from_tables(recommendations=3)
    with pytest.raises(SeerecError, match="no column user_id, item_id, timestamp"):
        check(duckdb.connect(), {})


def table_of(path: Path) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    connection = duckdb.connect()
    read_file(connection, path, "raw_log")
    content = connection.execute("FROM raw_log").fetchall()
    assert {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()} == {
        "raw_log",
        "quarantine",
    }
    return content, connection.execute("SELECT line, reason, content FROM quarantine WHERE table_name = 'log'").fetchall()


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,x y\n2,\n",
        b"\xef\xbb\xbfa,b\r\n1,x y\r\n2,\r\n",
        b"a\tb\n1\tx y\n2\t\n",
        b'"a";"b"\n"1";"x y"\n2;""',
        b"a|b\n1|x y\n2|\n",
        b"a:token,b:token_seq\n1,x y\r\n2,\n",
    ],
)
def test_dialects_are_recognised(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(content))
    for path in (tmp_path / "log.csv", tmp_path / "log.csv.gz"):
        assert table_of(path) == ([(2, "1", "x y"), (3, "2", None)], [])


def test_malformed_lines_are_quarantined_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("a,b\n1,x\n2,y,z\n3\n4,w\n5,v,u\n6,t\n")
    assert table_of(path) == (
        [(2, "1", "x"), (5, "4", "w"), (7, "6", "t")],
        [(3, "malformed_line", "2,y,z"), (4, "malformed_line", "3"), (6, "malformed_line", "5,v,u")],
    )
    path.write_text("a,b\n0\n1,x\n")
    assert table_of(path) == ([(3, "1", "x")], [(2, "malformed_line", "0")])


def test_lines_are_those_of_the_file_whatever_is_between_them(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('a,b\n1,x\n\n2,"y\nz ""w, ""\n"\n3,5" disc\n\n\nbad\n4,"v,"\n5,"never,1\n6,"z"\n7,u\n')
    assert table_of(path) == (
        [(2, "1", "x"), (4, "2", 'y\nz "w, "\n'), (7, "3", '5" disc'), (11, "4", "v,"), (14, "7", "u")],
        [(10, "malformed_line", "bad"), (12, "malformed_line", '5,"never,1'), (13, "malformed_line", '6,"z"')],
    )
    path.write_text('a,b\n\n1,x\n2,"y\n\nz"\n3,w\n')
    assert table_of(path) == ([(3, "1", "x"), (4, "2", "y\n\nz"), (7, "3", "w")], [])


@pytest.mark.parametrize("line", [2, 3, 150, 300])
def test_a_stray_quote_costs_its_own_line_alone(tmp_path: Path, line: int) -> None:
    lines = [f'{number},"Film {number}, The",Drama' for number in range(300)]
    lines[line - 2] = '0,"Film" uncut,Drama'
    (tmp_path / "items.csv").write_text("\n".join(["id,title,genre", *lines]))
    good, bad = table_of(tmp_path / "items.csv")
    assert bad == [(line, "malformed_line", '0,"Film" uncut,Drama')]
    assert [number for number, *_ in good] == [number for number in range(2, 302) if number != line]


def test_quotes_are_plain_characters_where_they_do_not_quote(tmp_path: Path) -> None:
    path = tmp_path / "items.tsv"
    path.write_text('item_id\ttitle\n1\t"Best" of\n2\t7" disc\n3\t"whole"\n4\t"open\n5\tclosed"\n')
    assert [title for *_, title in table_of(path)[0]] == ['"Best" of', '7" disc', "whole", '"open', 'closed"']
    path.write_text('item_id\ttitle\n4\t"open\n5\tclosed"\n')
    assert [title for *_, title in table_of(path)[0]] == ['"open', 'closed"']
    path.write_text('item_id,title\n4,"two\nlines, ""one"" cell"\n5,x\n')
    assert [title for *_, title in table_of(path)[0]] == ['two\nlines, "one" cell', "x"]


def test_lines_follow_the_file_in_large_files(tmp_path: Path) -> None:
    count = 300_000
    number = np.arange(count)
    text = pd.DataFrame({"a": number, "b": number % 7})
    text.to_csv(tmp_path / "log.csv", index=False)
    pq.write_table(pa.table({"a": number}), tmp_path / "log.parquet", row_group_size=5000)
    for name, offset in (("log.csv", 2), ("log.parquet", 1)):
        connection = duckdb.connect(config={"threads": 2})
        read_file(connection, tmp_path / name, "raw_log")
        wrong = f"SELECT count(*) FILTER (WHERE line <> a::BIGINT + {offset}), count(*), count(DISTINCT line) FROM raw_log"
        assert connection.execute(wrong).fetchone() == (0, count, count)


def test_a_name_with_wildcards_means_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1]*.csv").write_text("a\n1\n")
    (tmp_path / "a1.csv").write_text("a\n2\n")
    assert table_of(tmp_path / "a[1]*.csv")[0] == [(2, "1")]


def _bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    def file(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    pq.write_table(pa.table({"user_id": list(range(5000))}), folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    zipped = gzip.compress(b"a,b\n" + bytes(str(list(range(50_000))), "ascii"))
    return {
        "missing": (folder / "nowhere.csv", "does not exist"),
        "folder": (folder, "is a folder, not a file"),
        "empty": (file("empty.csv", b""), "is empty"),
        "blank": (file("blank.csv", b"\n\n"), "does not start with a header line"),
        "header only": (file("header.csv", b"user_id,item_id\n"), "no readable rows"),
        "latin": (file("latin.csv", b"user_id,item_id\n1,ok\n2,caf\xe9\n"), r"not UTF-8 text \(line 3\)"),
        "latin header": (file("head.csv", b"us\xe9r,item_id\n1,2\n"), r"not UTF-8 text \(line 1\)"),
        "utf-16": (file("wide.csv", "user_id,item_id\n1,2\n".encode("utf-16")), "not UTF-8 text"),
        "truncated parquet": (file("cut.parquet", whole[: len(whole) // 2]), "cannot be read"),
        "text as parquet": (file("text.parquet", b"user_id,item_id\n1,2\n"), "cannot be read"),
        "empty parquet": (file("none.parquet", b""), "is empty"),
        "truncated gzip": (file("cut.csv.gz", zipped[: len(zipped) // 2]), "cannot be read"),
        "text as gzip": (file("text.csv.gz", b"a,b\n1,2\n"), "Cannot read"),
        "json": (file("log.csv.json", b'{"user_id": 1}\n'), "not a table of delimited text"),
        "zip": (file("log.zip", b"PK\x03\x04abc\n"), "not a table of delimited text"),
        "twice": (file("twice.csv", b"user_id,user_id\n1,2\n"), "names the column user_id twice"),
    }


def test_every_bad_file_is_a_sentence_and_a_fix(tmp_path: Path) -> None:
    for name, (path, cause) in _bad_files(tmp_path).items():
        with pytest.raises(SeerecError, match=cause) as error:
            from_tables(recommendations=path)
        assert error.value.fix.endswith("."), name
        assert "\n" not in str(error.value), name
