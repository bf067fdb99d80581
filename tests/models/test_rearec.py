"""ReaRec against the specification: its equations per event, both variants' terms by hand, the guards."""

import math
from dataclasses import replace

import pytest
import torch
from tests.models.synthetic import PADDED, batch, extend, left_padded, make, scores
from torch.nn import functional as F

KEYS = ("rearec-erl", "rearec-prl")
SETTINGS = [{}, {"steps": 0}, {"steps": 3, "layers": 1, "heads": 4}, {"steps": 1, "temperature": 1.5, "features": False}]


def layer(block, x):
    """Post-norm layer over a list of vectors, where each sees itself and those before."""
    part, heads, out = block.attention, block.attention.heads, []
    for i in range(len(x)):
        q, k, v = part.query(x[i]), part.key(x[: i + 1]), part.value(x[: i + 1])
        e = len(q) // heads
        parts = [slice(h * e, (h + 1) * e) for h in range(heads)]
        read = torch.cat([(q[p] @ k[:, p].T / math.sqrt(e)).softmax(-1) @ v[:, p] for p in parts])
        a = F.layer_norm(x[i] + part.out(read), (len(q),), block.norm_attention.weight, block.norm_attention.bias, 1e-12)
        f = a + block.feed_out(F.gelu(block.feed_in(a)))
        out.append(F.layer_norm(f, (len(q),), block.norm_feed.weight, block.norm_feed.bias, 1e-12))
    return torch.stack(out)


def states(model, items, given=None):
    """r_0..r_K of one target: every step encodes the whole extended sequence anew. ``given``: what each step comes from."""

    def token(x):
        return F.layer_norm(x, x.shape, model.input_norm.weight, model.input_norm.bias, 1e-12)

    tokens = [token(model.items(i) + model.position[slot]) for slot, i in enumerate(items)]
    found = []
    for k in range(model.config.steps + 1):
        if k:
            tokens.append(token((found[-1] if given is None else given[k - 1]) + model.step_position[k - 1]))
        x = torch.stack(tokens) if tokens else torch.zeros(0, model.config.width).double()
        for block in model.blocks:
            x = layer(block, x) if len(x) else x
        found.append(x[-1] if len(x) else torch.zeros(model.config.width).double())
    return torch.stack(found)


def seen(b, row, target):
    return b.rec[row][b.rec[row] != 0][: int(b.rec_seen[row, target])]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("key", KEYS)
@torch.no_grad()
def test_scores_equal_the_extended_sequence_computed_anew(key, settings):
    model, b = make(key, **settings), batch(rows=5, targets=2)
    for x in (b, left_padded(b), extend(b, 2, 1)):
        found = scores(model, x)
        for row, target in torch.ones_like(x.rec_seen).nonzero().tolist():
            r = states(model, seen(x, row, target))
            u = r.mean(0) if key == "rearec-erl" else r[-1]
            expected = model.items(x.candidates[row, target]) @ u / model.config.temperature
            torch.testing.assert_close(found[row, target], expected, atol=1e-9, rtol=1e-9)


def test_without_steps_both_are_the_backbone():
    b = batch()
    erl, prl = (make(key, steps=0) for key in KEYS)
    assert torch.equal(scores(erl, b), scores(prl, b))
    for model in (erl, prl):
        for kind in ("group", "original"):
            terms = model.objective(b, model.encode(b), kind)
            assert [*terms] == ["rank"]
            assert terms["rank"].isfinite()


def choices(model, b, row, target, kind):
    """Items that a target's positive competes with, and its column."""
    if kind == "group":
        return b.candidates[row, target], int(b.positive[row, target])
    return torch.arange(2, len(model.inputs.item.weight)), int(b.positive_item[row, target]) - 2


