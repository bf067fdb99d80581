"""Losses the models share. All are means over targets or rows; logits come without a sigmoid."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seerec.models.layers import MASKED


def mean_over(loss_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the targets that are not padding; 0 where all are."""
    weight = mask_BT.to(loss_BT.dtype)
    return (loss_BT * weight).sum() / weight.sum().clamp(min=1)


def ranking_loss(logits_BTC: Tensor, positive_BT: Tensor, mask_BT: Tensor, kind: Literal["bce", "softmax"]) -> Tensor:
    """Mean loss over targets: binary cross-entropy over all C scores (LCR-SER eq. 11), or softmax cross-entropy."""
    if kind == "softmax":
        chosen = logits_BTC.log_softmax(-1).gather(2, positive_BT.unsqueeze(2)).squeeze(2)
        return mean_over(-chosen, mask_BT)
    label = torch.zeros_like(logits_BTC).scatter_(2, positive_BT.unsqueeze(2), 1.0)
    return mean_over(F.binary_cross_entropy_with_logits(logits_BTC, label, reduction="none").mean(-1), mask_BT)


def info_nce(similarity_MM: Tensor, allowed_MM: Tensor | None = None) -> Tensor:
    """InfoNCE over M pairs: row i's partner is column i; returns M losses. Axes before the last two are batches of their own.

    ``allowed`` (bool) says which other columns are negatives; None: all.
    """
    if allowed_MM is not None:
        own = torch.eye(similarity_MM.shape[-1], dtype=torch.bool, device=similarity_MM.device)
        similarity_MM = similarity_MM.masked_fill(~(allowed_MM | own), MASKED)
    return similarity_MM.logsumexp(-1) - similarity_MM.diagonal(dim1=-2, dim2=-1)


def evenly(rows: Tensor, most: int) -> Tensor:
    """At most ``most`` of the rows, equally far apart from the first to the last: a sample for a loss, without a draw."""
    count = min(most, len(rows))
    return rows[torch.arange(count, device=rows.device) * len(rows) // max(count, 1)]
