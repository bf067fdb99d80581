"""The floors count: their scores on a log small enough to count by hand."""

import torch
from tests.models.synthetic import batch, left_padded, make, scores, vocabulary

from seerec.batch import Batch
from seerec.models.popularity import CountConfig, LastClick, LastSearchClick, Popularity

FLOORS = (Popularity, LastClick, LastSearchClick)


def rows(rec, clicks, positive, rec_seen=None, search_seen=None):
    """One row with given click history, searches (each a list of clicked items) and one positive per target."""
    t, s = len(positive), len(clicks)
    n = max((len(c) for c in clicks), default=1) or 1
    long = lambda x: torch.tensor(x, dtype=torch.long)  # noqa: E731
    return Batch(
        user=long([2]),
        rec=long([rec]),
        rec_time=long([[0] * len(rec)]),
        query=torch.zeros(1, s, 1, dtype=torch.long),
        click=long([[[*c, *[0] * (n - len(c))] for c in clicks]]).view(1, s, n),
        search_time=long([[0] * s]),
        searched=torch.ones(1, s, dtype=torch.bool),
        rec_seen=long([rec_seen or [sum(i != 0 for i in rec)] * t]),
        search_seen=long([search_seen or [s] * t]),
        candidates=long([[[p, 30, 31] for p in positive]]),
        positive=torch.zeros(1, t, dtype=torch.long),
        target_time=torch.ones(1, t, dtype=torch.long),
        task=long([0]),
        target_query=torch.zeros(1, t, 1, dtype=torch.long),
        key=long([1]),
    ).check()


def model(kind, seen=()):
    found = kind(CountConfig(), vocabulary(), 8, 5)
    for b in seen:
        found.observe(b)
    found.finish() if hasattr(found, "finish") else None
    return found


def test_popularity_is_the_training_count():
    b = batch()
    assert torch.equal(scores(model(Popularity), b), vocabulary().item_count[b.candidates].double())


def test_last_click_counts_what_followed():
    """7 -> 9 twice, 7 -> 11 once, from packed targets; any other continuation has its popularity, below one count."""
    floor = model(LastClick, [rows([5, 7, 9], [[3]], [7, 9, 11], [1, 2, 3]), rows([4, 7], [[3]], [9]), rows([7], [[3]], [11])])
    test = rows([8, 7], [[3]], [9]).with_(candidates=torch.tensor([[[9, 11, 30, 31]]]))
    backoff = vocabulary().item_count.double() / (vocabulary().item_count.max() + 1)
    found = scores(floor, test)[0, 0]
    torch.testing.assert_close(found, torch.tensor([2.0, 1, 0, 0]).double() + backoff[[9, 11, 30, 31]])


def test_last_search_click_takes_the_last_click_of_the_latest_search_that_has_one():
    log = [rows([5], [[20, 21], []], [40]), rows([6], [[22], [20]], [41], search_seen=[1])]
    floor = model(LastSearchClick, log)
    backoff = vocabulary().item_count.double() / (vocabulary().item_count.max() + 1)
    for clicks, item, count in (
        ([[3], [50, 21], []], 40, 1),
        ([[21, 20]], 40, 0),
        ([[22]], 41, 1),
        ([[20]], 41, 0),
        ([[]], 40, 0),
    ):
        test = rows([5], clicks, [item])
        torch.testing.assert_close(scores(floor, test)[0, 0, 0], count + backoff[item])


def test_nothing_seen_falls_back_to_popularity():
    backoff = vocabulary().item_count.double() / (vocabulary().item_count.max() + 1)
    b = batch()
    for kind, seen in ((LastClick, b.rec_seen), (LastSearchClick, b.search_seen)):
        found = scores(model(kind, [b]), b)
        nothing = seen == 0
        assert nothing.any()
        torch.testing.assert_close(found[nothing], backoff[b.candidates[nothing]])
        torch.testing.assert_close(scores(model(kind), b), backoff[b.candidates])  # and so does an empty count


def test_padded_targets_are_not_counted():
    b = rows([5, 7], [[3]], [9, 9])
    padded = b.with_(candidates=torch.tensor([[[9, 30, 31], [0, 0, 0]]]))
    assert model(LastClick, [padded]).count.tolist() == [1]
    assert model(LastClick, [b]).count.tolist() == [2]


def test_counting_does_not_depend_on_padding_or_on_the_order_of_batches():
    for kind in (LastClick, LastSearchClick):
        a, b = batch(seed=1), batch(seed=2)
        forward, backward = model(kind, [a, b]), model(kind, [left_padded(b), left_padded(a)])
        assert torch.equal(forward.pair, backward.pair)
        assert torch.equal(forward.count, backward.count)
        assert len(forward.pair)


def test_floors_ignore_the_settings_of_trained_models():
    for kind in FLOORS:
        assert not CountConfig.model_fields
        assert not list(make(kind.key, double=False).parameters())
