"""Two stages: the items nearest to a model's ``retrieval`` vectors, by exact inner products, and the model's ranking of them."""

from typing import Any

import numpy as np
import torch
from generated_catalogue import GeneratedPeople, Ints
from torch import Tensor

from seerec.artifact import Artifact
from seerec.errors import SeerecError
from seerec.incoming import People
from seerec.models.base import NeuralRecommender

DEPTHS = (5, 10, 50)
"""Of the exact best items that the two stages should find."""
POOLINGS = {"max": lambda scores: scores.amax(1), "sum": lambda scores: scores.sum(1)}
"""How the inner products of a user's J vectors with an item become one number, B J c -> B c."""
_CHUNK = 65_536


class TwoStages:
    """Retrieval by inner product, then the model."""

    def __init__(self, loaded: Artifact, people: People | GeneratedPeople) -> None:
        assert isinstance(loaded.model, NeuralRecommender)
        self.model: NeuralRecommender[Any] = loaded.model
        self.people, self.rows = people, len(loaded.pool)
        with torch.no_grad():
            self.pool = torch.from_numpy(np.flatnonzero(loaded.pool))
            self.vectors = torch.cat([self.model.items(ids) for ids in self.pool.split(_CHUNK)])

    @torch.no_grad()
    def best(self, row: Ints, retrieved: int, k: int, pooling: str) -> Tensor:
        """The k best items of these rows, B k, without what they had before."""
        state = self.model.encode(self.people.batch(row))
        queries = self.model.retrieval(state)
        if queries is None:
            raise SeerecError(f"{self.model.title} has no retrieval vectors.", "Train it with a dot product: scorer=mlp+dot.")
        flat = queries[:, 0].flatten(0, 1)
        near = torch.cat(
            [POOLINGS[pooling]((flat @ part.T).unflatten(0, (len(row), -1))) for part in self.vectors.split(_CHUNK)], 1
        )
        place, item = (torch.from_numpy(x) for x in self.people.seen(row))
        at = torch.searchsorted(self.pool, item).clamp(max=len(self.pool) - 1)
        there = self.pool[at] == item
        near[place[there], at[there]] = float("-inf")
        found = near.topk(retrieved, 1, sorted=False).indices
        scores = self.model.score(state, self.vectors[found].unsqueeze(1)).squeeze(1)
        scores = scores.masked_fill(near.gather(1, found).isinf(), float("-inf"))
        return self.pool[found.gather(1, scores.topk(min(k, retrieved), 1).indices)]


def recall(exact: Ints, found: Ints) -> dict[int, float]:
    """Mean share of the exact best k among the best k found, users x depth each, best first."""
    shares = {}
    for k in DEPTHS:
        among = (exact[:, :k, None] == found[:, None, :k]).any(2)
        shares[k] = float(among.mean())
    return shares
