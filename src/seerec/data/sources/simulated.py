"""A simulated marketplace whose truth is known: searches announce what the recommendation history does not yet show.

The story. A user has a home department, some a second one. Life is a sequence of phases, each with one active intent
("noise cancelling headphones"), drawn from the user's departments and never the intent just left: past clicks tell
the department, not the next intent. A phase is read on pages of recommendations, two clicks a page (one
``request_id``), with a stray click elsewhere now and then. An announced phase is searched for before the last page of
the phase it follows, so that its search is not merely the latest event; other searches follow a page of the running
phase. The words of a search are in the titles of all 25 items of its intent, and its click is an item the user never
clicks in a recommendation. The log stops at a random moment.

Noise falls at moments drawn uniformly: one half copies another user's search of a department this user does not
visit, the other half is off-topic.

Everything is drawn in arrays. A *unit* is one page or one stray click; a *moment* is the time between two units, named
by the unit it precedes. Axis letters: U users, P phases of a life.
"""

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seerec.data.events import Events, check
from seerec.data.sources.marketplace_words import INTENTS, OFF_TOPIC, QUERIES_PER_INTENT, item_table, names, query_texts
from seerec.errors import SeerecError
from seerec.progress import SILENT, Progress

ITEMS_PER_INTENT = 25
INTENTS_PER_DEPARTMENT = 6
MIN_CLICKS, MAX_CLICKS = 12, 25
"""Recommendation clicks of a user; the greater must not exceed ITEMS_PER_INTENT, so that no item need come twice."""

_PHASES = MAX_CLICKS // 2 + 2  # two clicks at least in each: one phase more than any log can reach
_PHASE_LENGTHS, _PHASE_LENGTH_SHARES = (2, 3, 4, 5), (0.3, 0.3, 0.2, 0.2)
_SECOND_DEPARTMENT, _SECOND_DEPARTMENT_VISIT = 0.6, 0.25
_STRAY = 0.18  # chance of a stray click after a page; one click in ten
_SECOND_SEARCH = 0.3  # chance that an announced phase is searched for twice
_SEARCH_IN_PHASE = 0.3
_SEARCH_CLICK, _OFF_TOPIC_CLICK = 0.8, 0.4
_NONE = -1  # no item

_AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
_REGIONS = ("north", "east", "south", "west")
_START = 1_767_225_600_000  # 2026-01-01, ms UTC
_MINUTE, _DAY = 60_000, 86_400_000

_DEPARTMENTS = tuple(INTENTS)
_INTENT_COUNT = len(_DEPARTMENTS) * INTENTS_PER_DEPARTMENT
_ON_TOPIC_ITEMS = _INTENT_COUNT * ITEMS_PER_INTENT

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class _Searches:
    """Searches in no particular order; arrays of equal length. ``item`` is -1 where nothing was clicked."""

    user: Ints
    moment: Ints
    query: Ints
    item: Ints
    relevant: Ints


@dataclass(frozen=True)
class _Lives:
    """The recommendation side: units, those past the end of a log included, and the clicks inside the logs."""

    departments: Ints  # U 2, twice the same for users of one department
    unit_user: Ints
    unit_kept: Bools
    click_unit: Ints
    click_intent: Ints
    click_announced: Bools
    search_moment: Ints  # genuine searches
    search_intent: Ints


