"""Small synthetic vocabularies, batches and models, and the ways in which tests bend them."""

import torch
from torch import nn

from seerec.batch import Batch
from seerec.models.base import ModelConfig, Vocabulary
from seerec.models.registry import MODELS, build

USERS, ITEMS, WORDS = 20, 60, 40
R, S = 8, 5
"""Lengths of the synthetic histories."""
ROOM = 4
"""Slots that the models' position tables have beyond them."""

# Rows of ``batch`` with a story: no clicks, no searches, neither; in row 3 the last target is padding.
NO_REC, NO_SEARCH, NEITHER, PADDED = 0, 1, 2, 3


def vocabulary(features=True, seed=0, users=USERS, items=ITEMS, words=WORDS):
    g = torch.Generator().manual_seed(seed)

    def table(high, rows, columns):
        values = torch.randint(0, high, (rows, columns), generator=g, dtype=torch.int32)
        values[0] = 0
        return values if features else values[:, :0]

    count = torch.randint(0, 9, (items,), generator=g)
    count[:2] = 0
    return Vocabulary(users, items, words, count, table(4, items, 2), table(words, items, 3), table(3, users, 1))


def batch(rows=7, targets=3, candidates=6, seed=0):
    """Right-padded rows of every kind; each target sees a prefix, the last one everything; candidates are distinct."""
    g = torch.Generator().manual_seed(seed)

    def draw(high, *shape, low=0):
        return torch.randint(low, high, shape, generator=g)

    rec_count, search_count = draw(R + 1, rows, low=2), draw(S + 1, rows, low=2)
    rec_count[NO_REC] = search_count[NO_SEARCH] = rec_count[NEITHER] = search_count[NEITHER] = 0
    rec_count[-1], search_count[-1] = R, S
    searched = torch.arange(S) < search_count[:, None]
    click = draw(ITEMS, rows, S, 2, low=1) * searched[..., None]
    query = draw(WORDS, rows, S, 3, low=1) * searched[..., None]
    click[:, 1], query[:, 2, 1:], query[-1, 0] = 0, 0, 0  # no click; one word; no query
    # Distinct instants, so that what a target sees is what happened before one moment.
    moment = torch.stack([torch.randperm(R + S, generator=g) for _ in range(rows)]) * 10
    rec_time, search_time = moment[:, :R].sort(1).values, moment[:, R:].sort(1).values
    cut = (draw(R + S + 1, rows, targets) * 10 - 5).sort(1).values
    cut[:, -1], cut[-1, 0] = 1000, -5
    rec_seen = ((rec_time[:, None] < cut[..., None]) & (torch.arange(R) < rec_count[:, None])[:, None]).sum(2)
    search_seen = ((search_time[:, None] < cut[..., None]) & searched[:, None]).sum(2)
    items = torch.stack([torch.randperm(ITEMS - 2, generator=g)[:candidates] + 2 for _ in range(rows * targets)])
    items = items.view(rows, targets, candidates)
    positive = draw(candidates, rows, targets)
    if targets > 1:
        items[PADDED, -1], positive[PADDED, -1] = 0, 0
    return Batch(
        user=draw(USERS, rows, low=1),
        rec=draw(ITEMS, rows, R, low=2) * (torch.arange(R) < rec_count[:, None]),
        rec_time=rec_time * (torch.arange(R) < rec_count[:, None]),
        query=query,
        click=click,
        search_time=search_time * searched,
        searched=searched,
        rec_seen=rec_seen,
        search_seen=search_seen,
        candidates=items,
        positive=positive,
        target_time=torch.full((rows, targets), 1000),
        task=torch.zeros(rows, dtype=torch.long),
        target_query=torch.zeros(rows, targets, 3, dtype=torch.long),
        key=draw(10**9, rows),
    ).check()


def as_search(batch, seed=0):
    """The same rows asked as searches, each target with a query of its own."""
    g = torch.Generator().manual_seed(seed)
    query = torch.randint(1, WORDS, batch.target_query.shape, generator=g)
    return batch.with_(task=torch.ones_like(batch.task), target_query=query).check()


def shift(batch, rec, search):
    """Pad with ``rec`` and ``search`` empty slots on the left of the histories."""
    return _pad(batch, (rec, 0), (search, 0)).check()


