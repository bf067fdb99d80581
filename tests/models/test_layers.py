"""Tables, the input layer, attention, target attention and losses, each against its definition."""

import math

import pytest
import torch
from tests.models.synthetic import ITEMS, batch, left_padded, make, scores, vocabulary
from torch import nn

from seerec.models.attention import Attention, history_mask
from seerec.models.inputs import Table
from seerec.models.layers import linears, masked_mean, reach
from seerec.models.losses import mean_over, ranking_loss
from seerec.models.target_attention import TargetAttention

FORMS = ("bilinear", "dot", "multihead", "mlp")


# tables and the input layer ----------------------------------------------------------------------------------------------


def test_padding_is_zero_with_features_too():
    model = make(random=False)
    assert not model.inputs.items(torch.zeros(3, dtype=torch.long)).any()
    assert not model.inputs.queries(torch.zeros(1, 2, 3, dtype=torch.long)).any()
    assert not model.inputs.searches(torch.zeros(1, 2, 3, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long)).any()


def test_an_item_is_its_row_and_its_features():
    v, model = vocabulary(), make()
    i = ITEMS - 1
    rows = [table.weight[int(value)] for table, value in zip(model.inputs.item_values, v.item_category[i], strict=True)]
    words = [model.inputs.word.weight[int(w)] for w in v.item_text[i] if w]
    parts = torch.cat([*rows, torch.stack(words).mean(0)])
    expected = model.inputs.item.weight[i] + model.inputs.item_features.weight @ parts
    torch.testing.assert_close(model.items(torch.tensor(i)), expected)
    plain = make(features=False)
    assert torch.equal(plain.items(torch.tensor(i)), plain.inputs.item.weight[i])


def test_a_search_is_its_mean_word_and_mean_click():
    model = make(features=False)
    word, item = model.inputs.word.weight, model.inputs.item.weight
    found = model.inputs.searches(torch.tensor([[[3, 5, 0], [0, 0, 0]]]), torch.tensor([[[7, 0], [8, 9]]]))
    torch.testing.assert_close(found[0, 0], (word[3] + word[5]) / 2 + item[7])
    torch.testing.assert_close(found[0, 1], (item[8] + item[9]) / 2)


@pytest.mark.parametrize("features", [True, False])
def test_gathered_rows_give_the_same_scores_and_gradients_as_whole_tables(features):
    model, b = make(features=features), batch()

    def loss():
        return torch.stack([*model.objective(b, model.encode(b)).values()]).sum()

    loss().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    expected = scores(model, b)
    model.zero_grad()
    model.inputs.open(b)
    torch.testing.assert_close(scores(model, b), expected, atol=1e-12, rtol=1e-12)
    loss().backward()
    for name, table in (("item", model.inputs.item), ("word", model.inputs.word), ("user", model.inputs.user)):
        dense = torch.zeros_like(table.weight)
        dense[table.touched] = table.rows.grad
        torch.testing.assert_close(dense, whole[f"inputs.{name}.weight"])
        assert table.weight.grad is None
        assert not table.rows.grad[0].any()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, whole[name])
    model.inputs.close()
    assert model.inputs.item.rows is None
    assert torch.equal(scores(model, b), expected)


def test_a_table_gathers_each_row_once_and_padding():
    table = Table(9, 4, 1.0)
    touched = table.open(torch.tensor([[7, 2], [7, 5]]))
    assert touched.tolist() == [0, 2, 5, 7]
    assert table.rows.shape == (4, 4)
    assert torch.equal(table(torch.tensor([7, 5, 0])), torch.stack([table.weight[7], table.weight[5], torch.zeros(4)]))