def simulate(*, users: int = 3000, seed: int = 0, announce: float = 0.7, noise: float = 0.5) -> dict[str, pa.Table]:
    """Event tables of a marketplace with planted intents.

    Parameters
    ----------
    users
        How many users; each has 12 to 25 recommendation clicks.
    seed
        Same seed, same tables.
    announce
        Share of the phases that a search announces.
    noise
        Share of all searches that are noise; the rest of the log does not depend on it.

    Returns
    -------
    ``recommendations`` (user_id, item_id, timestamp in ms UTC, clicked, request_id, announced: 1 on the clicks of the
    first page of an announced phase), ``searches`` (user_id, search_id, timestamp, query, item_id or null, relevant: 1
    the user's own, 0 copied from another user, 2 off-topic), ``items`` (item_id, title, brand, category) and ``users``
    (user_id, age_band, region). Events are sorted by user and time. ``announced`` and ``relevant`` are for evaluation.

    Raises
    ------
    SeerecError
        A parameter is out of its range.
    """
    for name, value, good, rule in (
        ("users", users, users >= 1, "at least 1"),
        ("seed", seed, seed >= 0, "0 or more"),
        ("announce", announce, 0 <= announce <= 1, "from 0 to 1"),
        ("noise", noise, 0 <= noise < 1, "from 0 to below 1"),
    ):
        if not good:
            raise SeerecError(f"{name} = {value} is out of range.", f"Give a value {rule}.")
    catalogue_rng, life_rng, item_rng, noise_rng, time_rng = (
        np.random.Generator(np.random.Philox([seed, stage])) for stage in range(5)
    )
    items = item_table(ITEMS_PER_INTENT, catalogue_rng)
    lives = _lives(users, announce, life_rng)
    click_item, own = _choose_items(lives, item_rng)
    added = _noise(lives, click_item, own, noise, noise_rng)
    return _tables(lives, click_item, own, added, items, users, time_rng)


def read(
    connection: duckdb.DuckDBPyConnection, *, users: int, seed: int, announce: float, noise: float, progress: Progress = SILENT
) -> Events:
    """The simulated marketplace as checked event tables in ``connection``.

    Raises
    ------
    SeerecError
        A parameter is out of its range.
    """
    for name, table in simulate(users=users, seed=seed, announce=announce, noise=noise).items():
        lines = pa.array(np.arange(1, len(table) + 1))
        connection.register("given", table.add_column(0, "line", lines))
        connection.execute(f"CREATE TABLE raw_{name} AS SELECT * FROM given")
        connection.unregister("given")
    options = {"users": users, "seed": seed, "announce": announce, "noise": noise}
    return check(connection, {"name": "simulated", "simulated": True, "files": [], "options": options}, progress=progress)


def _ordinal(counts: Ints) -> Ints:
    """0, 1, ... inside each of consecutive groups of the given sizes."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _intents(users: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Departments (U 2) and the intent of each phase (U P)."""
    home = rng.integers(len(_DEPARTMENTS), size=users)
    second = (home + rng.integers(1, len(_DEPARTMENTS), size=users)) % len(_DEPARTMENTS)
    second = np.where(rng.random(users) < _SECOND_DEPARTMENT, second, home)
    intents = np.empty((users, _PHASES), np.int64)
    for phase in range(_PHASES):
        department = np.where(rng.random(users) < _SECOND_DEPARTMENT_VISIT, second, home)
        within = rng.integers(INTENTS_PER_DEPARTMENT, size=users)
        if phase:  # another intent than the one just left
            last = intents[:, phase - 1]
            step = rng.integers(1, INTENTS_PER_DEPARTMENT, size=users)
            stays = last // INTENTS_PER_DEPARTMENT == department
            within = np.where(stays, (last + step) % INTENTS_PER_DEPARTMENT, within)
        intents[:, phase] = department * INTENTS_PER_DEPARTMENT + within
    return np.stack([home, second], 1), intents


