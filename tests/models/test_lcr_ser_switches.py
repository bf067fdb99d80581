"""Every switch of LCR-SER does something, and only where it should; every parameter is trained."""

import math
from functools import cache

import pytest
import torch
from tests.models.synthetic import batch, make, noise_for, scores, single, vocabulary

from seerec.models.lcr_ser_config import LCRSERConfig

# Switch, its other value, further settings of both sides of the comparison, and what must differ: scores, rollouts (scores
# with noise), loss (eq. 9's term), or gradient. What is not named must stay the same where the parameters allow it.
SWITCHES = [
    ("steps", 1, {}, "scores"),
    ("steps", 0, {}, "scores"),
    ("layers", 2, {}, "scores"),
    ("cross_layers", "all", {"layers": 2}, "scores"),
    ("heads", 4, {}, "scores"),
    ("feed_width", 12, {}, "scores"),
    ("block", "pre", {}, "scores"),
    ("block", "literal", {}, "scores"),
    ("activation", "gelu", {}, "scores"),
    ("cross_norm", False, {}, "scores"),
    ("causal", False, {}, "scores"),
    ("self_context", "search", {}, "scores"),
    ("update", "search_first", {}, "scores"),
    ("includes_current", False, {}, "scores"),
    ("cross_steps", False, {}, "scores"),
    ("context", "encoded", {}, "scores"),
    ("empty", "learned", {}, "scores"),
    ("step_position", "shared", {}, "scores"),
    ("step_position", "none", {}, "scores"),
    ("position", "recent", {}, "scores"),
    ("perturb_history", True, {}, "rollouts"),
    ("attention", "dot", {}, "scores"),
    ("attention", "multihead", {}, "scores"),
    ("attention", "mlp", {}, "scores"),
    ("twin", "skip_norm", {}, "loss"),
    ("twin", "last_step", {}, "loss"),
    ("twin", "separate", {}, "loss"),
    ("detach", "twin", {}, "gradient"),
    ("detach", "target", {}, "gradient"),
    ("detach", "both", {}, "gradient"),
    ("distance", "cosine", {}, "loss"),
    ("distance", "normalised", {}, "loss"),
    ("margin", 0.5, {}, "loss"),
    ("contrastive_weight", 0.02, {}, "loss"),
    ("contrastive_weight", 0.0, {}, "loss"),
    ("aggregation", "mean", {}, "scores"),
    ("aggregation", "mean_steps", {}, "scores"),
    ("aggregation", "last", {}, "scores"),
    ("hidden", (7,), {}, "scores"),
    ("scorer", "mlp+dot", {}, "scores"),
    ("scorer", "dot", {}, "scores"),
    ("shared_cross", True, {}, "scores"),
    ("trajectory", "data", {}, "rollout gradient"),
    ("width", 12, {"heads": 2}, "scores"),
    ("features", False, {}, "scores"),
    ("project", "linear", {}, "scores"),
    ("project", "tanh", {}, "scores"),
    ("field_width", 12, {"project": "tanh"}, "scores"),
    ("loss", "softmax", {}, "rank loss"),
]
IN_TRAINING = {"dropout": "random in training only", "embedding_std": "of new tables only", "feature_std": "of new tables only"}


@cache
def observed(**settings):
    """Scores, scores of rollouts, the two loss terms, and the gradients of the loss and of the rollouts."""
    model = make(**{"margin": 4.0, "contrastive_weight": 0.01, **settings})
    b = batch()
    if not model.packs:
        b = batch(targets=1)
    found = {"scores": scores(model, b)}
    rollouts = scores(model, b, noise_for(b, model, rollouts=2))
    rollouts.square().mean().backward()
    found["rollouts"] = rollouts
    found["rollout gradient"] = gradient(model)
    terms = model.objective(b, model.encode(b))
    found["rank loss"], found["loss"] = terms["rank"], terms.get("tcl", 0 * terms["rank"])
    torch.stack([*terms.values()]).sum().backward()
    found["gradient"] = gradient(model)
    return {name: value.detach() for name, value in found.items()}


