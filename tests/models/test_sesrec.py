"""SESRec against a slow reading of its description, one row and one candidate at a time."""

import math

import pytest
import torch
from tests.models.synthetic import NEITHER, NO_REC, NO_SEARCH, R, S, batch, extend, left_padded, make, randomise, rows_of, scores
from torch.nn import functional as F

from seerec.models.sesrec import CoAttention, split_similar


def norm(ours, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-8).sqrt() * ours.weight + ours.bias


def attend(ours, x, valid):
    """Multi-head attention among all slots of ``x``, of which the first ``valid`` are keys."""
    q, k, v = ours.query(x), ours.key(x[:valid]), ours.value(x[:valid])
    e = q.shape[1] // ours.heads
    heads = [slice(h * e, (h + 1) * e) for h in range(ours.heads)]
    return ours.out(torch.cat([(q[:, h] @ k[:, h].T / math.sqrt(e)).softmax(1) @ v[:, h] for h in heads], 1))


class Reference:
    """One row of a right-padded batch whose target sees everything; ``slots`` R and S of them take part in the inner sums."""

    def __init__(self, model, b, row, slots=None):
        self.model, inputs, d = model, model.inputs, model.config.width
        n_r, n_s = int(b.rec_seen[row, 0]), int(b.search_seen[row, 0])
        l_r, l_s = slots or (n_r, n_s)
        nothing = no_item = no_query = torch.zeros(d).double()
        if model.config.project != "none":
            no_query = inputs.query_projection.bias
            rows = torch.zeros(inputs.item_features.in_features - d).double()  # of the item and of its categories
            no_item = inputs.item_features(torch.cat([rows, no_query]))
        search = []
        rec = [(inputs.items(b.rec[row, i]) if i < n_r else no_item) + model.position_rec[i] for i in range(l_r)]
        for i in range(l_s):
            clicked = [inputs.items(v) for v in b.click[row, i] if v != 0]
            token = inputs.queries(b.query[row, i]) + sum(clicked, nothing) / max(1, len(clicked))
            search.append((token if i < n_s else no_query) + model.source + model.position_search[i])
        r = self.encode(model.encoder_rec, torch.stack(rec), n_r)
        s = self.encode(model.encoder_search, torch.stack(search), n_s)
        part = model.co_attention
        g = torch.tanh(r @ part.affinity.weight @ s.T)
        a_r = ((part.search.weight @ s.T) @ g.T)[0, :n_r].softmax(0)
        a_s = ((part.rec.weight @ r.T) @ g)[0, :n_s].softmax(0)
        self.sides = [self.split(r[:n_r], a_r), self.split(s[:n_s], a_s)]
        self.user = inputs.users(b.user[row])

    def encode(self, layers, x, valid):
        for layer in layers:
            x = norm(layer.norm_attention, x + attend(layer.attention, x, valid))
            x = norm(layer.norm_feed, x + layer.feed_out(F.leaky_relu(layer.feed_in(x), 0.01)))
        return x

    def split(self, x, a):
        similar = [i for i in range(len(x)) if a[i] >= 1 / len(x)]
        dissimilar = [i for i in range(len(x)) if i not in similar]
        everything = list(range(len(x)))
        return x, a, (everything, similar or everything, dissimilar or everything)

    def score(self, e_v):
        parts = []
        for (x, _, sets), match in zip(self.sides, (self.model.target_rec, self.model.target_search), strict=True):
            parts += [(x[chosen] @ match.weight @ e_v).softmax(0) @ x[chosen] for chosen in sets]
        z = torch.cat([*parts, self.user, e_v])
        for layer in list(self.model.mlp)[:-1]:
            z = F.relu(layer(z))
        return self.model.mlp[-1](z)[0]

    def triplet(self):
        total = 0
        for x, a, (_, similar, dissimilar) in self.sides:
            near, far = (((a @ x) - x[chosen].mean(0)).norm() for chosen in (similar, dissimilar))
            total = total + F.relu(near - far + self.model.config.margin)
        return total


def whole(b):
    """Rows whose target sees both histories, all of them."""
    all_seen = (b.rec_seen[:, 0] == (b.rec != 0).sum(1)) & (b.search_seen[:, 0] == b.searched.sum(1))
    return (all_seen & (b.rec_seen[:, 0] > 0) & (b.search_seen[:, 0] > 0)).nonzero().flatten().tolist()


