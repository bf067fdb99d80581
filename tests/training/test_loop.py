"""The loop by itself (schedule, stopping, clipping) and whole runs on a tiny corpus."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import seerec
from seerec import artifact
from seerec.atomic import claimed
from seerec.errors import SeerecError
from seerec.models.registry import MODELS
from seerec.progress import SILENT
from seerec.training.checkpoint import Position, latest
from seerec.training.journal import Journal
from seerec.training.loop import Stage, run_stage
from seerec.training.optimizers import DenseAdam


class Batches:
    """Three batches an epoch; a batch is its (epoch, step)."""

    def steps(self, _epoch):
        return 3

    def batches(self, epoch, step):
        return (SimpleNamespace(at=(epoch, step), to=lambda _: SimpleNamespace(at=(epoch, step))),)


class Recorder(DenseAdam):
    """Notes the rate and the gradient norm of every step."""

    def __init__(self, model):
        super().__init__(model, 0.0)
        self.rates, self.norms = [], []

    def step(self, rate):
        self.rates.append(rate)
        self.norms.append(float(torch.stack([p.grad.norm() for p in self.parameters()]).norm()))
        super().step(rate)


def play(folder, metrics, *, losses=None, **changed):
    """Run a stage whose validations are ``metrics`` in turn; (stage, final position, epochs kept)."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    kept, left, steps = [], iter(metrics), iter(losses or [])

    def objective(batches, update):  # noqa: ARG001
        scale = next(steps) if losses else 1.0
        return {"rank": model(torch.ones(1, 2)).square().sum() * scale}, {}

    wanted = {
        "number": 1, "model": model, "inputs": SimpleNamespace(open=lambda _: None, close=lambda: None), "batches": Batches(),
        "objective": objective, "optimizer": Recorder(model), "validate": lambda: {"mrr": next(left)},
        "keep_best": lambda found: kept.append(found["mrr"]), "seed": 0, "epochs": len(metrics), "patience": 99,
        "learning_rate": 0.1, "metric": "mrr", "rows_open": False, "device": torch.device("cpu"),
    }  # fmt: skip
    stage = Stage(**{**wanted, **changed})
    journal = Journal(folder)
    try:
        position = run_stage(stage, folder / "checkpoints", journal, SILENT, checkpoint_seconds=1e9, keep=2)
    finally:
        journal.close()
    return stage, position, kept


def records(folder, kind):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in found if record["kind"] == kind]


def test_training_stops_when_the_metric_stays_below_its_best(tmp_path):
    _, position, kept = play(tmp_path, [0.1, 0.3, 0.2, 0.3, 0.9, 0.9], patience=2)
    assert (position.epoch, position.best, position.best_epoch, position.finished) == (4, 0.3, 1, True)
    assert kept == [0.1, 0.3]  # an equal value is no new best
    assert [record["best"] for record in records(tmp_path, "val")] == [True, True, False, False]


@pytest.mark.parametrize(("steps", "epochs"), [(1, 4), (3, 4), (6, 6), (7, 7)])
def test_a_short_epoch_counts_as_a_share_of_one(tmp_path, steps, epochs):
    """Two epochs of patience: from the best at the second, so many of three steps each."""
    _, position, _ = play(tmp_path, [0.1, 0.3] + [0.2] * 9, patience=2, patience_steps=steps)
    assert position.epoch == epochs


def test_the_last_epoch_ends_it_too(tmp_path):
    _, position, kept = play(tmp_path, [0.1, 0.2])
    assert (position.epoch, position.updates, kept) == (2, 6, [0.1, 0.2])


def test_the_rate_decays_on_a_plateau_down_to_its_floor(tmp_path):
    metrics = [0.5, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.1]
    stage, _, _ = play(tmp_path, metrics, decay=0.1, decay_patience=2, min_learning_rate=0.005)
    #        best  1     2 -> .01    1     best   1     2 -> .001  1    2
    expected = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005]
    assert stage.optimizer.rates[::3] == pytest.approx(expected)
    constant, _, _ = play(tmp_path / "constant" if (tmp_path / "constant").mkdir() is None else tmp_path, metrics)
    assert set(constant.optimizer.rates) == {0.1}


