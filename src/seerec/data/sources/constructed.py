"""Searches constructed from an interaction log: some interactions become searches, and noise is added.

Real logs with both searches and recommendations are few. The literature gives the interactions of a shop queries made
of the words of the items (Ai et al. 2017). Here, for a user with the interactions 1..n in the order of (time, line):

* Interactions 1..n-2 become the user's own search with probability ``p_search``: up to 3 words of the item's text as
  the query, the item as the click. The last two stay recommendations, and so does an item without words.
* Each of the slots 1..n-2 gets an added search with probability ``p_search * noise`` (their number is binomial): the
  query and click of another user's interaction, never an item of this user's own log. The donor's interaction is
  strictly earlier than the slot; where the log has only order, it is one of the donor's first n-2.
* An own search happens 1 ms before its slot, and an added one in the same slot comes before it. An added search in a
  slot that stays a recommendation has the slot's own time: the recommendation, a training target, does not see it, as
  no validation or test target has a search of its own slot. So added searches are the last ones of training and of
  test histories equally often.

All draws are digests of (seed, purpose, user, slot): equal on every engine and platform.
"""

import duckdb

from seerec.errors import SeerecError

_ROUNDS = 8
_STOP_WORDS = (
    "a about after all an and any are as at be been but by can com did do does for from had has have he her his how i if in "
    "into is it its just like ll me more my no not of off on one only or our out over own re s she so some such t than that "
    "the their them then there these they this to too up us ve very was we were what when which while who why will with "
    "without would www you your"
)


def construct(connection: duckdb.DuckDBPyConnection, *, p_search: float, noise: float, seed: int, clocks: bool) -> dict[str, int]:
    """Move interactions of the checked table ``recommendations`` to ``searches`` and add noise.

    ``searches.relevant`` is 1 for the user's own and 0 for added searches; ``searches.line`` numbers them in the order
    of user, slot and (added before own).

    Parameters
    ----------
    clocks
        Whether timestamps are instants; False where they only give the order within a user.

    Returns
    -------
    dict
        ``searches_own``, ``searches_added``, ``searches_without_donor`` (added ones for which no other user's
        interaction could be found) and ``items_without_description`` (items of the log that ``items`` lacks).

    Raises
    ------
    SeerecError
        A probability is outside 0..1, or no interaction has an item with words.
    """
    if not (0 <= p_search <= 1 and noise >= 0 and p_search * noise <= 1):
        raise SeerecError(
            f"p_search {p_search} and noise {noise} give no probabilities.",
            "Choose p_search between 0 and 1 and noise so that p_search x noise is between 0 and 1.",
        )
    _slots(connection, p_search, p_search * noise, seed)
    _donors(connection, seed, clocks)
    _searches(connection, seed)
    row = connection.execute("""
        SELECT count(*) FILTER (WHERE relevant = 1), count(*) FILTER (WHERE relevant = 0),
               (SELECT count(*) FROM wanting), (SELECT count(*) FROM slot WHERE worded),
               (SELECT count(DISTINCT item_id) FROM slot ANTI JOIN items USING (item_id)) FROM searches""").fetchone()
    connection.execute("""
        DELETE FROM recommendations USING slot
        WHERE slot.own AND slot.line = recommendations.line AND slot.timestamp = recommendations.timestamp
          AND slot.user_id = recommendations.user_id AND slot.item_id = recommendations.item_id""")
    for table in ("slot", "donor", "wanting", "drawn", "given", "item_words"):
        connection.execute(f"DROP TABLE {table}")
    assert row is not None
    if not row[3]:
        raise SeerecError(
            "No item has text, so that no search can be constructed.",
            "Give an items file whose ids are those of the log, with a title or another text column.",
        )
    return {
        "searches_own": int(row[0]),
        "searches_added": int(row[1]),
        "searches_without_donor": int(row[2]),
        "items_without_description": int(row[4]),
    }


def _digest(seed: int, purpose: str, place: str, user: str) -> str:
    """SQL for 32 hexadecimal digits that depend on all four."""
    return f"md5(concat_ws(':', {seed}, '{purpose}', {place}, {user}))"


def _uniform(digest: str, start: int = 1) -> str:
    """SQL for a number in [0, 1): the ten digits of ``digest`` from ``start`` (1, 11 or 21)."""
    return f"('0x' || substr({digest}, {start}, 10))::BIGINT / {float(1 << 40)!r}"


