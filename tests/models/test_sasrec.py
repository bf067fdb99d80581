"""SASRec against the specification: its equations per event, its switches, causality."""

import math

import pytest
import torch
from tests.models.sequences import events
from tests.models.synthetic import ITEMS, R, S, batch, extend, left_padded, make, rows_of, scores, single
from torch.nn import functional as F

SETTINGS = [
    *({"norm": norm, "layers": layers} for norm in ("post", "pre", "query_only") for layers in (1, 2)),
    {"norm": "query_only", "scale": True, "heads": 1},
    {"features": False},
    {"history": "merged"},
    {"history": "merged", "norm": "query_only", "scale": True},
]


def names(settings):
    return "-".join(f"{k}={v}" for k, v in settings.items())


def attention(block, query, context):
    """Multi-head attention of one query over a list of vectors."""
    part, heads = block.attention, block.attention.heads
    q, k, v = part.query(query), part.key(context), part.value(context)
    e = len(q) // heads
    read = [
        (q[h * e : (h + 1) * e] @ k[:, h * e : (h + 1) * e].T / math.sqrt(e)).softmax(-1) @ v[:, h * e : (h + 1) * e]
        for h in range(heads)
    ]
    return part.out(torch.cat(read))


def state(model, vectors):
    """The state after the last of these events, one at a time, from the equations."""
    config = model.config
    if not vectors:
        return torch.zeros(config.width).double()
    scale = math.sqrt(config.width) if config.scale else 1.0
    x = torch.stack([vector * scale + model.position[slot] for slot, vector in enumerate(vectors)])
    for block in model.blocks:
        out = []
        for i in range(len(x)):
            if config.norm == "query_only":
                q = block.norm_query(x[i])
                s = block.norm_feed(q + attention(block, q, x[: i + 1]))
                out.append(s + block.feed_out(F.relu(block.feed_in(s))))
            elif config.norm == "pre":
                n = block.norm_attention(x[: i + 1])
                a = x[i] + attention(block, n[-1], n)
                out.append(a + block.feed_out(F.relu(block.feed_in(block.norm_feed(a)))))
            else:
                a = block.norm_attention(x[i] + attention(block, x[i], x[: i + 1]))
                out.append(block.norm_feed(a + block.feed_out(F.relu(block.feed_in(a)))))
        x = torch.stack(out)
    return x[-1] if config.norm == "post" else model.norm(x[-1])


