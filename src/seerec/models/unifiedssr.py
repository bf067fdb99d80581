"""UnifiedSSR: sequential search and recommendation with one pair of encoder branches (Xie et al., WWW 2024).

One encoder of shared weights reads a row's clicked items and its queries, each beside the other sequence:

    x = sqrt(D) (e + e_u) + p          a token; e is an item or the mean of a query's words, p a sinusoid of its position
    Enc(x, y), layer by layer:         y are the other sequence's tokens, which no layer changes
        a = x + attention(LN x among LN x)
        c = a + attention(LN a to y)
        x' = c + W2 relu(W1 LN c + b1) + b2                       after the last layer, LN x'

    recommendation   P = Enc(items, items) at the last click            score = sqrt(D) <P, e_v>
    search           P = Enc(items, queries), Q = Enc(queries, items)   score = sqrt(D) <w P + (1 - w) Q, e_v>

In a recommendation queries act through the shared weights alone; ``rec_uses_query_branch`` makes y its searches, each a query +
mean clicked item. In a search both states are read at the target: its query ends Q's sequence, and the last clicked item is read
once more, now seeing all queries up to the target's. The weight w is learned, in [.1, .9]. Who has no clicks gets P = 0, so all
scores are 0 and tie; in a search, and with ``rec_uses_query_branch``, a token of e = 0 stands for the last click.

Objective: L = rank + ``corr_weight`` corr. With P_k, Q_k the mean states of a target's two windows k (``session_windows``; their
predictor only chooses whole events and gets no gradient), and each mean over the pairs of which neither window is empty:

    corr = mean |cos(P_1, P_2)| + mean |cos(Q_1, Q_2)| - mean cos(P_k, Q_k)
    rank   ``group``: the shared ranking loss.  ``original``: w BCE(sqrt(D) <P, e_v>) + (1 - w) BCE(sqrt(D) <Q, e_v>), summed
           over a target's candidates, mean over targets; w = 1 in a recommendation

Rows of searches are the second task; the training loop weighs their whole objective by ``search_weight``. The authors pre-train
on both tasks, then fine-tune one, with Noam's schedule; we train both together.

The authors' program is this with ``causal = False``, ``restarts = True``, ``session_states = True`` and ``features = False``:
from equal weights, at the last target of histories of one length, scores, losses and gradients agree to 1e-4, if the two
differences marked * are put right there, or in here. Whose weight is whose:

    theirs                                          here
    u_embed, p_embed, q_t_embed .lut                inputs.user, inputs.item, inputs.word
    encoder.layers.i                                layers.i
        self_attn, cross_attn .linears.0 to .3          attention, cross .query, .key, .value, .out
        feed_forward.w_1, w_2                           feed_in, feed_out
        sublayer.0, 1, 2 .norm                          norm_attention, norm_cross, norm_feed
    encoder.norm                                    norm
    a_2, b_2 of a normalisation                     weight = sqrt((D - 1) / D) a_2, since they divide by D - 1; bias
    next_product_search_w                           mix
    seq_partition.offset_predictor                  sessions.predict.weight
    seq_partition.sub_seq_coder.width_bias          sessions.predict.bias, its second number; the first is 0

Differences (theirs in brackets):

- Events see what came before them [everything, in training their own target too; ``causal = False`` is that without the leak,
  since our rows never hold their targets].
- Each layer continues from the one below [each starts anew from the input, and only the last counts: ``restarts = True``].
- Clicks and searches have times of their own, so "before" is by time [sequences of equal length: click i stands beside query
  i + 1, at its position, after a padding item; our clicks in search have that position too].
- * P sees all queries and Q clicks alone [what is hidden of the own sequence is hidden of the other, though they are shifted: the
  first query from P, and Q sees the padding item, row 0 of the table, here zero].
- Windows cover what a target sees, and each target counts [the padded length of the batch; each row counts].
- * Q's windows cover all its queries [the first is left out].
- Scores leave the windows out [in training and in evaluation a state in a window counts twice: it is added to itself, where
  adding the window's mean was meant, it seems. ``session_states = True``].
- One dropout for all [.1 in the attentions, .5 elsewhere]. Their D is 32.
- Linear layers start Xavier normal, tables at ``embedding_std`` [all Xavier uniform].
- No 1e-24 inside logarithms; variances have an epsilon of 1e-5 [deviations of 1e-6].

Sources: the authors' program; the paper's body was not available.
"""

