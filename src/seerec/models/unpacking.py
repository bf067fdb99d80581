"""Packed rows as rows of one target: all targets, or each row's last."""

from dataclasses import fields

import torch
from torch import Tensor

from seerec.batch import Batch

_OF_TARGETS = ("rec_seen", "search_seen", "candidates", "positive", "target_time", "target_query")


def unpack(batch: Batch) -> Batch:
    """B rows of T targets -> B T rows of one target each; nothing is copied where T is 1 already."""
    targets = batch.rec_seen.shape[1]
    if targets == 1:
        return batch
    unpacked = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        of_target = field.name in _OF_TARGETS
        unpacked[field.name] = value.flatten(0, 1).unsqueeze(1) if of_target else value.repeat_interleave(targets, 0)
    return batch.with_(**unpacked)


def unpack_items(items_BTCD: Tensor, rows: int, targets: int) -> Tensor:
    """Item vectors for the unpacked rows, B = ``rows`` and T = ``targets``: (B T) 1 C D, or 1 1 C D for one catalogue."""
    if items_BTCD.shape[:2] == (1, 1):
        return items_BTCD
    return items_BTCD.expand(rows, targets, -1, -1).flatten(0, 1).unsqueeze(1)


def last_target(batch: Batch) -> Batch:
    """The same rows with their last target alone (the first of a row without any)."""
    row = torch.arange(len(batch.user), device=batch.user.device)
    # Numbered from 1, so that the largest number among the targets is the last, and padding counts as 0.
    last = (batch.target_mask * torch.arange(1, batch.rec_seen.shape[1] + 1, device=row.device)).argmax(1)
    return batch.with_(**{name: getattr(batch, name)[row, last].unsqueeze(1) for name in _OF_TARGETS})
