"""A catalogue of any size with generated users, in the shapes in which the library evaluates and recommends."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from steps import R, load, vocabulary

from seerec.artifact import Artifact
from seerec.batch import Batch
from seerec.data.corpus import FIRST_ID
from seerec.models.base import NeuralRecommender
from seerec.models.registry import build
from seerec.training.presets import resolve

Ints = NDArray[np.int64]


class GeneratedPeople:
    """Users with full histories, one target each; stands where the library has ``People``."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, row: Ints) -> Batch:
        """These users."""
        at = torch.from_numpy(row)
        return Batch(**{name: value[at] for name, value in vars(self._batch).items()})

    def seen(self, row: Ints) -> tuple[Ints, Ints]:
        """(place in ``row``, item) of all that they clicked, in either log."""
        batch = self.batch(row)
        items = torch.cat([batch.rec, batch.click.flatten(1)], 1).numpy()
        place, column = np.nonzero(items)
        return place, items[place, column]


@dataclass(frozen=True)
class GeneratedTargets:
    """One target of each of some users, in one batch; stands where the library's evaluation has ``EvaluationBatches``."""

    people: GeneratedPeople
    target: Ints
    """The users."""
    task: str = "recommendation"

    @property
    def targets(self) -> "GeneratedTargets":
        """Where the task is."""
        return self

    def __iter__(self) -> Iterator[tuple[Ints, Batch]]:
        yield np.arange(len(self.target)), self.people.batch(self.target)

    def seen_items(self, index: Ints) -> tuple[Ints, Ints]:
        """See ``GeneratedPeople.seen``."""
        return self.people.seen(self.target[index])


class GeneratedCorpus:
    """What the evaluation over the whole catalogue asks of a corpus: every item may be recommended, none twice."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.item_pool = np.arange(items) >= FIRST_ID
        self.manifest = {"settings": {"repeats": "drop"}}


def untrained(key: str, items: int, words: int, users: int, seed: int) -> tuple[Artifact, GeneratedPeople]:
    """A model with random weights over so many items, and users to rank them for."""
    sizes = vocabulary(items, words, users + FIRST_ID)
    config, settings = resolve(key, "best", {})
    torch.manual_seed(seed)
    model = build(key, config, sizes, R, R)
    assert isinstance(model, NeuralRecommender)
    manifest: dict[str, Any] = {"batch": settings.batch.model_dump()}
    none = pa.table({})
    artifact = Artifact(model.eval(), manifest, none, none, none, sizes, np.arange(items) >= FIRST_ID)
    return artifact, GeneratedPeople(load(seed + 1, users, 1, 1, sizes))
