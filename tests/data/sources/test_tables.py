"""Tables of the event contract whose columns have other names."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import seerec
from seerec import cli
from seerec.data.events import Events, from_tables
from seerec.errors import SeerecError

CLICKS = {"customer": ["u", "v"], "sku": ["a", "b"], "at": [5, 6], "user_id": ["not", "these"]}
SEARCHES = {"customer": ["u"], "sku": ["a"], "at": [4], "keyword": ["red shoe"], "query": ["SELECT 1"], "visit": ["s"]}
NAMES = {"user_id": "customer", "item_id": "sku", "timestamp": "at", "searches.query": "keyword"}


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk is what these tests would mostly wait for."""
    monkeypatch.setattr("seerec.atomic.os.fsync", lambda _: None)


def frame(columns: dict[str, list[Any]], *without: str) -> pd.DataFrame:
    return pd.DataFrame({name: cells for name, cells in columns.items() if name not in without})


def rows(events: Events, table: str, columns: str) -> list[tuple[Any, ...]]:
    return events.connection.execute(f"SELECT {columns} FROM {table} ORDER BY ALL").fetchall()


def test_mapped_names_win_over_those_of_the_contract() -> None:
    events = from_tables(recommendations=frame(CLICKS), searches=frame(SEARCHES), columns={**NAMES, "search_id": "visit"})
    assert rows(events, "recommendations", "user_id, item_id, timestamp") == [("u", "a", 5), ("v", "b", 6)]
    assert rows(events, "searches", "user_id, search_id, item_id, timestamp, query") == [("u", "s", "a", 4, "red shoe")]
    assert events.source["columns"] == {**NAMES, "search_id": "visit"}
    assert events.counts["recommendations_quarantined"] == 0


def test_names_may_change_places_and_differ_in_case() -> None:
    swapped = frame({"item_id": ["u"], "USER_ID": ["a"], "When": [5]})
    events = from_tables(recommendations=swapped, columns={"user_id": "item_id", "Item_Id": "user_id", "timestamp": "when"})
    assert rows(events, "recommendations", "user_id, item_id, timestamp") == [("u", "a", 5)]
    plain = frame({"user_id": ["u"], "item_id": ["a"], "timestamp": [5]})
    kept = from_tables(recommendations=plain, columns={"user_id": "user_id"})
    assert rows(kept, "recommendations", "user_id, item_id") == [("u", "a")]


def test_one_table_may_be_meant() -> None:
    searches = frame({"customer": ["u"], "user_id": ["w"], "timestamp": [4], "query": ["x"]})
    clicks = frame({"customer": ["u"], "user_id": ["v"], "item_id": ["a"], "timestamp": [5]})
    events = from_tables(recommendations=clicks, searches=searches, columns={"recommendations.user_id": "customer"})
    assert (rows(events, "recommendations", "user_id"), rows(events, "searches", "user_id")) == ([("u",)], [("w",)])


def test_titles_of_items_and_users_are_mapped_as_well() -> None:
    events = from_tables(
        recommendations=frame(CLICKS),
        items=frame({"sku": ["a"], "label": ["Shoe"], "title": ["ignored"], "brand": ["x"]}),
        users=frame({"customer": ["u"], "age": ["30"]}),
        columns={"user_id": "customer", "item_id": "sku", "timestamp": "at", "items.title": "label"},
    )
    assert rows(events, "items", "item_id, title, text, category_brand") == [("a", "Shoe", "Shoe x", "x")]
    assert rows(events, "users", "user_id, category_age") == [("u", "30")]


