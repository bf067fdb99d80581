"""USER against its equations, one event at a time; the session and where it is cut."""

import pytest
import torch
from tests.conformance import PERTURB
from tests.models.synthetic import NEITHER, NO_REC, NO_SEARCH, as_search, batch, extend, left_padded, make, rows_of, scores
from tests.models.test_sasrec import attention
from torch.nn import functional as F

from seerec.models.merging import merge

MINUTE = 60_000
SETTINGS = [
    {},
    {"session_gap": 15 / MINUTE, "session_events": 4},
    {"layers": 2, "session_layers": 2, "session_gap": None, "session_events": 2, "heads": 4},
    {"session_gap": 15 / MINUTE, "layers": 2, "features": False, "hidden": (7,)},
]


def prefix(b, row, t):
    """(time, side, slot) of what a target sees, in order."""
    events = []
    for slots, times, seen, side in (
        (b.rec[row] != 0, b.rec_time, b.rec_seen, 0),
        (b.searched[row], b.search_time, b.search_seen, 1),
    ):
        events += [(int(times[row, i]), side, int(i)) for i in slots.nonzero().flatten()[: int(seen[row, t])]]
    return sorted(events)


def current_session(config, events):
    """The last events of a prefix that no long pause cuts off."""
    session = []
    for place in range(len(events) - 1, -1, -1):
        if len(session) == config.session_events:
            break
        pause = events[place + 1][0] - events[place][0] if session else 0
        if config.session_gap is not None and pause > config.session_gap * MINUTE:
            break
        session.append(events[place])
    return session[::-1]


def layer_over(layer, x, causal):
    """One Transformer layer, event by event."""
    out = []
    for i in range(len(x)):
        a = layer.norm_attention(x[i] + attention(layer, x[i], x[: i + 1] if causal else x))
        out.append(layer.norm_feed(a + layer.feed_out(F.relu(layer.feed_in(a)))))
    return torch.stack(out)


