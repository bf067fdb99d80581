"""Query-SeqRec against its equations, one token at a time; which tokens train it; what augmentation may put in their place."""

import pytest
import torch
from tests.models.synthetic import ITEMS, batch, extend, left_padded, make, rows_of, scores
from tests.models.test_sasrec import attention
from torch.nn import functional as F

from seerec.models.query_graph import bag

SETTINGS = [
    {},
    {"residual": False, "layers": 1},
    {"early_query": True, "heads": 4, "features": False},
    {"clicks": 1, "project": "tanh"},
]


def sequence(b, row, clicks=5):
    """The tokens of a row in order: ("r", slot), ("q", search), ("c", search, click)."""
    events = [(int(b.rec_time[row, i]), 0, i) for i in range(b.rec.shape[1]) if b.rec[row, i]]
    events += [(int(b.search_time[row, i]), 1, i) for i in range(b.query.shape[1]) if b.searched[row, i]]
    tokens = []
    for _, side, i in sorted(events):
        if side == 0:
            tokens.append(("r", i))
            continue
        tokens.append(("q", i))
        tokens += [("c", i, n) for n in range(min(clicks, b.click.shape[2])) if b.click[row, i, n]]
    return tokens


def state(model, b, row, tokens):
    """The state after the last of these tokens, from the equations."""
    config = model.config
    if not tokens:
        return torch.zeros(config.width).double()
    x = []
    for place, (kind, i, *n) in enumerate(tokens):
        if kind == "r":
            e = model.inputs.items(b.rec[row, i])
        elif kind == "q":
            e = model.inputs.queries(b.query[row, i])
        else:
            e = model.inputs.items(b.click[row, i, n[0]])
            e = e + model.inputs.queries(b.query[row, i]) if config.early_query else e
        x.append(e + model.position[place] + model.kind[int(kind == "q")])
    x = torch.stack(x)
    for block in model.blocks:
        out = []
        for i in range(len(x)):
            q = F.layer_norm(x[i], x[i].shape, block.norm_attention.weight, block.norm_attention.bias, 1e-8)
            a = attention(block, q, x[: i + 1]) + (q if config.residual else 0)
            z = F.layer_norm(a, a.shape, block.norm_feed.weight, block.norm_feed.bias, 1e-8)
            out.append(z + z + block.feed_out(F.relu(block.feed_in(z))))
        x = torch.stack(out)
    return F.layer_norm(x[-1], x[-1].shape, model.norm.weight, model.norm.bias, 1e-8)


def visible(b, row, t, tokens):
    """The tokens that a target sees."""
    seen = {"r": int(b.rec_seen[row, t]), "q": int(b.search_seen[row, t]), "c": int(b.search_seen[row, t])}
    first = {"r": int((b.rec[row] != 0).int().argmax()), "q": int(b.searched[row].int().argmax())}
    first["c"] = first["q"]
    return [token for token in tokens if token[1] - first[token[0]] < seen[token[0]]]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_scores_equal_the_equations(settings):
    model, b = make("query-seqrec", **settings), batch(rows=6, targets=2)
    for x in (b, left_padded(b), extend(b, 2, 1)):
        found = scores(model, x)
        for row, t in torch.ones_like(x.rec_seen).nonzero().tolist():
            tokens = visible(x, row, t, sequence(x, row, model.config.clicks))
            expected = model.items(x.candidates[row, t]) @ state(model, x, row, tokens)
            torch.testing.assert_close(found[row, t], expected, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_without_searches_it_is_sasrec_and_a_constant():
    """The doubled residual is SASRec's with a feed-forward output half as large, which the final normalisation undoes."""
    model, plain = make("query-seqrec", layers=1, features=False), make("sasrec", norm="query_only", layers=1, features=False)
    b = batch()
    b = b.with_(searched=b.searched & False, search_seen=0 * b.search_seen, query=0 * b.query, click=0 * b.click)
    mine, theirs = model.blocks[0], plain.blocks[0]
    theirs.norm_query.load_state_dict(mine.norm_attention.state_dict())
    for name in ("attention", "norm_feed", "feed_in", "feed_out"):
        getattr(theirs, name).load_state_dict(getattr(mine, name).state_dict())
    theirs.feed_out.weight /= 2
    theirs.feed_out.bias /= 2
    plain.norm.load_state_dict(model.norm.state_dict())
    plain.inputs.load_state_dict(model.inputs.state_dict())
    plain.position.copy_(model.position[: len(plain.position)] + model.kind[0])
    for norm in (theirs.norm_query, theirs.norm_feed, plain.norm):
        norm.eps = 1e-12
    for norm in (mine.norm_attention, mine.norm_feed, model.norm):
        norm.eps = 1e-12
    expected = scores(plain, b)
    assert expected[-1, -1].any()
    torch.testing.assert_close(scores(model, b), expected, atol=1e-8, rtol=1e-8)


@torch.no_grad()
def test_order_counts_between_events_and_not_inside_a_query():
    model, b = make("query-seqrec"), batch()
    expected = scores(model, b)
    torch.testing.assert_close(scores(model, b.with_(query=b.query.flip(2))), expected, atol=1e-10, rtol=1e-10)
    # The last search moves past the click after it, and nothing else changes its place.
    time = b.search_time.clone()
    assert b.rec_time[-1, -3] < time[-1, -1] < b.rec_time[-1, -2]
    time[-1, -1] = b.rec_time[-1, -2] + 1
    assert not torch.allclose(scores(model, b.with_(search_time=time))[-1, -1], expected[-1, -1], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("residual", False), ("early_query", True), ("clicks", 1), ("layers", 1), ("heads", 4), ("norm_eps", 0.1)],
)
@torch.no_grad()
def test_a_switch_has_its_effect(name, value):
    b = batch()
    plain, changed = make("query-seqrec"), make("query-seqrec", **{name: value})
    changed.position.data = plain.position[: len(changed.position)]
    assert not torch.allclose(scores(plain, b)[-1, -1], scores(changed, b)[-1, -1], atol=1e-6)


