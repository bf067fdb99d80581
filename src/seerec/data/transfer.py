"""Published files, brought over HTTPS: resumed where they stopped, checked before they get their name.

A file on its way is called ``NAME.part``. When a connection drops, what has arrived stays, and every new byte starts the
count of faults again.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from time import monotonic

from seerec.atomic import flush, named_disk_errors
from seerec.data.publishers import PublishedFile
from seerec.data.web import FaultError, Patience, ask, reason_of
from seerec.errors import SeerecError
from seerec.progress import Bar

_CHUNK = 1 << 18  # bytes read at once
_TRIES = 8  # with the pauses between, two minutes without a new byte
_REDRAW = 0.1  # seconds between two movements of the bar


def part_of(target: Path) -> Path:
    """Where a file lies until it is complete and checked."""
    return target.with_name(f"{target.name}.part")


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def agrees(file: PublishedFile, path: Path, bar: Bar) -> bool:
    """Whether the content of ``path`` has the published checksum. Raises SeerecError where it cannot be read."""
    algorithm, digits = file.checksum.split(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with path.open("rb") as content:
            while chunk := content.read(1 << 22):
                digest.update(chunk)
                bar.advance(len(chunk))
    except OSError as error:
        raise SeerecError(f"Cannot read {path}: {error.strerror}.", "Check the file's permissions and the disk.") from error
    return digest.hexdigest() == digits


@dataclass
class Transfer:
    """One file on its way to ``target``."""

    file: PublishedFile
    target: Path
    tag: str | None
    """The ETag of what lies in the part."""
    keep_tag: Callable[[str | None], None]
    """Called with an ETag before the first byte of its content is written."""
    bar: Bar
    """Counts bytes; those in the part when this begins are counted already."""

    @property
    def part(self) -> Path:
        """Where the file lies until it is checked."""
        return part_of(self.target)

    def run(self) -> None:
        """Bring the file; what arrives with a wrong checksum is removed, and once begun again from zero.

        Raises
        ------
        SeerecError
            The server cannot be reached or refuses, the checksum is wrong twice, or the disk is full.
        """
        for _ in range(2):
            with named_disk_errors(self.part):
                self.part.parent.mkdir(parents=True, exist_ok=True)
                self.part.touch()
            self._receive()
            self.bar.note(f"verifying {self.file.path}")
            if agrees(self.file, self.part, Bar(None, 0, "")):
                self._settle()
                return
            self._start_over()
            self.bar.note(f"{self.file.path} arrived with a wrong checksum; once more from zero")
        cause = f"{self.file.path} arrived twice without its published checksum ({self.file.checksum}) and was removed."
        raise SeerecError(cause, "Try again later or from another network.")

    def _receive(self) -> None:
        """Fill the part up to the published size."""
        patience = Patience(self.file.url, _TRIES, self.bar)
        farthest = size_of(self.part)
        while (have := size_of(self.part)) < self.file.size:
            try:
                self._append(have)
            except FaultError as fault:
                if (now := size_of(self.part)) > farthest:  # not: more than at the last beginning, which may have been zero
                    farthest = now
                    patience.reset()
                if fault.from_zero:
                    self._start_over()
                patience.wait(fault)

    def _append(self, have: int) -> None:
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and self.tag:
            headers["If-Range"] = self.tag
        with ask(self.file.url, headers) as response:
            start = self._start(response, have)
            tag = response.headers.get("ETag")
            self.tag = None if tag is None or tag.startswith("W/") else tag  # a weak one cannot be asked for
            self.keep_tag(self.tag)
            self.bar.advance(start - have)
            with named_disk_errors(self.part), self.part.open("ab" if start else "wb") as part:
                for chunk in self._counted(_body(response, self.file.size - start)):
                    part.write(chunk)

    def _start(self, response: HTTPResponse, have: int) -> int:
        """Where the content of an answer begins: at what is here, or at zero."""
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != have or found[2] not in ("*", str(self.file.size)):
                raise FaultError("answers another range than asked for", from_zero=True)
            return have
        length = response.headers.get("Content-Length", str(self.file.size))
        if length != str(self.file.size):
            raise FaultError(f"offers {length} bytes in place of the published {self.file.size}")
        return 0

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks, on the bar a few times a second."""
        count, moved = 0, monotonic()
        try:
            for chunk in chunks:
                yield chunk
                count += len(chunk)
                if monotonic() - moved > _REDRAW:
                    self.bar.advance(count)
                    count, moved = 0, monotonic()
        finally:
            self.bar.advance(count)

    def _start_over(self) -> None:
        self.bar.advance(-size_of(self.part))
        self.tag = None
        with named_disk_errors(self.part):
            self.part.unlink(missing_ok=True)

    def _settle(self) -> None:
        """Give the file its name, on the disk for good."""
        with named_disk_errors(self.target):
            flush(self.part)
            self.part.rename(self.target)
            flush(self.target.parent)


def _body(response: HTTPResponse, left: int) -> Iterator[bytes]:
    """What is left of a file, as it arrives. Raises FaultError where the connection ends early."""
    while left:
        try:
            chunk = response.read1(min(left, _CHUNK))  # not read(), which would keep a half chunk to itself
        except (HTTPException, OSError) as error:
            raise FaultError(f"drops the connection ({reason_of(error)})") from error
        if not chunk:
            raise FaultError("ends the connection early")
        left -= len(chunk)
        yield chunk
