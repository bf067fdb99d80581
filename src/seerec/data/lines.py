"""Lines of a text file: how many there are, and on which of them a row of delimited text begins."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from seerec.errors import SeerecError

Pairs = tuple[list[int], list[int]]


def damaged(path: Path, error: Exception) -> SeerecError:
    """Return the error for a file that DuckDB or zlib cannot read."""
    reason = str(error).splitlines()[0].removeprefix("Invalid Input Error: ").removeprefix("IO Error: ").rstrip(".")
    return SeerecError(f"{path} cannot be read ({reason}).", "Check that the whole file was copied, and its kind.")


def line_per_row(path: Path, rows: int) -> bool:
    """Whether a file has so many lines after its header: no row has several, and no line is blank."""
    for end in (b"\n", b"\r"):
        ends, last = 0, end
        with opened(path) as file:
            while chunk := file.read(1 << 24):
                ends += chunk.count(end)
                last = chunk[-1:]
        if ends:
            return ends + (last != end) == rows + 1
    return rows == 0


def places(path: Path, delimiter: str, quote: str, spans: dict[int, int]) -> tuple[Pairs, Pairs]:
    """(row, lines ahead of rows from there on) of the good rows, and (number, line) of the malformed ones.

    ``spans``: how many lines each malformed row takes, by its number.
    """
    jumps: Pairs = [], []
    begins: Pairs = [], []
    number = good = further = passed = 0
    whole, rest = _row_patterns(delimiter, quote or '"')
    inside = False
    for line, content in enumerate(lines_of(path), 1):
        if passed:
            passed -= 1
        elif inside:
            inside = rest.fullmatch(content) is None
        else:
            number += 1
            if number in spans:
                begins[0].append(number)
                begins[1].append(line)
                passed = spans[number] - 1
            elif content:
                if line - 1 - good != further:
                    further = line - 1 - good
                    jumps[0].append(good)
                    jumps[1].append(further)
                good += 1
                inside = bool(quote) and quote in content and whole.fullmatch(content) is None
    return jumps, begins


def _row_patterns(delimiter: str, quote: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What a line with a row's end looks like: where the row begins on it, and where it begins within quotes."""
    quoted_rest = f"(?>[^{quote}]|{quote}{quote})*+{quote}"
    cell = f"(?>{quote}{quoted_rest}|(?!{quote})[^{re.escape(delimiter)}]*+)"
    further = f"(?:{re.escape(delimiter)}{cell})*+"
    return re.compile(f"{cell}{further}"), re.compile(f"{quoted_rest}{further}")


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file without their ends; bytes that are not UTF-8 survive."""
    try:
        with opened(path) as file:
            start = file.read(1 << 20)
        end = "\r" if b"\r" in start and b"\n" not in start else "\n"
        with opened(path) as file, io.TextIOWrapper(file, "utf-8", "surrogateescape", newline=end) as lines:
            for line in lines:
                yield line.removesuffix(end).removesuffix("\r")
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, error) from error


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where its name ends in ``.gz``."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")
