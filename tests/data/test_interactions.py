"""Interaction logs of two shapes, under many column names, clocks and file layouts."""

import os
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seerec.data.events import Events
from seerec.data.sources.interactions import read
from seerec.errors import SeerecError

ITEMS = "item_id,title\na,Red shoe\nb,Blue hat\nc,Green coat\nd,Old map\n"
NOTHING = {"p_search": 0.0, "noise": 0.0}
SECOND = 1_600_000_000


def folder(path: Path, **files: str) -> Path:
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content)
    return path


def log_of(events: Events) -> list[tuple[Any, ...]]:
    return events.connection.execute(
        "SELECT user_id, item_id, timestamp FROM recommendations ORDER BY line, timestamp"
    ).fetchall()


def plain(path: Path, **options: Any) -> Events:
    return read(duckdb.connect(), [path], **NOTHING, **options)


@pytest.mark.parametrize(
    "names",
    ["user_id,item_id,timestamp", "userId,movieId,time", "reviewerID,asin,unixReviewTime", "uid:token,iid:token,ts:float"],
)
def test_usual_names_are_recognised(tmp_path: Path, names: str) -> None:
    folder(tmp_path, log__csv=f"{names},rating\nu,a,{SECOND},5\nv,b,{SECOND + 1},4\n", items__csv=ITEMS)
    events = plain(tmp_path)
    assert log_of(events) == [("u", "a", SECOND * 1000), ("v", "b", SECOND * 1000 + 1000)]
    assert events.source["files"] == ["log.csv", "items.csv"]


def test_unusual_names_are_given(tmp_path: Path) -> None:
    folder(tmp_path, log__csv=f"who,what,when\nu,a,{SECOND}\n", items__csv=ITEMS.replace("item_id", "what"))
    events = plain(tmp_path, user_column="who", item_column="what", time_column="when")
    assert log_of(events) == [("u", "a", SECOND * 1000)]
    with pytest.raises(SeerecError, match=r"no column whom .*found: who, what, when") as error:
        read(
            duckdb.connect(),
            [tmp_path / "log.csv"],
            items=tmp_path / "items.csv",
            user_column="who",
            item_column="what",
            time_column="whom",
        )
    assert "--time-column" in error.value.fix


@pytest.mark.parametrize(("unit", "clock"), [(1, "s"), (1000, "ms"), (10**6, "us"), (10**9, "ns")])
def test_the_unit_of_time_is_recognised(tmp_path: Path, unit: int, clock: str) -> None:
    bad = "u,c,nan\nu,d,\nv,c,99999999999999999999999\n"
    folder(tmp_path, log__csv=f"user,item,ts\nu,a,{SECOND * unit}\nu,b,{SECOND * unit + unit}\n{bad}", items__csv=ITEMS)
    events = plain(tmp_path)
    assert log_of(events) == [("u", "a", SECOND * 1000), ("u", "b", SECOND * 1000 + 1000)]
    assert events.source["clock"] == clock
    reasons = events.connection.execute("SELECT line, reason FROM quarantine ORDER BY line").fetchall()
    assert reasons == [(4, "time_not_a_number"), (5, "time_missing"), (6, "time_out_of_range")]


def test_fractions_of_seconds_and_dates_are_times(tmp_path: Path) -> None:
    folder(tmp_path, log__csv=f"user,item,time\nu,a,{SECOND}.25\n", items__csv=ITEMS)
    assert log_of(plain(tmp_path)) == [("u", "a", SECOND * 1000 + 250)]
    folder(tmp_path, log__csv="user,item,date\nu,a,2020-09-13T12:26:40\n")
    assert log_of(plain(tmp_path)) == [("u", "a", SECOND * 1000)]


def test_without_times_the_order_of_the_file_counts(tmp_path: Path) -> None:
    folder(tmp_path, log__csv="user,item\nu,b\nv,a\nu,a\nu,b\n", items__csv=ITEMS)
    events = plain(tmp_path)
    assert log_of(events) == [("u", "b", 1000), ("v", "a", 1000), ("u", "a", 2000), ("u", "b", 3000)]
    assert events.source["clock"] == "order"


@pytest.mark.parametrize(
    "log",
    [
        "user_id:token\titem_id_list:token_seq\titem_id:token\nu\ta b\tc\nv\td\ta\n",
        "user\tsequence\nu\ta b c\nv\td a\n",
        "user\titems\nu\ta, b,c\nv\t[d, a]\n",
    ],
)
def test_sequences_are_one_row_per_user_oldest_first(tmp_path: Path, log: str) -> None:
    events = plain(folder(tmp_path, sequences__tsv=log, items__csv=ITEMS))
    assert log_of(events) == [("u", "a", 1000), ("u", "b", 2000), ("u", "c", 3000), ("v", "d", 1000), ("v", "a", 2000)]
    assert (events.source["shape"], events.source["clock"]) == ("sequences", "order")


