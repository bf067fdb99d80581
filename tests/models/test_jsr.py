"""JSR: what each form reads, which loss reaches which head, and its scores against the equations."""

import pytest
import torch
from tests.conformance import PERTURB
from tests.models.synthetic import ITEMS, NEITHER, as_search, batch, left_padded, make, rows_of, scores, vocabulary
from tests.models.test_sasrec import attention
from torch.nn import functional as F

from seerec.models.jsr import JSR


def head(mlp, x):
    """W2 relu(W1 x + b1) + b2."""
    return (mlp[1].weight @ F.relu(mlp[0].weight @ x + mlp[0].bias) + mlp[1].bias)[0]


def history(model, b, row, t):
    """The state after the last event of the merged prefix, one event at a time."""
    events = []
    for slots, times, seen, side in (
        (b.rec[row] != 0, b.rec_time, b.rec_seen, 0),
        (b.searched[row], b.search_time, b.search_seen, 1),
    ):
        events += [(int(times[row, i]), side, int(i)) for i in slots.nonzero().flatten()[: int(seen[row, t])]]
    if not events:
        return torch.zeros(model.config.width).double()
    x = []
    for place, (_, side, i) in enumerate(sorted(events)):
        if side == 0:
            e = model.inputs.items(b.rec[row, i])
        else:
            clicks = b.click[row, i][b.click[row, i] != 0]
            e = model.inputs.queries(b.query[row, i]) + (model.inputs.items(clicks).mean(0) if len(clicks) else 0)
        x.append(e + model.kind[side] + model.position[place])
    x = torch.stack(x)
    for layer in model.layers:
        out = []
        for i in range(len(x)):
            a = layer.norm_attention(x[i] + attention(layer, x[i], x[: i + 1]))
            out.append(layer.norm_feed(a + layer.feed_out(F.relu(layer.feed_in(a)))))
        x = torch.stack(out)
    return x[-1]


