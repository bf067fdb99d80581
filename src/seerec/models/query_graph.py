"""Which items were clicked for which query in training batches: the graph from which Query-SeqRec draws substitutes."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from seerec.batch import Batch


class Edges(NamedTuple):
    """Distinct keys, sorted, and what each is joined to: ``found[start[i]:start[i + 1]]`` for ``key[i]``."""

    key: Tensor  # K
    start: Tensor  # K + 1
    found: Tensor  # E

    def draw(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """One of its neighbours for each key (any shape), uniformly, and whether it has any."""
        if not len(self.key):
            return torch.zeros_like(key), torch.zeros_like(key, dtype=torch.bool)
        at = torch.searchsorted(self.key, key.contiguous()).clamp(max=len(self.key) - 1)
        count = self.start[at + 1] - self.start[at]
        chosen = self.start[at] + (torch.rand(key.shape, device=key.device) * count).long().clamp(max=count - 1)
        return self.found[chosen], self.key[at] == key


class QueryGraph:
    """Pairs (query, clicked item), each counted once; a query is the bag of its words. Only needed while training."""

    def __init__(self) -> None:
        self._words: list[Tensor] = []  # n W each
        self._pairs: list[Tensor] = []  # n 2 each: bag of the query, item
        self.words = torch.zeros(0, 1, dtype=torch.int64)  # Q W    the distinct queries
        self.items_of = self.queries_of = Edges(*torch.zeros(3, 0, dtype=torch.int64))
        self._open = True

    def observe(self, query_BSW: Tensor, click_BSN: Tensor) -> None:
        """Add the pairs of a batch."""
        key = bag(query_BSW).unsqueeze(2).expand_as(click_BSN)
        known = (click_BSN > 1) & (query_BSW != 0).any(2, keepdim=True)
        at = known.nonzero()
        pairs = torch.stack([key[known], click_BSN[known]], 1)
        kept = _distinct(_mix(pairs[:, 0] + _mix(pairs[:, 1])))
        self._pairs.append(pairs[kept])
        self._words.append(query_BSW[at[kept, 0], at[kept, 1]])
        self._open = True

    def index(self, device: torch.device) -> None:
        """Make the look-ups, if pairs came since the last time."""
        if not self._open:
            return
        self._open = False
        width = max((words.shape[1] for words in self._words), default=1)
        words = torch.cat([torch.zeros(0, width, dtype=torch.int64, device=device),
                           *(torch.nn.functional.pad(w.to(device), (0, width - w.shape[1])) for w in self._words)])  # fmt: skip
        pairs = torch.cat([torch.zeros(0, 2, dtype=torch.int64, device=device), *(p.to(device) for p in self._pairs)])
        kept = _distinct(_mix(pairs[:, 0] + _mix(pairs[:, 1])))
        words, (query, item) = words[kept], pairs[kept].unbind(1)
        self._words, self._pairs = [words], [pairs[kept]]
        first = _distinct(query)
        self.words = words[first]
        number = torch.searchsorted(query[first].contiguous(), query.contiguous())
        self.items_of, self.queries_of = _edges(query, item), _edges(item, number)


@dataclass(frozen=True)
class Augmented(Batch):
    """A batch whose inputs were replaced at random."""

    intact: Tensor  # B S N   bool, true where a click is still the one that happened


def bag(words: Tensor) -> Tensor:
    """Words (... W) -> a number (...) that is the same for the same words in any order."""
    return (_mix(words) * (words != 0)).sum(-1)


def _mix(x: Tensor) -> Tensor:
    """Spread int64 numbers over all 64 bits."""
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return x ^ (x >> 31)


def _distinct(key: Tensor) -> Tensor:
    """Where each distinct value first stands, in the order of the values."""
    ordered, order = key.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]


def _edges(key: Tensor, found: Tensor) -> Edges:
    order = key.argsort(stable=True)
    distinct, count = torch.unique_consecutive(key[order], return_counts=True)
    return Edges(distinct, torch.nn.functional.pad(count.cumsum(0), (1, 0)), found[order])
