"""GRU4Rec against the specification: its recurrence step by step, its three losses in loops, its switches."""

import math

import pytest
import torch
from tests.models.sequences import events
from tests.models.synthetic import ITEMS, NEITHER, batch, extend, left_padded, make, rows_of, scores, single, vocabulary

SETTINGS = [{}, {"layers": 2}, {"state_width": 5}, {"features": False}, {"history": "merged"}]
LOSSES = ("cross-entropy", "bpr-max", "top1-max")


def names(settings):
    return "-".join(f"{k}={v}" for k, v in settings.items())


def step(model, layer, x, h):
    """One step of one layer, from the equations of the module."""
    inner, outer = getattr(model.gru, f"weight_ih_l{layer}") @ x, getattr(model.gru, f"weight_hh_l{layer}") @ h
    (wr, wz, wn), (ur, uz, un) = inner.chunk(3), outer.chunk(3)
    z = (wz + uz).sigmoid()
    return (1 - z) * (wn + (wr + ur).sigmoid() * un).tanh() + z * h


@pytest.mark.parametrize("settings", SETTINGS, ids=names)
@torch.no_grad()
def test_scores_equal_the_equations(settings):
    model, b = make("gru4rec", **settings), batch(rows=5, targets=2)
    for x in (b, left_padded(b), extend(b, 2, 1)):
        found = scores(model, x)
        for row, target in torch.ones_like(x.rec_seen).nonzero().tolist():
            h = [torch.zeros(model.config.state_width).double() for _ in range(model.config.layers)]
            for _, vector in events(model, x, row, target):
                for layer in range(len(h)):
                    vector = h[layer] = step(model, layer, vector, h[layer])
            u = model.out.weight @ h[-1] + model.out.bias
            expected = model.items(x.candidates[row, target]) @ u
            torch.testing.assert_close(found[row, target], expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_who_has_seen_nothing_is_scored_by_the_output_layers_bias():
    model, b = make("gru4rec"), rows_of(batch(), [NEITHER])
    torch.testing.assert_close(scores(model, b), (model.items(b.candidates) * model.out.bias).sum(-1))


@torch.no_grad()
def test_order_counts_and_one_click_is_enough():
    model, b = make("gru4rec"), single(batch(), -1, 2)
    assert not torch.allclose(scores(model, b), scores(model, b.with_(rec=b.rec.flip(1))), atol=1e-6)
    one = b.with_(rec_seen=torch.ones_like(b.rec_seen))
    other = one.with_(rec=one.rec.roll(1, 1))
    assert not torch.allclose(scores(model, one), scores(model, other), atol=1e-6)


def by_hand(model, b, loss):
    """The losses in loops over targets and their sampled items."""
    config, count, pool = model.config, vocabulary().item_count.double(), ITEMS - 2
    state = model.encode(b)
    real = b.target_mask.nonzero().tolist()
    targets = [int(b.positive_item[row, t]) for row, t in real]
    negatives = [int(v) for row, t in real for c, v in enumerate(b.candidates[row, t]) if c != b.positive[row, t]]
    found = []
    for row, t in real:
        z = {v: float(model.items(torch.tensor(v)) @ state.vector[row, t]) for v in {*targets, *negatives}}
        own = int(b.positive_item[row, t])
        others = [v for v in targets + negatives if v != own]
        if loss == "cross-entropy":
            total = math.exp(z[own])
            for v in others:
                total += math.exp(z[v]) / (len(targets) * count[v] / count.sum() + len(negatives) / pool)
            found.append(float(total.log() - z[own]))
            continue
        s = [math.exp(z[v]) for v in others]
        s = [x / sum(s) for x in s]
        pairs = list(zip(s, (z[v] for v in others), strict=True))
        if loss == "bpr-max":
            likely = sum(x / (1 + math.exp(y - z[own])) for x, y in pairs)
            found.append(-math.log(likely) + config.score_weight * sum(x * y * y for x, y in pairs))
        else:
            found.append(sum(x * (1 / (1 + math.exp(z[own] - y)) + 1 / (1 + math.exp(-y * y))) for x, y in pairs))
    return sum(found) / len(found)


@pytest.mark.parametrize("loss", LOSSES)
@torch.no_grad()
def test_the_original_losses_equal_their_formulas(loss):
    model, b = make("gru4rec", original_loss=loss, score_weight=0.3, samples=1000), batch()
    assert not b.target_mask.all()  # a padded target is among them
    found = model.objective(b, model.encode(b), "original")
    assert found["rank"].item() == pytest.approx(by_hand(model, b, loss))


@torch.no_grad()
def test_the_cross_entropy_estimates_the_sum_over_the_catalogue():
    """Targets drawn by popularity and uniform negatives: the mean of many estimates is what the full softmax sums."""
    model, one, g = make("gru4rec", samples=10_000), single(batch(), -1, 2), torch.Generator().manual_seed(0)
    count = vocabulary().item_count.double()
    own = int(one.positive_item)
    b = rows_of(one, [0] * 4000)
    drawn = torch.randint(2, ITEMS, (4000, 1, 2), generator=g)
    popular = torch.multinomial(count, 4000, replacement=True, generator=g)
    b = b.with_(candidates=torch.cat([popular.view(-1, 1, 1), drawn], 2), positive=torch.zeros(4000, 1, dtype=torch.long))
    ids, log_expected = model.sample(b)
    z = model.score(model.encode(one), model.items(ids)[None, None])[0, 0]
    others = ids != own
    estimate = ((z - log_expected).exp() * others).sum()
    every = torch.tensor([v for v in range(2, ITEMS) if v != own])
    exact = model.score(model.encode(one), model.items(every)[None, None]).exp().sum()
    assert estimate.item() == pytest.approx(exact.item(), rel=0.02)


@torch.no_grad()
def test_a_batch_without_another_item_weighs_nothing():
    """One target whose only sampled item is itself."""
    b = single(batch(), -1, 2)
    b = b.with_(candidates=b.candidates[..., :1].expand(-1, -1, 2), positive=torch.zeros(1, 1, dtype=torch.long))
    for loss in LOSSES:
        model = make("gru4rec", original_loss=loss)
        assert model.objective(b, model.encode(b), "original")["rank"].item() == pytest.approx(0)


@torch.no_grad()
def test_full_softmax_is_the_cross_entropy_over_all_items():
    model, b = make("gru4rec", softmax="full"), batch()
    state = model.encode(b)
    z = model.score(state, model.items(torch.arange(2, ITEMS))[None, None])
    loss = [float(z[row, t].logsumexp(0) - z[row, t, b.positive_item[row, t] - 2]) for row, t in b.target_mask.nonzero().tolist()]
    assert model.objective(b, state, "original")["rank"].item() == pytest.approx(sum(loss) / len(loss))


def test_at_most_so_many_samples_of_each_kind():
    model, b = make("gru4rec", samples=5), batch()
    assert len(model.sample(b)[0]) == 10


@pytest.mark.parametrize(("name", "value"), [("state_width", 16), ("layers", 2), ("history", "merged"), ("scorer", "mlp")])
def test_a_switch_has_its_effect(name, value):
    b = batch()
    assert not torch.allclose(scores(make("gru4rec"), b)[-1, -1], scores(make("gru4rec", **{name: value}), b)[-1, -1], atol=1e-6)


def test_dropout_acts_on_the_input_in_training_only():
    model, b = make("gru4rec", dropout=0.5), batch()
    before = scores(model, b)
    assert torch.equal(before, scores(make("gru4rec", dropout=0.0), b))
    assert not torch.equal(before[-1], scores(model.train(), b)[-1])
    assert torch.equal(before[NEITHER], scores(model, b)[NEITHER])  # no input, nothing to drop