import math
from dataclasses import dataclass, fields

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import RECOMMENDATION, SEARCH, Batch
from seerec.kernels import dropout
from seerec.models.attention import Attention, history_mask
from seerec.models.base import Kind, ModelConfig, NeuralRecommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.layers import Reach, dot, initialise, reach
from seerec.models.losses import mean_over, ranking_loss
from seerec.models.merging import merge
from seerec.models.session_windows import SessionWindows
from seerec.models.unpacking import unpack


class UnifiedSSRConfig(ModelConfig):
    """Settings of UnifiedSSR."""

    layers: int = Field(2, ge=1, le=100)
    """Encoder layers (authors' program)."""
    heads: int = Field(4, ge=1)
    """Of every attention (authors' program)."""
    feed_width: int | None = Field(None, ge=1, le=65_536)
    """Inner width of the feed-forward networks; None: 2 D (authors' program)."""
    causal: bool = True
    """False: events see later ones too, as in the authors' program, whose mask is never used; one row per target (no packing)."""
    restarts: bool = False
    """True: every layer starts from the input and only the last one counts, as in the authors' program."""
    rec_uses_query_branch: bool = False
    """True: recommendation reads the searches. False as in the authors' program."""
    session_states: bool = False
    """True: a state that lies in a window counts twice, as in the authors' program."""
    corr_weight: float = Field(0.1, ge=0)
    """Weight of the session loss (authors' program)."""
    search_weight: float = Field(0.1, ge=0)
    """Weight of the search task beside recommendation (ours, as in UniSAR; the authors train one task after the other)."""


@dataclass(frozen=True)
class UnifiedState:
    """What scores are made of, and the windows for the session loss."""

    p: Tensor  # B T D      sqrt(D) P
    q: Tensor  # B T D      sqrt(D) Q; zeros for a recommendation
    w: Tensor  # B        1 for a recommendation
    windows: Tensor  # B T 2 2 D   means of (items, queries) x (first, second window); zeros where a window is empty

    @property
    def vector(self) -> Tensor:
        """B T D: w P + (1 - w) Q."""
        w = self.w[:, None, None]
        return w * self.p + (1 - w) * self.q


