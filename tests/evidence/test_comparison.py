"""The whole command on a tiny corpus: run, killed and resumed, shared, missing, refused."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.evidence.conftest import ASKED, MODELS

import seerec
from seerec import cli
from seerec.data.corpus import TEST
from seerec.errors import DiskError, SeerecError
from seerec.evaluation.metrics import METRICS
from seerec.evaluation.results import Evaluation
from seerec.evidence import cells as cells_module
from seerec.evidence import comparison as comparison_module
from seerec.evidence import question
from seerec.evidence.comparison import Comparison
from seerec.evidence.question import Cell
from seerec.models.registry import MODELS as MODELS_BY_KEY
from seerec.progress import Bar, Progress

SEARCHES = next(key for key, model in MODELS_BY_KEY.items() if model.searches)
CLOCKS = ("seconds", "seconds_tuning", "folder", "stopped_by_time")


def without_clock(content):
    """A document without what depends on the time or the place."""
    if isinstance(content, dict):
        return {name: without_clock(value) for name, value in content.items() if name not in CLOCKS}
    return [without_clock(value) for value in content] if isinstance(content, list | tuple) else content


def command(corpus, out, *more):
    """``ASKED`` as the command line spells it."""
    flags = [
        word
        for name, value in ASKED.items()
        if name != "settings"
        for word in (f"--{name.replace('_', '-')}", ",".join(value) if name == "models" else str(value))
    ]
    pairs = [word for name, value in ASKED["settings"].items() for word in ("--set", f"{name}={value}")]
    return ["compare", str(corpus.path), "--out", str(out), *flags, *pairs, *more]


# -- what comes out -------------------------------------------------------------------------------------------------


def test_every_cell_is_recorded_and_trials_never_touch_the_test_split(finished):
    out, document = finished
    names = {path.name for path in (out / "cells").iterdir()}
    seeds = {f"{model}-seed-{number}" for model in MODELS for number in (0, 1)}
    trials = {"sasrec-trial-0", "sasrec-trial-1"}
    assert names == {f"{name}.json" for name in seeds | trials} | {f"{name}.npz" for name in seeds}
    for name in trials:
        record = json.loads((out / "cells" / f"{name}.json").read_text())
        assert "test" not in record
        assert record["settings"]["users"] == 40
        assert [line["epoch"] for line in record["curve"]] == [0, 1]
        assert record["value"] == record["validation"]["stage1"]["ndcg@5"] == max(line["ndcg@5"] for line in record["curve"])
    assert document["broken"] == {}
    assert not list(out.rglob("checkpoints"))
    with np.load(out / "cells" / "sasrec-seed-0.npz", allow_pickle=False) as ranks:
        assert {ranks[name].dtype for name in ranks.files} == {np.dtype(np.uint8)}


def test_a_trial_cannot_call_the_evaluation(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(cells_module, "evaluate", lambda *_, **__: pytest.fail("the test split was read"))
    comparison = Comparison(tiny_corpus, tmp_path / "out", **{**ASKED, "models": ("sasrec",)})
    for cell in comparison.work.trials("sasrec"):
        assert comparison.work.do(cell, comparison_module.SILENT)["failed"] is None


def test_seeds_have_the_settings_that_validation_chose(finished):
    out, document = finished
    tried = [json.loads((out / "cells" / f"sasrec-trial-{n}.json").read_text()) for n in (0, 1)]
    best = max(tried, key=lambda record: record["value"])["number"]
    (row,) = [model for model in document["models"] if model["model"] == "sasrec"]
    assert row["chosen"]["trial"] == best
    for number in (0, 1):
        seed = json.loads((out / "cells" / f"sasrec-seed-{number}.json").read_text())
        assert seed["settings"]["seed"] == number
        assert seed["settings"]["users"] is None
        own = ("seed", "users", "max_minutes")
        assert {n: v for n, v in seed["asked"].items() if n not in own} == {
            n: v for n, v in tried[best]["asked"].items() if n not in own
        }


def expected_metrics(greater, ties):
    """Every metric of one target, averaged over each place that its ties may take."""
    places = range(greater + 1, greater + ties + 2)
    at = {
        "hr": lambda k: [p <= k for p in places],
        "ndcg": lambda k: [(p <= k) / math.log2(p + 1) for p in places],
    }
    found = {name: at[name.split("@")[0]](int(name.split("@")[1])) for name in METRICS if name != "mrr"}
    return {name: sum(values) / len(values) for name, values in {**found, "mrr": [1 / p for p in places]}.items()}


def test_the_table_equals_a_slow_computation_from_the_runs(finished, tiny_corpus):
    out, document = finished
    seeds = {
        model: [Evaluation.load(out / "runs" / model / f"seed-{n}" / "evaluation" / "test-sampled-stage1") for n in (0, 1)]
        for model in MODELS
    }
    rows = {row["model"]: row for row in document["tasks"]["recommendation"]["rows"]}
    for metric in METRICS:
        by_target = {
            model: [[expected_metrics(g, t)[metric] for g, t in zip(e.greater, e.ties, strict=True)] for e in found]
            for model, found in seeds.items()
        }
        users = sorted(set(seeds["sasrec"][0].user_id))

        def of_users(model, by_target=by_target, users=users):
            found = []
            for user in users:
                values = [
                    np.mean([v for v, u in zip(vector, e.user_id, strict=True) if u == user])
                    for vector, e in zip(by_target[model], seeds[model], strict=True)
                ]
                found.append(values)
            return np.array(found)  # U S

        p = {}
        for model in MODELS:
            means = [np.mean(vector) for vector in by_target[model]]
            assert rows[model]["metrics"][metric]["mean"] == pytest.approx(np.mean(means), abs=1e-12)
            assert rows[model]["metrics"][metric]["std"] == pytest.approx(np.std(means, ddof=1), abs=1e-12)
            if model != "sasrec":
                a, b = of_users(model), of_users("sasrec")
                test = stats.ttest_rel(a.mean(1), b.mean(1))
                p[model] = test.pvalue
                found = rows[model]["against"][metric]
                difference = a.mean(1) - b.mean(1)
                interval = test.confidence_interval(0.95)
                error = math.sqrt(sum(x.mean(0).var(ddof=1) / 2 for x in (a, b)))
                wanted = (difference.mean(), interval.low, interval.high, test.pvalue, difference.mean() / difference.std(ddof=1))
                names = ("difference", "low", "high", "t_p", "effect_size")
                assert [found[name] for name in names] == pytest.approx(wanted, abs=1e-12)
                assert found["seed_error"] == pytest.approx(error, abs=1e-12)
        small, large = sorted(p, key=p.get)
        holm = {small: min(1, 2 * p[small])}
        holm[large] = min(1, max(holm[small], p[large]))
        for model, value in holm.items():
            found = rows[model]["against"][metric]
            assert found["holm_p"] == pytest.approx(value)
            sure = value < 0.05 and abs(found["difference"]) > 2 * found["seed_error"]
            assert found["verdict"] == (("better" if found["difference"] > 0 else "worse") if sure else "no difference")
    report = seerec.evaluate(out / "runs" / "sasrec" / "seed-0", corpus=tiny_corpus.path).report()["all"]
    assert rows["sasrec"]["metrics"]["mrr"]["by_seed"][0] == pytest.approx(report["mrr"], abs=1e-12)


def test_parameters_and_seconds_are_those_of_the_models(finished):
    out, document = finished
    facts = {model["model"]: model for model in document["models"]}
    loaded = seerec.artifact.load(out / "runs" / "sasrec" / "seed-0" / "stage1").model
    assert facts["sasrec"]["parameters"] == sum(p.numel() for p in loaded.parameters()) > 0
    assert facts["popularity"]["parameters"] == 0
    assert all(model["seconds"] > 0 for model in facts.values())
    assert facts["sasrec"]["seconds_tuning"] > 0 == facts["popularity"]["seconds_tuning"]


def test_models_of_searches_have_a_table_of_search_targets(tiny_corpus, tmp_path):
    asked = {**ASKED, "models": ("popularity", SEARCHES), "against": "popularity", "seeds": 2, "trials": 0}
    document = Comparison(tiny_corpus, tmp_path / "out", **{**asked, "settings": {**ASKED["settings"], "epochs": 1}}).run()
    task = document["tasks"]["search"]
    assert task["against"] == SEARCHES, "popularity has no search targets"
    assert [row["model"] for row in task["rows"]] == [SEARCHES]
    assert task["targets"] == (np.asarray(tiny_corpus.click_role) == TEST).sum()
    found = Evaluation.load(tmp_path / "out" / "runs" / SEARCHES / "seed-1" / "evaluation" / "search-test-sampled-stage1")
    assert task["rows"][0]["metrics"]["mrr"]["by_seed"][1] == pytest.approx(found.vectors()["mrr"].mean(), abs=1e-12)
    assert (tmp_path / "out" / "table-search.tex").is_file()
    assert [row["model"] for row in document["tasks"]["recommendation"]["rows"]] == ["popularity", SEARCHES]


# -- resumed, shared ------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_not_run_again(again, copied, finished, monkeypatch):
    monkeypatch.setattr(cells_module, "train", lambda *_, **__: pytest.fail("a recorded cell was trained"))
    before = {path: path.read_bytes() for path in (copied / "cells").iterdir()}
    assert without_clock(again().run()) == without_clock(finished[1])
    assert {path: path.read_bytes() for path in (copied / "cells").iterdir()} == before


def test_killed_in_the_middle_and_resumed_it_ends_in_the_same_table(tiny_corpus, tmp_path, finished):
    out = tmp_path / "out"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "seerec", *command(tiny_corpus, out, "--json")],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not list(out.glob("cells/*-seed-*.json")) and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    comparison = Comparison(tiny_corpus, out, **ASKED)
    done = comparison.plan(0.01)["total"]
    assert 0 < done["done"] < done["cells"]
    assert without_clock(comparison.run()) == without_clock(finished[1])


def test_a_cell_that_another_process_holds_is_done_when_it_is_free(again, copied, finished, monkeypatch):
    monkeypatch.setattr(comparison_module, "POLL", 0.05)
    for name in ("sasrec-seed-1", "popularity-seed-0"):
        (copied / "cells" / f"{name}.json").unlink()
    comparison, held, order = again(), threading.Event(), []
    release = threading.Event()

    def hold():
        with comparison.work.shelf.claimed(Cell("popularity", "seed", 0)) as free:
            assert free
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)

    def tell(record):
        order.append(record["model"])
        release.set()

    document = comparison.run(tell=tell)
    thread.join()
    assert order == ["sasrec", "popularity"]
    assert without_clock(document) == without_clock(finished[1])


def test_training_ended_by_the_time_limit_is_said(tiny_corpus, tmp_path):
    settings = {**ASKED["settings"], "epochs": 1000, "patience": 1000}
    asked = {
        **ASKED,
        "models": ("sasrec",),
        "seeds": 1,
        "trials": 1,
        "minutes": 0.01,
        "tune_minutes": 0.005,
        "settings": settings,
    }
    document = Comparison(tiny_corpus, tmp_path / "out", **asked).run()
    record = json.loads((tmp_path / "out" / "cells" / "sasrec-seed-0.json").read_text())
    assert record["stopped"] == {"stage1": "time"}
    assert 0.6 <= record["seconds"]["stage1"] < 10
    assert document["models"][0]["stopped_by_time"] == 1
    assert "the time limit ended 1 of 1 seeds" in (tmp_path / "out" / "table.md").read_text()


def test_two_stages_share_the_time_of_a_seed():
    assert question.limits("sasrec", {}, 20.0) == {"max_minutes": 20.0}
    two = question.limits("lcr-ser", {}, 20.0)
    assert set(two) == {"max_minutes", "reinforce.max_minutes"}
    assert sum(two.values()) == pytest.approx(20.0)
    assert question.limits("lcr-ser", {"reinforce.epochs": 0}, 20.0) == {"max_minutes": 20.0}


class Impatient(Progress):
    """Interrupts training at step 12 of the second epoch."""

    @contextmanager
    def task(self, label, total, unit, done=0):
        bar = Bar(None, 0, unit)
        steps = iter(range(done, total))

        def advance(count, **_):
            time.sleep(0.01 * count)
            if "epoch 2/" in label and next(steps) == min(11, total - 1):
                raise KeyboardInterrupt

        bar.advance = advance
        yield bar


def test_the_seconds_of_an_interrupted_cell_are_those_of_all_its_parts(tiny_corpus, tmp_path):
    asked = {**ASKED, "models": ("sasrec",), "seeds": 1, "trials": 0}
    asked["settings"] = {**ASKED["settings"], "checkpoint_seconds": 0, "batch.rows": 2}
    comparison = Comparison(tiny_corpus, tmp_path / "out", **asked)
    with pytest.raises(KeyboardInterrupt):
        comparison.run(Impatient(shown=False))
    places = sorted((tmp_path / "out").rglob("position.json"))
    spent = json.loads(places[-1].read_text())["seconds"]
    assert spent > 0.1
    assert json.loads((tmp_path / "out" / "table.json").read_text())["models"][0]["seeds"] == 0, "what there is, as missing"
    assert comparison.run()["models"][0]["seconds"] > spent


# -- missing --------------------------------------------------------------------------------------------------------


def test_a_missing_cell_and_a_missing_model_are_shown_as_missing(again, copied, finished):
    (copied / "cells" / "popularity-seed-1.json").unlink()
    for number in (0, 1):
        (copied / "cells" / f"last-click-seed-{number}.json").unlink()
    document = again().table()
    rows = {row["model"]: row for row in document["tasks"]["recommendation"]["rows"]}
    whole = {row["model"]: row for row in finished[1]["tasks"]["recommendation"]["rows"]}
    assert [rows[model]["seeds"] for model in MODELS] == [1, 0, 2]
    assert {test["verdict"] for test in rows["popularity"]["against"].values()} == {"one seed only"}
    assert rows["popularity"]["metrics"]["mrr"]["std"] is None
    assert rows["last-click"]["metrics"] == rows["last-click"]["against"] == {}
    assert rows["sasrec"]["metrics"]["mrr"]["mean"] == whole["sasrec"]["metrics"]["mrr"]["mean"]
    test = rows["popularity"]["against"]["mrr"]
    assert test["holm_p"] == pytest.approx(min(1, 2 * test["t_p"])), "a missing row still counts in Holm's adjustment"


def test_without_the_reference_there_are_no_tests(again, copied):
    for number in (0, 1):
        (copied / "cells" / f"sasrec-seed-{number}.json").unlink()
    rows = again().table()["tasks"]["recommendation"]["rows"]
    assert [row["against"] for row in rows] == [{}, {}, {}]
    assert rows[0]["metrics"]


def test_an_unforeseen_error_leaves_one_cell_missing_and_is_tried_again(
    again, copied, finished, monkeypatch, capsys, tiny_corpus
):
    (copied / "cells" / "sasrec-seed-1.json").unlink()
    (copied / "cells" / "popularity-seed-1.json").unlink()
    real = cells_module.train

    def fail(corpus, run, **asked):
        if asked["model"] == "sasrec":
            raise RuntimeError("a bug")
        return real(corpus, run, **asked)

    monkeypatch.setattr(cells_module, "train", fail)
    code = cli.main(command(tiny_corpus, copied))
    printed = capsys.readouterr().out
    assert code == 1
    assert "1 of 2" in printed
    assert "sasrec-seed-1: RuntimeError: a bug" in printed
    assert "RuntimeError: a bug" in (copied / "broken" / "sasrec-seed-1.txt").read_text()
    monkeypatch.undo()
    assert without_clock(again().run()) == without_clock(finished[1])
    assert not list((copied / "broken").iterdir())


def test_a_trial_that_broke_keeps_its_model_waiting(again, copied, monkeypatch):
    for name in ("sasrec-trial-1", "sasrec-seed-0", "sasrec-seed-1"):
        (copied / "cells" / f"{name}.json").unlink()
    monkeypatch.setattr(cells_module, "train", lambda *_, **__: 1 / 0)
    document = again().run()
    assert list(document["broken"]) == ["sasrec-trial-1"]
    (row,) = [model for model in document["models"] if model["model"] == "sasrec"]
    assert (row["seeds"], list(row["missing"])) == (0, ["sasrec-trial-1"])


def test_settings_that_diverge_are_a_recorded_failure(tiny_corpus, tmp_path):
    asked = {**ASKED, "models": ("sasrec",), "seeds": 1, "settings": {**ASKED["settings"], "model.embedding_std": 1e30}}
    document = Comparison(tiny_corpus, tmp_path / "out", **asked).run()
    (row,) = document["models"]
    assert row["seeds"] == 0
    assert all(cause.startswith("The loss is ") for cause in row["missing"].values())
    assert row["chosen"]["trial"] == 0
    assert document["broken"] == {}


def of_the_disk():
    error = SeerecError("Cannot write.", "Free disk space.")
    error.__cause__ = OSError(28, "No space left on device")
    return error


@pytest.mark.parametrize("raised", [DiskError("Cannot write.", "Free disk space."), of_the_disk()])
def test_a_full_disk_stops_everything(again, copied, monkeypatch, raised):
    (copied / "cells" / "sasrec-seed-1.json").unlink()

    def full(*_, **__):
        raise raised

    monkeypatch.setattr(cells_module, "train", full)
    with pytest.raises(SeerecError, match="Cannot write"):
        again().run()


# -- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": 3}, "was asked with seeds 2, now with 3"),
        ({"trials": 3}, "asked with trials"),
        ({"models": ("sasrec", "popularity")}, "asked with models"),
        ({"minutes": 2.0}, "asked with minutes"),
        ({"settings": {}}, "asked with settings"),
    ],
)
def test_another_question_in_the_same_folder_is_refused(again, changed, message):
    with pytest.raises(SeerecError, match=message):
        again(**changed)


def test_another_corpus_or_space_is_refused(copied, tmp_path, again, monkeypatch):
    other = seerec.prepare(tmp_path / "c", source="simulated", options={"users": 30, "seed": 5})
    with pytest.raises(SeerecError, match="another corpus hash"):
        Comparison(other, copied, **ASKED)
    monkeypatch.setattr(comparison_module, "space", dict)
    with pytest.raises(SeerecError, match="another space"):
        again()


def edit(file, **changed):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda cells: (cells / "sasrec-seed-0.npz").unlink(),
        lambda cells: (cells / "sasrec-seed-0.npz").write_bytes((cells / "sasrec-seed-0.npz").read_bytes()[:60]),
        lambda cells: (cells / "sasrec-seed-0.npz").write_bytes((cells / "sasrec-seed-1.npz").read_bytes()),
        lambda cells: (cells / "sasrec-seed-0.json").write_text("{"),
        lambda cells: (cells / "sasrec-seed-0.json").write_text("[]"),
        lambda cells: edit(cells / "sasrec-seed-0.json", seconds={"stage1": 1.0}),
        lambda cells: edit(cells / "sasrec-trial-0.json", value=0.99),
    ],
    ids=["no ranks", "cut ranks", "ranks of another", "cut record", "a list", "edited seconds", "edited value"],
)
def test_a_damaged_cell_is_named_before_anything_is_trained_and_can_be_run_again(again, copied, damage, monkeypatch):
    cells = copied / "cells"
    whole = {file.name for file in cells.iterdir()}
    damage(cells)
    with monkeypatch.context() as patch:
        patch.setattr(cells_module, "train", lambda *_, **__: pytest.fail("trained"))
        with pytest.raises(SeerecError, match=r"is damaged or missing\. Remove .*\.json to run the cell again") as caught:
            again().run()
    Path(caught.value.fix.removeprefix("Remove ").split(" to run ")[0]).unlink()
    assert again().run()["broken"] == {}
    assert {file.name for file in cells.iterdir()} == whole


def test_the_record_of_another_cell_is_refused(again, copied):
    shutil.copy(copied / "cells" / "sasrec-seed-1.json", copied / "cells" / "sasrec-seed-0.json")
    with pytest.raises(SeerecError, match="answers another question: its number is 1, not 0"):
        again().run()


def test_a_lost_plan_is_written_again(again, copied):
    (copied / "plan.json").write_text("{")
    with pytest.raises(SeerecError, match="Remove it"):
        again()
    (copied / "plan.json").unlink()
    again().run()
    assert json.loads((copied / "plan.json").read_text())["kind"] == "seerec-comparison"


def test_somebody_elses_folder_is_left_alone(tiny_corpus, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SeerecError, match="not a comparison"):
        Comparison(tiny_corpus, tmp_path, **ASKED)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": "sasrec,sasrec"}, "named twice"),
        ({"models": ""}, "No model is named"),
        ({"models": "no-such-model"}, "no model 'no-such-model'"),
        ({"models": []}, "No model is named"),
        ({"seeds": 0}, "setting 'seeds' = 0 is"),
        ({"minutes": -1}, "setting 'minutes' = -1 is"),
        ({"against": "lcr-ser"}, "not one of the models"),
        ({"settings": {"seed": 3}}, "sets seed itself"),
        ({"settings": {"no_such": 3}}, "no setting 'no_such'"),
        ({"settings": {"model.width": 0}}, "model.width"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_and_leaves_nothing(tiny_corpus, tmp_path, changed, message):
    with pytest.raises(SeerecError, match=message):
        Comparison(tiny_corpus, tmp_path / "out", **{**ASKED, "against": None, **changed})
    assert not (tmp_path / "out").exists()


def test_all_means_every_model_but_the_floors():
    assert set(question.MODELS) - set(question.keys("all")) == {"last-click", "last-search-click"}


# -- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_plan_and_table(copied, tiny_corpus, capsys):
    assert cli.main(command(tiny_corpus, copied)) == 0
    out = capsys.readouterr().out
    assert out.index("trials done") < out.index("hr@10")
    assert "against SASRec, ndcg@5" in out
    assert cli.main(command(tiny_corpus, copied, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "seerec-table"


def test_the_plan_alone_writes_nothing(tiny_corpus, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(tiny_corpus, out, "--plan", "--json")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not out.exists()
    rows = {row["model"]: row for row in plan["rows"]}
    assert plan["total"]["cells"] == 8
    assert plan["total"]["done"] == 0
    assert rows["popularity"]["trial"]["cells"] == 0
    for kind, limit in (("trial", 60), ("seed", 60)):
        assert 0 < rows["sasrec"][kind]["each"] <= limit == rows["sasrec"][kind]["limit"]
    assert plan["total"]["left"] == pytest.approx(sum(row[kind]["left"] for row in plan["rows"] for kind in ("trial", "seed")))


def test_what_is_done_needs_no_time(again):
    plan = again().plan()
    assert (plan["total"]["done"], plan["total"]["left"]) == (8, 0)


@pytest.mark.parametrize("more", [["--full"], ["--split", "val"], ["runs/sasrec"]])
def test_options_of_runs_do_not_go_with_a_corpus(tiny_corpus, tmp_path, more, capsys):
    assert cli.main(["compare", str(tiny_corpus.path), "--out", str(tmp_path / "out"), *more]) == 2
    said = capsys.readouterr().err
    assert "Name one corpus" in said or "sampled candidates of the test split" in said
    assert not (tmp_path / "out").exists()


def test_options_of_a_corpus_do_not_go_with_runs(finished, capsys):
    assert cli.main(["compare", str(finished[0] / "runs" / "sasrec" / "seed-0"), "--seeds", "2"]) == 2
    assert "--seeds" in capsys.readouterr().err


def test_shown_defaults_are_those_of_the_question():
    import typer

    shown = {p.name: p.show_default for p in typer.main.get_command(cli.app).commands["compare"].params}
    for name in ("seeds", "trials", "tune_users", "tune_minutes", "minutes"):
        assert float(shown[name]) == question.Question.model_fields[name].default
