"""LCR-SER against its own equations: the identities of the specification, numbered as there."""

import numpy as np
import pytest
import torch
from tests.models.reference import Reference
from tests.models.synthetic import (
    NEITHER,
    NO_REC,
    NO_SEARCH,
    batch,
    extend,
    left_padded,
    make,
    noise_for,
    rows_of,
    scores,
    shift,
    single,
    state_tensors,
    vocabulary,
)
from torch import nn
from torch.nn import functional as F

from seerec.models import lcr_ser
from seerec.models.attention import history_mask

SIDES = ("s", "r")
VARIANTS = [
    {"steps": 3},
    {"features": True},
    {"steps": 0},
    {"steps": 1},
    {"layers": 2},
    {"layers": 2, "cross_layers": "all"},
    {"heads": 4, "feed_width": 12},
    {"block": "pre"},
    {"block": "pre", "layers": 2, "cross_layers": "all"},
    {"block": "literal"},
    {"activation": "gelu"},
    {"cross_norm": False},
    {"causal": False},
    {"self_context": "search"},
    {"update": "search_first"},
    {"update": "search_first", "block": "pre"},
    {"includes_current": False},
    {"cross_steps": False},
    {"includes_current": False, "cross_steps": False},
    {"context": "encoded"},
    {"empty": "learned"},
    {"step_position": "shared"},
    {"step_position": "none"},
    {"position": "recent"},
    {"perturb_history": True},
    {"attention": "dot"},
    {"attention": "multihead"},
    {"attention": "mlp"},
    {"aggregation": "mean"},
    {"aggregation": "mean", "steps": 0},
    {"aggregation": "mean_steps"},
    {"aggregation": "last"},
    {"scorer": "mlp+dot"},
    {"scorer": "dot"},
    {"hidden": (5,)},
    {"shared_cross": True},
]


def name_of(settings):
    return "-".join(f"{name}={value}" for name, value in settings.items()) or "default"


each_variant = pytest.mark.parametrize("settings", VARIANTS, ids=name_of)


def of(settings):
    """A model with random parameters; ids only and two steps, unless the settings say otherwise."""
    return make(**{"features": False, "steps": 2, **settings})


def cross_attentions(model):
    return [*model.search.cross, *model.recommendation.cross]


def silence_cross_attention(model):
    """Its output projection to zero, bias included."""
    with torch.no_grad():
        for attention in cross_attentions(model):
            attention.out.weight.zero_()
            attention.out.bias.zero_()
    return model


def tcl(model, b):
    return model.contrastive(b, model.encode(b)).item()


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=tolerance, rtol=tolerance)


# 1 --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [False, True], ids=["float", "double"])
def test_1_without_steps_it_is_encoder_target_attention_and_mlp(double):
    """Bit for bit, composed here from the parts."""
    model, b = of({"steps": 0, "features": True} | {"double": double}), batch()
    inputs = model.inputs
    tokens = {"s": inputs.queries(b.query) + mean_of(inputs.items(b.click), b.click != 0), "r": inputs.items(b.rec)}
    present, seen = {"s": b.searched, "r": b.rec != 0}, {"s": b.search_seen, "r": b.rec_seen}
    items, w = inputs.items(b.candidates), {}
    for side, encoder in (("s", model.search), ("r", model.recommendation)):
        there = present[side].unsqueeze(2)
        x = (tokens[side] + model.position[side][: tokens[side].shape[1]]) * there
        encoded = encoder.layers[0](x, history_mask(present[side], causal=True)) * there
        visible = torch.arange(x.shape[1]) < seen[side].unsqueeze(2)
        nothing = x.new_zeros(*seen[side].shape, 1, 0, x.shape[2])
        w[side] = model.target[side](items, encoded, visible, nothing)
    first, second, third = model.mlp
    u, s, r, v = first.weight.split(model.config.width, 1)
    known = F.linear(inputs.users(b.user), u, first.bias)[:, None, None] + F.linear(items, v)
    x = w["r"].through(r, w["s"].through(s, known.unsqueeze(2)))[:, :, 0]
    expected = third(F.relu(second(F.relu(x)))).squeeze(3)
    assert torch.equal(scores(model, b), expected)
    # The first layer by parts is the printed one over [e_u, w_s, w_r, e_v].
    user = inputs.users(b.user)[:, None, None].expand_as(items)
    w_s, w_r = (w[side].vector()[:, :, 0] for side in ("s", "r"))
    printed = third(F.relu(second(F.relu(first(torch.cat([user, w_s, w_r, items], 3)))))).squeeze(3)
    close(expected, printed, 1e-12 if double else 1e-5)


