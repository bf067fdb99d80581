"""UnifiedSSR against a slow reading of its description, one event at a time."""

import math
from itertools import pairwise

import pytest
import torch
from tests.models.synthetic import (
    NEITHER,
    NO_REC,
    NO_SEARCH,
    WORDS,
    as_search,
    batch,
    left_padded,
    make,
    rows_of,
    scores,
    single,
)
from torch.nn import functional as F


def attend(ours, x, context):
    """One vector over a list of vectors; over nothing: a zero value."""
    if not len(context):
        return ours.out(torch.zeros_like(x))
    q, k, v = ours.query(x), ours.key(context), ours.value(context)
    e = len(q) // ours.heads
    heads = [slice(h * e, (h + 1) * e) for h in range(ours.heads)]
    return ours.out(torch.cat([(k[:, h] @ q[h] / math.sqrt(e)).softmax(0) @ v[:, h] for h in heads]))


def encode(model, tokens, sees, other, other_sees):
    """Events one at a time; ``sees[i]`` and ``other_sees[i]`` list what event i may look at."""
    x = tokens
    for depth, layer in enumerate(model.layers):
        if model.config.restarts and depth:
            x = tokens
        inside, out = layer.norm_attention(x), []
        for i in range(len(x)):
            h = x[i] + attend(layer.attention, inside[i], inside[sees[i]])
            h = h + attend(layer.cross, layer.norm_cross(h), other[other_sees[i]])
            out.append(h + layer.feed_out(F.relu(layer.feed_in(layer.norm_feed(h)))))
        x = torch.stack(out)
    return model.norm(x)