def test_the_rate_warms_up_linearly(tmp_path):
    stage, _, _ = play(tmp_path, [0.1, 0.2], warmup_steps=4)
    assert stage.optimizer.rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_gradients_are_clipped_and_their_norm_is_told(tmp_path):
    stage, _, _ = play(tmp_path, [0.1], losses=[100.0] * 3, clip_norm=0.5)
    assert stage.optimizer.norms == pytest.approx([0.5] * 3, rel=1e-4)
    assert records(tmp_path, "train")[0]["gradient_norm"] > 1
    (tmp_path / "free").mkdir()
    free, _, _ = play(tmp_path / "free", [0.1], losses=[100.0] * 3)
    assert max(free.optimizer.norms) > 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_a_named_error(value, tmp_path):
    with pytest.raises(SeerecError, match="epoch 2, step 2") as caught:
        play(tmp_path, [0.1, 0.2], losses=[1.0, 1.0, 1.0, 1.0, value, 1.0])
    assert "learning rate" in caught.value.fix
    found = latest(tmp_path / "checkpoints")
    assert found is not None  # the last good state is still there
    assert all(tensor.isfinite().all() for tensor in found[1].values())


def test_the_log_means_losses_over_the_epoch(tmp_path):
    play(tmp_path, [0.1], losses=[0.0, 0.0, 0.0])
    assert records(tmp_path, "train")[0]["loss"] == 0.0
    assert Position(1).epoch == 0


def test_a_limit_of_time_ends_the_stage_with_a_validation(tmp_path, monkeypatch):
    """Every look at the clock takes a second, one a step and one after a validation: the limit falls into the second epoch."""
    now = iter(range(10_000))
    clock = SimpleNamespace(monotonic=lambda: 0.0, thread_time=lambda: float(next(now)))
    monkeypatch.setattr("seerec.training.loop.time", clock)
    _, position, kept = play(tmp_path, [0.1, 0.2, 0.3, 0.4], max_seconds=6.0)
    assert (position.stopped, position.finished, position.epoch, position.updates) == ("time", True, 2, 5)
    assert kept == [0.1, 0.2]
    assert position.seconds >= 6.0
    (tmp_path / "free").mkdir()
    _, free, _ = play(tmp_path / "free", [0.1, 0.2])
    assert (free.stopped, free.seconds) == ("", 0.0)


def test_what_changes_a_batch_comes_before_its_rows_are_gathered(tmp_path):
    seen = []
    inputs = SimpleNamespace(open=lambda batch, catalogue: seen.append((batch, catalogue)), close=lambda: None)
    changed = SimpleNamespace(to=lambda _: "changed")
    play(tmp_path, [0.1], inputs=inputs, rows_open=True, augment=lambda _: changed, catalogue=True)
    assert seen == [("changed", True)] * 3


# whole runs --------------------------------------------------------------------------------------------------------------


def weights(run, stage=1):
    return (run.path / f"stage{stage}" / "weights.safetensors").read_bytes()


def model(run, stage=1):
    return artifact.load(run.artifact(stage)).model


def test_seeds_decide_every_byte(tiny_corpus, tiny_settings, tiny_run, tmp_path):
    first = tiny_run("lcr-ser", stages="all")
    same = seerec.train(tiny_corpus, tmp_path / "same", model="lcr-ser", settings=tiny_settings())
    other = tiny_run("lcr-ser", stages="all", seed=1)
    for stage in (1, 2):
        assert weights(first, stage) == weights(same, stage)
        assert weights(first, stage) != weights(other, stage)
    for name in ("metrics.jsonl", "result.json"):
        assert (first.path / name).read_bytes() == (same.path / name).read_bytes()
        assert (first.path / name).read_bytes() != (other.path / name).read_bytes()


