"""UniSAR: user transitions between search and recommendation (Shi et al., SIGIR 2024).

Both histories ordered by time form one sequence of clicks, x = e_v, and searches, x = e_q + mean e_v of the clicked items:

    s2r, r2s = across(x + p)            at the clicks, at the searches: each attends only to tokens of the OTHER kind
    R = within_rec(x + p_r)             S = within_search(x + p_s)                        each attends to its own kind
    F_r = fusion_rec(R, memory s2r)     F_s = fusion_search(S, memory r2s)                decoder layers
    f_r = softmax(F_r W_r e_v) F_r      f_s = softmax(F_s W_s e_v) F_s                    target_rec, target_search
    z = [f_r, f_s, e_v, e_u, q]         q the query of a search target, a learned vector for a recommendation
    score_j = MLP_j(tower_j(sum_k g_jk(z) E_k(z)))      task j; k over shared and own experts, g_j its gate (``ple``)

    L = BCE + ``query_item_weight`` L_qi + ``view_weight`` (L_r + L_s)

L_qi is the contrast of queries and clicked items; L_r and L_s that of a row's pooled views, mean s2r with mean R and mean r2s
with mean S (``alignment``). This is the paper's objective and the shared one, so ``group`` and ``original`` are the same here.
Rows of searches are the second task; the training loop weighs their whole objective by ``search_weight``. Who has no events is
scored by e_v, e_u and q alone.

The authors' program is this with ``project = "tanh"`` and the defaults below: from equal weights, without dropout, scores, losses
and gradients agree to rounding. Whose weight is whose, where ``a | b`` stand one after the other, and j is a task:

    theirs                                          here
    global | rec | src _transformer                 across | within_rec | within_search
        .transformer_encoder.layers.i                   .i
        self_attn, linear1, linear2, norm1, norm2       attention, feed_in, feed_out, norm_attention, norm_feed
    rec | src _cross_fusion.layers.i                fusion_rec | fusion_search .i
        self_attn, linear1, linear2, norm1, norm3       layer.attention, .feed_in, .feed_out, .norm_attention, .norm_feed
        multihead_attn, norm2                           cross, norm_cross
    in_proj, out_proj of an attention               query, key, value (one below the other), out
    global_pos_emb | rec_pos | src_pos .pe          position | position_rec | position_search
    rec | src _his_attn_pooling.W[0], rec_query[0]  target_rec | target_search .query, recommendation_query
    ple_layer.share_experts.0.k.mlp.0               experts.k
    ple_layer.task_experts.0.j.k.mlp.0              recommendation | search .experts.k
    ple_layer.task_gates.0.j.0                      .gate, whose outputs are for shared, own experts; theirs: own, shared
    ple_layer.tower.j.mlp.0, 3                      .tower.0, 1
    rec | src _fc_layer.fc.0, 3, 6                  .output.0, 1, 2
    feature_alignment.infoNCE_loss: weight_matrix,  query_item: match, temperature.value
        temp
    rec | src _his_cl: weight_matrix, infoNCE_temp  views_rec | views_search: match, temperature.value
    word_embedding, query_trans                     inputs.word, inputs.query_projection
    user_id_emb, other fields in order, user_trans  inputs.user, user_values, user_features
    item_id_emb, other fields in order, item_trans  inputs.item, item_values, item_features, whose columns are for id,
                                                    categories, text; theirs: id, text, categories

What their program has besides enters no score: layers that others are cloned from and ``share_gates``, which never get a
gradient, and a mask item in the table's last row, which can be a negative of the query-item loss. Differences:

- Scores are logits, and the ranking loss is made from them; theirs are sigmoids, which saturate.
- Negatives of the query-item loss come from the batch instead of a cycled list, and a search without words has no pair: see
  ``alignment``. Pair by pair and with the same negatives the losses are equal. Without a pair it is 0 instead of NaN.
- A side without events gives zeros to z, and its row enters neither contrast of views. Theirs gives NaN, or with newer
  versions of torch an average over padding, and NaN for the contrast. The contrast of one row alone is 0, where theirs fails.
- Temperatures do not fall below .01. The share of dropout is rounded to 1/256.
- Row 0 of every table is padding, zero and never trained. Theirs has a user in it, and values of the user's fields.
- Initial values. Linear layers are Xavier normal in both. Theirs has in_proj Xavier uniform and equal in the two fusions, W of
  target attention at a standard deviation of about sqrt(2) / D, and Xavier normal for positions, ``recommendation_query``
  (.13 to .18 at D = 64; here .02) and the tables (here ``embedding_std``).

The first layer of the PLE multiplies what all candidates share only once; that changes no number.

Sources: the authors' program; the paper's body was not available.
"""

