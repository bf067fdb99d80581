"""Whole settings by name: ``best`` (what validation chose, docs/results.md) and ``paper`` (the printed form).

A preset is (model settings, training settings) over the defaults. What the paper leaves open keeps the register's default.
"""

from typing import Any

from pydantic import ValidationError

from seerec.config import TrainSettings, names, refusal
from seerec.errors import SeerecError
from seerec.models.registry import model_class

Overrides = dict[str, Any]

PRESETS: dict[str, dict[str, tuple[Overrides, Overrides]]] = {
    "best": {
        "gru4rec": ({"dropout": 0.3}, {"objective": "original"}),
        "sasrec": ({"original_loss": "softmax"}, {"objective": "original"}),
        "bert4rec": ({}, {"objective": "original"}),
        "cl4srec": ({}, {"objective": "original"}),
        "nrhub": ({}, {"objective": "original"}),
        "lcr-ser": (
            {
                "scorer": "mlp+dot",
                "hidden": (64,),
                "distance": "cosine",
                "margin": 1.0,
                "detach": "both",
                "contrastive_weight": 0.1,
                "context": "encoded",
                "loss": "softmax",
            },
            {"learning_rate": 3e-3, "batch": {"rows": 64, "negatives": 16}},
        ),
    },
    "paper": {
        "lcr-ser": (
            {},
            {"optimizer": "dense", "unknown_user_share": 0.0, "batch": {"fresh_negatives": False}},
        ),
        "rearec-erl": ({"width": 256, "dropout": 0.5}, {"weight_decay": 0.0}),
        "rearec-prl": ({"width": 256, "dropout": 0.5}, {"weight_decay": 0.0}),
        "lares": (
            {"dropout": 0.5},
            {
                "reinforce": {
                    "rollouts": 4,
                    "kl_weight": 1.0,
                    "reward": "hr@10",
                    "scale": "sample",
                    "reference_noise": "fresh",
                    "dropout": True,
                }
            },
        ),
    },
}

_LISTS = "`seerec models {key}` lists the settings of the model, docs/settings.md those of training."


def resolve(key: str, preset: str, overrides: Overrides) -> tuple[Any, TrainSettings]:
    """Model and training settings of a preset with ``overrides`` on top.

    Overrides are by dotted name: ``model.steps``, ``learning_rate``, ``batch.rows``, ``reinforce.noise_std``.

    Raises
    ------
    SeerecError
        An unknown preset or name, or a value out of range.
    """
    if preset not in PRESETS:
        raise SeerecError(f"There is no preset {preset!r}.", f"Choose one of: {', '.join(PRESETS)}.")
    kind = model_class(key)
    model, training = PRESETS[preset].get(key, ({}, {}))
    tree: Overrides = {"model": dict(model)}
    for name, value in training.items():
        tree[name] = dict(value) if isinstance(value, dict) else value
    for name, value in overrides.items():
        *path, last = name.split(".")
        place: Any = tree
        for part in path:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or isinstance(place.get(last), dict):
            raise SeerecError(f"There is no single setting {name!r}.", _LISTS.format(key=key))
        place[last] = value
    chosen = tree.pop("model")
    try:
        return kind.Config(**chosen), TrainSettings(**tree)
    except ValidationError as error:
        known = [*names(kind.Config, "model."), *names(TrainSettings)]
        prefix = "model." if error.title == kind.Config.__name__ else ""
        raise refusal(error, _LISTS.format(key=key), known, prefix) from error