def test_sequences_in_parquet_are_lists(tmp_path: Path) -> None:
    folder(tmp_path, items__csv="item_id,title\n2,Two\n")
    pq.write_table(pa.table({"user_id": [1], "item_ids": [[2, 3]]}), tmp_path / "log.parquet")
    assert log_of(plain(tmp_path)) == [("1", "2", 1000), ("1", "3", 2000)]


def test_bad_sequences_are_quarantined_and_counted(tmp_path: Path) -> None:
    log = "user\tsequence\nu\ta\nu\ta b c\n\ta b\nv\t\nw\tx\ty\nu\ta b d\n"
    events = plain(folder(tmp_path, sequences__tsv=log, items__csv=ITEMS))
    assert log_of(events) == [("u", "a", 1000), ("u", "b", 2000), ("u", "c", 3000)]
    reasons = events.connection.execute(
        "SELECT line, reason FROM quarantine WHERE table_name = 'recommendations' ORDER BY ALL"
    ).fetchall()
    assert reasons == [
        (2, "sequence_duplicate"), (4, "user_missing"), (4, "user_missing"), (5, "item_missing"),
        (6, "malformed_line"), (7, "sequence_duplicate"),
    ]  # fmt: skip
    counts = events.counts
    assert (counts["recommendations_read"], counts["recommendations_accepted"], counts["recommendations_quarantined"]) == (
        9,
        3,
        6,
    )


def test_two_logs_in_a_folder_are_listed_and_a_choice_is_offered(tmp_path: Path) -> None:
    folder(
        tmp_path,
        ratings__csv=f"userId,movieId,timestamp\nu,a,{SECOND}\n",
        tags__csv="userId,movieId,tag\nu,a,fun\n",
        movies__csv="movieId,title,genres\na,Up,Action|Comedy\n",
    )
    folder(tmp_path, README__txt="About\n=====\n", links__csv="movieId,imdbId\na,114709\n")
    with pytest.raises(SeerecError, match=r"several interaction logs: ratings.csv, tags.csv") as error:
        plain(tmp_path)
    assert "--items" in error.value.fix
    events = read(duckdb.connect(), [tmp_path / "ratings.csv"], items=tmp_path / "movies.csv", **NOTHING)
    assert log_of(events) == log_of(read(duckdb.connect(), [tmp_path / "ratings.csv", tmp_path / "movies.csv"], **NOTHING))
    assert events.connection.execute("FROM items").fetchall() == [("a", "Up", "Up Action|Comedy", "Action|Comedy")]
    (tmp_path / "tags.csv").unlink()
    assert plain(tmp_path).source["files"] == ["ratings.csv", "movies.csv"]  # links.csv has no title


def test_a_column_that_does_not_exist_is_named(tmp_path: Path) -> None:
    folder(tmp_path, log__csv=f"user,item,ts\nu,a,{SECOND}\n", items__csv=ITEMS)
    for options, flag in (({"user_column": "zzz"}, "--user-column"), ({"item_column": "zzz"}, "--item-column")):
        with pytest.raises(SeerecError, match=r"has no column zzz \(found in .*log.csv: user, item, ts") as error:
            plain(tmp_path, **options)
        assert flag in error.value.fix


def test_refused_times_are_shown_as_they_stand(tmp_path: Path) -> None:
    folder(tmp_path, log__csv=f"user,item,ts\nu,a,{SECOND}\nu,b,-5\n", items__csv=ITEMS)
    shown = plain(tmp_path).connection.execute("SELECT reason, content FROM quarantine").fetchall()
    assert [reason for reason, _ in shown] == ["time_out_of_range"]
    assert "-5" in shown[0][1]
    assert "-5000" not in shown[0][1]


def test_dates_in_another_order_are_refused_with_what_may_be_given(tmp_path: Path) -> None:
    folder(tmp_path, log__csv="user,item,date\nu,a,31/12/2020\n", items__csv=ITEMS)
    with pytest.raises(SeerecError, match="time_not_a_number") as error:
        plain(tmp_path)
    assert "seconds" in error.value.fix
    assert "2023-05-22" in error.value.fix


