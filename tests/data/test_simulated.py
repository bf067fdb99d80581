"""The simulated marketplace: what it plants is there, and nothing else gives it away."""

import time

import duckdb
import numpy as np
import pandas as pd
import pytest

from seerec.data.sources.marketplace_words import BRANDS, FINISHES, INTENTS, query_texts
from seerec.data.sources.simulated import read, simulate
from seerec.errors import SeerecError

CLICK, SEARCH = ["user_id", "item_id"], ["user_id", "search_id"]


def words(text):
    return set(text.replace(",", "").split())


@pytest.fixture(scope="module")
def tables():
    return simulate()


@pytest.fixture(scope="module")
def frames(tables):
    return {name: table.to_pandas() for name, table in tables.items()}


@pytest.fixture(scope="module")
def quiet():
    return {name: table.to_pandas() for name, table in simulate(noise=0).items()}


@pytest.fixture(scope="module")
def compatible(frames):
    """The items whose titles hold all words of a query, by query."""
    titles = {item: words(title) for item, title in zip(frames["items"].item_id, frames["items"].title, strict=True)}
    return {query: {item for item, title in titles.items() if words(query) <= title} for query in query_texts()}


def item_intent(frames):
    """Intent of an item, read from its title: what stands between brand and finish."""
    shop = frames["items"][frames["items"].category != "services"]
    return dict(zip(shop.item_id, shop.title.str.partition(" ")[2].str.partition(",")[0], strict=True))


def pages(frames):
    """Pages of recommendations: user, time of the first click, announced, intent, intent of the page before."""
    clicks = frames["recommendations"].assign(intent=frames["recommendations"].item_id.map(item_intent(frames)))
    first = clicks.groupby("request_id", sort=False).first().reset_index()
    return first.assign(before=first.groupby("user_id").intent.shift())


def test_schema_and_references(tables, frames):
    columns = {name: table.column_names for name, table in tables.items()}
    assert columns == {
        "recommendations": ["user_id", "item_id", "timestamp", "clicked", "request_id", "announced"],
        "searches": ["user_id", "search_id", "timestamp", "query", "item_id", "relevant"],
        "items": ["item_id", "title", "brand", "category"],
        "users": ["user_id", "age_band", "region"],
    }
    items, users = set(frames["items"].item_id), set(frames["users"].user_id)
    assert frames["items"].item_id.is_unique
    assert frames["items"].title.is_unique
    assert frames["users"].user_id.is_unique
    assert frames["searches"].search_id.is_unique
    assert set(frames["recommendations"].item_id) <= items
    assert set(frames["searches"].item_id.dropna()) <= items
    assert set(frames["recommendations"].user_id) == users
    assert set(frames["searches"].user_id) <= users
    for name in ("recommendations", "searches"):
        assert frames[name].equals(frames[name].sort_values(["user_id", "timestamp"], kind="stable"))
    assert frames["recommendations"].groupby("request_id").user_id.nunique().max() == 1
    assert not frames["recommendations"].duplicated(CLICK).any()


def test_sizes_of_a_log(frames):
    clicks = frames["recommendations"].groupby("user_id").size()
    assert (clicks.min(), clicks.max()) == (12, 25)
    assert 8 <= len(frames["searches"]) / len(clicks) <= 14
    page_sizes = frames["recommendations"].groupby("request_id").size()
    assert set(page_sizes) == {1, 2}


def test_same_seed_same_tables(tables):
    assert all(table.equals(tables[name]) for name, table in simulate().items())
    other = simulate(seed=1)
    assert not any(table.equals(tables[name]) for name, table in other.items())


def test_noise_leaves_the_rest_of_the_log_alone(frames, quiet):
    assert frames["recommendations"].equals(quiet["recommendations"])
    columns = ["user_id", "query", "item_id"]
    own = frames["searches"][frames["searches"].relevant == 1]
    assert own[columns].value_counts(dropna=False).equals(quiet["searches"][columns].value_counts(dropna=False))


@pytest.mark.parametrize("noise", [0.2, 0.5, 0.8])
def test_noise_shares(noise):
    relevant = simulate(users=500, noise=noise)["searches"].to_pandas().relevant
    share = relevant.value_counts(normalize=True)
    assert share[0] == pytest.approx(noise / 2, abs=1e-3)
    assert share[2] == pytest.approx(noise / 2, abs=1e-3)


