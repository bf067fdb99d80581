"""What models there are, and the settings of each: name, type, default, presets and meaning."""

import json
from typing import Any, Literal, get_args, get_origin

from seerec.models.registry import describe, model_class
from seerec.training.presets import PRESETS


def models() -> list[dict[str, Any]]:
    """One record per model: key, title, what it reads, whether it packs, what trains it."""
    return describe()


def model(key: str) -> dict[str, Any]:
    """A model's record with its ``settings`` (named as ``--set`` takes them) and what its presets change in training.

    Raises
    ------
    SeerecError
        There is no such model.
    """
    fields = model_class(key).Config.model_fields
    changed = {preset: values.get(key, ({}, {})) for preset, values in PRESETS.items()}
    settings = []
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        settings.append(
            {
                "name": f"model.{name}",
                "type": _type(field.annotation),
                "default": default,
                "presets": {preset: own.get(name, default) for preset, (own, _) in changed.items()},
                "meaning": field.description or "",
            }
        )
    (record,) = [record for record in describe() if record["key"] == key]
    training = {preset: _dotted(values) for preset, (_, values) in changed.items()}
    return {**record, "settings": settings, "training_presets": training}


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(json.dumps(value) for value in get_args(annotation))
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation)


def _dotted(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _dotted(value) if isinstance(value, dict) else None
        flat |= {name: value} if inner is None else {f"{name}.{key}": below for key, below in inner.items()}
    return flat
