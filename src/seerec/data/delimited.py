"""Delimited text into DuckDB: header, rows, and the lines that do not split into the header's columns."""

import codecs
import csv
import glob
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from seerec.atomic import named_disk_errors
from seerec.data.lines import damaged, line_per_row, lines_of, opened, places
from seerec.data.sql import quoted, text
from seerec.errors import SeerecError

_TABULAR = "Give a CSV, TSV or Parquet file."
STOP = "ignore_errors = false"
"""What a scan does at a malformed line."""
_KEEP = "store_rejects = true, rejects_table = 'csv_rejects', rejects_scan = 'csv_scans', rejects_limit = "
_SKIP = f"{_KEEP}1"
"""Errors are skipped, and one is kept: where none is (``ignore_errors``), DuckDB may end a scan at text after a closing quote."""
_DELIMITERS = ",\t;|"
_TEMPORARY = ("csv_cells", "csv_rows", "csv_rejects", "csv_scans", "malformed", "begin", "jump")
_SURPLUS = 4
_JOINED = chr(31)


def text_names(path: Path) -> list[str]:
    """Cells of the first line."""
    try:
        return next(csv.reader([_first_line(path)], delimiter=delimiter_of(path)))
    except csv.Error as error:
        raise SeerecError(f"{path} does not start with a header line ({error}).", _TABULAR) from error


def delimiter_of(path: Path) -> str:
    """Return the delimiter that stands most often in the first line outside quotes."""
    unquoted = re.sub(r'"[^"]*"', "", _first_line(path))
    return max(_DELIMITERS, key=unquoted.count)


def _first_line(path: Path) -> str:
    try:
        with opened(path) as file:
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


def _not_utf8(path: Path, line: int) -> SeerecError:
    return SeerecError(
        f"{path} is not UTF-8 text (line {line}).", "Save it as UTF-8, for example with `iconv -f LATIN1 -t UTF-8`."
    )


def read_csv(path: Path, names: Sequence[str], delimiter: str, errors: str, quote: str = '"', strict: str = "true") -> str:
    """SQL of a scan in which every column is text."""
    columns = ", ".join(f"{text(column)}: 'VARCHAR'" for column in names)
    return f"""read_csv({text(glob.escape(str(path)))}, auto_detect = false, header = true, columns = {{{columns}}},
        strict_mode = {strict}, delim = {text(delimiter)}, quote = {text(quote)}, escape = {text(quote)}, {errors})"""


