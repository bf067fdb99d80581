"""NRHUB against its equations, one event at a time; what a bag of events is blind to, and what it is not."""

import pytest
import torch
from tests.conformance import other_ids
from tests.models.synthetic import NEITHER, NO_REC, NO_SEARCH, WORDS, R, S, batch, extend, left_padded, make, scores

SETTINGS = [{}, {"features": False, "dense": 6, "attention": 5}, {"project": "tanh"}]


def logit(view, x):
    """v^T tanh(U x + b) of one vector."""
    return view.vector.weight[0] @ torch.tanh(view.projection.weight @ x + view.projection.bias)


def pool(view, vectors):
    """The weighted sum of a list of vectors, and the weights."""
    share = torch.stack([logit(view, x) for x in vectors]).softmax(0)
    return sum(a * x for a, x in zip(share, vectors, strict=True)), share


def user(model, row, rec_seen, search_seen):
    """The user of one target from lists of events; also the weights of the three views, None for an empty one."""
    browsed = [model.inputs.items(i) for i in row["rec"][:rec_seen]]
    query = [model.inputs.queries(words) for words in row["query"][:search_seen] if (words != 0).any()]
    clicked = [model.inputs.items(i) for clicks in row["click"][:search_seen] for i in clicks if i != 0]
    views = {}
    for name, events in (("browsed", browsed), ("query", query), ("clicked", clicked)):
        if events:
            views[name] = torch.tanh(model.user_projection(pool(model.view[name], events)[0]))
    if not views:
        return torch.zeros(model.config.dense).double(), {}
    vector, share = pool(model.user_view, list(views.values()))
    return vector, dict(zip(views, share.tolist(), strict=True))


def events(b, row):
    """The events of a row without padding."""
    return {
        "rec": b.rec[row][b.rec[row] != 0],
        "query": b.query[row][b.searched[row]],
        "click": b.click[row][b.searched[row]],
    }


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_scores_equal_the_equations(settings):
    model, b = make("nrhub", **settings), batch()
    for x in (b, left_padded(b), extend(b, 2, 1)):
        found, state = scores(model, x), model.encode(x)
        for row, t in torch.ones_like(x.rec_seen).nonzero().tolist():
            vector, share = user(model, events(x, row), int(x.rec_seen[row, t]), int(x.search_seen[row, t]))
            item = torch.tanh(model.item_projection(model.inputs.items(x.candidates[row, t])))
            expected = (item @ vector) * (x.candidates[row, t] != 0)
            torch.testing.assert_close(found[row, t], expected, atol=1e-10, rtol=1e-10)
            weights = torch.tensor([share.get(name, 0.0) for name in model.view], dtype=torch.float64)
            torch.testing.assert_close(state.views[row, t], weights, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_the_order_of_each_history_counts_for_nothing():
    """With everything visible, any order of clicks, of searches, of the clicks of a search, and of words."""
    model, b = make("nrhub"), batch()
    g = torch.Generator().manual_seed(0)
    expected = scores(model, b)[-1, -1]  # full histories
    assert expected.any()
    rec, searches = torch.randperm(R, generator=g), torch.randperm(S, generator=g)
    changed = b.with_(rec=b.rec.clone(), query=b.query.clone(), click=b.click.clone())
    changed.rec[-1] = b.rec[-1, rec]
    changed.query[-1] = b.query[-1, searches].flip(1)
    changed.click[-1] = b.click[-1, searches].flip(1)
    assert not torch.equal(changed.rec, b.rec)
    torch.testing.assert_close(scores(model, changed)[-1, -1], expected, atol=1e-10, rtol=1e-10)
    # Which click belongs to which query is lost too.
    changed.click[-1] = b.click[-1, searches.roll(1)]
    torch.testing.assert_close(scores(model, changed)[-1, -1], expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_repetition_counts():
    """Clicks a a b and a b b are different bags."""
    model, b = make("nrhub"), batch()
    first, second = b.with_(rec=b.rec.clone()), b.with_(rec=b.rec.clone())
    first.rec[-1, :3], second.rec[-1, :3] = torch.tensor([[7, 7, 8], [7, 8, 8]])
    assert not torch.allclose(scores(model, first)[-1, -1], scores(model, second)[-1, -1], atol=1e-6)


@pytest.mark.parametrize("field", ["rec", "query", "click"])
@torch.no_grad()
def test_every_view_reaches_the_score(field):
    model, b = make("nrhub"), batch()
    changed = b.with_(**{field: other_ids(getattr(b, field), WORDS)})
    assert not torch.allclose(scores(model, b)[-1, -1], scores(model, changed)[-1, -1], atol=1e-6)


@torch.no_grad()
def test_empty_views_drop_out():
    """The weights of the views with events sum to 1; a user without any event is zero."""
    model, b = make("nrhub"), batch()
    found = model.encode(b)
    total = found.views.sum(2)
    seen = (b.rec_seen + b.search_seen) > 0
    torch.testing.assert_close(total, seen.double())
    assert not found.views[NO_REC, :, 0].any()
    assert not found.views[NO_SEARCH, :, 1:].any()
    assert torch.equal(found.views[NO_SEARCH, -1], torch.tensor([1.0, 0, 0]).double())
    assert not found.vector[NEITHER].any()
    searchless = b.with_(search_seen=0 * b.search_seen)
    assert not model.encode(searchless).views[..., 1:].any()
    # A search without a query and one without clicks leave one event less in those views.
    assert not b.query[-1, 0].any()
    first = b.with_(rec_seen=0 * b.rec_seen, search_seen=torch.ones_like(b.search_seen) * (b.searched.sum(1, keepdim=True) > 0))
    assert torch.equal(model.encode(first).views[-1, -1], torch.tensor([0, 0, 1.0]).double())


@pytest.mark.parametrize(("name", "value"), [("dense", 12), ("attention", 7), ("features", False), ("project", "tanh")])
@torch.no_grad()
def test_a_setting_has_its_effect(name, value):
    b = batch()
    assert not torch.allclose(scores(make("nrhub"), b)[-1, -1], scores(make("nrhub", **{name: value}), b)[-1, -1], atol=1e-6)


@torch.no_grad()
def test_objectives():
    """Group: binary cross-entropy over all scores. Original: softmax over the positive and its negatives."""
    model, b = make("nrhub"), batch()
    state = model.encode(b)
    logits, mask = scores(model, b), b.target_mask
    label = torch.nn.functional.one_hot(b.positive, b.candidates.shape[2]).double()
    bce = -(label * logits.sigmoid().log() + (1 - label) * (1 - logits.sigmoid()).log()).mean(2)[mask].mean()
    torch.testing.assert_close(model.objective(b, state, "group")["rank"], bce)
    softmax = -(label * logits.softmax(2)).sum(2).log()[mask].mean()
    torch.testing.assert_close(model.objective(b, state, "original")["rank"], softmax)


@torch.no_grad()
def test_the_user_is_its_retrieval_vector():
    model, b = make("nrhub"), batch()
    vectors = model.retrieval(model.encode(b))
    assert vectors.shape == (*b.rec_seen.shape, 1, model.config.dense)
    torch.testing.assert_close((model.items(b.candidates) * vectors).sum(-1), scores(model, b))


def test_dropout_acts_while_training():
    model, b = make("nrhub", dropout=0.5), batch()
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(scores(model, b), scores(model, b))
