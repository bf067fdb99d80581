"""Both histories as one sequence, ordered by (time, recommendation before search, slot)."""

from typing import NamedTuple

import torch
from torch import Tensor

from seerec.batch import Batch
from seerec.models.layers import Reach, reach


class Merged(NamedTuple):
    """L = R + S slots, events first, padding last."""

    order: Tensor  # B L   source slot: 0 .. R - 1 clicks, R .. R + S - 1 searches
    place: Tensor  # B L   where each source slot went (the inverse of ``order``)
    present: Tensor  # B L   bool
    is_search: Tensor  # B L   bool
    reach: Reach

    def arrange(self, rec_BR: Tensor, search_BS: Tensor) -> Tensor:
        """Values per click (B R ...) and per search (B S ...) in merged order, B L ..."""
        both = torch.cat([rec_BR, search_BS], 1)
        index = self.order.view(*self.order.shape, *[1] * (both.dim() - 2)).expand_as(both)
        return both.gather(1, index)


def merge(batch: Batch) -> Merged:
    """The merged order. What a target may see is a prefix of it, since both counts stop at the same instant."""
    present = torch.cat([batch.rec != 0, batch.searched], 1)
    time = torch.cat([batch.rec_time, batch.search_time], 1)
    order = time.masked_fill(~present, torch.iinfo(time.dtype).max).argsort(dim=1, stable=True)
    place = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    ordered = present.gather(1, order)
    is_search = (order >= batch.rec.shape[1]) & ordered
    return Merged(order, place, ordered, is_search, reach(ordered, batch.rec_seen + batch.search_seen))
