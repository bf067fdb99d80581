"""What a comparison was asked, and the cells that answer it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from seerec.atomic import write_json
from seerec.config import Settings, names, refusal
from seerec.errors import SeerecError
from seerec.models.base import CountingRecommender, ReasoningRecommender
from seerec.models.registry import MODELS, model_class
from seerec.training.presets import resolve

FORMAT = 1
FLOORS = ("last-click", "last-search-click")
"""Models that ``all`` leaves out: floors that are no row of the paper's table."""
STAGE_2 = 0.25
"""Share of a seed's training time that stage 2 takes, where a model has one."""
OWN = ("seed", "users", "max_minutes", "reinforce.max_minutes")
"""Settings that a comparison gives to its cells itself."""


class Question(Settings):
    """What was asked. Pinned in the folder: every cell there answers this and nothing else."""

    models: tuple[str, ...] = Field(min_length=1)
    """Registry keys, in the order of the table's rows."""
    seeds: int = Field(5, ge=1)
    """Seeds of a row: 0, 1, ..."""
    trials: int = Field(5, ge=0)
    """Settings tried for each model that learns; the first are the preset's own. 0: no search."""
    tune_users: int | None = Field(5000, ge=1)
    """Users of a trial, the same for every model; None: all."""
    tune_minutes: float = Field(3.0, gt=0)
    """Training time of a trial."""
    minutes: float = Field(20.0, gt=0)
    """Training time of a seed. Of a model with two stages the second takes a quarter of it."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Given to every model that has them; they are then not searched."""


@dataclass(frozen=True)
class Cell:
    """The unit of work: one training run, recorded when it is finished."""

    model: str
    kind: Literal["trial", "seed"]
    number: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.model}-{self.kind}-{self.number}"


def keys(models: str | Iterable[str]) -> tuple[str, ...]:
    """The registry keys meant by ``all``, by ``a,b`` or by a list of them.

    Raises
    ------
    SeerecError
        A key is unknown or named twice, or there is none.
    """
    if models == "all":
        return tuple(key for key in MODELS if key not in FLOORS)
    named = [key.strip() for key in models.split(",") if key.strip()] if isinstance(models, str) else list(models)
    for place, key in enumerate(named):
        model_class(key)
        if key in named[:place]:
            raise SeerecError(f"The model {key} is named twice.", "Name each model once.")
    if not named:
        raise SeerecError("No model is named.", f"Choose some of: {', '.join(MODELS)}; or all.")
    return tuple(named)


def ask(**asked: Any) -> Question:
    """A checked question; keywords are the fields of ``Question``, and ``models`` as for ``keys``.

    Raises
    ------
    SeerecError
        A value is out of range, or a setting is one that no model has or that the cells get from the comparison.
    """
    try:
        question = Question(**{**asked, "models": keys(asked["models"])})
    except ValidationError as error:
        raise refusal(error, "See `seerec compare --help`.", names(Question)) from error
    for name, value in question.settings.items():
        if name in OWN:
            raise SeerecError(f"A comparison sets {name} itself.", "Use --seeds, --tune-users, --tune-minutes or --minutes.")
        if not any(accepts(key, name, value) for key in question.models):
            resolve(question.models[0], "best", {name: value})  # says what is wrong with it
    return question


def accepts(key: str, name: str, value: Any) -> bool:
    """Whether a model has this setting and takes this value."""
    try:
        resolve(key, "best", {name: value})
    except SeerecError:
        return False
    return True


def learns(key: str) -> bool:
    """Whether a model is trained by gradient, so that it has settings to tune and stages with time limits."""
    return not issubclass(model_class(key), CountingRecommender)


def stages(key: str, settings: dict[str, Any]) -> int:
    """How many stages a seed of this model has."""
    reasons = issubclass(model_class(key), ReasoningRecommender)
    return 2 if reasons and resolve(key, "best", settings)[1].reinforce.epochs else 1


def limits(key: str, settings: dict[str, Any], minutes: float) -> dict[str, float]:
    """The settings that limit the training time of a seed of this model."""
    if stages(key, settings) == 1:
        return {"max_minutes": minutes}
    return {"max_minutes": (1 - STAGE_2) * minutes, "reinforce.max_minutes": STAGE_2 * minutes}


def cells(question: Question) -> list[Cell]:
    """Every cell, in the order of work: all trials, then one seed of every model after the other."""
    trials = [Cell(key, "trial", n) for key in question.models if learns(key) for n in range(question.trials)]
    return trials + [Cell(key, "seed", n) for n in range(question.seeds) for key in question.models]


def pin(out: Path, facts: dict[str, Any]) -> None:
    """Write ``plan.json``, or see that the one in the folder says the same.

    Raises
    ------
    SeerecError
        The folder holds something else, or the answer to another question.
    """
    check(out, facts)
    if not (out / "plan.json").is_file():
        write_json(out / "plan.json", facts)


def check(out: Path, facts: dict[str, Any]) -> None:
    """As ``pin``, without writing anything."""
    file, fix = out / "plan.json", "Ask the same again, or choose another --out."
    if not file.exists():
        if out.is_dir() and any(out.iterdir()) and not (out / "cells").is_dir():
            raise SeerecError(f"{out} exists and is not a comparison.", "Choose another --out.")
        return
    try:
        pinned = json.loads(file.read_text())
        before, now = pinned["question"], json.loads(json.dumps(facts["question"]))
        same = {name: (pinned.get(name), facts[name]) for name in ("kind", "format", "corpus_hash", "space")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeerecError(f"{file} is damaged ({type(error).__name__}).", "Remove it: it is written again.") from error
    for name, (old, new) in same.items():
        if old != json.loads(json.dumps(new)):
            raise SeerecError(f"The comparison in {out} has another {name.replace('_', ' ')}.", "Choose another --out.")
    for name, value in now.items():
        if before.get(name) != value:
            raise SeerecError(f"The comparison in {out} was asked with {name} {before.get(name)}, now with {value}.", fix)
