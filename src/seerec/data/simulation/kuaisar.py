"""CSV files in the format of KuaiSAR (Sun et al. 2023), with its published counts.

Recommendations are handed out several at a time, all with one time; a search shows several rows that share user,
session id, time and keyword. The first `Counts.shared` items are both recommended and found by searches; they are the
frequent ones. A hand-out within half a day after a search often follows the search's topic.

``search_source`` has only ``USER_INPUT`` in public; the other names are ours.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seerec.data.draws import below, uniform
from seerec.data.simulation.coverage import NONE, Bools, Ints, OwnRows, Tail, shuffled, without_repeats
from seerec.data.simulation.kuaisar_items import TYPES
from seerec.data.simulation.kuaisar_world import Counts, World
from seerec.data.simulation.lines import Lines
from seerec.data.simulation.people import HOUR
from seerec.data.simulation.words import choices, numbers
from seerec.progress import Bar, Progress

FILES = ("rec_inter.csv", "src_inter.csv", "social_network.csv", "user_features.csv", "item_features.csv")
SCALES = {
    "small": Counts(7_493_101, 3_171_231, 267_608, 4_195_529, 2_281_034, 2_012_476, 25_877, 9 * 24 * HOUR),
    "large": Counts(14_605_716, 5_059_169, 453_667, 6_890_707, 4_046_367, 3_026_189, 25_877, 450 * HOUR + 2 * HOUR // 3),
}
SHARES = (0.0001, 10)
"""The smallest and the largest multiple of the small data set: 1,100 to 107 million rows."""
_BEIJING = 8 * HOUR  # ahead of UTC
_REC_COLUMNS = (
    "user_id", "item_id", "playing_time", "duration_ms", "time", "timestamp",
    "click", "forward", "like", "follow", "search", "search_item_related",
)  # fmt: skip
_SRC_COLUMNS = (
    "user_id", "search_session_id", "search_session_time", "search_session_timestamp", "keyword", "search_source",
    "item_id", "click_cnt", "item_type",
)  # fmt: skip
_USER_COLUMNS = ("user_id", "search_active_level", "rec_active_level", "onehot_feat1", "onehot_feat2")
_SOURCES = choices(("USER_INPUT", "RECOMMENDED_QUERY", "SEARCH_HISTORY", "RELATED_QUERY"), (6, 2, 1, 1))
_RECOMMENDED, _FOUND, _CLICKS, _SOURCE, _USER, _FRIEND = range(50, 56)  # streams
_CHUNK = 1 << 16


def counts(scale: str | float) -> Counts:
    """The published counts, or a share of those of the small data set, with its days."""
    if isinstance(scale, str):
        return SCALES[scale]
    small = SCALES["small"]
    some = {name: round(count * scale) for name, count in vars(small).items()}
    return Counts(**some | {"users": max(8, some["users"]), "words": max(400, some["words"]), "span": small.span})


def write(folder: Path, scale: str | float, seed: int, progress: Progress) -> dict[str, int]:
    """All files of the data set; returns the counts."""
    size = counts(scale)
    world = World(size, seed, progress)
    for name, rows, make in (
        ("rec_inter.csv", size.recommendation_rows, _write_recommendations),
        ("src_inter.csv", size.search_rows, _write_searches),
        ("item_features.csv", size.items, _write_items),
    ):
        with progress.task(name, rows, "rows") as bar:
            make(world, folder / name, bar)
    friends = _write_users(world, folder)
    return {
        "recommendation_rows": size.recommendation_rows,
        "search_rows": size.search_rows,
        "hand_outs": size.hand_outs,
        "search_sessions": size.sessions,
        "users": size.users,
        "queries": size.queries,
        "items": size.items,
        "recommended_items": size.recommended,
        "searched_items": size.searched,
        "friendships": friends,
    }


def _write_items(world: World, path: Path, bar: Bar) -> None:
    world.items.write(path, world.topics, world.words, bar)


def _chunks(start: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Rows and the number of their group, for chunks of whole groups."""
    step = max(1, _CHUNK * (len(start) - 1) // int(start[-1]))
    for first in range(0, len(start) - 1, step):
        group = np.arange(first, min(first + step, len(start) - 1))
        yield np.arange(start[group[0]], start[group[-1] + 1]), np.repeat(group, np.diff(start[first : group[-1] + 2]))


def _items_of(rows: tuple[Ints, Ints], topic: Ints, own: OwnRows, tail: Tail, stream: int) -> Ints:
    """Items (numbered as in ``own``) of rows and their groups: an item's own row, else one of the wanted topic."""
    row, group = rows
    mine = own.at(row)
    thing = np.where(mine == NONE, tail.draw(topic, uniform(own.seed, stream, 0, row)), mine)
    return without_repeats(group, thing, mine != NONE, lambda at, attempt: below(own.things, own.seed, stream, attempt, row[at]))


def _write_recommendations(world: World, path: Path, bar: Bar) -> None:
    seed, size = world.seed, world.size
    flags = pa.array([",".join(f"{code:06b}") for code in range(64)])
    with Lines(path, _REC_COLUMNS) as file:
        for row, hand_out in _chunks(world.rec_start):
            wanted = world.recommendation_topic(row, hand_out)
            item = _items_of((row, hand_out), wanted, world.rec_own, world.rec_tail, _RECOMMENDED)
            user, topic = world.rec_user[hand_out], world.items.topic[item].astype(np.int64)
            chance = np.where(world.people.likes(user, topic), 0.52, 0.25)
            chance[topic == world.followed[hand_out]] = 0.7
            clicked = uniform(seed, _CLICKS, 0, row) < chance
            luck = uniform(seed, _CLICKS, 1, row)  # its parts decide on rare deeds, one at most of each row
            sought = (world.sought[hand_out] != NONE) & (row == world.rec_start[hand_out])
            deeds = [clicked, clicked & (luck < 0.01), clicked & (luck > 0.95), clicked & (luck > 0.02) & (luck < 0.03), sought,
                     sought & (topic == world.sought[hand_out])]  # fmt: skip
            duration = world.items.duration(item)
            seen = uniform(seed, _CLICKS, 2, row)
            played = (duration * np.where(clicked, 1.4 * np.sqrt(seen), 0.2 * seen**3)).astype(np.int64)
            time = world.rec_time[hand_out]
            file.write(
                shuffled(user, size.users), world.items.id(item), _float(played), _float(duration), _beijing(time), _float(time),
                flags.take(pa.array(sum(deed.astype(np.int64) << bit for bit, deed in enumerate(reversed(deeds))))),
            )  # fmt: skip
            bar.advance(len(row))


def _write_searches(world: World, path: Path, bar: Bar) -> None:
    seed, size = world.seed, world.size
    types = pa.array(TYPES)
    session_id = _session_ids(world.src_user)
    with Lines(path, _SRC_COLUMNS) as file:
        for row, session in _chunks(world.src_start):
            wanted = world.search_topic(row, session)
            item = world.item_found(_items_of((row, session), wanted, world.src_own, world.src_tail, _FOUND))
            clicked = _clicks(world, row, session, wanted)
            time = world.src_time[session]
            file.write(
                shuffled(world.src_user[session], size.users), session_id[session], _beijing(time), time,
                world.keyword.take(pa.array(world.query[session])), _SOURCES(uniform(seed, _SOURCE, session)),
                world.items.id(item), np.where(clicked & (uniform(seed, _CLICKS, 4, row) < 0.04), 2, clicked.astype(np.int64)),
                types.take(pa.array(world.items.type(item))),
            )  # fmt: skip
            bar.advance(len(row))


def _clicks(world: World, row: Ints, session: Ints, wanted: Ints) -> Bools:
    """The picked row of a session that has clicks, and few others there, mostly of the query's topic."""
    chance = np.where(wanted == world.src_topic[session], 0.12, 0.02)
    more = uniform(world.seed, _CLICKS, 3, row) < chance
    return (world.picked[session] != NONE) & (more | (row == world.picked[session]))


def _session_ids(user: Ints) -> Ints:
    """From 1; one in twenty is another user's as well, because only the pair of user and session is a key."""
    session = np.arange(len(user))
    other = session - round(0.95 * len(user))
    return 1 + np.where((other >= 0) & (user[other] != user), other, session)


def _beijing(time: Ints) -> pa.Array:
    """Beijing time as text, to the second."""
    return pa.array((time + _BEIJING) // 1000).cast(pa.timestamp("s")).cast(pa.string())


def _float(number: Ints) -> pa.Array:
    """Whole numbers as a column of floats is printed."""
    return pc.binary_join_element_wise(numbers(number), ".0", "")


def _write_users(world: World, folder: Path) -> int:
    """``user_features.csv`` and ``social_network.csv``; returns the rows of the latter."""
    seed, users = world.seed, world.size.users
    user = np.arange(users)
    with Lines(folder / "user_features.csv", _USER_COLUMNS) as file:
        levels = (_level(np.bincount(who, minlength=users)) for who in (world.src_user, world.rec_user))
        file.write(shuffled(user, users), *levels, below(3, seed, _USER, 0, user), below(8, seed, _USER, 1, user))
    follower = user[: max(2, users // 40)]
    followed = (follower + 1 + below(users - 1, seed, _FRIEND, follower)) % users
    with Lines(folder / "social_network.csv", ("user_id", "user_follow_id")) as file:
        file.write(shuffled(follower, users), shuffled(followed, users))
    return len(follower)


def _level(count: Ints) -> Ints:
    """Activity from 0 to 5, by rank."""
    return np.argsort(np.argsort(count, kind="stable"), kind="stable") * 6 // len(count)
