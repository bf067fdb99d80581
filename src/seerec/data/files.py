"""Log files into DuckDB tables: CSV, TSV and Parquet, one row per line, no line lost.

A row that cannot be split into the header's columns goes to ``quarantine`` with the reason ``malformed_line``.
"""

import codecs
import csv
import glob
import gzip
import io
import re
import tempfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from seerec.atomic import named_disk_errors
from seerec.data.watching import watched
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

_DELIMITERS = ",\t;|"
_TABULAR = "Give a CSV, TSV or Parquet file."
_TEMPORARY = ("csv_cells", "csv_rows", "csv_rejects", "csv_scans", "malformed", "blank", "gap")
_STOP = "ignore_errors = false"  # what a scan does at a malformed line
_SKIP = "ignore_errors = true"
_KEEP = "store_rejects = true, rejects_table = 'csv_rejects', rejects_scan = 'csv_scans'"
_SURPLUS = 4
_JOINED = chr(31)


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
    names = tidy(_parquet_names(path) if _is_parquet(path) else _text_names(path))
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

    CSV columns are all text and empty values are NULL. ``line`` is the record's number in the file, the header being 1
    (blank lines and line breaks inside quotes do not count); in Parquet it is the row's number from 1. Rows stay in
    file order. Malformed lines go to ``quarantine`` as rows of ``table``. One file is open at a time.

    Raises
    ------
    SeerecError
        As `header`; also when the file has no data rows or is a damaged Parquet or gzip file.
    """
    names = header(path)
    wanted = [column for column in names if column.lower() != "line" and (keep is None or column in keep)]
    create_quarantine(connection)
    _drop_temporary(connection)
    with watched(connection, progress, f"reading {path.name}"):
        if _is_parquet(path):
            cells = _read_parquet(connection, path, names, wanted)
        else:
            cells = _read_text(connection, path, table, names, wanted)
    if not connection.execute(f"FROM {cells} LIMIT 1").fetchall():  # an open result would block the next table
        bad = "SELECT min(line) FROM quarantine WHERE table_name = $1 AND reason = 'malformed_line'"
        ((line,),) = connection.execute(bad, [table]).fetchall()
        why = f": line {line} does not split into the header's {len(names)} columns" if line else ""
        raise SeerecError(f"{path} has a header but no readable rows{why}.", "Check that the whole file was copied.")
    yield cells
    _drop_temporary(connection)


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
    """SQL of a relation with the columns ``keep`` of a CSV file, without ``line``: row i is line i + 2.

    A query of it fails at the first malformed line. None for other files, which only `scanned` can read.
    """
    names = header(path)
    delimiter = None if _is_parquet(path) else _sniff(path)
    if delimiter in (None, "\t"):
        return None
    return f"(SELECT {', '.join(quoted(name) for name in keep)} FROM {_read_csv(path, names, delimiter, _STOP)})"


def _read_csv(path: Path, names: Sequence[str], delimiter: str, errors: str, quote: str = '"', strict: str = "true") -> str:
    columns = ", ".join(f"{text(column)}: 'VARCHAR'" for column in names)
    return f"""read_csv({text(glob.escape(str(path)))}, auto_detect = false, header = true, columns = {{{columns}}},
        strict_mode = {strict}, delim = {text(delimiter)}, quote = {text(quote)}, escape = {text(quote)}, {errors})"""


def _drop_temporary(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("DROP VIEW IF EXISTS numbered_rows")
    for table in _TEMPORARY:
        connection.execute(f"DROP TABLE IF EXISTS {table}")


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
        decoded = line.decode("utf-8-sig").replace("\r", "\n").split("\n")[0]  # some files end their lines in CR alone
    except UnicodeDecodeError as error:
        raise _not_utf8(path, 1) from error
    if "\0" in decoded or decoded.startswith(("PK\x03", "{", "[")):
        raise SeerecError(f"{path} is not a table of delimited text.", _TABULAR)
    return decoded


def _text_names(path: Path) -> list[str]:
    try:
        return next(csv.reader([_first_line(path)], delimiter=_sniff(path)))
    except csv.Error as error:
        raise SeerecError(f"{path} does not start with a header line ({error}).", _TABULAR) from error


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
        raise _damaged(path, error) from error
    return "csv_cells"


@dataclass(frozen=True)
class _Text:
    """A file of delimited text on its way into the connection."""

    connection: duckdb.DuckDBPyConnection
    path: Path
    names: list[str]
    wanted: list[str]
    delimiter: str


def _read_text(connection: duckdb.DuckDBPyConnection, path: Path, table: str, names: list[str], wanted: list[str]) -> str:
    """Quotes are read as quotes, unless more rows are readable when they are plain characters.

    In tab-separated files, which often do not quote, also unless a quoted value spans lines and need not.
    """
    log = _Text(connection, path, names, wanted, _sniff(path))
    quote, whole = '"', _scan_whole(log, '"')
    if whole and log.delimiter == "\t" and _spans_lines(log):
        quote = "" if _scan_whole(log, "") else quote
        whole = not quote or _scan_whole(log, quote)
    elif not whole and _scan(log, "", _SKIP) > _scan(log, '"', _SKIP):
        quote, whole = "", _scan_whole(log, "")
    columns = ", ".join(quoted(column) for column in wanted)
    if not quote:
        unwrapped = "CASE WHEN {0} LIKE '\"%_\"' THEN nullif(replace({0}[2:-2], '\"\"', '\"'), '') ELSE {0} END AS {0}"
        columns = ", ".join(unwrapped.format(quoted(column)) for column in wanted)
    if whole:  # the usual case, and files are large: nothing is written twice
        connection.execute(f"CREATE TEMP VIEW numbered_rows AS SELECT rowid + 2 AS line, {columns} FROM csv_rows")
        return "numbered_rows"
    _scan_malformed(log, quote, table)
    connection.execute(f"""
        CREATE TEMP TABLE csv_cells AS
        SELECT number + 1 + coalesce(skipped, 0) AS line, {columns}
        FROM (SELECT rowid + 1 AS number, * FROM csv_rows) AS good
        ASOF LEFT JOIN gap ON number > gap.good ORDER BY number""")
    return "csv_cells"


def _scan(log: _Text, quote: str, errors: str, copy: Path | None = None) -> int:
    """Fill ``csv_rows`` from the file, or from a copy of it; returns the number of rows."""
    chosen = ", ".join(quoted(column) for column in log.wanted)
    for strict in ("true", "false"):  # strict reading refuses a file that mixes line endings
        _drop_temporary(log.connection)
        scan = _read_csv(copy or log.path, log.names, log.delimiter, errors, quote, strict)
        try:
            log.connection.execute(f"CREATE TEMP TABLE csv_rows AS SELECT {chosen} FROM {scan}")
            break
        except (duckdb.OutOfMemoryException, duckdb.InterruptException):
            raise
        except duckdb.Error as error:
            if strict == "false" or errors == _STOP:
                raise _damaged(log.path, error) from error
    ((rows,),) = log.connection.execute("SELECT count(*) FROM csv_rows").fetchall()
    return int(rows)


def _scan_whole(log: _Text, quote: str) -> bool:
    """Fill ``csv_rows``, and return True, if no line is malformed."""
    try:
        _scan(log, quote, _STOP)
    except SeerecError:
        return False
    return True


def _spans_lines(log: _Text) -> bool:
    spans = " OR ".join(f"contains({quoted(column)}, chr(10))" for column in log.wanted) or "false"
    return log.connection.execute(f"SELECT bool_or({spans}) FROM csv_rows").fetchone() == (True,)


def _scan_malformed(log: _Text, quote: str, table: str) -> None:
    """Fill ``csv_rows``, ``quarantine`` and ``gap``: the malformed lines up to now, by the last good row before them.

    DuckDB keeps an error with its line for every column too many. So lines with many are read from a copy in which they have
    few; and where no line is good, some errors are enough.
    """
    execute = log.connection.execute
    blank, crowded = _odd_lines(log, quote)
    with tempfile.TemporaryDirectory(prefix="seerec-") as folder, named_disk_errors(Path(folder)):
        copy = _tamed(log, crowded, Path(folder) / "tamed.csv") if crowded else None
        limit = 0 if _scan(log, quote, _SKIP, copy) else 1000
        _scan(log, quote, f"{_KEEP}, rejects_limit = {limit}", copy)
    bad = execute("SELECT min(line) FROM csv_rejects WHERE error_type = 'INVALID ENCODING'").fetchone()
    if bad and bad[0] is not None:
        raise _not_utf8(log.path, bad[0])
    execute(f"""
        CREATE TEMP TABLE malformed AS SELECT
            line::BIGINT AS line, replace(min(trim(csv_line, chr(13) || chr(10))), '{_JOINED}', {text(log.delimiter)}) AS content
        FROM csv_rejects GROUP BY line""")
    if blank:
        execute("CREATE TEMP TABLE blank AS SELECT unnest($1) AS line, generate_subscripts($1, 1) AS blanks", [blank])
        execute("""
            CREATE OR REPLACE TEMP TABLE malformed AS SELECT malformed.line - coalesce(blanks, 0) AS line, content
            FROM malformed ASOF LEFT JOIN blank ON malformed.line > blank.line""")
    execute("INSERT INTO quarantine SELECT $1, line, 'malformed_line', content FROM malformed ORDER BY line", [table])
    execute("""
        CREATE TEMP TABLE gap AS
        SELECT line - 1 - number AS good, max(number) AS skipped
        FROM (SELECT line, row_number() OVER (ORDER BY line) AS number FROM malformed) GROUP BY good""")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file without their ends; bytes that are not UTF-8 survive."""
    with (
        gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as opened,
        io.TextIOWrapper(opened, encoding="utf-8", errors="surrogateescape") as file,
    ):
        for line in file:
            yield line.removesuffix("\n")