def test_copied_searches_are_genuine_elsewhere(frames):
    searches = frames["searches"]
    own, copied = searches[searches.relevant == 1], searches[searches.relevant == 0]
    assert set(copied[["query", "item_id"]].fillna("").itertuples(index=False)) <= set(
        own[["query", "item_id"]].fillna("").itertuples(index=False)
    )
    clicked = frames["recommendations"][CLICK].merge(copied[CLICK].dropna())
    assert clicked.empty
    department = {query: name for name, intents in INTENTS.items() for query in query_texts_of(intents)}
    visited = own.assign(department=own["query"].map(department))[["user_id", "department"]].drop_duplicates()
    assert copied.assign(department=copied["query"].map(department)).merge(visited).empty


def query_texts_of(intents):
    phrases = [intent.replace(" | ", " ") for intent in intents]
    return [query for query in query_texts() if any(words(query) <= words(phrase) for phrase in phrases)]


def test_off_topic_searches(frames, compatible):
    searches = frames["searches"]
    off_topic = searches[searches.relevant == 2]
    services = set(frames["items"].item_id[frames["items"].category == "services"])
    assert set(off_topic.item_id.dropna()) <= services
    assert 0.2 < off_topic.item_id.notna().mean() < 0.6
    assert not services & set(frames["recommendations"].item_id)
    assert not services & set(searches.item_id[searches.relevant != 2].dropna())
    assert all(compatible[query] <= services for query in set(off_topic["query"]))


def test_neither_words_nor_clicks_identify_a_target(frames, compatible):
    """Over all pairs of a genuine search and an announced target of its user."""
    targets = frames["recommendations"][frames["recommendations"].announced == 1]
    own = frames["searches"][frames["searches"].relevant == 1]
    assert targets[CLICK].merge(own[CLICK].dropna()).empty
    intent, queries = item_intent(frames), set(own["query"])
    span = pd.Series(intent).value_counts()
    assert span.size == 48
    assert span.min() >= 20
    for query in queries:
        assert len(compatible[query]) >= 20
        assert len({intent[item] for item in compatible[query]}) == 1
        for word in words(query):
            by_intent = pd.Series([text for text in intent.values() if word in words(text)]).value_counts()
            assert by_intent.min() >= 20
    names = {word.lower() for text in (*FINISHES, *sum(BRANDS.values(), ())) for word in text.split()}
    assert not names & set().union(*map(words, queries))


def test_every_announced_target_was_searched_for(frames, compatible):
    """Before the first row of its request, and not always as the last event before it."""
    intent = item_intent(frames)
    start = frames["recommendations"].groupby("request_id").timestamp.transform("min")
    clicks = frames["recommendations"].assign(start=start).reset_index(names="row")
    targets = clicks[clicks.announced == 1].assign(intent=lambda table: table.item_id.map(intent))
    own = frames["searches"][frames["searches"].relevant == 1]
    own = own.assign(intent=[intent[min(compatible[query])] for query in own["query"]])
    pairs = targets.merge(own, on=["user_id", "intent"], suffixes=("", "_search"))
    pairs = pairs[pairs.timestamp_search < pairs.start]
    announcing = pairs.groupby("row").timestamp_search.max()
    assert set(announcing.index) == set(targets.row)
    starts = clicks.groupby("request_id", sort=False).start.first()
    page_before = targets.set_index("row").request_id.map(starts.shift())[announcing.index]
    assert (announcing < page_before).mean() > 0.75  # the latest of an announcement's searches, too


def test_searches_tell_the_next_intent_and_clicks_do_not(quiet, compatible):
    """Without noise: the searches not yet followed by a click mostly tell the intent, the clicks at best one in four."""
    intent, page = item_intent(quiet), pages(quiet)
    page = page[page.announced == 1].reset_index(names="page")
    searches = quiet["searches"].assign(intent=[intent[min(compatible[query])] for query in quiet["searches"]["query"]])

    clicks = quiet["recommendations"].assign(intent=quiet["recommendations"].item_id.map(intent))
    past = page.merge(searches, on="user_id", suffixes=("", "_search"))
    past = past[past.timestamp_search < past.timestamp]
    answered = past.merge(clicks, left_on=["user_id", "intent_search"], right_on=["user_id", "intent"])
    answered = answered[answered.timestamp_y.between(answered.timestamp_search, answered.timestamp_x, inclusive="left")]
    answered = pd.MultiIndex.from_frame(answered[["page", "search_id"]])
    pending = past[~pd.MultiIndex.from_frame(past[["page", "search_id"]]).isin(answered)]
    oldest = pending.sort_values(["page", "timestamp_search"]).groupby("page").first()
    assert (oldest.intent == oldest.intent_search).sum() / len(page) > 0.7  # the longest searched for, not yet clicked

    transitions = pd.crosstab(page.before, page.intent)
    assert transitions.max(axis=1).sum() / len(page) <= 0.25  # the best guess from the last click, known in hindsight
    seen = page.merge(clicks, on="user_id", suffixes=("", "_click"))
    seen = seen[(seen.timestamp_click < seen.timestamp) & (seen.intent_click != seen.before)]
    counts = seen.groupby(["page", "intent", "intent_click"]).size().reset_index(name="clicks")
    favourite = counts.sort_values(["page", "clicks", "intent_click"]).groupby("page").last()
    assert (favourite.intent_click == favourite.index.map(page.set_index("page").intent)).sum() / len(page) <= 0.25


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_share_of_announced_val_and_test_targets(seed):
    clicks = simulate(seed=seed)["recommendations"].to_pandas()
    assert 0.35 <= clicks.groupby("user_id").tail(2).announced.mean() <= 0.45


