"""The constructed-search protocol, property by property, on a generated log."""

import hashlib
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from seerec.data.events import check
from seerec.data.sources.constructed import construct
from seerec.errors import SeerecError

ITEMS = 400
CLOCKS = pytest.mark.parametrize("clocks", [True, False], ids=["clocks", "order"])
HISTORIES = """
    WITH target AS (
        SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY timestamp DESC, line DESC) AS back FROM recommendations)
    SELECT back = 1 AS test, avg((last = 0)::INT) AS added FROM (
        SELECT target.line, any_value(back) AS back, arg_max(relevant, (searches.timestamp, searches.line)) AS last
        FROM target JOIN searches ON searches.user_id = target.user_id AND searches.timestamp < target.timestamp
        WHERE back <> 2 GROUP BY target.line)
    GROUP BY test ORDER BY test"""
"""How often the last search that a training target (false) or a test target (true) may see is an added one."""


def made(
    *, clocks: bool, p_search: float = 0.4, noise: float = 0.3, seed: int = 0, users: int = 600
) -> tuple[duckdb.DuckDBPyConnection, dict[str, int]]:
    """A generated log; ``log`` is the log before the construction. Items 0..9 have no word, clocks have ties."""
    draw = np.random.Generator(np.random.Philox(3))
    length = draw.integers(1, 40, users)
    user = np.repeat(np.arange(users), length)
    place = np.arange(len(user)) - np.repeat(np.cumsum(length) - length, length)
    time = 10**12 + 1000 * draw.integers(0, 3000, len(user)) if clocks else 1000 * (place + 1)
    log = {"line": np.arange(len(user)) + 2, "user_id": user, "item_id": draw.integers(0, ITEMS, len(user)), "timestamp": time}
    titles = [
        "of the" if item < 10 else f"Brand{item % 7} of the Thing{item} Thing{item} kind{item % 31}, {item}"
        for item in range(ITEMS)
    ]
    items = {"line": np.arange(ITEMS) + 2, "item_id": np.arange(ITEMS), "title": titles}
    connection = duckdb.connect(config={"threads": 2})
    for name, content in (("raw_recommendations", log), ("raw_items", items)):
        connection.register("generated", pa.table(content))
        connection.execute(f"CREATE TABLE {name} AS FROM generated")
    check(connection, {})
    connection.execute("""
        CREATE TABLE log AS SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY timestamp, line) AS place,
        count(*) OVER (PARTITION BY user_id) AS places FROM recommendations""")
    return connection, construct(connection, p_search=p_search, noise=noise, seed=seed, clocks=clocks)


