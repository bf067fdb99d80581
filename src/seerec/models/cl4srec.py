"""CL4SRec: contrastive learning for sequential recommendation (Xie et al., ICDE 2022; SIGIR 2021 as a preprint).

SASRec with a second loss: two random views of the same history should be encoded alike, views of different histories
apart. A view comes from one of three operators on a history of n events (``views``):

    crop     keeps a random window of floor(crop n) events, at least one
    mask     replaces floor(mask n) random events by a learned vector, ``mask_token``
    reorder  shuffles a random window of floor(reorder n) events

With z_i the last state of each of the 2B views of B histories, partner(i) the other view of i's history:

    l_i = -log (exp(<z_i, z_partner(i)> / tau) / sum_{k != i} exp(<z_i, z_k> / tau))         2 (B - 1) negatives
    L = L_rank + lambda mean_i l_i                       lambda: ``contrastive_weight``, tau: ``temperature``

Objective ``group``: L_rank is the shared ranking loss. ``original``: it is SASRec's, by default with a softmax.

As in SASRec, who has seen nothing is the zero vector, so all candidates tie.

Choices of ours: a packed row gives one pair of views, of what its last target sees, so that the loss costs two encodings,
not two per target; the two operators of a pair differ (RecBole-DA); histories of under two events have no views.

Sources: the paper's body was not available and its authors published no program. Operators, rates and losses are those of
two public re-implementations (RecBole-DA, JamZheng), which agree on weight .1 and temperature 1.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from seerec.batch import Batch
from seerec.models.base import Kind, Vocabulary
from seerec.models.layers import reach
from seerec.models.losses import info_nce, mean_over
from seerec.models.sasrec import SASRec, SASRecConfig
from seerec.models.sequential import Sequence, SequenceState
from seerec.models.unpacking import last_target

CROP, MASK, REORDER = range(3)


class CL4SRecConfig(SASRecConfig):
    """Settings of CL4SRec: those of SASRec and of the views."""

    original_loss: Literal["bce", "gbce", "softmax"] = "softmax"
    """Of the objective ``original``: softmax in RecBole-DA, bce in JamZheng's."""
    crop: float = Field(0.6, gt=0, le=1)
    """Share of the events that a crop keeps (.6 in both re-implementations)."""
    mask: float = Field(0.3, ge=0, le=1)
    """Share of the events that are masked (.3 in RecBole-DA, .5 in JamZheng's)."""
    reorder: float = Field(0.6, ge=0, le=1)
    """Share of the events that are shuffled (.6 in RecBole-DA, .2 in JamZheng's)."""
    contrastive_weight: float = Field(0.1, ge=0)
    """Weight of the contrastive loss (.1 in both); 0 is SASRec."""
    temperature: float = Field(1.0, gt=0)
    """Divides the similarities: tau (1 in both)."""
    same_target_negatives: bool = True
    """False: two histories that lead to the same item are no negatives of one another (both keep them)."""


class CL4SRec(SASRec):
    """State: SASRec's."""

    key = "cl4srec"
    title = "CL4SRec"
    Config = CL4SRecConfig

    def __init__(self, config: CL4SRecConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__(config, vocabulary, rec_length, search_length)
        self.mask_token = nn.Parameter(torch.randn(config.width) * 0.02)

    def objective(self, batch: Batch, state: SequenceState, kind: Kind = "group") -> dict[str, Tensor]:
        """SASRec's terms and the contrastive loss."""
        terms = super().objective(batch, state, kind)
        if self.config.contrastive_weight > 0:
            terms["contrast"] = self.config.contrastive_weight * self.contrast(batch)
        return terms

    def contrast(self, batch: Batch) -> Tensor:
        """InfoNCE between two views of what each row's last target sees."""
        last = last_target(batch)
        sequence = self.sequence(last)
        length = sequence.reach.visible.sum(2).squeeze(1)
        has_views = ((length >= 2) & last.target_mask.squeeze(1)).repeat(2)
        first = torch.randint(3, length.shape, device=length.device)
        second = (first + torch.randint(1, 3, length.shape, device=length.device)) % 3  # another than the first
        z = torch.cat([self.view(sequence, length, operator) for operator in (first, second)])
        # Columns are permuted so that column i holds i's partner: info_nce wants partners on the diagonal.
        itself = torch.arange(len(z), device=z.device)
        partner = itself.roll(len(length))
        is_negative = (partner != itself.unsqueeze(1)) & has_views[partner]
        if not self.config.same_target_negatives:
            item = last.positive_item.squeeze(1).repeat(2)
            is_negative = is_negative & (item[partner] != item.unsqueeze(1))
        return mean_over(info_nce(z @ z[partner].T / self.config.temperature, is_negative), has_views)

    def view(self, sequence: Sequence, length: Tensor, operator: Tensor) -> Tensor:
        """Last state of one view of each row's first ``length`` events, B D."""
        tokens, present, _ = sequence
        shares = (self.config.crop, self.config.mask, self.config.reorder)
        order, kept, masked = views(length, operator, shares, present.shape[1])
        first = present.int().argmax(1, keepdim=True)  # slot of the oldest event; views begin at slot 0
        slot = (first + order) % present.shape[1]
        tokens = tokens.gather(1, slot.unsqueeze(2).expand_as(tokens))
        tokens = torch.where(masked.unsqueeze(2), self.mask_token, tokens) * kept.unsqueeze(2)
        view_reach = reach(kept, kept.sum(1, keepdim=True))
        return view_reach.gather(self.states(Sequence(tokens, kept, view_reach))).squeeze(1)


def views(length_B: Tensor, operator_B: Tensor, shares: tuple[float, float, float], slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which event stands in each slot of a view, which slots hold one, and which of these are masked; B L each.

    ``length`` events are numbered from the oldest; ``operator`` is CROP, MASK or REORDER, ``shares`` are the parts of the
    events on which each of the three acts.
    """
    slot = torch.arange(slots, device=length_B.device)
    length, operator = length_B.unsqueeze(1), operator_B.unsqueeze(1)
    keep_count, mask_count, shuffle_count = ((length.double() * share).floor().long() for share in shares)
    keep_count = keep_count.clamp(min=1)
    window = torch.where(operator == CROP, keep_count, shuffle_count)
    start = (torch.rand(length.shape, device=length.device) * (length - window + 1)).long()
    noise = torch.rand(len(length), slots, device=length.device)
    # A sort key that is random inside the window, and the slot outside, shuffles the window alone.
    inside = (slot >= start) & (slot < start + window) & (operator == REORDER)
    order = torch.where(inside, start + noise * window, slot.to(noise.dtype)).argsort(dim=1, stable=True)
    order = torch.where(operator == CROP, start + slot, order)
    kept = slot < torch.where(operator == CROP, keep_count.minimum(length), length)
    # The ``mask_count`` smallest of random numbers are a random choice.
    rank = noise.masked_fill(~kept, 2.0).argsort(dim=1).argsort(dim=1)
    return order, kept, (rank < mask_count) & kept & (operator == MASK)