def _slots(connection: duckdb.DuckDBPyConnection, p_own: float, p_added: float, seed: int) -> None:
    """``item_words``: the distinct words of each item in the order of its text.

    ``slot``: every interaction, its place 1..n, whether it is ``early`` (the last two are not), becomes the user's
    ``own`` search, and gets an ``added`` one.
    """
    stop = ", ".join(f"'{word}'" for word in _STOP_WORDS.split())
    connection.execute(f"""
        CREATE TEMP TABLE item_words AS
        SELECT item_id, list(word ORDER BY position) AS words FROM (
            SELECT item_id, word, min(position) AS position FROM (
                SELECT item_id, unnest(all_words) AS word, generate_subscripts(all_words, 1) AS position FROM (
                    SELECT item_id, regexp_extract_all(lower(nfc_normalize(text)), '[\\p{{L}}\\p{{N}}\\p{{M}}]+') AS all_words
                    FROM items))
            WHERE word NOT IN ({stop}) GROUP BY item_id, word)
        GROUP BY item_id""")
    connection.execute(f"""
        CREATE TEMP TABLE slot AS
        WITH placed AS (
            SELECT line, user_id, item_id, timestamp,
                   row_number() OVER (PARTITION BY user_id ORDER BY timestamp, line, item_id) AS place,
                   count(*) OVER (PARTITION BY user_id) AS places
            FROM recommendations),
        drawn AS (SELECT *, {_digest(seed, "slot", "place", "user_id")} AS digest FROM placed)
        SELECT line, user_id, item_id, timestamp, place, words IS NOT NULL AS worded, place <= places - 2 AS early,
               early AND worded AND {_uniform("digest")} < {p_own!r} AS own,
               early AND {_uniform("digest", 11)} < {p_added!r} AS added
        FROM drawn LEFT JOIN item_words USING (item_id)""")


def _donors(connection: duckdb.DuckDBPyConnection, seed: int, clocks: bool) -> None:
    """``given``: for each added search the slot and the interaction it copies. Rejected draws are drawn again."""
    connection.execute(f"""
        CREATE TEMP TABLE donor AS
        SELECT row_number() OVER (ORDER BY timestamp, user_id, place) AS number, user_id, place, item_id, timestamp
        FROM slot WHERE worded AND {"true" if clocks else "early"}""")
    last = "SELECT timestamp, max(number) AS eligible FROM donor GROUP BY timestamp"
    eligible = (
        f"slot ASOF LEFT JOIN ({last}) AS last ON slot.timestamp > last.timestamp"
        if clocks
        else "slot, (SELECT count(*) AS eligible FROM donor)"
    )
    connection.execute(f"""
        CREATE TEMP TABLE wanting AS
        SELECT slot.user_id, place, coalesce(eligible, 0) AS eligible FROM {eligible} WHERE added""")
    connection.execute("""
        CREATE TEMP TABLE given (user_id VARCHAR, place BIGINT, donor_id VARCHAR, donor_place BIGINT, item_id VARCHAR)""")
    for round_number in range(_ROUNDS):
        first = 1 << round_number  # draw 1 in the first round, 2 and 3 in the second, 4 to 7 in the third
        drawn = _uniform(_digest(seed, "donor", "draw || ' ' || place", "user_id"))
        connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE drawn AS
            SELECT user_id, place, draw, 1 + floor({drawn} * eligible)::BIGINT AS number
            FROM wanting, range({first}, {2 * first}) AS draws(draw) WHERE eligible > 0""")
        connection.execute("""
            INSERT INTO given
            SELECT user_id, place, arg_min(donor_id, draw), arg_min(donor_place, draw), arg_min(item_id, draw) FROM (
                SELECT drawn.user_id, drawn.place, draw, donor.user_id AS donor_id, donor.place AS donor_place, item_id
                FROM drawn JOIN donor USING (number) WHERE donor.user_id <> drawn.user_id)
            ANTI JOIN slot USING (user_id, item_id) GROUP BY user_id, place""")
        connection.execute("""
            DELETE FROM wanting USING given
            WHERE wanting.user_id = given.user_id AND wanting.place = given.place""")
        left = connection.execute("SELECT count(*) FROM wanting WHERE eligible > 0").fetchone()
        if left is None or not left[0]:
            break


def _searches(connection: duckdb.DuckDBPyConnection, seed: int) -> None:
    """Replace ``searches``. A query has the words of the interaction it is made of, whoever it is given to."""
    connection.execute(f"""
        CREATE OR REPLACE TABLE searches AS
        WITH asked AS (
            SELECT user_id, place, user_id AS donor_id, place AS donor_place, item_id, 1 AS relevant FROM slot WHERE own
            UNION ALL
            SELECT user_id, place, donor_id, donor_place, item_id, 0 FROM given),
        drawn AS (  -- three different places of n words: each is drawn among those left, then moved past those taken
            SELECT *, len(words) AS n, {_digest(seed, "words", "donor_place", "donor_id")} AS digest,
                   1 + floor({_uniform("digest")} * n)::INTEGER AS first,
                   1 + floor({_uniform("digest", 11)} * (n - 1))::INTEGER AS left_second,
                   left_second + (left_second >= first)::INTEGER AS second,
                   1 + floor({_uniform("digest", 21)} * (n - 2))::INTEGER AS left_third,
                   left_third + (left_third >= least(first, second))::INTEGER AS past_one,
                   past_one + (past_one >= greatest(first, second))::INTEGER AS third
            FROM asked JOIN item_words USING (item_id)),
        query AS (
            SELECT user_id, place, relevant, item_id, array_to_string(CASE WHEN n <= 3 THEN words ELSE
                       list_transform(list_sort([first, second, third]), lambda i: words[i]) END, ' ') AS query
            FROM drawn),
        numbered AS (
            SELECT row_number() OVER (ORDER BY user_id, place, relevant) AS line, query.*,
                   slot.timestamp - slot.own::INTEGER AS timestamp
            FROM query JOIN slot USING (user_id, place))
        SELECT line, user_id, 'constructed ' || line AS search_id, timestamp, query, item_id, true AS clicked,
               relevant::TINYINT AS relevant
        FROM numbered ORDER BY line""")
