"""The same small search of settings for every model, on validation alone.

One sequence of values for all: trial 0 is the preset's own setting; trial k > 0 sets a learning rate and changes three
other settings. All settings in turn are changed once before any is changed twice, in a shuffled order, and the values are
the k-th that Optuna's seeded random sampler proposes. A point drawn in all settings at once is far from every good one, and
five of those teach little. The sampler does not look at results: one that does would give every model another sequence;
this one gives all models equal care, lets any process run any trial, and proposes the same after a restart. What a model has
not, or does not take, is left out for it by name and keeps the preset's value.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, distribution_to_json

from seerec.evidence.question import Question, accepts, learns

SEED = 0
"""Of the sampler and of the order in which settings are changed."""
CHANGES = 3
"""Settings that a trial changes besides the learning rate."""
SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(5e-4, 1e-2, log=True),
    "batch.rows": CategoricalDistribution((32, 64, 256)),
    "batch.negatives": CategoricalDistribution((16,)),
    "weight_decay": CategoricalDistribution((0.0, 1e-4)),
    "schedule": CategoricalDistribution(("constant",)),
    "objective": CategoricalDistribution(("group", "original")),
    "model.embedding_std": CategoricalDistribution((0.05, 0.1)),
    "model.feature_std": CategoricalDistribution((0.02, 0.3)),
    "model.dropout": CategoricalDistribution((0.0, 0.3)),
    "model.features": CategoricalDistribution((False,)),
    "model.loss": CategoricalDistribution(("softmax",)),
    "model.scorer": CategoricalDistribution(("dot", "mlp")),
    "model.history": CategoricalDistribution(("merged",)),
}
"""Every shared option, open to every model: the values that most presets do not have, since trial 0 is the preset."""


def space() -> dict[str, Any]:
    """The space as plain values, for the record."""
    return {name: distribution_to_json(distribution) for name, distribution in SPACE.items()}


def proposals(trials: int) -> list[dict[str, Any]]:
    """The values of each trial by setting, the same for every model; those of trial 0 are empty."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED))
    rate, *others = SPACE
    turns = cycle(np.random.default_rng(SEED).permutation(others).tolist())
    points: list[dict[str, Any]] = [{}]
    for _ in range(trials - 1):
        drawn, changed = study.ask(SPACE).params, {rate, *islice(turns, CHANGES)}
        points.append({name: drawn[name] for name in SPACE if name in changed})
    return points[:trials]


def settings_of(key: str, proposal: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """What of a proposal a model gets: what it takes and what is not ``fixed``."""
    return {name: value for name, value in proposal.items() if name not in fixed and accepts(key, name, value)}


def left_out(question: Question) -> dict[str, list[str]]:
    """For every model that learns: what the proposals hold that it has not, as ``name`` or, for one value, ``name=value``."""
    points = proposals(question.trials)
    offered = {name: list(dict.fromkeys(point[name] for point in points if name in point)) for name in SPACE}
    found: dict[str, list[str]] = {}
    for key in filter(learns, question.models):
        found[key] = []
        for name, values in offered.items():
            refused = [value for value in values if not accepts(key, name, value)]
            if values and len(refused) == len(values):
                found[key].append(name)
            else:
                found[key] += [f"{name}={value}" for value in refused]
        found[key] += [name for name, value in question.settings.items() if not accepts(key, name, value)]
    return found


def study(records: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> optuna.Study:
    """The study that the recorded trials of one model make. A trial that failed has no value."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(direction="maximize")
    for record in records:
        point = dict(points[record["number"]])
        made.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL if record["failed"] else optuna.trial.TrialState.COMPLETE,
                params=point,
                distributions={name: SPACE[name] for name in point},
                value=None if record["failed"] else record["value"],
                user_attrs={"number": record["number"], "settings": record["asked"]},
            )
        )
    return made


def choose(records: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> int:
    """The number of the best trial on validation, the earliest of equals; 0 where every one failed."""
    done = [trial for trial in study(records, points).trials if trial.value is not None]
    best = max(done, key=lambda trial: (trial.value, -trial.user_attrs["number"]), default=None)
    return 0 if best is None else int(best.user_attrs["number"])