@pytest.mark.parametrize("settings", [{}, {"aggregation": "mean"}, {"perturb_history": True}], ids=name_of)
def test_scores_and_gradients_of_some_rows_at_a_time_are_those_of_all_at_once(settings, monkeypatch):
    model, b = of(settings), batch()
    found = []
    for size in (1 << 40, 1):
        monkeypatch.setattr(lcr_ser, "_PART", size)
        monkeypatch.setattr(lcr_ser, "_HELD", size)
        model.zero_grad()
        with torch.random.fork_rng():
            noise = model.noise(b, 3, 0.1, torch.Generator().manual_seed(4)).to(model.inputs.item.weight.dtype)
        logits = model.score(model.reason(model.history(b), noise), model.items(b.candidates))
        (logits**2).sum().backward()
        found.append((logits.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        with torch.no_grad():
            close(model.score(model.reason(model.history(b), noise), model.items(b.candidates)), logits.detach(), 1e-6)
    close(found[1][0], found[0][0], 1e-6)
    assert len(found[0][1]) > 10
    for part, whole in zip(found[1][1], found[0][1], strict=True):
        close(part, whole, 1e-4)


def mean_of(x, mask):
    return (x * mask.unsqueeze(-1)).sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1)


# 2 --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"layers": 2, "cross_layers": "all"}, {"block": "pre"}, {"block": "literal"}], ids=name_of
)
def test_2_silent_cross_attention_makes_the_twin_equal(settings):
    """The states equal their twins on both sides, so each side's TCL is the margin exactly."""
    model, b = of(settings), batch()
    assert tcl(model, b) != pytest.approx(2 * model.config.margin, abs=1e-3)
    silence_cross_attention(model)
    assert tcl(model, b) == pytest.approx(2 * model.config.margin, abs=1e-12)


def test_2_needs_the_normalisation_kept_in_the_twin():
    model, b = silence_cross_attention(of({"twin": "skip_norm"})), batch()
    assert tcl(model, b) != pytest.approx(2 * model.config.margin, abs=1e-3)


# 3 --------------------------------------------------------------------------------------------------------------------


def extended(model, b, side, row, target):
    """The encoder over [inputs ; step inputs], each step input being the last output so far plus its position."""
    state = model.history(b)
    encoder = model.sides()[side].layers[0]
    x = state.layer_inputs[side][0][row, : int({"s": b.search_seen, "r": b.rec_seen}[side][row, target])]
    out = state.start[side][row, target]
    for k in range(model.config.steps):
        x = torch.cat([x, (out + model.step_position[side][k])[None]])
        out = encoder(x[None], history_mask(torch.ones(1, len(x), dtype=torch.bool), causal=True))[0, -1]
        yield out


@pytest.mark.parametrize("settings", [{"cross_norm": False}, {"block": "literal"}, {"block": "pre"}], ids=name_of)
def test_3_reasoning_without_cross_attention_is_the_encoder_on_the_extended_sequence(settings):
    model, b = silence_cross_attention(of(settings)), batch()
    state = model.encode(b)
    for side in SIDES:
        for row, target in np.ndindex(*b.rec_seen.shape):
            close(state.steps[side][row, target, 0], torch.stack([*extended(model, b, side, row, target)]), 1e-10)


