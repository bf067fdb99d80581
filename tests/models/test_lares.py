"""LARES against the specification: its equations per event and step, starts and depths, both alignments by hand."""

import math
from dataclasses import replace

import pytest
import torch
from tests.models.synthetic import R, batch, extend, left_padded, make, rows_of, scores
from torch.nn import functional as F

from seerec.models.lares import Start, same_next_item

SETTINGS = [
    {},
    {"mix": "concat", "pre_layers": 1, "steps": 1},
    {"mix": "linear", "core_layers": 1, "heads": 4, "steps": 4},
    {"start": "normal", "similarity": "cos", "temperature": 0.3, "features": False},
]


def norm(module, x):
    return F.layer_norm(x, x.shape[-1:], module.weight, module.bias, 1e-12)


def layers(blocks, x):
    """Pre-norm layers over a list of vectors, where each sees itself and those before."""
    for block in blocks:
        part, heads, n, out = block.attention, block.attention.heads, norm(block.norm_attention, x), []
        for i in range(len(x)):
            q, k, v = part.query(n[i]), part.key(n[: i + 1]), part.value(n[: i + 1])
            e = len(q) // heads
            parts = [slice(h * e, (h + 1) * e) for h in range(heads)]
            read = torch.cat([(q[p] @ k[:, p].T / math.sqrt(e)).softmax(-1) @ v[:, p] for p in parts])
            a = x[i] + part.out(read)
            out.append(a + block.feed_out(F.gelu(block.feed_in(norm(block.norm_feed, a)))))
        x = torch.stack(out)
    return x


def states(model, items, start, depth):
    """S_1..S_T at the last event, T D; ``start``: S_0 of every event."""
    if not len(items):
        return torch.zeros(depth, model.config.width).double()
    x = norm(model.input_norm, torch.stack([model.items(i) + model.position[slot] for slot, i in enumerate(items)]))
    h, s, found = layers(model.pre, x), start[: len(items)].double(), []
    for _ in range(depth):
        if model.config.mix == "add":
            mixed = (s + h) / 2
        elif model.config.mix == "concat":
            mixed = model.adapter(torch.cat([s, h], 1))
        else:
            mixed = model.gate.sigmoid() * s + (1 - model.gate.sigmoid()) * h
        s = layers(model.core, norm(model.mix_norm, mixed))
        found.append(s[-1])
    return torch.stack(found)


def similarity(model, a, b):
    if model.config.similarity == "cos":
        return F.cosine_similarity(a, b, dim=-1) / model.config.temperature
    return (a * b).sum(-1)


