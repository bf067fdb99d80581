"""Published data sets: what `seerec download` brings, from whom, and under which licence.

Names, sizes and checksums come from the publisher's own list of files. They are kept beside the files in
``downloads.json``, so that a later run checks offline what is complete and brings only what is missing. Archives stay
as they are: sources read them.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from seerec.atomic import claimed, named_disk_errors, write_json
from seerec.data.publishers import PublishedFile, hub_files, published, zenodo_files
from seerec.data.transfer import Transfer, agrees, part_of, size_of
from seerec.errors import DiskError, SeerecError
from seerec.progress import BYTES, SILENT, Bar, Progress

PUBLISHERS = {"zenodo": "https://zenodo.org", "huggingface": "https://huggingface.co"}
LEDGER = "downloads.json"


@dataclass(frozen=True)
class Dataset:
    """A published data set and its terms."""

    title: str
    licence: str
    licence_url: str
    home: str
    """A page for people."""
    publisher: str
    """A key of `PUBLISHERS`."""
    files: Callable[[str, Bar], list[PublishedFile]]
    """The publisher's list, given the address of the publisher."""

    @property
    def terms(self) -> str:
        """What to show before anything is downloaded: a sentence without its full stop."""
        return f"{self.title} ({self.home}) is published under {self.licence} ({self.licence_url})"


_KUAISAR_RECORDS = (8181109, 8031220)  # newest first; which one holds which archive is theirs to change
_QILIN_FOLDERS = ("search_train", "search_test", "recommendation_train", "recommendation_test", "notes", "user_feat")


def _kuaisar(title: str, archive: str) -> Dataset:
    licence_url = "https://creativecommons.org/licenses/by-nc-sa/4.0/"
    files = partial(zenodo_files, _KUAISAR_RECORDS, archive)
    return Dataset(title, "CC BY-NC-SA 4.0", licence_url, "https://kuaisar.github.io/", "zenodo", files)


DATASETS = {
    "kuaisar-small": _kuaisar("KuaiSAR-small", "KuaiSAR.zip"),
    "kuaisar-large": _kuaisar("KuaiSAR-large", "KuaiSAR_v2.zip"),
    "qilin": Dataset(
        "Qilin",
        "Apache-2.0",
        "https://www.apache.org/licenses/LICENSE-2.0",
        "https://huggingface.co/datasets/THUIR/Qilin",
        "huggingface",
        partial(hub_files, "THUIR/Qilin", _QILIN_FOLDERS),
    ),
}


@dataclass(frozen=True)
class Downloaded:
    """A complete data set on this disk."""

    name: str
    folder: Path
    files: tuple[Path, ...]
    size: int
    """Bytes of all files."""
    new: int
    """How many files came this time; the others were here already."""

    def report(self) -> dict[str, Any]:
        """A document of names and numbers."""
        names = [path.relative_to(self.folder).as_posix() for path in self.files]
        return {"dataset": self.name, "folder": str(self.folder), "files": names, "bytes": self.size, "new": self.new}


def download(
    name: str, out: Path, *, accepted: bool, progress: Progress = SILENT, base: Mapping[str, str] = PUBLISHERS
) -> Downloaded:
    """Bring what is missing of a data set, and check all of it.

    A file that has the right name but not the published content is replaced when the published one is complete.

    Parameters
    ----------
    name
        A key of `DATASETS`.
    out
        The folder; several data sets may share it.
    accepted
        Whether the licence is accepted; without it nothing happens.
    base
        Where the publishers are.

    Raises
    ------
    SeerecError
        The licence is not accepted; another download runs in the folder; the publisher cannot be reached, has no such
        file, or has changed a file that is complete here; checksums stay wrong; the disk is full or not writable.
        Whatever has arrived is kept for the next run.
    """
    dataset = DATASETS.get(name)
    if dataset is None:
        raise SeerecError(f"There is no data set {name} to download.", f"Choose one of {', '.join(DATASETS)}.")
    if not accepted:
        cause = f"The licence is not accepted yet: {dataset.terms}."
        raise SeerecError(cause, "Read it, and give --accept-licence if you accept it.")
    out = Path(out)
    with claimed(out, "download"):
        ledger = _Ledger(out, name)
        known = ledger.files
        whole = _whole(known, out, progress)
        files = known
        if not known or len(whole) < len(known):
            with progress.task(f"{name}: asking for the list of files", total=1, unit="lists") as bar:
                files = dataset.files(base[dataset.publisher], bar)
            _refuse_changed(dataset, out, whole, files)
            whole |= _whole([file for file in files if file not in known], out, progress)
            ledger.begin(dataset, files)
        for file in whole:
            ledger.finished(file, new=False)
        missing = [file for file in files if file not in whole]
        if missing:
            _bring(name, missing, ledger, progress)
        return Downloaded(name, out, tuple(out / file.path for file in files), sum(f.size for f in files), len(missing))