from dataclasses import dataclass, fields, replace
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from seerec.batch import RECOMMENDATION, SEARCH, Batch
from seerec.models.alignment import QueryItemAlignment, ViewContrast
from seerec.models.attention import Attention, EncoderLayer
from seerec.models.base import Kind, ModelConfig, NeuralRecommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.layers import initialise, masked_mean, reach
from seerec.models.losses import ranking_loss
from seerec.models.merging import merge
from seerec.models.ple import TaskHead
from seerec.models.target_attention import Mixture, TargetAttention
from seerec.models.unpacking import unpack, unpack_items

Width = Annotated[int, Field(ge=1, le=65_536)]


class UniSARConfig(ModelConfig):
    """Settings of UniSAR; the defaults are the authors' for KuaiSAR."""

    layers: int = Field(1, ge=1, le=100)
    """Layers of each encoder and of each fusion (authors' program)."""
    heads: int = Field(2, ge=1)
    """Heads of every attention but the target attention, which has one (authors' program)."""
    feed_width: int | None = Field(None, ge=1, le=65_536)
    """Inner width of the feed-forward networks; None: D (authors' program)."""
    shared_experts: int = Field(4, ge=1, le=1000)
    """Experts that both tasks read (authors' program)."""
    own_experts: int = Field(4, ge=1, le=1000)
    """Experts of each task (authors' program)."""
    expert_width: Width = 64
    """Outputs of an expert (authors' program)."""
    tower: tuple[Width, ...] = Field((128, 64), min_length=1)
    """Layers of each task's tower (authors' program)."""
    hidden: tuple[Width, ...] = (200, 80)
    """Hidden layers of each task's MLP after its tower (authors' program)."""
    search_weight: float = Field(0.1, ge=0)
    """Weight of the search task beside recommendation (authors: .1 on KuaiSAR, .01 on Amazon)."""
    query_item_weight: float = Field(0.001, ge=0)
    """Weight of the contrastive loss between queries and clicked items (authors: .001 on KuaiSAR, .1 on Amazon)."""
    query_item_temperature: float = Field(0.5, gt=0)
    """Where its learned temperature starts (authors: .5 on KuaiSAR, .1 on Amazon)."""
    query_item_negatives: int = Field(1024, ge=1)
    """Its negatives in either direction, at most (authors: 1024)."""
    view_weight: float = Field(0.1, ge=0)
    """Weight of the contrastive loss between views of a row (authors: .1 on KuaiSAR, .01 on Amazon)."""
    view_temperature: float = Field(0.1, gt=0)
    """Where its learned temperatures start (authors' program)."""


@dataclass(frozen=True)
class UniSARState:
    """What the histories became, M = B T rows of one target each."""

    targets: int  # T, how many targets a row of the batch had
    task: Tensor  # M
    user: Tensor  # M D
    query: Tensor  # M D      of the target; for a recommendation the learned vector
    fused_rec: Tensor  # M R D    F_r
    fused_search: Tensor  # M S D    F_s
    sees_rec: Tensor  # M R      bool
    sees_search: Tensor  # M S      bool
    queries: Tensor  # M S D    e_q of the searches
    views: Tensor  # M 4 D    means of s2r, R, r2s, S over what the target sees

    def rows(self, index: Tensor) -> "UniSARState":
        """Some rows of the state, one target each."""
        tensors = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "targets"}
        return replace(self, targets=1, **tensors)


