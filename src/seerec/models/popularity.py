"""Floors: what a recommender must beat before its reasoning means anything. All three count, none has gradients."""

from abc import abstractmethod

import torch
from torch import Tensor

from seerec.batch import Batch
from seerec.config import Settings
from seerec.models.base import CountingRecommender, Vocabulary, no_weights


class CountConfig(Settings):
    """The floors have no settings."""


class Popularity(CountingRecommender[Tensor]):
    """Score = training clicks of the item, the same for everybody."""

    key = "popularity"
    title = "Popularity"
    reads = frozenset()
    Config = CountConfig
    packs = True

    def __init__(self, config: CountConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:  # noqa: ARG002
        super().__init__()
        self.config = config
        self.register_buffer("count", vocabulary.item_count.clone())
        self.count: Tensor

    def observe(self, batch: Batch) -> None:
        """The corpus has already counted."""

    def encode(self, batch: Batch) -> Tensor:
        """Nothing of the histories: zeros, B T 1."""
        return torch.zeros(*batch.rec_seen.shape, 1, device=self.count.device)

    def items(self, ids: Tensor) -> Tensor:
        """The item's count in place of a vector: (shape of ids, 1)."""
        return self.count[ids].double().unsqueeze(-1)

    def score(self, state: Tensor, items_BTCD: Tensor) -> Tensor:
        """B T C."""
        return items_BTCD.squeeze(3).expand(*state.shape[:2], -1)


class Transitions(CountingRecommender[Tensor]):
    """Score = how often the candidate was clicked next after the anchor item, ties by popularity (under one count)."""

    Config = CountConfig
    packs = True

    def __init__(self, config: CountConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:  # noqa: ARG002
        super().__init__()
        self.config = config
        self.items_total = vocabulary.items
        popularity = vocabulary.item_count.double()
        self.register_buffer("backoff", popularity / (popularity.max() + 1))
        self.register_buffer("pair", no_weights())
        self.register_buffer("count", no_weights())
        self.backoff: Tensor
        self.pair: Tensor
        self.count: Tensor
        self._seen: list[Tensor] = []

    @abstractmethod
    def anchor(self, batch: Batch) -> Tensor:
        """The item that predicts the next, B T; 0 where there is none."""

    def observe(self, batch: Batch) -> None:
        """Count (anchor, positive) pairs."""
        anchor, positive = self.anchor(batch), batch.positive_item
        valid = (anchor != 0) & (positive != 0)
        self._seen.append(anchor[valid] * self.items_total + positive[valid])

    def finish(self) -> None:
        """Sort the distinct pairs, so that a look-up is a binary search."""
        self.pair, self.count = torch.unique(torch.cat([no_weights(), *self._seen]), return_counts=True)
        self._seen = []

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over saved counts, whose number only training knows."""
        self.pair, self.count = tensors["pair"], tensors["count"]
        super().restore(tensors)

    def encode(self, batch: Batch) -> Tensor:
        """B T: the anchors."""
        return self.anchor(batch)

    def items(self, ids: Tensor) -> Tensor:
        """The ids themselves and their popularity: (shape of ids, 2)."""
        return torch.stack([ids.double(), self.backoff[ids]], -1)

    def score(self, state: Tensor, items_BTCD: Tensor) -> Tensor:
        """B T C."""
        wanted = state.unsqueeze(2) * self.items_total + items_BTCD[..., 0].long()
        if not len(self.pair):
            return items_BTCD[..., 1].expand_as(wanted)
        place = torch.searchsorted(self.pair, wanted).clamp(max=len(self.pair) - 1)
        found = (self.pair[place] == wanted) & (state.unsqueeze(2) != 0)
        return self.count[place] * found + items_BTCD[..., 1]


class LastClick(Transitions):
    """Anchor: the last visible recommendation click."""

    key = "last-click"
    title = "Last click"
    reads = frozenset({"rec"})

    def anchor(self, batch: Batch) -> Tensor:
        """B T."""
        return _last_item(batch.rec, batch.rec != 0, batch.rec_seen)


class LastSearchClick(Transitions):
    """Anchor: the last clicked item of the latest visible search that has a click."""

    key = "last-search-click"
    title = "Last search click"
    reads = frozenset({"click"})

    def anchor(self, batch: Batch) -> Tensor:
        """B T."""
        clicked = batch.click != 0  # B S N
        order = torch.arange(1, clicked.shape[2] + 1, device=clicked.device)
        best = (clicked * order).argmax(2, keepdim=True) if clicked.shape[2] else clicked.long().sum(2, keepdim=True)
        item = batch.click.gather(2, best).squeeze(2)  # B S, 0 where the search has no click
        return _last_item(item, batch.searched, batch.search_seen)


def _last_item(item_BL: Tensor, present_BL: Tensor, seen_BT: Tensor) -> Tensor:
    """The latest non-zero item among the first ``seen`` events, B T."""
    length = item_BL.shape[1]
    first = present_BL.int().argmax(1, keepdim=True)
    slot = torch.arange(length, device=item_BL.device)
    latest = torch.where(item_BL != 0, slot + 1, 0).cummax(1).values  # 1 + slot of the latest item up to here
    end = (first + seen_BT - 1).clamp(min=0)
    place = latest.gather(1, end) * (seen_BT > 0)
    item = item_BL.gather(1, (place - 1).clamp(min=0))
    return item * (place > first)
