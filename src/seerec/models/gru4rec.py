"""GRU4Rec: session-based recommendation with recurrent networks (Hidasi, Karatzoglou, Baltrunas & Tikk, ICLR 2016).

A GRU reads the clicked items; its state after the last event that a target sees scores the candidates. With x_t the vector of
event t, s the sigmoid, * element by element, r and z the gates, h_0 = 0:

    r_t = s(W_r x_t + U_r h_{t-1})                        z_t = s(W_z x_t + U_z h_{t-1})
    n_t = tanh(W_n x_t + r_t * (U_n h_{t-1}))             h_t = (1 - z_t) * n_t + z_t * h_{t-1}        ``gru``
    u = W_o h_t + b_o,  score of candidate v = <u, e_v>                                                ``out``

Who has seen nothing is scored by u = b_o, a vector for newcomers.

Objective ``group``: the shared ranking loss. ``original`` (Hidasi & Karatzoglou, CIKM 2018): the score y of every target against
the scores y_j of the batch's other targets and of negatives that the batch shares (``sample``), by default

    -log (exp(y) / (exp(y) + sum_j exp(y_j) / n_j)),  n_j how often item j is expected among them,

which estimates the cross-entropy over all items (``softmax = full``); or bpr-max or top1-max (``ranking_max``).

Differences (the authors' program, hidasib/GRU4Rec, in brackets):

- The form is RecBole's: no biases in the GRU, an output layer so that h may be wider than an item vector, no item bias.
- r_t acts after U_n, as in torch [before]. The score is linear [a choice of activations].
- The cross-entropy divides each exp(y_j) by n_j [an option, ``logq``, off by default, which corrects the positive too].
- The batch's negatives are uniform [drawn by popularity ** alpha].
- Rows are windows of one user [sessions run in parallel, and their state carries over to the next batch].
- Adam [Adagrad].
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.kernels import dropout
from seerec.models.base import Kind, Vocabulary, shared_negatives
from seerec.models.layers import MASKED, initialise
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
        tokens, present, reach = self.sequence(batch)
        # A GRU would go through padding on the left: events move to the first slots.
        first = present.int().argmax(1, keepdim=True)
        slot = (first + torch.arange(present.shape[1], device=first.device)) % present.shape[1]
        tokens = tokens.gather(1, slot.unsqueeze(2).expand_as(tokens))
        states, _ = self.gru(dropout(tokens, self.config.dropout, self.training))
        moved = reach._replace(last=(reach.last - first).clamp(min=0))
        return SequenceState(self.out(moved.gather(states)), self.user(batch))

    def objective(self, batch: Batch, state: SequenceState, kind: Kind = "group") -> dict[str, Tensor]:
        """``original``: one of the authors' losses over the other targets of the batch and its shared negatives."""
        if kind == "group":
            return super().objective(batch, state, kind)
        if self.config.original_loss == "cross-entropy" and self.config.softmax == "full":
            return {"rank": self.catalogue_loss(batch, state)}
        ids, log_expected = self.sample(batch)
        positive = batch.positive_item.unsqueeze(2)
        positive_logit = self.score(state, self.items(positive))
        sampled_logits = self.score(state, self.items(ids)[None, None])
        is_negative = ids != positive
        if self.config.original_loss == "cross-entropy":
            logits = torch.cat([positive_logit, (sampled_logits - log_expected).masked_fill(~is_negative, MASKED)], 2)
            return {"rank": mean_over(logits.logsumexp(2) - positive_logit.squeeze(2), batch.target_mask)}
        loss = ranking_max(positive_logit, sampled_logits, is_negative, self.config.original_loss, self.config.score_weight)
        return {"rank": mean_over(loss, batch.target_mask & is_negative.any(2))}

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's targets and its shared negatives, at most ``samples`` of each; log n, how often each is expected.

        Of P items, one of popularity p is expected p times in each target and 1 / P times in each negative, as long as
        training draws its negatives uniformly. Dividing exp(score) by the sum over both kinds of samples makes them together
        one unbiased estimate of the sum over the catalogue.
        """
        targets = evenly(batch.positive_item[batch.target_mask], self.samples)
        negatives = shared_negatives(batch, self.samples)
        ids = torch.cat([targets, negatives])
        expected = len(targets) * self.popularity[ids] + len(negatives) / (len(self.popularity) - 2)
        return ids, expected.log()


def ranking_max(positive_BT1: Tensor, sampled_BTM: Tensor, is_negative_BTM: Tensor, kind: str, score_weight: float) -> Tensor:
    """BPR-max or TOP1-max per target, B T; y is the positive's score, y_j those of the M samples, p their softmax over negatives.

    bpr-max:  -log sum_j p_j s(y - y_j) + weight * sum_j p_j y_j^2
    top1-max: sum_j p_j (s(y_j - y) + s(y_j^2))
    """
    log_p = sampled_BTM.masked_fill(~is_negative_BTM, MASKED).log_softmax(2)
    p = log_p.exp()
    if kind == "top1-max":
        return (p * ((sampled_BTM - positive_BT1).sigmoid() + sampled_BTM.square().sigmoid())).sum(2)
    return score_weight * (p * sampled_BTM.square()).sum(2) - (log_p + F.logsigmoid(positive_BT1 - sampled_BTM)).logsumexp(2)