@pytest.mark.parametrize("form", ["none", "merged"])
@pytest.mark.parametrize("personalised", [False, True])
@torch.no_grad()
def test_scores_equal_the_equations(form, personalised):
    model = make("jsr", history=form, personalised_search=personalised, layers=2 if form == "merged" else 1)
    b = as_search(batch(targets=2)).with_(task=torch.arange(7) % 2)
    for x in (b, left_padded(b)):
        found = scores(model, x)
        for row, t in torch.ones_like(x.rec_seen).nonzero().tolist():
            u, q = model.inputs.users(x.user[row]), model.inputs.queries(x.target_query[row, t])
            if form == "merged":
                u = u + history(model, x, row, t)
            for c, v in enumerate(model.items(x.candidates[row, t])):
                if row % 2 == 0:
                    expected = head(model.recommendation_head, u * v)
                else:
                    expected = head(model.search_head, torch.cat([u * v, q * v]) if personalised else q * v)
                torch.testing.assert_close(found[row, t, c], expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_the_title_says_which_form_it_is():
    assert JSR.title == make("jsr").title == "JSR(hist)"
    assert make("jsr", history="none").title == "JSR(id)"


@torch.no_grad()
def test_of_ids_it_sees_the_user_and_no_history():
    model, b = make("jsr", history="none"), batch()
    assert model.reads == {"user", "features"}
    assert all(torch.equal(scores(model, b), scores(model, PERTURB[field](b))) for field in ("rec", "query", "click", "time"))
    assert not torch.allclose(scores(model, b), scores(model, PERTURB["user"](b)), atol=1e-6)


@torch.no_grad()
def test_with_history_it_sees_the_searches():
    model, b = make("jsr"), batch()
    for field in ("query", "click", "time"):
        assert not torch.allclose(scores(model, b)[-1, -1], scores(model, PERTURB[field](b))[-1, -1], atol=1e-6)
    of_ids = make("jsr", history="none")  # the same weights by name: without events the two forms are one
    neither = rows_of(b, [NEITHER])
    assert torch.equal(scores(model, neither), scores(of_ids, neither))


@torch.no_grad()
def test_a_plain_search_does_not_know_who_asks_and_a_personalised_one_does():
    b = as_search(batch())
    for personalised in (False, True):
        model = make("jsr", personalised_search=personalised)
        for field in ("user", "rec"):
            same = torch.allclose(scores(model, b)[-1, -1], scores(model, PERTURB[field](b))[-1, -1], atol=1e-9)
            assert same != personalised


def gradients(model, b):
    model.zero_grad()
    torch.stack([*model.objective(b, model.encode(b)).values()]).sum().backward()
    return {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in model.named_parameters()}


def test_each_loss_trains_its_own_head_and_what_is_shared():
    model, b = make("jsr"), batch()
    recommendation, search = gradients(model, b), gradients(model, as_search(b))
    for name in recommendation:
        if name.startswith("search_head"):
            assert recommendation[name] == 0 < search[name]
        if name.startswith("recommendation_head"):
            assert search[name] == 0 < recommendation[name]
    assert min(recommendation["inputs.item.weight"], search["inputs.item.weight"]) > 0
    assert search["inputs.user.weight"] == 0 < recommendation["inputs.user.weight"]


def test_the_objective_leaves_the_weight_of_search_to_the_training_loop():
    b = as_search(batch())
    plain, heavy = make("jsr"), make("jsr", search_weight=7.0)
    assert heavy.config.search_weight == 7.0
    assert torch.equal(plain.objective(b, plain.encode(b))["rank"], heavy.objective(b, heavy.encode(b))["rank"])


@torch.no_grad()
def test_text_term():
    """Cross-entropy against each positive item's own words, over the words of all positives."""
    model, b = make("jsr", text_recon=0.5), batch()
    items = sorted(set(b.positive_item[b.target_mask].tolist()))
    texts = [[w for w in vocabulary().item_text[i].tolist() if w] for i in items]
    words = sorted({w for text in texts for w in text})
    losses = []
    for item, text in zip(items, texts, strict=True):
        if text:
            logits = torch.stack([model.inputs.items(torch.tensor(item)) @ model.inputs.word.weight[w] for w in words])
            losses.append(-sum(logits.log_softmax(0)[words.index(w)] for w in text) / len(text))
    found = model.objective(b, model.encode(b))
    torch.testing.assert_close(found["text"], 0.5 * torch.stack(losses).mean())
    torch.testing.assert_close(found["rank"], make("jsr").objective(b, model.encode(b))["rank"])
    assert "text" not in make("jsr").objective(b, model.encode(b))
    bare = make("jsr", text_recon=0.5, features=False)
    assert "text" not in bare.objective(b, bare.encode(b))  # there is no text
    model.inputs.open(b)  # the words of the batch's items have rows
    assert torch.equal(model.text_loss(b), found["text"] / 0.5)
    model.inputs.close()


@pytest.mark.parametrize(("name", "value"), [("hidden", (5, 4)), ("layers", 2), ("heads", 4), ("history", "none")])
@torch.no_grad()
def test_a_switch_has_its_effect(name, value):
    b = batch()
    assert not torch.allclose(scores(make("jsr"), b)[-1, -1], scores(make("jsr", **{name: value}), b)[-1, -1], atol=1e-6)


@torch.no_grad()
def test_no_query_and_mixed_tasks_against_one_catalogue():
    model, b = make("jsr"), as_search(batch()).with_(task=torch.arange(7) % 2)
    silent = b.with_(target_query=0 * b.target_query)
    catalogue = model.items(torch.arange(2, ITEMS))[None, None]
    found = model.score(model.encode(silent), catalogue)
    assert found.isfinite().all()
    assert not (found[1::2] - found[1::2, :, :1]).any()  # nothing was asked, so all items are equal
    assert (found[0] - found[0, :, :1]).any()
