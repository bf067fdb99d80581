"""Every model trains on a corpus, with either objective, and what it learnt is kept, found again and evaluated."""

import json

import pytest
import torch

import seerec
from seerec import artifact
from seerec.data.draws import seed_of
from seerec.data.targets import sample_rows
from seerec.errors import SeerecError
from seerec.evaluation.metrics import METRICS
from seerec.models.base import NeuralRecommender
from seerec.models.registry import MODELS, build

pytestmark = pytest.mark.slow
LEARNING = [key for key, kind in MODELS.items() if issubclass(kind, NeuralRecommender)]
SEARCHING = [key for key, kind in MODELS.items() if kind.searches]


@pytest.mark.parametrize("objective", ["group", "original"])
@pytest.mark.parametrize("key", LEARNING)
def test_a_model_trains_and_its_validation_is_that_of_the_saved_weights(tiny_run, key, objective):
    run = tiny_run(key, epochs=1, objective=objective)
    result = json.loads((run.path / "result.json").read_text())["stage1"]
    found = seerec.evaluate(run.path, split="val").report()["all"]
    assert {name: found[name] for name in METRICS} == result
    assert result["mrr"] > 0
    before = artifact.load(run.artifact()).model
    assert before.key == key
    losses = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    trained = next(line for line in losses if line["kind"] == "train")
    assert ("search_rank" in trained) == (key in SEARCHING)


@pytest.mark.parametrize("key", SEARCHING)
def test_the_search_task_is_evaluated_with_its_queries(tiny_run, tiny_corpus, key):
    run = tiny_run(key, epochs=1, objective="group")
    found = seerec.evaluate(run.path, task="search")
    assert len(found.target) == (tiny_corpus.click_role == 3).sum()
    assert found.facts["task"] == "search"
    assert (run.path / "evaluation" / "search-test-sampled-stage1" / "report.json").is_file()
    assert found.facts["candidate_hash"] != seerec.evaluate(run.path).facts["candidate_hash"]
    full = seerec.evaluate(run.path, task="search", candidates="full")
    assert full.facts["candidates_per_target"] == tiny_corpus.items - 2


def test_a_model_without_a_search_task_refuses_it(tiny_run):
    with pytest.raises(SeerecError, match="does not learn from searches"):
        seerec.evaluate(tiny_run("sasrec").path, task="search")


def test_without_searches_a_model_of_both_tasks_learns_from_recommendations(tmp_path, tiny_settings):
    corpus = seerec.prepare(tmp_path / "c", source="simulated", options={"users": 60}, settings={"searches": "none"})
    run = seerec.train(corpus, tmp_path / "run", model="unisar", settings=tiny_settings("unisar", epochs=1))
    assert "search_rank" not in (run.path / "metrics.jsonl").read_text()
    with pytest.raises(SeerecError, match="no search targets"):
        seerec.evaluate(run.path, task="search")


def test_a_limit_of_time_is_told_and_holds_over_resumed_parts(tmp_path, tiny_corpus, tiny_settings):
    settings = tiny_settings("sasrec", epochs=10_000, patience=10_000, max_minutes=1e-9)
    run = seerec.train(tiny_corpus, tmp_path / "run", model="sasrec", settings=settings)
    assert json.loads((run.path / "result.json").read_text())["stage1"]["stopped"] == "time"
    again = seerec.train(tiny_corpus, tmp_path / "run", model="sasrec", settings=settings, resume=True)
    assert len([line for line in (again.path / "metrics.jsonl").read_text().splitlines() if '"val"' in line]) == 1


def test_a_sample_of_users_leaves_the_others_untrained(tmp_path, tiny_corpus, tiny_settings):
    settings = tiny_settings("lcr-ser", epochs=1, users=20, unknown_user_share=0.0)
    run = seerec.train(tiny_corpus, tmp_path / "run", model="lcr-ser", stages="1", settings=settings)
    loaded = artifact.load(run.artifact())
    torch.manual_seed(seed_of(0))
    new = build("lcr-ser", loaded.model.config, loaded.vocabulary, loaded.batch.rec_length, loaded.batch.search_length)
    moved = (loaded.model.inputs.user.weight != new.inputs.user.weight).any(1)
    users = tiny_corpus.row_user[sample_rows(tiny_corpus, 20)]
    assert sorted(moved.nonzero().flatten().tolist()) == sorted([1, *users])  # row 1 is the mean of the others
