"""Log files into DuckDB tables: CSV, TSV and Parquet, one row per line, no line lost.

A row that cannot be split into the header's columns goes to ``quarantine`` with the reason ``malformed_line``.
"""

import codecs
import csv
import glob
import gzip
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import duckdb

from seerec.errors import SeerecError

_DELIMITERS = ",\t;|"
_TABULAR = "Give a CSV, TSV or Parquet file."
_TEMPORARY = ("csv_rows", "csv_rejects", "csv_scans", "gap")


def quoted(name: str) -> str:
    """Return ``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return ``value`` as an SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


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
    names = _parquet_names(path) if _is_parquet(path) else next(csv.reader([_first_line(path)], delimiter=_sniff(path)))
    names = tidy(names)
    refuse_twice(str(path), names)
    return names


def refuse_twice(table: str, names: Sequence[str]) -> None:
    """Refuse a table that names a column twice, which could mean either."""
    lowered = [name.lower() for name in names]
    twice = [name for name in names if lowered.count(name.lower()) > 1]
    if twice:
        raise SeerecError(f"{table} names the column {twice[0]} twice.", "Rename or drop one of the two columns.")


def read_file(connection: duckdb.DuckDBPyConnection, path: Path, name: str, keep: Collection[str] | None = None) -> None:
    """Make the table ``name`` (``line BIGINT``, then the file's columns, or those of ``keep``) from a CSV, TSV or Parquet file.

    CSV columns are all text and empty values are NULL. ``line`` is the record's number in the file, the header being 1
    (blank lines and line breaks inside quotes do not count); in Parquet it is the row's number from 1. Rows stay in
    file order. Malformed lines go to ``quarantine`` as rows of the table ``name`` without the prefix ``raw_``.

    Raises
    ------
    SeerecError
        As `header`; also when the file has no data rows or is a damaged Parquet or gzip file.
    """
    names = header(path)
    wanted = [column for column in names if column.lower() != "line" and (keep is None or column in keep)]
    create_quarantine(connection)
    connection.execute(f"DROP TABLE IF EXISTS {quoted(name)}")
    if _is_parquet(path):
        _read_parquet(connection, path, name, names, wanted)
    else:
        _read_text(connection, path, name, names, wanted)
    ((rows,),) = connection.execute(
        f"SELECT count(*) FROM {quoted(name)}"
    ).fetchall()  # an open result would block the next table
    if not rows:
        raise SeerecError(f"{path} has a header but no readable rows.", "Check that the whole file was copied.")


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


def _first_line(path: Path) -> str:
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            line = file.readline(1 << 20)
    except (OSError, EOFError) as error:
        raise SeerecError(f"Cannot read {path}: {error}.", "Check that the whole file was copied.") from error
    if not line.strip():
        raise SeerecError(f"{path} does not start with a header line.", "Put the column names on the first line.")
    wide = line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if wide or line.count(b"\0") >= len(line) // 3 > 0:
        encoding = "UTF-16" if wide else "UTF-16LE" if line[1:2] == b"\0" else "UTF-16BE"
        raise SeerecError(
            f"{path} is {encoding}, not UTF-8 text.", f"Save it as UTF-8, for example with `iconv -f {encoding} -t UTF-8`."
        )
    try:
        decoded = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, 1) from error
    if "\0" in decoded or decoded.startswith(("PK\x03", "{", "[")):
        raise SeerecError(f"{path} is not a table of delimited text.", _TABULAR)
    return decoded


def _not_utf8(path: Path, line: int) -> SeerecError:
    return SeerecError(
        f"{path} is not UTF-8 text (line {line}).", "Save it as UTF-8, for example with `iconv -f LATIN1 -t UTF-8`."
    )


def _sniff(path: Path) -> str:
    unquoted = re.sub(r'"[^"]*"', "", _first_line(path))
    return max(_DELIMITERS, key=unquoted.count)


def _damaged(path: Path, error: Exception) -> SeerecError:
    reason = str(error).splitlines()[0].removeprefix("Invalid Input Error: ").removeprefix("IO Error: ").rstrip(".")
    return SeerecError(f"{path} cannot be read ({reason}).", "Check that the whole file was copied, and its kind.")


def _parquet_names(path: Path) -> list[str]:
    try:
        return duckdb.read_parquet(glob.escape(str(path)), connection=duckdb.connect()).columns
    except duckdb.Error as error:
        raise _damaged(path, error) from error


def _read_parquet(connection: duckdb.DuckDBPyConnection, path: Path, name: str, names: list[str], wanted: list[str]) -> None:
    columns = ", ".join(
        f"{quoted(old)} AS {quoted(new)}" for old, new in zip(_parquet_names(path), names, strict=True) if new in wanted
    )
    try:
        connection.execute(
            f"CREATE TABLE {quoted(name)} AS SELECT file_row_number + 1 AS line, {columns} "
            f"FROM read_parquet({text(glob.escape(str(path)))}, file_row_number = true) ORDER BY line"
        )
    except duckdb.Error as error:
        raise _damaged(path, error) from error


def _read_text(connection: duckdb.DuckDBPyConnection, path: Path, name: str, names: list[str], wanted: list[str]) -> None:
    """Quotes are read as quotes, unless reading them as plain characters leaves fewer malformed lines.

    In tab-separated files, which often do not quote, also unless a quoted value spans lines and need not.
    """
    rejects, breaks = _scan(connection, path, names, wanted, '"')
    columns = ", ".join(quoted(column) for column in wanted)
    if rejects or breaks:
        plain, _ = _scan(connection, path, names, wanted, "")
        if plain < rejects or (plain == 0 and _sniff(path) == "\t"):
            unwrapped = "CASE WHEN {0} LIKE '\"%_\"' THEN nullif(replace({0}[2:-2], '\"\"', '\"'), '') ELSE {0} END AS {0}"
            columns = ", ".join(unwrapped.format(quoted(column)) for column in wanted)
        else:
            _scan(connection, path, names, wanted, '"')
    bad = connection.execute("SELECT min(line) FROM csv_rejects WHERE error_type = 'INVALID ENCODING'").fetchone()
    if bad and bad[0] is not None:
        raise _not_utf8(path, bad[0])
    connection.execute(
        """
        CREATE TEMP TABLE gap AS  -- malformed lines up to now, by the last good row before them
        SELECT line::BIGINT - 1 - number AS good, max(number) AS skipped FROM (
            SELECT line, row_number() OVER (ORDER BY line) AS number FROM (SELECT DISTINCT line FROM csv_rejects))
        GROUP BY good"""
    )
    skipped = (
        f"SELECT number + 1 + coalesce(skipped, 0) AS line, {columns} FROM (SELECT rowid + 1 AS number, * FROM csv_rows) AS good "
        "ASOF LEFT JOIN gap ON number > gap.good ORDER BY number"
    )
    rows = skipped if rejects else f"SELECT rowid + 2 AS line, {columns} FROM csv_rows"
    connection.execute(f"CREATE TABLE {quoted(name)} AS {rows}")
    connection.execute(
        """
        INSERT INTO quarantine
        SELECT $table, line, 'malformed_line', min(trim(csv_line, chr(13) || chr(10)))
        FROM csv_rejects GROUP BY line ORDER BY line
        """,
        {"table": name.removeprefix("raw_")},
    )
    for table in _TEMPORARY:
        connection.execute(f"DROP TABLE IF EXISTS {table}")


def _scan(connection: duckdb.DuckDBPyConnection, path: Path, names: list[str], wanted: list[str], quote: str) -> tuple[int, bool]:
    """Fill ``csv_rows`` and ``csv_rejects``; return the number of malformed lines and (tabs) whether a value spans lines."""
    columns = ", ".join(f"{text(column)}: 'VARCHAR'" for column in names)
    chosen = ", ".join(quoted(column) for column in wanted)
    for strict in ("true", "false"):  # strict reading refuses a file that mixes line endings
        for table in _TEMPORARY:
            connection.execute(f"DROP TABLE IF EXISTS {table}")
        try:
            connection.execute(f"""
                CREATE TEMP TABLE csv_rows AS SELECT {chosen} FROM read_csv(
                    {text(glob.escape(str(path)))}, auto_detect = false, header = true, columns = {{{columns}}},
                    strict_mode = {strict}, delim = {text(_sniff(path))}, quote = {text(quote)}, escape = {text(quote)},
                    store_rejects = true, rejects_limit = 0, rejects_table = 'csv_rejects', rejects_scan = 'csv_scans')""")
            break
        except duckdb.Error as error:
            if strict == "false":
                raise _damaged(path, error) from error
    spans = " OR ".join(f"contains({quoted(column)}, chr(10))" for column in wanted if _sniff(path) == "\t") or "false"
    found = connection.execute(
        f"SELECT (SELECT count(DISTINCT line) FROM csv_rejects), (SELECT bool_or({spans}) FROM csv_rows)"
    ).fetchone()
    return (int(found[0]), bool(found[1])) if found else (0, False)
