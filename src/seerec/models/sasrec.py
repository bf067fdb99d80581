"""SASRec: self-attentive sequential recommendation (Kang & McAuley, ICDM 2018).

Causal self-attention over the clicked items. With e the items' vectors, P the learned positions, counted from the oldest
click, and t the last event that a target sees:

    X = e + P                                                            with ``scale``: sqrt(D) e + P
    Q = LN(X),  A = Q + attention(Q, X, X; causal),  Z = LN(A),
    X' = Z + W2 relu(W1 Z + b1) + b2                                     each block; the next starts from X'
    F = LN(X') after the last block,  score of candidate v = <F_t, e_v>

The block printed is ``norm = query_only``, the authors' (``QueryNormBlock``); ``pre`` and ``post``, the default, are the usual
two (``attention.EncoderLayer``), and ``post`` has no last LN. Who has seen nothing is the zero vector, so all candidates tie.

Objective ``group``: the shared ranking loss. ``original``: per position, with one uniform negative,

    -log s(<F_t, e_positive>) - log(1 - s(<F_t, e_negative>)),  s the sigmoid;

every target of a packed row is a position. Softmax and gBCE (Petrov & Macdonald, RecSys 2023) are options, because the loss
decides comparisons with BERT4Rec. gBCE, with scores y, y_j of the positive and n negatives out of P items:

    -(beta log s(y) + sum_j log(1 - s(y_j))) / (n + 1),  beta = alpha (t (1 - 1 / alpha) + 1 / alpha),  alpha = n / (P - 1)

Differences (the authors' program, kang205/SASRec, in brackets):

- Positions count from the oldest click, padding is on the right [on the left: the newest click always has the last position].
- The attention has an output layer, as in the public port pmixer/SASRec.pytorch [none].
- LN has torch's epsilon, 1e-5 [1e-8]. Features enter through the shared input layer [ids only].

The authors' size: ``norm`` query_only, ``scale`` True, ``width`` 50, ``layers`` 2, ``heads`` 1, ``features`` off. A change to the
port (its PR 48) reports that the usual blocks rank better than the authors'.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.kernels import dropout
from seerec.models.attention import Attention, EncoderLayer, history_mask
from seerec.models.base import Kind, Vocabulary
from seerec.models.layers import initialise
from seerec.models.losses import mean_over
from seerec.models.sequential import Sequence, SequenceState, SequentialConfig, SequentialRecommender


class SASRecConfig(SequentialConfig):
    """Settings of SASRec."""

    layers: int = Field(1, ge=1, le=100)
    """Blocks (2 in the paper)."""
    heads: int = Field(2, ge=1)
    """Of the attention (1 in the paper; 2 in the group's encoders)."""
    norm: Literal["query_only", "pre", "post"] = "post"
    """query_only is the authors' block; see the module's docstring."""
    scale: bool = False
    """Multiply item vectors by sqrt(D) at the input, as in the authors' program."""
    original_loss: Literal["bce", "gbce", "softmax"] = "bce"
    """Of the objective ``original``. bce: one negative per position (the paper). gbce: all n negatives, the positive's
    probability raised to beta against over-confidence. softmax: see ``softmax``."""
    calibration: float = Field(0.75, ge=0, le=1)
    """The t of gBCE: 0 is plain binary cross-entropy, 1 removes the over-confidence wholly."""


class SASRec(SequentialRecommender[SequenceState]):
    """State: the encoded history at the last event each target may see."""

    key = "sasrec"
    title = "SASRec"
    Config = SASRecConfig
    packs = True

    def __init__(self, config: SASRecConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__(config, vocabulary, rec_length, search_length)
        d = config.width
        self.position = nn.Parameter(torch.empty(self.length, d))
        self.blocks = nn.ModuleList(
            QueryNormBlock(d, config.heads, d, config.dropout)
            if config.norm == "query_only"
            else EncoderLayer(d, config.heads, d, config.dropout, config.norm)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(d) if config.norm != "post" else nn.Identity()
        initialise(self)
        nn.init.normal_(self.position, std=0.02)

    def encode(self, batch: Batch) -> SequenceState:
        """Encode the events once; the last block makes the targets' states alone, where they are fewer than events."""
        sequence = self.sequence(batch)
        last, reach = self.blocks[-1], sequence.reach
        if not isinstance(last, EncoderLayer) or reach.last.shape[1] >= reach.position.shape[1]:
            return SequenceState(reach.gather(self.states(sequence)), self.user(batch))
        x = self.before_last(sequence)
        states = self.norm(last.at(x, reach.gather(x), reach.visible))
        return SequenceState(states * reach.any.unsqueeze(2), self.user(batch))

    def states(self, sequence: Sequence) -> Tensor:
        """F, B L D: each event encoded with those before it."""
        mask, present = history_mask(sequence.present, causal=True), sequence.present.unsqueeze(2)
        return self.norm(self.blocks[-1](self.before_last(sequence), mask) * present)

    def before_last(self, sequence: Sequence) -> Tensor:
        """The same before the last block, B L D."""
        tokens, present, reach = sequence
        x = tokens * self.config.width**0.5 if self.config.scale else tokens
        x = dropout(x + self.position[reach.position], self.config.dropout, self.training) * present.unsqueeze(2)
        mask = history_mask(present, causal=True)
        for block in list(self.blocks)[:-1]:
            x = block(x, mask) * present.unsqueeze(2)
        return x

    def objective(self, batch: Batch, state: SequenceState, kind: Kind = "group") -> dict[str, Tensor]:
        """``original``: see ``original_loss``."""
        if kind == "group":
            return super().objective(batch, state, kind)
        if self.config.original_loss == "softmax":
            return {"rank": self.catalogue_loss(batch, state)}
        logits = self.score(state, self.items(batch.candidates))
        # One column of each target is not negative, so that masking keeps the order of targets and columns.
        is_negative = torch.ones_like(logits, dtype=torch.bool).scatter_(2, batch.positive.unsqueeze(2), False)
        positive = logits[~is_negative].view(*logits.shape[:2], 1)
        negatives = logits[is_negative].view(*logits.shape[:2], -1)
        if self.config.original_loss == "bce":
            loss = F.softplus(-positive) + F.softplus(negatives[..., :1])
        else:
            # alpha = sampled of all negatives; rows 0 and 1 are no items, and one item is the positive.
            alpha = min(1.0, negatives.shape[2] / (len(self.inputs.item.weight) - 3))
            t = self.config.calibration
            beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
            loss = torch.cat([beta * F.softplus(-positive), F.softplus(negatives)], 2)
        return {"rank": mean_over(loss.mean(2), batch.target_mask)}


class QueryNormBlock(nn.Module):
    """The authors' block: only the attention's query is normalised, and both residuals start from normalised states."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.norm_query = nn.LayerNorm(width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, inner)
        self.feed_out = nn.Linear(inner, width)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor, visible_BLL: Tensor) -> Tensor:
        """B L D -> B L D."""
        query = self.norm_query(x_BLD)
        attended = self.attention(query, self.attention.keys_values(x_BLD), visible_BLL)
        z = self.norm_feed(query + attended)
        inner = F.relu(dropout(self.feed_in(z), self.dropout, self.training))
        return z + dropout(self.feed_out(inner), self.dropout, self.training)
