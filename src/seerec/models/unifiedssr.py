"""UnifiedSSR: sequential search and recommendation with one pair of encoder branches (Xie et al., WWW 2024).

One encoder of shared weights reads a row's clicked items (P) and its queries (Q). Its layers are, with a normalisation before
each part: attention among the own events, attention to the other sequence's tokens, a feed-forward network. A token is
sqrt(D) (e + e_u) plus a sinusoidal position, where e is an item or the mean of a query's words; a candidate is sqrt(D) e_v.

* Recommendation: P = Enc(items, items) at the last click, score sqrt(D) <P, e_v>: queries act through the shared weights alone.
  ``rec_uses_query_branch`` gives the encoder the searches (query + mean clicked item) as the other sequence.
* Search: P = Enc(items, queries) and Q = Enc(queries, items), both read at the target: its query ends Q's sequence, and the
  last clicked item is read once more, now seeing all queries up to the target's. Score sqrt(D) <w P + (1 - w) Q, e_v>, with a
  learned w in [.1, .9].

Sessions: a sequence has two windows (``session_windows``). The term ``corr`` asks that the two differ (mean |cos|, of P and of
Q) and that windows of P and Q agree (- mean cos). The predictor of windows only chooses whole events: it gets no gradient.

Objectives: ``group`` is the shared 1:n loss, ``original`` the authors' binary cross-entropy summed over a target's 1 + 4
candidates, mean over targets, in search w times P's plus 1 - w times Q's; both add ``corr_weight`` times corr. What belongs to
training is not here: the authors pre-train on both tasks, then fine-tune one, with Noam's schedule; we train both together.

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

The paper's body was not available: the form is that of the program.
"""