@pytest.mark.parametrize(
    ("columns", "cause"),
    [
        ({**NAMES, "price": "sku"}, "the contract has no column price"),
        ({**NAMES, "items.query": "sku"}, "no items table is given"),
        ({**NAMES, "baskets.user_id": "sku"}, "no table baskets"),
        ({**NAMES, "recommendations.query": "sku"}, "the recommendations table has no column query"),
        ({**NAMES, "": "sku"}, "no column "),
        (
            {**NAMES, "clicked": "bought"},
            "bought, which no table has .found in recommendations: customer, sku, at, user_id; searches",
        ),
        ({**NAMES, "recommendations.clicked": "keyword"}, "keyword, which no table has .found in recommendations: customer"),
        ({**NAMES, "clicked": "line"}, "line, which no table has"),
        (
            {**NAMES, "recommendations.user_id": "sku"},
            "user_id of the recommendations table is mapped twice: to customer and to sku",
        ),
        ({**NAMES, "USER_ID": "sku"}, "user_id of the recommendations table is mapped twice"),
        ({**NAMES, "clicked": "sku"}, "sku of the recommendations table is mapped twice: as item_id and as clicked"),
        ({"user_id": 5}, "are no names"),
        (["user_id=customer"], "are no names"),
        ({}, "no column item_id, timestamp"),
    ],
)
def test_a_mapping_that_means_nothing_is_refused(columns: Any, cause: str) -> None:
    with pytest.raises(SeerecError, match=cause) as caught:
        from_tables(recommendations=frame(CLICKS), searches=frame(SEARCHES), columns=columns)
    assert caught.value.fix


def log() -> pd.DataFrame:
    clicks = [(f"u{u}", f"i{(u * 3 + k) % 11}", 1_700_000_000_000 + 1000 * k + u, "x,y") for u in range(4) for k in range(6)]
    return pd.DataFrame(clicks, columns=["customer", "sku:token", "\u05de\u05ea\u05d9", "user_id"])


def test_files_of_either_kind_and_the_command_line_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searches = pd.DataFrame({"customer": ["u1"], "at": [1_700_000_000_500], "keyword": ["\u05e0\u05e2\u05dc red"]})
    log().to_csv(tmp_path / "log.csv", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    pq.write_table(pa.Table.from_pandas(log()), tmp_path / "log.parquet")
    searches.to_csv(tmp_path / "s.csv", index=False)
    names = {
        "user_id": "customer",
        "item_id": "sku",
        "timestamp": "\u05de\u05ea\u05d9",
        "searches.timestamp": "at",
        "query": "keyword",
    }
    hashes = []
    for kind in ("csv", "parquet"):
        asked = [
            "prepare",
            "tables",
            str(tmp_path / f"log.{kind}"),
            "--searches-file",
            str(tmp_path / "s.csv"),
            "--negatives",
            "2",
        ]
        maps = [part for column, name in names.items() for part in ("--map", f"{column}={name}")]
        assert cli.main([*asked, *maps, "--json", "--out", str(tmp_path / kind)]) == 0
        hashes.append(json.loads(capsys.readouterr().out)["content_hash"])
    corpus = seerec.prepare(tmp_path / "c", recommendations=log(), searches=searches, columns=names, settings={"negatives": 2})
    assert {corpus.content_hash} == set(hashes)
    assert corpus.manifest["counts"]["searches"] == 1
    assert corpus.manifest["source"]["columns"] == names


@pytest.mark.parametrize(
    ("maps", "cause"),
    [
        (["user_id"], "not of the form COLUMN=NAME"),
        (["=customer"], "not of the form COLUMN=NAME"),
        (["user_id="], "not of the form COLUMN=NAME"),
        (["user_id=customer", "user_id=sku"], "user_id is mapped twice"),
        (["user_id=nobody"], "nobody, which no table has"),
    ],
)
def test_the_command_line_refuses_what_is_no_mapping(
    maps: list[str], cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log().to_csv(tmp_path / "log.csv", index=False)
    asked = ["prepare", "tables", str(tmp_path / "log.csv"), *(part for pair in maps for part in ("--map", pair))]
    assert cli.main([*asked, "--out", str(tmp_path / "c")]) != 0
    assert cause in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "c").exists()


def test_other_sources_know_their_columns(tmp_path: Path) -> None:
    with pytest.raises(SeerecError, match="has no columns="):
        seerec.prepare(tmp_path / "c", source="ubi", paths=[tmp_path], columns={"user_id": "customer"})
    assert cli.main(["prepare", "simulated", "--map", "user_id=customer", "--out", str(tmp_path / "c")]) == 2


def test_a_relation_can_be_mapped() -> None:
    with duckdb.connect() as connection:
        relation = connection.sql("SELECT 'u' AS customer, 'a' AS item_id, 5 AS timestamp")
        events = from_tables(recommendations=relation, columns={"user_id": "customer"})
    assert rows(events, "recommendations", "user_id, item_id") == [("u", "a")]
