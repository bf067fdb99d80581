"""Parquet files in the format of Qilin (Chen et al. 2025), with its published counts.

As in the toy data that the authors publish beside their programs, and other than one might think:

* ``search_timestamp`` is a float in seconds and grows down the page; ``request_timestamp`` is a whole number in
  milliseconds and differs by a few between the notes of a request; now and then the same notes stand in the list a
  second time, hours later;
* the notes of a request do not always stand in the order of their ``position``;
* ``page_time`` of what was not clicked is NaN in searches, and 0 or -1 in recommendations;
* a taxonomy that is not known is the text ``nan``.

Searches and recommendations share users and sessions; a request within half a day after a search often follows its
topic. Ranked lists (``dpr_results``, ``bm25_results``) have 10 entries.
"""

from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seerec.data.draws import below, uniform
from seerec.data.simulation.coverage import Bools, Floats, Ints, shuffled
from seerec.data.simulation.qilin_world import Counts, Requests, World
from seerec.data.simulation.words import choices, joined
from seerec.progress import Progress

FILES = ("search_train", "search_test", "recommendation_train", "recommendation_test", "notes", "user_feat")
SCALES = {"published": Counts()}
SHARES = (0.0005, 1)
"""The smallest and the largest share of the published data set."""
_RANKED = 10
_NOTE_PARTS = 5
_WAITS, _READS, _DEEDS, _ORDER, _FROM, _USER = range(50, 56)  # streams
_CHUNK = 1 << 12
_GENDERS = choices(("female", "male", "unknown"), (7, 2, 1))
_PLATFORMS = choices(("iOS", "Android"), (6, 4))
_AGES = choices(("1-15", "16-18", "19-22", "23-25", "26-30", "31-35", "36-40", "40+", "unknown"), (1, 2, 4, 4, 5, 4, 2, 2, 1))
_PLACES = choices(
    ("", "中国  上海", "中国  北京", "中国  广东  广州", "中国  四川  成都", "中国  浙江  杭州"), (8, 3, 3, 2, 2, 2)
)

_Table = dict[str, pa.Array]
_Make = Callable[[World, Requests, Ints, bool], _Table]


def counts(scale: str | float) -> Counts:
    """The published counts, or a share of them."""
    if isinstance(scale, str):
        return SCALES[scale]
    return Counts(**{name: max(1, round(count * scale)) for name, count in vars(SCALES["published"]).items()})


