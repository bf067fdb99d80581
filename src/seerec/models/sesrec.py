"""SESRec: disentangled search representation for recommendation (Si et al., SIGIR 2023).

Clicks and searches are encoded apart; co-attention says which of them agree, and so splits either side into similar and
dissimilar events; candidates read each side three times. For n_R clicks, n_S searches, and X either of R and S:

    R = Encoder(e_v + p),  S = Encoder(e_q + mean e_v of its clicked items + source + p)          encoder_rec, encoder_search
    G = tanh(R W1 S'),  a_R = softmax((w_d S') G'),  a_S = softmax((w_q R') G)                     co_attention
    similar_X = {x_i : a_i >= 1 / n_X},  dissimilar_X = the others; an empty one becomes all_X     split_similar
    f(set) = softmax(set W_X e_v) set                                                               target_attention
    score(v) = MLP([f of all, similar, dissimilar R ; f of all, similar, dissimilar S ; e_u ; e_v])

    T_X = [|a_X X - mean similar_X| - |a_X X - mean dissimilar_X| + margin]+                        triplet
    L = BCE + ``query_item_weight`` L_qi + ``triplet_weight`` (T_R + T_S)

L_qi is the contrast of queries and clicked items (``alignment``). This is the paper's objective and the shared one, so ``group``
and ``original`` are the same here. A side without events is three zero vectors: who has neither is scored by e_u and e_v alone.

The authors' program is this with ``project = "linear"``, ``official_bug = True``, the defaults below and histories padded to the
length of the position tables: from equal weights its logits and losses are ours (its scores are their sigmoid). Its names:

    item_feat.item_X_emb, item_trans               inputs.item (X = id), inputs.item_values; inputs.item_features
    query_word_segs_emb, query_trans               inputs.word, inputs.query_projection
    query_search_source_emb                        source, its only row
    user_X_emb                                     inputs.user (X = id), inputs.user_values
    rec_pos_emb.pe, src_pos_emb.pe                 position_rec, position_search
    rec_his_transformer_layer.layer, src_his_...   encoder_rec, encoder_search, and in each layer
      multi_head_attention.in_proj                 attention.query, attention.key, attention.value: its thirds, in this order
      multi_head_attention.out_proj, .LayerNorm    attention.out, norm_attention
      feed_forward.dense_1, .dense_2, .LayerNorm   feed_in, feed_out, norm_feed
    co_att.W1, co_att.Wd, co_att.Wq                co_attention.affinity, co_attention.search (w_d), co_attention.rec (w_q)
    rec_his_att_pooling.W, src_his_...             target_rec, target_search: its only matrix, not transposed
    fc_layer.fc.0, .3, .6                          mlp.0, mlp.1, mlp.2
    infoNCE_loss.weight_matrix, .temp              query_item.match, query_item.temperature.value

Differences:
- Its fields have widths of their own; columns of zeros fill up ours, in a table and in the layer that reads it.
- Its users have no layer: ``inputs.user_features`` must be an identity, which puts each field at its place.
- Its queries have ids besides words, the first columns of ``query_trans``; here they have none.
- Its searches come from one of several sources; our corpora have one, and a learned vector of it, as on Amazon.
- A search without clicks has its top result instead of one; here no clicked item.
- Its contrast draws negatives from all items and sessions, and counts searches without words; see ``alignment``.
- A side without events makes its scores NaN; here it gives zeros, and its row enters no triplet of that side.
- Equal weights are at the threshold: rounding decides, there and here, which of them are similar.
- Its tables start Xavier normal, row 0 too, which stays zero here; its dropout is not rounded to 1/256.

Sources: the authors' program; the paper's body was not available.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.kernels import dropout
from seerec.models.alignment import QueryItemAlignment
from seerec.models.attention import Attention, history_mask
from seerec.models.base import Kind, ModelConfig, NeuralRecommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.layers import MASKED, ScoringMLP, initialise, masked_mean, reach
from seerec.models.losses import mean_over, ranking_loss
from seerec.models.unpacking import unpack, unpack_items

_NORM_EPS = 1e-8


class SESRecConfig(ModelConfig):
    """Settings of SESRec; the defaults are the authors'."""

    layers: int = Field(1, ge=1, le=100)
    """Layers of each encoder (authors' program)."""
    heads: int = Field(2, ge=1)
    """Of the encoders (authors: 2 on Kuaishou, 4 on Amazon)."""
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = (200, 80)
    """Hidden layers of the MLP (authors' program)."""
    margin: float = Field(0.1, ge=0)
    """Of the triplet loss (authors' program)."""
    triplet_weight: float = Field(0.001, ge=0)
    """Weight of the triplet loss (authors' program)."""
    query_item_weight: float = Field(0.1, ge=0)
    """Weight of the contrastive loss between queries and clicked items (authors' program)."""
    query_item_temperature: float = Field(0.1, gt=0)
    """Where its learned temperature starts (authors' program)."""
    query_item_negatives: int = Field(1024, ge=1)
    """Its negatives in either direction, at most (authors: 1024)."""
    official_bug: bool = False
    """True: the sums inside the co-attention run over padding too, as in the authors' program; scores then depend on
    how much padding a batch has."""


