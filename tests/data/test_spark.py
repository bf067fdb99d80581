"""The same corpus on Spark as on DuckDB, to the hash."""

import importlib.util
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.engines import large_events
from tests.data.test_prepare import Rows, events, rec, search

from seerec.config import DataSettings
from seerec.data import prepare, spark
from seerec.data.engines import in_duckdb
from seerec.data.events import Events
from seerec.data.prepare import write_corpus
from seerec.data.spark import on_spark
from seerec.errors import SeerecError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # Spark shares two processors with other tests
    pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed"),
    pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed"),
]
CHRONOLOGICAL = {"split": "chronological", "val_start": "1970-01-01T00:00:00.010", "test_start": "1970-01-01T00:00:00.015"}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"repeats": "keep", "min_item_clicks": 2},
    {"searches": "shuffled", "seed": 3},
    CHRONOLOGICAL,
    {"min_user_clicks": 3, "searches": "none"},
    {"split": "chronological", "val_fraction": 0.2, "test_fraction": 0.15},
    {"zero_click": "first-shown", "min_word_count": 2},
    {"zero_click": "drop", "sampler": "popularity"},
    CHRONOLOGICAL | {"repeats": "keep", "min_user_clicks": 2, "max_words": 5},
    {"split": "chronological", "test_start": "1970-01-01T00:00:00.016", "zero_click": "first-shown"},
]


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    """One small Spark for the module; `on_spark` takes the one that runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyspark.sql import SparkSession
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # tiny tables: compiling costs most
        "spark.log.level": "ERROR",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder.master("local[2]").appName("tests")
    for name, value in settings.items():
        builder = builder.config(name, value)
    started = builder.getOrCreate()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerec.atomic.os.fsync", lambda _: None)


def random_events(seed: int) -> Events:
    """Ties in time, requests, rows only shown, ids and words of many scripts, searches without words, clicks or users."""
    draw = random.Random(seed)
    ids = ["a", "B", "b", "é", "Ω", "中", "\U0001f600", "10", "9", "a b"]
    users = [f"{draw.choice(ids)}{u}" for u in range(24)]
    items = [f"{draw.choice(ids)}-{i}" for i in range(30)]
    queries = ["red shoe", "Red  SHOE", "hat", "...", "", None, "中文查询", "ÉCOLE élan", "ﬁne Ω"]
    recommendations: Rows = []
    searches: Rows = []
    for user in users:
        for _ in range(draw.choice([1, 3, 6, 12, 20])):
            more: dict[str, Any] = {"request_id": draw.choice([None, "r1", "r2"]), "clicked": draw.random() < 0.8}
            if seed % 3 == 0:
                more["announced"] = draw.choice([None, 0, 1])
            recommendations.append(rec(user, items[int(30 * draw.random() ** 2)], draw.randrange(20), **more))
    for user in [*users[::2], "nobody"]:
        for number in range(draw.choice([0, 2, 7])):
            time, query = draw.randrange(20), draw.choice(queries)
            for item in draw.choice([[None], items[:1], draw.sample(items, 3)]):
                more = {"clicked": draw.random() < 0.7, "relevant": draw.choice([None, 0, 1, 2]) if seed % 4 == 0 else None}
                searches.append(search(user, f"s{number}", time + draw.choice([0, 0, 3]), query, item, **more))
    draw.shuffle(recommendations)
    draw.shuffle(searches)
    titles = [
        {"item_id": i, "title": i, "text": draw.choice(queries), "category_kind": draw.choice([None, *ids])} for i in items[3:]
    ]
    cities = [{"user_id": u, "category_city": draw.choice([None, "rome", "東京"])} for u in users[1:]]
    return events(recommendations, searches, titles, cities)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("logs")))


def test_random_logs_have_the_same_hash(session: Any, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
    monkeypatch.setattr(spark, "_SQL", spark._SQL | interpreted)  # the large log compiles; here it would take half of the time
    log = random_events(seed)
    settings = DataSettings(negatives=1, **SETTINGS[seed % len(SETTINGS)])
    expected = write_corpus(log, tmp_path / "duckdb", settings)
    found = write_corpus(log, tmp_path / "spark", settings, on_spark())
    assert found.content_hash == expected.content_hash
    assert found.manifest == expected.manifest
    assert session.catalog.listTables() == []


def test_a_large_log_has_the_same_hash(session: Any, tmp_path: Path) -> None:  # noqa: ARG001
    log = large_events(200_000)
    settings = DataSettings(split="chronological", min_item_clicks=2)
    manifests = [write_corpus(log, tmp_path / "c", settings, engine).manifest for engine in (in_duckdb, on_spark("local[2]"))]
    assert manifests[0] == manifests[1]


def test_odd_folder_names(session: Any, tmp_path: Path) -> None:  # noqa: ARG001
    out = tmp_path / "a [1] {x,y}* 50% #é'q" / "out c"
    out.parent.mkdir()
    assert write_corpus(random_events(1), out, DataSettings(negatives=1), on_spark()).rec_item.size
    assert [entry.name for entry in out.parent.iterdir()] == [out.name]
    assert not (out / "spark").exists()


def test_errors_are_those_of_duckdb(session: Any, tmp_path: Path) -> None:  # noqa: ARG001
    for rows, settings in (([], {}), ([rec("a", "x", 1)], {}), ([rec("a", "x", 1)], CHRONOLOGICAL)):
        messages = []
        for engine in (in_duckdb, on_spark()):
            with pytest.raises(SeerecError) as caught:
                write_corpus(events(rows), tmp_path / "c", DataSettings(**settings), engine)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = prepare._search_owners

    def lost(tables: Any, settings: DataSettings) -> Any:
        shutil.rmtree(next(tmp_path.rglob("kept_user.parquet")))
        return owners(tables, settings)

    monkeypatch.setattr(prepare, "_search_owners", lost)
    with pytest.raises(SeerecError, match="Spark could not finish preparing"):
        write_corpus(random_events(1), tmp_path / "c", DataSettings(negatives=1), on_spark())
    assert list(tmp_path.iterdir()) == []
    assert session.catalog.listTables() == []


def test_a_spark_that_is_gone_is_no_full_disk() -> None:
    with pytest.raises(SeerecError, match=r"Spark could not finish preparing .*refused"), spark._named_failures():
        raise ConnectionRefusedError(111, "Connection refused")


def test_another_master_is_refused(session: Any, tmp_path: Path) -> None:  # noqa: ARG001
    with pytest.raises(SeerecError, match=r"master local\[2\] runs already.*local\[2\]"):
        write_corpus(random_events(1), tmp_path / "c", DataSettings(negatives=1), on_spark("spark://elsewhere:7077"))
