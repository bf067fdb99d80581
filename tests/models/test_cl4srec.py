"""CL4SRec against the specification: SASRec without its second loss, the three operators, InfoNCE in loops."""

import math
from dataclasses import replace

import pytest
import torch
from tests.models.synthetic import batch, extend, left_padded, make, rows_of, scores

from seerec.models.cl4srec import CROP, MASK, REORDER, views
from seerec.models.registry import MODELS

SHARE = (0.6, 0.3, 0.6)
WHOLE = {"crop": 1.0, "mask": 0.0, "reorder": 0.0}
"""Views that change nothing."""


def sasrec_of(model):
    """SASRec with the same settings and weights."""
    own = set(MODELS["sasrec"].Config.model_fields)
    twin = make("sasrec", **{name: value for name, value in model.config.model_dump().items() if name in own})
    twin.load_state_dict({name: value for name, value in model.state_dict().items() if name != "mask_token"})
    return twin


@pytest.mark.parametrize("settings", [{}, {"norm": "pre", "layers": 2}, {"history": "merged", "scorer": "mlp"}])
@pytest.mark.parametrize("kind", ["group", "original"])
@torch.no_grad()
def test_without_the_contrastive_loss_it_is_sasrec(settings, kind):
    model, b = make("cl4srec", contrastive_weight=0.0, **settings), batch()
    twin = sasrec_of(model)
    assert torch.equal(scores(model, b), scores(twin, b))
    found, expected = (x.objective(b, x.encode(b), kind) for x in (model, twin))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@torch.no_grad()
def test_a_new_model_starts_as_sasrec_starts():
    model, twin = (make(key, random=False) for key in ("cl4srec", "sasrec"))
    assert torch.equal(scores(model, batch()), scores(twin, batch()))


@torch.no_grad()
def test_the_weight_multiplies_one_more_term():
    b, found = batch(), []
    for weight in (0.1, 0.3):
        model = make("cl4srec", contrastive_weight=weight)
        torch.manual_seed(0)
        found.append(model.objective(b, model.encode(b)))
    assert torch.equal(found[0]["rank"], found[1]["rank"])
    torch.testing.assert_close(found[1]["contrast"], 3 * found[0]["contrast"])


# operators ---------------------------------------------------------------------------------------------------------------


def drawn(operator, share=SHARE, rows=6000, slots=12):
    """Lengths 0 to 12, and what the operator makes of them."""
    torch.manual_seed(0)
    length = torch.arange(rows) % (slots + 1)
    return length, *views(length, torch.full((rows,), operator), share, slots)


def test_a_crop_is_a_window_anywhere():
    length, order, kept, masked = drawn(CROP)
    starts = {}
    for n, row, here in zip(length.tolist(), order.tolist(), kept.tolist(), strict=True):
        size = min(n, max(1, math.floor(0.6 * n)))
        assert here == [slot < size for slot in range(12)]
        if size:
            assert row[:size] == list(range(row[0], row[0] + size))
            assert row[0] >= 0
            assert row[size - 1] < n
            starts.setdefault(n, []).append(row[0])
    assert not masked.any()
    for n, found in starts.items():
        often = [found.count(start) / len(found) for start in range(n - max(1, math.floor(0.6 * n)) + 1)]
        assert sum(often) == pytest.approx(1)
        assert all(abs(x - 1 / len(often)) < 0.08 for x in often)


def test_a_mask_covers_so_many_events_and_moves_none():
    length, order, kept, masked = drawn(MASK)
    assert (order == torch.arange(12)).all()
    assert torch.equal(kept, torch.arange(12) < length[:, None])
    assert masked.sum(1).tolist() == [math.floor(0.3 * n) for n in length.tolist()]
    assert not (masked & ~kept).any()
    full = masked[length == 12].float().mean(0)
    assert ((full - 3 / 12).abs() < 0.08).all()


def test_a_reordering_shuffles_a_window_and_keeps_every_event():
    length, order, kept, masked = drawn(REORDER)
    assert torch.equal(kept, torch.arange(12) < length[:, None])
    assert not masked.any()
    assert torch.equal(order.sort(1).values, torch.arange(12).expand_as(order))
    moved = (order != torch.arange(12)).int()
    assert not (moved * ~kept).any()  # padding stays where it is
    for n, row in zip(length.tolist(), moved.tolist(), strict=True):
        changed = [slot for slot, flag in enumerate(row) if flag]
        assert not changed or changed[-1] - changed[0] < math.floor(0.6 * n)
    assert (moved[length == 12].float().mean(0) > 0.1).all()  # windows lie everywhere
    assert moved[length == 12].any(1).float().mean() > 0.95


def test_shares_of_zero_and_one_change_nothing():
    for operator in (CROP, MASK, REORDER):
        length, order, kept, masked = drawn(operator, (1.0, 0.0, 0.0))
        assert (order == torch.arange(12)).all()
        assert torch.equal(kept, torch.arange(12) < length[:, None])
        assert not masked.any()


