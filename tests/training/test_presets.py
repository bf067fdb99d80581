"""Presets and overrides by dotted name."""

import pytest

import seerec
from seerec.config import TrainSettings
from seerec.errors import SeerecError
from seerec.models.lcr_ser import LCRSER
from seerec.models.registry import MODELS
from seerec.training.presets import PRESETS, resolve


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("key", MODELS)
def test_every_preset_is_valid_for_every_model(key, preset):
    config, training = resolve(key, preset, {})
    assert isinstance(config, MODELS[key].Config)
    assert isinstance(training, TrainSettings)


def test_the_paper_preset_is_the_printed_form():
    config, training = resolve("lcr-ser", "paper", {})
    assert config == LCRSER.Config()
    assert (training.optimizer, training.unknown_user_share, training.batch.fresh_negatives) == ("dense", 0.0, False)
    assert training.batch.rec_length == TrainSettings().batch.rec_length
    best, _ = resolve("lcr-ser", "best", {})
    assert best.scorer == "mlp+dot"


def test_overrides_go_over_the_preset_and_leave_it_alone():
    asked = {"model.steps": 5, "learning_rate": 0.5, "batch.rows": 7, "batch.fresh_negatives": True, "reinforce.noise_std": 2}
    config, training = resolve("lcr-ser", "paper", asked)
    assert (config.steps, training.learning_rate, training.batch.rows, training.reinforce.noise_std) == (5, 0.5, 7, 2.0)
    assert training.batch.fresh_negatives is True
    assert training.optimizer == "dense"
    assert resolve("lcr-ser", "paper", {})[1].batch.fresh_negatives is False
    assert resolve("lcr-ser", "best", {"model.scorer": "mlp"})[0].scorer == "mlp"


@pytest.mark.parametrize(
    ("key", "preset", "asked", "cause"),
    [
        ("lcr-ser", "worst", {}, "no preset 'worst'"),
        ("nobody", "best", {}, "no model 'nobody'"),
        ("lcr-ser", "best", {"colour": 1}, "'colour'"),
        ("lcr-ser", "best", {"batch.colour": 1}, "'batch.colour'"),
        ("lcr-ser", "best", {"model.colour": 1}, "'model.colour'"),
        ("lcr-ser", "best", {"model": 1}, "'model'"),
        ("lcr-ser", "paper", {"batch": 1}, "'batch'"),
        ("lcr-ser", "best", {"learning_rate.big": 1}, "learning_rate"),
        ("lcr-ser", "best", {"learning_rate": 1, "learning_rate.big": 1}, "learning_rate.big"),
        ("lcr-ser", "best", {"learning_rate": -1}, "'learning_rate'"),
        ("lcr-ser", "best", {"epochs": "many"}, "'epochs'"),
        ("lcr-ser", "best", {"model.scorer": "magic"}, "'model.scorer'"),
        ("popularity", "best", {"model.width": 8}, "'model.width'"),
    ],
)
def test_what_is_wrong_is_named(key, preset, asked, cause):
    with pytest.raises(SeerecError, match=cause) as caught:
        resolve(key, preset, asked)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("model.widht", "model.width"), ("steps", "model.steps"), ("batch.row", "batch.rows"), ("learning_rat", "learning_rate")],
)
def test_a_misspelt_name_is_answered_with_the_right_one(wrong, meant):
    with pytest.raises(SeerecError, match=f"no setting '{wrong}'") as caught:
        resolve("lcr-ser", "best", {wrong: 1})
    assert f"Did you mean {meant}?" in caught.value.fix


@pytest.mark.parametrize("key", ["lcr-ser", "sasrec"])
def test_heads_must_divide_the_width(key, tiny_corpus, tmp_path):
    with pytest.raises(SeerecError, match="multiple of heads"):
        seerec.train(tiny_corpus, tmp_path / "run", model=key, settings={"model.width": 8, "model.heads": 3})