@pytest.mark.parametrize("clicks", [1, 5])
@torch.no_grad()
def test_original_is_cross_entropy_wherever_an_item_comes_next(clicks):
    """Brute-force typing: query or item followed by an item trains; an item followed by a query does not."""
    model, b = make("query-seqrec", softmax="full", clicks=clicks), batch(rows=12, seed=2)
    items, losses, inside, unseen = model.items(torch.arange(2, ITEMS)), [], 0, 0
    for row in range(len(b.user)):
        tokens, real = sequence(b, row, clicks), b.target_mask[row]
        if not real.any():
            continue
        first, last = int(b.rec_seen[row][real].min()), int(b.search_seen[row][real].max())
        labels = [(visible(b, row, t, tokens), int(b.positive_item[row, t])) for t in real.nonzero().flatten().tolist()]
        unseen += sum(not past for past, _ in labels)
        labels = [(past, item) for past, item in labels if past]  # nothing comes before a first event
        for place, token in enumerate(tokens):
            before = sum(kind == "r" for kind, *_ in tokens[:place])
            if token[0] == "c" and b.click[row, token[1], token[2]] > 1 and before >= first and token[1] < last:
                labels.append((tokens[:place], int(b.click[row, token[1], token[2]])))
                inside += 1
        losses += [-(items @ state(model, b, row, past)).log_softmax(0)[item - 2] for past, item in labels]
    assert inside == int(model.labels(b).sum()) > 5
    assert unseen
    found = model.objective(b, model.encode(b), "original")["rank"]
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_searches_that_are_only_history_do_not_train():
    model, b = make("query-seqrec"), batch()
    whole = b.with_(
        rec_seen=(b.rec != 0).sum(1, keepdim=True).expand(-1, 3), search_seen=b.searched.sum(1, keepdim=True).expand(-1, 3)
    )
    last = sequence(b, len(b.user) - 1)
    tail = [token for token in last[max(i for i, token in enumerate(last) if token[0] == "r") :] if token[0] == "c"]
    assert int(model.labels(whole)[-1].sum()) == sum(int(b.click[-1, s, n] > 1) for _, s, n in tail)
    none = b.with_(rec_seen=0 * b.rec_seen, search_seen=0 * b.search_seen)
    assert not model.labels(none).any()


# -- augmentation ---------------------------------------------------------------------------------------------------------


def augmenting(**settings):
    model = make("query-seqrec", **settings)
    model.observe(batch(rows=30, seed=4))
    model.observe(batch(rows=30, seed=5))
    return model


