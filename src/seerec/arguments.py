"""Command-line text to values: settings, run names, histories, the options of a source."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seerec.errors import SeerecError

if TYPE_CHECKING:
    from seerec.recipes import Recipe

_SOURCE_OPTIONS = {
    "interactions": {"items", "user_column", "item_column", "time_column", "p_search", "noise", "seed"},
    "jdsearch": {"types"},
    "kuaisar": set(),
    "qilin": {"notes"},
    "simulated": {"users", "announce", "noise", "seed"},
    "tables": {"searches_file", "items", "users_file", "map"},
    "ubi": {"user", "clicks", "shown", "items"},
}
"""What each source reads; the seed is also that of the candidates, and goes with all of them."""
_LISTS = ("types", "clicks", "shown")
"""Options of names with commas between."""


def settings(pairs: Sequence[str], **flags: Any) -> dict[str, Any]:
    """``name=value`` pairs and the ``flags`` that are given as one dictionary; a value is JSON where it parses, else text.

    Raises
    ------
    typer.BadParameter
        A pair has no ``=``, or something is set twice: by two pairs, by a flag and a pair, or with something below it.
    """
    chosen: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not all(name.split(".")):
            raise typer.BadParameter(f"{pair!r} is not of the form name=value.", param_hint="--set")
        if name in chosen:
            raise typer.BadParameter(f"{name} is set twice.", param_hint="--set")
        try:
            chosen[name] = json.loads(value)
        except ValueError:
            chosen[name] = value
    for name, value in given(**flags).items():
        if name in chosen:
            raise typer.BadParameter(f"--{name.replace('_', '-')} and --set {name} are both given.", param_hint="--set")
        chosen[name] = value
    for name in chosen:
        inside = [other for other in chosen if other.startswith(f"{name}.")]
        if inside:
            raise typer.BadParameter(f"Both {name} and {inside[0]} are set.", param_hint="--set")
    return chosen


def recipe(file: Path | None, source: str | None = None) -> "Recipe":
    """The recipe in a file, or one that says nothing; ``source``: the format it must be for.

    Raises
    ------
    typer.BadParameter
        It is for another source.
    SeerecError
        As `read_recipe`.
    """
    from seerec.recipes import Recipe, read_recipe

    if file is None:
        return Recipe(title="", source="")
    found = read_recipe(file)
    if source not in (None, found.source):
        raise typer.BadParameter(f"{file} is a recipe for the source {found.source}.", param_hint="--recipe")
    return found


def given(**flags: Any) -> dict[str, Any]:
    """The flags that were given."""
    return {name: value for name, value in flags.items() if value is not None}


def source_options(source: str, paths: Sequence[Path], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``seerec.prepare`` for a source.

    Raises
    ------
    typer.BadParameter
        A flag of another source, or a wrong number of paths.
    """
    chosen = given(**flags)
    foreign = sorted(set(chosen) - _SOURCE_OPTIONS[source] - {"seed"})
    if foreign:
        flag = "--" + foreign[0].replace("_", "-")
        raise typer.BadParameter(f"The source {source} has no such option.", param_hint=flag)
    if source == "simulated" and paths:
        raise typer.BadParameter("The source simulated reads no files.", param_hint="PATH")
    if source not in ("simulated", "tables") and not paths:
        raise typer.BadParameter(f"Name the files of the source {source}, or their folder.", param_hint="PATH")
    if source == "tables":
        if len(paths) != 1:
            raise typer.BadParameter("Name one file, the recommendations table.", param_hint="PATH")
        files = {"searches": "searches_file", "items": "items", "users": "users_file"}
        tables = {table: chosen.get(flag) for table, flag in files.items()}
        return {"recommendations": paths[0], **tables, "columns": _columns(chosen["map"]) if "map" in chosen else None}
    options = {name: value for name, value in chosen.items() if name in _SOURCE_OPTIONS[source]}
    return {"paths": paths, "options": options | {name: options[name].split(",") for name in _LISTS if name in options}}


def _columns(pairs: Sequence[str]) -> dict[str, str]:
    """``COLUMN=NAME`` and ``TABLE.COLUMN=NAME`` as ``columns=`` of ``seerec.prepare``; NAME may hold any character."""
    columns: dict[str, str] = {}
    for pair in pairs:
        column, _, name = pair.partition("=")
        if not column.strip() or not name.strip():
            raise typer.BadParameter(f"{pair!r} is not of the form COLUMN=NAME.", param_hint="--map")
        if column in columns:
            raise typer.BadParameter(f"{column} is mapped twice.", param_hint="--map")
        columns[column] = name
    return columns


def run_and_stage(text: str) -> tuple[str, int | None]:
    """``RUN`` or ``RUN:1`` as the folder and the stage asked for; an existing folder of that very name comes first."""
    folder, colon, stage = text.rpartition(":")
    if colon and folder and stage in ("1", "2") and not Path(text).exists():
        return folder, int(stage)
    return text, None


def names_corpus(paths: Sequence[str], asked: Mapping[str, Any], full: bool, split: str) -> bool:
    """Whether ``compare`` was given one corpus, and not runs.

    Raises
    ------
    typer.BadParameter
        A corpus beside something else, or options of the other form.
    """
    corpora = [path for path in paths if _is_corpus(Path(path))]
    if corpora and len(paths) > 1:
        raise typer.BadParameter(f"{corpora[0]} is a corpus. Name one corpus, or runs.", param_hint="PATH")
    if corpora and (full or split != "test"):
        raise typer.BadParameter("Models are compared on the sampled candidates of the test split.", param_hint="--full, --split")
    if asked and not corpora:
        flag = "--" + next(iter(asked)).replace("_", "-")
        raise typer.BadParameter(f"It goes with a corpus, and {paths[0]} is none.", param_hint=flag)
    return bool(corpora)


def _is_corpus(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == "seerec-corpus"


def histories(file: str) -> list[dict[str, Any]]:
    """The histories in a JSON file, or on standard input where ``file`` is ``-``: one object or a list of them.

    Raises
    ------
    SeerecError
        The file is missing, not JSON, or holds something else.
    """
    fix = 'Give one object such as {"recommendations": ["42"], "searches": [{"query": "warm boots", "clicked": ["44"]}]}.'
    name = "standard input" if file == "-" else file
    try:
        content = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SeerecError(f"Cannot read {name}: {error.strerror}.", "Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise SeerecError(f"{name} is not JSON in UTF-8 ({error}).", fix) from error
    found = content if isinstance(content, list) else [content]
    if not found or not all(isinstance(history, dict) for history in found):
        raise SeerecError(f"{name} holds no history.", fix)
    return found


def one_history(file: str) -> dict[str, Any]:
    """As ``histories``, for a file that must hold exactly one."""
    found = histories(file)
    if len(found) > 1:
        raise SeerecError(f"{file} holds {len(found)} histories.", "Explain one at a time.")
    return found[0]


def exactly_one(**flags: Any) -> None:
    """Refuse any number but one of alternative flags, named as keywords. Raises typer.BadParameter."""
    if sum(bool(value) for value in flags.values()) != 1:
        names = ", ".join("--" + name.replace("_", "-") for name in flags)
        raise typer.BadParameter(f"Give exactly one of {names}.")
