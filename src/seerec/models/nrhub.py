"""NRHUB: news recommendation with heterogeneous user behaviour (Wu et al., EMNLP 2019).

Three bags stand for the user: browsed items, queries, items clicked in searches. Each view is pooled by attention, the views
by a second attention, and the user scores an item by a dot product. No order, no user id. With x the events of a view that a
target may see, and parameters U, b, v of each view's own (``view``), U', b', v' of the second attention (``user_view``):

    a = softmax(v^T tanh(U x + b)),  p = sum_events a x                                    per view
    y = tanh(W p + c)                                                                      W, c: ``user_projection``
    a' = softmax(v'^T tanh(U' y + b')),  user = sum_views a' y
    item = tanh(W' e_v + c'),  score = <user, item>                                        W', c': ``item_projection``

The logits v^T tanh(U x + b) belong to the event alone, so a packed row makes them once; every target has its own masked
softmax over them, and one matrix product pools all targets of a row.

A user without any events is the zero vector and scores everything 0.

Objective ``group``: the shared ranking loss, which the group's program has too (binary cross-entropy). ``original``: softmax
over the positive and its negatives.

This is the form in which the group ran NRHUB on Kuaishou's data (its IV4Rec program, class NRHUB_kuaishou), at ``dense`` 200 and
``attention`` 100. Differences (the group's in brackets):

- A view without events drops out of the second attention [it is the uniform mean of padding].
- v and v' start Xavier normal [N(0, 1), which saturates the softmax].
- The events' vectors come from the shared input layer and pass dropout [frozen vectors, no dropout].

The authors' notebook (wuch15/NRHUB) makes vectors of titles and queries by a CNN and an attention over words, and pools the
events' tanh projections, not the events.
"""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from seerec.batch import Batch
from seerec.kernels import dropout
from seerec.models.base import Kind, ModelConfig, NeuralRecommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.layers import MASKED, dot, initialise, reach
from seerec.models.losses import ranking_loss

VIEWS = ("browsed", "query", "clicked")


class NRHUBConfig(ModelConfig):
    """Settings of NRHUB."""

    dense: int = Field(200, ge=1, le=65_536)
    """Width of the user and item vectors that are compared, and of the attention inside a view (200 in both programs)."""
    attention: int = Field(100, ge=1, le=65_536)
    """Width of the attention over views (100 in the group's program)."""


class AdditiveAttention(nn.Module):
    """Logits v^T tanh(U x + b) of the events of a view, or of the views."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, hidden)
        self.vector = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (... D) -> logits (...)."""
        return self.vector(self.projection(x).tanh()).squeeze(-1)


def visible_softmax(logits: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the last axis where ``visible``; zeros where nothing is."""
    return logits.masked_fill(~visible, MASKED).softmax(-1) * visible


@dataclass(frozen=True)
class NRHUBState:
    """The user in the space of ``items``, and how much each view contributed."""

    vector: Tensor  # B T dense
    views: Tensor  # B T 3    weights, browsed, query, clicked; they sum to 1, or to 0 where the user has no events


class NRHUB(NeuralRecommender[NRHUBState]):
    """See the module's docstring. A bag of events: it does not read their times."""

    key = "nrhub"
    title = "NRHUB"
    reads = frozenset({"rec", "query", "click", "features"})
    Config = NRHUBConfig
    config: NRHUBConfig
    packs = True

    def __init__(self, config: NRHUBConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:  # noqa: ARG002
        super().__init__()
        d = config.width
        self.config = config
        self.inputs = InputLayer(vocabulary, config)
        self.view = nn.ModuleDict({name: AdditiveAttention(d, config.dense) for name in VIEWS})
        self.user_projection = nn.Linear(d, config.dense)
        self.user_view = AdditiveAttention(config.dense, config.attention)
        self.item_projection = nn.Linear(d, config.dense)
        initialise(self)

    def items(self, ids: Tensor) -> Tensor:
        """An item's vector tanh(W' e_v + c'), ``dense`` wide; padding gives zeros."""
        return self.item_projection(self.inputs.items(ids)).tanh() * (ids != 0).unsqueeze(-1)

    def encode(self, batch: Batch) -> NRHUBState:
        """Pool the three bags for every target, then the bags."""
        rec_visible = reach(batch.rec != 0, batch.rec_seen).visible
        search_visible = reach(batch.searched, batch.search_seen).visible
        has_words, is_click = (batch.query != 0).any(2), batch.click != 0
        visible = {
            "browsed": rec_visible,
            "query": search_visible & has_words.unsqueeze(1),
            "clicked": (search_visible.unsqueeze(3) & is_click.unsqueeze(1)).flatten(2),
        }
        events = {
            "browsed": self.inputs.items(batch.rec),
            "query": self.inputs.queries(batch.query),
            "clicked": self.inputs.items(batch.click.flatten(1)),
        }
        pooled, present = [], []
        for name, attention in self.view.items():
            x = dropout(events[name], self.config.dropout, self.training)
            pooled.append(visible_softmax(attention(x).unsqueeze(1), visible[name]) @ x)  # p, B T D
            present.append(visible[name].any(2))
        y = self.user_projection(torch.stack(pooled, 2)).tanh()  # B T 3 dense
        weight = visible_softmax(self.user_view(y), torch.stack(present, 2))  # a'
        return NRHUBState((weight.unsqueeze(3) * y).sum(2), weight)

    def score(self, state: NRHUBState, items_BTCD: Tensor) -> Tensor:
        """B T C."""
        return dot(state.vector, items_BTCD)

    def objective(self, batch: Batch, state: NRHUBState, kind: Kind = "group") -> dict[str, Tensor]:
        """``original``: softmax over the positive and its negatives."""
        logits = self.score(state, self.items(batch.candidates))
        loss = "softmax" if kind == "original" else self.config.loss
        return {"rank": ranking_loss(logits, batch.positive, batch.target_mask, loss)}

    def retrieval(self, state: NRHUBState) -> Tensor:
        """B T 1 dense."""
        return state.vector.unsqueeze(2)
