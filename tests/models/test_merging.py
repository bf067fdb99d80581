"""Merged histories and the losses over the catalogue, each against its definition."""

import math

import pytest
import torch
from tests.models.synthetic import ITEMS, NEITHER, NO_REC, NO_SEARCH, R, S, batch, extend, left_padded, make, shift

from seerec.models.base import shared_negatives
from seerec.models.merging import merge

MOVES = [lambda b: b, left_padded, lambda b: extend(b, 3, 2), lambda b: shift(b, 2, 1)]


def by_hand(b, row):
    """Source slots in order of (time, recommendation before search, slot)."""
    r = b.rec.shape[1]
    clicks = [(int(b.rec_time[row, i]), 0, i) for i in range(r) if b.rec[row, i]]
    searches = [(int(b.search_time[row, i]), 1, i + r) for i in range(b.searched.shape[1]) if b.searched[row, i]]
    return [slot for _, _, slot in sorted(clicks + searches)]


def with_ties():
    """Some searches at the very instant of a click, two clicks at one instant."""
    b = batch(rows=20)
    both = torch.minimum(b.rec_time[:, :S], b.search_time + b.rec_time[:, :S])
    rec_time = b.rec_time.clone()
    rec_time[:, 2] = rec_time[:, 1]
    return b.with_(rec_time=rec_time, search_time=torch.where(b.searched, both, b.search_time).sort(1).values)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("make_batch", [batch, with_ties])
def test_both_histories_in_order_of_time(move, make_batch):
    b = move(make_batch())
    merged = merge(b)
    for row in range(len(b.user)):
        expected = by_hand(b, row)
        assert merged.order[row, : len(expected)].tolist() == expected
        assert merged.present[row].tolist() == [slot < len(expected) for slot in range(merged.order.shape[1])]
        assert merged.is_search[row, : len(expected)].tolist() == [slot >= b.rec.shape[1] for slot in expected]
    assert not merged.is_search[~merged.present].any()
    for row in (NO_REC, NO_SEARCH, NEITHER):
        assert merged.present[row].sum() == (b.rec[row] != 0).sum() + b.searched[row].sum()


def test_a_click_comes_before_a_search_at_the_same_instant():
    b = with_ties()
    assert any(int(time) in b.search_time[row][b.searched[row]] for row in range(20) for time in b.rec_time[row][b.rec[row] != 0])


@pytest.mark.parametrize("move", MOVES)
def test_place_is_where_each_event_went(move):
    merged = merge(move(batch()))
    every = torch.arange(merged.order.shape[1]).expand_as(merged.order)
    assert torch.equal(merged.order.gather(1, merged.place), every)
    assert torch.equal(merged.place.gather(1, merged.order), every)


@pytest.mark.parametrize("move", MOVES)
def test_a_target_sees_a_prefix_that_holds_what_it_saw_of_both(move):
    b = move(batch())
    merged = merge(b)
    r = b.rec.shape[1]
    for row, t in torch.ones_like(b.rec_seen).nonzero().tolist():
        clicks = b.rec[row].nonzero().flatten()[: b.rec_seen[row, t]].tolist()
        searches = (b.searched[row].nonzero().flatten()[: b.search_seen[row, t]] + r).tolist()
        visible = merged.reach.visible[row, t]
        assert {*merged.order[row, visible].tolist()} == {*clicks, *searches}
        assert visible.tolist() == [slot < len(clicks) + len(searches) for slot in range(len(visible))]


def test_values_are_arranged_whatever_their_axes():
    b = batch()
    merged, r = merge(b), b.rec.shape[1]
    found = merged.arrange(b.rec, torch.arange(S).expand(len(b.user), -1) + 1000)
    vectors = merged.arrange(b.rec.unsqueeze(2).expand(-1, -1, 3), b.click[..., :1].expand(-1, -1, 3))
    for row, slot in torch.ones_like(merged.order).nonzero().tolist():
        source = int(merged.order[row, slot])
        assert found[row, slot] == (b.rec[row, source] if source < r else 1000 + source - r)
        assert (vectors[row, slot] == (b.rec[row, source] if source < r else b.click[row, source - r, 0])).all()
    assert found.shape == (len(b.user), R + S)


# losses over the catalogue -----------------------------------------------------------------------------------------------


def catalogue_by_hand(model, b, positive, ids, extra):
    """Mean over the targets that have a positive of -log of its share among itself and ``ids``, each counted exp(extra) times."""
    state, found = model.encode(b), []
    for row, t in positive.nonzero().tolist():
        own = float(model.items(positive[row, t]) @ state.vector[row, t])
        others = [float(model.items(v) @ state.vector[row, t]) for v in ids if v != positive[row, t]]
        found.append(math.log(math.exp(own) + sum(math.exp(z + extra) for z in others)) - own)
    return sum(found) / len(found)


@torch.no_grad()
def test_the_catalogue_loss_equals_its_formula():
    b = batch()
    assert not b.target_mask.all()
    full, sampled = (make("sasrec", softmax=softmax, samples=11) for softmax in ("full", "sampled"))
    every = torch.arange(2, ITEMS)
    ids = shared_negatives(b, 11)
    for positive in (b.positive_item, (b.positive_item + 3) % ITEMS * (torch.arange(3) != 1)):
        given = () if positive is b.positive_item else (positive.masked_fill(positive == 1, 0),)
        wanted = given[0] if given else positive
        expected = catalogue_by_hand(full, b, wanted, every, 0.0)
        assert full.catalogue_loss(b, full.encode(b), *given).item() == pytest.approx(expected)
        expected = catalogue_by_hand(sampled, b, wanted, ids, math.log((ITEMS - 2) / 11))
        assert sampled.catalogue_loss(b, sampled.encode(b), *given).item() == pytest.approx(expected)


def test_shared_negatives_are_negatives_of_real_targets_evenly_over_the_rows():
    b = batch(rows=12)
    negatives = [[int(v) for c, v in enumerate(items) if c != p] for items, p, real in
                 zip(b.candidates.flatten(0, 1), b.positive.flatten(), b.target_mask.flatten(), strict=True) if real]  # fmt: skip
    flat = [v for items in negatives for v in items]
    assert shared_negatives(b, 10_000).tolist() == flat
    for most in (1, 7, 40):
        found = shared_negatives(b, most).tolist()
        assert found == [flat[place * len(flat) // most] for place in range(most)]