def _lives(users: int, announce: float, rng: np.random.Generator) -> _Lives:
    departments, intents = _intents(users, rng)
    phase_user = np.repeat(np.arange(users), _PHASES)
    phase_first = np.tile(np.arange(_PHASES) == 0, users)
    phase_intent = intents.ravel()
    phase_announced = ~phase_first & (rng.random(phase_user.size) < announce)
    phase_length = rng.choice(_PHASE_LENGTHS, size=phase_user.size, p=_PHASE_LENGTH_SHARES)
    phase_pages = (phase_length + 1) // 2
    phase_page = np.cumsum(phase_pages) - phase_pages  # first page of each phase

    page_phase = np.repeat(np.arange(phase_user.size), phase_pages)
    page_ordinal = _ordinal(phase_pages)
    page_size = np.minimum(2, phase_length[page_phase] - 2 * page_ordinal)
    page_units = 1 + (rng.random(page_phase.size) < _STRAY)
    page_unit = np.cumsum(page_units) - page_units

    unit_page = np.repeat(np.arange(page_phase.size), page_units)
    unit_stray = _ordinal(page_units) == 1
    unit_user = phase_user[page_phase[unit_page]]
    unit_size = np.where(unit_stray, 1, page_size[unit_page])
    unit_intent = np.where(unit_stray, rng.integers(_INTENT_COUNT, size=unit_user.size), phase_intent[page_phase[unit_page]])
    unit_announced = ~unit_stray & (page_ordinal[unit_page] == 0) & phase_announced[page_phase[unit_page]]

    click_unit = np.repeat(np.arange(unit_user.size), unit_size)
    clicks_of_user = np.bincount(unit_user, unit_size, users).astype(np.int64)
    stop = rng.integers(MIN_CLICKS, MAX_CLICKS + 1, size=users)
    click_unit = click_unit[_ordinal(clicks_of_user) < np.repeat(stop, clicks_of_user)]
    unit_kept = np.zeros(unit_user.size, np.bool_)
    unit_kept[click_unit] = True

    searched = np.flatnonzero(phase_announced)
    searched = np.repeat(searched, 1 + (rng.random(searched.size) < _SECOND_SEARCH))
    first_unit = np.searchsorted(unit_user, phase_user[searched])
    previous_page = page_unit[phase_page[searched] - 1]
    ahead = np.maximum(first_unit, previous_page - rng.integers(2, size=searched.size))
    ahead_in_log = unit_kept[ahead]

    running = np.flatnonzero(rng.random(phase_user.size) < _SEARCH_IN_PHASE)
    after = page_unit[phase_page[running] + rng.integers(phase_pages[running])] + 1
    # where its own page is inside the log, the next unit is the same user's: the last phase of a life is out of reach
    after_in_log = unit_kept[after - 1] & unit_kept[np.minimum(after, unit_kept.size - 1)]
    return _Lives(
        departments=departments,
        unit_user=unit_user,
        unit_kept=unit_kept,
        click_unit=click_unit,
        click_intent=unit_intent[click_unit],
        click_announced=unit_announced[click_unit],
        search_moment=np.concatenate([ahead[ahead_in_log], after[after_in_log]]),
        search_intent=phase_intent[np.concatenate([searched[ahead_in_log], running[after_in_log]])],
    )


def _choose_items(lives: _Lives, rng: np.random.Generator) -> tuple[Ints, _Searches]:
    """Items of the recommendation clicks, and the genuine searches; no item comes twice in a user's log."""
    search_user = lives.unit_user[lives.search_moment]
    clicks, searches = lives.click_unit.size, search_user.size
    user = np.concatenate([lives.unit_user[lives.click_unit], search_user])
    intent = np.concatenate([lives.click_intent, lives.search_intent])
    groups, group, group_size = np.unique(user * _INTENT_COUNT + intent, return_inverse=True, return_counts=True)

    # each (user, intent) has its own order of the intent's items, popular ones sooner (Gumbel keys), dealt out in turn
    popularity = np.log1p(rng.permuted(np.tile(np.arange(ITEMS_PER_INTENT), (_INTENT_COUNT, 1)), axis=1)) * -0.6
    order = np.argsort(-(popularity[groups % _INTENT_COUNT] + rng.gumbel(size=(groups.size, ITEMS_PER_INTENT))), axis=1)
    late = rng.random(user.size)
    late[clicks:] += group_size[group[clicks:]] > ITEMS_PER_INTENT  # too few items for all: searches go without
    turn = np.empty(user.size, np.int64)
    turn[np.lexsort((late, group))] = _ordinal(group_size)
    item = intent * ITEMS_PER_INTENT + order[group, np.minimum(turn, ITEMS_PER_INTENT - 1)]

    no_click = (turn[clicks:] >= ITEMS_PER_INTENT) | (rng.random(searches) >= _SEARCH_CLICK)
    own = _Searches(
        user=search_user,
        moment=lives.search_moment,
        query=lives.search_intent * QUERIES_PER_INTENT + rng.integers(QUERIES_PER_INTENT, size=searches),
        item=np.where(no_click, _NONE, item[clicks:]),
        relevant=np.ones(searches, np.int64),
    )
    return item[:clicks], own