@pytest.mark.parametrize("settings", [{"twin": "skip_norm"}, {"block": "literal"}], ids=name_of)
def test_3_the_twin_is_the_encoder_on_the_extended_sequence(settings):
    """Eq. 9 with the extended encoder in the twin's place."""
    model, b = of(settings), batch()
    state, expected, mask = model.encode(b), 0.0, b.target_mask
    target_vector = model.items(b.positive_item)
    for side in SIDES:
        for row, target in mask.nonzero().tolist():
            *_, twin = extended(model, b, side, row, target)
            e_v, h = target_vector[row, target], state.steps[side][row, target, 0, -1]
            expected += F.relu((e_v - h).norm() - (e_v - twin).norm() + model.config.margin) / mask.sum()
    close(model.contrastive(b, state), expected, 1e-10)


def test_3_does_not_hold_with_the_normalisation_kept():
    """The condition matters: with the normalisation of the cross-attention, silent reasoning is another function."""
    model, b = silence_cross_attention(of({})), batch()
    row, target = b.rec_seen.shape[0] - 1, 2
    *_, last = extended(model, b, "r", row, target)
    assert (model.encode(b).steps["r"][row, target, 0, -1] - last).abs().max() > 1e-2


# 4 --------------------------------------------------------------------------------------------------------------------


@each_variant
@torch.no_grad()
def test_4_cached_and_packed_reasoning_equals_full_recomputation(settings):
    """Plain runs of the even targets, noisy ones of the odd; models that do not pack get one row per target."""
    model, b = of(settings), batch(rows=6, targets=2, candidates=3)
    noise = noise_for(b, model, rollouts=2)
    reference = Reference(model, vocabulary())
    for row, target in np.ndindex(*b.rec_seen.shape):
        if model.packs and (row, target) != (0, 0):
            r, t = row, target
        else:
            one, cut, r, t = (
                (b, noise, row, target) if model.packs else (single(b, row, target), noise[row, target][None, None], 0, 0)
            )
            plain, noisy = model.encode(one), model.reason(model.history(one), cut)
            items = model.items(one.candidates)
            logits = model.score(plain, items).unsqueeze(2), model.score(noisy, items)
        odd = (row + target) % 2
        steps, expected = reference.forward(b, row, target, noise[row, target, 1].numpy() if odd else None)
        for side in SIDES:
            found = (noisy if odd else plain).steps[side][r, t, odd]
            assert len(found) == len(steps[side]) == model.config.steps
            close(found, np.reshape(steps[side], found.shape))
        close(logits[odd][r, t, odd], expected)


@pytest.mark.parametrize(
    "settings",
    [
        *({"twin": twin} for twin in ("keep_norm", "skip_norm", "last_step", "separate")),
        *({"distance": distance} for distance in ("cosine", "normalised")),
        {"twin": "last_step", "layers": 2, "cross_layers": "all"},
        {"twin": "skip_norm", "self_context": "search"},
        {"margin": 0.7, "features": True},
    ],
    ids=name_of,
)
def test_4_the_contrastive_loss_equals_full_recomputation(settings):
    model, b = of(settings), batch(rows=5, targets=2, candidates=3)
    close(model.contrastive(b, model.encode(b)).detach(), Reference(model, vocabulary()).contrastive(b))


def test_4_the_contrastive_loss_sees_positives_only():
    """A22: no negative enters, and no padded target."""
    model, b = of({}), batch()
    state = model.encode(b)
    other = b.candidates.clone()
    other[b.target_mask] = other[b.target_mask].clamp(min=2) % 50 + 2
    other.scatter_(2, b.positive.unsqueeze(2), b.positive_item.unsqueeze(2))
    assert torch.equal(model.contrastive(b, state), model.contrastive(b.with_(candidates=other), state))
    real = [single(b, *where) for where in b.target_mask.nonzero().tolist()]
    each = [tcl(model, one) for one in real]
    assert tcl(model, b) == pytest.approx(sum(each) / len(each), abs=1e-9)


# 5 --------------------------------------------------------------------------------------------------------------------


