"""Bad logs: every row is accepted, or refused with a reason and its line, or its file is refused with a sentence.

The table of what is wrong, and what becomes of it, is in `bad_rows.py`.
"""

import csv
import io
import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.data import bad_rows
from tests.data.bad_rows import FILES_OF, KUAISAR, NOON, TABLES, Case

import seerec
from seerec.data.events import Events, from_tables
from seerec.data.simulation import simulate
from seerec.data.sources.kuaisar import EARLIEST, read
from seerec.errors import SeerecError
from seerec.progress import SILENT

Reader = Callable[[Path], Events]
Fates = dict[int, str | None]
GOOD = {"kuaisar": KUAISAR, "tables": TABLES}
CASES = {"kuaisar": list(bad_rows.kuaisar()), "tables": list(bad_rows.tables())}
KEYS = {  # what a good row has of its own, so that cases do not meet
    "recommendations": ("item_id", "timestamp"), "searches": ("item_id", "search_id", "search_session_id"),
    "items": ("item_id",), "users": ("user_id",),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk is what these tests would mostly wait for."""
    monkeypatch.setattr("seerec.atomic.os.fsync", lambda _: None)


def read_kuaisar(folder: Path) -> Events:
    return read(duckdb.connect(), [folder])


def read_tables(folder: Path) -> Events:
    files = {table: folder / f"{table}.csv" for table in TABLES}
    return from_tables(**{table: path for table, path in files.items() if path.is_file()})


READERS: dict[str, Reader] = {"kuaisar": read_kuaisar, "tables": read_tables}


def path_of(source: str, folder: Path, table: str) -> Path:
    return folder / (FILES_OF[table] if source == "kuaisar" else f"{table}.csv")


def text_of(rows: Iterable[Mapping[str, str] | str], columns: Iterable[str]) -> str:
    """A file: rows of cells as the csv module writes them, and lines as they are."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        if isinstance(row, str):
            file.write(f"{row}\n")
        else:
            writer.writerow(row.values())
    return file.getvalue()


def lines_of(rows: Sequence[Mapping[str, str] | str]) -> list[int]:
    """The line of the file on which each row begins; a cell may hold line breaks."""
    heights = [text_of([row], ()).count("\n") - 1 for row in rows]
    return list(itertools.accumulate(heights, initial=2))[:-1]


def own(source: str, table: str, number: int) -> dict[str, str]:
    """A good row like no other."""
    row = dict(GOOD[source][table])
    for column in KEYS[table]:
        if column in row:
            row[column] = f"{NOON + 1000 * number}" if column == "timestamp" else f"{1_000_000 + number}"
    return row


def write_cases(source: str, folder: Path, cases: Iterable[Case]) -> dict[str, dict[int, tuple[str, str | None]]]:
    """All cases as files, a good row before them; what and fate of each line."""
    rows: dict[str, list[Any]] = {table: [own(source, table, 0)] for table in GOOD[source]}
    fates: dict[str, list[tuple[str, str | None]]] = {table: [("good", None)] for table in rows}
    for number, case in enumerate(cases, 1):
        base = own(source, case.table, number)
        for row, fate in zip(case.rows, case.fates, strict=True):
            rows[case.table].append(row if isinstance(row, str) else {**base, **row})
            fates[case.table].append((case.what, fate))
    for table in rows:
        path_of(source, folder, table).write_text(text_of(rows[table], GOOD[source][table]), encoding="utf-8", newline="")
    return {table: dict(zip(lines_of(rows[table]), fates[table], strict=True)) for table in rows}


def refused(events: Events, table: str) -> dict[int, str]:
    query = "SELECT line, reason FROM quarantine WHERE table_name = ?"
    found = events.connection.execute(query, [table]).fetchall()
    assert len({line for line, _ in found}) == len(found), "a line is refused once"
    return dict(found)


def check_sums(events: Events, table: str, rows: int) -> None:
    """Accepted + quarantined = read, which is what is in the file."""
    query = f"SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM quarantine WHERE table_name = '{table}')"
    ((accepted, quarantined),) = events.connection.execute(query).fetchall()
    counts = [events.counts[f"{table}_{what}"] for what in ("read", "accepted", "quarantined")]
    assert counts == [rows, accepted, quarantined]
    assert accepted + quarantined == rows
    if table in ("recommendations", "searches"):
        lines = {line for (line,) in events.connection.execute(f"SELECT line FROM {table}").fetchall()}
        assert len(lines | refused(events, table).keys()) == rows  # every line once
        assert len(lines) == accepted


# -- rows -----------------------------------------------------------------------------------------------------------------


def test_the_corpus_of_bad_rows_is_large() -> None:
    for source, cases in CASES.items():
        bad = [(case.what, case.table) for case in cases if any(case.fates)]
        print(f"{source}: {len(bad)} bad of {len(cases)}")
        assert len(set(bad)) >= 200
    assert sum(bool(file.fate) for file in bad_rows.files()) >= 50


@pytest.mark.parametrize("source", READERS)
def test_every_bad_row_meets_its_fate(source: str, tmp_path: Path) -> None:
    expected = write_cases(source, tmp_path, CASES[source])
    events = READERS[source](tmp_path)
    for table, lines in expected.items():
        check_sums(events, table, len(lines))
        found = refused(events, table)
        wrong = {what: (fate, found.get(line)) for line, (what, fate) in lines.items() if found.get(line) != fate}
        assert wrong == {}
        content = "SELECT line, content FROM quarantine WHERE table_name = ? AND reason = 'malformed_line'"
        raw = path_of(source, tmp_path, table).read_text(encoding="utf-8")
        for _, shown in events.connection.execute(content, [table]).fetchall():
            assert f"\n{shown[:5000]}" in raw


@pytest.mark.parametrize("source", READERS)
def test_one_bad_row_alone_is_found_as_among_many(source: str, tmp_path: Path) -> None:
    """What a row is must not hang on its company: every tenth case in a file of its own."""
    for number, case in enumerate(CASES[source][::30]):
        folder = tmp_path / str(number)
        folder.mkdir()
        expected = write_cases(source, folder, [case])[case.table]
        found = refused(READERS[source](folder), case.table)
        assert found == {line: fate for line, (_, fate) in expected.items() if fate}, case.what


def test_a_corpus_is_made_of_what_is_good_among_the_bad(tmp_path: Path) -> None:
    """Rows of the simulation and all bad ones in one file: nothing that was accepted stops the preparation."""
    simulate(tmp_path / "raw", kind="kuaisar", scale=0.0003, seed=1, progress=SILENT)
    cases = [case for case in CASES["kuaisar"] if case.table in ("recommendations", "searches")]
    expected = write_cases("kuaisar", tmp_path, cases)
    fates = {}
    for table in ("recommendations", "searches"):
        path = path_of("kuaisar", tmp_path / "raw", table)
        good = path.read_text()
        assert good.split("\n")[0].split(",") == list(KUAISAR[table])
        bad = path_of("kuaisar", tmp_path, table).read_text(encoding="utf-8").split("\n", 1)[1]
        path.write_text(good + bad, encoding="utf-8", newline="")
        fates[table] = good.count("\n") - 1, [fate for _, fate in expected[table].values()]
    corpus = seerec.prepare(tmp_path / "corpus", source="kuaisar", paths=[tmp_path / "raw"])
    assert seerec.Corpus.open(tmp_path / "corpus").content_hash == corpus.content_hash
    for table, (good_rows, kinds) in fates.items():
        assert corpus.manifest["counts"][f"{table}_read"] == good_rows + len(kinds)
        assert corpus.manifest["quarantined"][table] == dict(Counter(fate for fate in kinds if fate))
    assert corpus.table("quarantine").num_rows == sum(fate is not None for _, kinds in fates.values() for fate in kinds)
    assert corpus.manifest["source"]["size"] == "small"  # whatever the times of some bad rows are


# -- files ----------------------------------------------------------------------------------------------------------------


def good_files(source: str, folder: Path) -> bytes:
    """Twenty good rows of each table; the recommendations' file as bytes."""
    folder.mkdir()
    for table in GOOD[source]:
        rows = [own(source, table, number) for number in range(20)]
        path_of(source, folder, table).write_text(text_of(rows, GOOD[source][table]))
    return path_of(source, folder, "recommendations").read_bytes()


@pytest.mark.parametrize("source", READERS)
def test_every_bad_file_meets_its_fate(source: str, tmp_path: Path) -> None:
    for number, case in enumerate(bad_rows.files()):
        folder = tmp_path / str(number)
        good = good_files(source, folder)
        path = path_of(source, folder, "recommendations")
        path.unlink()
        path = path.with_suffix(f".{case.suffix}")
        path.write_bytes(case.change(good))

        def given(at: Path = folder, log: Path = path) -> Events:
            return read_kuaisar(at) if source == "kuaisar" else from_tables(recommendations=log)

        if isinstance(case.fate, str):
            with pytest.raises(SeerecError) as error:
                print(case.what, given().counts)
            assert re.search(case.fate, error.value.cause), (case.what, error.value.cause)
            assert path.name in error.value.cause or "recommendations table" in error.value.cause, case.what
            assert "\n" not in str(error.value), case.what
            assert error.value.fix.endswith("."), case.what
        else:
            events = given()
            assert refused(events, "recommendations") == case.fate, case.what
            check_sums(events, "recommendations", 20 + case.lines)
            ids = "SELECT count(*), min(timestamp), count(DISTINCT timestamp) FROM recommendations"
            accepted = 20 + case.lines - len(case.fate)
            assert events.connection.execute(ids).fetchall() == [(accepted, NOON, accepted)], case.what


@pytest.mark.parametrize("table", KUAISAR)
def test_each_column_that_is_read_must_be_there_and_no_other(table: str, tmp_path: Path) -> None:
    needed = {
        "recommendations": {"user_id", "item_id", "click"},  # the time may be either
        "searches": {"user_id", "search_session_id", "keyword", "item_id", "click_cnt"},
        "items": {"item_id", "caption"} | {column for column in KUAISAR["items"] if column.endswith("category_id")},
        "users": set(KUAISAR["users"]),
    }
    for number, column in enumerate(KUAISAR[table]):
        for what, instead in (("missing", None), ("renamed", f"{column}2")):
            folder = tmp_path / f"{number} {what}"
            good_files("kuaisar", folder)
            path = path_of("kuaisar", folder, table)
            rows = [own("kuaisar", table, n) for n in range(3)]
            kept = [{n: c for n, c in row.items() if n != column} | ({instead: row[column]} if instead else {}) for row in rows]
            path.write_text(text_of(kept, kept[0]))
            if column in needed[table]:
                with pytest.raises(SeerecError, match=rf"{path.name} has no column {column} \(found: ") as error:
                    read_kuaisar(folder)
                assert ", ".join(kept[0]) in error.value.cause
            else:
                assert read_kuaisar(folder).counts[f"{table}_accepted"] == 3, column


@pytest.mark.parametrize("source", READERS)
@pytest.mark.parametrize("words", [1 << 17, 1 << 20])
def test_long_queries_and_lines_take_seconds(source: str, words: int, tmp_path: Path) -> None:
    """A query of 1 MB and one of 7 MB, each beside a malformed line: what reads one line must not look at it once a comma."""
    column, key = ("keyword", "search_session_id") if source == "kuaisar" else ("query", "search_id")
    good_files(source, tmp_path / "raw")
    rows: list[Any] = [own(source, "searches", number) for number in range(20)]
    rows[7][column] = "[" + ", ".join(["123456"] * words) + "]"
    rows.insert(4, "bad")
    path_of(source, tmp_path / "raw", "searches").write_text(text_of(rows, GOOD[source]["searches"]))
    events = READERS[source](tmp_path / "raw")
    too_long = len(rows[8][column]) > 2_000_000  # more than DuckDB reads as one line
    assert refused(events, "searches") == {6: "malformed_line"} | ({10: "malformed_line"} if too_long else {})
    check_sums(events, "searches", 21)
    longest = events.connection.execute("SELECT max(length(query)) FROM searches").fetchall()
    assert longest == [(len(rows[0][column]) if too_long else len(rows[8][column]),)]
    assert rows[0][key]


def test_a_malformed_line_among_many_columns_of_text_costs_little(tmp_path: Path) -> None:
    """Found when one bad line in 100,000 captions took 57 s and 2.3 GB; a tenth of it must not take a tenth of that."""
    good_files("kuaisar", tmp_path / "raw")
    rows: list[Any] = [{**own("kuaisar", "items", n), "caption": str(list(range(20)))} for n in range(10_000)]
    rows.insert(5000, "7,[1]")
    path_of("kuaisar", tmp_path / "raw", "items").write_text(text_of(rows, KUAISAR["items"]))
    connection = duckdb.connect(config={"memory_limit": "200MB"})
    began = datetime.now(UTC)
    events = read(connection, [tmp_path / "raw"])
    assert (datetime.now(UTC) - began).total_seconds() < 20
    assert refused(events, "items") == {5002: "malformed_line"}
    check_sums(events, "items", 10_001)


# -- any events -----------------------------------------------------------------------------------------------------------


def as_number(cell: str) -> float | None:
    """What a cell holds, or None; infinity and NaN count as numbers."""
    if not cell.isascii():
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def as_id(cell: str) -> int | None:
    number = as_number(cell)
    return int(number) if number is not None and math.isfinite(number) and 0 <= number < 9e15 and number == int(number) else None


def as_time(cell: str) -> tuple[int | None, str | None]:
    """Ms UTC and None, or None and why not."""
    number = as_number(cell)
    if not cell.strip():
        return None, "time_missing"
    if number is None:
        try:
            time = int(datetime.strptime(f"{cell}+0800", "%Y-%m-%d %H:%M:%S%z").timestamp() * 1000)
        except ValueError:
            return None, "time_not_a_number"
    elif not math.isfinite(number):
        return None, "time_not_a_number"
    elif abs(number) < 1e18 and number != int(number):
        return None, "time_not_whole"
    else:
        time = int(number)
    return (time, None) if EARLIEST <= time < 4_102_444_800_000 else (None, "time_out_of_range")


def why_not(what: str, cell: str) -> str | None:
    return None if as_id(cell) is not None else f"{what}_missing" if not cell.strip() else f"{what}_not_a_number"


def fates_of_recommendations(rows: list[dict[str, str]]) -> Fates:
    """What the contract says of each line, one row at a time."""
    fates: Fates = {}
    seen = set()
    for line, row in zip(lines_of(rows), rows, strict=True):
        time, no_time = as_time(row["timestamp"])
        key = as_id(row["user_id"]), as_id(row["item_id"]), time, as_number(row["click"])
        why = why_not("user", row["user_id"]) or why_not("item", row["item_id"])
        why = why or (no_time if no_time != "time_out_of_range" or not plausible(row["timestamp"]) else None)
        why = why or ("clicked_unreadable" if as_number(row["click"]) not in (0, 1) else None) or no_time
        if why is None:
            why = "duplicate" if key in seen else None
            seen.add(key)
        fates[line] = why
    return fates


def plausible(cell: str) -> bool:
    """Whether a time is one of the years that a bigint of ms can hold; its range is judged after the other columns."""
    number = as_number(cell)
    return number is None or abs(number) < 1e18


LIST = re.compile(r"\s*(\[\s*(\d+(\.0*)?((\s*,\s*|\s+)\d+(\.0*)?)*)?\s*\])?\s*", re.ASCII)


def fates_of_searches(rows: list[dict[str, str]]) -> Fates:
    fates: Fates = {}
    first: dict[Any, Any] = {}
    good: list[tuple[int, Any, Any, Any]] = []
    for line, row in zip(lines_of(rows), rows, strict=True):
        time, no_time = as_time(row["search_session_timestamp"])
        item = as_id(row["item_id"])
        words = re.sub(r"\.0*", "", row["keyword"]) if "." in row["keyword"] else row["keyword"]
        why = why_not("user", row["user_id"]) or why_not("search", row["search_session_id"])
        why = why or ("item_not_a_number" if row["item_id"].strip() and item is None else None)
        late = no_time == "time_out_of_range" and plausible(row["search_session_timestamp"])
        why = why or (None if late else no_time)
        why = why or ("clicked_unreadable" if as_id(row["click_cnt"]) is None else None)
        why = why or (None if LIST.fullmatch(row["keyword"]) else "query_not_a_list") or no_time
        why = why or ("search_empty" if item is None and not re.search(r"\d", words) else None)
        fates[line] = why
        if why is None:
            key = as_id(row["user_id"]), as_id(row["search_session_id"])
            good.append((line, key, (time, words or None), (item, (as_id(row["click_cnt"]) or 0) > 0)))
    seen = set()
    for line, key, said, rest in good:
        if first.setdefault(key, said) != said:
            fates[line] = "search_inconsistent"
        elif (key, said, rest) in seen:
            fates[line] = "duplicate"
        seen.add((key, said, rest))
    return fates


ODD = st.sampled_from(
    ["", " ", "nan", "inf", "-1", "1.5", "7.0", "1e3", "abc", "é", "\u202e5", "5\0", "0x5", "[5]", "9" * 30, "2\n3", '"', "'"]
) | st.text(st.characters(blacklist_categories=("Cs", "Cc", "Z")), max_size=4)  # fmt: skip


def rows(columns: Mapping[str, Iterable[str]], odd: st.SearchStrategy[str] = ODD) -> st.SearchStrategy[dict[str, str]]:
    """Rows of good cells, of which every third has an odd cell in some column; few draws each, since they are many."""
    good = {column: list(cells) for column, cells in columns.items()}
    names = list(good)

    def row(seed: int, odd_one: tuple[int, str] | None) -> dict[str, str]:
        draw = random.Random(seed)
        made = {column: draw.choice(cells) for column, cells in good.items()}
        return made if odd_one is None else made | {names[odd_one[0]]: odd_one[1]}

    return st.builds(row, st.integers(0, 1 << 16), st.none() | st.none() | st.tuples(st.integers(0, len(names) - 1), odd))


CLOCK = [f"{NOON + 1000 * n}" for n in range(6)] + [f"{NOON}.0", "2023-05-25 10:00:02"]
ODD_TIMES = ODD | st.sampled_from(
    ["1684980000", "-5", "1e30", "9223372036854775807", "4102444800000", f"{NOON}.5", "1970-01-01 00:00:00"]
)
ANY_RECOMMENDATION = rows(
    {"user_id": ["1", "2", "3.0"], "item_id": ["11", "12", "13", "14"], "timestamp": CLOCK, "click": ["0", "1", "1.0"]}, ODD_TIMES
)
ANY_SEARCH = rows(
    {
        "user_id": "12", "search_session_id": "123456789", "search_session_timestamp": CLOCK[:2],
        "keyword": ["[1, 2]", "[1, 2]", "[1.0, 2.0]", "[3]", ""], "item_id": ["11", "12", ""], "click_cnt": "012",
    },
    ODD_TIMES | st.sampled_from(["[1,]", "[x]", "[1", "[]"]),
)  # fmt: skip
RUNS, ROWS = 40, 100
PLACES = itertools.count()
LARGE = settings(
    derandomize=True, deadline=None, database=None, print_blob=False,
    phases=[Phase.generate],  # the tests name the row that is wrong, so that nothing is shrunk
    suppress_health_check=[
        HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.function_scoped_fixture
    ],
)  # fmt: skip


@settings(LARGE, max_examples=RUNS)
@given(
    recommendations=st.lists(ANY_RECOMMENDATION, min_size=ROWS, max_size=ROWS),
    searches=st.lists(ANY_SEARCH, min_size=ROWS, max_size=ROWS),
)
def test_any_events_of_kuaisar(recommendations: list[dict[str, str]], searches: list[dict[str, str]], tmp_path: Path) -> None:
    """Each line is judged as a plain reading of the contract judges it."""
    folder = tmp_path / str(next(PLACES))
    folder.mkdir()
    recommendations = [{"user_id": "9", "item_id": "9", "timestamp": f"{NOON}", "click": "1"}, *recommendations]
    (folder / "rec_inter.csv").write_text(text_of(recommendations, recommendations[0]), encoding="utf-8", newline="")
    (folder / "src_inter.csv").write_text(text_of(searches, searches[0]), encoding="utf-8", newline="")
    events = read_kuaisar(folder)
    for table, rows, fates in (
        ("recommendations", recommendations, fates_of_recommendations(recommendations)),
        ("searches", searches, fates_of_searches(searches)),
    ):
        found = refused(events, table)
        row_of = dict(zip(lines_of(rows), rows, strict=True))
        wrong = {line: (row_of[line], fate, found.get(line)) for line, fate in fates.items() if found.get(line) != fate}
        assert wrong == {}
        check_sums(events, table, len(rows))
    query = "SELECT line, user_id, item_id, timestamp FROM recommendations"
    row_of = dict(zip(lines_of(recommendations), recommendations, strict=True))
    for line, user, item, time in events.connection.execute(query).fetchall():
        row = row_of[line]
        assert (int(user), int(item), time) == (as_id(row["user_id"]), as_id(row["item_id"]), as_time(row["timestamp"])[0])
    events.connection.close()


TEXTS = {
    "recommendations": rows({"user_id": "uv", "item_id": "ijk", "timestamp": CLOCK[:6], "clicked": ["1", ""]}, ODD_TIMES),
    "searches": rows(
        {
            "user_id": "uv", "search_id": "abcdef", "timestamp": CLOCK[:2], "query": ["red shoe", "red shoe", "鞋", "?!"],
            "item_id": ["i", "j", ""], "clicked": "01",
        },
        ODD_TIMES,
    ),
}  # fmt: skip
REASONS = {
    "user_missing", "item_missing", "id_not_text", "time_missing", "time_not_a_number", "time_not_whole", "time_out_of_range",
    "clicked_unreadable", "duplicate", "search_empty", "search_inconsistent",
}  # fmt: skip


@settings(LARGE, max_examples=10)
@given(
    recommendations=st.lists(TEXTS["recommendations"], min_size=ROWS, max_size=ROWS),
    searches=st.lists(TEXTS["searches"], min_size=ROWS, max_size=ROWS),
)
def test_any_events_of_tables(recommendations: list[dict[str, str]], searches: list[dict[str, str]], tmp_path: Path) -> None:
    """No line is lost, no accepted row breaks the contract, every refusal can be seen in its line."""
    folder = tmp_path / str(next(PLACES))
    folder.mkdir()
    recommendations = [{"user_id": "w", "item_id": "w", "timestamp": f"{NOON}", "clicked": "1"}, *recommendations]
    given_rows = {"recommendations": recommendations, "searches": searches}
    for table, rows in given_rows.items():
        (folder / f"{table}.csv").write_text(text_of(rows, rows[0]), encoding="utf-8", newline="")
    events = read_tables(folder)
    for table, rows in given_rows.items():
        check_sums(events, table, len(rows))
        place = {line: number for number, line in enumerate(lines_of(rows))}
        accepted = events.connection.execute(f"SELECT line, user_id, item_id, timestamp, clicked FROM {table}").fetchall()
        for line, user, item, time, clicked in accepted:
            row = rows[place[line]]
            assert (user, item or "") == (row["user_id"], row["item_id"] if row["item_id"].strip() else "")
            assert user.strip()
            assert table == "searches" or item
            assert 0 <= time < 4_102_444_800_000
            assert clicked in (True, False)
        for line, reason in refused(events, table).items():
            assert reason in REASONS
            assert is_so(reason, rows[place[line]], rows[: place[line]]), (reason, rows[place[line]])
    events.connection.close()


def what_counts(row: dict[str, str]) -> dict[str, str]:
    """Of a row, where repeats are looked for: blank cells are like empty ones, and what does not say so was clicked."""
    return {column: cell.strip() for column, cell in row.items()} | {"clicked": row["clicked"].strip() or "1"}


def is_so(reason: str, row: dict[str, str], before: list[dict[str, str]]) -> bool:
    """Whether a row is what its refusal says."""
    number = as_number(row["timestamp"])
    said = {
        "user_missing": not row["user_id"].strip(),
        "item_missing": not row["item_id"].strip(),
        "id_not_text": "\0" in row["user_id"] + row["item_id"],
        "time_missing": not row["timestamp"].strip(),
        "time_not_a_number": number is None or not math.isfinite(number),
        "time_not_whole": number is not None and number != number // 1,
        "time_out_of_range": number is not None and not 0 <= number < 4_102_444_800_000,
        "clicked_unreadable": row["clicked"].strip() not in ("", "0", "1"),
        "duplicate": any(what_counts(row) == what_counts(other) for other in before),
        "search_empty": not row["item_id"].strip() and not any(c.isalnum() for c in row.get("query", "")),
    }
    if reason == "search_inconsistent":
        same = [other for other in before if (other["user_id"], other["search_id"]) == (row["user_id"], row["search_id"])]
        return any((other["timestamp"], other["query"]) != (row["timestamp"], row["query"]) for other in same)
    return said[reason]


def test_a_run_looks_at_ten_thousand_events() -> None:
    assert 2 * ROWS * (RUNS + 10) == 10_000


def test_an_error_of_the_contract_is_json_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from seerec import cli

    good_files("kuaisar", tmp_path / "raw")
    path_of("kuaisar", tmp_path / "raw", "recommendations").write_bytes(b"caf\xe9,x\n")
    assert cli.main(["prepare", "kuaisar", str(tmp_path / "raw"), "--out", str(tmp_path / "c"), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)["error"]
    assert "not UTF-8 text (line 1)" in said["cause"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]
