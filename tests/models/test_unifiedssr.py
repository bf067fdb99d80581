"""UnifiedSSR against a slow reading of its description, one event at a time."""

import math

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

from seerec.models.layers import reach
from seerec.models.session_windows import SessionWindows


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
    """Means of the two windows of these states, None where one is empty, and whether either holds the last state."""
    n, found, last = len(states), [], False
    for k, part in enumerate((states[: math.ceil(n / 2)], states[n // 2 :])):
        offset, width = model.sessions.predict(F.relu(part.mean(0))).tanh().tolist()
        centre, radius = (k + 0.5) / 2 + offset / 2, max(0, width) / 2
        low, high = (n * min(max(x, 0), 1) for x in (centre - radius, centre + radius))
        held = [i for i in range(n) if low <= i <= high]
        found.append(states[held].mean(0) if held else None)
        last = last or n - 1 in held
    return found, last


def reference(model, b, row, t):
    """P and Q (or None) of one target of a right-padded batch, as candidates are multiplied with, and their windows."""
    config, inputs, d = model.config, model.inputs, model.config.width
    n, m = int(b.rec_seen[row, t]), int(b.search_seen[row, t])
    searching = int(b.task[row]) == 1
    items = [token(model, b, row, inputs.items(b.rec[row, i]), i + searching) for i in range(n)]
    queries = [token(model, b, row, inputs.queries(b.query[row, i]), i) for i in range(m)]
    before = [[j for j in range(m) if b.search_time[row, j] < b.rec_time[row, i]] for i in range(n)]
    after = [[i for i in range(n) if b.rec_time[row, i] <= b.search_time[row, j]] for j in range(m)]

    def session(earlier, state):
        found, held = windows(model, torch.cat([earlier, state[None]]))
        return found, math.sqrt(d) * state * (2 if config.session_states and held else 1)

    def branch(own, sees, other, other_sees):
        return encode(model, stack(own, d), sees, stack(other, d), other_sees)

    past = [list(range(i + 1)) if config.causal else list(range(n)) for i in range(n)]
    if not searching and not config.rec_uses_query_branch:
        if not n:
            return torch.zeros(d).double(), None, (None, None)
        states = branch(items, past, items, past)
        found, state = session(states[:-1], states[-1])
        return state, None, (found, None)
    other = queries
    if searching:
        other = [*queries, token(model, b, row, inputs.queries(b.target_query[row, t]), m)]
    else:
        other = [token(model, b, row, inputs.searches(b.query[row], b.click[row])[i], i) for i in range(m)]
    everything = list(range(len(other)))
    if config.causal:  # the last click is read again, now seeing all that the target may see
        again = items[-1] if n else token(model, b, row, torch.zeros(d).double(), 0)
        p = branch([*items, again], [*past, [*range(n - 1), n]], other, [*before, everything])
        p_states, p = p[: max(n - 1, 0)], p[-1]
    else:
        p_states = branch(items, past, other, [everything] * n)
        p_states, p = p_states[:-1], p_states[-1]
    p_windows, p = session(p_states, p)
    if not searching:
        return p, None, (p_windows, None)
    among = [list(range(i + 1)) if config.causal else everything for i in everything]
    clicks = [*after, list(range(n))] if config.causal else [list(range(n))] * len(other)
    q = branch(other, among, items, clicks)
    q_windows, q = session(q[:m], q[-1])
    return p, q, (p_windows, q_windows)


def share(model):
    return min(max(float(model.mix), 0.1), 0.9)


def untrained_windows(model):
    """The same model with its windows where they start; those of ``make`` are anywhere."""
    model.sessions = SessionWindows(model.config.width).double()
    return model


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
        p, q, _ = reference(model, b, row, t)
        state = p if q is None else share(model) * p + (1 - share(model)) * q
        expected = model.items(b.candidates[row, t]) @ state
        torch.testing.assert_close(found[row, t], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("windows", [untrained_windows, lambda model: model], ids=["start", "anywhere"])
@pytest.mark.parametrize("task", [0, 1])
@torch.no_grad()
def test_the_session_loss_equals_the_description(task, windows):
    model, b = windows(make("unifiedssr", corr_weight=0.3)), batch(rows=14, targets=2)
    b = as_search(b) if task else b
    intra, inter = ([], []), []
    for row, t in b.target_mask.nonzero().tolist():
        found = reference(model, b, row, t)[2]
        for own, cosines in zip(found, intra, strict=True):
            cosines += [F.cosine_similarity(*own, dim=0).abs()] if both(own) else []
        inter += [F.cosine_similarity(*pair, dim=0) for pair in zip(*found, strict=True) if both(pair)] if both(found) else []
    assert len(intra[0]) > 4
    assert bool(inter) == bool(intra[1]) == bool(task)
    expected = 0.3 * (mean(intra[0]) + mean(intra[1]) - mean(inter))
    for kind in ("group", "original"):
        torch.testing.assert_close(model.objective(b, model.encode(b), kind)["corr"], expected, atol=1e-10, rtol=1e-10)
    assert make("unifiedssr", corr_weight=0).objective(b, model.encode(b)).keys() == {"rank"}


def both(pair):
    return pair is not None and not any(x is None for x in pair)


def mean(found):
    return sum(found) / max(1, len(found))


@pytest.mark.parametrize(
    ("states", "first", "second"),
    [(1, [], []), (2, [], []), (3, [1], [2]), (4, [1], [3]), (6, [1, 2], [4, 5]), (8, [1, 2, 3], [5, 6, 7]), (9, [2, 3], [6, 7])],
)
@torch.no_grad()
def test_windows_start_as_the_middle_of_each_half(states, first, second):
    """From n / 8 to 3n / 8 and from 5n / 8 to 7n / 8; what a window holds shows in the mean of one-hot states."""
    sessions = SessionWindows(states)
    at = reach(torch.ones(1, states, dtype=torch.bool), torch.tensor([[states]]))
    means, own = sessions(torch.eye(states)[None], at, torch.tensor([[states - 1]]), torch.eye(states)[-1].view(1, 1, -1))
    for found, held in zip(means[0, 0], (first, second), strict=True):
        expected = torch.zeros(states)
        expected[held] = 1 / max(1, len(held))
        torch.testing.assert_close(found, expected)
    assert bool(own) == (states - 1 in [*first, *second])


@torch.no_grad()
def test_a_state_in_a_window_counts_twice():
    b = batch(rows=30, targets=1)
    plain, doubled = (scores(untrained_windows(make("unifiedssr", session_states=on)), b)[:, 0] for on in (False, True))
    for row, n in enumerate(b.rec_seen[:, 0].tolist()):
        torch.testing.assert_close(doubled[row], plain[row] * (2 if 3 <= n <= 8 else 1))


@torch.no_grad()
def test_candidates_are_scaled_as_tokens_are():
    """A normalised state of ones: sqrt(D) times the sum of a candidate's numbers."""
    model, b = make("unifiedssr"), batch()
    model.norm.weight.zero_()
    model.norm.bias.fill_(1.0)
    expected = math.sqrt(model.config.width) * model.items(b.candidates).sum(3)
    torch.testing.assert_close(scores(model, b)[-1, -1], expected[-1, -1])


@pytest.mark.parametrize("task", [0, 1])
@torch.no_grad()
def test_the_original_objective_sums_over_candidates_and_mixes_the_losses_of_the_branches(task):
    model, b = make("unifiedssr"), batch(rows=6, targets=2)
    b = as_search(b) if task else b
    model.mix.fill_(0.3)
    total = 0
    for row, t in b.target_mask.nonzero().tolist():
        for state, weight in zip(reference(model, b, row, t)[:2], (0.3, 0.7) if task else (1, 0), strict=True):
            if state is not None:
                for c, z in enumerate(model.items(b.candidates[row, t]) @ state):
                    total = total - weight * F.logsigmoid(z if c == b.positive[row, t] else -z)
    found = model.objective(b, model.encode(b), "original")["rank"]
    torch.testing.assert_close(found, total / b.target_mask.sum(), atol=1e-9, rtol=1e-9)
    whole = model.objective(b, model.encode(b))["rank"] * b.candidates.shape[2]
    assert torch.isclose(found, whole) == (task == 0)


def test_training_brings_the_mixture_back_where_it_can_move():
    model, b = make("unifiedssr"), as_search(batch())
    model.mix.data.fill_(1.5)
    model.train()
    model.objective(b, model.encode(b), "original")["rank"].backward()
    assert model.mix.item() == pytest.approx(0.9)
    assert model.mix.grad.abs() > 1e-6


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
