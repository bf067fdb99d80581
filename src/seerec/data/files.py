"""Log files into DuckDB tables: CSV, TSV and Parquet, one row per line, no line lost.

A row that cannot be split into the header's columns goes to ``quarantine`` with the reason ``malformed_line``.
"""

import glob
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from seerec.data.delimited import STOP, delimiter_of, drop_temporary, read_csv, read_text, text_names
from seerec.data.lines import damaged
from seerec.data.sql import quoted, text
from seerec.data.watching import watched
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress


def tidy(names: Sequence[str]) -> list[str]:
    """Column names without blanks and without the type suffix of atomic files (``user_id:token`` -> ``user_id``)."""
    return [name.strip().split(":")[0].strip() or f"column_{i}" for i, name in enumerate(names, 1)]


def create_quarantine(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the empty table ``quarantine`` unless it is there: one row per refused row, with a named reason."""
    connection.execute("CREATE TABLE IF NOT EXISTS quarantine (table_name VARCHAR, line BIGINT, reason VARCHAR, content VARCHAR)")


def header(path: Path) -> list[str]:
    """Tidy column names of a CSV, TSV or Parquet file.

    Raises
    ------
    SeerecError
        The file is missing, empty, not text in UTF-8, not tabular, or its header names a column twice.
    """
    names = tidy(_parquet_names(path) if _is_parquet(path) else text_names(path))
    refuse_twice(str(path), names)
    return names


def refuse_twice(table: str, names: Sequence[str]) -> None:
    """Refuse a table that names a column twice, which could mean either."""
    lowered = [name.lower() for name in names]
    twice = [name for name in names if lowered.count(name.lower()) > 1]
    if twice:
        fix = "Rename or drop one of the two columns."
        if re.fullmatch(r"[\d.]+", twice[0]):
            fix = "Put the column names on the first line."
        raise SeerecError(f"{table} names the column {twice[0]} twice.", fix)


@contextmanager
def scanned(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    table: str,
    keep: Collection[str] | None = None,
    progress: Progress = SILENT,
) -> Iterator[str]:
    """Name of a relation (``line BIGINT``, then the file's columns, or those of ``keep``) that is gone when the block ends.

    CSV columns are all text and empty values are NULL. ``line`` is where the row begins in the file, the header being line 1; in
    Parquet it is the row's number from 1. Rows stay in file order. Malformed lines go to ``quarantine`` as rows of ``table``.
    One file is open at a time.

    Raises
    ------
    SeerecError
        As `header`; also when the file has no data rows or is a damaged Parquet or gzip file.
    """
    names = header(path)
    wanted = [column for column in names if column.lower() != "line" and (keep is None or column in keep)]
    create_quarantine(connection)
    drop_temporary(connection)
    with watched(connection, progress, f"reading {path.name}"):
        if _is_parquet(path):
            cells = _read_parquet(connection, path, names, wanted)
        else:
            cells = read_text(connection, path, table, names, wanted)
    if not connection.execute(f"FROM {cells} LIMIT 1").fetchall():  # an open result would block the next table
        bad = "SELECT min(line) FROM quarantine WHERE table_name = $1 AND reason = 'malformed_line'"
        ((line,),) = connection.execute(bad, [table]).fetchall()
        why = f": line {line} does not split into the header's {len(names)} columns" if line else ""
        raise SeerecError(f"{path} has a header but no readable rows{why}.", "Check that the whole file was copied.")
    yield cells
    drop_temporary(connection)


def read_file(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    name: str,
    keep: Collection[str] | None = None,
    progress: Progress = SILENT,
) -> None:
    """Make the table ``name`` of what `scanned` finds; ``name`` without the prefix ``raw_`` stands in ``quarantine``."""
    with scanned(connection, path, name.removeprefix("raw_"), keep, progress) as cells:
        connection.execute(f"CREATE OR REPLACE TABLE {quoted(name)} AS FROM {cells}")


def plain_scan(path: Path, keep: Collection[str]) -> str | None:
    """SQL of a relation with the columns ``keep`` of a CSV file, without ``line``: see `line_per_row`.

    A query of it fails at the first malformed line. None for other files, which only `scanned` can read.
    """
    names = header(path)
    delimiter = None if _is_parquet(path) else delimiter_of(path)
    if delimiter in (None, "\t"):
        return None
    return f"(SELECT {', '.join(quoted(name) for name in keep)} FROM {read_csv(path, names, delimiter, STOP)})"


def _is_parquet(path: Path) -> bool:
    if path.is_dir():
        raise SeerecError(f"{path} is a folder, not a file.", "Name the file inside it.")
    if not path.exists():
        raise SeerecError(f"{path} does not exist.", "Check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise SeerecError(f"Cannot read {path}: {error.strerror}.", "Check the file's permissions.") from error
    if not start:
        raise SeerecError(f"{path} is empty.", "Check that the whole file was copied.")
    return start == b"PAR1" or path.suffix.lower() in {".parquet", ".pq"}


def _parquet_names(path: Path) -> list[str]:
    try:
        return duckdb.read_parquet(glob.escape(str(path)), connection=duckdb.connect()).columns
    except duckdb.Error as error:
        raise damaged(path, error) from error


def _read_parquet(connection: duckdb.DuckDBPyConnection, path: Path, names: list[str], wanted: list[str]) -> str:
    columns = ", ".join(
        f"{quoted(old)} AS {quoted(new)}" for old, new in zip(_parquet_names(path), names, strict=True) if new in wanted
    )
    try:
        connection.execute(
            f"CREATE TEMP TABLE csv_cells AS SELECT file_row_number + 1 AS line, {columns} "
            f"FROM read_parquet({text(glob.escape(str(path)))}, file_row_number = true) ORDER BY line"
        )
    except duckdb.Error as error:
        raise damaged(path, error) from error
    return "csv_cells"