def test_a_wrong_folder_is_a_sentence(tmp_path: Path) -> None:
    log = f"user,item,ts\nu,a,{SECOND}\n"
    with pytest.raises(SeerecError, match=r"holds no interaction log.*no tables"):
        plain(tmp_path)
    folder(tmp_path, items__csv=ITEMS)
    with pytest.raises(SeerecError, match=r"holds no interaction log.*items.csv: item_id, title"):
        plain(tmp_path)
    folder(tmp_path, log__csv=log)
    with pytest.raises(SeerecError, match="searches are constructed from item text") as error:
        plain(tmp_path / "log.csv")
    assert "--items" in error.value.fix
    folder(tmp_path, books__csv=ITEMS)
    with pytest.raises(SeerecError, match=r"several items' files: books.csv, items.csv"):
        plain(tmp_path)
    with pytest.raises(SeerecError, match="does not exist"):
        plain(tmp_path / "nowhere")
    (tmp_path / "items.csv").write_bytes(b"item_id,title\na,caf\xe9\n")
    with pytest.raises(SeerecError, match="not UTF-8"):
        read(duckdb.connect(), [tmp_path / "log.csv"], items=tmp_path / "items.csv")
    folder(tmp_path, items__csv="item_id,price\na,3\n")
    with pytest.raises(SeerecError, match="No item has text"):
        read(duckdb.connect(), [tmp_path / "log.csv"], items=tmp_path / "items.csv")


def test_items_of_another_log_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, log__csv="user,item\nu,1\nu,2\nu,3\nu,4\n", items__csv=ITEMS)
    with pytest.raises(SeerecError, match="No item has text") as error:
        read(duckdb.connect(), [tmp_path])
    assert "ids are those of the log" in error.value.fix
    folder(tmp_path, log__csv="user,item\nu,1\nu,2\nu,a\nu,2\n")
    assert read(duckdb.connect(), [tmp_path]).counts["items_without_description"] == 2


def test_nested_ids_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, items__csv=ITEMS)
    log = {"user_id": ["u"], "item_id": ["a"], "timestamp": [SECOND]}
    for columns, cause in (
        ({**log, "item_id": [["a"]]}, r"column item_id of .* VARCHAR\[\]"),
        ({**log, "user_id": [{"a": 0}]}, "column user_id of .* STRUCT"),
        ({"user_id": [["u"]], "item_ids": [["a", "b"]]}, "column user_id of"),
        ({"user_id": ["u"], "item_ids": [[["a"]]]}, "column item_ids of"),
        ({"user_id": ["u"], "item_ids": [["a"]], "item_id": [["b"]]}, "column item_id of"),
    ):
        pq.write_table(pa.table(columns), tmp_path / "log.parquet")
        with pytest.raises(SeerecError, match=cause):
            plain(tmp_path)


def test_items_without_text_stay_recommendations(tmp_path: Path) -> None:
    text = "user_id,sequence\n" + "".join(f"u{i},a x a x a x\n" for i in range(20))
    events = read(duckdb.connect(), [folder(tmp_path, log__csv=text, items__csv=ITEMS)], p_search=1.0, noise=0.0)
    assert events.connection.execute("SELECT DISTINCT item_id FROM searches").fetchall() == [("a",)]
    assert events.connection.execute("SELECT item_id, count(*) FROM recommendations GROUP BY ALL ORDER BY ALL").fetchall() == [
        ("a", 20),
        ("x", 60),
    ]
    assert (events.counts["recommendations_accepted"], events.counts["searches_own"]) == (120, 40)


def real(name: str) -> Path:
    path = Path(os.environ.get("SEEREC_DATA", Path(__file__).parents[3] / "shared" / "data")) / name
    if not path.is_dir():
        pytest.skip(f"{name} is not there: set SEEREC_DATA to the folder that holds it.")
    return path


def test_a_real_shop_is_read_whole() -> None:
    events = read(duckdb.connect(config={"threads": 2}), [real("amazon-games")])
    assert events.counts["recommendations_accepted"] == events.counts["recommendations_read"] == 440_264
    assert events.counts["items_accepted"] == 16_859
    assert abs(events.counts["searches_own"] / (440_264 - 2 * 50_546) - 0.4) < 0.005
    assert events.counts["searches_without_donor"] == 0


def test_real_films_are_read_whole() -> None:
    path = real("movielens-latest-small")
    events = read(duckdb.connect(config={"threads": 2}), [path / "ratings.csv"], items=path / "movies.csv")
    assert (events.counts["recommendations_accepted"], events.source["clock"]) == (100_836, "s")
    repeats = events.connection.execute("""
        SELECT count(*) FROM searches JOIN recommendations AS target USING (user_id, item_id)""").fetchone()
    assert repeats == (0,)  # nobody rates a film twice
