"""Files and folders that are either the old ones or the new ones, never a mixture.

Write beside the target, flush to the disk, rename, flush the parent folder. A kill at any moment leaves the old
content; what a killed writer left behind has a name starting with ``.partial-`` and is removed by the next writer.
"""

import contextlib
import ctypes
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from seerec.errors import DiskError, SeerecError

_PREFIX = ".partial-"
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def named_disk_errors(path: Path) -> Iterator[None]:
    """Say in one sentence that ``path`` cannot be written.

    Raises
    ------
    DiskError
        Instead of the error of the disk.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise DiskError(f"Cannot write {path}: {error.filename} is a file, not a folder.", "Choose another place.") from error
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DiskError(f"Cannot write {path}: {reason}.", "Free disk space or choose a folder you may write to.") from error


@contextlib.contextmanager
def claimed(folder: Path, whose: str) -> Iterator[None]:
    """Make the folder if need be, and hold it against every other process while the block runs.

    Parameters
    ----------
    whose
        Who holds it, for the message of those that come later: ``training``, ``download``.

    Raises
    ------
    SeerecError
        Another process holds it, or the folder cannot be made.
    """
    with named_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SeerecError(f"Another {whose} is running in {folder}.", "Wait for it, or choose another --out.") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)  # also releases it, as does the end of a killed process


def _swap(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot, and then nothing has changed."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    here = -100  # AT_FDCWD
    return exchange is not None and exchange(here, os.fsencode(one), here, os.fsencode(other), _EXCHANGE) == 0


def remove_partials(folder: Path) -> None:
    """Remove what a killed writer left in ``folder``."""
    for left in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that is gone when the block ends; what a killed process left there goes with the next one.

    Raises
    ------
    SeerecError
        The disk is full or the place is not writable.
    """
    prefix = f"{_PREFIX}{target.name}-"
    with named_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"{glob.escape(prefix)}*"):
            if left.is_dir() and (lock := _lock(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        lock = _lock(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds ``folder`` until it is closed or its process ends; None where another holds it, or nobody can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill; when the block ends well it replaces ``target``, else it vanishes.

    Raises
    ------
    SeerecError
        The disk is full or the place is not writable.
    """
    with scratch_folder(target) as scratch, named_disk_errors(target):
        work = scratch / "new"
        work.mkdir()
        yield work
        for path in sorted(work.rglob("*")):
            flush(path)
        flush(work)
        work.chmod(0o755)
        if not target.exists():
            work.rename(target)
        elif not _swap(work, target):  # on some file systems a kill between the next two lines leaves no target
            target.rename(scratch / "old")
            work.rename(target)
        flush(target.parent)


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A new file to write; when the block ends well it replaces ``target``, else it vanishes.

    Raises
    ------
    SeerecError
        The disk is full or the place is not writable.
    """
    with named_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PREFIX, dir=target.parent)
        os.close(handle)
    work = Path(name)
    try:
        with named_disk_errors(target):
            yield work
            flush(work)
            work.chmod(0o644)
            work.rename(target)
            flush(target.parent)
    finally:
        work.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Replace the file ``target`` by ``content`` in one step. Raises SeerecError when the disk is full."""
    with atomic_file(target) as work:
        work.write_bytes(content)


def write_json(target: Path, content: Any) -> None:
    """Replace ``target`` by ``content`` as indented JSON with sorted keys (same content, same bytes)."""
    write_bytes(target, (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
