"""Identity 16: a task whose answer only latent cross reasoning can fetch.

The one click names the user's topic. Four searches, one per topic in random order, each end in a click on an item that says
nothing about the topic. The target is the item clicked in the search of the user's topic, among the other clicked items and four
that nobody clicked: so neither a click, nor a mean over the searches, nor what all the other searches say gives it away.
"""

import torch

from seerec.batch import Batch
from seerec.models.base import Vocabulary
from seerec.models.lcr_ser_config import LCRSERConfig
from seerec.models.registry import build
from seerec.training.optimizers import LazyAdam

TOPICS, CLICKABLE = 4, 8
ITEMS, WORDS = 2 + TOPICS + CLICKABLE, 2 + TOPICS


def vocabulary():
    none = torch.zeros
    return Vocabulary(
        2, ITEMS, WORDS, none(ITEMS, dtype=torch.long), none(ITEMS, 0).int(), none(ITEMS, 0).int(), none(2, 0).int()
    )


def planted(rows, seed):
    """(batch, slot of the relevant search)."""
    g = torch.Generator().manual_seed(seed)
    topic = torch.randint(TOPICS, (rows,), generator=g)
    order = torch.rand(rows, TOPICS, generator=g).argsort(1)
    items = 2 + TOPICS + torch.rand(rows, CLICKABLE, generator=g).argsort(1)
    click = items[:, :TOPICS]
    relevant = (order == topic[:, None]).int().argmax(1)
    ones = torch.ones(rows, dtype=torch.long)
    batch = Batch(
        user=ones,
        rec=2 + topic[:, None],
        rec_time=ones[:, None],
        query=2 + order[:, :, None],
        click=click[:, :, None],
        search_time=torch.arange(TOPICS).expand(rows, -1),
        searched=torch.ones(rows, TOPICS, dtype=torch.bool),
        rec_seen=ones[:, None],
        search_seen=ones[:, None] * TOPICS,
        candidates=items[:, None],
        positive=relevant[:, None],
        target_time=ones[:, None] * 9,
        task=0 * ones,
        target_query=torch.zeros(rows, 1, 1, dtype=torch.long),
        key=torch.arange(rows),
    ).check()
    return batch, relevant


def trained(updates, **settings):
    """HR@1 on fresh rows, and the share of the recommendation side's cross-attention on the relevant search."""
    torch.manual_seed(0)
    common = {
        "width": 16,
        "heads": 1,
        "block": "pre",
        "dropout": 0.0,
        "embedding_std": 0.5,
        "feature_std": 0.5,
        "hidden": (16,),
        "scorer": "mlp+dot",
    }
    config = LCRSERConfig(contrastive_weight=0.0, **common, **settings)
    model = build("lcr-ser", config, vocabulary(), 1, TOPICS)
    optimizer = LazyAdam(model, 0.0)
    test, relevant = planted(512, seed=10**6)
    before = measured(model, test, relevant)
    for step in range(updates):
        batch, _ = planted(64, seed=step)
        model.train().inputs.open(batch)
        optimizer.zero_grad()
        torch.stack([*model.objective(batch, model.encode(batch)).values()]).sum().backward()
        optimizer.step(0.02)
        model.inputs.close()
    return before, measured(model, test, relevant)


@torch.no_grad()
def measured(model, batch, relevant):
    state = model.eval().encode(batch)
    hits = (model.score(state, model.items(batch.candidates))[:, 0].argmax(1) == relevant).float().mean().item()
    cross = state.cross["r"][:, 0, 0]
    share = cross[:, -1] / cross[:, -1].sum(1, keepdim=True) if cross.shape[1] else cross.sum(1)
    return hits, share.gather(1, relevant[:, None]).mean().item()


def test_reasoning_finds_the_relevant_search_and_attends_to_it():
    (_, untrained), (hits, share) = trained(100, steps=2, aggregation="last")
    _, (base, _) = trained(100, steps=0, aggregation="mean")
    assert abs(base - 1 / TOPICS) < 0.1
    assert hits > 0.9
    assert abs(untrained - 1 / TOPICS) < 0.05
    assert share > 0.8