def _whole(files: Sequence[PublishedFile], out: Path, progress: Progress) -> set[PublishedFile]:
    """Those that are here with their size and their checksum."""
    here = [file for file in files if (out / file.path).is_file() and size_of(out / file.path) == file.size]
    if not here:
        return set()
    with progress.task("checking what is here", total=sum(file.size for file in here), unit=BYTES) as bar:
        return {file for file in here if agrees(file, out / file.path, bar)}


def _refuse_changed(dataset: Dataset, out: Path, whole: set[PublishedFile], listed: Sequence[PublishedFile]) -> None:
    changed = sorted(file.path for file in whole - set(listed))
    if changed:
        cause = f"{dataset.title} was changed by its publisher after {out / changed[0]} was downloaded."
        raise SeerecError(cause, f"Choose another --out, or remove its files from {out} first.")


def _bring(name: str, missing: Sequence[PublishedFile], ledger: "_Ledger", progress: Progress) -> None:
    total, here = sum(file.size for file in missing), sum(size_of(part_of(ledger.folder / file.path)) for file in missing)
    free = shutil.disk_usage(ledger.folder).free
    if total - here > free:
        cause = f"{name} needs {(total - here) / 1e9:.1f} GB more, and {ledger.folder} has {free / 1e9:.1f} GB."
        raise DiskError(cause, "Free disk space or choose another --out.")
    with progress.task(name, total=total, unit=BYTES, done=here) as bar:
        for file in missing:
            Transfer(file, ledger.folder / file.path, ledger.tag(file), ledger.keep_tag(file), bar).run()
            ledger.finished(file, new=True)


class _Ledger:
    """What is known of one data set in ``downloads.json``; entries of other data sets stay as they are."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self._name = folder, name
        self.files: list[PublishedFile] = []
        self._content: dict[str, Any] = {}
        try:
            content = json.loads((folder / LEDGER).read_bytes())
            self._content = dict(content)
            entries = content[name]["files"].items()
            self.files = [published(path, entry["size"], entry["checksum"], entry["url"]) for path, entry in entries]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._content.pop(name, None)  # as if nothing were known; what is complete is found again by its checksum

    def begin(self, dataset: Dataset, files: Sequence[PublishedFile]) -> None:
        """Keep the publisher's list, and what is known of files that are the same; parts of others are removed."""
        before = self._content.get(self._name, {}).get("files", {})
        entries: dict[str, dict[str, Any]] = {}
        for file in files:
            entries[file.path] = {"url": file.url, "size": file.size, "checksum": file.checksum}
            if file in self.files:
                entries[file.path] = before[file.path] | entries[file.path]
            if file not in self.files or size_of(part_of(self.folder / file.path)) > file.size:
                with named_disk_errors(self.folder):
                    part_of(self.folder / file.path).unlink(missing_ok=True)
        terms = {"licence": dataset.licence, "licence_url": dataset.licence_url, "home": dataset.home}
        self._content[self._name] = {"title": dataset.title, **terms, "accepted": _now(), "files": entries}
        self._write()

    def tag(self, file: PublishedFile) -> str | None:
        """The ETag of a file's part."""
        return self._entry(file).get("etag")

    def keep_tag(self, file: PublishedFile) -> Callable[[str | None], None]:
        """A function that notes the ETag of what is about to be written."""

        def keep(tag: str | None) -> None:
            if tag != self.tag(file):
                self._entry(file)["etag"] = tag
                self._write()

        return keep

    def finished(self, file: PublishedFile, new: bool) -> None:
        """Note when a file came, or was first seen complete."""
        entry = self._entry(file)
        if new or "date" not in entry:
            entry.pop("etag", None)
            entry["date"] = _now()
            self._write()

    def _entry(self, file: PublishedFile) -> dict[str, Any]:
        return self._content[self._name]["files"][file.path]

    def _write(self) -> None:
        write_json(self.folder / LEDGER, self._content)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