def token(model, b, row, vector, position):
    d = model.config.width
    angle = [position / 10000 ** (2 * (c // 2) / d) for c in range(d)]
    wave = torch.tensor([math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angle)]).double()  # via float32
    return math.sqrt(d) * (vector + model.inputs.users(b.user[row])) + wave


def stack(tokens, width):
    return torch.stack(tokens) if tokens else torch.zeros(0, width).double()


def windows(model, states):
    """Means of the two windows of these events, and which of them hold the last one."""
    n, found, last = len(states), [], []
    for k, part in enumerate((states[: math.ceil(n / 2)], states[n // 2 :])):
        offset, growth = F.relu(model.sessions.predict(part.mean(0))).tolist()
        centre, radius = (k + 0.5) * n / 2 + offset, n / 4 + growth / 2
        start, end = min(max(0, math.floor(centre - radius)), n - 1), min(n, math.ceil(centre + radius))
        found.append(states[start:end].mean(0))
        last.append(end == n)
    return found, last


def reference(model, b, row, t):
    """State of one target of a right-padded batch, and the windows of its sequences."""
    config, inputs, d = model.config, model.inputs, model.config.width
    n, m = int(b.rec_seen[row, t]), int(b.search_seen[row, t])
    searching = int(b.task[row]) == 1
    items = [token(model, b, row, inputs.items(b.rec[row, i]), i) for i in range(n)]
    queries = [token(model, b, row, inputs.queries(b.query[row, i]), i) for i in range(m)]
    before = [[j for j in range(m) if b.search_time[row, j] < b.rec_time[row, i]] for i in range(n)]
    after = [[i for i in range(n) if b.rec_time[row, i] <= b.search_time[row, j]] for j in range(m)]

    def session(states, state):
        found, last = windows(model, states) if len(states) else (None, [])
        if config.session_states and found:
            state = state + sum(w for w, holds in zip(found, last, strict=True) if holds)
        return found, state

    def branch(own, sees, other, other_sees):
        return encode(model, stack(own, d), sees, stack(other, d), other_sees)

    past = [list(range(i + 1)) if config.causal else list(range(n)) for i in range(n)]
    if not searching and not config.rec_uses_query_branch:
        if not n:
            return torch.zeros(d).double(), (None, None)
        states = branch(items, past, items, past)
        found, state = session(states, states[-1])
        return state, (found, None)
    other = queries
    if searching:
        other = [*queries, token(model, b, row, inputs.queries(b.target_query[row, t]), m)]
    else:
        other = [token(model, b, row, inputs.searches(b.query[row], b.click[row])[i], i) for i in range(m)]
    everything = list(range(len(other)))
    if config.causal:  # the last click is read again, now seeing all that the target may see
        again = items[-1] if n else token(model, b, row, torch.zeros(d).double(), 0)
        p = branch([*items, again], [*past, [*range(n - 1), n]], other, [*before, everything])
        p_states, p = p[:n], p[-1]
    else:
        p_states = branch(items, past, other, [everything] * n)
        p = p_states[-1]
    p_windows, p = session(p_states, p)
    if not searching:
        return p, (p_windows, None)
    among = [list(range(i + 1)) if config.causal else everything for i in everything]
    clicks = [*after, list(range(n))] if config.causal else [list(range(n))] * len(other)
    q = branch(other, among, items, clicks)
    q_windows, q = session(q[:m], q[-1])
    w = min(max(float(model.mix), 0.1), 0.9)
    return w * p + (1 - w) * q, (p_windows, q_windows)


SETTINGS = [
    {},
    {"heads": 2, "layers": 3, "feed_width": 5},
    {"session_states": True},
    {"rec_uses_query_branch": True},
    {"rec_uses_query_branch": True, "restarts": True, "session_states": True},
    {"causal": False},
    {"causal": False, "restarts": True, "rec_uses_query_branch": True},
]


def names(settings):
    return "-".join(f"{k}={v}" for k, v in settings.items())


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("settings", SETTINGS, ids=names)
@torch.no_grad()
def test_scores_equal_the_description(settings, task):
    model = make("unifiedssr", **settings)
    b = batch(rows=6, targets=2 if model.packs else 1)
    b = as_search(b) if task else b
    found, moved = scores(model, b), scores(model, left_padded(b))
    torch.testing.assert_close(found, moved, atol=1e-10, rtol=1e-10)
    for row, t in torch.ones_like(b.rec_seen).nonzero().tolist():
        if not model.packs and b.rec_seen[row, t] == 0:
            continue
        expected = model.items(b.candidates[row, t]) @ reference(model, b, row, t)[0]
        torch.testing.assert_close(found[row, t], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("task", [0, 1])
@torch.no_grad()
def test_the_session_loss_equals_the_description(task):
    model, b = make("unifiedssr", corr_weight=0.3), batch(rows=9, targets=2)
    b = as_search(b) if task else b
    intra, inter = [], []
    for row, t in b.target_mask.nonzero().tolist():
        found = reference(model, b, row, t)[1]
        for own, count in zip(found, (b.rec_seen[row, t], b.search_seen[row, t]), strict=True):
            if own is not None and count > 1:
                intra += [F.cosine_similarity(x, y, dim=0).abs() for x, y in pairwise(own)]
        if all(own is not None for own in found):
            inter.append(sum(F.cosine_similarity(x, y, dim=0) for x, y in zip(*found, strict=True)) / 2)
    assert len(intra) > 5
    assert bool(inter) == bool(task)
    expected = 0.3 * (sum(intra) / len(intra) - (sum(inter) / len(inter) if inter else 0))
    for kind in ("group", "original"):
        torch.testing.assert_close(model.objective(b, model.encode(b), kind)["corr"], expected, atol=1e-10, rtol=1e-10)
    assert make("unifiedssr", corr_weight=0).objective(b, model.encode(b)).keys() == {"rank"}


@torch.no_grad()
def test_the_original_objective_sums_over_candidates():
    model, b = make("unifiedssr"), batch(rows=6, targets=2)
    logits, total = scores(model, b), 0
    for row, t in b.target_mask.nonzero().tolist():
        for c, z in enumerate(logits[row, t]):
            total = total - F.logsigmoid(z if c == b.positive[row, t] else -z)
    found = model.objective(b, model.encode(b), "original")["rank"]
    torch.testing.assert_close(found, total / b.target_mask.sum())
    torch.testing.assert_close(found, model.objective(b, model.encode(b))["rank"] * b.candidates.shape[2])


@pytest.mark.parametrize("settings", [{}, {"rec_uses_query_branch": True, "session_states": True}], ids=names)
@torch.no_grad()
def test_a_packed_search_target_scores_as_its_own_row(settings):
    model, b = make("unifiedssr", **settings), as_search(batch())
    packed = scores(model, b)
    for row, t in torch.ones_like(b.rec_seen).nonzero().tolist():
        torch.testing.assert_close(scores(model, single(b, row, t))[0, 0], packed[row, t], atol=1e-9, rtol=1e-9)


def test_searches_act_on_recommendations_through_shared_weights_alone():
    model, b = make("unifiedssr"), batch()
    asked = as_search(b)
    torch.stack([*model.objective(asked, model.encode(asked)).values()]).sum().backward()
    shared = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-12}
    assert {name for name, _ in model.layers.named_parameters(prefix="layers")} - shared == {
        f"layers.{i}.{part}.key.bias" for i in (0, 1) for part in ("attention", "cross")
    }
    assert {"inputs.item.weight", "inputs.user.weight", "inputs.word.weight", "mix"} <= shared
    before = scores(model, b)
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(0.01 * p.grad if p.grad is not None else 0)
    assert not torch.isclose(scores(model, b), before).all(2)[(b.rec_seen > 0) & b.target_mask].any()


@torch.no_grad()
def test_every_layer_counts_unless_the_stack_restarts():
    b = batch(targets=1)
    for restarts in (False, True):
        model = make("unifiedssr", restarts=restarts)
        expected = scores(model, b)
        model.layers[0].feed_out.bias.add_(1.0)
        assert torch.equal(scores(model, b), expected) == restarts


@torch.no_grad()
def test_the_mixture_of_branches_is_bounded():
    model, b = make("unifiedssr"), as_search(batch(targets=1))

    def at(w):
        model.mix.fill_(w)
        return scores(model, b)

    assert torch.equal(at(-3.0), at(0.1))
    assert torch.equal(at(3.0), at(0.9))
    torch.testing.assert_close(at(0.5), (at(0.1) + at(0.9)) / 2)
    assert not torch.allclose(at(0.1), at(0.9))


@torch.no_grad()
def test_empty_histories_still_answer_a_query():
    model, b = make("unifiedssr"), as_search(batch(targets=1))
    for row in (NO_REC, NO_SEARCH, NEITHER):
        one = rows_of(b, [row])
        other = one.with_(target_query=one.target_query % (WORDS - 2) + 2)
        assert not torch.allclose(scores(model, one), scores(model, other))


@torch.no_grad()
def test_without_a_mask_events_see_later_ones():
    b = batch(rows=6, targets=1)
    rec = b.rec.clone()
    rec[-2, 0] = rec[-2, 0] % 50 + 2
    for causal in (True, False):
        model = make("unifiedssr", causal=causal, layers=1)
        assert model.packs == causal
        assert not torch.allclose(scores(model, b)[-2], scores(model, b.with_(rec=rec))[-2])
    assert not torch.allclose(scores(make("unifiedssr", causal=False), b)[-2], scores(make("unifiedssr"), b)[-2])