def test_training_leaves_torch_as_it_was(tiny_corpus, tiny_settings, tiny_run, tmp_path):
    """Random state and switches of the caller come back, and a caller's no_grad does not stop learning."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    for surrounding in (torch.no_grad(), torch.inference_mode()):
        torch.manual_seed(5)
        with surrounding:
            out = tmp_path / type(surrounding).__name__
            run = seerec.train(tiny_corpus, out, settings=tiny_settings())
            assert torch.equal(torch.rand(3), expected)
            assert not torch.are_deterministic_algorithms_enabled()
        assert weights(run, 2) == weights(tiny_run("lcr-ser", stages="all"), 2)


def test_a_run_folder_tells_what_happened(tiny_run):
    run = tiny_run("lcr-ser", stages="all")
    result = json.loads((run.path / "result.json").read_text())
    assert set(result) == {"stage1", "stage2"}
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(x["stage"], x["kind"], x["epoch"]) for x in lines] == [
        (1, "train", 0), (1, "val", 0), (1, "train", 1), (1, "val", 1), (2, "val", -1), (2, "train", 0), (2, "val", 0),
    ]  # fmt: skip
    names = {name for line in lines for name in line}
    assert not [name for name in names if "second" in name or "time" in name or "clock" in name or "speed" in name]
    for stage in (1, 2):
        best = [x for x in lines if x["kind"] == "val" and x["stage"] == stage and x["best"]][-1]
        assert all(best[name] == value for name, value in result[f"stage{stage}"].items())
    losses = [x["loss"] for x in lines if x["stage"] == 1 and x["kind"] == "train"]
    assert losses[1] < losses[0]
    assert len(list((run.path / "checkpoints").iterdir())) == 2
    assert not list(run.path.rglob(".partial-*"))
    assert any((run.path / "tensorboard").iterdir())


def test_resuming_a_finished_run_changes_nothing(tiny_corpus, tiny_settings, tiny_run):
    run = tiny_run("lcr-ser", stages="all")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    again = seerec.train(tiny_corpus, run.path, model="lcr-ser", settings=tiny_settings(), resume=True)
    assert again.path == run.path
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_taken_folder_and_other_settings_are_refused(tiny_corpus, tiny_settings, tiny_run, tmp_path):
    run = tiny_run("sasrec")
    asked = {"model": "sasrec", "stages": "1", "settings": tiny_settings("sasrec")}
    with pytest.raises(SeerecError, match="already holds a run"):
        seerec.train(tiny_corpus, run.path, **asked)
    for changed, cause in (
        ({"settings": tiny_settings("sasrec", epochs=3)}, "started with epochs 2, now 3 is asked"),
        ({"settings": tiny_settings("sasrec", model__heads=1)}, "started with model.heads 2, now 1"),
        ({"model": "lcr-ser"}, "started with model sasrec, now lcr-ser"),
        ({"preset": "paper"}, "started with preset best, now paper"),
    ):
        with pytest.raises(SeerecError, match=cause):
            seerec.train(tiny_corpus, run.path, **{**asked, **changed}, resume=True)
    other = seerec.prepare(tmp_path / "other", source="simulated", options={"users": 60, "seed": 5})
    with pytest.raises(SeerecError, match="started with corpus_hash"):
        seerec.train(other, run.path, **asked, resume=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").touch()
    with pytest.raises(SeerecError, match="is not a run"):
        seerec.train(tiny_corpus, tmp_path / "thesis", **asked, resume=True)


def test_a_start_that_was_killed_before_its_first_file_is_no_obstacle(tiny_corpus, tiny_settings, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".partial-x").write_text("{")
    seerec.train(tiny_corpus, run, model="popularity", settings=tiny_settings("popularity"), resume=True)
    assert not (run / ".partial-x").exists()


def test_a_run_that_learnt_nothing_makes_room_for_other_settings(tiny_corpus, tiny_settings, tiny_run, tmp_path, monkeypatch):
    """A loss that diverges at once must not block the folder against the settings that mend it."""
    with monkeypatch.context() as patch:
        patch.setattr("seerec.models.base.ranking_loss", lambda logits, *_: logits.sum() * float("nan"))
        with pytest.raises(SeerecError, match="loss is nan"):
            seerec.train(
                tiny_corpus, tmp_path / "run", settings=tiny_settings("sasrec", epochs=5, objective="group"), model="sasrec"
            )
    assert (tmp_path / "run" / "run.json").is_file()
    again = seerec.train(tiny_corpus, tmp_path / "run", settings=tiny_settings("sasrec"), model="sasrec", stages="1")
    assert weights(again) == weights(tiny_run("sasrec"))


def test_one_folder_takes_one_training_at_a_time(tiny_corpus, tiny_settings, tmp_path):
    with claimed(tmp_path / "run", "training"), pytest.raises(SeerecError, match="Another training is running"):
        seerec.train(tiny_corpus, tmp_path / "run", settings=tiny_settings())
    assert not list((tmp_path / "run").iterdir())
    with claimed(tmp_path / "run", "training"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(SeerecError, match="is a file, not a folder"):
        seerec.train(tiny_corpus, tmp_path / "file" / "run", settings=tiny_settings())


@pytest.mark.parametrize("wrong", [{"stages": "2"}, {"stages": 1}, {"device": "abacus"}])
def test_stages_and_devices_that_are_none(wrong, tiny_corpus, tiny_settings, tmp_path):
    with pytest.raises(SeerecError, match=r"There (are|is) no"):
        seerec.train(tiny_corpus, tmp_path / "run", settings=tiny_settings(), **wrong)
    assert not (tmp_path / "run").exists()


def test_the_dense_optimizer_trains_and_the_unknown_user_is_the_mean(tiny_corpus, tiny_run):
    run = tiny_run("lcr-ser", optimizer="dense", unknown_user_share=0.0, model__scorer="mlp")
    user = model(run).inputs.user.weight.detach()
    known = torch.from_numpy(tiny_corpus.row_user[tiny_corpus.row_user > 1].astype("int64"))
    torch.testing.assert_close(user[1], user[known].mean(0))
    assert not user[0].any()
    shared = model(tiny_run("lcr-ser", stages="all")).inputs.user.weight.detach()
    assert not torch.allclose(shared[1], shared[known].mean(0))


def test_stage_2_without_noise_leaves_stage_1(tiny_run):
    run = tiny_run("lcr-ser", stages="all", reinforce__noise_std=0.0)
    assert weights(run, 1) == weights(run, 2)
    # And not because stage 2 never won a validation: its last state is the start, too.
    position, tensors = latest(run.path / "checkpoints")
    assert (position.stage, position.finished) == (2, True)
    assert position.updates > 0
    assert all(torch.equal(tensors[f"model.{name}"], value) for name, value in model(run, 1).state_dict().items())


def test_stage_2_with_noise_moves_the_model(tiny_run):
    run = tiny_run("lcr-ser", stages="all", reinforce__noise_std=2.0)
    _, tensors = latest(run.path / "checkpoints")
    moved = [n for n, value in model(run, 1).state_dict().items() if not torch.equal(tensors[f"model.{n}"], value)]
    assert moved
    assert run.artifact().name == "stage2"
    assert tiny_run("lcr-ser").artifact().name == "stage1"


@pytest.mark.parametrize("key", [key for key in MODELS if key not in ("lcr-ser", "sasrec")])
def test_models_that_count_train_in_one_pass(key, tiny_run):
    run = tiny_run(key)
    result = json.loads((run.path / "result.json").read_text())
    assert set(result) == {"stage1"}
    assert 0 < result["stage1"]["mrr"] < 1
    pairs = getattr(artifact.load(run.artifact()).model, "pair", None)
    assert pairs is None or len(pairs) > 100


def test_a_corpus_without_training_targets_is_a_named_error(tiny_corpus, tmp_path):
    corpus = seerec.Corpus.open(tiny_corpus.path)
    vars(corpus)["rec_role"] = corpus.rec_role * (corpus.rec_role != 1)  # a folder changed so would be refused as damaged
    with pytest.raises(SeerecError, match="no training targets"):
        seerec.train(corpus, tmp_path / "run", model="popularity")
    assert not (tmp_path / "run").exists()
