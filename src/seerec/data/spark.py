"""The plan on Spark: the same SQL, translated by SQLGlot. Needs ``pip install seerec[spark]`` and Java 17 or newer.

Checked events go to Spark, and answers come back, as Parquet in a temporary folder inside the corpus being written, which
every machine of a cluster must see at the same path. Each of the plan's tables is Parquet there too, made once: it need
not fit into memory, and a lost executor loses nothing.
"""

import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from seerec.data.engines import Engine, Tables
from seerec.data.sql import text
from seerec.errors import SeerecError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from sqlglot import Expression

_CHECKED = ("recommendations", "searches")
_INSTALL = "Install it with `pip install 'seerec[spark]'`, or leave out `--engine spark`."
_JAVA = "Install Java 17 and let JAVA_HOME name its folder, or leave out `--engine spark`."
_LOCAL = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
}
"""Of a Spark on this machine alone, which nobody else need reach."""
_QUIET = {"spark.log.level": "ERROR", "spark.ui.showConsoleProgress": "false"}
_SQL = {"spark.sql.ansi.enabled": "true", "spark.sql.caseSensitive": "false"}
"""As in DuckDB, an overflow is an error, and names differ by more than case."""


def on_spark(master: str | None = None) -> Engine:
    """Return the engine of the Spark at the address ``master``: ``local[2]``, ``spark://host:7077``, ``yarn``, ...

    None is the Spark session that runs already or, without one, ``local[*]``. A session started here ends with the plan.

    Raises
    ------
    SeerecError
        Spark or Java is missing or does not start, another master runs already, or memory, disk space or a machine was lost.
    """

    @contextmanager
    def opened(connection: duckdb.DuckDBPyConnection, folder: Path) -> Iterator[Tables]:
        work = folder.resolve() / "spark"
        with _session(master) as session, _named_failures():
            work.mkdir()
            tables = _Spark(session, work)
            try:
                for name in _CHECKED:
                    connection.execute(f"COPY {name} TO {text(str(tables.file(name)))} (FORMAT parquet)")
                    tables.show(name)
                yield tables
            finally:
                shutil.rmtree(work, ignore_errors=True)

    return opened


class _Spark:
    """Tables as temporary views of one session over Parquet below ``work``."""

    def __init__(self, session: "SparkSession", work: Path) -> None:
        self._session = session
        self._work = work

    def file(self, name: str) -> Path:
        return self._work / f"{name}.parquet"

    def show(self, name: str) -> None:
        """Let SQL see the Parquet file of a table."""
        self._session.read.parquet(_pattern(self.file(name))).createOrReplaceTempView(name)

    def run(self, step: str) -> None:
        import sqlglot

        for statement in sqlglot.parse(step, read="duckdb"):
            name = statement.find(sqlglot.exp.Table).name
            if isinstance(statement, sqlglot.exp.Create):
                frame = self._write(name, statement.expression)
                self._session.read.schema(frame.schema).parquet(_pattern(self.file(name))).createOrReplaceTempView(name)
            elif isinstance(statement, sqlglot.exp.Drop):
                self._session.catalog.dropTempView(name)
                shutil.rmtree(self.file(name))
            else:
                raise NotImplementedError(statement.sql())

    def create(self, name: str, table: pa.Table) -> None:
        pq.write_table(table, self.file(name))
        self.show(name)

    def read(self, query: str) -> pa.Table:
        import sqlglot

        self._write("answer", sqlglot.parse_one(query, read="duckdb"))
        parts = sorted(self.file("answer").glob("part-*.parquet"))  # numbered in the order of the rows
        table = pa.concat_tables([pq.read_table(part) for part in parts])
        shutil.rmtree(self.file("answer"))
        return table.cast(pa.schema([pa.field(column.name, column.type) for column in table.schema]))  # without Spark's notes

    def _write(self, name: str, query: "Expression") -> "DataFrame":
        frame = self._session.sql(query.sql("spark", identify=True, comments=False))
        frame.write.parquet(f"file://{self.file(name)}")
        return frame


def _pattern(path: Path) -> str:
    """The path for a reader, which takes brackets and stars for patterns."""
    return "file://" + re.sub(r"([\\*?\[\]{}])", r"\\\1", str(path))


@contextmanager
def _session(master: str | None) -> Iterator["SparkSession"]:
    """A session with views and settings of its own: of the Spark that runs already, or of one that ends with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pandas newer than this Spark, which plays no part here
        running = _running(master)
        started = running or _start(master or "local[*]")
    try:
        session = started.newSession()
        for name, value in _SQL.items():
            session.conf.set(name, value)
        yield session
    finally:
        if running is None:
            with suppress(Exception):  # its Java may be what was lost
                started.stop()


def _running(master: str | None) -> "SparkSession | None":
    try:
        import sqlglot  # noqa: F401
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise SeerecError(f"The engine spark needs {error.name}, which is not installed.", _INSTALL) from error
    running = SparkSession.getActiveSession()
    if running is not None and master not in (None, running.sparkContext.master):
        address = running.sparkContext.master
        raise SeerecError(f"A Spark session with the master {address} runs already.", f"Stop it, or give --master {address}.")
    return running


def _start(master: str) -> "SparkSession":
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    _require_java()
    builder = SparkSession.builder.appName("seerec").master(master)
    for name, value in (_QUIET | (_LOCAL if master.startswith("local") else {})).items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except PySparkException as error:
        raise SeerecError("Spark's Java did not start.", _JAVA) from error
    except Exception as error:  # whatever Java throws when no master answers
        raise SeerecError(
            f"Spark did not start with the master {master} ({_reason(error)}).", "Check the address and that it answers."
        ) from error


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if not shutil.which("java", path=str(Path(home) / "bin") if home else None):
        where = f"JAVA_HOME is {home}, which has no bin/java" if home else "there is no `java` on the PATH"
        raise SeerecError(f"Spark needs Java, and {where}.", _JAVA)


@contextmanager
def _named_failures() -> Iterator[None]:
    """Failures while running, but not of the plan's own text, as the user's errors.

    Raises
    ------
    SeerecError
        Instead of them.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import AnalysisException, PySparkException

    try:
        yield
    except AnalysisException:  # and ParseException: a mistake in the plan
        raise
    except (PySparkException, Py4JError, ConnectionError, duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise SeerecError(
            f"Spark could not finish preparing ({_reason(error)}).",
            "Give it more memory or disk space; on a cluster, an --out that all its machines see at the same path.",
        ) from error


def _reason(error: BaseException) -> str:
    """The innermost Java exception of an error, or its first line."""
    lines = str(error).splitlines() or [type(error).__name__]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return (causes or [line for line in lines if ": " in line] or lines)[-1 if causes else 0].strip().rstrip(".")[:300]