class UniSAR(NeuralRecommender[UniSARState]):
    """See the module's docstring."""

    key = "unisar"
    title = "UniSAR"
    reads = frozenset({"rec", "query", "click", "user", "time", "features"})
    searches = True
    Config = UniSARConfig

    def __init__(self, config: UniSARConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__()
        d, inner = config.width, config.feed_width or config.width
        self.config = config
        self.inputs = InputLayer(vocabulary, config)
        self.position = nn.Parameter(torch.empty(rec_length + search_length, d))
        self.position_rec = nn.Parameter(torch.empty(rec_length, d))
        self.position_search = nn.Parameter(torch.empty(search_length, d))

        def encoder() -> nn.ModuleList:
            return nn.ModuleList(EncoderLayer(d, config.heads, inner, config.dropout) for _ in range(config.layers))

        def fusion() -> nn.ModuleList:
            return nn.ModuleList(FusionLayer(d, config.heads, inner, config.dropout) for _ in range(config.layers))

        def head() -> TaskHead:
            experts = (config.shared_experts, config.own_experts)
            return TaskHead(5, d, config.expert_width, experts, config.tower, config.hidden, config.dropout)

        self.across, self.within_rec, self.within_search = encoder(), encoder(), encoder()
        self.fusion_rec, self.fusion_search = fusion(), fusion()
        self.target_rec, self.target_search = TargetAttention(d, "bilinear", 1), TargetAttention(d, "bilinear", 1)
        self.recommendation_query = nn.Parameter(torch.empty(d))
        self.experts = nn.ModuleList(nn.Linear(5 * d, config.expert_width) for _ in range(config.shared_experts))
        self.recommendation, self.search = head(), head()
        self.query_item = QueryItemAlignment(d, config.query_item_temperature, config.query_item_negatives)
        self.views_rec, self.views_search = (ViewContrast(d, config.view_temperature) for _ in range(2))
        initialise(self)
        for table in (self.position, self.position_rec, self.position_search, self.recommendation_query):
            nn.init.normal_(table, std=0.02)

    def encode(self, batch: Batch) -> UniSARState:
        """Both histories of each target, and its query."""
        one = unpack(batch)
        rec_reach, search_reach = reach(one.rec != 0, one.rec_seen), reach(one.searched, one.search_seen)
        sees_rec, sees_search = rec_reach.visible[:, 0], search_reach.visible[:, 0]
        queries = self.inputs.queries(one.query)
        clicks = self.inputs.items(one.rec)
        searches = queries + masked_mean(self.inputs.items(one.click), one.click != 0)
        s2r, r2s = self._across(one, clicks, searches, sees_rec, sees_search)
        rec = clicks + self.position_rec[rec_reach.position]
        search = searches + self.position_search[search_reach.position]
        for layer in self.within_rec:
            rec = layer(rec, all_see(rec, sees_rec))
        for layer in self.within_search:
            search = layer(search, all_see(search, sees_search))
        fused_rec, fused_search = rec, search
        for layer in self.fusion_rec:
            fused_rec = layer(fused_rec, s2r, sees_rec)
        for layer in self.fusion_search:
            fused_search = layer(fused_search, r2s, sees_search)
        is_search = (one.task == SEARCH).unsqueeze(1)
        views = [(s2r, sees_rec), (rec, sees_rec), (r2s, sees_search), (search, sees_search)]
        return UniSARState(
            targets=batch.rec_seen.shape[1],
            task=one.task,
            user=self.inputs.users(one.user),
            query=torch.where(is_search, self.inputs.queries(one.target_query[:, 0]), self.recommendation_query),
            fused_rec=fused_rec,
            fused_search=fused_search,
            sees_rec=sees_rec,
            sees_search=sees_search,
            queries=queries,
            views=torch.stack([masked_mean(states, sees) for states, sees in views], 1),
        )

    def _across(self, batch: Batch, rec: Tensor, search: Tensor, sees_rec: Tensor, sees_search: Tensor) -> tuple[Tensor, Tensor]:
        """Transitions s2r and r2s. Only tokens of different kinds attend, so each kind's tokens stay in their own tensor."""
        place = merge(batch).place
        rec = rec + self.position[place[:, : rec.shape[1]]]
        search = search + self.position[place[:, rec.shape[1] :]]
        for module in self.across:
            layer = cast(EncoderLayer, module)
            rec, search = (
                layer.read(rec, layer.attention.keys_values(search), all_see(rec, sees_search)),
                layer.read(search, layer.attention.keys_values(rec), all_see(search, sees_rec)),
            )
        return rec, search

    def score(self, state: UniSARState, items_BTCD: Tensor) -> Tensor:
        """B T C; each row is scored by the head of its task alone."""
        targets, c = state.targets, items_BTCD.shape[2]
        b = len(state.task) // targets
        items = unpack_items(items_BTCD, b, targets)
        logits = items.new_zeros(b * targets, c)
        for task, head in ((RECOMMENDATION, self.recommendation), (SEARCH, self.search)):
            rows = (state.task == task).nonzero().flatten()
            if len(rows):
                of_task = self._score(head, state.rows(rows), items if len(items) == 1 else items[rows])
                logits = logits.index_copy(0, rows, of_task)
        return logits.view(b, targets, c)

    def _score(self, head: TaskHead, state: UniSARState, items: Tensor) -> Tensor:
        """Rows of one task, M C; items are M 1 C D or 1 1 C D."""
        f_r = target_attention(self.target_rec, items, state.fused_rec, state.sees_rec)
        f_s = target_attention(self.target_search, items, state.fused_search, state.sees_search)
        z = (f_r, f_s, items, state.user[:, None, None], state.query[:, None, None])
        return head(z, self.experts).squeeze(1)

    def objective(self, batch: Batch, state: UniSARState, kind: Kind = "group") -> dict[str, Tensor]:  # noqa: ARG002
        """Both objectives are the paper's: ranking, query-item and view terms, of the batch's task."""
        config, one = self.config, unpack(batch)
        logits = self.score(state, self.items(batch.candidates))
        terms = {"rank": ranking_loss(logits, batch.positive, batch.target_mask, config.loss)}
        has_both = one.target_mask[:, 0] & state.sees_rec.any(1) & state.sees_search.any(1)
        if config.query_item_weight > 0:
            shown = state.sees_search & one.target_mask
            terms["query_item"] = config.query_item_weight * self.query_item(one, shown, state.queries, self.items)
        if config.view_weight > 0:
            s2r, rec, r2s, search = state.views[has_both].unbind(1)
            terms["views"] = config.view_weight * (self.views_rec(s2r, rec) + self.views_search(r2s, search))
        return terms


class FusionLayer(nn.Module):
    """torch's decoder layer: attention among the targets, attention to the memory, feed-forward; a norm after each."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.layer = EncoderLayer(width, heads, inner, dropout)
        self.cross = Attention(width, heads, dropout)
        self.norm_cross = nn.LayerNorm(width)

    def forward(self, x_MLD: Tensor, memory_MLD: Tensor, sees_ML: Tensor) -> Tensor:
        """M L D -> M L D; targets and memory are the same events."""
        layer, mask = self.layer, all_see(x_MLD, sees_ML)
        update = layer.attention(x_MLD, layer.attention.keys_values(x_MLD), mask)
        x = layer.join(x_MLD, update, layer.norm_attention)
        update = self.cross(x, self.cross.keys_values(memory_MLD), mask)
        return layer.feed(layer.join(x, update, self.norm_cross))


def all_see(x_MLD: Tensor, sees_MK: Tensor) -> Tensor:
    """M L K: every slot of ``x`` sees the same K events."""
    return sees_MK.unsqueeze(1).expand(-1, x_MLD.shape[1], -1)


def target_attention(attention: TargetAttention, items: Tensor, events_MLD: Tensor, sees_ML: Tensor) -> Tensor:
    """Candidates over a history alone, without own states: M 1 C D; zeros where nothing is seen."""
    m, _, d = events_MLD.shape
    attended: Mixture = attention(items, events_MLD, sees_ML.unsqueeze(1), events_MLD.new_zeros(m, 1, 1, 0, d))
    return attended.vector().squeeze(2)