def extend(batch, rec, search):
    """Pad on the right."""
    return _pad(batch, (0, rec), (0, search)).check()


def _pad(batch, rec, search):
    pad = nn.functional.pad
    return batch.with_(
        rec=pad(batch.rec, rec),
        rec_time=pad(batch.rec_time, rec),
        query=pad(batch.query, (0, 0, *search)),
        click=pad(batch.click, (0, 0, *search)),
        search_time=pad(batch.search_time, search),
        searched=pad(batch.searched, search),
    )


def left_padded(batch):
    """Every row's events at the end of its slots."""
    rec = _rolled(batch.rec != 0)
    search = _rolled(batch.searched)

    def move(x, at):
        return x.gather(1, at.view(*at.shape, *[1] * (x.dim() - 2)).expand_as(x))

    return batch.with_(
        rec=move(batch.rec, rec),
        rec_time=move(batch.rec_time, rec),
        query=move(batch.query, search),
        click=move(batch.click, search),
        search_time=move(batch.search_time, search),
        searched=move(batch.searched, search),
    ).check()


def _rolled(present):
    length = present.shape[1]
    return (torch.arange(length) + present.sum(1, keepdim=True)) % length


def rows_of(batch, index):
    """Some rows of a batch."""
    return Batch(**{name: value[index] for name, value in vars(batch).items()})


def single(batch, row, target):
    """The classic row of one packed target: same window start, its prefix only."""
    one, t = rows_of(batch, [row]), slice(target, target + 1)
    rec = torch.arange(batch.rec.shape[1]) < one.rec_seen[:, t]
    search = torch.arange(batch.searched.shape[1]) < one.search_seen[:, t]
    return one.with_(
        rec=one.rec * rec,
        query=one.query * search[..., None],
        click=one.click * search[..., None],
        searched=one.searched & search,
        rec_seen=one.rec_seen[:, t],
        search_seen=one.search_seen[:, t],
        candidates=one.candidates[:, t],
        positive=one.positive[:, t],
        target_time=one.target_time[:, t],
        target_query=one.target_query[:, t],
    ).check()


def make(key="lcr-ser", features=True, double=True, random=True, vocab=None, **settings):
    """A model in evaluation mode whose every parameter is random: biases and normalisations too, so that none hides."""
    torch.manual_seed(3)
    kind = MODELS[key]
    if issubclass(kind.Config, ModelConfig):
        settings = {"width": 8, **settings}
    model = build(key, kind.Config(**settings), vocab or vocabulary(features), R + ROOM, S + ROOM)
    if random:
        randomise(model)
    return (model.double() if double else model).eval()


def randomise(model, seed=5):
    """Every parameter from its own named seed, so that two settings agree in what they share."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            g = torch.Generator().manual_seed(seed + sum(i * ord(c) for i, c in enumerate(name)))
            value = torch.randn(parameter.shape, generator=g)
            if "inputs" in name:
                parameter.copy_(value * 0.5)
                if "features" not in name:
                    parameter[0] = 0  # padding
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * value)
            elif parameter.dim() == 2:
                parameter.copy_(value * parameter.shape[1] ** -0.5)
            else:
                parameter.copy_(value * 0.3)


def scores(model, batch, noise=None):
    state = model.encode(batch) if noise is None else model.reason(model.history(batch), noise)
    return model.score(state, model.items(batch.candidates))


def noise_for(batch, model, rollouts=4, std=0.5, seed=1):
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(*batch.rec_seen.shape, rollouts, model.start_width, generator=g, dtype=torch.float64) * std
    noise[:, :, 0] = 0
    return noise.to(next(model.parameters()).dtype)


def state_tensors(state, found=None, prefix=""):
    """Every tensor in a state, by path."""
    found = {} if found is None else found
    if isinstance(state, torch.Tensor):
        found[prefix] = state
    elif isinstance(state, dict):
        for name, value in state.items():
            state_tensors(value, found, f"{prefix}.{name}")
    elif isinstance(state, (list, tuple)):
        for index, value in enumerate(state):
            state_tensors(value, found, f"{prefix}.{index}")
    elif hasattr(state, "__dict__"):
        state_tensors(vars(state), found, prefix)
    return found
