"""Saved models: the same scores back, and nothing but a named error from a damaged or hostile folder."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.untrained import untrained

from seerec import artifact
from seerec.artifact import corpus_of, locate, vocabulary_of
from seerec.config import BatchSettings
from seerec.data.batches import EvaluationBatches
from seerec.data.candidates import load as load_candidates
from seerec.data.corpus import Corpus
from seerec.errors import SeerecError
from seerec.models.registry import MODELS

BATCH = BatchSettings(rec_length=6, search_length=5, query_words=3, clicks=2)
SMALL = {
    "lcr-ser": {"width": 8, "hidden": (8,), "embedding_std": 0.5, "feature_std": 0.5},
    "sasrec": {"width": 8, "embedding_std": 0.5, "feature_std": 0.5},
}


def model_of(key, corpus):
    return untrained(corpus, key, SMALL.get(key, {}), BATCH, seed=1)


def saved(folder, key, corpus):
    artifact.save(folder, model_of(key, corpus), vocabulary_of(corpus, 3), corpus, BATCH, {"stage": 1})
    return folder


@pytest.fixture
def folder(tiny_corpus, tmp_path):
    return saved(tmp_path / "artifact", "sasrec", tiny_corpus)


@pytest.mark.parametrize("key", MODELS)
@torch.no_grad()
def test_scores_survive_saving_bit_for_bit(key, tiny_corpus, tmp_path):
    loaded = artifact.load(saved(tmp_path / "a", key, tiny_corpus))
    before = model_of(key, tiny_corpus)
    for _, batch in EvaluationBatches(tiny_corpus, BATCH, load_candidates(tiny_corpus, "test")):
        expected = before.score(before.encode(batch), before.items(batch.candidates))
        assert torch.equal(loaded.model.score(loaded.model.encode(batch), loaded.model.items(batch.candidates)), expected)
    assert not loaded.model.training
    assert loaded.batch == BATCH
    assert loaded.items.equals(tiny_corpus.table("items"))
    assert np.array_equal(loaded.pool, tiny_corpus.item_pool)
    assert loaded.tokeniser.max_words == tiny_corpus.manifest["tokeniser"]["max_words"]


def test_the_same_model_has_the_same_bytes(folder, tiny_corpus, tmp_path):
    again = saved(tmp_path / "again", "sasrec", tiny_corpus)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "features.safetensors", "items.parquet", "manifest.json", "users.parquet", "weights.safetensors", "words.parquet"
    ]  # fmt: skip
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)


def refused(folder, cause):
    with pytest.raises(SeerecError, match=cause) as caught:
        artifact.load(folder)
    for sentence in (caught.value.cause, caught.value.fix):
        assert sentence.endswith(".")
        assert "\n" not in sentence


FILES = ("weights.safetensors", "features.safetensors", "items.parquet", "users.parquet", "words.parquet")


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("left", [None, 0, 5, 0.5, 0.99])
def test_missing_and_truncated_files(folder, name, left):
    file = folder / name
    content = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(content[: int(left * len(content)) if isinstance(left, float) else left])
    refused(folder, "manifest.json cannot be read" if name == "manifest.json" else "is damaged")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_or_other_bytes_in_place_of_a_file(folder, name):
    (folder / name).write_bytes(b"\xff" * 1000)
    refused(folder, "is damaged")
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, "is damaged")


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_never_executed(folder, name, tmp_path):
    mark = tmp_path / "executed"
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    refused(folder, "is damaged")
    torch.save(Bomb(mark), folder / name)
    refused(folder, "is damaged")
    assert not mark.exists()


def change_manifest(folder, **changed):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changed}))


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"kind": "seerec-corpus"}, "not a trained model"),
        ({"format": 2}, "format 2"),
        ({"format": "new"}, "format 'new'"),
        ({"format": None}, "format None"),
        ({"model": "nobody"}, "no model 'nobody'"),
        ({"model": "os.system"}, "no model"),
        ({"model": "../../../etc/passwd"}, "no model"),
        ({"model": ["sasrec"]}, "damaged"),
        ({"model": None}, "no model"),
        ({"config": {"width": 8, "colour": 1}}, "damaged"),
        ({"config": {"width": 8, "heads": 3}}, "damaged"),
        ({"config": {"width": "8; import os"}}, "damaged"),
        ({"config": {"width": 16}}, "damaged"),
        ({"config": {"width": 10**7}}, "damaged"),
        ({"config": {"width": 2 * 10**15}}, "damaged"),
        ({"config": []}, "damaged"),
        ({"config": {"width": 8}}, "damaged .the config has no calibration"),
        ({"batch": {"rec_length": -1}}, "damaged"),
        ({"batch": {"rec_length": 7}}, "damaged"),
        ({"batch": 7}, "damaged"),
        ({"sizes": {"users": 5, "items": 5, "words": 5}}, "damaged"),
        ({"sizes": {"users": -1, "items": 5, "words": 5}}, "damaged"),
        ({"sizes": {"users": 10**15, "items": 5, "words": 5}}, "damaged"),
        ({"sizes": {"users": "many", "items": 5, "words": 5}}, "damaged"),
        ({"sizes": {}}, "damaged"),
        ({"tokeniser": {"colour": 1}}, "damaged"),
    ],
)
def test_manifests_that_lie(folder, changed, cause):
    change_manifest(folder, **changed)
    refused(folder, cause)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"seerec-artifact"', "NaN", "{" * 100_000, "\udcff"])
def test_manifests_that_are_no_object(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(folder, "is not a trained model")


@pytest.mark.parametrize("missing", ["config", "batch", "sizes", "model", "tokeniser"])
def test_manifests_with_a_gap(folder, missing):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest[missing]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder, "damaged")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder, value):
    weights = load_file(folder / "weights.safetensors")
    weights["inputs.item.weight"][3, 2] = value
    save_file(weights, folder / "weights.safetensors")
    refused(folder, "not finite .inputs.item.weight.")


def test_weights_of_other_shapes_or_names(folder):
    weights = load_file(folder / "weights.safetensors")
    for changed in (
        {**weights, "inputs.item.weight": weights["inputs.item.weight"][:-1].contiguous()},
        {**weights, "stranger": torch.zeros(1)},
        {name: tensor for name, tensor in weights.items() if name != "inputs.item.weight"},
        {},
    ):
        save_file(changed, folder / "weights.safetensors")
        refused(folder, "is damaged")


@pytest.mark.parametrize("name", ["item_pool", "item_count", "item_category", "item_text", "user_category"])
def test_features_with_a_gap_or_of_another_size(folder, name):
    features = load_file(folder / "features.safetensors")
    save_file({n: t for n, t in features.items() if n != name}, folder / "features.safetensors")
    refused(folder, "is damaged")
    save_file({**features, name: features[name][:-1].contiguous()}, folder / "features.safetensors")
    refused(folder, "is damaged")


@pytest.mark.parametrize("name", ["items", "users", "words"])
def test_tables_of_another_size_or_without_a_column(folder, name):
    table = pq.read_table(folder / f"{name}.parquet")
    pq.write_table(table.slice(1), folder / f"{name}.parquet")
    refused(folder, "is damaged")
    pq.write_table(table.drop_columns([table.column_names[1]]), folder / f"{name}.parquet")
    refused(folder, "is damaged")


def test_what_is_no_artifact_at_all(tiny_corpus, tmp_path):
    for place in (tmp_path / "missing", tmp_path, tiny_corpus.path):
        refused(place, "not a trained model")
        with pytest.raises(SeerecError, match=r"no trained model|There is no folder"):
            locate(place)
    with pytest.raises(SeerecError, match="not a prepared corpus"):
        Corpus.open(tmp_path)
    with pytest.raises(SeerecError, match="does not say which corpus"):
        corpus_of(tmp_path)


def test_a_run_gives_its_last_stage_or_the_one_asked_for(folder, tiny_corpus, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run / "stage1")
    assert locate(run) == run / "stage1"
    with pytest.raises(SeerecError, match="no model of stage 2"):
        locate(run, 2)
    shutil.copytree(folder, run / "stage2")
    assert [locate(run), locate(run, 1), locate(folder)] == [run / "stage2", run / "stage1", folder]
    (run / "run.json").write_text(json.dumps({"corpus": str(tiny_corpus.path)}))
    assert corpus_of(run).content_hash == corpus_of(run / "stage1").content_hash == tiny_corpus.content_hash
    (run / "run.json").write_text(json.dumps({"corpus": str(tmp_path / "gone")}))
    with pytest.raises(SeerecError, match="gone"):
        corpus_of(run)
