"""SASRec against the specification: its equations per event, its switches, causality."""

import math

import pytest
import torch
from tests.models.synthetic import R, batch, extend, left_padded, make, scores, single
from torch.nn import functional as F

SETTINGS = [
    *({"norm": norm, "layers": layers} for norm in ("post", "pre", "query_only") for layers in (1, 2)),
    {"norm": "query_only", "scale": True, "heads": 1},
    {"features": False},
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


def state(model, items):
    """The state after the last of these clicks, one event at a time, from the equations."""
    config = model.config
    if not len(items):
        return torch.zeros(config.width).double()
    scale = math.sqrt(config.width) if config.scale else 1.0
    x = torch.stack([model.items(i) * scale + model.position[slot] for slot, i in enumerate(items)])
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
            seen = x.rec[row][x.rec[row] != 0][: int(x.rec_seen[row, target])]
            expected = model.items(x.candidates[row, target]) @ state(model, seen)
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
