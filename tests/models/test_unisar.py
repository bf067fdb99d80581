"""UniSAR against a slow reading of its description: torch's own layers, one row and one candidate at a time."""

import pytest
import torch
from tests.models.synthetic import ITEMS, NEITHER, NO_REC, NO_SEARCH, R, as_search, batch, left_padded, make, rows_of, scores
from torch import nn
from torch.nn import functional as F

from seerec.models.alignment import ViewContrast
from seerec.models.base import Vocabulary
from seerec.models.ple import TaskHead
from seerec.models.registry import build
from seerec.models.unisar import UniSARConfig


def torch_attention(ours, d):
    theirs = nn.MultiheadAttention(d, ours.heads, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([p.weight for p in parts]),
            "in_proj_bias": torch.cat([p.bias for p in parts]),
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    return theirs


def torch_encoder(ours, d):
    theirs = nn.TransformerEncoderLayer(d, ours.attention.heads, ours.feed_in.out_features, 0.0, batch_first=True)
    theirs.self_attn = torch_attention(ours.attention, d)
    theirs.linear1, theirs.linear2, theirs.norm1, theirs.norm2 = (
        ours.feed_in, ours.feed_out, ours.norm_attention, ours.norm_feed)  # fmt: skip
    return theirs.double()


def torch_decoder(ours, d):
    theirs = nn.TransformerDecoderLayer(d, ours.cross.heads, ours.layer.feed_in.out_features, 0.0, batch_first=True)
    theirs.self_attn, theirs.multihead_attn = torch_attention(ours.layer.attention, d), torch_attention(ours.cross, d)
    theirs.linear1, theirs.linear2 = ours.layer.feed_in, ours.layer.feed_out
    theirs.norm1, theirs.norm2, theirs.norm3 = ours.layer.norm_attention, ours.norm_cross, ours.layer.norm_feed
    return theirs.double()


class Reference:
    """One row whose target sees events of both kinds."""

    def __init__(self, model, b, row):
        d, inputs = model.config.width, model.inputs
        rec = (b.rec[row] != 0).nonzero().flatten()[: int(b.rec_seen[row, 0])]
        search = b.searched[row].nonzero().flatten()[: int(b.search_seen[row, 0])]
        x_r = [inputs.items(b.rec[row, i]) for i in rec]
        x_s = []
        for i in search:
            clicked = [inputs.items(v) for v in b.click[row, i] if v != 0]
            x_s.append(inputs.queries(b.query[row, i]) + sum(clicked, torch.zeros(d).double()) / max(1, len(clicked)))
        events = [(int(b.rec_time[row, i]), 1, x) for i, x in zip(rec, x_r, strict=True)]
        events += [(int(b.search_time[row, i]), 2, x) for i, x in zip(search, x_s, strict=True)]
        events.sort(key=lambda event: event[:2])
        kind = torch.tensor([k for _, k, _ in events])
        x = torch.stack([x + model.position[slot] for slot, (_, _, x) in enumerate(events)])[None]
        for layer in model.across:
            x = torch_encoder(layer, d)(x, src_mask=kind[:, None] == kind)
        self.s2r, self.r2s = x[:, kind == 1], x[:, kind == 2]
        self.rec = torch.stack([x + model.position_rec[slot] for slot, x in enumerate(x_r)])[None]
        self.search = torch.stack([x + model.position_search[slot] for slot, x in enumerate(x_s)])[None]
        for layer in model.within_rec:
            self.rec = torch_encoder(layer, d)(self.rec)
        for layer in model.within_search:
            self.search = torch_encoder(layer, d)(self.search)
        f_r, f_s = self.rec, self.search
        for layer in model.fusion_rec:
            f_r = torch_decoder(layer, d)(f_r, self.s2r)
        for layer in model.fusion_search:
            f_s = torch_decoder(layer, d)(f_s, self.r2s)
        self.fused = ((f_r[0], model.target_rec.query.weight), (f_s[0], model.target_search.query.weight))
        self.user = inputs.users(b.user[row])
        searching = int(b.task[row]) == 1
        self.query = inputs.queries(b.target_query[row, 0]) if searching else model.recommendation_query
        self.head, self.shared = (model.search if searching else model.recommendation), model.experts

    def score(self, e_v):
        f_r, f_s = ((f @ w @ e_v).softmax(0) @ f for f, w in self.fused)
        z = torch.cat([f_r, f_s, e_v, self.user, self.query])
        gate = self.head.gate(z).softmax(0)
        x = sum(g * F.relu(expert(z)) for g, expert in zip(gate, [*self.shared, *self.head.experts], strict=True))
        for layer in [*self.head.tower, *list(self.head.output)[:-1]]:
            x = F.relu(layer(x))
        return self.head.output[-1](x)[0]


def whole(b):
    """Rows whose target sees both histories."""
    return ((b.rec_seen > 0) & (b.search_seen > 0)).all(1).nonzero().flatten().tolist()


def mixed(b):
    """Every second row asks for a search."""
    rows = torch.arange(len(b.user)) % 2
    asked = as_search(b)
    return asked.with_(task=rows, target_query=asked.target_query * rows[:, None, None])


@pytest.mark.parametrize("settings", [{}, {"project": "tanh", "layers": 2, "heads": 4, "feed_width": 12, "own_experts": 3}])
@torch.no_grad()
def test_scores_equal_the_description(settings):
    model, b = make("unisar", **settings), mixed(batch(rows=9, targets=1, candidates=3))
    for x in (b, left_padded(b)):
        found = scores(model, x)
        assert len(whole(x)) >= 4
        for row in whole(x):
            reference = Reference(model, x, row)
            expected = torch.stack([reference.score(model.items(v)) for v in x.candidates[row, 0]])
            torch.testing.assert_close(found[row, 0], expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_views_equal_the_description():
    model, b = make("unisar"), batch(rows=9, targets=1)
    views = model.encode(b).views
    references = {row: Reference(model, b, row) for row in whole(b)}
    for row, r in references.items():
        expected = torch.stack([x[0].mean(0) for x in (r.s2r, r.rec, r.r2s, r.search)])
        torch.testing.assert_close(views[row], expected, atol=1e-10, rtol=1e-10)
    # NT-Xent over the rows with both histories: each view's partner against all views but itself.
    expected = 0
    for contrast, names in ((model.views_rec, ("s2r", "rec")), (model.views_search, ("r2s", "search"))):
        z = [(row, getattr(r, name)[0].mean(0)) for name in names for row, r in references.items()]
        w, t = contrast.match.weight, contrast.temperature.value.abs()
        for i, (row, a) in enumerate(z):
            likeness = {j: (torch.tanh(a @ w @ c) / t).exp() for j, (_, c) in enumerate(z) if j != i}
            partner = next(j for j, (other, _) in enumerate(z) if other == row and j != i)
            expected = expected - (likeness[partner] / sum(likeness.values())).log() / len(z)
    found = model.objective(b, model.encode(b))["views"]
    torch.testing.assert_close(found, model.config.view_weight * expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_queries_and_clicked_items_are_contrasted():
    """A pair against the batch's items not clicked for its query, and against the queries without a click on its item."""
    model, b = make("unisar"), batch(rows=6, targets=1)
    pairs, queries = [], {}
    for row, slot in b.searched.nonzero().tolist():
        words = tuple(b.query[row, slot].tolist())
        if any(words) and slot < b.search_seen[row, 0]:
            queries.setdefault(words)
            pairs += [(words, v) for v in b.click[row, slot].tolist() if v]
    assert len(pairs) > 5
    shown = (b.searched & (torch.arange(b.searched.shape[1]) < b.search_seen))[..., None]
    items = {*b.rec.flatten().tolist(), *(b.click * shown).flatten().tolist(), *b.candidates.flatten().tolist()} - {0}
    vector = {v: model.items(torch.tensor(v)) for v in items} | {q: model.inputs.queries(torch.tensor(q)) for q in queries}
    w, t = model.query_item.match.weight, model.query_item.temperature.value.abs()

    def logit(a, c):
        return (torch.tanh(vector[a] @ w @ vector[c]) / t).exp()

    total = 0.0
    for q, v in pairs:
        clicked, asked = {i for p, i in pairs if p == q}, {p for p, i in pairs if i == v}
        to_item = sum(logit(q, i) for i in items - clicked) + logit(q, v)
        to_query = sum(logit(v, p) for p in queries.keys() - asked) + logit(v, q)
        total = total - ((logit(q, v) / to_item).log() + (logit(v, q) / to_query).log()) / 2
    found = model.objective(b, model.encode(b))["query_item"]
    torch.testing.assert_close(found, model.config.query_item_weight * total / len(pairs), atol=1e-10, rtol=1e-10)
    few = make("unisar", query_item_negatives=4)
    assert 0 < few.objective(b, few.encode(b))["query_item"] < found


def fill(parameter, *values):
    parameter.data.copy_(torch.tensor(values).view_as(parameter))


@torch.no_grad()
def test_views_of_two_rows_by_hand():
    """Rows 1 and 0 in one view, 1 and -1 in the other, W = 1, t = .5: with x = tanh(1) / .5 the four views find their partners
    at losses log(1 + e^-x + e^-2x) (twice), log 3 and log(1 + 2 e^-x). W is read from left to right.
    """
    contrast = ViewContrast(2, 0.5)
    fill(contrast.match.weight, 1.0, 0.0, 0.0, 1.0)
    a, b = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(contrast(a, b), torch.tensor(0.48287), atol=1e-5, rtol=0)
    # With W = [[0, 1], [0, 0]] only u' W v = u_0 v_1 counts: one view of row 0 sees the other, not the other way round.
    fill(contrast.match.weight, 0.0, 1.0, 0.0, 0.0)
    a, b = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(contrast(a, b), torch.tensor((0.36187 + 3 * 1.09861) / 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("z", "expected"), [(2.0, 2.5), (4.0, 0.5)])
@torch.no_grad()
def test_the_head_of_a_task_by_hand(z, expected):
    """Experts z (shared) and 3 z (own), gates 1/4 and 3/4: 2.5 z; the tower ends with a ReLU, (6 - 2.5 z)+; the MLP: 2 x + .5."""
    shared = nn.ModuleList([nn.Linear(1, 1)])
    head = TaskHead(1, 1, 1, (1, 1), (1,), (), 0.0)
    layers = (shared[0], 1.0, 0.0), (head.experts[0], 3.0, 0.0), (head.tower[0], -1.0, 6.0), (head.output[0], 2.0, 0.5)
    for layer, weight, bias in layers:
        fill(layer.weight, weight)
        fill(layer.bias, bias)
    fill(head.gate.weight, 0.0, 0.0)
    fill(head.gate.bias, 0.0, 1.0986123)
    torch.testing.assert_close(head((torch.tensor([z]),), shared), torch.tensor(expected))


@torch.no_grad()
def test_each_encoder_reads_its_own_kind_or_the_other():
    model, b = make("unisar"), rows_of(batch(targets=1), whole(batch(targets=1)))
    s2r, rec, r2s, search = model.encode(b).views.unbind(1)
    other = model.encode(b.with_(rec=torch.where(b.rec != 0, b.rec % (ITEMS - 2) + 2, 0))).views.unbind(1)
    assert torch.equal(other[3], search)
    assert not torch.isclose(other[2], r2s).all(1).any()
    asked = model.encode(b.with_(query=torch.where(b.query != 0, b.query % 38 + 2, 0))).views.unbind(1)
    assert torch.equal(asked[1], rec)
    assert not torch.isclose(asked[0], s2r).all(1).any()


@torch.no_grad()
def test_transitions_never_read_the_same_kind():
    model, b = make("unisar"), batch(targets=1)
    row = len(b.user) - 2
    changed = b.rec.clone()
    changed[row, 0] = changed[row, 0] % (ITEMS - 2) + 2

    def s2r(x):
        seen = torch.arange(R) < x.rec_seen, torch.arange(x.searched.shape[1]) < x.search_seen
        searches = model.inputs.searches(x.query, x.click)
        return model._across(x, model.items(x.rec), searches, *seen)[0][row]

    moved = (s2r(b) - s2r(b.with_(rec=changed))).abs().amax(1) > 1e-12
    assert moved[0]
    assert not moved[1:].any()


@torch.no_grad()
def test_times_act_through_the_positions_of_the_merged_order_alone():
    model, b = make("unisar"), batch(targets=1)
    swapped = b.with_(rec_time=b.rec_time + 10_000 * (b.rec != 0))  # every click after every search
    (s2r, rec, r2s, search), other = model.encode(b).views.unbind(1), model.encode(swapped).views.unbind(1)
    assert torch.equal(other[1], rec)
    assert torch.equal(other[3], search)
    assert not torch.allclose(other[0], s2r)
    assert not torch.allclose(other[2], r2s)
    assert not torch.allclose(scores(model, b), scores(model, swapped))
    model.position.zero_()
    torch.testing.assert_close(scores(model, b), scores(model, swapped), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("task", [0, 1])
def test_what_only_the_other_task_owns_gets_no_gradient(task):
    model = make("unisar")
    b = as_search(batch(targets=1)) if task else batch(targets=1)
    torch.stack([*model.objective(b, model.encode(b)).values()]).sum().backward()
    heads = ("recommendation.", "search.")
    for name, p in model.named_parameters():
        moved = p.grad is not None and p.grad.abs().max() > 0
        if name.startswith(heads[1 - task]) or (name == "recommendation_query" and task):
            assert not moved, name
        elif not name.endswith("key.bias"):
            assert moved, name


@torch.no_grad()
def test_a_side_without_events_is_zero_and_enters_no_contrast_of_views():
    model, b = make("unisar"), batch(targets=1)
    state = model.encode(b)
    assert not state.views[NO_REC, :2].any()
    assert not state.views[NO_SEARCH, 2:].any()
    assert not state.views[NEITHER].any()
    kept = rows_of(b, whole(b))
    alone = model.objective(kept, model.encode(kept))
    torch.testing.assert_close(model.objective(b, state)["views"], alone["views"])
    none = rows_of(b, [NEITHER])
    terms = model.objective(none, model.encode(none))
    assert terms["rank"] > 0
    assert terms["views"] == terms["query_item"] == 0


@torch.no_grad()
def test_weights_of_terms_and_the_objectives():
    model, b = make("unisar", view_weight=0.3, query_item_weight=0.2), batch(targets=1)
    terms, original = (model.objective(b, model.encode(b), kind) for kind in ("group", "original"))
    assert terms == original
    base = make("unisar", view_weight=0.6, query_item_weight=0.1)
    other = base.objective(b, base.encode(b))
    torch.testing.assert_close(other["views"], 2 * terms["views"])
    torch.testing.assert_close(2 * other["query_item"], terms["query_item"])
    bare = make("unisar", view_weight=0, query_item_weight=0)
    assert bare.objective(b, bare.encode(b)).keys() == {"rank"}


def test_it_has_as_many_weights_as_the_authors_log_says():
    """35,599,505 on KuaiSAR, less 32 columns of 673,416 items, 394,912 words, 22,700 users, and 121,484 never used."""
    expected = 35_599_505 - 32 * (673_416 + 394_912 + 22_700) - 121_484

    def sizes(*rows):
        return torch.tensor([rows]).int() - 1

    none = torch.zeros(1, dtype=torch.long)
    vocabulary = Vocabulary(3, 3, 3, none, sizes(38, 297), torch.zeros(1, 2).int(), sizes(8, 3, 7, 4))
    model = build("unisar", UniSARConfig(project="tanh"), vocabulary, 30, 30)
    tables = {f"inputs.{name}.weight" for name in ("user", "item", "word")}
    assert sum(p.numel() for name, p in model.named_parameters() if name not in tables) == expected
