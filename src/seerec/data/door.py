"""``prepare``: a raw log, or tables in memory, to a corpus."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
from pydantic import ValidationError

from seerec.config import DataSettings
from seerec.data import events as contract
from seerec.data.corpus import Corpus
from seerec.data.prepare import write_corpus
from seerec.data.sources import interactions as interaction_files
from seerec.data.sources import simulated
from seerec.errors import SeerecError

SOURCES = {
    "interactions": "interactions without searches (user sequences or one row each) plus item text; searches are constructed",
    "simulated": "a marketplace with planted intents, whose truth is known",
    "tables": "files or tables of the event contract: recommendations, searches, items, users",
}
_READERS: dict[str, Callable[..., Any]] = {"interactions": interaction_files.read, "simulated": simulated.read}


def prepare(
    out: str | Path,
    *,
    source: str = "tables",
    paths: Sequence[str | Path] = (),
    options: Mapping[str, Any] | None = None,
    settings: DataSettings | Mapping[str, Any] | None = None,
    recommendations: Any = None,
    searches: Any = None,
    items: Any = None,
    users: Any = None,
) -> Corpus:
    """Prepare a corpus folder.

    Parameters
    ----------
    out
        The folder to make; an existing corpus there is replaced in one step.
    source
        A key of ``SOURCES``.
    paths, options
        Files or folder of the source, and its options (``p_search``, ``noise``, ``users``, ``seed``, ...).
    settings
        ``DataSettings`` or its values: split, repeats, negatives, ...
    recommendations, searches, items, users
        For ``tables``: pandas, Polars or Arrow tables, DuckDB relations, or file names.

    Raises
    ------
    SeerecError
        Anything wrong with files, columns, values or settings; nothing is written then.
    """
    target = Path(out)
    if target.exists() and not (target / "manifest.json").is_file() and (target.is_file() or any(target.iterdir())):
        raise SeerecError(f"{target} exists and is not a corpus.", "Choose another --out.")
    try:
        chosen = settings if isinstance(settings, DataSettings) else DataSettings(**(settings or {}))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SeerecError(
            f"The setting {name!r} is not valid: {first['msg'].lower()}.", "See `seerec prepare --help`."
        ) from error
    if source in _READERS:
        known = [name for name in inspect.signature(_READERS[source]).parameters if name not in ("connection", "paths")]
        for name in options or {}:
            if name not in known:
                raise SeerecError(f"The source {source} has no option {name!r}.", f"Choose among: {', '.join(known)}.")
    if source == "tables":
        if recommendations is None:
            raise SeerecError("There is no recommendations table.", "Give recommendations= (and searches=, items=, users=).")
        events = contract.from_tables(recommendations=recommendations, searches=searches, items=items, users=users)
    elif source == "simulated":
        events = simulated.read(duckdb.connect(), **{"users": 3000, "seed": 0, "announce": 0.7, "noise": 0.5, **(options or {})})
    elif source == "interactions":
        events = interaction_files.read(duckdb.connect(), [Path(path) for path in paths], **(options or {}))
    else:
        raise SeerecError(f"There is no source {source!r}.", f"Choose one of: {', '.join(SOURCES)}.")
    return write_corpus(events, target, chosen)
