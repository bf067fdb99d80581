"""``evaluate`` a run, ``compare`` several."""

import shutil

import numpy as np
import pytest

import seerec
from seerec.errors import SeerecError
from seerec.evaluation.metrics import METRICS
from seerec.evaluation.results import Evaluation
from seerec.training.run import Run


@pytest.fixture
def copied(tiny_run, tmp_path):
    """A function of (model key, other arguments of the run): its folder, copied, so that evaluations stay apart."""

    def copy(model, name=None, **asked):
        return shutil.copytree(tiny_run(model, **asked).path, tmp_path / (name or model), ignore=lambda *_: ["evaluation"])

    return copy


def equal(one, other):
    names = ("target", "user_id", "known", "greater", "ties")
    return one.facts == other.facts and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


@pytest.mark.parametrize("candidates", ["sampled", "full"])
def test_what_is_saved_loads_equal(copied, tiny_corpus, candidates):
    run = copied("popularity")
    found = seerec.evaluate(run, candidates=candidates)
    assert equal(Evaluation.load(run / "evaluation" / f"test-{candidates}-stage1"), found)
    assert np.array_equal(found.target, tiny_corpus.targets("test"))
    assert found.facts["candidates_per_target"] == (100 if candidates == "sampled" else tiny_corpus.item_pool.sum())
    report = found.report()
    assert report["all"]["targets"] == len(found.target) == report["known"]["targets"] + report["unknown"]["targets"]
    assert report["all"]["mrr"] == pytest.approx(found.vectors()["mrr"].mean())
    assert not list(run.rglob(".partial-*"))


def test_known_and_unknown_users_are_told_apart(tmp_path, tiny_settings):
    """Split by time, some test users have no training click."""
    settings = {"split": "chronological", "val_fraction": 0.2, "test_fraction": 0.3, "negatives": 20}
    data = seerec.prepare(tmp_path / "c", source="simulated", options={"users": 60, "seed": 3}, settings=settings)
    run = seerec.train(data, tmp_path / "run", model="popularity", settings=tiny_settings("popularity"))
    found = seerec.evaluate(run.path)
    rows = data.rec_row[found.target]
    early = [time < data.manifest["bounds"]["val_start"] for time in (data.rec_time, data.search_time)]
    trained = np.concatenate([data.rec_row[early[0]], data.search_row[early[1]]])
    assert np.array_equal(found.known, np.isin(rows, trained))
    assert 0 < (~found.known).sum() < len(found.known)
    names = data.table("rows")["user_id"].to_pylist()
    assert found.user_id.tolist() == [names[row] for row in rows]
    report = found.report()
    both = sum(report[part]["targets"] * report[part]["mrr"] for part in ("known", "unknown"))
    assert report["all"]["mrr"] == pytest.approx(both / report["all"]["targets"])


def test_stages_splits_and_limits_have_their_own_place(copied):
    run = copied("lcr-ser", stages="all")
    for asked in ({}, {"stage": 1}, {"split": "val"}, {"limit": 9}):
        found = seerec.evaluate(run, **asked)
        assert found.facts["stage"] == asked.get("stage", 2)
    assert len(found.target) == 9
    names = {path.name for path in (run / "evaluation").iterdir()}
    assert names == {"test-sampled-stage2", "test-sampled-stage1", "val-sampled-stage2", "test-sampled-stage2-first9"}
    val = seerec.evaluate(run, split="val", stage=1).report()["all"]
    stored = seerec.evaluate(run / "stage1", corpus=Run.open(run).facts["corpus"], split="val").report()["all"]
    assert val == stored


def test_validation_in_training_is_the_evaluation_of_the_saved_model(copied):
    import json

    run = copied("sasrec")
    result = json.loads((run / "result.json").read_text())["stage1"]
    found = seerec.evaluate(run, split="val").report()["all"]
    assert {name: found[name] for name in METRICS} == result


def test_a_run_against_itself_differs_by_nothing(copied):
    one, same, other = copied("sasrec", "one"), copied("sasrec", "same"), copied("popularity")
    table = seerec.compare([one, same, other])
    for metric in METRICS:
        itself, against = table.comparisons[metric]
        assert (itself.difference, itself.t_p, itself.wilcoxon_p, itself.sign_flip_p) == (0.0, 1.0, 1.0, 1.0)
        first, third = table.evaluations[0].vectors()[metric], table.evaluations[2].vectors()[metric]
        assert against.difference == pytest.approx((third - first).mean())
        assert table.adjusted[metric][1] >= against.t_p
    records = table.report()
    assert [record["run"] for record in records] == [str(one), str(same), str(other)]
    assert "against_first" not in records[0]
    assert records[1]["against_first"]["mrr"]["users"] == len(np.unique(table.evaluations[0].user_id))


def test_stages_of_one_run_compare(copied):
    run = copied("lcr-ser", stages="all")
    table = seerec.compare([run, run], stages=[1, 2])
    assert [evaluation.facts["stage"] for evaluation in table.evaluations] == [1, 2]


def test_saved_evaluations_are_used_again(copied):
    run = copied("popularity")
    seerec.evaluate(run)
    marked = run / "evaluation" / "test-sampled-stage1" / "report.json"
    before = marked.stat().st_mtime_ns
    seerec.compare([run, run])
    assert marked.stat().st_mtime_ns == before


def test_other_candidates_or_another_corpus_are_refused(copied, tiny_settings, tmp_path):
    run = copied("popularity")
    other = seerec.prepare(tmp_path / "c", source="simulated", options={"users": 60}, settings={"seed": 4})
    redrawn = seerec.train(other, tmp_path / "redrawn", model="popularity", settings=tiny_settings("popularity"))
    with pytest.raises(SeerecError, match="other targets or candidates"):
        seerec.compare([run, redrawn.path])
    with pytest.raises(SeerecError, match="another corpus"):
        seerec.evaluate(run, corpus=other.path)
    with pytest.raises(SeerecError, match="no candidates for the split"):
        seerec.evaluate(run, split="train")
    with pytest.raises(SeerecError, match="no model of stage 2"):
        seerec.evaluate(run, stage=2)
    with pytest.raises(SeerecError, match="missing or damaged"):
        Evaluation.load(tmp_path)