def intents(model, b, row, t, query):
    """S and i of a target."""
    events = prefix(b, row, t)

    def token(side, i):
        if side == 0:
            return model.inputs.items(b.rec[row, i]) + model.kind[0]
        clicks = b.click[row, i][b.click[row, i] != 0]
        e = model.inputs.queries(b.query[row, i]) + model.kind[1]
        return e + model.inputs.items(clicks).mean(0) if len(clicks) else e

    session = current_session(model.config, events)
    x = [token(side, i) + model.session_position[len(session) - 1 - place] for place, (_, side, i) in enumerate(session)]
    x = torch.stack([*x, query])
    for layer in model.session_layers:
        x = layer_over(layer, x, causal=False)
    s = x[-1]
    x = [token(side, i) + model.position[place] for place, (_, side, i) in enumerate(events)]
    x = torch.stack([*x, s + model.position[len(events)]])
    for layer in model.layers:
        x = layer_over(layer, x, causal=True)
    return s, x[-1]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_scores_equal_the_equations(settings):
    model = make("user", **settings)
    b = as_search(batch(targets=2)).with_(task=torch.arange(7) % 2)
    for x in (b, left_padded(b), extend(b, 2, 1)):
        found = scores(model, x)
        for row, t in torch.ones_like(x.rec_seen).nonzero().tolist():
            query = model.inputs.queries(x.target_query[row, t]) if row % 2 else model.no_query
            s, i = intents(model, x, row, t, query)
            for c, v in enumerate(model.items(x.candidates[row, t])):
                z = torch.cat([i, s, v, i * v])
                for layer in list(model.mlp)[:-1]:
                    z = F.relu(layer(z))
                torch.testing.assert_close(found[row, t, c], model.mlp[-1](z)[0], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("gap", [None, 0, 10 / MINUTE, 25 / MINUTE, 1e6])
@torch.no_grad()
def test_the_session_is_what_follows_the_last_pause(gap):
    model, b = make("user", session_gap=gap, session_events=4), batch(rows=20, targets=4, seed=1)
    merged = merge(b)
    slot, inside = model.session_events(b, merged)
    source = merged.order.unsqueeze(1).expand(-1, 4, -1).gather(2, slot)
    lengths = set()
    for row, t in torch.ones_like(b.rec_seen).nonzero().tolist():
        expected = [i + side * b.rec.shape[1] for _, side, i in current_session(model.config, prefix(b, row, t))]
        assert source[row, t][inside[row, t]].flip(0).tolist() == expected
        lengths.add(len(expected))
    assert lengths == ({0, 1} if gap == 0 else {0, 1, 2, 3, 4})  # all of these occur


@torch.no_grad()
def test_a_pause_of_exactly_the_gap_does_not_cut():
    model, b = make("user", session_gap=1, session_events=3), rows_of(batch(), [-1])
    b = b.with_(rec_time=torch.arange(8)[None] * MINUTE, search_time=torch.arange(5)[None] + 10**9)
    b = b.with_(rec_seen=torch.tensor([[8] * 3]), search_seen=torch.tensor([[0] * 3]))
    assert model.session_events(b, merge(b))[1].all()
    late = b.with_(rec_time=b.rec_time + (torch.arange(8) == 7))
    assert model.session_events(late, merge(late))[1].sum(2).tolist() == [[1] * 3]


@torch.no_grad()
def test_a_query_in_the_place_of_rec_changes_the_score():
    model, b = make("user"), batch()
    asked = as_search(b)
    assert not torch.allclose(scores(model, b)[-1], scores(model, asked)[-1], atol=1e-6)
    # A recommendation row's query would be a leak: it is not read.
    assert torch.equal(scores(model, b), scores(model, asked.with_(task=b.task)))


@torch.no_grad()
def test_both_histories_and_how_they_interleave_count():
    model, b = make("user"), batch()
    expected = scores(model, b)
    for field in ("rec", "query", "click"):
        assert not torch.allclose(scores(model, PERTURB[field](b))[-1, -1], expected[-1, -1], atol=1e-6)
    # The last search moves past the click after it, and nothing else changes its place.
    time = b.search_time.clone()
    assert b.rec_time[-1, -3] < time[-1, -1] < b.rec_time[-1, -2]
    time[-1, -1] = b.rec_time[-1, -2] + 1
    assert not torch.allclose(scores(model, b.with_(search_time=time))[-1, -1], expected[-1, -1], atol=1e-6)
    # Other times in the same order and without a pause change nothing, nor does the time of the target.
    torch.testing.assert_close(scores(model, b.with_(rec_time=b.rec_time * 2, search_time=b.search_time * 2,
                                                     target_time=b.target_time + 7)), expected)  # fmt: skip


@torch.no_grad()
def test_events_at_one_instant_keep_a_stable_order():
    """Recommendations before searches, each by slot."""
    model, b = make("user"), batch()
    tied = b.with_(rec_time=0 * b.rec_time, search_time=0 * b.search_time)
    apart = b.with_(rec_time=torch.arange(8).expand_as(b.rec_time).contiguous(),
                    search_time=100 + torch.arange(5).expand_as(b.search_time))  # fmt: skip
    whole = {
        "rec_seen": (b.rec != 0).sum(1, keepdim=True).expand(-1, 3),
        "search_seen": b.searched.sum(1, keepdim=True).expand(-1, 3),
    }
    torch.testing.assert_close(scores(model, tied.with_(**whole)), scores(model, apart.with_(**whole)), atol=1e-12, rtol=0)


@torch.no_grad()
def test_one_side_is_enough_to_count_and_none_is_finite():
    model, b = make("user"), as_search(batch()).with_(task=torch.arange(7) % 2)
    found, without = scores(model, b), scores(model, b.with_(rec_seen=0 * b.rec_seen, search_seen=0 * b.search_seen))
    assert found.isfinite().all()
    for row in (NO_REC, NO_SEARCH):
        assert not torch.allclose(found[row, -1], without[row, -1], atol=1e-6)
    torch.testing.assert_close(found[NEITHER], without[NEITHER])


@pytest.mark.parametrize(
    ("name", "value"),
    [("session_gap", 5 / MINUTE), ("session_events", 2), ("session_layers", 2), ("layers", 2), ("heads", 4), ("hidden", (9,))],
)
@torch.no_grad()
def test_a_switch_has_its_effect(name, value):
    b = batch()
    plain, changed = make("user"), make("user", **{name: value})
    changed.session_position.data = plain.session_position[: len(changed.session_position)]
    assert not torch.allclose(scores(plain, b)[-1, -1], scores(changed, b)[-1, -1], atol=1e-6)


@torch.no_grad()
def test_objectives():
    """Original: softmax over the positive and its negatives; group: binary cross-entropy; the weight of search is the loop's."""
    model, b = make("user", search_weight=3.0), batch()
    for x in (b, as_search(b)):
        state, mask = model.encode(x), x.target_mask
        logits = scores(model, x)
        label = F.one_hot(x.positive, x.candidates.shape[2]).double()
        softmax = -(label * logits.softmax(2)).sum(2).log()[mask].mean()
        torch.testing.assert_close(model.objective(x, state, "original")["rank"], softmax)
        bce = -(label * logits.sigmoid().log() + (1 - label) * (1 - logits.sigmoid()).log()).mean(2)[mask].mean()
        torch.testing.assert_close(model.objective(x, state, "group")["rank"], bce)


def test_one_head_learns_from_both_tasks_and_rec_from_recommendations_alone():
    model, b = make("user"), batch()
    found = []
    for x in (b, as_search(b)):
        model.zero_grad()
        model.objective(x, model.encode(x))["rank"].backward()
        found.append([0.0 if p.grad is None else float(p.grad.abs().max()) for p in (model.mlp[0].weight, model.no_query)])
    assert found[0][0] > 0 < found[1][0]
    assert found[0][1] > 0 == found[1][1]
