"""Choosing an engine, and the plan's text as Spark's."""

import importlib.util
import sys
from importlib import resources
from pathlib import Path

import duckdb
import pytest

from seerec.data import spark
from seerec.data.engines import engine_named, in_duckdb
from seerec.errors import SeerecError

needs_spark = pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed")


def open_spark(tmp_path: Path) -> None:
    with engine_named("spark")(duckdb.connect(), tmp_path):
        raise AssertionError


def test_names() -> None:
    assert engine_named("duckdb") is in_duckdb
    with pytest.raises(SeerecError, match=r"no engine 'polars'.*duckdb, spark"):
        engine_named("polars")
    with pytest.raises(SeerecError, match="no master"):
        engine_named("duckdb", "local[2]")


@pytest.mark.parametrize("package", ["pyspark", "sqlglot"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SeerecError, match=r"(pyspark|sqlglot)\S*, which is not installed.*seerec\[spark\]"):
        open_spark(tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_spark
def test_missing_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SeerecError, match=r"no `java` on the PATH.*Java 17"):
        open_spark(tmp_path)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    with pytest.raises(SeerecError, match="which has no bin/java"):
        open_spark(tmp_path)


@needs_spark
def test_the_plan_is_statements_that_every_engine_knows() -> None:
    import sqlglot

    for step in (resources.files("seerec.data") / "plan").iterdir():
        for statement in sqlglot.parse(step.read_text(), read="duckdb"):
            assert isinstance(statement, sqlglot.exp.Create | sqlglot.exp.Drop), step.name
            if isinstance(statement, sqlglot.exp.Create):
                query = statement.expression.sql("spark", unsupported_level=sqlglot.ErrorLevel.RAISE)
                sqlglot.parse_one(query, read="spark")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "An error occurred.\n: org.apache.X: a\n\tat b\nCaused by: java.io.Y: middle\nCaused by: java.io.Z: inner.",
            "java.io.Z: inner",
        ),
        ("[CODE] Something: else.\nmore", "[CODE] Something: else"),
        ("", "RuntimeError"),
    ],
)
def test_reasons(message: str, reason: str) -> None:
    assert spark._reason(RuntimeError(message)) == reason