class UnifiedSSR(NeuralRecommender[UnifiedState]):
    """See the module's docstring."""

    key = "unifiedssr"
    title = "UnifiedSSR"
    reads = frozenset({"rec", "user", "features"})
    searches = True
    packs = True
    Config = UnifiedSSRConfig

    def __init__(self, config: UnifiedSSRConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__()
        d = config.width
        self.config, self.packs = config, config.causal
        self.reads = self.reads | ({"query", "click", "time"} if config.rec_uses_query_branch else set())
        self.inputs = InputLayer(vocabulary, config)
        self.register_buffer("position", sinusoid(max(rec_length, search_length) + 1, d), persistent=False)
        self.position: Tensor
        inner = config.feed_width or 2 * d
        self.layers = nn.ModuleList(UnifiedSSRLayer(d, config.heads, inner, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.mix = nn.Parameter(torch.tensor(0.5))
        initialise(self)
        self.sessions = SessionWindows(d)

    def encode(self, batch: Batch) -> UnifiedState:
        """Each row by its own task."""
        one = batch if self.config.causal else unpack(batch)
        b, t, d = *one.rec_seen.shape, self.config.width
        empty = self.norm.weight.new_zeros
        encoded = [empty(b, t, d), empty(b, t, d), empty(b, t, 2, 2, d)]  # p, q, windows
        for task, encode_task in ((RECOMMENDATION, self._recommendation), (SEARCH, self._search)):
            rows = (one.task == task).nonzero().flatten()
            if len(rows):
                of_task = encode_task(one.with_(**{f.name: getattr(one, f.name)[rows] for f in fields(one)}))
                encoded = [every.index_copy(0, rows, some) for every, some in zip(encoded, of_task, strict=True)]
        p, q, windows = (x.view(*batch.rec_seen.shape, *x.shape[2:]) for x in encoded)
        scale = math.sqrt(d)
        return UnifiedState(scale * p, scale * q, torch.where(batch.task == SEARCH, self._mixture(), 1.0), windows)

    def _mixture(self) -> Tensor:
        """The learned w. Training also moves it back between the bounds, where it has a gradient again."""
        if self.training:
            self.mix.data.clamp_(0.1, 0.9)
        return self.mix.clamp(0.1, 0.9)

    def _recommendation(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """P, no Q, and the windows of P."""
        user = self.inputs.users(batch.user).unsqueeze(1)
        rec_reach = reach(batch.rec != 0, batch.rec_seen)
        items = self._tokens(self.inputs.items(batch.rec), user, rec_reach.position)
        if self.config.rec_uses_query_branch:
            search_reach = reach(batch.searched, batch.search_seen)
            searches = self._tokens(self.inputs.searches(batch.query, batch.click), user, search_reach.position)
            cross_mask = self._stack_masks(search_before_click(batch), search_reach.visible)
            states, p = self._encode_with_target_tokens(items, batch.rec != 0, user, rec_reach, searches, cross_mask)
        else:
            causal_mask = history_mask(batch.rec != 0, causal=True)
            mask = causal_mask if self.config.causal else rec_reach.visible.expand_as(causal_mask)
            states = self._encode(items, mask, items, mask)
            p = rec_reach.gather(states)
        windows, p = self._sessions(states, rec_reach, batch.rec_seen - 1, p)
        return p, torch.zeros_like(p), torch.stack([windows, torch.zeros_like(windows)], 2)

    def _search(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """P, Q, and the windows of both. Clicks stand one place later than in a recommendation, as if after a start.

        Tokens of Q: [S queries | T target queries]. Tokens of P: [R clicks | T last clicks, read once more]. Rows of a mask are
        tokens, its columns what they attend to.
        """
        user = self.inputs.users(batch.user).unsqueeze(1)
        rec_reach, search_reach = reach(batch.rec != 0, batch.rec_seen), reach(batch.searched, batch.search_seen)
        items = self._tokens(self.inputs.items(batch.rec), user, rec_reach.position + 1)
        past_queries = self._tokens(self.inputs.queries(batch.query), user, search_reach.position)
        target_queries = self._tokens(self.inputs.queries(batch.target_query), user, batch.search_seen)
        queries = torch.cat([past_queries, target_queries], 1)
        search_first = search_before_click(batch)  # B R S

        cross_mask = self._stack_masks(search_first, search_reach.visible, own_token=True)
        p_states, p = self._encode_with_target_tokens(items, batch.rec != 0, user, rec_reach, queries, cross_mask)

        self_mask = self._stack_masks(history_mask(batch.searched, causal=True), search_reach.visible, own_token=True)
        cross_mask = self._stack_masks(~search_first.transpose(1, 2), rec_reach.visible)
        states = self._encode(queries, self_mask, items, cross_mask)
        q_states, q = states.split([past_queries.shape[1], target_queries.shape[1]], 1)

        p_windows, p = self._sessions(p_states, rec_reach, batch.rec_seen - 1, p)
        q_windows, q = self._sessions(q_states, search_reach, batch.search_seen, q)
        return p, q, torch.stack([p_windows, q_windows], 2)

    def _tokens(self, x_BLD: Tensor, user_B1D: Tensor, position_BL: Tensor) -> Tensor:
        tokens = (x_BLD + user_B1D) * math.sqrt(self.config.width) + self.position[position_BL]
        return dropout(tokens, self.config.dropout, self.training)

    def _encode_with_target_tokens(
        self, items_BRD: Tensor, present_BR: Tensor, user_B1D: Tensor, rec_reach: Reach, other_BKD: Tensor, cross_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Clicks encoded at their own times, B R D, and each target's last click at the target's, B T D.

        Without a click the user stands in for it. ``cross_mask`` is B R+T K.
        """
        start_token = self._tokens(torch.zeros_like(user_B1D), user_B1D, torch.zeros_like(rec_reach.last[:, :1]))
        target_tokens = torch.where(rec_reach.any.unsqueeze(2), rec_reach.gather(items_BRD), start_token)
        slot = torch.arange(items_BRD.shape[1], device=items_BRD.device)
        earlier_than_last = rec_reach.visible & (slot != rec_reach.last.unsqueeze(2))
        self_mask = self._stack_masks(history_mask(present_BR, causal=True), earlier_than_last, own_token=True)
        states = self._encode(torch.cat([items_BRD, target_tokens], 1), self_mask, other_BKD, cross_mask)
        clicks, targets = states.split([items_BRD.shape[1], target_tokens.shape[1]], 1)
        return clicks, targets

    def _stack_masks(self, events_BLK: Tensor, targets_BTK: Tensor, *, own_token: bool = False) -> Tensor:
        """What L events and then T targets see of K events: B L+T K.

        With ``own_token`` T more columns follow, one for each target's token, which the target alone sees: B L+T K+T. Without
        the causal mask (where T = 1) events see all that the target does, its token too.
        """
        (b, length, _), t = events_BLK.shape, targets_BTK.shape[1]
        if not self.config.causal:
            events_BLK = targets_BTK.expand_as(events_BLK)
        if own_token:
            of_events = events_BLK.new_full((b, length, t), not self.config.causal)
            of_targets = torch.eye(t, dtype=torch.bool, device=events_BLK.device).expand(b, t, t)
            events_BLK, targets_BTK = torch.cat([events_BLK, of_events], 2), torch.cat([targets_BTK, of_targets], 2)
        return torch.cat([events_BLK, targets_BTK], 1)

    def _encode(self, tokens_BLD: Tensor, self_mask_BLL: Tensor, other_BKD: Tensor, cross_mask_BLK: Tensor) -> Tensor:
        """Enc(tokens, other), B L D."""
        x = tokens_BLD
        for layer in self.layers:
            x = layer(tokens_BLD if self.config.restarts else x, self_mask_BLL, other_BKD, cross_mask_BLK)
        encoded: Tensor = self.norm(x)
        return encoded

    def _sessions(
        self, states_BLD: Tensor, history_reach: Reach, earlier_BT: Tensor, target_BTD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means of the windows over the earlier states and the target's own, B T 2 D, and the target's own, B T D."""
        windows, in_window = self.sessions(states_BLD, history_reach, earlier_BT.clamp(min=0), target_BTD)
        return windows, target_BTD * (1 + in_window.unsqueeze(2)) if self.config.session_states else target_BTD

    def score(self, state: UnifiedState, items_BTCD: Tensor) -> Tensor:
        """B T C."""
        return dot(state.vector, items_BTCD)

    def retrieval(self, state: UnifiedState) -> Tensor | None:
        """B T 1 D."""
        return state.vector.unsqueeze(2)

    def objective(self, batch: Batch, state: UnifiedState, kind: Kind = "group") -> dict[str, Tensor]:
        """``original``: cross-entropies summed over the candidates, those of P and of Q mixed instead of their scores."""
        items = self.items(batch.candidates)
        if kind == "original":
            w = state.w.mean()  # rows of one task have the same
            p, q = (ranking_loss(dot(x, items), batch.positive, batch.target_mask, "bce") for x in (state.p, state.q))
            rank = (w * p + (1 - w) * q) * batch.candidates.shape[2]
        else:
            rank = ranking_loss(self.score(state, items), batch.positive, batch.target_mask, self.config.loss)
        terms = {"rank": rank}
        if self.config.corr_weight > 0:
            terms["corr"] = self.config.corr_weight * self.correlation(state, batch.target_mask)
        return terms

    def correlation(self, state: UnifiedState, mask_BT: Tensor) -> Tensor:
        """Neighbouring windows should differ, those of items and queries agree; pairs with an empty window do not count."""
        first, second = state.windows.unbind(3)
        items, queries = state.windows.unbind(2)

        def mean(cosine: Tensor) -> Tensor:
            # An empty window is zeros, and then so is its cosine.
            return mean_over(cosine, mask_BT.view(*mask_BT.shape, *[1] * (cosine.dim() - 2)) & (cosine != 0))

        intra = F.cosine_similarity(first, second, dim=3).abs()  # B T 2, of (items, queries)
        inter = F.cosine_similarity(items, queries, dim=3)  # B T 2, of (first, second window)
        return mean(intra[..., 0]) + mean(intra[..., 1]) - mean(inter)


class UnifiedSSRLayer(nn.Module):
    """One layer of Enc: x + attention among x, + attention to the other sequence, + feed-forward; normalised before each."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_cross, self.norm_feed = (nn.LayerNorm(width) for _ in range(3))
        self.attention, self.cross = Attention(width, heads, dropout), Attention(width, heads, dropout)
        self.feed_in, self.feed_out = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor, self_mask_BLL: Tensor, other_BKD: Tensor, cross_mask_BLK: Tensor) -> Tensor:
        """B L D -> B L D."""
        normed = self.norm_attention(x_BLD)
        update = self.attention(normed, self.attention.keys_values(normed), self_mask_BLL)
        x = x_BLD + dropout(update, self.dropout, self.training)
        update = self.cross(self.norm_cross(x), self.cross.keys_values(other_BKD), cross_mask_BLK)
        x = x + dropout(update, self.dropout, self.training)
        inner = dropout(F.relu(self.feed_in(self.norm_feed(x))), self.dropout, self.training)
        return x + dropout(self.feed_out(inner), self.dropout, self.training)


def search_before_click(batch: Batch) -> Tensor:
    """B R S bool: whether a search came before a click."""
    place = merge(batch).place
    r = batch.rec.shape[1]
    return place[:, None, r:] < place[:, :r, None]


def sinusoid(length: int, width: int) -> Tensor:
    """L D: sin and cos of position / 10000^(2i / D), alternating."""
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    angle = torch.arange(length, dtype=torch.float64)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)[:, :width].float()