@dataclass(frozen=True)
class Side:
    """One history of M rows, encoded and split: R or S."""

    events: Tensor  # M L D
    sets: Tensor  # M 3 L    bool: all, similar, dissimilar events
    weights: Tensor  # M L      a, of the co-attention


@dataclass(frozen=True)
class SESRecState:
    """What the histories became, M = B T rows of one target each."""

    targets: int  # T, how many targets a row of the batch had
    user: Tensor  # M D
    rec: Side
    search: Side
    queries: Tensor  # M S D    e_q of the searches


class SESRec(NeuralRecommender[SESRecState]):
    """See the module's docstring."""

    key = "sesrec"
    title = "SESRec"
    reads = frozenset({"rec", "query", "click", "user", "features"})
    Config = SESRecConfig

    def __init__(self, config: SESRecConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.inputs = InputLayer(vocabulary, config)
        self.position_rec = nn.Parameter(torch.empty(rec_length, d))
        self.position_search = nn.Parameter(torch.empty(search_length, d))
        self.source = nn.Parameter(torch.empty(d))
        self.encoder_rec = nn.ModuleList(SESRecLayer(d, config.heads, config.dropout) for _ in range(config.layers))
        self.encoder_search = nn.ModuleList(SESRecLayer(d, config.heads, config.dropout) for _ in range(config.layers))
        self.co_attention = CoAttention(d)
        self.target_rec, self.target_search = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.mlp = ScoringMLP((d,) * 8, config.hidden, config.dropout)
        self.query_item = QueryItemAlignment(d, config.query_item_temperature, config.query_item_negatives)
        initialise(self)
        for table in (self.position_rec, self.position_search, self.source):
            nn.init.normal_(table, std=0.02)

    def encode(self, batch: Batch) -> SESRecState:
        """Both histories of each target, encoded, weighed and split."""
        one = unpack(batch)
        rec_reach, search_reach = reach(one.rec != 0, one.rec_seen), reach(one.searched, one.search_seen)
        sees_rec, sees_search = rec_reach.visible[:, 0], search_reach.visible[:, 0]
        queries = self.inputs.queries(one.query)
        search = queries + masked_mean(self.inputs.items(one.click), one.click != 0)
        # Unseen slots hold what the authors' program has in padding; only ``official_bug`` reads them.
        no_item, no_query = self.padding()
        rec = torch.where(sees_rec.unsqueeze(2), self.inputs.items(one.rec), no_item) + self.position_rec[rec_reach.position]
        search = torch.where(sees_search.unsqueeze(2), search, no_query) + self.source
        search = search + self.position_search[search_reach.position]
        for layer in self.encoder_rec:
            rec = layer(rec, sees_rec)
        for layer in self.encoder_search:
            search = layer(search, sees_search)
        summed = (sees_rec, sees_search)
        if self.config.official_bug:
            summed = (torch.ones_like(sees_rec), torch.ones_like(sees_search))
        rec_logits, search_logits = self.co_attention(rec, search, *summed)
        return SESRecState(
            targets=batch.rec_seen.shape[1],
            user=self.inputs.users(one.user),
            rec=split_similar(rec, rec_logits, sees_rec),
            search=split_similar(search, search_logits, sees_search),
            queries=queries,
        )

    def padding(self) -> tuple[Tensor, Tensor]:
        """Item and query of an empty slot in the authors' program, D each: what the layers make of row 0 and of no words."""
        inputs, zero = self.inputs, torch.zeros(1, dtype=torch.long, device=self.source.device)
        item, query = inputs.item(zero)[0], inputs.queries(zero)
        if self.config.project == "none" or inputs.item_features is None:
            return item, query
        fields = [item, *(table(zero)[0] for table in inputs.item_values)]
        if inputs.item_text.shape[1]:
            fields.append(query)
        return inputs.item_features(torch.cat(fields)), query

    def score(self, state: SESRecState, items_BTCD: Tensor) -> Tensor:
        """B T C."""
        targets, c = state.targets, items_BTCD.shape[2]
        b = len(state.user) // targets
        items = unpack_items(items_BTCD, b, targets)
        interests = target_attention(self.target_rec, state.rec, items), target_attention(self.target_search, state.search, items)
        parts = [of_set.unsqueeze(1) for of_side in interests for of_set in of_side.unbind(1)]
        logits: Tensor = self.mlp(*parts, state.user[:, None, None], items)
        return logits.view(b, targets, c)

    def objective(self, batch: Batch, state: SESRecState, kind: Kind = "group") -> dict[str, Tensor]:  # noqa: ARG002
        """Both objectives are the paper's: ranking, query-item and triplet terms."""
        config, one = self.config, unpack(batch)
        logits = self.score(state, self.items(batch.candidates))
        terms = {"rank": ranking_loss(logits, batch.positive, batch.target_mask, config.loss)}
        if config.query_item_weight > 0:
            shown = state.search.sets[:, 0] & one.target_mask
            terms["query_item"] = config.query_item_weight * self.query_item(one, shown, state.queries, self.items)
        if config.triplet_weight > 0:
            triplets = self.triplet(state.rec, one.target_mask) + self.triplet(state.search, one.target_mask)
            terms["triplet"] = config.triplet_weight * triplets
        return terms

    def triplet(self, side: Side, counted_M1: Tensor) -> Tensor:
        """Mean over the counted rows that have events of [|anchor - similar| - |anchor - dissimilar| + margin]+."""
        anchor = (side.weights.unsqueeze(1) @ side.events).squeeze(1)
        _, similar, dissimilar = masked_mean(side.events.unsqueeze(1), side.sets).unbind(1)
        loss = F.triplet_margin_loss(anchor, similar, dissimilar, margin=self.config.margin, reduction="none")
        return mean_over(loss, counted_M1[:, 0] & side.sets[:, 0].any(1))


class SESRecLayer(nn.Module):
    """Encoder layer z = LN(x + attention), x' = LN(z + W2 LeakyReLU(W1 z + b1) + b2).

    Dropout acts on the two updates alone; there is no causal mask.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, 0.0)
        self.norm_attention = nn.LayerNorm(width, eps=_NORM_EPS)
        self.feed_in = nn.Linear(width, width)
        self.feed_out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width, eps=_NORM_EPS)
        self.dropout = dropout

    def forward(self, x_MLD: Tensor, sees_ML: Tensor) -> Tensor:
        """M L D -> M L D."""
        mask = history_mask(sees_ML, causal=False)
        update = self.attention(x_MLD, self.attention.keys_values(x_MLD), mask)
        x = self.norm_attention(x_MLD + dropout(update, self.dropout, self.training))
        update = self.feed_out(F.leaky_relu(self.feed_in(x)))
        encoded: Tensor = self.norm_feed(x + dropout(update, self.dropout, self.training))
        return encoded


class CoAttention(nn.Module):
    """How much each click agrees with the searches, and each search with the clicks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(width, width, bias=False)  # W1
        self.search = nn.Linear(width, 1, bias=False)  # w_d
        self.rec = nn.Linear(width, 1, bias=False)  # w_q

    def forward(self, rec_MRD: Tensor, search_MSD: Tensor, summed_MR: Tensor, summed_MS: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a_R, M R, and of a_S, M S; ``summed`` says which events of the other side are summed over."""
        agreement = torch.tanh(rec_MRD @ self.affinity(search_MSD).transpose(1, 2))  # G, M R S
        search_weight = self.search(search_MSD) * summed_MS.unsqueeze(2)  # w_d S'
        rec_weight = self.rec(rec_MRD) * summed_MR.unsqueeze(2)  # w_q R'
        return (agreement @ search_weight).squeeze(2), (agreement.transpose(1, 2) @ rec_weight).squeeze(2)


def split_similar(events_MLD: Tensor, logits_ML: Tensor, sees_ML: Tensor) -> Side:
    """Weights over what is seen, and the events at least as heavy as the average one."""
    weights = logits_ML.masked_fill(~sees_ML, MASKED).softmax(1) * sees_ML
    similar = sees_ML & (weights >= 1 / sees_ML.sum(1, keepdim=True).clamp(min=1))
    sets = torch.stack([sees_ML, similar, sees_ML & ~similar], 1)
    sets = torch.where(sets.any(2, keepdim=True), sets, sees_ML.unsqueeze(1))  # an empty set becomes all events
    return Side(events_MLD, sets, weights)


def target_attention(match: nn.Linear, side: Side, items: Tensor) -> Tensor:
    """Candidates over three sets of events by the same logits, M 3 C D; zeros where nothing is seen. ``match`` holds W_X."""
    logits = match(items) @ side.events.unsqueeze(1).transpose(2, 3)  # M 1 C L
    weights = logits.masked_fill(~side.sets.unsqueeze(2), MASKED).softmax(3) * side.sets.unsqueeze(2)
    return weights @ side.events.unsqueeze(1)
