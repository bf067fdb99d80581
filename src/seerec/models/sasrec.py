"""SASRec: self-attentive sequential recommendation (Kang & McAuley, ICDM 2018).

Causal self-attention over the clicked items; the last visible state is compared with candidates by a dot product over
the same item vectors. Differs from the authors' program: the normalisation is a choice (theirs normalises the query
only, which later work found worse), features enter through the shared input layer, and padding is on the right, where the
causal mask already hides it.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.models.base import ModelConfig, NeuralRecommender, Vocabulary
from seerec.models.layers import Attention, EncoderLayer, InputLayer, dropout, history_mask, initialise, reach


class SASRecConfig(ModelConfig):
    """Settings of SASRec."""

    layers: int = Field(1, ge=1, le=100)
    """Blocks (the paper's best is 2 on most sets; 1 is as good on short histories)."""
    heads: int = Field(2, ge=1)
    """The paper uses 1; 2 as in the group's encoders."""
    norm: Literal["query_only", "pre", "post"] = "post"
    """query_only is the authors' program."""
    scale: bool = False
    """Multiply item vectors by sqrt(D) at the input, as in the authors' program."""


class SASRec(NeuralRecommender[Tensor]):
    """State: B T D, the encoded history at the last event each target may see. Reads the clicked items only."""

    key = "sasrec"
    title = "SASRec"
    reads = frozenset({"rec", "features"})
    Config = SASRecConfig
    packs = True

    def __init__(self, config: SASRecConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:  # noqa: ARG002
        super().__init__()
        d = config.width
        self.config = config
        self.inputs = InputLayer(vocabulary, config)
        self.position = nn.Parameter(torch.empty(rec_length, d))
        self.blocks = nn.ModuleList(
            QueryNormBlock(d, config.heads, d, config.dropout)
            if config.norm == "query_only"
            else EncoderLayer(d, config.heads, d, config.dropout, config.norm)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(d) if config.norm != "post" else nn.Identity()
        initialise(self)
        nn.init.normal_(self.position, std=0.02)

    def encode(self, batch: Batch) -> Tensor:
        """Encode the clicks once; gather each target's state."""
        present = batch.rec != 0
        seen = reach(present, batch.rec_seen)
        x = self.inputs.items(batch.rec)
        if self.config.scale:
            x = x * self.config.width**0.5
        x = dropout(x + self.position[seen.position], self.config.dropout, self.training) * present.unsqueeze(2)
        mask = history_mask(present, causal=True)
        for block in self.blocks:
            x = block(x, mask) * present.unsqueeze(2)
        return seen.gather(self.norm(x))

    def score(self, state: Tensor, items_BTCD: Tensor, query: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Dot product, B T C."""
        return (items_BTCD @ state.unsqueeze(3)).squeeze(3)

    def retrieval(self, state: Tensor) -> Tensor:
        """B T 1 D."""
        return state.unsqueeze(2)


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
        update, _ = self.attention(query, self.attention.history(x_BLD), visible_BLL)
        x = self.norm_feed(query + update)
        inner = F.relu(dropout(self.feed_in(x), self.dropout, self.training))
        return x + dropout(self.feed_out(inner), self.dropout, self.training)