@pytest.mark.parametrize("kind", ["group", "original"])
@pytest.mark.parametrize("divergence", ["mean", "pairs"])
@torch.no_grad()
def test_the_terms_of_erl(divergence, kind):
    model = make("rearec-erl", divergence=divergence, kl_weight=0.3, softmax="full", temperature=0.9, loss="softmax")
    b, rank, diversity = batch(rows=5), [], []
    for row, target in b.target_mask.nonzero().tolist():
        r = states(model, seen(b, row, target))
        items, column = choices(model, b, row, target, kind)
        p = (r @ model.items(items).T / 0.9).softmax(1)
        kl = [[(x * (x.log() - y.log())).sum() for y in p] for x in p]
        apart = [kl[i][j] for i in range(3) for j in range(3) if (i != j if divergence == "mean" else i < j)]
        diversity.append(sum(apart) / (6 if divergence == "mean" else 1))
        rank.append(-(model.items(items) @ r.mean(0) / 0.9).log_softmax(0)[column])
    terms = model.objective(b, model.encode(b), kind)
    torch.testing.assert_close(terms["rank"], torch.stack(rank).mean())
    torch.testing.assert_close(terms["diversity"], -0.3 * torch.stack(diversity).mean())
    assert terms["diversity"] < -1e-4


def test_the_divergence_vanishes_where_all_steps_agree_and_holds_the_second_distribution_fixed():
    model, b = make("rearec-erl", temperature=1.0), batch()
    state = model.encode(b)
    same = replace(state, steps=state.steps[:, :, :1].expand_as(state.steps))
    assert abs(model.divergence(b, same, "group").item()) < 1e-12
    steps = state.steps.detach().requires_grad_()
    model.divergence(b, replace(state, steps=steps), "group").backward()
    other = steps.detach().clone().requires_grad_()
    log = torch.stack([model.score(replace(state, vector=r), model.items(b.candidates)).log_softmax(2) for r in other.unbind(2)])
    pairs = [F.kl_div(log[j].detach(), log[i].exp(), reduction="none").sum(2) for i in range(3) for j in range(3) if i != j]
    torch.stack(pairs).mean(0)[b.target_mask].mean().backward()
    torch.testing.assert_close(steps.grad, other.grad)
    assert steps.grad.abs().max() > 1e-6


@pytest.mark.parametrize("kind", ["group", "original"])
@pytest.mark.parametrize("alpha", [1.0, 5.0])
@torch.no_grad()
def test_the_terms_of_prl(alpha, kind):
    model = make("rearec-prl", temperature_scale=alpha, step_weight=0.3, contrastive_weight=0.7, softmax="full", steps=3)
    b, tau = batch(rows=5), model.config.temperature
    r = {at: states(model, seen(b, *at)) for at in map(tuple, torch.ones_like(b.rec_seen).nonzero().tolist())}
    early, rank, contrast = [], [], []
    for row, target in map(tuple, b.target_mask.nonzero().tolist()):
        items, column = choices(model, b, row, target, kind)
        z = model.items(items) @ r[row, target].T
        early.append(sum(-(z[:, k] / (tau * alpha ** (3 - k))).log_softmax(0)[column] for k in range(3)) / 3)
        rank.append(-(z[:, 3] / tau).log_softmax(0)[column])
        others = [other for other in range(5) if b.target_mask[other, target]]
        for k in (1, 2, 3):
            near = torch.stack([r[row, target][k] @ r[other, target][k] for other in others]) / tau
            contrast.append(-near.log_softmax(0)[others.index(row)])
    terms = model.objective(b, model.encode(b), kind)
    torch.testing.assert_close(terms["steps"], 0.3 * torch.stack(early).mean())
    torch.testing.assert_close(terms["contrastive"], 0.7 * torch.stack(contrast).mean())
    if kind == "original":
        torch.testing.assert_close(terms["rank"], torch.stack(rank).mean())


