"""What happens with a target or after it says nothing about it: models stay at chance on a log that only the future explains.

Every click of the log is of an item drawn at random. Searches name it, but in the same millisecond, between its request and the
click, or later. Whoever sees one of them too early finds the target at once, which
`test_a_search_before_the_request_gives_the_target_away` shows with the same log, moved by an hour.
"""

import random
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

import seerec
from seerec.evaluation.metrics import random_level
from seerec.models.registry import MODELS

pytestmark = pytest.mark.slow
USERS, ITEMS, VISITS, NEGATIVES = 160, 300, 8, 99
HOUR, DAY = 3_600_000, 86_400_000
START = 19_700 * DAY
CANARY = "canary"
SPLITS = {
    "leave-one-out": {"split": "leave-one-out"},
    "chronological": {
        "split": "chronological",
        "val_start": datetime.fromtimestamp((START + 6 * DAY) / 1000, UTC).date().isoformat(),
        "test_start": datetime.fromtimestamp((START + 7 * DAY) / 1000, UTC).date().isoformat(),
    },
}
METRICS = ("hr@1", "hr@5", "hr@10", "mrr")


def told(split, earlier):
    """Tables in which searches name every click; ``earlier``: ms by which they come before what they do here."""
    draw = random.Random(0)
    clicks, searches = [], []
    for u in range(USERS):
        user = f"u{u}"
        for day, item in enumerate(draw.sample(range(ITEMS), VISITS)):
            time = START + day * DAY + 8 * HOUR + draw.randrange(DAY // 4)
            shown = {"user_id": user, "request_id": f"{u} {day}"}
            other = draw.randrange(ITEMS)  # shown first, not clicked
            clicks.append(shown | {"item_id": f"i{other}", "timestamp": time - 10, "clicked": False})
            clicks.append(shown | {"item_id": f"i{item}", "timestamp": time, "clicked": True})
            for place, moment in enumerate((time - 5, time, time + 1)):
                named = {"search_id": f"{u} {day} {place}", "query": f"name{item}", "item_id": f"i{item}"}
                searches.append({"user_id": user, "timestamp": moment - earlier, "clicked": True} | named)
        last = {"user_id": user, "timestamp": START + VISITS * DAY - HOUR, "item_id": CANARY}
        searches.append(last | {"search_id": f"{u} last", "query": CANARY, "clicked": True})
        clicks.append(last | {"request_id": f"{u} last", "clicked": split == "chronological"})
    items = [{"item_id": f"i{i}", "title": f"name{i}"} for i in range(ITEMS)] + [{"item_id": CANARY, "title": CANARY}]
    return {"recommendations": pd.DataFrame(clicks), "searches": pd.DataFrame(searches), "items": pd.DataFrame(items)}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """(split, hours by which searches come earlier) -> corpus."""
    made = {}
    for split in SPLITS:
        for earlier in (0, HOUR):
            out = tmp_path_factory.mktemp("leaks") / "corpus"
            # Repeats are kept, since otherwise a target that its history gives away would not even be one.
            settings = SPLITS[split] | {"negatives": NEGATIVES, "repeats": "keep"}
            made[split, earlier] = seerec.prepare(out, settings=settings, **told(split, earlier))
    return made


def found(corpus, out, key, settings):
    """Metric -> its values for the validation and test targets, after a training."""
    run = seerec.train(corpus, out, model=key, settings=settings)
    parts = [seerec.evaluate(run.path, split=split).vectors() for split in ("val", "test")]
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


@pytest.mark.parametrize(
    ("key", "split"),
    [(key, "leave-one-out") for key in MODELS] + [(key, "chronological") for key in ("last-search-click", "sesrec", "lcr-ser")],
)
def test_nothing_of_the_future_lifts_a_model_above_chance(corpora, tiny_settings, tmp_path, key, split):
    values = found(corpora[split, 0], tmp_path / "run", key, tiny_settings(key, epochs=3))
    chance = random_level(NEGATIVES + 1)
    targets = len(values["mrr"])
    assert targets > 1.9 * USERS  # some are of items that were never shown in training
    for name, value in values.items():
        error = value.std() if name == "mrr" else (chance[name] * (1 - chance[name])) ** 0.5
        assert value.mean() < chance[name] + 4 * error / targets**0.5, name


@pytest.mark.parametrize(
    ("key", "split", "least"),
    [("last-search-click", "leave-one-out", 0.8), ("last-search-click", "chronological", 0.8), ("sesrec", "leave-one-out", 0.3)],
)
def test_a_search_before_the_request_gives_the_target_away(corpora, tiny_settings, tmp_path, key, split, least):
    """Without it the test above could pass because nothing was learnt."""
    values = found(corpora[split, HOUR], tmp_path / "run", key, tiny_settings(key, epochs=3))
    assert values["hr@1"].mean() > least


@pytest.mark.parametrize("split", SPLITS)
def test_an_item_of_the_future_is_no_candidate_and_counted_as_a_target_left_out(corpora, split):
    corpus = corpora[split, 0]
    left_out = corpus.manifest["counts"]["targets_test_outside_pool"]
    assert left_out >= USERS if split == "chronological" else left_out < 0.1 * USERS  # there nobody clicks it
    items = corpus.table("items").to_pydict()
    canary = [item for item, name in zip(items["item"], items["item_id"], strict=True) if name == CANARY]
    assert not any(corpus.item_pool[item] or corpus.item_count[item] for item in canary)


@pytest.mark.parametrize("split", SPLITS)
def test_where_every_time_ties_no_target_sees_itself_or_its_like(tmp_path, split):
    """Eight clicks a millisecond, some on one item; a history is what happened before, whatever the order of the rows."""
    draw, clicks, searches = random.Random(1), [], []
    moments = [START, START + 5 * DAY, START + 6 * DAY, START + 7 * DAY]
    for u in range(20):
        for time in moments:
            items = [f"i{draw.randrange(40)}" for _ in range(7)]
            rows = [{"user_id": f"u{u}", "timestamp": time, "item_id": item} for item in [*items, items[0]]]
            clicks += [row | {"request_id": f"{time} {place}"} for place, row in enumerate(rows)]
            searches += [row | {"search_id": f"{time} {place}", "query": row["item_id"]} for place, row in enumerate(rows)]
    draw.shuffle(clicks)
    log = {"recommendations": pd.DataFrame(clicks), "searches": pd.DataFrame(searches)}
    settings = SPLITS[split] | {"negatives": 20, "repeats": "keep"}
    corpus = seerec.prepare(tmp_path / "corpus", settings=settings, **log)
    looked = 0
    for part in ("train", "val", "test"):
        for target in corpus.targets(part):
            row, time = corpus.rec_row[target], corpus.rec_time[target]
            first, asked = corpus.rec_offset[row], corpus.search_offset[row]
            seen, known = corpus.rec_seen[target], corpus.rec_search_seen[target]
            number = 8 * moments.index(time)
            assert (seen, known) == (number, number)
            assert (corpus.rec_time[first : first + seen] < time).all()
            assert (corpus.search_time[asked : asked + known] < time).all()
            looked += 1
    assert looked > 20 * 8