def gradient(model):
    """Of what every setting has: the recommendation side's encoder, and the item table."""
    parts = [model.recommendation.layers[0].feed_in.weight.grad, model.inputs.item.weight.grad]
    found = torch.cat([part.flatten() for part in parts])
    model.zero_grad()
    return found


def same(a, b):
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize(("name", "value", "base", "where"), SWITCHES, ids=lambda v: str(v) if not isinstance(v, dict) else "")
def test_a_switch_has_its_effect(name, value, base, where):
    before = observed(steps=2, **base)
    after = observed(**{"steps": 2} | base | {name: value})
    if name in ("causal", "position"):  # the other value does not pack: compare classic rows, T = 1
        before = {"scores": classic({"steps": 2} | base)}
        after = {"scores": classic({"steps": 2} | base | {name: value})}
    assert not same(before[where], after[where])
    if where != "scores":
        assert same(before["scores"], after["scores"])
    if where == "gradient":
        assert same(before["loss"], after["loss"])
    if where in ("loss", "gradient"):
        assert same(before["rank loss"], after["rank loss"])
        assert same(before["rollouts"], after["rollouts"])
    if where == "rollout gradient":
        assert same(before["rollouts"], after["rollouts"])


def classic(settings):
    return scores(make(**settings), batch(targets=1))


def test_every_setting_is_in_the_table():
    tested = {name for name, *_ in SWITCHES} | {*IN_TRAINING}
    assert tested == {*LCRSERConfig.model_fields}


def test_every_value_of_a_choice_is_in_the_table():
    default = LCRSERConfig()
    for name, field in LCRSERConfig.model_fields.items():
        values = getattr(field.annotation, "__args__", ())
        choices = {v for v in values if isinstance(v, str)} or ({True, False} if field.annotation is bool else set())
        tested = {value for switch, value, *_ in SWITCHES if switch == name}
        assert choices <= tested | {getattr(default, name)}, name


def test_the_weight_and_the_margin_scale_the_contrastive_term():
    loss = {w: observed(contrastive_weight=w)["loss"].item() for w in (0.01, 0.02)}
    assert loss[0.02] == pytest.approx(2 * loss[0.01])
    model, b = make(contrastive_weight=0.0), batch()
    assert [*model.objective(b, model.encode(b))] == ["rank"]
    steps = make(steps=0)
    assert [*steps.objective(b, steps.encode(b))] == ["rank"]  # a constant there (A23)


def test_dropout_acts_in_training_only():
    model, b = make(dropout=0.5), batch()
    assert torch.equal(scores(model, b), scores(model, b))
    assert torch.equal(scores(model, b), scores(make(dropout=0.0), b))
    model.train()
    torch.manual_seed(0)
    first = scores(model, b)
    assert not torch.equal(first, scores(model, b))
    torch.manual_seed(0)
    assert torch.equal(first, scores(model, b))


def test_new_tables_have_the_named_deviation():
    v = vocabulary(items=5000)
    for std in (0.02, 0.5):
        inputs = make(random=False, vocab=v, embedding_std=std, feature_std=2 * std, width=16).inputs
        assert inputs.item.weight[1:].std().item() == pytest.approx(std, rel=0.02)
        assert inputs.word.weight[1:].std().item() == pytest.approx(2 * std, rel=0.1)
        assert not inputs.item.weight[0].any()


def test_data_trajectories_train_the_scorer_only():
    """A36: target attention and MLP learn, reasoning does not."""
    for trajectory, reached in (("train", True), ("data", False)):
        model, b = make(trajectory=trajectory), batch()
        scores(model, b, noise_for(b, model)).square().mean().backward()
        assert (model.recommendation.cross[0].query.weight.grad is not None) == reached
        assert (model.step_position["s"].grad is not None) == reached
        assert model.target["r"].query.weight.grad.abs().max() > 0
        assert model.mlp[0].weight.grad.abs().max() > 0