BUG = {"official_bug": True}


@pytest.mark.parametrize("settings", [{}, {"project": "linear", "layers": 2, "heads": 4}, BUG, {"project": "linear", **BUG}])
@torch.no_grad()
def test_scores_and_triplets_equal_the_description(settings):
    model, b = make("sesrec", **settings), batch(rows=10, targets=1, candidates=3)
    slots = (R, S) if model.config.official_bug else None
    found, kept = scores(model, b), whole(b)
    references = [Reference(model, b, row, slots) for row in kept]
    assert len(kept) >= 5
    assert any(s[1] != s[0] and s[2] != s[0] for r in references for _, _, s in r.sides)  # a real split
    for row, reference in zip(kept, references, strict=True):
        expected = torch.stack([reference.score(model.items(v)) for v in b.candidates[row, 0]])
        torch.testing.assert_close(found[row, 0], expected, atol=1e-10, rtol=1e-10)
    x = rows_of(b, kept)
    term = model.objective(x, model.encode(x))["triplet"]
    expected = sum(r.triplet() for r in references) / len(kept) * model.config.triplet_weight
    torch.testing.assert_close(term, expected, atol=1e-8, rtol=1e-5)  # torch's distance adds 1e-6 to each difference


@torch.no_grad()
def test_co_attention_in_figures():
    """R = (1, .5), S = (.5, -1), W1 = 2, w_d = 3, w_q = -1: G = tanh((1, -2), (.5, -1)); then without the second of each."""
    part, one, first = CoAttention(1).double(), torch.tensor([[True, True]]), torch.tensor([[True, False]])
    for layer, weight in ((part.affinity, 2), (part.search, 3), (part.rec, -1)):
        layer.weight.fill_(weight)
    rec, search = torch.tensor([[[1.0], [0.5]]]).double(), torch.tensor([[[0.5], [-1.0]]]).double()
    a, b, c, e = 0.7615942, 0.9640276, 0.4621172, 0.7615942  # tanh of 1, 2, .5, 1
    for seen, rec_logits, search_logits in (
        (one, [1.5 * a + 3 * b, 1.5 * c + 3 * e], [-a - 0.5 * c, b + 0.5 * e]),
        (first, [1.5 * a, 1.5 * c], [-a, b]),
    ):
        found = part(rec, search, seen, seen)
        for logits, expected in zip(found, (rec_logits, search_logits), strict=True):
            torch.testing.assert_close(logits, torch.tensor([expected]).double(), atol=1e-6, rtol=1e-6)
    side = split_similar(rec, torch.tensor([[0.0, math.log(3)]]).double(), one)  # weights .25 and .75 about 1 / 2
    torch.testing.assert_close(side.weights, torch.tensor([[0.25, 0.75]]).double())
    assert side.sets[0].tolist() == [[True, True], [False, True], [True, False]]


@torch.no_grad()
def test_padding_takes_part_in_the_co_attention_only_with_the_official_bug():
    """Weights show it; scores only where an event changes sets."""
    b = batch(rows=40, targets=1)
    for bug in (False, True):
        model = make("sesrec", official_bug=bug)
        weights, padded = (model.encode(x).rec.weights[:, :R] for x in (b, extend(b, 2, 2)))
        assert torch.allclose(weights, padded, atol=1e-9) != bug
        assert torch.allclose(scores(model, b), scores(model, extend(b, 2, 2)), atol=1e-9) != bug
    full = rows_of(b, [-1]).with_(rec_seen=torch.tensor([[R]]), search_seen=torch.tensor([[S]]))
    torch.testing.assert_close(scores(model, full), scores(make("sesrec"), full))