import math
from dataclasses import dataclass, fields

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.models.base import Kind, ModelConfig, NeuralRecommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.layers import Attention, Reach, dot, dropout, history_mask, initialise, reach
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
    share: Tensor  # B        w, 1 for a recommendation
    windows: Tensor  # B T 2 2 D   means of (items, queries) x (first, second window); zeros where a window is empty

    @property
    def vector(self) -> Tensor:
        """B T D: w P + (1 - w) Q."""
        w = self.share[:, None, None]
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
        self.layers = nn.ModuleList(Layer(d, config.heads, inner, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.mix = nn.Parameter(torch.tensor(0.5))
        initialise(self)
        self.sessions = SessionWindows(d)

    def encode(self, batch: Batch) -> UnifiedState:
        """Each row by its own task."""
        one = batch if self.config.causal else unpack(batch)
        b, t, d = *one.rec_seen.shape, self.config.width
        empty = self.norm.weight.new_zeros
        found = [empty(b, t, d), empty(b, t, d), empty(b, t, 2, 2, d)]
        for task, read in enumerate((self._recommendation, self._search)):
            rows = (one.task == task).nonzero().flatten()
            if len(rows):
                part = read(Batch(**{f.name: getattr(one, f.name)[rows] for f in fields(one)}))
                found = [whole.index_copy(0, rows, own) for whole, own in zip(found, part, strict=True)]
        p, q, windows = (x.view(*batch.rec_seen.shape, *x.shape[2:]) for x in found)
        scale = math.sqrt(d)
        return UnifiedState(scale * p, scale * q, torch.where(batch.task == 1, self._share(), 1.0), windows)

    def _share(self) -> Tensor:
        """W. Training also moves what is learned back between the bounds, where it has a gradient again."""
        if self.training:
            self.mix.data.clamp_(0.1, 0.9)
        return self.mix.clamp(0.1, 0.9)

    def _recommendation(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """P, no Q, and the windows of P."""
        user = self.inputs.users(batch.user).unsqueeze(1)
        at = reach(batch.rec != 0, batch.rec_seen)
        items = self._tokens(self.inputs.items(batch.rec), user, at.position)
        if self.config.rec_uses_query_branch:
            searches = reach(batch.searched, batch.search_seen)
            other = self._tokens(self.inputs.searches(batch.query, batch.click), user, searches.position)
            sees = self._sees(search_before_click(batch), searches.visible)
            states, p = self._read_again(items, batch.rec != 0, user, at, other, sees)
        else:
            causal = history_mask(batch.rec != 0, causal=True)
            sees = causal if self.config.causal else at.visible.expand_as(causal)
            states = self._encode(items, sees, items, sees)
            p = at.gather(states)
        windows, p = self._sessions(states, at, batch.rec_seen - 1, p)
        return p, torch.zeros_like(p), torch.stack([windows, torch.zeros_like(windows)], 2)

    def _search(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """P, Q, and the windows of both. Clicks stand one place later than in a recommendation, as if after a start."""
        user = self.inputs.users(batch.user).unsqueeze(1)
        clicks, searches = reach(batch.rec != 0, batch.rec_seen), reach(batch.searched, batch.search_seen)
        items = self._tokens(self.inputs.items(batch.rec), user, clicks.position + 1)
        queries = torch.cat(
            [
                self._tokens(self.inputs.queries(batch.query), user, searches.position),
                self._tokens(self.inputs.queries(batch.target_query), user, batch.search_seen),
            ],
            1,
        )
        before = search_before_click(batch)
        p_states, p = self._read_again(
            items, batch.rec != 0, user, clicks, queries, self._sees(before, searches.visible, own=True)
        )
        among = self._sees(history_mask(batch.searched, causal=True), searches.visible, own=True)
        q_states = self._encode(queries, among, items, self._sees(~before.transpose(1, 2), clicks.visible))
        q_states, q = q_states.split([batch.searched.shape[1], batch.search_seen.shape[1]], 1)
        p_windows, p = self._sessions(p_states, clicks, batch.rec_seen - 1, p)
        q_windows, q = self._sessions(q_states, searches, batch.search_seen, q)
        return p, q, torch.stack([p_windows, q_windows], 2)

    def _tokens(self, x: Tensor, user_B1D: Tensor, position: Tensor) -> Tensor:
        tokens = (x + user_B1D) * math.sqrt(self.config.width) + self.position[position]
        return dropout(tokens, self.config.dropout, self.training)

    def _read_again(
        self, items: Tensor, present: Tensor, user: Tensor, at: Reach, other: Tensor, other_sees: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Clicks encoded at their own times, B R D, and each target's last click at the target's, B T D.

        Without a click the user stands in for it.
        """
        nothing = self._tokens(torch.zeros_like(user), user, torch.zeros_like(at.last[:, :1]))
        again = torch.where(at.any.unsqueeze(2), at.gather(items), nothing)
        rest = at.visible & (torch.arange(items.shape[1], device=items.device) != at.last.unsqueeze(2))
        among = self._sees(history_mask(present, causal=True), rest, own=True)
        states = self._encode(torch.cat([items, again], 1), among, other, other_sees)
        events, targets = states.split([items.shape[1], again.shape[1]], 1)
        return events, targets

    def _sees(self, events_BLK: Tensor, targets_BTK: Tensor, *, own: bool = False) -> Tensor:
        """What L events and T targets see of K events, and with ``own`` of T tokens beside them, one for each target."""
        (b, length, _), t = events_BLK.shape, targets_BTK.shape[1]
        if not self.config.causal:
            events_BLK = targets_BTK.expand_as(events_BLK)
        if own:
            none = events_BLK.new_full((b, length, t), not self.config.causal)
            itself = torch.eye(t, dtype=torch.bool, device=none.device).expand(b, t, t)
            events_BLK, targets_BTK = torch.cat([events_BLK, none], 2), torch.cat([targets_BTK, itself], 2)
        return torch.cat([events_BLK, targets_BTK], 1)

    def _encode(self, tokens: Tensor, sees: Tensor, other: Tensor, other_sees: Tensor) -> Tensor:
        x = tokens
        for layer in self.layers:
            x = layer(tokens if self.config.restarts else x, sees, other, other_sees)
        found: Tensor = self.norm(x)
        return found

    def _sessions(self, states: Tensor, at: Reach, earlier: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the windows over the earlier events and the target's own state, and that state."""
        windows, held = self.sessions(states, at, earlier.clamp(min=0), own)
        return windows, own * (1 + held.unsqueeze(2)) if self.config.session_states else own

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
            w = state.share.mean()  # rows of one task have the same
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
            return mean_over(cosine, mask_BT.view(*mask_BT.shape, *[1] * (cosine.dim() - 2)) & (cosine != 0))

        intra = F.cosine_similarity(first, second, dim=3).abs()
        return mean(intra[..., 0]) + mean(intra[..., 1]) - mean(F.cosine_similarity(items, queries, dim=3))


class Layer(nn.Module):
    """x + attention among x, + attention to the other sequence, + feed-forward; x is normalised before each."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_cross, self.norm_feed = (nn.LayerNorm(width) for _ in range(3))
        self.attention, self.cross = Attention(width, heads, dropout), Attention(width, heads, dropout)
        self.feed_in, self.feed_out = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor, sees_BLL: Tensor, other_BKD: Tensor, sees_BLK: Tensor) -> Tensor:
        """B L D -> B L D."""
        inside = self.norm_attention(x_BLD)
        update, _ = self.attention(inside, self.attention.keys_values(inside), sees_BLL)
        x = x_BLD + dropout(update, self.dropout, self.training)
        update, _ = self.cross(self.norm_cross(x), self.cross.keys_values(other_BKD), sees_BLK)
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