def test_masked_mean_of_nothing_is_zero():
    x = torch.randn(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    torch.testing.assert_close(masked_mean(x, mask)[0], (x[0, 0] + x[0, 2]) / 2)
    assert not masked_mean(x, mask)[1].any()


# reach -------------------------------------------------------------------------------------------------------------------


def test_reach_counts_events_wherever_the_padding_is():
    b = batch()
    for x in (b, left_padded(b)):
        found = reach(x.rec != 0, x.rec_seen)
        for row, target in torch.ones_like(x.rec_seen).nonzero().tolist():
            slots, n = (x.rec[row] != 0).nonzero().flatten().tolist(), int(x.rec_seen[row, target])
            assert found.visible[row, target].nonzero().flatten().tolist() == slots[:n]
            assert bool(found.any[row, target]) == (n > 0)
            if n:
                assert int(found.last[row, target]) == slots[n - 1]
            assert [int(found.position[row, s]) for s in slots] == list(range(len(slots)))


# attention ---------------------------------------------------------------------------------------------------------------


def test_attention_equals_torchs():
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2, 0.0).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(3, 5, 8).double()
    mask = history_mask(torch.ones(3, 5, dtype=torch.bool), causal=True)
    out, weights = ours.attend(ours.query(x), ours.keys_values(x), mask, weigh=True)
    torch.testing.assert_close(ours(x, ours.keys_values(x), mask), out)
    expected, expected_weights = theirs(x, x, x, attn_mask=~mask[0])
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(weights.mean(0), expected_weights)


def test_own_vectors_are_one_context_with_the_history():
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.0).double()
    history, own, query = torch.randn(2, 4, 8).double(), torch.randn(2, 3, 2, 8).double(), torch.randn(2, 3, 8).double()
    visible = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool().expand(2, 3, 4)
    two = tuple(attention.keys_values(own[:, :, i]) for i in range(2))
    out, weights = attention.attend(attention.query(query), attention.keys_values(history), visible, two, weigh=True)
    for row, m in torch.ones(2, 3).nonzero().tolist():
        context = torch.cat([history[row][visible[row, m]], own[row, m]])[None]
        every = torch.ones(1, 1, context.shape[1], dtype=torch.bool)
        projected = attention.query(query[row, m][None, None])
        alone, alone_weights = attention.attend(projected, attention.keys_values(context), every, weigh=True)
        torch.testing.assert_close(out[row, m], alone[0, 0])
        n = int(visible[row, m].sum())
        torch.testing.assert_close(weights[:, row, m, :n], alone_weights[:, 0, 0, :n])
        assert not weights[:, row, m, n:].any()


def test_layers_of_one_input_in_one_product_are_themselves():
    layers = [nn.Linear(5, out) for out in (3, 7, 1)]
    x = torch.randn(2, 4, 5)
    for found, layer in zip(linears(x, *layers), layers, strict=True):
        torch.testing.assert_close(found, layer(x))


def test_history_mask_is_lower_triangular_with_its_diagonal():
    present = torch.tensor([[True, True, False], [False, True, True]])
    assert history_mask(present, causal=True).int().tolist() == [
        [[1, 0, 0], [1, 1, 0], [1, 1, 0]],
        [[0, 0, 0], [0, 1, 0], [0, 1, 1]],
    ]
    assert history_mask(present, causal=False)[0].int().tolist() == [[1, 1, 0]] * 3


# 10: target attention ----------------------------------------------------------------------------------------------------


def target_attention(form, width):
    torch.manual_seed(1)
    return TargetAttention(width, form, 2).double()


def one_hot_weights(form, visible, own_visible, scale=1.0):
    """States are unit vectors, so that the output IS the weights: B T N C (L + K). Two rollouts with the same states."""
    length, k = visible.shape[2], own_visible.shape[2]
    attention, b, t = target_attention(form, length + k), *visible.shape[:2]
    eye = torch.eye(length + k).double() * scale
    own = eye[length:].expand(b, t, 2, k, length + k)
    items = torch.randn(b, t, 3, length + k, generator=torch.Generator().manual_seed(2)).double() * 4
    return attention(items, eye[:length].expand(b, -1, -1), visible, own, own_visible).vector() / scale, items, attention


@pytest.mark.parametrize("form", ["bilinear", "dot", "mlp"])
def test_10_weights_sum_to_one_and_pads_get_none(form):
    visible = torch.tensor([[[1, 1, 1, 0], [1, 0, 0, 0]], [[0, 1, 1, 0], [0, 0, 0, 0]]]).bool()
    own_visible = torch.ones(2, 2, 2, dtype=torch.bool)
    own_visible[0, 1, 1] = False
    w, items, attention = one_hot_weights(form, visible, own_visible)
    seen = torch.cat([visible, own_visible], 2)[:, :, None, None].expand_as(w)
    torch.testing.assert_close(w.sum(-1), torch.ones_like(w.sum(-1)))
    assert not w[~seen].any()
    assert (w[seen] > 0).all()
    if form != "mlp":
        matrix = attention.query.weight if form == "bilinear" else torch.eye(6).double() / math.sqrt(6)
        logits = (items @ matrix.T).unsqueeze(2).masked_fill(~seen, -math.inf)
        torch.testing.assert_close(w, logits.softmax(-1).expand_as(w))
    assert w.std(3).max() > 1e-3  # and they depend on the candidate


