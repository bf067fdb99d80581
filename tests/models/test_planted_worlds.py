"""Worlds whose next item is known to hang on one event (``worlds.py``): who reads that event finds it, who does not stays blind.

What is expected of a model follows from what it declares to read, so a new model is asked too:

    finds    it reads what decides: HR@1 above the middle between the best that a bag can do and 1
    bag      it reads what decides, but its equations make it a bag (``BAGS``): above chance, at most the best of a bag
    blind    it does not read what decides: chance

Levels are computed, allowances are 4 standard errors of a share over the held-out rows. Every model learns in the same way: small
widths but its own layers, heads and reasoning steps; the shared ranking loss alone, since terms such as contrasts between
views ask for something else and slow most models down here; fresh rows in every step, so that nothing can be memorised.
"""

import pytest
import torch
from tests.models.worlds import (
    CLICKS,
    DECIDED_BY,
    ITEMS,
    KNOWS_NO_ORDER,
    KNOWS_NOTHING,
    SEARCHES,
    TOPICS,
    vocabulary,
    world,
)
from torch import nn

from seerec.evaluation.metrics import hit_rate
from seerec.evaluation.ranking import count_above
from seerec.models.base import NeuralRecommender
from seerec.models.registry import MODELS, build
from seerec.training.optimizers import LazyAdam

pytestmark = pytest.mark.slow
BAGS = {
    "nrhub": "pools clicks, queries and searches' clicks as three bags: no order, and no tie between a query and its click",
}
FORMS = {
    "jsr, id": ("jsr", {"history": "none"}),
    "unifiedssr, queries": ("unifiedssr", {"rec_uses_query_branch": True}),
    "sasrec, merged": ("sasrec", {"history": "merged"}),
}
"""Models that read other things under another setting: by default JSR reads both histories, UnifiedSSR and SASRec one."""

SETTINGS = {
    "width": 16, "feed_width": 16, "inner": 16, "embedding_std": 0.2, "feature_std": 0.2, "loss": "softmax",
    "dropout": 0.0, "input_dropout": 0.0,
    "contrastive_weight": 0.0, "kl_weight": 0.0, "step_weight": 0.0, "trajectory_weight": 0.0, "triplet_weight": 0.0,
    "query_item_weight": 0.0, "view_weight": 0.0, "cloze_weight": 0.0, "corr_weight": 0.0,
}  # fmt: skip
"""Of every model that has them."""
ROWS, UPDATES, RATE, CLIP = 128, 150, 0.01, 1.0
CHECKED, ENOUGH = 10, 0.95
"""To save time training ends when fresh rows, looked at every so many updates, have this HR@1."""
HELD_OUT = 1000


def share_error(level):
    """Standard error of a share of the held-out rows."""
    return (level * (1 - level) / HELD_OUT) ** 0.5


def forms():
    """Label -> (key, settings, what it reads) of everything that learns by gradient."""
    known = {key: (key, {}) for key, kind in MODELS.items() if issubclass(kind, NeuralRecommender)} | FORMS
    return {label: (*form, untrained(*form).reads) for label, form in known.items()}


def untrained(key, settings):
    kind = MODELS[key]
    common = {name: value for name, value in SETTINGS.items() if name in kind.Config.model_fields}
    torch.manual_seed(1)
    return build(key, kind.Config(**common, **settings), vocabulary(), CLICKS, SEARCHES)


@torch.no_grad()
def measured(model, batch):
    """HR@1, expected over ties."""
    logits = model.eval().score(model.encode(batch), model.items(batch.candidates))
    above, beside = count_above(logits, batch.positive)
    return hit_rate(above[:, 0].numpy(), beside[:, 0].numpy(), 1).mean()


def trained(name, key, settings):
    """A model after at most ``UPDATES`` updates on fresh rows of a world, and how many they were."""
    model = untrained(key, settings)
    optimizer = LazyAdam(model, 0.0)
    if model.learns_transitions:
        model.observe(world(name, ROWS, seed=10**7))
    for step in range(UPDATES):
        torch.manual_seed(step)
        model.train()
        batch = model.augment(world(name, ROWS, seed=step))
        model.inputs.open(batch)
        optimizer.zero_grad()
        torch.stack([*model.objective(batch, model.encode(batch)).values()]).sum().backward()
        nn.utils.clip_grad_norm_(optimizer.parameters(), CLIP)
        optimizer.step(RATE)
        model.inputs.close()
        if (step + 1) % CHECKED == 0 and measured(model, world(name, ROWS, seed=10**8 + step)) >= ENOUGH:
            break
    return model, step + 1