def write(folder: Path, scale: str | float, seed: int, progress: Progress) -> dict[str, int]:
    """All files of the data set; returns the counts."""
    size = counts(scale)
    world = World(size, seed)
    parts = min(_NOTE_PARTS, size.notes)
    bounds = [size.notes * part // parts for part in range(parts + 1)]
    notes = [world.notes.tables(first, last) for first, last in pairwise(bounds)]
    _save(folder / "notes", size.notes, notes, progress)
    for name, requests, make in (
        ("search", world.searches, _search_table),
        ("recommendation", world.recommendations, _recommendation_table),
    ):
        for part, test in (("train", False), ("test", True)):
            chosen = np.flatnonzero(requests.test == test)
            _save(folder / f"{name}_{part}", len(chosen), [_tables(world, requests, chosen, make, test)], progress)
    _save(folder / "user_feat", size.users, [iter([_user_table(seed, size.users)])], progress)
    return dict(vars(size))


def _save(folder: Path, rows: int, parts: list[Iterator[pa.Table]], progress: Progress) -> None:
    folder.mkdir()
    with progress.task(folder.name, rows, "rows") as bar:
        for part, tables in enumerate(parts):
            first = next(tables)
            with pq.ParquetWriter(folder / f"train-{part:05}-of-{len(parts):05}.parquet", first.schema) as writer:
                for table in chain([first], tables):
                    writer.write_table(table)
                    bar.advance(len(table))


def _tables(world: World, requests: Requests, chosen: Ints, make: _Make, test: bool) -> Iterator[pa.Table]:
    for first in range(0, len(chosen), _CHUNK):
        yield pa.table(make(world, requests, chosen[first : first + _CHUNK], test))


def _search_table(world: World, requests: Requests, request: Ints, test: bool) -> _Table:
    seed = world.seed
    row, owner, place = requests.rows(request)
    size = np.diff(requests.start)[request]
    note, clicked = world.shown(requests, request)
    wait = np.where((place > 0) & (uniform(seed, _WAITS, 0, row) < 0.3), 20 * uniform(seed, _WAITS, 1, row) ** 2, 0)
    waited = np.cumsum(wait.astype(np.int64))
    time = requests.time[request][owner] // 1000 + waited - waited[np.cumsum(size) - size][owner]
    read = np.where(clicked, _read(seed, requests, row), np.nan)
    details = _details(world, requests, request, note, clicked, read, place + 1, {"search_timestamp": time}, np.float64)
    table = {
        "query": world.query_text.take(pa.array(world.query[request])),
        "query_from_type": pa.array(1.0 + below(8, seed, _FROM, request)),
        "recent_clicked_note_idxs": _recent(world, requests, request),
        "search_result_details_with_idx": details,
        **_keys(world, requests, request, "search_idx"),
    }
    if test:
        table["bm25_results"] = _ranked(world, requests, request, 1)
    table["dpr_results"] = _ranked(world, requests, request, 2)
    if test:
        table["search_results"] = _lists(pa.array(note), size)
    return table


def _recommendation_table(world: World, requests: Requests, request: Ints, test: bool) -> _Table:
    seed = world.seed
    row, owner, place = requests.rows(request)
    size = np.diff(requests.start)[request]
    note, clicked = world.shown(requests, request)
    turned = np.where(uniform(seed, _ORDER, 0, request) < 0.3, below(size, seed, _ORDER, 1, request), 0)
    position = 1 + (place + turned[owner]) % size[owner]
    hours = 3_600_000 * (1 + below(9, seed, _WAITS, 2, request))
    time = requests.time[request][owner] + position // 2 + world.again(requests, request) * hours[owner]
    read = np.where(clicked, _read(seed, requests, row), np.where(uniform(seed, _READS, 9, row) < 0.02, -1.0, 0.0))
    table = {
        "recent_clicked_note_idxs": _recent(world, requests, request),
        "rec_result_details_with_idx": _details(
            world, requests, request, note, clicked, read, position, {"request_timestamp": time}, np.int64
        ),
        **_keys(world, requests, request, "request_idx"),
    }
    if test:
        table["rec_results"] = _lists(pa.array(note), size)
    recent, notes = world.recent(requests, request)
    return table | {"query": joined(world.notes.titles(notes), recent, " ")}


def _read(seed: int, requests: Requests, row: Ints) -> Floats:
    """Seconds on the page of a note."""
    return np.round(0.5 + 120 * uniform(seed, _READS, requests.stream, row) ** 4, 3)


def _keys(world: World, requests: Requests, request: Ints, name: str) -> _Table:
    user = shuffled(requests.user[request], world.size.users)
    return {name: pa.array(request), "session_idx": pa.array(requests.session[request]), "user_idx": pa.array(user)}


def _details(
    world: World, requests: Requests, request: Ints, note: Ints, clicked: Bools, read: Floats, position: Ints,
    time: dict[str, Ints], kind: type[np.generic],
) -> pa.Array:  # fmt: skip
    """The lists of structs; ``kind``: searches print all numbers as floats."""
    row, _, _ = requests.rows(request)
    luck = uniform(world.seed, _DEEDS, requests.stream, row)
    fields: dict[str, NDArray[np.generic]] = {
        "click": clicked.astype(kind),
        "collect": (clicked & (luck < 0.05)).astype(kind),
        "comment": (clicked & (luck > 0.98)).astype(kind),
        "like": (clicked & (luck < 0.08)).astype(kind),
        "note_idx": note,
        "page_time": read,
        "position": position.astype(kind),
        **{name: values.astype(kind) for name, values in time.items()},
        "share": (clicked & (luck > 0.5) & (luck < 0.51)).astype(kind),
    }
    structs = pa.StructArray.from_arrays([pa.array(values) for values in fields.values()], names=list(fields))
    return _lists(structs, np.diff(requests.start)[request])


def _lists(values: pa.Array, size: Ints) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(size)).astype(np.int32)), values)


def _recent(world: World, requests: Requests, request: Ints) -> pa.Array:
    size, note = world.recent(requests, request)
    return _lists(pa.array(note), size)


def _ranked(world: World, requests: Requests, request: Ints, ranking: int) -> pa.Array:
    """Lists of pairs (note, score), both floats."""
    note = world.ranked(requests, request, _RANKED, ranking)
    score = np.tile(20.0 - np.arange(_RANKED), len(request))
    pairs = _lists(pa.array(np.stack([note, score], 1).ravel()), np.full(len(note), 2))
    return _lists(pairs, np.full(len(request), _RANKED))


def _user_table(seed: int, users: int) -> pa.Table:
    user = np.arange(users)
    place = _PLACES(uniform(seed, _USER, 3, user))
    columns = {
        "gender": _GENDERS(uniform(seed, _USER, 0, user)),
        "platform": _PLATFORMS(uniform(seed, _USER, 1, user)),
        "age": _AGES(uniform(seed, _USER, 2, user)),
    }
    for column, name in enumerate(["fans_num", "follows_num", *(f"dense_feat{number}" for number in range(1, 41))]):
        most = 10.0 ** (1 + column % 5)
        columns[name] = pa.array(np.floor(most * uniform(seed, _USER, 4 + column, user) ** 3))
    return pa.table(columns | {"location": place, "user_idx": pa.array(user)})
