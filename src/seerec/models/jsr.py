"""JSR: joint modelling of search and recommendation (Zamani & Croft, DESIRES 2018; with item text, WSDM 2020).

Users, items and queries share one set of vectors, and each task has a head of its own:

    recommendation  phi_r(u o e_v)      search  phi_s(q o e_v)      phi(x) = w2' relu(W1 x + b1) + b2

where o is the product by element, e_v the candidate and q = e_q the query, the mean of its words. Two forms, which the titles
tell apart, differ in u:

    JSR(id)     u = e_u                                             ``history`` none: neither history reaches a score
    JSR(hist)   u = e_u + H_n,  H = Transformer(x_1 + p_1 .. x_n + p_n), causal                  ``history`` merged
                x = e_v + k_r for a click,  x = e_q + mean e_v + k_s for a search with its clicked items, merged by time

``position`` holds the p, ``kind`` the k. JSR(hist) is the default and the form to quote beside a table with sequential models.
Both forms depend on a target's prefix alone, so rows are packed. Who has no events is scored by u = e_u in either form.

Objective: L = L_rec + lambda L_search, either being

    the shared ranking loss + ``text_recon`` mean over v of (- mean over w of log softmax(<e_v, e_w>))

for the batch's distinct positive items v and the words w of their text. ``group`` and ``original`` are the same: the papers' own
losses are unknown to us. Rows of searches are the second task; the training loop weighs their whole objective by
``search_weight``, which is lambda.

Sources: the bodies of both papers and the authors' program were not available. Known are the 2018 abstract (two models learnt
by a joint loss); a later paper of its first author (UIA, SIGIR 2023), by which the user is an id, a shared network precedes one
layer per task, and a history came in only where the id gave way to a sequence encoder; and the 2020 abstract (the item's text is
predicted from its vector). The layers, losses and sizes here are inferred from these.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from seerec.batch import RECOMMENDATION, SEARCH, Batch
from seerec.kernels import dropout
from seerec.models.attention import EncoderLayer, history_mask
from seerec.models.base import Kind, ModelConfig, NeuralRecommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.layers import MASKED, ScoringMLP, initialise
from seerec.models.losses import mean_over
from seerec.models.merging import merge


class JSRConfig(ModelConfig):
    """Settings of JSR."""

    history: Literal["none", "merged"] = "merged"
    """none: the user is an id, JSR(id). merged: plus a Transformer over both histories, JSR(hist)."""
    search_weight: float = Field(0.1, ge=0)
    """Lambda of the search loss (.1 as in UniSAR on KuaiSAR; JSR's own is unknown)."""
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = (32,)
    """Hidden layers of both heads (half the default width; inferred)."""
    personalised_search: bool = False
    """Search scores phi_s([u o v ; q o v]) instead of phi_s(q o v)."""
    text_recon: float = Field(0.0, ge=0)
    """Weight of predicting the item's words from its vector (2020 model); 0: without. Needs item text and ``features``."""
    layers: int = Field(1, ge=1, le=100)
    """Layers of the Transformer of ``history`` merged (1 in the group's encoders)."""
    heads: int = Field(2, ge=1)
    """Heads of that Transformer (2 in the group's encoders)."""


@dataclass(frozen=True)
class JSRState:
    """Both tasks' side of the product; a row's task says which head scores it."""

    user: Tensor  # B T D   u
    query: Tensor  # B T D   q
    task: Tensor  # B


class JSR(NeuralRecommender[JSRState]):
    """See the module's docstring."""

    key = "jsr"
    title = "JSR(hist)"
    reads = frozenset({"user", "rec", "query", "click", "time", "features"})
    searches = True
    Config = JSRConfig
    config: JSRConfig
    packs = True

    def __init__(self, config: JSRConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.inputs = InputLayer(vocabulary, config)
        self.recommendation_head = ScoringMLP((d,), config.hidden, config.dropout)
        self.search_head = ScoringMLP((d, d) if config.personalised_search else (d,), config.hidden, config.dropout)
        if config.history == "merged":
            self.position = nn.Parameter(torch.empty(rec_length + search_length, d))
            self.kind = nn.Parameter(torch.empty(2, d))
            self.layers = nn.ModuleList(EncoderLayer(d, config.heads, d, config.dropout) for _ in range(config.layers))
        else:
            self.title, self.reads = "JSR(id)", frozenset({"user", "features"})
        initialise(self)
        if config.history == "merged":
            nn.init.normal_(self.position, std=0.02)
            nn.init.normal_(self.kind, std=0.02)

    def encode(self, batch: Batch) -> JSRState:
        """The user at each target, and the query where the row is a search."""
        user = self.inputs.users(batch.user).unsqueeze(1).expand(-1, batch.rec_seen.shape[1], -1)
        if self.config.history == "merged":
            user = user + self.history(batch)
        return JSRState(user, self.inputs.queries(batch.target_query), batch.task)

    def history(self, batch: Batch) -> Tensor:
        """B T D: the encoded last event of both histories merged; zeros where there is none."""
        merged = merge(batch)
        searches = self.inputs.searches(batch.query, batch.click) + self.kind[SEARCH]
        clicks = self.inputs.items(batch.rec) + self.kind[RECOMMENDATION]
        tokens = merged.arrange(clicks, searches) + self.position[merged.reach.position]
        x = dropout(tokens, self.config.dropout, self.training) * merged.present.unsqueeze(2)
        mask = history_mask(merged.present, causal=True)
        for layer in self.layers:
            x = layer(x, mask) * merged.present.unsqueeze(2)
        return merged.reach.gather(x)

    def score(self, state: JSRState, items_BTCD: Tensor) -> Tensor:
        """B T C: every row by the head of its task."""
        logits = items_BTCD.new_zeros(*state.user.shape[:2], items_BTCD.shape[2])
        for task, head in ((RECOMMENDATION, self.recommendation_head), (SEARCH, self.search_head)):
            rows = (state.task == task).nonzero().squeeze(1)
            if not len(rows):
                continue
            if task == RECOMMENDATION:
                sides = [state.user]
            else:
                sides = [state.user, state.query] if self.config.personalised_search else [state.query]
            items = items_BTCD if len(items_BTCD) == 1 else items_BTCD[rows]
            logits = logits.index_copy(0, rows, head(*(side[rows].unsqueeze(2) * items for side in sides)))
        return logits

    def objective(self, batch: Batch, state: JSRState, kind: Kind = "group") -> dict[str, Tensor]:
        """The ranking loss of the batch's task, plus the text term where it is asked for."""
        terms = super().objective(batch, state, kind)
        if self.config.text_recon > 0 and self.inputs.item_text.shape[1]:
            terms["text"] = self.config.text_recon * self.text_loss(batch)
        return terms

    def text_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy between softmax(e_v E^T) and the distribution of the item's words, mean over the batch's positives.

        E holds the words of these items alone (projected as queries are), so other items' words are the negatives.
        """
        items = batch.positive_item[batch.target_mask].unique()
        text = self.inputs.item_text[items].long()
        words, column = torch.unique(text, return_inverse=True)
        logits = self.inputs.items(items) @ self.inputs.queries(words.unsqueeze(1)).T
        logits = logits.masked_fill(words == 0, MASKED)
        present = (text != 0).to(logits.dtype)
        count = present.sum(1)
        loss = -(logits.log_softmax(1).gather(1, column) * present).sum(1) / count.clamp(min=1)
        return mean_over(loss, count > 0)
