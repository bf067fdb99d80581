"""GRU4Rec: session-based recommendation with recurrent networks (Hidasi, Karatzoglou, Baltrunas & Tikk, ICLR 2016).

A GRU reads the clicked items; its state h after the last visible event scores candidate v as <u, e_v>, u = W h + b, with
the item vectors of the input. ``z`` and ``r`` gates, x_t an event, h_0 = 0:

    r_t = s(W_r x_t + U_r h)    z_t = s(W_z x_t + U_z h)    n_t = tanh(W_n x_t + r_t * (U_n h))    h_t = (1 - z_t) n_t + z_t h

Who has seen nothing is scored by u = W 0 + b, a vector for newcomers.

Objective ``group``: the shared ranking loss. ``original`` (Hidasi & Karatzoglou, CIKM 2018): every target against the other
targets of the batch and negatives shared by the batch, in one of three losses; ``softmax = full`` is the cross-entropy over
all items instead.

Differs from the authors' program: the form is that of RecBole (no biases in the GRU, an output layer so that h may be
wider than an item vector, no item bias, a linear score). torch applies r after U_n, the authors before. Rows are windows of
one user, so sessions do not run in parallel and no state is carried from one batch to the next; the batch's negatives are
uniform, where the authors draw by popularity ** alpha; Adam, not Adagrad.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.models.base import Kind, Vocabulary, shared_negatives
from seerec.models.layers import MASKED, dropout, initialise
from seerec.models.losses import evenly, mean_over
from seerec.models.sequential import SequenceState, SequentialConfig, SequentialRecommender


class GRU4RecConfig(SequentialConfig):
    """Settings of GRU4Rec. ``dropout`` acts on the input vectors (RecBole: .3)."""

    state_width: int = Field(128, ge=1, le=65_536)
    """Width of h (128 in RecBole; the output layer makes D of it)."""
    layers: int = Field(1, ge=1, le=100)
    """One, as in the paper's best runs."""
    original_loss: Literal["cross-entropy", "bpr-max", "top1-max"] = "cross-entropy"
    """Of the objective ``original``: the three losses of the authors' program that weigh negatives by their score."""
    score_weight: float = Field(1.0, ge=0)
    """Of bpr-max: weight of the negatives' squared scores (1 in the authors' program)."""


class GRU4Rec(SequentialRecommender[SequenceState]):
    """State: u after the last event each target may see."""

    key = "gru4rec"
    title = "GRU4Rec"
    Config = GRU4RecConfig
    packs = True

    def __init__(self, config: GRU4RecConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__(config, vocabulary, rec_length, search_length)
        self.gru = nn.GRU(config.width, config.state_width, config.layers, bias=False, batch_first=True)
        self.out = nn.Linear(config.state_width, config.width)
        share = vocabulary.item_count / vocabulary.item_count.sum().clamp(min=1)
        self.register_buffer("popularity", share, persistent=False)
        self.popularity: Tensor
        initialise(self)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def encode(self, batch: Batch) -> SequenceState:
        """Run once over the events; gather each target's state."""
        tokens, present, seen = self.sequence(batch)
        # A GRU would go through padding on the left: events move to the first slots.
        first = present.int().argmax(1, keepdim=True)
        slot = (first + torch.arange(present.shape[1], device=first.device)) % present.shape[1]
        tokens = tokens.gather(1, slot.unsqueeze(2).expand_as(tokens))
        states, _ = self.gru(dropout(tokens, self.config.dropout, self.training))
        last = seen._replace(last=(seen.last - first).clamp(min=0))
        return SequenceState(self.out(last.gather(states)), self.user(batch))

    def objective(self, batch: Batch, state: SequenceState, kind: Kind = "group") -> dict[str, Tensor]:
        """``original``: one of the authors' losses over the other targets of the batch and its shared negatives."""
        if kind == "group":
            return super().objective(batch, state, kind)
        if self.config.original_loss == "cross-entropy" and self.config.softmax == "full":
            return {"rank": self.catalogue_loss(batch, state)}
        ids, log_expected = self.sample(batch)
        positive = batch.positive_item.unsqueeze(2)
        own, others = self.score(state, self.items(positive)), self.score(state, self.items(ids)[None, None])
        kept = ids != positive
        if self.config.original_loss == "cross-entropy":
            every = torch.cat([own, (others - log_expected).masked_fill(~kept, MASKED)], 2)
            return {"rank": mean_over(every.logsumexp(2) - own.squeeze(2), batch.target_mask)}
        loss = ranking_max(own, others, kept, self.config.original_loss, self.config.score_weight)
        return {"rank": mean_over(loss, batch.target_mask & kept.any(2))}

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's targets and its shared negatives, at most ``samples`` of each; how often each is expected, as log.

        An item of popularity p is expected p times among every target and 1 / P times among every uniform negative; dividing
        exp(score) by the sum makes both kinds of samples together one unbiased estimate of the sum over the catalogue.
        """
        targets = evenly(batch.positive_item[batch.target_mask], self.samples)
        negatives = shared_negatives(batch, self.samples)
        ids = torch.cat([targets, negatives])
        expected = len(targets) * self.popularity[ids] + len(negatives) / (len(self.popularity) - 2)
        return ids, expected.log()


def ranking_max(own_BT1: Tensor, others_BTM: Tensor, kept_BTM: Tensor, kind: str, score_weight: float) -> Tensor:
    """BPR-max or TOP1-max per target, B T, with s = softmax over the M negatives that are kept.

    bpr-max: -log sum_j s_j sigmoid(z - z_j) + weight * sum_j s_j z_j^2.  top1-max: sum_j s_j (sigmoid(z_j - z) + sigmoid(z_j^2)).
    """
    log_s = others_BTM.masked_fill(~kept_BTM, MASKED).log_softmax(2)
    s = log_s.exp()
    if kind == "top1-max":
        return (s * ((others_BTM - own_BT1).sigmoid() + others_BTM.square().sigmoid())).sum(2)
    return score_weight * (s * others_BTM.square()).sum(2) - (log_s + F.logsigmoid(own_BT1 - others_BTM)).logsumexp(2)
