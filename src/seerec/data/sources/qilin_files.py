"""The Parquet files of Qilin: which configuration each belongs to, and whether all of it is there.

A file belongs to the configuration that it is named after (``notes.parquet``), or to the nearest of its folders that is
(``notes/train-00000-of-00005.parquet``, also deeper). Only headers are read here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from seerec.data.sql import quoted
from seerec.errors import SeerecError

CONFIGURATIONS = ("recommendation_train", "recommendation_test", "search_train", "search_test", "notes", "user_feat")
"""In this order; of the rows of a table those of the first configuration come first."""
TAXONOMIES = tuple(f"taxonomy{level}" for level in (1, 2, 3))
_COLUMNS = {
    "recommendation": {"user": "user_idx", "request": "request_idx", "details": "rec_result_details_with_idx"},
    "search": {
        "user": "user_idx", "request": "search_idx", "query": "query", "details": "search_result_details_with_idx",
    },
    "notes": {
        "note": "note_idx", "title": "note_title", "content": "note_content", "note_type": "note_type",
        **{name: f"{name}_id" for name in TAXONOMIES},
    },
    "user_feat": {"user": "user_idx"} | {name: name for name in ("gender", "platform", "age", "location")},
}  # fmt: skip
"""Role to column, by kind of configuration."""
_TIMES = {
    "recommendation": ("request_timestamp", "timestamp", "search_timestamp"),
    "search": ("search_timestamp", "timestamp", "request_timestamp"),
}
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")
_FIX = "Give the folder or the archive that holds the published configurations, each a folder of Parquet files."


@dataclass(frozen=True)
class Part:
    """One Parquet file of a configuration."""

    configuration: str
    path: Path
    before: int
    """Rows of the configuration in the files before this one."""
    columns: dict[str, str]
    """Role to SQL. Of events ``top_time`` is a column of the file, and ``note``, ``click``, ``position`` and ``time`` are
    fields of ``shown``, one entry of ``details``; what is not there is NULL."""


def parts_in(files: Sequence[Path], paths: Sequence[Path]) -> dict[str, list[Part]]:
    """The ``files`` of each configuration, in the order of their names; ``paths``: what was given, where they were found.

    Raises
    ------
    SeerecError
        Configurations, files or columns are missing, a configuration lies in several folders, or a file is unreadable.
    """
    found: dict[str, list[Path]] = {name: [] for name in CONFIGURATIONS}
    folders = [path for path in paths if path.is_dir()]
    for file in sorted(files):
        configuration = _configuration(file, folders)
        if configuration:
            found[configuration].append(file)
    problems = []
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        seen = ", ".join(file.name for file in files[:8]) or "no Parquet files"
        place = ", ".join(str(path) for path in paths)
        problems.append(f"{place} lacks {', '.join(missing)} (found: {_listed(found) or seen})")
    parts: dict[str, list[Part]] = {}
    for name, paths in found.items():
        problems += _incomplete(name, paths)
        parts[name], lacking = _parts(name, paths)
        problems += lacking
    if problems:
        raise SeerecError(f"{'; '.join(problems)}.", _FIX)
    return parts


def _configuration(file: Path, given: list[Path]) -> str | None:
    file = next((file.relative_to(folder.parent) for folder in given if file.is_relative_to(folder)), file)
    names = [file.stem.lower(), *(folder.name.lower() for folder in file.parents)]
    return next((name for name in names if name in CONFIGURATIONS), None)


def _listed(found: dict[str, list[Path]]) -> str:
    return ", ".join(name for name, paths in found.items() if paths)


def _incomplete(configuration: str, paths: list[Path]) -> list[str]:
    """Files that the names of the others promise, and files of two copies of a configuration."""
    folders = sorted({str(path.parent) for path in paths})
    if len(folders) > 1:
        return [f"{configuration} lies in several folders: {', '.join(folders[:3])}"]
    shards = [match for match in (_SHARD.search(path.name) for path in paths) if match]
    total = max((int(match[2]) for match in shards), default=0)
    missing = sorted(set(range(total)) - {int(match[1]) for match in shards})
    return [f"{configuration} lacks {len(missing)} of its {total} files, first number {missing[0]}"] if missing else []


def _parts(configuration: str, paths: list[Path]) -> tuple[list[Part], list[str]]:
    parts, problems, before = [], [], 0
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise SeerecError(f"{path} cannot be read ({reason}).", "Check that the whole file was copied.") from error
        columns, missing = _columns(configuration, schema)
        if missing:
            problems.append(f"{path} has no {' and no '.join(missing)}")
        parts.append(Part(configuration, path, before, columns))
        before += rows
    return parts, problems


def _columns(configuration: str, schema: pa.Schema) -> tuple[dict[str, str], list[str]]:
    """SQL of each role, and what is missing."""
    kind = configuration.removesuffix("_train").removesuffix("_test")
    names = {name.lower(): name for name in schema.names}
    columns = {role: quoted(names[name]) for role, name in _COLUMNS[kind].items() if name in names}
    lacking = [name for role, name in _COLUMNS[kind].items() if role not in columns]
    missing = [f"column {', '.join(lacking)} (found: {', '.join(schema.names[:12])})"] if lacking else []
    if "details" not in columns:
        return columns, missing
    details = schema.field(names[_COLUMNS[kind]["details"]])
    entry = getattr(details.type, "value_type", None)
    if entry is None or not pa.types.is_struct(entry):
        return columns, [*missing, f"lists of structs in {details.name}, but {details.type}"]
    fields = {field.name.lower(): f"shown.{quoted(field.name)}" for field in entry}
    time = next((fields[name] for name in _TIMES[kind] if name in fields), "NULL")
    top_time = next((quoted(names[name]) for name in _TIMES[kind] if name in names), "NULL")
    lacking = [name for name in ("note_idx", "click") if name not in fields]
    if time == top_time == "NULL":
        lacking.append(" or ".join(_TIMES[kind]))
    if lacking:
        missing.append(f"{', '.join(lacking)} in {details.name} (found: {', '.join(field.name for field in entry)})")
    role_of = {"note": "note_idx", "click": "click", "position": "position"}
    columns |= {role: fields.get(name, "NULL") for role, name in role_of.items()}
    return columns | {"time": time, "top_time": top_time}, missing