def seen(b, row, target):
    return b.rec[row][b.rec[row] != 0][: int(b.rec_seen[row, target])]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_scores_equal_the_equations(settings):
    model, b = make("lares", **settings), batch(rows=5, targets=2)
    fixed = torch.zeros(model.length, 8).double()
    if model.config.start == "normal":
        fixed = model.start(model.history(rows_of(b, [-1]))).state[0, 0]
        assert fixed.std() > 1
    for x in (b, left_padded(b), extend(b, 2, 1)):
        found = scores(model, x)
        for row, target in torch.ones_like(x.rec_seen).nonzero().tolist():
            u = states(model, seen(x, row, target), fixed, model.config.steps)[-1]
            expected = similarity(model, model.items(x.candidates[row, target]), u)
            torch.testing.assert_close(found[row, target], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_rollouts_equal_the_equations_step_by_step(settings):
    """Every rollout from its own start to its own depth; after it there is nothing."""
    model, b = make("lares", **settings), batch(rows=4, targets=2, seed=2)
    g = torch.Generator().manual_seed(0)
    depth = torch.tensor([5, 3, 1])
    start = Start(torch.randn(len(b.user), 3, b.rec.shape[1], 8, generator=g, dtype=torch.float64), depth)
    state = model.reason(model.history(b), start)
    run = model.trajectory(state, model.items(b.candidates))
    assert run.logits.shape == (*b.rec_seen.shape, 3, 5, b.candidates.shape[2])
    assert torch.equal(run.length, depth)
    for row, target in torch.ones_like(b.rec_seen).nonzero().tolist():
        items = model.items(b.candidates[row, target])
        for n, steps in enumerate(depth.tolist()):
            s = states(model, seen(b, row, target), start.state[row, n], steps)
            expected = torch.stack([similarity(model, items, u) for u in s])
            torch.testing.assert_close(run.logits[row, target, n, :steps], expected, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(run.last()[row, target, n], expected[-1], atol=1e-9, rtol=1e-9)
        assert not state.steps[row, target, 2, 1:].any()
    torch.testing.assert_close(model.score(state, model.items(b.candidates)), run.last())


def test_depth_costs_no_parameters_and_one_step_is_one_pass():
    b, calls = batch(), []
    few, many = make("lares", steps=1), make("lares", steps=9)
    assert sum(p.numel() for p in few.parameters()) == sum(p.numel() for p in many.parameters())
    for model in (few, many):
        model.core[0].register_forward_hook(lambda *_: calls.append("core"))
        model.pre[0].register_forward_hook(lambda *_: calls.append("pre"))
        model.encode(b)
    assert calls == ["pre", "core", "pre", *["core"] * 9]
    assert not torch.allclose(scores(few, b), scores(many, b))


@torch.no_grad()
def test_training_draws_start_and_depth_and_evaluation_neither():
    b = batch()
    for start in ("normal_zero", "normal"):
        model = make("lares", start=start, dropout=0.0)
        before = torch.get_rng_state()
        assert torch.equal(scores(model, b), scores(model, b))
        assert torch.equal(torch.get_rng_state(), before)
        model.train()
        depths = {int(model.encode(b).depth) for _ in range(40)}
        assert depths <= set(range(1, 10))
        assert len(depths) > 3
        first, second = (model.start(model.history(b)).state for _ in range(2))
        assert not torch.equal(first, second)
    zero, normal = (make("lares", start=start) for start in ("normal_zero", "normal"))
    assert not torch.allclose(scores(zero, b), scores(normal, b))
    torch.testing.assert_close(scores(zero, b), scores(make("lares", start="normal", start_scale=0), b))


def test_depths_and_starts_have_the_published_distributions():
    model = make("lares", steps=6, start_std=0.5, start_scale=4.0)
    depth = model._depths(20_000, torch.Generator().manual_seed(0)).double()
    assert (depth.min().item(), depth.max().item()) == (1, 18)
    assert depth.mean().item() == pytest.approx(7, abs=0.15)
    assert depth.var().item() == pytest.approx(6 + 36 * (math.exp(0.25) - 1), rel=0.12)  # Poisson plus log-normal rate
    start = model._random((1000, 100), torch.Generator().manual_seed(0))
    assert start.abs().max().item() == pytest.approx(6, abs=0.05)
    assert start.std().item() == pytest.approx(2 * 0.9866, rel=0.01)  # a normal cut at three deviations


def test_the_noise_of_a_batch_differs_between_draws_but_not_its_depths():
    """The reference of stage 2 starts elsewhere and runs as deep."""
    model, b = make("lares"), batch()
    one, two = (model.noise(b, 6, 0.1, torch.Generator().manual_seed(seed)) for seed in range(2))
    other = model.noise(b.with_(key=b.key + 1), 6, 0.1, torch.Generator().manual_seed(0))
    assert one.state.shape == (len(b.user), 6, R, 8)
    assert torch.equal(one.depth, two.depth)
    assert not torch.equal(one.state, two.state)
    assert torch.equal(one.state, model.noise(b, 6, 9.9, torch.Generator().manual_seed(0)).state)
    assert torch.equal(one.state, other.state)
    assert not torch.equal(one.depth, other.depth)
    assert (one.depth.diff() <= 0).all()
    assert not torch.equal(one.state[:, 0], one.state[:, 1])


def with_positives(b, wanted):
    """The batch with these positives (B T), put where its own stood; 0 makes a target padding."""
    wanted = torch.tensor(wanted)
    items = b.candidates.scatter(2, b.positive.unsqueeze(2), wanted.unsqueeze(2)) * (wanted != 0).unsqueeze(2)
    return b.with_(candidates=items)


POSITIVES = [[5, 6, 7], [6, 8, 5], [9, 5, 5], [10, 11, 0], [12, 6, 13], [14, 15, 0], [16, 17, 18]]


def test_partners_are_targets_of_other_rows_with_the_same_next_item():
    b = with_positives(batch(), POSITIVES)
    pairs = [(divmod(t, 3), divmod(p, 3)) for t, p in zip(*map(torch.Tensor.tolist, same_next_item(b)), strict=True)]
    item = b.positive_item
    assert len(pairs) == len({target for target, _ in pairs}) == 6
    assert all(item[t] == item[p] and t[0] != p[0] for t, p in pairs)
    assert {t[0] for t, _ in pairs if item[t] == 5} == {p[0] for t, p in pairs if item[t] == 5} == {0, 1, 2}
    assert {t for t, _ in pairs if item[t] == 6} == {(0, 1), (1, 0), (4, 1)}


def info_nce(a, b, negatives):
    """Mean of both directions, one pair at a time; ``negatives[i]``: columns beside i's own."""
    loss = []
    for x, y in ((a, b), (b, a)):
        for i, others in enumerate(negatives):
            loss.append(-torch.stack([x[i] @ y[j] for j in [i, *others]]).log_softmax(0)[0])
    return torch.stack(loss).sum() / 2


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("similarity", ["dot", "cos"])
@torch.no_grad()
def test_the_alignments_by_hand(similarity, same):
    model = make("lares", similarity=similarity, same_item_negatives=same, temperature=0.7, dropout=0.0).train()
    b = with_positives(batch(), POSITIVES)
    one, other = model.encode(b), model.encode(b)

    def scaled(x):
        return (F.normalize(x, dim=-1) if similarity == "cos" else x) / math.sqrt(0.7)

    target, partner = same_next_item(b)
    item = b.positive_item.flatten()
    a, c = scaled(one.vector.flatten(0, 1)[target]), scaled(other.vector.flatten(0, 1)[partner])
    others = [[j for j in range(6) if j != i and (same or item[target[i]] != item[target[j]])] for i in range(6)]
    torch.testing.assert_close(model.trajectory_alignment(b, one, other), info_nce(a, c, others) / 6)

    depth = next(d for d in iter(lambda: model.encode(b), None) if int(d.depth) > 2)
    torch.manual_seed(3)
    early = int(torch.randint(int(depth.depth), ()))
    total, count = 0.0, 0
    for t in range(3):
        rows = b.target_mask[:, t].nonzero().flatten().tolist()
        item = b.positive_item[rows, t]
        a, c = scaled(depth.vector[rows, t]), scaled(depth.steps[rows, t, 0, early])
        others = [[j for j in range(len(rows)) if j != i and (same or item[i] != item[j])] for i in range(len(rows))]
        total, count = total + info_nce(a, c, others), count + len(rows)
    torch.manual_seed(3)
    torch.testing.assert_close(model.step_alignment(b, depth), total / count)


def test_without_partners_the_alignment_of_trajectories_is_zero_with_a_gradient_of_zero():
    model, b = make("lares"), with_positives(batch(), [[3 * row + t + 2 for t in range(3)] for row in range(7)])
    assert len(same_next_item(b)[0]) == 0
    terms = model.objective(b, model.encode(b))
    assert terms["tla"].item() == 0
    terms["tla"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    nothing = b.with_(candidates=0 * b.candidates)
    assert all(term.item() == 0 for term in model.objective(nothing, model.encode(nothing)).values())


def test_after_a_single_step_a_state_is_told_from_the_other_rows():
    """As in the port: t may be the last step, and at T = 1 it always is."""
    model, b = make("lares", steps=1), with_positives(batch(), POSITIVES)
    state = model.encode(b)
    assert state.steps.shape[3] == 1
    loss = model.step_alignment(b, state)
    assert loss.item() > 0
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_weights_scale_the_alignments_and_zero_leaves_them_out():
    b = with_positives(batch(), POSITIVES)
    found = []
    for weight in (1.0, 2.0):
        torch.manual_seed(0)
        model = make("lares", trajectory_weight=weight, step_weight=weight)
        torch.manual_seed(0)
        found.append(model.objective(b, model.encode(b)))
    for name in ("tla", "sla"):
        assert found[0][name].item() > 0
        torch.testing.assert_close(found[1][name], 2 * found[0][name])
    plain = make("lares", trajectory_weight=0, step_weight=0)
    assert [*plain.objective(b, plain.encode(b))] == ["rank"]


def test_the_second_run_has_a_start_and_a_depth_of_its_own():
    model, b = make("lares", dropout=0.0).train(), with_positives(batch(), POSITIVES)
    state, calls = model.encode(b), []
    model.trajectory_alignment = lambda _, one, other: calls.append((one, other)) or torch.zeros(())
    for _ in range(12):
        model.objective(b, state)
    assert all(other is state and not torch.equal(one.vector, state.vector) for one, other in calls)
    assert len({int(one.depth) for one, _ in calls}) > 1


def test_original_is_the_softmax_over_the_catalogue():
    model, b = make("lares", softmax="full"), batch()
    state, every = model.encode(b), torch.arange(2, len(model.inputs.item.weight))
    logits = model.score(state, model.items(every)[None, None]).log_softmax(2)
    own = logits.gather(2, (b.positive_item - 2).clamp(min=0).unsqueeze(2)).squeeze(2)
    terms = model.objective(b, state, "original")
    torch.testing.assert_close(terms["rank"], -own[b.target_mask].mean())
    assert {*terms} == {"rank", "tla", "sla"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("pre_layers", 1), ("core_layers", 1), ("steps", 2), ("mix", "linear"), ("similarity", "cos"), ("scorer", "mlp"),
     ("history", "merged"), ("heads", 4)],
)  # fmt: skip
def test_a_switch_has_its_effect(name, value):
    model, other, b = make("lares"), make("lares", **{name: value}), batch()
    assert not torch.allclose(scores(model, b)[-1, -1], scores(other, b)[-1, -1], atol=1e-6)
    assert (other.retrieval(other.encode(b)) is None) == (name in ("similarity", "scorer"))


@torch.no_grad()
def test_rollouts_pass_through_the_mlp_too():
    model, b = make("lares", scorer="mlp"), batch()
    state = model.reason(model.history(b), model.noise(b, 3, 0.1, torch.Generator().manual_seed(0)))
    one = replace(state, vector=state.vector[:, :, 1], rollouts=False)
    torch.testing.assert_close(
        model.score(state, model.items(b.candidates))[:, :, 1], model.score(one, model.items(b.candidates))
    )