@pytest.mark.parametrize("settings", SETTINGS, ids=names)
@torch.no_grad()
def test_scores_equal_the_equations(settings):
    model, b = make("sasrec", **settings), batch(rows=5, targets=2)
    for x in (b, left_padded(b), extend(b, 2, 1)):
        found = scores(model, x)
        for row, target in torch.ones_like(x.rec_seen).nonzero().tolist():
            expected = model.items(x.candidates[row, target]) @ state(model, [e for _, e in events(model, x, row, target)])
            torch.testing.assert_close(found[row, target], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("settings", SETTINGS, ids=names)
@torch.no_grad()
def test_a_packed_row_scores_as_its_targets_one_by_one(settings):
    model, b = make("sasrec", double=False, random=False, **settings), batch()
    assert model.packs
    packed = scores(model, b)
    for row, target in torch.ones_like(b.rec_seen).nonzero().tolist():
        torch.testing.assert_close(scores(model, single(b, row, target))[0, 0], packed[row, target], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_the_past_counts_and_the_most_recent_click_does():
    model, b = make("sasrec"), batch()
    row, before = len(b.user) - 1, scores(make("sasrec"), b)
    for event in range(R):
        rec = b.rec.clone()
        rec[row, event] = rec[row, event] % 50 + 2
        changed = (scores(model, b.with_(rec=rec)) - before)[row].abs().amax(1) > 1e-9
        assert torch.equal(changed, b.rec_seen[row] > event)


@pytest.mark.parametrize(
    ("name", "value"), [("norm", "pre"), ("norm", "query_only"), ("scale", True), ("heads", 4), ("layers", 2)]
)
def test_a_switch_has_its_effect(name, value):
    b = batch()
    assert not torch.allclose(scores(make("sasrec"), b)[-1, -1], scores(make("sasrec", **{name: value}), b)[-1, -1], atol=1e-6)


def test_the_state_is_its_retrieval_vector():
    """Nearest neighbours of it are the ranking."""
    model, b = make("sasrec"), batch()
    encoded = model.encode(b)
    vectors = model.retrieval(encoded)
    assert vectors.shape == (*b.rec_seen.shape, 1, model.config.width)
    by_vector = (model.items(b.candidates) * vectors).sum(-1)
    torch.testing.assert_close(by_vector, model.score(encoded, model.items(b.candidates)))


# a merged history, and the MLP scorer ------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_merged_history_is_read_in_the_order_of_time():
    """Only the order of the times counts, and it does; whatever lies after a target never does."""
    model, b = make("sasrec", history="merged"), batch(targets=2)
    before = scores(model, b)
    slower = b.with_(rec_time=b.rec_time * 7 + 3, search_time=b.search_time * 7 + 3)
    torch.testing.assert_close(scores(model, slower), before)
    searches_first = b.with_(search_time=b.search_time - 1000)
    assert not torch.allclose(scores(model, searches_first)[-1, -1], before[-1, -1], atol=1e-6)
    row = len(b.user) - 1
    for event in range(S):
        query = b.query.clone()
        query[row, event] = query[row, event] % 30 + 2
        changed = (scores(model, b.with_(query=query)) - before)[row].abs().amax(1) > 1e-9
        assert torch.equal(changed, b.search_seen[row] > event)


@torch.no_grad()
def test_a_search_and_a_click_on_the_same_item_are_two_kinds_of_event():
    """A search without words whose one click is the item, in place of the click."""
    model, b = make("sasrec", history="merged"), rows_of(batch(targets=1), [1])
    one = b.with_(rec=b.rec * 0, rec_seen=b.rec_seen * 0, query=b.query * 0, click=b.click * 0)
    slot = torch.arange(S) == 0
    searched = one.with_(searched=slot[None], search_seen=b.search_seen * 0 + 1, click=one.click + b.rec[0, 0] * slot[:, None])
    clicked = one.with_(rec=b.rec * (torch.arange(R) == 0), rec_seen=b.rec_seen * 0 + 1, searched=b.searched & False)
    assert not torch.allclose(scores(model, searched), scores(model, clicked), atol=1e-6)
    model.kind[1] = model.kind[0]
    torch.testing.assert_close(scores(model, searched), scores(model, clicked))


@torch.no_grad()
def test_the_mlp_scorer_reads_user_state_and_item():
    model, b = make("sasrec", scorer="mlp", hidden=(7, 5)), batch()
    encoded = model.encode(b)
    found = model.score(encoded, model.items(b.candidates))
    for row, target, column in torch.ones_like(b.candidates).nonzero().tolist():
        item = model.items(b.candidates[row, target, column])
        x = torch.cat([model.inputs.users(b.user[row, None])[0], encoded.vector[row, target], item])
        for layer in list(model.mlp)[:-1]:
            x = F.relu(layer(x))
        torch.testing.assert_close(found[row, target, column], model.mlp[-1](x)[0])
    assert model.retrieval(encoded) is None
    assert "user" in model.reads


# the objective of the paper ----------------------------------------------------------------------------------------------


def original(b, **settings):
    model = make("sasrec", **settings)
    with torch.no_grad():
        return model.objective(b, model.encode(b), "original")["rank"].item()


def by_hand(b, loss):
    """The mean over real targets of a loss of (score of the positive, scores of the negatives)."""
    with torch.no_grad():
        found = scores(make("sasrec"), b)
    assert not b.target_mask.all()
    losses = []
    for row, t in b.target_mask.nonzero().tolist():
        z, p = found[row, t].tolist(), int(b.positive[row, t])
        losses.append(loss(z[p], z[:p] + z[p + 1 :]))
    return sum(losses) / len(losses)


def softplus(z):
    return math.log1p(math.exp(z))


def test_bce_takes_one_negative_per_position():
    expected = by_hand(batch(), lambda positive, negatives: softplus(-positive) + softplus(negatives[0]))
    assert original(batch()) == pytest.approx(expected)


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_gbce_raises_the_probability_of_the_positive_to_beta(t):
    b = batch()
    n = b.candidates.shape[2] - 1
    alpha = n / (ITEMS - 2 - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)

    def loss(positive, negatives):
        probability = (1 / (1 + math.exp(-positive))) ** beta
        return (-math.log(probability) + sum(softplus(z) for z in negatives)) / (n + 1)

    assert original(b, original_loss="gbce", calibration=t) == pytest.approx(by_hand(b, loss))
    if t == 0:
        group = make("sasrec").objective(b, make("sasrec").encode(b))["rank"].item()
        assert original(b, original_loss="gbce", calibration=t) == pytest.approx(group)  # BCE over all negatives
    if t == 1:
        assert beta == pytest.approx(alpha)


def every_item_once():
    """One row, two targets, whose negatives together are the whole catalogue."""
    b, items = rows_of(batch(targets=2), [-1]), torch.arange(2, ITEMS)
    one, two = items[:29], items[29:]
    candidates = torch.stack([torch.cat([two[3:4], one]), torch.cat([one[5:6], two])])[None]
    return b.with_(candidates=candidates, positive=torch.zeros(1, 2, dtype=torch.long))


def test_the_softmax_over_all_items_as_samples_is_the_full_softmax():
    b = every_item_once()
    full = original(b, original_loss="softmax", softmax="full")
    assert original(b, original_loss="softmax", samples=1000) == pytest.approx(full)
    assert original(b, original_loss="softmax", samples=20) != pytest.approx(full, abs=1e-6)
