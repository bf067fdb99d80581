"""``prepare``: a raw log, or tables in memory, to a corpus."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from pydantic import TypeAdapter, ValidationError

from seerec.atomic import scratch_folder
from seerec.config import DataSettings, names, refusal
from seerec.data import events as contract
from seerec.data.corpus import Corpus
from seerec.data.engines import engine_named
from seerec.data.prepare import write_corpus
from seerec.data.sources import interactions as interaction_files
from seerec.data.sources import jdsearch, kuaisar, qilin, simulated, ubi
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

SOURCES = {
    "interactions": "interactions without searches (user sequences or one row each) plus item text; searches are constructed",
    "jdsearch": "JDsearch, as published: searches and other clicks of JD.com's shoppers, words and ids anonymised",
    "kuaisar": "KuaiSAR, small or large, as published: recommendations and searches of a video platform",
    "qilin": "Qilin, as published: recommendations and searches of Xiaohongshu, with texts of notes",
    "simulated": "a marketplace with planted intents, whose truth is known",
    "tables": "files or tables of the event contract: recommendations, searches, items, users",
    "ubi": "OpenSearch's User Behavior Insights: JSON lines of ubi_queries and ubi_events",
}
_READERS: dict[str, Callable[..., Any]] = {
    "interactions": interaction_files.read, "jdsearch": jdsearch.read, "kuaisar": kuaisar.read, "qilin": qilin.read,
    "simulated": simulated.read, "ubi": ubi.read,
}  # fmt: skip
_DATES, _SHARES = ("val_start", "test_start"), ("val_fraction", "test_fraction")


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
    columns: Mapping[str, str] | None = None,
    memory: str = "2GB",
    engine: str = "duckdb",
    master: str | None = None,
    progress: Progress = SILENT,
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
    memory
        What queries may use, such as ``4GB``; beyond it they go on on disk. Arrays of the corpus come on top.
    columns
        For ``tables`` with unusual names: ``{"user_id": "customer"}`` in every table that has it, ``"searches.query"`` in one.

    engine, master
        Where the plan's queries run: ``duckdb``, in this process, or ``spark`` at an address such as ``local[2]``. The corpus is
        the same.
    progress
        Where bars go.

    Raises
    ------
    SeerecError
        Anything wrong with files, columns, values or settings; nothing is written then.
    """
    target = Path(out)
    if target.exists() and not (target / "manifest.json").is_file() and (target.is_file() or any(target.iterdir())):
        raise SeerecError(f"{target} exists and is not a corpus.", "Choose another --out.")
    chosen, run = _settings(settings, {}), engine_named(engine, master)
    tables = {"recommendations": recommendations, "searches": searches, "items": items, "users": users}
    _refuse_foreign(source, {name: table for name, table in tables.items() if table is not None}, paths, options, columns)
    with _interruptible(), _database(target, memory) as connection:
        if source == "tables":
            events = contract.from_tables(connection, **tables, columns=columns, progress=progress)
        else:
            given = _options(source, options or {})
            if source == "simulated":
                given = {"users": 3000, "seed": 0, "announce": 0.7, "noise": 0.5} | given
            else:
                given["paths"] = [Path(path) for path in paths]
            events = _READERS[source](connection, **given, progress=progress)
        return write_corpus(events, target, _settings(chosen, events.suggested), run, progress)


@contextmanager
def _database(out: Path, memory: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that goes on in a folder beside ``out`` where it would need more than ``memory``."""
    with scratch_folder(out) as folder:
        try:
            connection = duckdb.connect(config={"temp_directory": str(folder), "memory_limit": memory})
        except duckdb.Error as error:
            raise SeerecError(f"{memory!r} is no amount of memory.", "Give, for example, --memory 4GB.") from error
        with connection:
            yield connection


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C during a query is a KeyboardInterrupt; DuckDB makes a RuntimeError of it."""
    try:
        yield
    except (duckdb.InterruptException, RuntimeError) as error:
        if isinstance(error, duckdb.InterruptException) or str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise


def _settings(given: DataSettings | Mapping[str, Any] | None, suggested: Mapping[str, Any]) -> DataSettings:
    """The settings given, with what the source suggests for the others; its dates go where the split is another or by shares."""
    if isinstance(given, DataSettings):
        given = given.model_dump(include=given.model_fields_set)
    values = _named_values("settings", given or {})
    if values.get("split", suggested.get("split")) != suggested.get("split") or not values.keys().isdisjoint(_SHARES):
        suggested = {name: value for name, value in suggested.items() if name not in _DATES}
    try:
        return DataSettings(**{**suggested, **values})
    except ValidationError as error:
        raise refusal(error, "See `seerec prepare --help` and `DataSettings`.", names(DataSettings)) from error


def _refuse_foreign(
    source: str, tables: Mapping[str, Any], paths: Sequence[str | Path], options: Mapping[str, Any] | None, columns: Any
) -> None:
    """Refuse what the source would not read."""
    if source not in SOURCES:
        raise SeerecError(f"There is no source {source!r}.", f"Choose one of: {', '.join(SOURCES)}.")
    if source != "tables" and tables:
        raise SeerecError(
            f"The source {source} reads no table {next(iter(tables))}=.", 'Leave it out, or choose source="tables".'
        )
    if source == "tables" and (paths or options):
        name = "paths=" if paths else "options="
        raise SeerecError(f"The source tables has no {name}.", "Give recommendations= (and searches=, items=, users=).")
    if source == "tables" and "recommendations" not in tables:
        raise SeerecError("There is no recommendations table.", "Give recommendations= (and searches=, items=, users=).")
    if source == "simulated" and paths:
        raise SeerecError("The source simulated reads no files.", "Leave out paths=.")
    if source != "tables" and columns is not None:
        raise SeerecError(f"The source {source} knows its columns, and has no columns=.", "Leave it out.")


def _named_values(what: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise SeerecError(
            f"The {what} are {given!r}, which are no names with values.", f'Give {what}={{"seed": 1}}, for example.'
        )
    return dict(given)


def _options(source: str, given: Any) -> dict[str, Any]:
    """The options of a source, each with the type that its function names."""
    options = _named_values("options", given)
    known = {
        name: parameter.annotation
        for name, parameter in inspect.signature(_READERS[source]).parameters.items()
        if name not in ("connection", "paths", "progress")
    }
    for name, value in options.items():
        if name not in known:
            raise SeerecError(f"The source {source} has no option {name!r}.", f"Choose among: {', '.join(known)}.")
        try:
            options[name] = TypeAdapter(known[name]).validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"].lower()
            raise SeerecError(
                f"The option {name} = {value!r} is not valid: {message}.", "See `seerec prepare --help`."
            ) from error
    return options
