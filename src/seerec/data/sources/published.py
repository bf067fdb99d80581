"""What the published data sets share: folders or archives, files and columns by their names, whole numbers.

Platforms that publish such logs began after 2000, so earlier times are errors of units or of the file (`EARLIEST`).
"""

import contextlib
import gzip
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from seerec.data.files import header
from seerec.data.sql import quoted
from seerec.errors import SeerecError

EARLIEST = 946_684_800_000
"""2000-01-01 in ms UTC."""
SIMULATED = "SIMULATED.json"
"""Lies beside all files of `seerec simulate`."""
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError,
    NotImplementedError,
)  # fmt: skip


class Files(NamedTuple):
    """What lies below some paths."""

    wanted: list[Path]
    simulated: bool
    """Whether `seerec simulate` wrote any of them."""


@contextlib.contextmanager
def unpacked(paths: Sequence[Path], suffixes: Collection[str]) -> Iterator[Files]:
    """All files below ``paths`` that end in one of ``suffixes``; archives among them are unpacked, and removed afterwards.

    Raises
    ------
    SeerecError
        There is no path, one does not exist, or an archive is damaged.
    """
    if not paths:
        raise SeerecError("There is no path to read.", "Give the folder as unpacked, or the archive.")
    with contextlib.ExitStack() as stack:
        files: list[Path] = []
        folders: list[Path] = []
        for path in paths:
            if path.is_dir():
                archives = [] if _inside(path, suffixes) else [file for file in sorted(path.iterdir()) if _is_archive(file)]
                folders += [_unpack(archive, suffixes, stack) for archive in archives] or [path]
            elif not path.exists():
                raise SeerecError(f"{path} does not exist.", "Give the folder as unpacked, or the archive.")
            elif _is_archive(path):
                folders.append(_unpack(path, suffixes, stack))
            else:
                files.append(path)
        marked = [folder for folder in folders if _inside(folder, [SIMULATED.lower()])]
        marked += [file for file in files if (file.parent / SIMULATED).is_file()]
        yield Files(files + [file for folder in folders for file in _inside(folder, suffixes)], bool(marked))


def _is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(_ARCHIVES)


def _inside(folder: Path, suffixes: Collection[str]) -> list[Path]:
    found = (file for file in folder.rglob("*") if file.is_file() and file.name.lower().endswith(tuple(suffixes)))
    return sorted(file for file in found if not file.name.startswith(".") and "__MACOSX" not in file.parts)


def _unpack(archive: Path, suffixes: Collection[str], stack: contextlib.ExitStack) -> Path:
    """The wanted members of ``archive`` in a temporary folder that lives as long as ``stack``."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seerec-")))
    wanted = (*suffixes, SIMULATED.lower())
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder, [name for name in packed.namelist() if name.lower().endswith(wanted)])
        else:
            with tarfile.open(archive) as tape:
                members = [member for member in tape if member.isfile() and member.name.lower().endswith(wanted)]
                tape.extractall(folder, members, filter="data")
                while tape.fileobj is not None and tape.fileobj.read(1 << 20):
                    pass  # the checksum of what was compressed stands at its end
    except _BROKEN as error:
        known = not isinstance(error, tarfile.ReadError) and str(error)  # tarfile lists all kinds of archives that it is not
        reason = known.splitlines()[0] if known else "it is damaged, or no archive"
        raise SeerecError(f"{archive} cannot be unpacked ({reason}).", "Check that the whole archive was copied.") from error
    except OSError as error:
        raise SeerecError(f"{archive} cannot be unpacked: {error.strerror or error}.", "Unpack it yourself.") from error
    return folder


def by_name(files: Sequence[Path], names: Mapping[str, bool], place: str) -> dict[str, Path]:
    """The file of each of ``names`` (``rec_inter.csv`` or, packed, ``rec_inter.csv.gz``); those that are True must exist.

    Raises
    ------
    SeerecError
        Files are missing, or there are several of one name.
    """
    found: dict[str, Path] = {}
    for name in names:
        bearing = [file for file in files if file.name.lower().removesuffix(".gz") == name]
        if len(bearing) > 1:
            raise SeerecError(
                f"{place} holds {name} {len(bearing)} times: {', '.join(str(file) for file in bearing[:3])}.",
                "Give the folder of one data set.",
            )
        if bearing:
            found[name] = bearing[0]
    missing = [name for name, needed in names.items() if needed and name not in found]
    if missing:
        seen = ", ".join(file.name for file in files[:8]) or "no such files"
        raise SeerecError(
            f"{place} lacks {', '.join(missing)} (found: {seen}).", "Give the folder as unpacked, or the archive as downloaded."
        )
    return found


def columns_in(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """For each role of ``wanted`` the first of its names that the file has as a column, whatever the letters' case.

    Raises
    ------
    SeerecError
        The file has none of the names of some role.
    """
    names = header(path)
    lowered = {name.lower(): name for name in names}
    found = {role: next((lowered[name] for name in usual if name in lowered), None) for role, usual in wanted.items()}
    missing = [" or ".join(wanted[role]) for role, column in found.items() if column is None]
    if missing:
        raise SeerecError(
            f"{path} has no column {', '.join(missing)} (found: {', '.join(names)}).",
            "Check that this is the published file, and that its header line is there.",
        )
    return {role: column for role, column in found.items() if column is not None}


def number(column: str) -> str:
    """SQL: the DOUBLE that a cell of text or number holds, or NULL."""
    return f"TRY_CAST({quoted(column)} AS DOUBLE)"


def whole(column: str) -> str:
    """SQL: the number of a cell as BIGINT if it is whole and not negative (``7`` or ``7.0``), or NULL."""
    value = number(column)
    return f"CASE WHEN {value} >= 0 AND {value} < 9e15 AND {value} = trunc({value}) THEN {value}::BIGINT END"


def blank(column: str) -> str:
    """SQL: whether a cell holds nothing."""
    words = f"{quoted(column)}::VARCHAR"  # what begins beyond the blank is not blank, and trim is slow
    return f"CASE WHEN {words} >= '!' THEN false ELSE coalesce(trim({words}), '') = '' END"


def time_of_text(column: str, offset: str) -> str:
    """SQL: ms UTC of a text such as ``2023-05-22 18:30:00`` at ``offset`` from UTC (``+08:00``), or NULL."""
    return f"epoch_ms(TRY_CAST(trim({quoted(column)}) || '{offset}' AS TIMESTAMPTZ))"


def refuse(connection: duckdb.DuckDBPyConnection, table: str, cells: str) -> None:
    """Move rows of ``raw_TABLE`` whose column ``refused`` names a reason to quarantine, as they stand in the table ``cells``."""
    connection.execute(f"""
        INSERT INTO quarantine
        SELECT '{table}', cells.line, refused, cells::VARCHAR FROM {cells} AS cells
        JOIN (SELECT line, refused FROM raw_{table} WHERE refused IS NOT NULL) USING (line) ORDER BY line""")
    connection.execute(f"DELETE FROM raw_{table} WHERE refused IS NOT NULL")
    connection.execute(f"ALTER TABLE raw_{table} DROP COLUMN refused")


def in_log_order(connection: duckdb.DuckDBPyConnection) -> None:
    """Number the accepted events by their place, for sources of which many events share a line: it decides between equal times.

    `check` leaves them in the order of the raw tables. What is refused keeps the line of its file.
    """
    for table in ("recommendations", "searches"):
        connection.execute(f"UPDATE {table} SET line = rowid + 1")