def _noise(lives: _Lives, click_item: Ints, own: _Searches, noise: float, rng: np.random.Generator) -> _Searches:
    """Half copies of other users' searches, half off-topic; what finds no donor in a tiny marketplace is off-topic."""
    count = round(own.user.size * noise / (1 - noise))
    moment = rng.choice(np.flatnonzero(lives.unit_kept), size=count)
    user = lives.unit_user[moment]
    topic = rng.integers(len(OFF_TOPIC), size=count)
    query = _INTENT_COUNT * QUERIES_PER_INTENT + topic
    clicked = rng.random(count) < _OFF_TOPIC_CLICK
    item = np.where(clicked, _ON_TOPIC_ITEMS + 2 * topic + rng.integers(2, size=count), _NONE)
    relevant = np.full(count, 2)

    taken = lives.unit_user[lives.click_unit] * _ON_TOPIC_ITEMS + click_item
    open_slots = np.arange(count // 2)
    for _ in range(50):  # about three donors in four fit
        donor = rng.integers(max(own.user.size, 1), size=open_slots.size)
        department = own.query[donor] // (QUERIES_PER_INTENT * INTENTS_PER_DEPARTMENT)
        foreign = department[:, None] != lives.departments[user[open_slots]]
        repeated = np.isin(user[open_slots] * _ON_TOPIC_ITEMS + own.item[donor], taken) & (own.item[donor] != _NONE)
        fits = foreign.all(1) & ~repeated
        slot, donor = open_slots[fits], donor[fits]
        query[slot], item[slot], relevant[slot] = own.query[donor], own.item[donor], 0
        open_slots = open_slots[~fits]
        if not open_slots.size:
            break
    return _Searches(user, moment, query, item, relevant)


def _tables(
    lives: _Lives,
    click_item: Ints,
    own: _Searches,
    added: _Searches,
    items: pa.Table,
    users: int,
    rng: np.random.Generator,
) -> dict[str, pa.Table]:
    """Give every event its time, sort, and put names for numbers."""
    wait = 30 * _MINUTE + rng.exponential(_DAY, lives.unit_user.size).astype(np.int64)
    elapsed = np.cumsum(wait)
    first_unit = np.searchsorted(lives.unit_user, np.arange(users))
    start = _START + rng.integers(30 * _DAY, size=users) - (elapsed - wait)[first_unit]
    unit_time = start[lives.unit_user] + elapsed
    within = _ordinal(np.bincount(lives.click_unit))  # a unit without clicks takes no place
    user_id, item_id = names("u", users), items["item_id"]

    recommendations = {
        "user_id": user_id[lives.unit_user[lives.click_unit]],
        "item_id": item_id.take(pa.array(click_item)),
        "timestamp": unit_time[lives.click_unit] + within * _MINUTE // 2,
        "clicked": np.ones(click_item.size, np.bool_),
        "request_id": names("r", lives.unit_user.size)[lives.click_unit],
        "announced": lives.click_announced.astype(np.int8),
    }

    user, moment, query, item, relevant = (
        np.concatenate([getattr(own, name), getattr(added, name)]) for name in ("user", "moment", "query", "item", "relevant")
    )
    # after the last click of the unit before, before the first of the next
    time = unit_time[moment] - 1 - (rng.random(user.size) * (wait[moment] - 2 * _MINUTE)).astype(np.int64)
    by_time = np.lexsort((time, user))
    item = item[by_time]
    searches = {
        "user_id": user_id[user[by_time]],
        "search_id": names("s", user.size),
        "timestamp": time[by_time],
        "query": pa.array(query_texts()).take(pa.array(query[by_time])),
        "item_id": item_id.take(pa.array(item, mask=item == _NONE)),
        "relevant": relevant[by_time].astype(np.int8),
    }
    profiles = {
        "user_id": user_id,
        "age_band": np.array(_AGE_BANDS)[rng.integers(len(_AGE_BANDS), size=users)],
        "region": np.array(_REGIONS)[rng.integers(len(_REGIONS), size=users)],
    }
    return {
        "recommendations": pa.table(recommendations),
        "searches": pa.table(searches),
        "items": items,
        "users": pa.table(profiles),
    }