def value(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


@CLOCKS
def test_an_interaction_is_either_a_recommendation_or_an_own_search(clocks: bool) -> None:
    connection, counts = made(clocks=clocks)
    assert (
        value(connection, "SELECT count(*) FROM log")
        == value(connection, "SELECT count(*) FROM recommendations") + counts["searches_own"]
    )
    own = "SELECT user_id, item_id, timestamp + 1 FROM searches WHERE relevant = 1"
    both = f"SELECT user_id, item_id, timestamp FROM recommendations UNION ALL {own}"
    assert value(connection, f"SELECT count(*) FROM (SELECT user_id, item_id, timestamp FROM log EXCEPT ALL ({both}))") == 0
    assert (
        value(connection, "SELECT count(DISTINCT search_id) FROM searches") == counts["searches_own"] + counts["searches_added"]
    )
    assert value(connection, "SELECT count(DISTINCT line) FROM searches") == counts["searches_own"] + counts["searches_added"]


@CLOCKS
def test_the_last_two_interactions_stay_recommendations(clocks: bool) -> None:
    connection, counts = made(clocks=clocks, p_search=1.0)
    lost = "FROM log ANTI JOIN recommendations USING (line)"
    assert value(connection, f"SELECT count(*) {lost} WHERE place > places - 2") == 0
    assert value(connection, f"SELECT count(*) {lost}") == counts["searches_own"]
    wordless = value(connection, "SELECT count(*) FROM log WHERE place <= places - 2 AND item_id::INT < 10")
    assert counts["searches_own"] == value(connection, "SELECT count(*) FROM log WHERE place <= places - 2") - wordless


@CLOCKS
def test_shares_are_those_asked_for(clocks: bool) -> None:
    connection, counts = made(clocks=clocks, p_search=0.5, noise=0.4)
    worded = value(connection, "SELECT count(*) FROM log WHERE place <= places - 2 AND item_id::INT >= 10")
    slots = value(connection, "SELECT count(*) FROM log WHERE place <= places - 2")
    assert abs(counts["searches_own"] / worded - 0.5) < 4 * (0.25 / worded) ** 0.5
    wanted = counts["searches_added"] + counts["searches_without_donor"]
    assert abs(wanted / slots - 0.2) < 4 * (0.16 / slots) ** 0.5
    assert counts["searches_without_donor"] < 0.01 * wanted


@CLOCKS
def test_queries_are_words_of_the_clicked_item(clocks: bool) -> None:
    connection, _ = made(clocks=clocks)
    asked = connection.execute("SELECT query, item_id FROM searches").fetchall()
    for query, item in asked:
        words = query.split()
        own = [f"brand{int(item) % 7}", f"thing{item}", f"kind{int(item) % 31}", item]
        assert len(words) == len(set(words)) == 3
        assert words == [word for word in own if word in words]  # in the order of the text
    assert len({query for query, item in asked if item == asked[0][1]}) > 1


@CLOCKS
def test_added_searches_are_others_and_come_from_what_may_be_known(clocks: bool) -> None:
    connection, _ = made(clocks=clocks)
    connection.execute("CREATE TABLE added AS FROM searches WHERE relevant = 0")
    assert value(connection, "SELECT count(*) FROM added SEMI JOIN log USING (user_id, item_id)") == 0
    eligible = "log.timestamp < 1000 * ceil(added.timestamp / 1000)" if clocks else "log.place <= log.places - 2"
    known = f"SELECT count(*) FROM added WHERE NOT EXISTS (FROM log WHERE log.item_id = added.item_id AND {eligible})"
    assert value(connection, known) == 0
    assert value(connection, "SELECT count(DISTINCT item_id) FROM added") > ITEMS / 2


@CLOCKS
def test_a_search_precedes_its_slot_and_an_added_one_an_own_one(clocks: bool) -> None:
    connection, _ = made(clocks=clocks)
    slots = "FROM log WHERE log.user_id = searches.user_id AND log.place <= log.places - 2"
    assert (
        value(connection, f"SELECT count(*) FROM searches WHERE relevant = 1 AND timestamp + 1 NOT IN (SELECT timestamp {slots})")
        == 0
    )
    assert (
        value(
            connection,
            f"SELECT count(*) FROM searches WHERE relevant = 0 AND timestamp NOT IN (SELECT timestamp {slots}) "
            f"AND timestamp + 1 NOT IN (SELECT timestamp {slots})",
        )
        == 0
    )
    if not clocks:  # one slot per instant
        pairs = "searches AS own JOIN searches AS other ON own.user_id = other.user_id AND own.timestamp = other.timestamp"
        assert value(connection, f"SELECT count(*) FROM {pairs} WHERE own.relevant = 1 AND other.relevant = 0") > 50
        assert (
            value(
                connection,
                f"SELECT count(*) FROM {pairs} WHERE own.relevant = 1 AND other.relevant = 0 AND other.line <> own.line - 1",
            )
            == 0
        )


@CLOCKS
def test_no_search_click_is_a_later_target_unless_the_log_repeats_the_item(clocks: bool) -> None:
    connection, _ = made(clocks=clocks)
    later = "searches JOIN recommendations AS target ON target.user_id = searches.user_id AND target.item_id = searches.item_id"
    repeats = "(SELECT user_id, item_id FROM log GROUP BY ALL HAVING count(*) > 1)"
    assert (
        value(
            connection,
            f"SELECT count(*) FROM {later} ANTI JOIN {repeats} AS r ON r.user_id = target.user_id AND r.item_id = target.item_id",
        )
        == 0
    )


@CLOCKS
def test_training_and_test_histories_end_in_an_added_search_equally_often(clocks: bool) -> None:
    connection, _ = made(clocks=clocks, users=3000)
    (_, training), (_, test) = connection.execute(HISTORIES).fetchall()
    assert training > 0.1
    assert abs(training - test) < 0.03


def test_the_seed_decides_and_nothing_else() -> None:
    first, again, other = (made(clocks=True, seed=seed)[0].execute("FROM searches").fetchall() for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_without_noise_only_the_added_searches_go() -> None:
    clean, noisy = made(clocks=False, noise=0.0)[0], made(clocks=False)[0]
    own = "SELECT user_id, timestamp, query, item_id FROM searches WHERE relevant = 1 ORDER BY ALL"
    assert clean.execute(own).fetchall() == noisy.execute(own).fetchall()
    assert value(clean, "SELECT count(*) FROM searches WHERE relevant = 0") == 0


def test_the_draws_are_digests_that_any_language_can_repeat() -> None:
    """A change of the digests would change everyone's corpora."""
    connection, _ = made(clocks=False, seed=7)

    def uniform(purpose: str, place: int, user: str, part: int) -> float:
        digest = hashlib.md5(f"7:{purpose}:{place}:{user}".encode(), usedforsecurity=False).hexdigest()
        return int(digest[10 * part : 10 * part + 10], 16) / 2**40

    log = connection.execute(
        "SELECT user_id, place, item_id FROM log WHERE place <= places - 2 AND item_id::INT >= 10"
    ).fetchall()
    own = [(user, place, item) for user, place, item in log if uniform("slot", place, user, 0) < 0.4]
    found = "SELECT user_id, (timestamp + 1) // 1000, item_id, query FROM searches WHERE relevant = 1"
    searches = {(user, place, item): query for user, place, item, query in connection.execute(found).fetchall()}
    assert searches.keys() == set(own)
    for user, place, item in own[:100]:
        words = [f"brand{int(item) % 7}", f"thing{item}", f"kind{int(item) % 31}", item]
        left = list(range(4))
        taken = [left.pop(int(uniform("words", place, user, part) * (4 - part))) for part in range(3)]
        assert searches[user, place, item] == " ".join(words[i] for i in sorted(taken))


def test_probabilities_and_texts_are_checked() -> None:
    for p_search, noise in ((1.5, 0.1), (-0.1, 0.1), (0.5, -1.0), (0.5, 3.0), (float("nan"), 0.1)):
        with pytest.raises(SeerecError, match="give no probabilities"):
            made(clocks=False, p_search=p_search, noise=noise)
    connection, _ = made(clocks=False)
    connection.execute("UPDATE items SET text = 'of the ?!'")
    with pytest.raises(SeerecError, match="No item has text"):
        construct(connection, p_search=0.4, noise=0.3, seed=0, clocks=False)