@each_variant
@torch.no_grad()
def test_5_padding_changes_nothing(settings):
    """On the left or the right, more or less of it, in rollouts (the first is plain inference) and losses."""
    model = of(settings)
    b = batch() if model.packs else batch(targets=1)
    noise = noise_for(b, model, rollouts=2)
    rollouts, losses = scores(model, b, noise), model.objective(b, model.encode(b))
    for other in (extend(b, 3, 2), shift(left_padded(b), 2, 1)):
        close(scores(model, other, noise), rollouts)
        for name, value in model.objective(other, model.encode(other)).items():
            close(value, losses[name])


@pytest.mark.parametrize("settings", [{}, {"position": "recent"}, {"causal": False}], ids=name_of)
@torch.no_grad()
def test_5_any_mixture_of_left_and_right_padding(settings):
    model = of(settings)
    b = batch() if model.packs else batch(targets=1)
    for other in (left_padded(b), shift(b, 1, 3), extend(left_padded(b), 1, 1), shift(extend(b, 1, 0), 0, 2)):
        close(scores(model, other), scores(model, b))


# 6 --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", [lambda b: b, left_padded, lambda b: shift(b, 2, 1)], ids=["right", "left", "both"])
def test_6_reasoning_starts_from_the_last_valid_state(move):
    model, b = of({}), batch()
    moved = move(b)
    state = model.history(moved)
    for side, present, seen in (("s", moved.searched, b.search_seen), ("r", moved.rec != 0, b.rec_seen)):
        for row, target in np.ndindex(*seen.shape):
            slots, n = present[row].nonzero().flatten(), int(seen[row, target])
            expected = state.encoded[side][row, slots[n - 1]] if n else torch.zeros(model.config.width).double()
            assert torch.equal(state.start[side][row, target], expected)


# 7 --------------------------------------------------------------------------------------------------------------------


def changed(b, side):
    """The batch with other events on one side (as many), where there are any."""
    if side == "r":
        return b.with_(rec=torch.where(b.rec != 0, b.rec % 50 + 2, 0))
    return b.with_(query=torch.where(b.query != 0, b.query % 30 + 2, 0), click=torch.where(b.click != 0, b.click % 50 + 2, 0))


@pytest.mark.parametrize("settings", [{}, {"cross_steps": False}, {"layers": 2}, {"context": "encoded"}], ids=name_of)
@pytest.mark.parametrize("side", SIDES)
def test_7_the_other_side_matters_iff_cross_attention_acts(settings, side):
    model, other = of(settings), {"s": "r", "r": "s"}[side]
    b = rows_of(batch(), [3, 4, 5, 6])
    last = lambda m, x: m.encode(x).steps[side][:, -1, 0, -1]  # noqa: E731
    assert ((last(model, b) - last(model, changed(b, other))).abs().amax(1) > 1e-6).all()
    silence_cross_attention(model)
    assert torch.equal(last(model, b), last(model, changed(b, other)))
    assert not torch.equal(last(model, b), last(model, changed(b, side)))


def test_7_the_printed_self_attention_of_the_recommendation_side_reads_searches():
    """A1: with the printed context it sees searches even without cross-attention; the search side never sees clicks."""
    model, b = silence_cross_attention(of({"self_context": "search"})), rows_of(batch(), [3, 4, 5, 6])
    before, search, rec = (model.encode(x).steps for x in (b, changed(b, "s"), changed(b, "r")))
    assert ((before["r"] - search["r"]).abs().amax((1, 2, 3, 4)) > 1e-6).all()
    assert torch.equal(before["s"], rec["s"])