@torch.no_grad()
def test_similar_and_dissimilar_events_share_what_is_seen():
    model = make("sesrec")
    for b in (batch(rows=30, targets=1), left_padded(batch(rows=30, targets=1))):
        state = model.encode(b)
        for side, seen in ((state.rec, b.rec_seen), (state.search, b.search_seen)):
            every, similar, dissimilar = side.sets.unbind(1)
            assert torch.equal(every.sum(1), seen[:, 0])
            assert torch.equal(similar | dissimilar, every)
            fallen = (similar == every).all(1) & (dissimilar == every).all(1)
            assert not (similar & dissimilar)[~fallen].any()
            assert (seen[~fallen] > 1).all()
            some = seen[:, 0] > 0
            torch.testing.assert_close(side.weights.sum(1), some.double())
            # The heaviest event is always similar.
            assert similar.gather(1, side.weights.argmax(1, keepdim=True))[some].all()


@torch.no_grad()
def test_one_event_is_both_and_costs_the_margin():
    model, b = make("sesrec"), batch(targets=1)
    short = rows_of(b, whole(b))
    short = short.with_(rec_seen=torch.ones_like(short.rec_seen), search_seen=torch.ones_like(short.search_seen))
    state = model.encode(short)
    for side in (state.rec, state.search):
        assert side.sets.sum() == 3 * len(short.user)
    found = model.objective(short, state)["triplet"]
    torch.testing.assert_close(found, torch.tensor(0.2 * model.config.triplet_weight).double())


@torch.no_grad()
def test_a_triplet_that_holds_costs_nothing():
    model, b = make("sesrec"), batch(targets=1)
    state = model.encode(b)
    side = state.rec
    counted = torch.zeros(len(b.user), 1, dtype=torch.bool)
    row = next(r for r in whole(b) if side.sets[r, 1].sum() < side.sets[r, 0].sum())
    counted[row] = True
    similar, dissimilar = side.sets[row, 1], side.sets[row, 2] & ~side.sets[row, 1]
    side.events[row, similar], side.events[row, dissimilar], side.weights[row] = 1.0, 1.1, similar / similar.sum()
    assert model.triplet(side, counted) == 0
    side.events[row, dissimilar] = 1.01
    assert 0 < model.triplet(side, counted) < model.config.margin


@torch.no_grad()
def test_a_side_without_events_enters_no_triplet():
    model, b = make("sesrec", margin=1.0), batch(targets=1)
    state = model.encode(b)
    counted = b.target_mask
    for side, without in ((state.rec, NO_REC), (state.search, NO_SEARCH)):
        some = side.sets[:, 0].any(1)
        assert not some[[without, NEITHER]].any()
        assert not side.weights[~some].any()
        torch.testing.assert_close(model.triplet(side, counted), model.triplet(side, counted & some[:, None]))
    assert model.objective(rows_of(b, [NEITHER]), model.encode(rows_of(b, [NEITHER])))["triplet"] == 0


@torch.no_grad()
def test_queries_matter_and_their_contrast_knows_no_padding():
    model, b = make("sesrec"), batch(targets=1)
    other = b.with_(query=torch.where(b.query != 0, b.query % 38 + 2, 0))
    assert not torch.isclose(scores(model, b), scores(model, other)).flatten(1).all(1)[whole(b)].any()
    for x in (b, extend(b, 3, 2), left_padded(b)):
        assert model.objective(x, model.encode(x))["query_item"] > 0
        torch.testing.assert_close(model.objective(x, model.encode(x)), model.objective(b, model.encode(b)))


@torch.no_grad()
def test_weights_of_terms_and_the_objectives():
    b = batch(targets=1)

    def terms(kind="group", **settings):
        model = make("sesrec", margin=2.0, **settings)
        return model.objective(b, model.encode(b), kind)

    assert terms() == terms("original")
    assert terms(triplet_weight=0, query_item_weight=0).keys() == {"rank"}
    torch.testing.assert_close(terms(triplet_weight=0.002)["triplet"], 2 * terms()["triplet"])
    torch.testing.assert_close(terms(query_item_weight=0.2)["query_item"], 2 * terms()["query_item"])


def test_an_identity_makes_users_plain():
    """The authors' users have no linear layer."""
    model, b = make("sesrec", project="linear", features=False, field_width=8), batch(targets=1)
    with torch.no_grad():
        randomise(model)
        model.inputs.user_features.weight.copy_(torch.eye(8))
        model.inputs.user_features.bias.zero_()
    assert torch.equal(model.inputs.users(b.user), model.inputs.user.weight[b.user])
