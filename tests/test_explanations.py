"""Explanations: attention is what the model computed, and leave-one-out is what a recommendation without the event gives."""

import json

import numpy as np
import pandas as pd
import pytest
from tests.untrained import save_run, untrained

import seerec
from seerec import artifact
from seerec.config import BatchSettings
from seerec.errors import SeerecError
from seerec.explanations import explain, text
from seerec.incoming import People
from seerec.kernels import library as loading
from seerec.models.registry import MODELS
from seerec.recommendations import recommend

BATCH = BatchSettings(rec_length=4, search_length=3, query_words=4, clicks=2)
LCR = {"width": 8, "hidden": (8,), "embedding_std": 0.7, "feature_std": 0.7}
VARIANTS = {
    "lcr-ser": ("lcr-ser", LCR),
    "without-steps": ("lcr-ser", LCR | {"steps": 0}),
    "two-layers": ("lcr-ser", LCR | {"layers": 2, "cross_layers": "all", "steps": 2}),
    "no-own": ("lcr-ser", LCR | {"cross_steps": False}),
    "sasrec": ("sasrec", {"width": 8, "embedding_std": 0.7, "feature_std": 0.7}),
    **{key: (key, {}) for key in MODELS if key not in ("lcr-ser", "sasrec")},
    # At tau .07 scores are near 70, where float32 has no 1e-5.
    **{key: (key, {"temperature": 1.0}) for key in ("rearec-erl", "rearec-prl")},
}
DAY = 86_400_000
EVIL = "[red]boots\x1b[31m :smile: warm"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve users with 8 clicks and 5 searches each; the last item has no title."""
    generator = np.random.Generator(np.random.Philox(3))
    recommendations = pd.DataFrame(
        [(f"u{u}", f"i{i}", n * DAY) for u in range(12) for n, i in enumerate(generator.permutation(20)[:8])],
        columns=["user_id", "item_id", "timestamp"],
    )
    searches = pd.DataFrame(
        [
            (f"u{u}", f"q{u}-{n}", n * DAY + 5, EVIL if n == 4 else f"thing {n} of {u % 3}", f"i{i}")
            for u in range(12)
            for n in range(5)
            for i in generator.permutation(20)[:3]
        ],
        columns=["user_id", "search_id", "timestamp", "query", "item_id"],
    )
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(20)], "title": [f"Boot {n}" for n in range(19)] + [None]})
    out = tmp_path_factory.mktemp("data") / "corpus"
    return seerec.prepare(out, recommendations=recommendations, searches=searches, items=items, settings={"negatives": 1})


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, (key, config) in VARIANTS.items():
        save_run(folder / name, untrained(corpus, key, config, BATCH, seed=2), corpus, BATCH)
    return folder


HISTORY = {
    "user_id": "u1",
    "recommendations": ["i3", "i1", "i4", "i15", "i9", "i2"],
    "searches": [
        {"query": "thing 1", "clicked": ["i6", "i5"]},
        {"query": "thing 2 of 1"},
        {"query": "boots unheard", "clicked": ["i3"]},
        {"query": "thing 3", "clicked": ["i8", "i7", "i9"]},
    ],
}


def timed(history):
    """The same events with times; clicks and searches take turns."""
    return {
        **history,
        "recommendations": [{"item_id": item, "timestamp": 2000 * n + 1} for n, item in enumerate(history["recommendations"])],
        "searches": [{**search, "timestamp": 2000 * n + 1001} for n, search in enumerate(history["searches"])],
    }


@pytest.mark.parametrize("name", ["lcr-ser", "two-layers"])
def test_attention_is_a_share_per_event_and_step(name, runs):
    found = explain(runs / name, history=HISTORY)
    assert [step["step"] for step in found["steps"]] == list(range(1, VARIANTS[name][1].get("steps", 3) + 1))
    for step in found["steps"]:
        for side, events, count in (("recommendation_side", "on_searches", 3), ("search_side", "on_clicks", 4)):
            weights = step[side][events]
            assert len(weights) == count
            assert min(weights) > 0
            assert sum(weights) < 1
            assert sum(weights) + step[side]["own_steps"] == pytest.approx(1)


@pytest.mark.parametrize("name", ["lcr-ser", "two-layers"])
def test_attention_is_what_the_model_computes_step_by_step(name, corpus, runs, monkeypatch):
    found = explain(runs / name, user="u5")
    seen = []
    loaded = artifact.load(runs / name / "stage1")
    monkeypatch.setattr(loading, "library", loading.Library(None, "as if nothing had been compiled"))

    def watch(attend):
        def watched(*inputs, **options):
            out, weights = attend(*inputs, **options)
            seen.append(weights[:, 0, 0].mean(0).detach().numpy())
            return out, weights

        return watched

    for layer in loaded.model.recommendation.cross:
        layer.attend = watch(layer.attend)
    row = corpus.table("rows")["user_id"].to_pylist().index("u5")
    loaded.model.eval().encode(People(corpus, BATCH).batch(np.array([row])))  # with a gradient: projected, not absorbed
    layers = len(loaded.model.recommendation.cross)
    assert len(seen) == layers * len(found["steps"])
    for place, step in enumerate(found["steps"]):
        expected = np.mean(seen[place * layers : (place + 1) * layers], 0)
        assert step["recommendation_side"]["on_searches"] == pytest.approx(expected, abs=1e-6)
    assert np.ptp([step["recommendation_side"]["on_searches"][0] for step in found["steps"]]) > 0


def test_where_there_are_no_own_inputs_all_attention_is_on_events(runs):
    for step in explain(runs / "no-own", history=HISTORY)["steps"]:
        assert sum(step["search_side"]["on_clicks"]) == pytest.approx(1)
    empty = explain(runs / "no-own", history={})["steps"]
    assert empty[0]["recommendation_side"] == {"on_searches": [], "own_steps": 0.0}


def scores(run, histories, item_id):
    every = recommend(run, histories=histories, k=100, exclude_seen=False)
    return [next(item["score"] for item in one["items"] if item["item_id"] == item_id) for one in every]


@pytest.mark.parametrize("name", VARIANTS)
def test_leave_one_out_equals_recomputation(name, runs):
    history = timed(HISTORY)  # without times, the place of an event in its list says when it was
    found = explain(runs / name, history=history, k=2, exclude_seen=False)
    assert (len(found["searches"]), len(found["clicks"])) == (3, 4)
    assert bool(found["steps"]) == (name in ("lcr-ser", "two-layers", "no-own"))
    shorter = {  # an older event moves in where one is taken out
        change: [{**history, log: history[log][:at] + history[log][at + 1 :]} for at in range(cut, len(history[log]))]
        for change, log, cut in (("without_click", "recommendations", 2), ("without_search", "searches", 1))
    }
    for item in found["items"]:
        assert item["score"] == pytest.approx(scores(runs / name, [history], item["item_id"])[0], abs=1e-5)
        for change, histories in shorter.items():
            left = np.array(scores(runs / name, histories, item["item_id"]))
            assert item[change] == pytest.approx(left - item["score"], abs=1e-5)
    if name in ("lcr-ser", "two-layers"):
        assert all(change != 0 for change in found["items"][0]["without_search"])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_items_are_the_recommended_ones(name, runs):
    found = explain(runs / name, user="u2", k=3)
    recommended = recommend(runs / name, users=["u2"], k=3)[0]
    assert (found["user_id"], found["known"], found["model"]) == ("u2", True, VARIANTS[name][0])
    for a, b in zip(found["items"], recommended["items"], strict=True):
        assert (a["rank"], a["item_id"], a["title"]) == (b["rank"], b["item_id"], b["title"])
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
    json.dumps(found)


def test_a_corpus_user_is_shown_with_texts_titles_and_times(corpus, runs):
    found = explain(runs / "lcr-ser", user="u7")
    assert [search["query"] for search in found["searches"]] == ["thing 2 of 1", "thing 3 of 1", EVIL]
    assert [search["timestamp"] for search in found["searches"]] == [2 * DAY + 5, 3 * DAY + 5, 4 * DAY + 5]
    assert [click["timestamp"] for click in found["clicks"]] == [n * DAY for n in range(4, 8)]
    for event in [*found["clicks"], *(item for search in found["searches"] for item in search["clicked"])]:
        assert event["title"] == (None if event["item_id"] == "i19" else f"Boot {event['item_id'][1:]}")
    row = corpus.table("rows")["user_id"].to_pylist().index("u7")
    ids = corpus.table("items")["item_id"].to_pylist()
    assert [click["item_id"] for click in found["clicks"]] == [
        ids[item - 2] for item in corpus.rec_item[slice(*corpus.rec_offset[row : row + 2])][-4:]
    ]


def test_a_given_item_is_explained_whatever_its_rank(runs):
    found = explain(runs / "lcr-ser", history=HISTORY, item="i3")
    assert [item["item_id"] for item in found["items"]] == ["i3"]
    assert found["items"][0]["rank"] is None
    assert found["items"][0]["score"] == pytest.approx(scores(runs / "lcr-ser", [HISTORY], "i3")[0], abs=1e-5)


def test_a_history_without_timestamps_has_none(runs):
    found = explain(
        runs / "lcr-ser",
        history={
            **HISTORY,
            "searches": [
                {"query": "boots", "timestamp": 7},
            ],
        },
    )
    assert {click["timestamp"] for click in found["clicks"]} == {None}
    assert [search["timestamp"] for search in found["searches"]] == [7]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({}, "Exactly one of user and history"),
        ({"user": "u1", "history": {}}, "Exactly one of user and history"),
        ({"user": "nobody"}, "no user 'nobody'"),
        ({"user": "u1", "item": "nothing"}, "does not know the item 'nothing'"),
        ({"user": "u1", "k": 0}, "k is 0"),
        ({"history": {"searches": "boots"}}, r"searches must be a list"),
    ],
)
def test_wrong_calls(wrong, sentence, runs):
    with pytest.raises(SeerecError, match=sentence):
        explain(runs / "sasrec", **wrong)


def test_the_text_shows_everything_and_nothing_that_a_terminal_obeys(runs):
    found = explain(runs / "lcr-ser", user="u7", k=2)
    shown = text(found)
    assert "lcr-ser for user u7" in shown
    assert "“[red]boots" in shown
    assert ":smile:" in shown
    assert "\x1b" not in shown
    assert "1970-01-05 00:00" in shown
    for column in ("step 1", "step 3", "change 1", "change 2", "own reasoning steps", "█"):
        assert column in shown
    for item in found["items"]:
        assert f"{item['score']:.4f}" in shown
        assert all(f"{change:+.4f}" in shown for change in item["without_click"])
    assert max(map(len, shown.splitlines())) <= 130


def test_the_text_of_a_model_without_reasoning_and_of_nobody(runs):
    shown = text(explain(runs / "popularity", history={"recommendations": ["i1", "gone"], "searches": []}))
    assert "step" not in shown
    assert "popularity for a history (not seen in training)" in shown
    assert "ignored, since training never saw them: gone" in shown
    assert "(none)" in shown