# 8, 9 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [s for s in VARIANTS if {"steps", "attention", "aggregation", "scorer", "perturb_history", "features", "causal"} & {*s}],
    ids=name_of,
)
@torch.no_grad()
def test_8_candidates_do_not_touch_the_state_and_9_scores_follow_their_order(settings):
    model, b = of(settings), batch()
    state = model.encode(b)
    before, after = (
        state_tensors(state),
        state_tensors(model.encode(b.with_(candidates=b.candidates % 40 + 2, positive=0 * b.positive))),
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    order = torch.randperm(b.candidates.shape[2], generator=torch.Generator().manual_seed(0))
    close(
        model.score(state, model.items(b.candidates[:, :, order])),
        model.score(state, model.items(b.candidates))[..., order],
        1e-12,
    )


# 10: test_layers.py. 11 to 15: tests/training/test_reinforce.py. 16: test_lcr_ser_planted.py -----------------


# 17 -------------------------------------------------------------------------------------------------------------------


def gradients(settings):
    """Gradients of TCL alone, by parameter."""
    model, b = of({"margin": 5.0, **settings}), batch()
    loss = model.contrastive(b, model.encode(b))
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


def test_17_detach_twin_stops_the_gradient_into_the_twin():
    """With weights of its own, the twin gets none; without the switch it does."""
    for detach in ("none", "target"):
        _, found = gradients({"twin": "separate", "detach": detach})
        assert any(g is not None and g.abs().max() > 1e-6 for name, g in found.items() if name.startswith("twin_"))
    for detach in ("twin", "both"):
        _, found = gradients({"twin": "separate", "detach": detach})
        assert all(g is None or not g.any() for name, g in found.items() if name.startswith("twin_"))
        assert found["search.cross.0.query.weight"].abs().max() > 1e-6


def test_17_with_shared_weights_detach_leaves_the_gradient_of_the_main_states():
    """No gradient reaches the twin: what remains is the gradient of the distance of the crossed states, and of the target."""
    model, b = of({"margin": 5.0, "detach": "both"}), batch()
    state = model.encode(b)
    loss = model.contrastive(b, state)
    assert loss.item() > 2  # no hinge is at rest, so every distance counts with slope 1
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    state = model.encode(b)
    target = model.items(b.positive_item).detach()
    distances = sum((target - state.steps[side][:, :, 0, -1]).norm(dim=-1) for side in SIDES)
    distances[b.target_mask].mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            close(found[name], parameter.grad, 1e-10)


def test_17_detach_never_moves_the_loss_but_its_gradient():
    results = {detach: gradients({"detach": detach}) for detach in ("none", "twin", "target", "both")}
    assert len({round(loss, 12) for loss, _ in results.values()}) == 1
    words = {detach: found["position.r"] for detach, (_, found) in results.items()}
    assert not torch.allclose(words["none"], words["twin"])
    items = {detach: found["inputs.item.weight"] for detach, (_, found) in results.items()}
    b = batch()
    history = torch.cat([b.rec.flatten(), b.click.flatten()])
    only_target = [i for i in b.positive_item.unique().tolist() if i and i not in history]
    assert only_target
    assert items["none"][only_target].abs().amax(1).min() > 1e-9
    assert items["twin"][only_target].abs().amax(1).min() > 1e-9
    assert not items["target"][only_target].any()
    assert not items["both"][only_target].any()


# empty histories ------------------------------------------------------------------------------------------------------


@each_variant
def test_empty_histories_are_finite(settings):
    """A12: one side, the other, both, and a batch with nothing at all: scores, losses and gradients."""
    model = of(settings).train()
    b = batch() if model.packs else batch(targets=1)
    for x in (left_padded(rows_of(b, [NO_REC, NO_SEARCH, NEITHER, -1])), rows_of(b, [NEITHER, NEITHER])):
        model.zero_grad()
        terms = model.objective(x, model.encode(x))
        rollouts = scores(model, x, noise_for(x, model, rollouts=2))
        assert rollouts.isfinite().all()
        assert all(value.isfinite() for value in terms.values())
        (torch.stack([*terms.values()]).sum() + rollouts.mean()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_an_empty_side_is_zero_or_a_learned_state():
    b = batch()
    assert not of({}).history(b).start["r"][NO_REC].any()
    learned = of({"empty": "learned"})
    state = learned.history(b)
    assert torch.equal(state.start["r"][NO_REC, 0], learned.empty["r"])
    assert torch.equal(state.start["s"][NO_SEARCH, 0], learned.empty["s"])
    assert isinstance(learned.empty["s"], nn.Parameter)