def pairs(*batches):
    """Clicked items of every query, and queries of every item, as sets."""
    items, queries = {}, {}
    for b in batches:
        for row, s in b.searched.nonzero().tolist():
            words = tuple(sorted(w for w in b.query[row, s].tolist() if w))
            for item in b.click[row, s].tolist():
                if words and item > 1:
                    items.setdefault(words, set()).add(item)
                    queries.setdefault(item, set()).add(words)
    return items, queries


def test_no_chance_no_change():
    model, b = augmenting(replace_items=0, replace_queries=0), batch()
    before = torch.random.get_rng_state()
    assert model.augment(b) is b
    assert torch.equal(torch.random.get_rng_state(), before)


def test_replacement_keeps_padding_and_its_share():
    model, b = augmenting(replace_items=0.3, replace_queries=0.6, graph_share=0), batch(rows=400)
    torch.manual_seed(0)
    found = model.augment(b).check()
    changed = []
    for name, share in (("rec", 0.3), ("click", 0.3), ("query", 0.6)):
        old, new = getattr(b, name), getattr(found, name)
        present, moved = old != 0, old != new
        if name == "query":
            present, moved = present.any(2), moved.any(2)
            assert not (found.query[~present]).any()
        else:
            assert torch.equal(new != 0, present)
            assert new[moved].min() >= 2
            assert new.max() < ITEMS
        changed.append((moved[present].float().mean() - share).abs())
        assert not moved[~present].any()
    assert max(changed) < 0.05
    assert torch.equal(found.intact, b.click == found.click)
    assert torch.equal(found.candidates, b.candidates)
    model.inputs.open(found)  # what was put in has rows
    model.double().encode(found)
    model.inputs.close()


def test_neighbours_come_from_the_observed_searches_alone():
    model = augmenting(replace_items=1, replace_queries=1, graph_share=1)
    seen = [batch(rows=30, seed=4), batch(rows=30, seed=5)]
    items, queries = pairs(*seen)
    every = {words for found in queries.values() for words in found}
    b, other = rows_of(seen[0], slice(0, 20)), batch(rows=30, seed=6)
    drawn = {}
    for _ in range(40):
        found = model.augment(b)
        for row, s in b.searched.nonzero().tolist():
            words = tuple(sorted(w for w in b.query[row, s].tolist() if w))
            for old, new in zip(b.click[row, s].tolist(), found.click[row, s].tolist(), strict=True):
                if old and words in items:
                    assert new in items[words]
                    drawn.setdefault(words, set()).add(new)
            clicks = [i for i in b.click[row, s].tolist() if i]
            if words and clicks and clicks[0] in queries:
                assert tuple(sorted(w for w in found.query[row, s].tolist() if w)) in queries[clicks[0]]
        strange = model.augment(other)
        for row, s in other.searched.nonzero().tolist():
            words = tuple(sorted(w for w in strange.query[row, s].tolist() if w))
            assert words in every or not words
    several = [words for words in drawn if len(items[words]) > 1]
    assert several
    assert all(drawn[words] == items[words] for words in several)  # each neighbour has its turn


def test_a_query_is_a_bag_and_may_be_wider_than_the_batch():
    words = torch.tensor([[3, 5, 0], [5, 3, 0], [3, 5, 5], [0, 3, 5]])
    key = bag(words)
    assert key[0] == key[1] == key[3] != key[2]
    model = augmenting(replace_queries=1, graph_share=0)
    b = batch()
    narrow = b.with_(query=b.query[..., :1].contiguous(), target_query=b.target_query[..., :1].contiguous())
    assert model.augment(narrow).check().query.shape[2] == 3
    assert scores(model, narrow).isfinite().all()
    nothing = make("query-seqrec", replace_queries=1)
    assert torch.equal(nothing.augment(b).query, b.query)  # nothing was observed


@torch.no_grad()
def test_a_replaced_click_is_no_label():
    model, b = augmenting(replace_items=0.5), batch(rows=40)
    torch.manual_seed(0)
    found = model.augment(b)
    expected = model.labels(b) & (b.click == found.click)
    assert torch.equal(model.labels(found), expected)
    assert 0 < int(expected.sum()) < int(model.labels(b).sum())


@torch.no_grad()
def test_the_state_is_its_retrieval_vector():
    model, b = make("query-seqrec"), batch()
    vectors = model.retrieval(model.encode(b))
    assert vectors.shape == (*b.rec_seen.shape, 1, model.config.width)
    torch.testing.assert_close((model.items(b.candidates) * vectors).sum(-1), scores(model, b))