def cases():
    """(world, label, expectation). What is blind to several worlds is asked once: no world's answer depends on what it reads."""
    for label, (key, _, reads) in forms().items():
        blind = [name for name in DECIDED_BY if not reads >= DECIDED_BY[name]]
        for name in DECIDED_BY:
            if name not in blind:
                yield name, label, "bag" if key in BAGS else "finds"
            elif name == blind[0]:
                yield name, label, "blind"


@pytest.mark.parametrize(("name", "label", "expected"), [pytest.param(*case, id="-".join(case)) for case in cases()])
def test_who_reads_what_decides_finds_it(name, label, expected):
    key, settings, _ = forms()[label]
    model, updates = trained(name, key, settings)
    found, bag = measured(model, world(name, HELD_OUT, seed=10**6)), KNOWS_NO_ORDER[name]
    print(f"{name}: {label} HR@1 {found:.3f} after {updates} updates ({expected}; blind {KNOWS_NOTHING:.3f}, bag {bag:.3f})")
    if expected == "finds":
        assert found > (bag + 1) / 2
    elif expected == "bag":
        assert KNOWS_NOTHING + 4 * share_error(KNOWS_NOTHING) < found < bag + 4 * share_error(bag)
    else:
        assert abs(found - KNOWS_NOTHING) < 4 * share_error(KNOWS_NOTHING)


def test_every_setting_is_some_model_s():
    """A setting that was renamed would silently be the default again."""
    assert SETTINGS.keys() <= {name for key, *_ in forms().values() for name in MODELS[key].Config.model_fields}


# the worlds themselves ---------------------------------------------------------------------------------------------------


def always(items_B1, batch):
    """HR@1 of the rule that ranks these items first."""
    return (items_B1 == batch.positive_item).float().mean().item()


@pytest.mark.parametrize("name", [*DECIDED_BY])
def test_only_the_deciding_event_says_more_than_its_kind(name):
    """Whoever always takes the event in one place of the deciding kind is right in that place alone; the mark has no place."""
    batch = world(name, HELD_OUT, seed=1)
    places = {"last query": batch.query[..., 0], "marked search": batch.click[..., 0]}.get(name, batch.rec)
    found = [always(places[:, [place]], batch) for place in range(places.shape[1])]
    if name == "marked search":
        bag = KNOWS_NO_ORDER[name]
        assert all(abs(share - bag) < 4 * share_error(bag) for share in found)
        assert always(batch.click[..., 0][batch.query[..., 1] == batch.query.max()][:, None], batch) == 1
    else:
        deciding = 0 if name == "first click" else places.shape[1] - 1
        assert found == [float(place == deciding) for place in range(places.shape[1])]


@pytest.mark.parametrize("name", [*DECIDED_BY])
def test_the_candidates_do_not_give_the_answer_away(name):
    """The items of all events of the deciding kind are among them, all distinct, and the answer is in any column, any item."""
    batch = world(name, 60 * HELD_OUT, seed=1)
    items = batch.candidates[:, 0]
    assert (items.sort(1).values.diff(dim=1) > 0).all()
    decoys = {"last query": batch.query[..., 0], "marked search": batch.click[..., 0]}.get(name, batch.rec)
    assert (decoys[:, :, None] == items[:, None]).any(2).all()
    for values, count in ((batch.positive[:, 0], items.shape[1]), (batch.positive_item[:, 0] - 2, TOPICS)):
        seen = torch.bincount(values, minlength=count).float()
        assert len(seen) == count
        assert ((seen / len(values) - 1 / count).abs() < 5 * (1 / count / len(values)) ** 0.5).all()
    # What stands in the other history is no better than chance.
    others = batch.rec if name in ("last query", "marked search") else batch.click[..., 0]
    chance = 1 / TOPICS
    for place in range(others.shape[1]):
        assert abs(always(others[:, [place]], batch) - chance) < 5 * (chance / len(items)) ** 0.5
    assert batch.rec.max() < ITEMS