def test_announced_is_tunable():
    assert not simulate(users=200, announce=0)["recommendations"].to_pandas().announced.any()
    shares = [simulate(announce=share)["recommendations"].to_pandas().announced.mean() for share in (0.3, 0.6, 0.9)]
    assert shares[1] / shares[0] == pytest.approx(2, rel=0.1)
    assert shares[2] / shares[0] == pytest.approx(3, rel=0.1)


def test_recency_does_not_give_noise_away(frames):
    searches = frames["searches"].assign(noise=frames["searches"].relevant != 1)
    by_user = searches.groupby("user_id")
    from_end = by_user.cumcount(ascending=False)
    position = (from_end + 0.5) / by_user.noise.transform("size")
    grid = np.linspace(0, 1, 21)
    own, noise = (np.histogram(position[searches.noise == kind], grid, density=True)[0] for kind in (False, True))
    assert np.abs(np.cumsum(own - noise)).max() / 20 < 0.02
    for steps in range(5):
        assert searches.noise[from_end == steps].mean() == pytest.approx(0.5, abs=0.03)


def test_noise_follows_and_precedes_clicks_like_genuine_searches(frames):
    """The number of clicks between a search and the end of the log has one distribution for both."""
    searches, clicks = frames["searches"], frames["recommendations"]
    pairs = searches[[*SEARCH, "timestamp", "relevant"]].merge(clicks[["user_id", "timestamp"]], on="user_id")
    pairs["later"] = pairs.timestamp_y > pairs.timestamp_x
    later = pairs.groupby(["search_id", "relevant"]).later.sum().reset_index()
    shares = pd.crosstab(later.later, later.relevant != 1, normalize="columns").cumsum()
    assert shares.index.min() >= 1
    assert (shares[True] - shares[False]).abs().max() < 0.02


def test_popularity_has_a_mild_long_tail(frames):
    clicks = frames["recommendations"].item_id.value_counts()
    assert clicks.size == 1200
    top = clicks.head(120).sum() / clicks.sum()
    assert 0.15 < top < 0.4


def test_it_is_quick():
    start = time.perf_counter()
    simulate()
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize("settings", [{"users": 1}, {"users": 2, "announce": 1.0}, {"users": 3, "announce": 0.0}])
def test_tiny_marketplaces(settings):
    for seed in range(10):
        tables = simulate(seed=seed, noise=0.7, **settings)
        assert len(tables["users"]) == settings["users"]


@pytest.mark.parametrize("settings", [{"users": 0}, {"seed": -1}, {"announce": 1.1}, {"announce": float("nan")}, {"noise": 1.0}])
def test_bad_parameters_are_named(settings):
    with pytest.raises(SeerecError, match=next(iter(settings))):
        simulate(**settings)


def test_read_fills_the_event_tables():
    with duckdb.connect() as connection:
        events = read(connection, users=50, seed=3, announce=0.7, noise=0.5)
        tables = simulate(users=50, seed=3)
        for name, table in tables.items():
            assert connection.execute(f"SELECT count(*) FROM {name}").fetchone() == (len(table),)
        assert connection.execute("SELECT count(*) FROM quarantine").fetchone() == (0,)
        assert events.source["name"] == "simulated"
        assert events.source["options"] == {"users": 50, "seed": 3, "announce": 0.7, "noise": 0.5}
        pages, announced = connection.execute("SELECT count(DISTINCT request_id), sum(announced) FROM recommendations").fetchone()
        assert pages == len(set(tables["recommendations"]["request_id"].to_pylist()))
        assert announced == sum(tables["recommendations"]["announced"].to_pylist()) > 0
