"""LCR-SER's recursion and its scoring, each as one operation, against their pieces: values, gradients, draws, threads, bf16."""

from dataclasses import replace

import pytest
import torch
from tests.models.synthetic import ITEMS, ROOM, R, S, batch, vocabulary

from seerec.kernels import has_halves, products_in
from seerec.kernels import library as loading
from seerec.models.lcr_ser import LCRSER
from seerec.models.recursion import is_one_operation
from seerec.models.registry import build
from seerec.training.presets import resolve

pytestmark = pytest.mark.skipif(loading.library.functions is None, reason=loading.library.said)
APART = loading.Library(None, "as if nothing had been compiled")


def model_of(settings, std=0.05):
    """With weights that no longer are what they were at the start; zeros would hide mistakes."""
    torch.manual_seed(0)
    config, _ = resolve("lcr-ser", "best", {f"model.{name}": value for name, value in settings.items()})
    model = build("lcr-ser", config, vocabulary(), R + ROOM, S + ROOM)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape), alpha=std)
    return model


def noise_of(given, rollouts, model):
    return torch.randn(*given.rec_seen.shape, rollouts, model.start_width, generator=torch.Generator().manual_seed(4)) * 0.3


def gradients_of(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def with_gradients(model, given, rollouts):
    """States, attention and every weight's gradient, of a loss that reads all steps of main run and twin."""
    torch.manual_seed(5)
    model.zero_grad()
    state = model.history(given)
    state = model.reason(state, noise_of(given, rollouts, model) if rollouts else None)
    twin, _ = model._steps(state, state.run_start, twin=True)
    states = [*state.steps.values(), *twin.values()]
    g = torch.Generator().manual_seed(6)
    sum((x * torch.randn(x.shape, generator=g)).sum() for x in states).backward()
    return [x.detach() for x in states] + ([] if state.cross is None else list(state.cross.values())), gradients_of(model)


def assert_alike(found, expected, tolerance=1e-5):
    states, gradients = found
    for ours, theirs in zip(states, expected[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    # A key's bias adds the same to all logits: its gradient is rounding alone.
    learnt = {name for name in expected[1] if not name.endswith("key.bias")}
    assert learnt == {name for name in gradients if not name.endswith("key.bias")}
    size = max(float(x.abs().max()) for x in expected[1].values())
    for name in learnt:
        torch.testing.assert_close(gradients[name], expected[1][name], rtol=10 * tolerance, atol=tolerance * size, msg=name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rollouts", [0, 13])
@pytest.mark.parametrize(
    "settings",
    [
        {}, {"dropout": 0.0}, {"heads": 4}, {"heads": 1, "feed_width": 96}, {"width": 32}, {"steps": 1}, {"steps": 5},
        {"context": "raw"}, {"twin": "skip_norm"}, {"twin": "last_step"}, {"twin": "separate"}, {"shared_cross": True},
        {"step_position": "shared"}, {"step_position": "none"}, {"empty": "learned"},
    ],
    ids=str,
)  # fmt: skip
def test_the_recursion_is_its_steps_one_by_one(settings, rollouts, training, monkeypatch):
    model, given = model_of(settings).train(training), batch(rows=5)
    at_once = with_gradients(model, given, rollouts)
    monkeypatch.setattr(loading, "library", APART)
    assert_alike(at_once, with_gradients(model, given, rollouts))


@pytest.mark.parametrize("targets", [1, 3])
def test_without_a_gradient_it_reads_histories_as_they_are(targets, monkeypatch):
    model, given = model_of({"heads": 1}).eval(), batch(rows=37, targets=targets)
    results = []
    for library in (loading.library, APART):
        monkeypatch.setattr(loading, "library", library)
        with torch.no_grad():
            state = model.encode(given)
        results.append([*state.steps.values(), *state.cross.values()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": 2}, {"block": "pre"}, {"activation": "gelu"}, {"cross_norm": False}, {"includes_current": False},
        {"cross_steps": False}, {"self_context": "search"}, {"update": "search_first"}, {"width": 24}, {"feed_width": 20},
    ],
    ids=str,
)  # fmt: skip
def test_other_settings_take_their_steps_one_by_one(settings):
    model, given = model_of(settings), batch()
    state = model.history(given)
    assert state.projected is not None
    assert not is_one_operation(model.config, state.start, state.layer_inputs)
    assert model.reason(state).steps["s"].isfinite().all()


@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_on_any_number_of_threads(threads, monkeypatch):
    model, given = model_of({}).train(), batch(rows=40, targets=7)
    results = []
    for count in (1, threads):
        monkeypatch.setattr("seerec.kernels.latent.threads", lambda _, count=count: count)
        results.append(with_gradients(model, given, 0))
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))
    assert_alike(*results, tolerance=1e-6)  # sums over rows are made by thread
    again = with_gradients(model, given, 0)
    assert all(torch.equal(again[1][name], results[1][1][name]) for name in again[1])


@pytest.mark.skipif(not has_halves(), reason="no AMX here")
@pytest.mark.parametrize("rollouts", [0, 13])
@pytest.mark.parametrize("settings", [{}, {"heads": 4}, {"width": 32, "dropout": 0.0}, {"feed_width": 96}], ids=str)
def test_products_in_halves_are_near(settings, rollouts):
    model, given = model_of(settings).train(), batch(rows=9)
    exact = with_gradients(model, given, rollouts)
    with products_in("bf16"):
        near = with_gradients(model, given, rollouts)
    for ours, theirs in zip(near[0], exact[0], strict=True):
        assert not torch.equal(ours, theirs)
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.04)
    for name, expected in exact[1].items():
        if not name.endswith("key.bias"):
            assert (near[1][name] - expected).norm() < 0.12 * expected.norm(), name


# scoring -----------------------------------------------------------------------------------------------------------------

FORMS = [
    {}, {"scorer": "mlp"}, {"scorer": "dot"}, {"attention": "dot"}, {"steps": 0}, {"steps": 5}, {"width": 32, "hidden": [32, 48]},
    {"hidden": [20, 7]}, {"hidden": [9]}, {"hidden": [16, 40, 24]},
]  # fmt: skip


def scores_of(model, given, rollouts, monkeypatch, *, at_once, catalogue=False):
    """Logits, every weight's gradient of a weighted sum of them where gradients are on, and how often the kernel was asked."""
    calls = []
    with monkeypatch.context() as patched:
        if at_once:
            kernel = LCRSER._score_at_once
            patched.setattr(LCRSER, "_score_at_once", lambda *args: calls.append(1) or kernel(*args))
        else:
            patched.setattr(LCRSER, "_at_once", lambda *_: False)
        torch.manual_seed(5)
        model.zero_grad()
        state = model.history(given)
        state = model.reason(state, noise_of(given, rollouts, model) if rollouts else None)
        torch.manual_seed(6)  # of dropout in the MLP
        logits = model.score(
            state, model.items(torch.arange(2, ITEMS))[None, None] if catalogue else model.items(given.candidates)
        )
    assert bool(calls) == at_once
    if torch.is_grad_enabled():
        (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    return [logits.detach()], {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }


@pytest.mark.parametrize(("training", "candidates", "rollouts"), [(True, 17, 0), (False, 40, 3), (True, 9, 2)])
@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_scores_at_once_are_the_scores_and_so_are_their_gradients(settings, training, candidates, rollouts, monkeypatch):
    if rollouts and settings.get("steps") == 0:
        pytest.skip("without steps there is nothing to roll out")
    model, given = model_of(settings).train(training), batch(rows=5, candidates=candidates)
    found, expected = (scores_of(model, given, rollouts, monkeypatch, at_once=once) for once in (True, False))
    assert_alike(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("settings", FORMS, ids=str)
@pytest.mark.parametrize("catalogue", [True, False])
def test_scores_at_once_without_a_gradient(settings, catalogue, monkeypatch):
    model, given = model_of(settings).eval(), batch(rows=6, candidates=40)
    found, expected = (scores_of(model, given, 0, monkeypatch, at_once=once, catalogue=catalogue)[0] for once in (True, False))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_more_candidates_than_a_chunk_holds(monkeypatch):
    model, given = model_of({}).eval(), batch(rows=4, targets=1)
    wide = given.with_(candidates=torch.arange(2, 2 + 300).remainder(ITEMS - 2).add(2).expand(4, 1, 300))
    found, expected = (scores_of(model, wide, 0, monkeypatch, at_once=once)[0] for once in (True, False))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not has_halves(), reason="no AMX here")
@pytest.mark.parametrize("rollouts", [0, 3])
@pytest.mark.parametrize("settings", [{}, {"scorer": "dot"}, {"hidden": [20, 7]}], ids=str)
def test_scores_in_halves_are_near(settings, rollouts, monkeypatch):
    model, given = model_of(settings).eval(), batch(rows=9, candidates=40)
    (exact,), gradients = scores_of(model, given, rollouts, monkeypatch, at_once=True)
    with products_in("bf16"):
        (near,), others = scores_of(model, given, rollouts, monkeypatch, at_once=True)
    assert not torch.equal(near, exact)
    assert (near - exact).norm() < 0.02 * exact.norm()
    for name, expected in gradients.items():
        if not name.endswith("key.bias"):
            assert (others[name] - expected).norm() < 0.15 * expected.norm(), name


def test_few_candidates_that_learn_are_scored_apart(monkeypatch):
    model, given = model_of({}).train(), batch(rows=5, candidates=2)
    monkeypatch.setattr(LCRSER, "_score_at_once", None)
    assert model.score(model.encode(given), model.items(given.candidates)).requires_grad


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"hidden": []}, {"attention": "mlp"}, {"aggregation": "mean"}, {"width": 24}], ids=str)
def test_other_forms_are_scored_apart(settings, monkeypatch):
    model, given = model_of(settings).eval(), batch(rows=5, candidates=12)
    monkeypatch.setattr(LCRSER, "_score_at_once", None)
    assert model.score(model.encode(given), model.items(given.candidates)).isfinite().all()


@pytest.mark.parametrize("learns", [True, False])
def test_under_autocast_the_pieces_do_it(learns):
    model, given = model_of({}).train(learns), batch(rows=5, candidates=12, targets=1)
    with torch.set_grad_enabled(learns), torch.autocast("cpu", torch.bfloat16):
        state = model.encode(given)
        assert not is_one_operation(model.config, state.start, state.layer_inputs)
        assert model.score(state, model.items(given.candidates)).isfinite().all()


def test_a_kernel_does_not_read_what_is_no_float():
    model, given = model_of({}).eval(), batch(rows=5, candidates=12)
    with torch.no_grad():
        state, items = model.encode(given), model.items(given.candidates)
        short = replace(state, user=state.user.bfloat16())
        model.mlp.bfloat16()
        with pytest.raises(TypeError, match="reads fp32"):
            model.score(short, items)