def drop_temporary(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop what the file before has left in the connection."""
    connection.execute("DROP VIEW IF EXISTS numbered_rows")
    for table in _TEMPORARY:
        connection.execute(f"DROP TABLE IF EXISTS {table}")


@dataclass(frozen=True)
class _Text:
    """A file of delimited text on its way into the connection."""

    connection: duckdb.DuckDBPyConnection
    path: Path
    names: list[str]
    wanted: list[str]
    delimiter: str


def read_text(connection: duckdb.DuckDBPyConnection, path: Path, table: str, names: list[str], wanted: list[str]) -> str:
    """Name of a relation with the rows; malformed lines go to ``quarantine``.

    Quotes are read as quotes, unless more lines are readable when they are plain characters. In tab-separated files, which
    often do not quote, also unless a quoted value spans lines and need not.
    """
    log = _Text(connection, path, names, wanted, delimiter_of(path))
    quote, whole = '"', _scan_whole(log, '"')
    if whole and log.delimiter == "\t" and _breaks(log):
        quote = "" if _scan_whole(log, "") else quote
        whole = not quote or _scan_whole(log, quote)
    elif not whole and _lines_read(log, "") > _lines_read(log, '"'):
        quote, whole = "", _scan_whole(log, "")
    columns = ", ".join(quoted(column) for column in wanted)
    if not quote:
        unwrapped = "CASE WHEN {0} LIKE '\"%_\"' THEN nullif(replace({0}[2:-2], '\"\"', '\"'), '') ELSE {0} END AS {0}"
        columns = ", ".join(unwrapped.format(quoted(column)) for column in wanted)
    if whole and line_per_row(path, _rows(log)):  # the usual case, and files are large: nothing is written twice
        connection.execute(f"CREATE TEMP VIEW numbered_rows AS SELECT rowid + 2 AS line, {columns} FROM csv_rows")
        return "numbered_rows"
    if not whole:
        _scan_malformed(log, quote)
    _number_lines(log, quote, table)
    connection.execute(f"""
        CREATE TEMP TABLE csv_cells AS
        SELECT number + 1 + coalesce(further, 0) AS line, {columns}
        FROM (SELECT rowid + 1 AS number, * FROM csv_rows) AS good
        ASOF LEFT JOIN jump ON number >= jump.row ORDER BY number""")
    return "csv_cells"


def _scan(log: _Text, quote: str, errors: str, copy: Path | None = None) -> int:
    """Fill ``csv_rows`` from the file, or from a copy of it; returns the number of rows."""
    chosen = ", ".join(quoted(column) for column in log.wanted)
    for strict in ("true", "false"):  # strict reading refuses a file that mixes line endings
        drop_temporary(log.connection)
        scan = read_csv(copy or log.path, log.names, log.delimiter, errors, quote, strict)
        try:
            log.connection.execute(f"CREATE TEMP TABLE csv_rows AS SELECT {chosen} FROM {scan}")
            break
        except (duckdb.OutOfMemoryException, duckdb.InterruptException):
            raise
        except duckdb.Error as error:
            if strict == "false" or errors == STOP:
                raise damaged(log.path, error) from error
    return _rows(log)


def _rows(log: _Text) -> int:
    ((rows,),) = log.connection.execute("SELECT count(*) FROM csv_rows").fetchall()
    return int(rows)


def _scan_whole(log: _Text, quote: str) -> bool:
    """Fill ``csv_rows``, and return True, if no line is malformed."""
    try:
        _scan(log, quote, STOP)
    except SeerecError:
        return False
    return True


def _lines_read(log: _Text, quote: str) -> int:
    """Lines that are good rows, or parts of them."""
    with _tamed(log, quote) as copy:
        return _scan(log, quote, _SKIP, copy) + _breaks(log)


def _breaks(log: _Text) -> int:
    """Line breaks within the values of ``csv_rows``."""
    breaks = " + ".join(f"length({quoted(c)}) - length(replace({quoted(c)}, chr(10), ''))" for c in log.wanted) or "0"
    inside = " OR ".join(f"contains({quoted(c)}, chr(10))" for c in log.wanted) or "false"
    ((number,),) = log.connection.execute(f"SELECT coalesce(sum({breaks}), 0) FROM csv_rows WHERE {inside}").fetchall()
    return int(number)


def _scan_malformed(log: _Text, quote: str) -> None:
    """Fill ``csv_rows`` and ``malformed``: the text of each malformed row by its number, header and blank lines counted, too.

    Where no line is good, some errors are enough.
    """
    execute = log.connection.execute
    with _tamed(log, quote) as copy:
        limit = 0 if _scan(log, quote, _SKIP, copy) else 1000
        _scan(log, quote, f"{_KEEP}{limit}", copy)
    bad = execute("SELECT min(line) FROM csv_rejects WHERE error_type = 'INVALID ENCODING'").fetchone()
    if bad and bad[0] is not None:
        raise _not_utf8(log.path, bad[0])
    execute(f"""
        CREATE TEMP TABLE malformed AS SELECT
            line::BIGINT AS number,
            string_split(replace(replace(min(trim(csv_line, chr(13) || chr(10))), '{_JOINED}', {text(log.delimiter)}),
                                 chr(13), ''), chr(10)) AS lines
        FROM csv_rejects GROUP BY line""")


def _number_lines(log: _Text, quote: str, table: str) -> None:
    """Fill ``quarantine``, each line of a malformed row by itself, and ``jump``: from which good row on lines run ahead of rows.

    Lines run ahead by blank ones, by those of malformed rows, and by breaks within quotes.
    """
    execute = log.connection.execute
    if not execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'malformed'").fetchall():
        execute("CREATE TEMP TABLE malformed (number BIGINT, lines VARCHAR[])")
    bad = execute("SELECT number, len(lines) AS lines FROM malformed").fetchnumpy()
    spans = dict(zip(bad["number"].tolist(), bad["lines"].tolist(), strict=True))
    jumps, begins = places(log.path, log.delimiter, quote, spans)
    execute("CREATE TEMP TABLE jump AS SELECT unnest($1::BIGINT[]) AS row, unnest($2::BIGINT[]) AS further", list(jumps))
    execute("CREATE TEMP TABLE begin AS SELECT unnest($1::BIGINT[]) AS number, unnest($2::BIGINT[]) AS line", list(begins))
    execute(
        """
        INSERT INTO quarantine
        SELECT $1, line, 'malformed_line', content
        FROM (SELECT line + generate_subscripts(lines, 1) - 1 AS line, unnest(lines) AS content
              FROM malformed JOIN begin USING (number)) ORDER BY line""",
        [table],
    )


@contextmanager
def _tamed(log: _Text, quote: str) -> Iterator[Path | None]:
    """A copy in which lines with many columns too many have one, and no quotes; None where no line has.

    DuckDB makes an error, with its line, of every column too many.
    """
    crowded, limit, width = set(), len(log.names) + _SURPLUS, len(log.names)
    for place, line in enumerate(lines_of(log.path)):
        if line.count(log.delimiter) > limit:
            plain = re.sub(f"{quote}[^{quote}]*{quote}", "", line) if quote else line
            if plain.count(log.delimiter) > limit:
                crowded.add(place)
    if not crowded:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="seerec-") as folder, named_disk_errors(Path(folder)):
        copy = Path(folder) / "tamed.csv"
        with copy.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for place, line in enumerate(lines_of(log.path)):
                if place in crowded:
                    cells = line.replace('"', "").split(log.delimiter)
                    line = log.delimiter.join([*cells[:width], _JOINED.join(cells[width:])])
                file.write(f"{line}\n")
        yield copy
