"""Publishers' own lists of their files: names, sizes, checksums and addresses, from Zenodo and from Hugging Face."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from seerec.data.web import RefusedError, document, require_https
from seerec.errors import SeerecError
from seerec.progress import Bar

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_CHECKSUM = r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}"


@dataclass(frozen=True)
class PublishedFile:
    """A file as its publisher lists it. Two are equal when their content is, wherever it lies."""

    path: str
    """Where it goes, relative to the folder, with ``/`` between the parts."""
    size: int
    """Bytes."""
    checksum: str
    """``md5:`` or ``sha256:``, then hexadecimal digits."""
    url: str = field(compare=False)


def published(path: Any, size: Any, checksum: Any, url: Any) -> PublishedFile:
    """A file of a list, whose path stays below its folder. Raises ValueError or TypeError where a list says anything else."""
    if not re.fullmatch(rf"{_NAME}(/{_NAME})*", path) or not re.fullmatch(_CHECKSUM, checksum):
        raise ValueError(f"a file {path!r} with the checksum {checksum!r}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0 or not isinstance(url, str):
        raise ValueError(f"a file {path!r} of {size!r} bytes at {url!r}")
    return PublishedFile(path, size, checksum, url)


def zenodo_files(records: Sequence[int], archive: str, base: str, bar: Bar) -> list[PublishedFile]:
    """The archive, from the first of some Zenodo records that has it.

    Raises
    ------
    SeerecError
        None has it, or Zenodo cannot be reached or understood.
    """
    for record in records:
        url = f"{base}/api/records/{record}"
        try:
            content, _ = document(url, bar)
        except RefusedError:
            continue  # a withdrawn record
        with _understood(url):
            for entry in content["files"]:
                if entry["key"] == archive:
                    place = entry["links"]["self"]
                    require_https(place, url)
                    return [published(archive, entry["size"], entry["checksum"], place)]
    cause = f"{base} offers no {archive} in record {' or '.join(map(str, records))}."
    raise SeerecError(cause, "See the data set's home page for where it is now.")


def hub_files(repository: str, folders: Sequence[str], base: str, bar: Bar) -> list[PublishedFile]:
    """The Parquet files in some folders of a data set on the Hugging Face hub.

    Raises
    ------
    SeerecError
        A folder has none, or the hub cannot be reached or understood.
    """
    found: dict[str, PublishedFile] = {}
    url: str | None = f"{base}/api/datasets/{repository}/tree/main?recursive=true"
    pages = {url}
    while url is not None:
        content, following = document(url, bar)
        with _understood(url):
            for entry in content:
                path = entry["path"]
                if entry["type"] == "file" and path.split("/")[0] in folders and path.endswith(".parquet"):
                    place = f"{base}/datasets/{repository}/resolve/main/{quote(path)}"
                    found[path] = published(path, entry["size"], f"sha256:{entry['lfs']['oid']}", place)
            if following in pages:
                raise ValueError("its pages go in a circle")
        pages.add(following)
        url = following
    lacking = [folder for folder in folders if not any(path.startswith(f"{folder}/") for path in found)]
    if lacking:
        cause = f"{base}/datasets/{repository} has no Parquet files in {', '.join(lacking)}."
        raise SeerecError(cause, "Look for a newer seerec, or download by hand what it has.")
    return [found[path] for path in sorted(found)]


@contextlib.contextmanager
def _understood(url: str) -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        cause = f"{url} does not list files as it used to ({type(error).__name__}: {error})."
        raise SeerecError(cause, "Look for a newer seerec, or download by hand from the data set's home page.") from error
