"""`seerec simulate`: a folder of raw files that looks like a published data set and says that it is none."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seerec.atomic import atomic_folder, named_disk_errors, write_json
from seerec.data.simulation import jdsearch, kuaisar, qilin
from seerec.data.sources.published import SIMULATED
from seerec.errors import SeerecError
from seerec.progress import Progress

KINDS = {
    "kuaisar": "KuaiSAR (Kuaishou): CSV files, hand-outs of videos and search sessions",
    "qilin": "Qilin (Xiaohongshu): Parquet files, notes in lists of structs",
    "jdsearch": "JDsearch (JD.com): two tab-separated files, one row per user",
}
"""Published formats, by key."""

SCALES: dict[str, dict[str, str]] = {
    "kuaisar": {
        "small": "7,493,101 recommendation rows, 3,171,231 search rows, 4,195,529 items, 25,877 users: 1.7 GB",
        "large": "14,605,716 recommendation rows, 5,059,169 search rows, 6,890,707 items, 25,877 users: 2.9 GB",
        "SHARE": "that multiple of small, {} to {}".format(*kuaisar.SHARES),
    },
    "qilin": {
        "published": "44,024 + 6,192 searches, 83,437 + 11,115 requests, 1,983,938 notes, 15,482 users: 1 GB",
        "SHARE": "that share of it, {} to {}".format(*qilin.SHARES),
    },
    "jdsearch": {"SHARE": "that share of 170,000 users, {} to {}".format(*jdsearch.SHARES)},
}
"""Scales of each format and what they hold; SHARE stands for a number."""

_MARK = "seerec-simulation"
_FORMATS: dict[str, Any] = {"kuaisar": kuaisar, "qilin": qilin, "jdsearch": jdsearch}


def simulate(out: Path, *, kind: str, scale: str | float, seed: int, progress: Progress) -> dict[str, int]:
    """Write raw files in a published format, with its counts and none of its content.

    Parameters
    ----------
    out
        A new folder, an empty one, or an earlier simulation, which is replaced in one step.
    kind
        One of `KINDS`.
    scale
        One of the format's `SCALES`, or a share as a number or as text.
    seed
        0 or more. The same seed, kind and scale give the same bytes.
    progress
        Shows a bar with speed for each file.

    Returns
    -------
        What was written: rows and different things in them, as ``SIMULATED.json`` in the folder has them.

    Raises
    ------
    SeerecError
        An unknown kind or scale, a negative seed, or a folder that holds something else.
    DiskError
        The disk is full or the place is not writable.
    """
    if kind not in KINDS:
        raise SeerecError(f"There is no format {kind!r} to simulate.", f"Choose one of {', '.join(KINDS)}.")
    if not 0 <= seed < 2**63:
        raise SeerecError(f"seed = {seed} is out of range.", "Give a whole number from 0 to 2**63 - 1.")
    size = _scale(kind, scale)
    _refuse_foreign(out)
    write: Callable[[Path, str | float, int, Progress], dict[str, int]] = _FORMATS[kind].write
    with atomic_folder(out) as folder:
        counts = write(folder, size, seed, progress)
        note = "simulated; not the published data"
        write_json(folder / SIMULATED, {"kind": _MARK, "as": kind, "scale": size, "seed": seed, "counts": counts, "note": note})
    return counts


def _scale(kind: str, scale: str | float) -> str | float:
    """A name of the format's scales, or a share in its range."""
    if isinstance(scale, str) and scale in _FORMATS[kind].SCALES:
        return scale
    try:
        share = float(scale)
    except ValueError:
        share = math.nan
    least, most = _FORMATS[kind].SHARES
    if not least <= share <= most:
        named = "".join(f"{name}, " for name in _FORMATS[kind].SCALES)
        raise SeerecError(
            f"The format {kind} has no scale {scale!r}.", f"Give {named}{'or ' if named else ''}a share from {least} to {most}."
        )
    return share


def _refuse_foreign(out: Path) -> None:
    """Refuse to replace anything but an earlier simulation with nothing beside it."""
    with named_disk_errors(out):
        if not out.is_dir():
            if out.exists():
                raise SeerecError(f"{out} is a file, not a folder.", "Choose another place.")
            return
        found = {path.name for path in out.iterdir()}
    if not found:
        return
    kind = _simulated_kind(out / SIMULATED)
    if kind is None:
        raise SeerecError(f"{out} holds files that are no earlier simulation.", "Choose a new folder.")
    foreign = sorted(found - {SIMULATED, *_FORMATS[kind].FILES})
    if foreign:
        raise SeerecError(f"{out} holds {foreign[0]!r} beside an earlier simulation.", "Move it away, or choose a new folder.")


def _simulated_kind(manifest: Path) -> str | None:
    try:
        said = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said.get("as") if isinstance(said, dict) and said.get("kind") == _MARK and said.get("as") in KINDS else None
