"""Small worlds in which one event decides the next item, and only its place or its mark tells which.

The next item is the one that the deciding event names: a query by its word, a click by itself. The other events of that kind
are decoys, whose items are among the candidates too. So three levels of HR@1 are known without measuring: ``KNOWS_NOTHING`` for
who sees no event of the kind, ``KNOWS_NO_ORDER`` for who sees them all but not which one decides, and 1.

All else is drawn anew for every row and says nothing of the answer: users, the other history, how the two histories interleave.
"""

import torch

from seerec.batch import Batch
from seerec.models.base import Vocabulary

TOPICS, FILLERS = 60, 5
"""Items, each with a word that names it, and words that mean nothing."""
USERS, ITEMS, WORDS = 22, 2 + TOPICS, 2 + TOPICS + FILLERS + 1
MARK = WORDS - 1
"""The word that marks a search."""
CLICKS, SEARCHES, CANDIDATES = 4, 3, 10

DECIDED_BY = {"last query": {"query"}, "last click": {"rec"}, "first click": {"rec"}, "marked search": {"query", "click"}}
"""World -> what a model must read to find the next item."""
KNOWS_NOTHING = 1 / CANDIDATES
KNOWS_NO_ORDER = {"last query": 1 / SEARCHES, "last click": 1 / CLICKS, "first click": 1 / CLICKS, "marked search": 1 / SEARCHES}


def vocabulary():
    """Ids alone: nothing but training relates an item to a word."""
    none = torch.zeros
    return Vocabulary(
        USERS, ITEMS, WORDS, none(ITEMS, dtype=torch.long), none(ITEMS, 0).int(), none(ITEMS, 0).int(), none(USERS, 0).int()
    )


def world(name, rows, seed):
    """A batch of rows of one world, one target each.

    In ``last query`` searches have one word and no click. In ``marked search`` a search has a word, a second word that means
    nothing or is the mark, and a click; the click of the marked one is the answer. In the others that second word means nothing.
    """
    g = torch.Generator().manual_seed(seed)
    rec, named, clicked = (torch.rand(rows, TOPICS, generator=g).argsort(1)[:, :count] for count in (CLICKS, SEARCHES, SEARCHES))
    second = torch.randint(2 + TOPICS, MARK, (rows, SEARCHES), generator=g)
    moment = torch.rand(rows, CLICKS + SEARCHES, generator=g).argsort(1).argsort(1) + 1
    rec_time, search_time = (part.sort(1).values for part in moment.split((CLICKS, SEARCHES), 1))
    at = torch.randint(SEARCHES, (rows, 1), generator=g)
    query, click = torch.stack([named + 2, second], 2), clicked[..., None] + 2
    first, late = torch.zeros_like(at), CLICKS + SEARCHES + 1
    # Where the order decides, the deciding event is the last, or the first, of both histories.
    if name == "last query":
        at, shown = first + SEARCHES - 1, named
        search_time[:, -1], query[..., 1], click = late, 0, 0 * click
    elif name == "last click":
        at, shown = first + CLICKS - 1, rec
        rec_time[:, -1] = late
    elif name == "first click":
        at, shown = first, rec
        rec_time[:, 0] = 0
    else:
        shown = clicked
        query[..., 1] = second.scatter(1, at, MARK)
    # The items of all events of the deciding kind, then others, in random order.
    drawn = torch.rand(rows, TOPICS, generator=g).scatter(1, shown, -1.0).argsort(1)[:, :CANDIDATES]
    candidates = drawn.gather(1, torch.rand(rows, CANDIDATES, generator=g).argsort(1))
    ones = torch.ones(rows, dtype=torch.long)
    return Batch(
        user=torch.randint(1, USERS, (rows,), generator=g),
        rec=rec + 2,
        rec_time=rec_time,
        query=query,
        click=click,
        search_time=search_time,
        searched=torch.ones(rows, SEARCHES, dtype=torch.bool),
        rec_seen=ones[:, None] * CLICKS,
        search_seen=ones[:, None] * SEARCHES,
        candidates=candidates[:, None] + 2,
        positive=(candidates == shown.gather(1, at)).int().argmax(1, keepdim=True),
        target_time=ones[:, None] * (late + 1),
        task=0 * ones,
        target_query=torch.zeros(rows, 1, 2, dtype=torch.long),
        key=torch.arange(rows),
    ).check()