@pytest.mark.parametrize("form", FORMS)
def test_10_equal_states_come_back_unchanged_and_hidden_ones_never_matter(form):
    """Weights that sum to one return the value all states share, whatever lies in the slots that may not be seen."""
    attention, g = target_attention(form, 8), torch.Generator().manual_seed(3)
    visible = torch.tensor([[[1, 1, 0, 0], [0, 0, 0, 0]]]).bool()
    state = torch.randn(8, generator=g).double()
    history, own = state.expand(1, 4, 8).clone(), state.expand(1, 2, 2, 3, 8)
    items = torch.randn(1, 2, 5, 8, generator=g).double()
    every = torch.ones(1, 2, 3, dtype=torch.bool)
    w = attention(items, history, visible, own, every).vector()
    expected = attention.value(state) if form == "multihead" else state
    torch.testing.assert_close(w, expected.expand_as(w))
    history[:, 2:] = 1e3
    assert torch.equal(attention(items, history, visible, own, every).vector(), w)


@pytest.mark.parametrize("form", FORMS)
def test_10_nothing_to_see_gives_zeros(form):
    attention = target_attention(form, 8)
    visible, none = torch.zeros(1, 2, 4, dtype=torch.bool), torch.zeros(1, 2, 0, dtype=torch.bool)
    visible[0, 1, 0] = True
    w = attention(
        torch.randn(1, 2, 5, 8).double(), torch.randn(1, 4, 8).double(), visible, torch.zeros(1, 2, 1, 0, 8).double(), none
    ).vector()
    assert not w[0, 0].any()
    assert w[0, 1].any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shared", [False, True])
def test_a_mixtures_maps_are_those_of_its_vectors(form, shared):
    """By candidate or for one catalogue, with few candidates (W meets them) and with many (W meets the states)."""
    attention, g = target_attention(form, 8), torch.Generator().manual_seed(5)
    matrix, onto = torch.randn(6, 8, generator=g).double(), torch.randn(2, 1, 1, 1, 6, generator=g).double()
    history, own = torch.randn(2, 4, 8, generator=g).double(), torch.randn(2, 3, 2, 5, 8, generator=g).double()
    visible = torch.rand(2, 3, 4, generator=g) < 0.6
    few = torch.randn(*((1, 1) if shared else (2, 3)), 2, 8, generator=g).double()
    many = few.repeat(1, 1, 60, 1)
    found = {}
    for items in (few, many):
        mixture = attention(items, history, visible, own)
        w = mixture.vector()
        found[items] = mixture.inner(items)
        torch.testing.assert_close(mixture.through(matrix, onto), onto + w @ matrix.T)
        torch.testing.assert_close(found[items], (w * items.unsqueeze(2)).sum(-1))
    torch.testing.assert_close(found[many], found[few].repeat(1, 1, 1, 60))


# losses ------------------------------------------------------------------------------------------------------------------


def test_the_ranking_loss_is_the_mean_over_all_scores_of_real_targets():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=g).double()
    positive = torch.randint(0, 5, (2, 3), generator=g)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    bce, cross_entropy = [], []
    for row, t in mask.nonzero().tolist():
        z, p = logits[row, t].tolist(), int(positive[row, t])
        bce.append(sum(math.log1p(math.exp(-x if c == p else x)) for c, x in enumerate(z)) / 5)
        cross_entropy.append(math.log(sum(math.exp(x) for x in z)) - z[p])
    assert ranking_loss(logits, positive, mask, "bce").item() == pytest.approx(sum(bce) / 3)
    assert ranking_loss(logits, positive, mask, "softmax").item() == pytest.approx(sum(cross_entropy) / 3)


def test_a_mean_over_no_target_is_zero():
    assert mean_over(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)).item() == 0


def test_large_logits_stay_finite():
    logits = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    loss = ranking_loss(logits, torch.tensor([[1]]), torch.tensor([[True]]), "bce")
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