# Parameters that a setting leaves without gradient, and why.
NO_GRADIENT = {
    "key.bias": "softmax does not feel what is added to all its logits",
    "logit.bias": "the same, in the MLP form of target attention",
}
ALSO = {
    ("steps", 0): {"cross": "without steps nothing crosses", "position": "nor has a step a position"},
    ("scorer", "dot"): {"inputs.user": "the dot product does not know the user"},
    ("twin", "separate"): {
        f"twin_{side}.cross.": "a copy of a side whose cross-attention it never calls" for side in ("search", "recommendation")
    },
    ("loss", "softmax"): {"mlp.2.bias": "softmax does not feel what is added to all its logits"},
}
TRAINED = [
    *({name: value, **base} for name, value, base, _ in SWITCHES if name not in ("contrastive_weight", "trajectory", "hidden")),
    {"twin": "separate", "layers": 2, "cross_layers": "all"},
]


@pytest.mark.parametrize("settings", TRAINED, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))
def test_every_parameter_gets_a_gradient(settings):
    model = make(**{"steps": 2, "margin": 4.0, **settings})
    b = batch() if model.packs else batch(targets=1)
    torch.stack([*model.objective(b, model.encode(b)).values()]).sum().backward()
    exempt = {*NO_GRADIENT}
    for switch, names in ALSO.items():
        if switch in settings.items():
            exempt |= {*names}
    without = [
        name
        for name, p in model.named_parameters()
        if p.numel() and (p.grad is None or p.grad.abs().max() < 1e-12) and not any(part in name for part in exempt)
    ]
    assert without == []


def test_a_separate_twin_learns_unless_detached():
    model, b = make(twin="separate", detach="twin", margin=4.0), batch()
    torch.stack([*model.objective(b, model.encode(b)).values()]).sum().backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("twin_"))


# packing ---------------------------------------------------------------------------------------------------------------

PACKED = [
    {},
    {"layers": 2, "cross_layers": "all"},
    {"block": "pre", "update": "search_first"},
    {"block": "literal", "self_context": "search"},
    {"context": "encoded", "includes_current": False},
    {"cross_steps": False, "empty": "learned", "perturb_history": True},
    {"attention": "multihead", "shared_cross": True, "step_position": "none"},
    {"attention": "mlp", "scorer": "mlp+dot"},
    {"aggregation": "mean", "steps": 0},
    {"aggregation": "mean_steps", "scorer": "dot"},
]


@pytest.mark.parametrize(
    ("settings", "double"),
    [*((s, True) for s in PACKED), *((s, False) for s in PACKED[:2])],
    ids=lambda v: "-".join(f"{k}={x}" for k, x in v.items()) or "default" if isinstance(v, dict) else "double" if v else "float",
)
@torch.no_grad()
def test_a_packed_row_scores_as_its_targets_one_by_one(settings, double):
    if not double and settings:
        settings = {**settings, "random": False}
    model, b = make(double=double, **settings), batch()
    assert model.packs
    noise = noise_for(b, model, rollouts=2)
    packed, rollouts = scores(model, b), scores(model, b, noise)
    tolerance = 1e-10 if double else 1e-5
    for row, target in torch.ones_like(b.rec_seen).nonzero().tolist():
        one = single(b, row, target)
        if (row + target) % 2:
            found, expected = scores(model, one)[0, 0], packed[row, target]
        else:
            found, expected = scores(model, one, noise[row, target][None, None])[0, 0], rollouts[row, target]
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("settings", [{"causal": False}, {"position": "recent"}])
def test_a_state_that_depends_on_later_events_is_not_packed(settings):
    model, b = make(**settings), batch()
    assert not model.packs
    alone = torch.stack([scores(model, single(b, len(b.user) - 1, t))[0, 0] for t in range(3)])
    assert not torch.allclose(alone, scores(model, b)[-1], atol=1e-6)


@pytest.mark.parametrize("settings", [{"heads": 3, "width": 8}])
def test_the_width_must_split_into_heads(settings):
    with pytest.raises(ValueError, match="not a multiple"):
        make(**settings)


def test_reasoning_gives_retrieval_vectors_only_with_a_dot_product():
    b = batch()
    assert make().retrieval(make().encode(b)) is None
    for scorer in ("dot", "mlp+dot"):
        model = make(scorer=scorer)
        found = model.retrieval(model.encode(b))
        assert found.shape == (*b.rec_seen.shape, 2 * (model.config.steps + 1), model.config.width)
        assert math.isfinite(found.sum().item())
