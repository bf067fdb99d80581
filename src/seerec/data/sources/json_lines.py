"""JSON lines, plain or as exported from OpenSearch, into one table; no line lost.

An export may wrap a document as ``{"_index": ..., "_source": {...}}``, or be made for the bulk interface, where a line such as
``{"index": {...}}`` stands before every document. Only text is read here, so nothing in a line can be more than a value.
"""

import glob
from collections.abc import Sequence
from pathlib import Path

import duckdb

from seerec.data.sql import text
from seerec.errors import SeerecError

SUFFIXES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".ndjson", ".json") for packed in ("", ".gz"))
_ACTIONS = ", ".join(f"['{name}']" for name in ("index", "create", "update", "delete"))
_LONGEST = 16 << 20
_SEPARATOR = "\x1f"
"""No JSON holds this character, so that a line is one value."""
_TEMPORARY = ("text_lines", "text_rejects", "text_scans")


def read_json_lines(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
    """Make the table ``json_lines``: ``file`` (name), ``line`` (from 1), ``content`` and ``readable``.

    Blank lines and those of the bulk interface are left out; ``readable``: ``content`` is a JSON object. In a line that is no
    UTF-8 unreadable bytes are shown as question marks.

    Raises
    ------
    SeerecError
        A file cannot be read, or is a damaged gzip file.
    """
    connection.execute("CREATE TEMP TABLE json_lines (file VARCHAR, line BIGINT, content VARCHAR, readable BOOLEAN)")
    for file in files:
        _read_text(connection, file)
        lines = "(SELECT count(*) FROM text_lines) + (SELECT count(DISTINCT line) FROM text_rejects)"
        connection.execute(f"""
            INSERT INTO json_lines
            WITH taken AS (
                SELECT line, row_number() OVER (ORDER BY line) - 1 AS place FROM range(1, {lines} + 1) AS every(line)
                WHERE line NOT IN (SELECT line FROM text_rejects)),
            found AS (
                SELECT taken.line, content, {_kind("content")} AS kind
                FROM text_lines JOIN taken ON text_lines.rowid = taken.place WHERE trim(content) <> ''
                UNION ALL
                SELECT line, min(trim(csv_line, chr(13) || chr(10))), 'unreadable' FROM text_rejects GROUP BY line)
            SELECT {text(file.name)}, line, content, kind = 'document' FROM found WHERE kind <> 'action' ORDER BY line""")
    for table in _TEMPORARY:
        connection.execute(f"DROP TABLE IF EXISTS {table}")


def first_documents(file: Path, lines: int = 1000) -> str:
    """SQL: the documents (``content``) among the first ``lines`` of ``file``, to see what it holds."""
    scan = _scan(file, "strict_mode = false, ignore_errors = true")
    return f"""(
        SELECT content FROM (
            SELECT content, {_kind("content")} AS kind FROM (SELECT content FROM {scan} LIMIT {lines}) WHERE trim(content) <> '')
        WHERE kind = 'document')"""


def document(content: str) -> str:
    """SQL: the document of a readable line, without its wrapping."""
    return f"coalesce(json_extract({content}, '$._source'), {content}::JSON)"


def damaged(file: Path, error: Exception) -> SeerecError:
    """The error to raise where DuckDB cannot read ``file``."""
    reason = str(error).splitlines()[0].removeprefix("IO Error: ").removeprefix("Invalid Input Error: ").rstrip(".")
    return SeerecError(f"{file} cannot be read ({reason}).", "Check that the whole file was copied.")


def _kind(content: str) -> str:
    return (
        f"CASE WHEN NOT json_valid({content}) THEN 'unreadable' WHEN json_type({content}) <> 'OBJECT' THEN 'unreadable' "
        f"WHEN json_keys({content}) IN ({_ACTIONS}) THEN 'action' ELSE 'document' END"
    )


def _scan(file: Path, options: str) -> str:
    return f"""read_csv({text(glob.escape(str(file)))}, auto_detect = false, header = false, columns = {{'content': 'VARCHAR'}},
        delim = '{_SEPARATOR}', quote = '', escape = '', max_line_size = {_LONGEST}, buffer_size = {2 * _LONGEST}, {options})"""


def _read_text(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Fill ``text_lines`` in the order of the file, blank lines being NULL, and ``text_rejects``."""
    rejects = "store_rejects = true, rejects_limit = 0, rejects_table = 'text_rejects', rejects_scan = 'text_scans'"
    for strict in ("true", "false"):  # strict reading refuses a file that mixes line endings
        for table in _TEMPORARY:
            connection.execute(f"DROP TABLE IF EXISTS {table}")
        try:
            scan = _scan(file, f"strict_mode = {strict}, {rejects}")
            connection.execute(f"CREATE TEMP TABLE text_lines AS SELECT content FROM {scan}")
            return
        except duckdb.Error as error:
            if strict == "false":
                raise damaged(file, error) from error
