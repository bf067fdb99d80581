"""The inference path: one result whichever way a history comes, and the right items in the right order."""

import json
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.untrained import save_run, untrained

import seerec
from seerec import artifact
from seerec.config import BatchSettings
from seerec.errors import SeerecError
from seerec.incoming import People
from seerec.models.registry import MODELS
from seerec.recommendations import Ranker, recommend, recommend_all

SMALL = {
    "lcr-ser": {"width": 8, "hidden": (8,), "embedding_std": 0.5, "feature_std": 0.5},
    "sasrec": {"width": 8, "embedding_std": 0.5, "feature_std": 0.5},
}
BATCH = BatchSettings(rec_length=6, search_length=5, query_words=3, clicks=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return seerec.prepare(tmp_path_factory.mktemp("data") / "corpus", source="simulated", options={"users": 60})


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """Every model by key, with random or counted weights, as a run folder."""
    folder = tmp_path_factory.mktemp("runs")
    for key in MODELS:
        save_run(folder / key, untrained(corpus, key, SMALL.get(key, {}), BATCH, seed=1), corpus, BATCH)
    return folder


def names(corpus):
    return corpus.table("rows")["user_id"].to_pylist()


def as_json(corpus, row, timestamps=True):
    """A row of the corpus written the way a client would."""
    items = dict(zip(corpus.table("items")["item"].to_pylist(), corpus.table("items")["item_id"].to_pylist(), strict=True))
    texts = corpus.table("queries")["text"].to_pylist()
    recs = [
        {"item_id": items[item], "timestamp": int(time)} if timestamps else items[item]
        for item, time in islice(zip(corpus.rec_item, corpus.rec_time, strict=True), *corpus.rec_offset[row : row + 2])
    ]
    searches = []
    for place in range(*corpus.search_offset[row : row + 2]):
        clicked = [items[item] for item in corpus.click_item[slice(*corpus.click_offset[place : place + 2])]]
        searches.append({"query": texts[corpus.search_query[place]], "clicked": clicked})
        if timestamps:
            searches[-1]["timestamp"] = int(corpus.search_time[place])
    return {"user_id": names(corpus)[row], "recommendations": recs, "searches": searches}


def scores(found):
    return [item["score"] for item in found["items"]]


@pytest.mark.parametrize("key", MODELS)
@pytest.mark.parametrize("timestamps", [True, False])
def test_a_known_user_equals_the_same_history_as_json(key, timestamps, corpus, runs):
    if "time" in MODELS[key].reads and not timestamps:
        pytest.skip("without timestamps nothing says how the two histories interleave")
    rows = [0, 7, 23]
    known = recommend(runs / key, users=[names(corpus)[row] for row in rows], k=20)
    given = recommend(runs / key, histories=[as_json(corpus, row, timestamps) for row in rows], k=20)
    for a, b in zip(known, given, strict=True):
        assert (a["user_id"], a["known"], a["ignored"]) == (b["user_id"], b["known"], b["ignored"])
        assert scores(a) == pytest.approx(scores(b), abs=1e-6)
        assert len(a["items"]) == 20


def test_the_order_of_a_history_is_that_of_its_timestamps(corpus, runs):
    history = as_json(corpus, 3)
    turned = {**history, "recommendations": history["recommendations"][::-1], "searches": history["searches"][::-1]}
    assert recommend(runs / "lcr-ser", histories=[history]) == recommend(runs / "lcr-ser", histories=[turned])


@pytest.mark.parametrize("key", MODELS)
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_top_k_equals_brute_force_over_the_pool(key, exclude_seen, corpus, runs, monkeypatch):
    monkeypatch.setattr("seerec.recommendations._CHUNK", 37)
    row, k = 11, 25
    found = recommend(runs / key, users=[names(corpus)[row]], k=k, exclude_seen=exclude_seen)[0]
    loaded = artifact.load(runs / key / "stage1")
    with torch.no_grad():
        state = loaded.model.encode(People(corpus, loaded.batch).batch(np.array([row])))
        every = loaded.model.score(state, loaded.model.items(torch.arange(corpus.items))[None, None])[0, 0].double().numpy()
    history = as_json(corpus, row)
    seen = {event["item_id"] for event in history["recommendations"]}
    seen |= {item for search in history["searches"] for item in search["clicked"]}
    ids = dict(zip(corpus.table("items")["item"].to_pylist(), corpus.table("items")["item_id"].to_pylist(), strict=True))
    allowed = [item for item in np.flatnonzero(corpus.item_pool) if not (exclude_seen and ids[item] in seen)]
    best = sorted(allowed, key=lambda item: (-every[item], item))[:k]
    assert scores(found) == pytest.approx([every[item] for item in best], abs=1e-5)
    assert [item["item_id"] for item in found["items"]] == [ids[item] for item in best]
    assert [item["rank"] for item in found["items"]] == list(range(1, k + 1))
    titles = dict(zip(corpus.table("items")["item_id"].to_pylist(), corpus.table("items")["title"].to_pylist(), strict=True))
    assert all(item["title"] == titles[item["item_id"]] for item in found["items"])
    whole = recommend(runs / key, users=[names(corpus)[row]], k=corpus.items, exclude_seen=exclude_seen)[0]["items"]
    assert len(whole) == len(allowed)
    assert bool(seen & {item["item_id"] for item in whole}) != exclude_seen


def test_k_beyond_the_pool_gives_the_whole_pool_once(corpus, runs):
    found = recommend(runs / "sasrec", histories=[{}], k=10**6)[0]["items"]
    assert len({item["item_id"] for item in found}) == len(found) == int(corpus.item_pool.sum())


def test_unknown_items_drop_out_and_are_named(corpus, runs):
    history = as_json(corpus, 5, timestamps=False)
    spoiled = {
        **history,
        "recommendations": ["nowhere", *history["recommendations"], 12345678, "nowhere"],
        "searches": [*history["searches"], {"query": "?!", "clicked": ["gone"]}],
    }
    clean, found = recommend(runs / "lcr-ser", histories=[history, spoiled])
    assert found["ignored"] == ["nowhere", "12345678", "gone"]
    assert found["items"] == [{**item, "score": pytest.approx(item["score"], abs=1e-6)} for item in clean["items"]]


def test_an_unknown_word_is_the_unknown_word_and_not_nothing(corpus, runs):
    def of(query):
        return scores(recommend(runs / "lcr-ser", histories=[{"searches": [{"query": query}]}])[0])

    assert of("qqqq") == of("zzzz")
    assert of("qqqq") != of("")
    one, other = corpus.table("items")["item_id"][:2].to_pylist()
    blank, unknown, twice = (
        scores(
            recommend(runs / "lcr-ser", histories=[{"searches": [{"query": query, "clicked": clicked}]}], exclude_seen=False)[0]
        )
        for query, clicked in (("", [one, other]), ("qqqq", [one, other]), ("qqqq", [one, "gone", one, other]))
    )
    assert blank != unknown == twice  # a click counts once, as in a corpus
    word = corpus.table("words")["text"][0].as_py()
    assert of(word) != of("qqqq")
    assert of([word, word]) == of(f"{word} {word}")


def test_a_known_user_id_uses_its_own_row(corpus, runs):
    known, unknown, nobody = recommend(
        runs / "lcr-ser", histories=[{"user_id": names(corpus)[0]}, {"user_id": "nobody"}, {"user_id": None}]
    )
    assert (known["known"], unknown["known"], nobody["known"]) == (True, False, False)
    assert scores(known) != scores(unknown)
    assert scores(unknown) == scores(nobody)


@pytest.mark.parametrize("key", MODELS)
def test_a_cold_user_gets_k_items_without_the_corpus(key, runs, tmp_path):
    moved = tmp_path / "artifact"
    moved.symlink_to(runs / key / "stage1")
    found = recommend(moved, histories=[{}, {"recommendations": [], "searches": []}], k=7)
    assert [len(result["items"]) for result in found] == [7, 7]
    assert [item["item_id"] for item in found[0]["items"]] == [item["item_id"] for item in found[1]["items"]]
    assert scores(found[0]) == pytest.approx(scores(found[1]), abs=1e-6)


def test_a_number_is_the_same_id_as_its_text(runs):
    ignored = recommend(runs / "popularity", histories=[{"recommendations": [5, "5", np.int64(5)]}])[0]["ignored"]
    assert ignored == ["5"]


def test_an_unknown_user_is_named(runs):
    with pytest.raises(SeerecError, match="no user 'nobody'") as error:
        recommend(runs / "popularity", users=["nobody"])
    assert "history" in error.value.fix


MALFORMED = [
    ({"a": 1}, r"histories must be a list, not an object"),
    ([3], r"histories\[0\] must be an object with user_id, recommendations, searches, not 3"),
    ([{}, {"recomendations": []}], r"histories\[1\] has an unknown field 'recomendations'"),
    ([{"user_id": 1.5}], r"histories\[0\].user_id must be a user id, as text or a whole number, not 1.5"),
    ([{"user_id": True}], r"user_id must be .* not true or false"),
    ([{"recommendations": "i1"}], r"histories\[0\].recommendations must be a list, not text"),
    ([{"recommendations": ["i1", None]}], r"recommendations\[1\] must be an item id, .* not nothing"),
    ([{"recommendations": [[1]]}], r"recommendations\[0\] must be an item id, .* not a list"),
    ([{"recommendations": [""]}], r"recommendations\[0\] must be an item id, .* not text"),
    ([{"recommendations": [{"timestamp": 1}]}], r"recommendations\[0\].item_id must be an item id"),
    ([{"recommendations": [{"item_id": 1, "clicked": True}]}], r"recommendations\[0\] has an unknown field 'clicked'"),
    ([{"recommendations": [{"item_id": 1, "timestamp": "now"}]}], r"\[0\].timestamp must be a whole number of milliseconds"),
    ([{"recommendations": [{"item_id": 1, "timestamp": 2**63}]}], r"\[0\].timestamp must be a whole number"),
    ([{"recommendations": [{"item_id": 1, "timestamp": 1}, 2]}], r"Only some events of histories\[0\].recommendations"),
    ([{"recommendations": ["\ud800"]}], r"recommendations\[0\] is not valid Unicode"),
    ([{"searches": ["shoes"]}], r"searches\[0\] must be an object with query, clicked, timestamp, not text"),
    ([{"searches": [{"query": 5}]}], r"searches\[0\].query must be text, not 5"),
    ([{"searches": [{"query": [None]}]}], r"searches\[0\].query\[0\] must be a word id"),
    ([{"searches": [{"clicked": {}}]}], r"searches\[0\].clicked must be a list, not an object"),
    ([{"searches": [{"clicked": [1, 2.0]}]}], r"searches\[0\].clicked\[1\] must be an item id"),
    ([{"searches": [{"query": "\udfff"}]}], r"searches\[0\].query is not valid Unicode"),
]


@pytest.mark.parametrize(("histories", "sentence"), MALFORMED)
def test_malformed_histories_name_the_position(histories, sentence, runs):
    with pytest.raises(SeerecError, match=sentence):
        recommend(runs / "popularity", histories=histories)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"k": 0, "users": []}, "k is 0"), ({}, "Nobody"), ({"users": "u1"}, "list of user ids")],
)
def test_wrong_calls(wrong, sentence, runs):
    with pytest.raises(SeerecError, match=sentence):
        recommend(runs / "popularity", **wrong)