@torch.no_grad()
def test_the_noisy_branch_starts_each_step_from_the_clean_state_and_reads_its_own_tokens():
    model, b = make("rearec-prl", noise_std=0.4, dropout=0.0, input_dropout=0.0, steps=3).train(), batch(rows=5)
    state = model.encode(b)
    torch.manual_seed(7)
    found = model.contrastive(b, state)
    torch.manual_seed(7)
    given = state.steps[:, :, :-1] + 0.4 * torch.randn_like(state.steps[:, :, :-1])
    loss = []
    for row, target in b.target_mask.nonzero().tolist():
        noisy = states(model, seen(b, row, target), given[row, target])
        others = b.target_mask[:, target].nonzero().flatten()
        near = torch.einsum("kd,ckd->kc", noisy[1:], state.steps[others, target, 1:]) / model.config.temperature
        loss.append((near.logsumexp(1) - near[:, others.tolist().index(row)]).mean())
    torch.testing.assert_close(found, torch.stack(loss).mean())
    assert not torch.allclose(found, model.eval().contrastive(b, state))


@torch.no_grad()
def test_states_that_are_all_equal_lose_the_logarithm_of_the_batch():
    """Of the rows with a target in that slot: padding is no negative."""
    model, b = make("rearec-prl"), batch()
    state = model.encode(b.with_(rec_seen=0 * b.rec_seen))
    rows = b.target_mask.sum(0).double()
    assert not b.target_mask[PADDED, -1]
    expected = (rows * rows.log()).sum() / rows.sum()
    torch.testing.assert_close(model.contrastive(b, state), expected)


def test_inference_has_no_noise_and_training_has_some():
    b = batch()
    quiet, noisy = (make("rearec-prl", noise_std=std, dropout=0.0, input_dropout=0.0) for std in (0.0, 0.5))
    assert torch.equal(scores(quiet, b), scores(noisy, b))
    for model, same in ((quiet, True), (noisy, False)):
        expected = model.contrastive(b, model.encode(b))
        model.train()
        assert torch.allclose(model.contrastive(b, model.encode(b)), expected) == same
        torch.testing.assert_close(scores(model, b), scores(quiet.eval(), b))


def test_a_weight_of_zero_leaves_a_term_out():
    b = batch()
    prl = make("rearec-prl", step_weight=0, contrastive_weight=0)
    erl = make("rearec-erl", kl_weight=0)
    assert [*prl.objective(b, prl.encode(b))] == [*erl.objective(b, erl.encode(b))] == ["rank"]


def test_the_sampled_catalogue_of_all_negatives_is_nearly_the_full_one():
    """Each of m sampled items stands for P / m of the catalogue, in the terms of the steps too."""
    b = batch(rows=60, candidates=9)
    for key, term in (("rearec-erl", "diversity"), ("rearec-prl", "steps")):
        sampled, full = (make(key, softmax=kind, samples=10_000, temperature=2.0) for kind in ("sampled", "full"))
        found, expected = (model.objective(b, model.encode(b), "original") for model in (sampled, full))
        for name in ("rank", term):
            assert found[name].item() == pytest.approx(expected[name].item(), rel=0.1)
            assert found[name].item() != expected[name].item()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("name", "value"), [("steps", 1), ("layers", 1), ("heads", 4), ("temperature", 0.5), ("scorer", "mlp"), ("history", "merged")]
)
def test_a_switch_has_its_effect(key, name, value):
    b = batch()
    assert not torch.allclose(scores(make(key), b)[-1, -1], scores(make(key, **{name: value}), b)[-1, -1], atol=1e-6)


def test_the_mlp_finds_its_own_scale():
    b = batch()
    one, two = (make("rearec-prl", scorer="mlp", temperature=tau) for tau in (0.07, 1.0))
    assert torch.equal(scores(one, b), scores(two, b))


def test_dropout_on_inputs_and_in_the_layers_are_two_settings():
    b = batch()
    for quiet in ("dropout", "input_dropout"):
        settings = {"dropout": 0.5, "input_dropout": 0.5, quiet: 0.0}
        model = make("rearec-prl", **settings).train()
        torch.manual_seed(0)
        assert not torch.allclose(scores(model, b), scores(model, b))