@torch.no_grad()
def test_the_two_views_of_a_history_use_two_operators(monkeypatch):
    model, b, used = make("cl4srec"), rows_of(batch(), [1] * 500), []
    monkeypatch.setattr(model, "view", lambda *given: used.append(given[2]) or torch.zeros(500, 8).double())
    model.contrast(b)
    assert len(used) == 2
    assert (used[0] != used[1]).all()
    for operators in used:
        assert all(abs((operators == kind).float().mean() - 1 / 3) < 0.08 for kind in range(3))


@torch.no_grad()
def test_a_masked_event_is_the_vector_of_its_own():
    """All masked: the items no longer count, but how many there were does."""
    model, b = make("cl4srec", mask=1.0), batch()
    sequence, length = model.sequence(b), b.rec_seen[:, -1]
    everywhere = torch.full_like(length, MASK)
    other = b.with_(rec=torch.where(b.rec != 0, b.rec % 50 + 2, 0))
    before = model.view(sequence, length, everywhere)
    assert torch.equal(before, model.view(model.sequence(other), length, everywhere))
    model.mask_token += 1
    changed = (model.view(sequence, length, everywhere) - before).abs().amax(1) > 1e-6
    assert torch.equal(changed, length > 0)


@pytest.mark.parametrize("settings", [{}, {"history": "merged"}])
@torch.no_grad()
def test_views_never_write_into_the_batch(settings):
    model, b = make("cl4srec", **settings), batch()
    before = {name: value.clone() for name, value in vars(b).items()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    sequence = model.sequence(b)
    kept = sequence.tokens.clone()
    for operator in range(3):
        model.view(sequence, sequence.present.sum(1), torch.full_like(b.user, operator))
    model.objective(b, model.encode(b))
    assert torch.equal(sequence.tokens, kept)
    assert all(torch.equal(value, before[name]) for name, value in vars(b).items())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# InfoNCE -----------------------------------------------------------------------------------------------------------------


def by_hand(z, target, temperature, same_target):
    """z: two views by row, of the rows that have them."""
    views, item = [*z[0], *z[1]], target * 2
    half, found = len(target), []
    for i, own in enumerate(views):
        partner = (i + half) % (2 * half)
        negatives = [k for k in range(2 * half) if k not in (i, partner) and (same_target or item[k] != item[i])]
        total = sum(math.exp(float(own @ views[k]) / temperature) for k in [partner, *negatives])
        found.append(math.log(total) - float(own @ views[partner]) / temperature)
    return sum(found) / len(found)


@pytest.mark.parametrize("same_target", [True, False])
@pytest.mark.parametrize("history", ["rec", "merged"])
@torch.no_grad()
def test_the_contrastive_loss_equals_its_formula(same_target, history):
    """Views that change nothing: both are the state of a row's last real target."""
    model = make("cl4srec", temperature=0.7, same_target_negatives=same_target, history=history, **WHOLE)
    b = batch(rows=9)
    candidates = b.candidates.clone()
    candidates[4:7, -1] = candidates[4, -1]
    b = b.with_(candidates=candidates, positive=b.positive.index_fill(0, torch.tensor([4, 5, 6]), 1))
    for x in (b, left_padded(b), extend(b, 1, 2)):
        state, real = model.encode(x).vector, x.target_mask.int().cumsum(1).argmax(1)
        seen = x.rec_seen + x.search_seen * (history == "merged")
        rows = [row for row in range(9) if seen[row, real[row]] >= 2]
        assert 2 < len(rows) < 9
        z = [state[row, real[row]] for row in rows]
        target = [int(x.positive_item[row, real[row]]) for row in rows]
        assert len({*target}) < len(target)
        assert model.contrast(x).item() == pytest.approx(by_hand((z, z), target, 0.7, same_target))


@torch.no_grad()
def test_views_that_are_all_alike_cost_the_logarithm_of_their_number():
    model, b = make("cl4srec"), batch()
    model.blocks[0].norm_feed.weight.zero_()
    paired = int((b.rec_seen[:, -1] >= 2).sum())
    assert model.contrast(b).item() == pytest.approx(math.log(2 * paired - 1))


def test_a_batch_without_two_histories_costs_nothing():
    b = batch()
    for x in (rows_of(b, [0]), rows_of(b, [0, 2]), rows_of(b, [1])):
        model = make("cl4srec")
        loss = model.contrast(x)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "value"),
    [("crop", 0.3), ("mask", 0.9), ("reorder", 0.2), ("temperature", 0.5), ("same_target_negatives", False)],
)
@torch.no_grad()
def test_a_switch_has_its_effect_on_the_contrastive_loss_alone(name, value):
    model, b = make("cl4srec"), batch(rows=20)
    b = replace(b, candidates=b.candidates[:1].expand_as(b.candidates).clone(), positive=b.positive[:1].expand_as(b.positive))
    other = make("cl4srec", **{name: value})
    assert torch.equal(scores(model, b), scores(other, b))
    found = []
    for x in (model, other):
        torch.manual_seed(0)
        found.append(x.contrast(b).item())
    assert found[0] != pytest.approx(found[1], abs=1e-6)