def _odd_lines(log: _Text, quote: str) -> tuple[list[int], set[int]]:
    """Numbers of blank lines, as DuckDB counts lines (not within quotes), and places of lines with many columns too many."""
    blank: list[int] = []
    crowded: set[int] = set()
    number, inside, limit = 1, False, len(log.names) + _SURPLUS
    try:
        for place, line in enumerate(_lines(log.path)):
            if not line and not inside:
                blank.append(number)
            if line.count(log.delimiter) > limit:
                plain = re.sub(f"{quote}[^{quote}]*{quote}", "", line) if quote else line
                if plain.count(log.delimiter) > limit:
                    crowded.add(place)
                    line = ""  # its quotes go, too
            inside ^= bool(quote) and line.count(quote) % 2 == 1
            number += not inside
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(log.path, error) from error
    return blank, crowded


def _tamed(log: _Text, crowded: set[int], copy: Path) -> Path:
    """Write a copy in which the lines at ``crowded`` have one column too many, and no quotes."""
    width = len(log.names)
    with copy.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for place, line in enumerate(_lines(log.path)):
            if place in crowded:
                cells = line.replace('"', "").split(log.delimiter)
                line = log.delimiter.join([*cells[:width], _JOINED.join(cells[width:])])
            file.write(f"{line}\n")
    return copy
