"""SASRec: self-attentive sequential recommendation (Kang & McAuley, ICDM 2018).

Causal self-attention over the clicked items; the state F_t at the last visible event scores candidate v as <F_t, e_v>, with
the item vectors of the input. In a packed row every target is a position, so the ``original`` objective is the paper's
per-position binary cross-entropy with one uniform negative; gBCE (Petrov & Macdonald, RecSys 2023) and softmax are options,
because the loss decides comparisons with BERT4Rec.

Differs from the authors' program: the normalisation is a choice (theirs normalises the query only, which later work found
worse), features enter through the shared input layer, and padding is on the right, where the causal mask already hides it.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.models.base import Kind, Vocabulary
from seerec.models.layers import Attention, EncoderLayer, dropout, history_mask, initialise
from seerec.models.losses import mean_over
from seerec.models.sequential import Sequence, SequenceState, SequentialConfig, SequentialRecommender


class SASRecConfig(SequentialConfig):
    """Settings of SASRec."""

    layers: int = Field(1, ge=1, le=100)
    """Blocks (the paper's best is 2 on most sets; 1 is as good on short histories)."""
    heads: int = Field(2, ge=1)
    """The paper uses 1; 2 as in the group's encoders."""
    norm: Literal["query_only", "pre", "post"] = "post"
    """query_only is the authors' program."""
    scale: bool = False
    """Multiply item vectors by sqrt(D) at the input, as in the authors' program."""
    original_loss: Literal["bce", "gbce", "softmax"] = "bce"
    """Of the objective ``original``. bce: one negative per position (the paper). gbce: all n negatives, the positive's
    probability raised to beta against over-confidence. softmax: see ``softmax``."""
    calibration: float = Field(0.75, ge=0, le=1)
    """t of gBCE: 0 is plain binary cross-entropy, 1 removes the over-confidence wholly."""


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
        """Encode the events once; gather each target's state."""
        sequence = self.sequence(batch)
        return SequenceState(sequence.reach.gather(self.states(sequence)), self.user(batch))

    def states(self, sequence: Sequence) -> Tensor:
        """F, B L D: each event encoded with those before it."""
        tokens, present, seen = sequence
        x = tokens * self.config.width**0.5 if self.config.scale else tokens
        x = dropout(x + self.position[seen.position], self.config.dropout, self.training) * present.unsqueeze(2)
        mask = history_mask(present, causal=True)
        for block in self.blocks:
            x = block(x, mask) * present.unsqueeze(2)
        return self.norm(x)

    def objective(self, batch: Batch, state: SequenceState, kind: Kind = "group") -> dict[str, Tensor]:
        """``original``: see ``original_loss``."""
        if kind == "group":
            return super().objective(batch, state, kind)
        if self.config.original_loss == "softmax":
            return {"rank": self.catalogue_loss(batch, state)}
        logits = self.score(state, self.items(batch.candidates))
        negative = torch.ones_like(logits, dtype=torch.bool).scatter_(2, batch.positive.unsqueeze(2), False)
        positive, negatives = logits[~negative].view(*logits.shape[:2], 1), logits[negative].view(*logits.shape[:2], -1)
        if self.config.original_loss == "bce":
            loss = F.softplus(-positive) + F.softplus(negatives[..., :1])
        else:
            share = min(1.0, negatives.shape[2] / (len(self.inputs.item.weight) - 3))  # alpha: sampled of all negatives
            t = self.config.calibration
            beta = share * (t * (1 - 1 / share) + 1 / share)
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
        update, _ = self.attention(query, self.attention.keys_values(x_BLD), visible_BLL)
        x = self.norm_feed(query + update)
        inner = F.relu(dropout(self.feed_in(x), self.dropout, self.training))
        return x + dropout(self.feed_out(inner), self.dropout, self.training)
