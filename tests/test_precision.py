"""Which precision products have: what is chosen and said, what is refused, and where it holds."""

import json

import pytest
import torch

import seerec
from seerec.errors import SeerecError
from seerec.kernels import choose, has_halves, in_halves, products_in
from seerec.kernels import library as loading
from seerec.kernels import precision as precisions

CPU = torch.device("cpu")
WIDE = {"model.width": 32, "model.heads": 2}


def test_products_have_a_precision_within():
    assert not in_halves()
    with products_in("bf16"):
        assert in_halves()
        with products_in("fp32"):
            assert not in_halves()
        assert in_halves()
    with pytest.raises(ZeroDivisionError), products_in("bf16"):
        _ = 1 / 0
    assert not in_halves()


@pytest.mark.parametrize("has", [True, False])
def test_what_is_chosen_and_why(has, monkeypatch):
    monkeypatch.setattr(precisions, "has_halves", lambda: has)
    assert choose("auto", CPU)[0] == ("bf16" if has else "fp32")
    assert "AMX" in choose("auto", CPU)[1]
    assert choose("fp32", CPU) == ("fp32", "products in fp32, as asked")
    assert choose("auto", torch.device("cuda"))[0] == "fp32"
    if has:
        assert choose("bf16", CPU)[0] == "bf16"
    for place in [torch.device("cuda")] + [CPU] * (not has):
        with pytest.raises(SeerecError, match="Set precision to auto or fp32"):
            choose("bf16", place)


def test_without_kernels_there_are_no_halves(monkeypatch):
    monkeypatch.setattr(loading, "library", loading.Library(None, "as if nothing had been compiled"))
    assert not has_halves()


@pytest.mark.skipif(not has_halves(), reason="no AMX here")
def test_training_and_evaluation_are_in_the_precision_asked_for(tiny_corpus, tiny_settings, tmp_path):
    runs = {}
    for precision in ("auto", "bf16", "fp32"):
        settings = {**tiny_settings("lcr-ser"), **WIDE, "precision": precision}
        runs[precision] = seerec.train(tiny_corpus, tmp_path / precision, settings=settings).path
    assert json.loads((runs["auto"] / "run.json").read_text())["products"] == "bf16"
    weights = {name: (run / "stage1" / "weights.safetensors").read_bytes() for name, run in runs.items()}
    assert weights["auto"] == weights["bf16"] != weights["fp32"]
    exact, near = (seerec.evaluate(runs["fp32"], precision=p) for p in ("fp32", "bf16"))
    assert sorted(x.name for x in (runs["fp32"] / "evaluation").iterdir()) == ["test-sampled-stage2", "test-sampled-stage2-bf16"]
    assert abs(exact.report()["all"]["mrr"] - near.report()["all"]["mrr"]) < 0.05


@pytest.mark.skipif(not has_halves(), reason="no AMX here")
def test_a_run_goes_on_only_in_the_precision_it_began_in(tiny_corpus, tiny_settings, tmp_path, monkeypatch):
    settings = {**tiny_settings("lcr-ser"), **WIDE}
    seerec.train(tiny_corpus, tmp_path / "run", settings=settings)
    monkeypatch.setattr(precisions, "has_halves", lambda: False)
    with pytest.raises(SeerecError, match="started with products bf16, now fp32"):
        seerec.train(tiny_corpus, tmp_path / "run", settings=settings, resume=True)