def test_another_corpus_is_refused(runs, tmp_path):
    other = seerec.prepare(tmp_path / "other", source="simulated", options={"users": 20, "seed": 5})
    with pytest.raises(SeerecError, match="another corpus"):
        recommend(runs / "popularity", users=["u000"], corpus=other.path)


@pytest.mark.parametrize("key", ["popularity", "lcr-ser"])
def test_recommend_all_equals_recommend(key, corpus, runs, tmp_path):
    out = tmp_path / "all.parquet"
    assert recommend_all(runs / key, out, k=6, rows=17) == len(names(corpus))
    found = pq.read_table(out).to_pylist()
    expected = [
        {"user_id": one["user_id"], **item, "score": pytest.approx(item["score"], abs=1e-6)}
        for one in recommend(runs / key, users=names(corpus), k=6)
        for item in one["items"]
    ]
    assert found == expected
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]


@contextmanager
def killed_after(calls):
    """Make the ranker die when it has been called that often."""
    best, left = Ranker.best, iter(range(calls))

    def dying(self, *arguments, **named):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return best(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranker, "best", dying)
        yield


def test_a_killed_run_resumes_to_the_same_bytes(runs, tmp_path):
    whole, out = tmp_path / "whole.parquet", tmp_path / "resumed.parquet"
    recommend_all(runs / "lcr-ser", whole, rows=13)
    for calls in (2, 1):
        with killed_after(calls), pytest.raises(KeyboardInterrupt):
            recommend_all(runs / "lcr-ser", out, rows=13, resume=True)
        assert not out.exists()
    parts = sorted(path.name for path in tmp_path.joinpath("resumed.parquet.parts").glob("*.parquet"))
    assert parts == [f"{start:012d}.parquet" for start in (0, 13, 26)]
    with killed_after(2):  # what is left takes exactly two calls, so nothing finished is computed again
        recommend_all(runs / "lcr-ser", out, rows=13, resume=True)
        recommend_all(runs / "lcr-ser", out, rows=13, resume=True)  # finished: nothing to do
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.parquet", "whole.parquet"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"k": 3, "resume": True}, "with another k"),
        ({"key": "sasrec", "resume": True}, "with another model"),
        ({"exclude_seen": False, "resume": True}, "with another exclude_seen"),
        ({}, "unfinished run"),
    ],
)
def test_a_resume_that_asks_something_else_is_refused(changed, sentence, runs, tmp_path):
    out = tmp_path / "all.parquet"
    with killed_after(1), pytest.raises(KeyboardInterrupt):
        recommend_all(runs / "popularity", out, rows=20)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(SeerecError, match=sentence):
        recommend_all(runs / changed.pop("key", "popularity"), out, rows=20, **changed)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_the_file_is_replaced_whole_and_what_is_not_its_own_is_refused(runs, tmp_path):
    out = tmp_path / "all.parquet"
    for k in (2, 1):
        recommend_all(runs / "popularity", out, k=k)
        assert json.loads(pq.read_schema(out).metadata[b"seerec"])["k"] == k
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(SeerecError, match="no file of recommendations"):
        recommend_all(runs / "popularity", tmp_path / "diary.txt", k=1)
    assert (tmp_path / "diary.txt").read_text() == "mine"
    with pytest.raises(SeerecError, match="is a folder"):
        recommend_all(runs / "popularity", Path(tmp_path))


def test_scores_that_are_not_finite_are_refused(corpus, runs):
    loaded = artifact.load(runs / "sasrec" / "stage1")
    ranker = Ranker(loaded)
    ranker._parts = [(ids, vectors * float("nan")) for ids, vectors in ranker._parts]
    with pytest.raises(SeerecError, match="not finite"):
        ranker.best(People(corpus, loaded.batch), np.array([0]), 5)
