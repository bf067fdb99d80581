"""``train(start=...)``: a trained model goes on on a newer corpus."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

import seerec
from seerec import artifact
from seerec.artifact import vocabulary_of
from seerec.data.sources.simulated import simulate
from seerec.errors import SeerecError
from seerec.models.registry import MODELS, build
from seerec.training.growth import adopt

LAST = "Wobbly"  # the last brand, which the newer log calls otherwise
NAMES = ("recommendations", "searches", "items", "users")


def move(table, column, text, other):
    """Another text where ``column`` reads ``text``."""
    place = table.column_names.index(column)
    return table.set_column(place, column, pc.if_else(pc.equal(table[column], text), other, table[column]))


@pytest.fixture(scope="module")
def tables():
    """The newer log; the older one lacks its first 15 users, so that all numbers move."""
    return simulate(users=60)


@pytest.fixture(scope="module")
def older(tables, tmp_path_factory):
    early = {}
    for name in NAMES:
        table = tables[name]
        early[name] = table.filter(pc.greater_equal(table["user_id"], "u15")) if "user_id" in table.column_names else table
    return seerec.prepare(tmp_path_factory.mktemp("older") / "corpus", **early)


@pytest.fixture(scope="module")
def newer(tables, tmp_path_factory):
    grown = dict(tables)
    # A new first value, so that the values of all known categories get other numbers.
    grown["items"] = move(grown["items"], "brand", LAST, "Aaaa")
    return seerec.prepare(tmp_path_factory.mktemp("newer") / "corpus", **{name: grown[name] for name in NAMES})


@pytest.fixture(scope="module", params=["lcr-ser", "sasrec"])
def key(request):
    return request.param


@pytest.fixture(scope="module")
def start(key, older, tiny_settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / key
    return seerec.train(older, out, model=key, stages="1", settings=tiny_settings(key, epochs=1)).artifact()


def fresh(old, corpus):
    torch.manual_seed(7)
    batch = old.batch
    words = batch.query_words
    return build(old.model.key, old.model.config, vocabulary_of(corpus, words), batch.rec_length, batch.search_length)


def numbers(table, number, raw):
    return dict(zip(table[raw].to_pylist(), table[number].to_pylist(), strict=True))


def test_what_both_know_starts_equal_and_the_rest_is_new(start, older, newer):
    old = artifact.load(start)
    model, untouched = fresh(old, newer), fresh(old, newer)
    adopt(model, old, newer)
    for part, (name, number, raw) in {
        "item": ("items", "item", "item_id"), "user": ("users", "user", "user_id"), "word": ("words", "word", "text"),
    }.items():  # fmt: skip
        before, now = numbers(older.table(name), number, raw), numbers(newer.table(name), number, raw)
        assert set(before) < set(now)
        assert any(before[raw_id] != now[raw_id] for raw_id in before)
        table = getattr(model.inputs, part).weight
        start_table, fresh_table = getattr(old.model.inputs, part).weight, getattr(untouched.inputs, part).weight
        for raw_id, row in now.items():
            same = start_table[before[raw_id]] if raw_id in before else fresh_table[row]
            assert torch.equal(table[row], same), (part, raw_id)
        assert torch.equal(table[:2], start_table[:2])


def test_categories_keep_their_vectors_under_new_numbers(start, older, newer):
    old = artifact.load(start)
    model = fresh(old, newer)
    untouched = [table.weight.clone() for table in [*model.inputs.item_values, *model.inputs.user_values]]
    adopt(model, old, newer)
    tables = [*model.inputs.item_values, *model.inputs.user_values]
    starts = [*old.model.inputs.item_values, *old.model.inputs.user_values]
    names = [("items", "brand"), ("items", "category"), ("users", "age_band"), ("users", "region")]
    moved = 0
    for table, start_table, fresh_table, (owner, column) in zip(tables, starts, untouched, names, strict=True):
        before, now = (
            numbers(c.table(f"{owner}_categories").filter(pc.field("column") == f"category_{column}"), "value", "text")
            for c in (older, newer)
        )
        for text, value in now.items():
            expected = start_table.weight[before[text]] if text in before else fresh_table[value]
            if text == "Aaaa":  # every item of the renamed brand is known: it goes on as the one it was
                expected = start_table.weight[before[LAST]]
            assert torch.equal(table.weight[value], expected), (column, text)
            moved += text in before and before[text] != value
        assert not table.weight[0].any()
    assert moved


def test_dense_weights_go_on_and_features_are_those_of_the_newer_corpus(start, newer):
    old = artifact.load(start)
    model = fresh(old, newer)
    adopt(model, old, newer)
    now = dict(model.named_parameters())
    for name, weight in old.model.named_parameters():
        if not name.startswith(("inputs.item.", "inputs.user.", "inputs.word.", "inputs.item_values", "inputs.user_values")):
            assert torch.equal(now[name], weight), name
    buffers = dict(model.named_buffers())
    assert torch.equal(buffers["inputs.item_category"], torch.from_numpy(np.array(newer.item_category)))


def test_training_goes_on(start, key, newer, tiny_settings, tmp_path):
    settings = tiny_settings(key, epochs=1, learning_rate=1e-5)
    grown = seerec.train(newer, tmp_path / "grown", model=key, stages="1", settings=settings, start=start)
    anew = seerec.train(newer, tmp_path / "anew", model=key, stages="1", settings=settings)
    # At a tiny rate the one from the start is still near it, and the other near nothing it has learned.
    near, far = (artifact.load(run.artifact()).model.inputs.item.weight for run in (grown, anew))
    old = artifact.load(start)
    model = fresh(old, newer)
    adopt(model, old, newer)
    known = [numbers(newer.table("items"), "item", "item_id")[raw] for raw in old.items["item_id"].to_pylist()]
    assert (near[known] - model.inputs.item.weight[known]).abs().max() < 1e-3
    assert (far[known] - model.inputs.item.weight[known]).abs().max() > 1e-2
    assert grown.facts["start"] == old.manifest["corpus_hash"]


def refused(cause, corpus, out, **asked):
    with pytest.raises(SeerecError, match=cause):
        seerec.train(corpus, out, stages="1", **asked)
    assert not out.exists()


def test_what_does_not_fit_is_refused_and_leaves_no_run(start, key, newer, tables, tiny_settings, tmp_path):
    other = {"lcr-ser": "sasrec", "sasrec": "lcr-ser"}[key]
    out, same = tmp_path / "run", {"model": key, "start": start}
    refused(f"{key} cannot start", newer, out, model=other, start=start, settings=tiny_settings(other))
    refused("cannot start", newer, out, model="popularity", start=start)
    refused("other model settings", newer, out, **same, settings=tiny_settings(key, model__width=16))
    refused("other model settings", newer, out, **same, settings=tiny_settings(key, model__dropout=0.2))
    refused("does not fit", newer, out, **same, settings=tiny_settings(key, batch__rec_length=12))
    refused("trained model", newer, out, model=key, start=tmp_path, settings=tiny_settings(key))
    part = {name: tables[name] for name in NAMES}
    renamed = tables["items"].rename_columns(["maker" if n == "brand" else n for n in tables["items"].column_names])
    fewer = tables["users"].drop_columns(["region"])
    for place, changed in {"renamed": {"items": renamed}, "fewer": {"users": fewer}}.items():
        corpus = seerec.prepare(tmp_path / place, **{**part, **changed})
        refused("other category columns", corpus, out, **same, settings=tiny_settings(key))
    assert isinstance(renamed, pa.Table)


def test_models_that_count_cannot_go_on(tiny_run, tiny_corpus, tmp_path):
    counted = [name for name in MODELS if name not in ("lcr-ser", "sasrec")]
    start = tiny_run(counted[0]).artifact()
    refused("cannot start", tiny_corpus, tmp_path / "run", model=counted[0], start=start)
