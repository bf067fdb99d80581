"""USER: a unified model of search and recommendation over one sequence of behaviour (Yao et al., CIKM 2021).

Searches and recommendation clicks become one sequence in order of time, x_1 .. x_n. Recommendation is a search without a query:
q* is the query of a search, and a learned vector [REC] for a recommendation. For every target, with the last m events as its
session,

    x = e_v + k_r for a click,  x = e_q + mean e_v + k_s for a search with its clicked items                           kind
    s = Transformer_S([q* ; x_n + p'_1 ; x_n-1 + p'_2 .. ]) at q*           the intent now       p' session_position
    i = Transformer_H([x_1 + p_1 .. x_n + p_n ; s + p_n+1]) at s            refined by history   p position
    score(v) = MLP([i ; s ; e_v ; i o e_v])                                 one head for both tasks, o by element

q* is ``no_query`` for a recommendation; it has no position and no kind, and a session counts its positions back from the latest
event. Who has no events is scored by q* and the empty history alone, so a recommendation then gives everyone the same order.

Transformer_H is causal over the history, so the states of a history are computed once and shared by all targets of a packed row,
each of which reads its own prefix and its own s. The session's events and q* attend to one another freely. The session is what
follows the last pause of more than ``session_gap`` minutes in what a target sees, at most ``session_events`` events. The time of
the target itself is not read: histories are also scored at no particular time.

Objective ``group``: the shared ranking loss. ``original``: softmax over the positive and its negatives. Rows of searches are the
second task; the training loop weighs their whole objective by ``search_weight``.

Sources: only the abstract and a figure's caption were available, and no program is public: a text encoder, a session encoder, a
history encoder and a unified task framework are known; their insides, sizes and losses are inferred. The paper may tune on one
task after training on both; that would be a stage of training, and is left out.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import RECOMMENDATION, SEARCH, Batch
from seerec.kernels import dropout
from seerec.models.attention import EncoderLayer, history_mask
from seerec.models.base import Kind, ModelConfig, NeuralRecommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.layers import ScoringMLP, initialise
from seerec.models.losses import ranking_loss
from seerec.models.merging import Merged, merge

_MS_PER_MINUTE = 60_000


class USERConfig(ModelConfig):
    """Settings of USER."""

    search_weight: float = Field(0.1, ge=0)
    """Weight of the search loss (.1 as in UniSAR on KuaiSAR; USER's own is unknown)."""
    session_gap: float | None = Field(30, ge=0)
    """Minutes without an event that end a session (the usual 30; inferred). None: only ``session_events`` cuts."""
    session_events: int = Field(5, ge=1, le=1000)
    """Events of the current session, at most the last so many (inferred)."""
    session_layers: int = Field(1, ge=1, le=100)
    """Layers of the session encoder (inferred; 1 in the group's encoders)."""
    layers: int = Field(1, ge=1, le=100)
    """Layers of the history encoder (inferred; 1 in the group's encoders)."""
    heads: int = Field(2, ge=1)
    """Of both encoders (inferred; 2 in the group's encoders)."""
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = (200, 80)
    """Hidden layers of the scoring MLP (those of the group's programs; inferred)."""


@dataclass(frozen=True)
class USERState:
    """The intent of each target, before and after the long history."""

    session: Tensor  # B T D   s
    intent: Tensor  # B T D   i


class USER(NeuralRecommender[USERState]):
    """See the module's docstring."""

    key = "user"
    title = "USER"
    reads = frozenset({"rec", "query", "click", "time", "features"})
    searches = True
    Config = USERConfig
    config: USERConfig
    packs = True

    def __init__(self, config: USERConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.inputs = InputLayer(vocabulary, config)
        self.kind = nn.Parameter(torch.empty(2, d))
        self.no_query = nn.Parameter(torch.empty(d))
        self.position = nn.Parameter(torch.empty(rec_length + search_length + 1, d))
        self.session_position = nn.Parameter(torch.empty(config.session_events, d))
        self.session_layers = nn.ModuleList(self._layer() for _ in range(config.session_layers))
        self.layers = nn.ModuleList(self._layer() for _ in range(config.layers))
        self.mlp = ScoringMLP((d, d, d, d), config.hidden, config.dropout)
        initialise(self)
        for table in (self.kind, self.no_query, self.position, self.session_position):
            nn.init.normal_(table, std=0.02)

    def _layer(self) -> EncoderLayer:
        return EncoderLayer(self.config.width, self.config.heads, self.config.width, self.config.dropout)

    def encode(self, batch: Batch) -> USERState:
        """The intent now, s, then i."""
        merged = merge(batch)
        searches = self.inputs.searches(batch.query, batch.click) + self.kind[SEARCH]
        clicks = self.inputs.items(batch.rec) + self.kind[RECOMMENDATION]
        tokens = merged.arrange(clicks, searches)
        is_search = (batch.task == SEARCH)[:, None, None]
        query = torch.where(is_search, self.inputs.queries(batch.target_query), self.no_query)  # q*
        session = self.session(batch, merged, tokens, query)
        return USERState(session, self.intent(batch, merged, tokens, session))

    def session(self, batch: Batch, merged: Merged, tokens_BLD: Tensor, query_BTD: Tensor) -> Tensor:
        """The intent s, B T D: each target's q* and session encoded together, at q*."""
        slot, in_session = self.session_events(batch, merged)
        b, t, m = slot.shape
        events = tokens_BLD.gather(1, slot.flatten(1).unsqueeze(2).expand(-1, -1, tokens_BLD.shape[2])).unflatten(1, (t, m))
        x = torch.cat([query_BTD.unsqueeze(2), events + self.session_position], 2).flatten(0, 1)
        x = dropout(x, self.config.dropout, self.training)
        mask = history_mask(F.pad(in_session, (1, 0), value=True).flatten(0, 1), causal=False)
        for layer in self.session_layers[:-1]:
            x = layer(x, mask)
        # Of the last layer only its state at q* is used, which stands first.
        return self._read(self.session_layers[-1], x[:, :1], x, mask[:, :1]).unflatten(0, (b, t)).squeeze(2)

    def session_events(self, batch: Batch, merged: Merged) -> tuple[Tensor, Tensor]:
        """B T ``session_events``: slots of the last events each target sees, latest first; whether its session holds them."""
        reach = merged.reach
        events_back = torch.arange(self.config.session_events, device=reach.last.device)
        slot = (reach.last.unsqueeze(2) - events_back).clamp(min=0)
        in_session = events_back < reach.visible.sum(2, keepdim=True)
        if self.config.session_gap is not None:
            time = merged.arrange(batch.rec_time, batch.search_time)
            pause = (time[:, 1:] - time[:, :-1]) > self.config.session_gap * _MS_PER_MINUTE
            session_number = F.pad(pause.long().cumsum(1), (1, 0)).unsqueeze(1).expand(-1, slot.shape[1], -1)
            in_session = in_session & (session_number.gather(2, slot) == session_number.gather(2, slot[..., :1]))
        return slot, in_session

    def intent(self, batch: Batch, merged: Merged, tokens_BLD: Tensor, session_BTD: Tensor) -> Tensor:
        """The intent i, B T D: s read as the event after each target's prefix."""
        present = merged.present.unsqueeze(2)
        x = dropout(tokens_BLD + self.position[merged.reach.position], self.config.dropout, self.training) * present
        intent = session_BTD + self.position[batch.rec_seen + batch.search_seen]
        mask = history_mask(merged.present, causal=True)
        for depth, layer in enumerate(self.layers):
            intent = self._read(layer, intent, x, merged.reach.visible, itself=True)
            if depth + 1 < len(self.layers):
                x = layer(x, mask) * present
        return intent

    def _read(self, layer: nn.Module, x_BMD: Tensor, context_BLD: Tensor, visible_BML: Tensor, itself: bool = False) -> Tensor:
        """One encoder layer for the queries x over a context, and each over itself if it is no part of that."""
        assert isinstance(layer, EncoderLayer)
        own = (layer.attention.keys_values(x_BMD),) if itself else ()
        return layer.read(x_BMD, layer.attention.keys_values(context_BLD), visible_BML, own)

    def score(self, state: USERState, items_BTCD: Tensor) -> Tensor:
        """B T C."""
        intent = state.intent.unsqueeze(2)
        return self.mlp(intent, state.session.unsqueeze(2), items_BTCD, intent * items_BTCD)

    def objective(self, batch: Batch, state: USERState, kind: Kind = "group") -> dict[str, Tensor]:
        """``original``: softmax over the positive and its negatives."""
        logits = self.score(state, self.items(batch.candidates))
        loss = "softmax" if kind == "original" else self.config.loss
        return {"rank": ranking_loss(logits, batch.positive, batch.target_mask, loss)}
