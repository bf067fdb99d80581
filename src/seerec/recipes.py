"""Experiments as data: a TOML file that says how a log is prepared and how models are compared on it.

``prepare`` reads ``source``, ``options`` and ``[data]``; ``compare`` reads ``[compare]`` and ``[train]``. What is given on the
command line goes before what a recipe says.
"""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from seerec.config import Settings, names, refusal
from seerec.errors import SeerecError


class Recipe(Settings):
    """One experiment."""

    title: str
    """What it is the experiment of."""
    source: str
    """The format of the raw log: a SOURCE of ``seerec prepare``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the source."""
    data: dict[str, Any] = Field(default_factory=dict)
    """Data settings: split, repeats, negatives, ..."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings given to every model that has them, by dotted name."""
    compare: dict[str, Any] = Field(default_factory=dict)
    """Keywords of ``seerec compare``: models, seeds, trials, minutes, ..."""


def read_recipe(file: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises
    ------
    SeerecError
        The file is missing, no TOML, or says something that no recipe says.
    """
    try:
        return Recipe(**tomllib.loads(file.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise SeerecError(f"Cannot read the recipe {file}: {error.strerror}.", "Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SeerecError(f"{file} is not a TOML file ({error}).", "See the files in `recipes/`.") from error
    except ValidationError as error:
        raise refusal(error, "A recipe has title, source, options, data, train and compare.", names(Recipe)) from error
