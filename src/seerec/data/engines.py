"""Where the SQL of ``plan/`` runs: in DuckDB inside this process, or on Spark. The text is the same.

Raw files are read and checked in DuckDB in any case, and whatever is no SQL (words, arrays, candidates) is this process's.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa

from seerec.errors import SeerecError

ENGINES = ("duckdb", "spark")
_SCHEMA = "seerec_plan"


class Tables(Protocol):
    """The tables of a running plan, beside the checked ``recommendations`` and ``searches``. All SQL is DuckDB's."""

    def run(self, step: str) -> None:
        """Make and drop tables: statements ``CREATE TABLE ... AS`` and ``DROP TABLE``."""

    def create(self, name: str, table: pa.Table) -> None:
        """Make the table ``name``."""

    def read(self, query: str) -> pa.Table:
        """Rows of a query, in its order."""


Engine = Callable[[duckdb.DuckDBPyConnection, Path], AbstractContextManager[Tables]]
"""Opens the tables of a plan, from a connection with checked events and a folder where temporary files may lie."""


def engine_named(name: str, master: str | None = None) -> Engine:
    """The engine ``duckdb`` or ``spark``, the latter at the address ``master`` (see `spark.on_spark`).

    Raises
    ------
    SeerecError
        There is no such engine, or DuckDB has been given a master.
    """
    if name not in ENGINES:
        raise SeerecError(f"There is no engine {name!r}.", f"Choose one of: {', '.join(ENGINES)}.")
    if name == "spark":
        from seerec.data.spark import on_spark

        return on_spark(master)
    if master is not None:
        raise SeerecError("DuckDB runs in this process and has no master.", "Leave out --master, or add --engine spark.")
    return in_duckdb


class _DuckDB:
    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def run(self, step: str) -> None:
        self._connection.execute(step)

    def create(self, name: str, table: pa.Table) -> None:
        self._connection.register("given", table)
        self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
        self._connection.unregister("given")

    def read(self, query: str) -> pa.Table:
        return self._connection.sql(query).to_arrow_table()


@contextmanager
def in_duckdb(connection: duckdb.DuckDBPyConnection, folder: Path) -> Iterator[Tables]:  # noqa: ARG001  (Engine)
    """Tables in a schema of their own of the connection, gone afterwards.

    Raises
    ------
    SeerecError
        Memory or disk space ran out.
    """
    ((before,),) = connection.execute("SELECT current_setting('search_path')").fetchall()
    connection.execute(f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE")
    connection.execute(f"CREATE SCHEMA {_SCHEMA}")
    connection.execute(f"SET search_path = '{_SCHEMA},main'")
    try:
        yield _DuckDB(connection)
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise SeerecError(
            f"Memory or disk space ran out while preparing ({str(error).splitlines()[0]}).",
            "Allow more memory with `--memory`, free disk space, or prepare on a larger machine.",
        ) from error
    finally:
        connection.execute(f"SET search_path = '{before}'")
        connection.execute(f"DROP SCHEMA IF EXISTS {_SCHEMA} CASCADE")
