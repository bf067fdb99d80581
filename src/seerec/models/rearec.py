"""ReaRec: latent reasoning for sequential recommendation (Tang et al., "Think Before Recommend", arXiv 2503.22675, 2025).

A causal Transformer encodes the clicked items E with positions P; its last state comes back K times as one more token x_k, with
a position p_k of its own, through the same blocks, where it attends to the history and to the tokens so far:

    X = LN(E + P)    H = Blocks(X)    r_0 = H at the last visible event                                 ``encode``
    x_k = LN(r_{k-1} + p_k)    r_k = Blocks(x_k | X, x_1 .. x_k),  k = 1 .. K                           ``_reason``
    ERL (ensemble): u = mean of r_0 .. r_K    PRL (progressive): u = r_K    score = <u, e_v> / tau

Objectives, y_k = softmax over v of <r_k, e_v> / tau, v+ the next item, sg: no gradient:

    ERL   rank - kl_weight * mean over i != j of KL(y_i || sg(y_j)), which keeps the steps apart        ``divergence``
    PRL   rank + step_weight * mean over k < K of -log softmax_v(<r_k, e_v> / (tau alpha^(K-k)))[v+]    ``progressive``
               + contrastive_weight * mean over k > 0 of
                 -log(exp(<r~_k, r_k> / tau) / sum over rows b of exp(<r~_k, r_k^b> / tau))             ``contrastive``
          r~_k: the same run from noisy tokens LN(r_{k-1} + noise + p_k), noise of deviation gamma

``original``: rank is the cross-entropy over the catalogue, which v runs over. ``group``: rank is the shared ranking loss, and v
runs over the target's candidates. With the MLP scorer, which finds its own scale, tau is 1 in all but the contrastive term. No
reinforcement stage: neither paper nor program has one. Who has seen nothing has r_0 = 0 and is scored by the p_k alone; at
K = 0, by dot product, all items tie.

Differences. The paper prints 1 / K for the mean over K + 1 steps and a sum over i < j for the divergence (``divergence``), and
gamma for the variance of the noise; here as in the authors' program. That program starts the contrastive term after a number of
epochs, and fails before them, at K = 0 and at weight 0, since the term is then undefined; here a model knows no epochs, the term
acts from the first step, and is left out in those cases. The noisy branch reads the clean branch's encoding of the history
(theirs: one that differs by dropout), and its negatives are the other rows' targets in the same slot (theirs: the batch, which is
the same when rows have one target). Dropout also acts inside the feed-forward network.

Names of the program, theirs -> here; their padding is the last row of ``item_emb``, here row 0:

    item_emb, pos_emb -> inputs.item, position                        model.LayerNorm -> input_norm
    model.reason_pos_emb -> step_position                             trm_encoder.layer.N -> blocks.N, and in it
    multi_head_attention.{query_layer, key_layer, value_layer, dense} -> attention.{query, key, value, out}
    multi_head_attention.LayerNorm -> norm_attention                  feed_forward.LayerNorm -> norm_feed
    feed_forward.{dense_1, dense_2} -> feed_in, feed_out

With ``width`` 256, ``dropout`` .5, ``softmax`` full, no features and the objective ``original`` the settings are theirs; from
equal weights scores and losses are equal, whichever side the padding is on.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from seerec.batch import Batch
from seerec.kernels import dropout
from seerec.models.attention import EncoderLayer, KeysValues, Own, history_mask
from seerec.models.base import Kind, Vocabulary
from seerec.models.layers import initialise, initialise_normal
from seerec.models.losses import info_nce, mean_over
from seerec.models.sequential import SequenceState, SequentialConfig, SequentialRecommender


class ReaRecConfig(SequentialConfig):
    """Settings both variants share; defaults of the authors' program unless said otherwise."""

    layers: int = Field(2, ge=1, le=100)
    """Blocks, post-norm with GELU."""
    heads: int = Field(2, ge=1)
    """Attention heads."""
    inner: int = Field(300, ge=1, le=65_536)
    """Inner width of the feed-forward network."""
    steps: int = Field(2, ge=0, le=100)
    """K, reasoning steps; 2 is the paper's best. 0: the backbone alone, for both variants."""
    input_dropout: float = Field(0.2, ge=0, lt=1)
    """On the inputs and on each reasoning token, beside ``dropout`` of the layers (theirs: .5; here the shared default)."""
    temperature: float = Field(0.07, gt=0)
    """tau, which divides dot products."""


class ERLConfig(ReaRecConfig):
    """Settings of ReaRec-ERL."""

    kl_weight: float = Field(0.05, ge=0)
    """lambda, of the divergence between the steps' predictions, which is to be large (.05; the paper searched .001 to .1)."""
    divergence: Literal["mean", "pairs"] = "mean"
    """mean: over all ordered pairs, the second distribution held fixed (program). pairs: sum over i < j (paper)."""


class PRLConfig(ReaRecConfig):
    """Settings of ReaRec-PRL."""

    step_weight: float = Field(1.0, ge=0)
    """Of the mean cross-entropy of r_0..r_{K-1}."""
    temperature_scale: float = Field(5.0, gt=0)
    """alpha: step k is judged at tau alpha^(K-k) (5; the paper searched 1 to 10)."""
    contrastive_weight: float = Field(1.0, ge=0)
    """Of the contrastive term between clean and noisy reasoning."""
    noise_std: float = Field(0.01, ge=0)
    """gamma, standard deviation of the noise on reasoning tokens, while training."""


@dataclass(frozen=True, kw_only=True)
class ReaRecState(SequenceState):
    """``vector`` is u."""

    steps: Tensor  # B T 1+K D   r_0..r_K
    visible: Tensor  # B T L       events each target sees
    history: list[KeysValues]  # per layer, B L+K D
    temperature: float  # of the scores


class ReaRec(SequentialRecommender[ReaRecState]):
    """The backbone and its reasoning."""

    packs = True
    ensemble: ClassVar[bool]

    def __init__(self, config: ReaRecConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__(config, vocabulary, rec_length, search_length)
        d = config.width
        self.position = nn.Parameter(torch.empty(self.length, d))
        self.step_position = nn.Parameter(torch.empty(config.steps, d))
        self.input_norm = nn.LayerNorm(d)
        self.blocks = nn.ModuleList(
            EncoderLayer(d, config.heads, config.inner, config.dropout, "post", "gelu") for _ in range(config.layers)
        )
        initialise(self)  # stays for the features and the MLP scorer; the next line is the program's, for its own parts
        initialise_normal(nn.ModuleList([self.input_norm, self.blocks]))
        for table in (self.position, self.step_position):
            nn.init.normal_(table, std=0.02)

    def encode(self, batch: Batch) -> ReaRecState:
        """Encode the events once, then K steps per target."""
        tokens, present, reach = self.sequence(batch)
        x = self._input(tokens + self.position[reach.position]) * present.unsqueeze(2)
        mask = history_mask(present, causal=True)
        history: list[KeysValues] = []
        for block in self._layers():
            history.append(block.attention.keys_values(x))
            x = block.read(x, history[-1], mask) * present.unsqueeze(2)
        steps = self._reason(reach.gather(x), history, reach.visible)
        vector = steps.mean(2) if self.ensemble else steps[:, :, -1]
        tau = self.config.temperature if self.mlp is None else 1.0
        return ReaRecState(vector, self.user(batch), steps=steps, visible=reach.visible, history=history, temperature=tau)

    def _reason(self, start: Tensor, history: list[KeysValues], visible: Tensor, forced: Tensor | None = None) -> Tensor:
        """r_0..r_K, B T 1+K D, from r_0, B T D. ``forced`` (B T K D, teacher forcing) takes the place of r_0..r_{K-1}."""
        tokens: list[Own] = [()] * self.config.layers  # x_1..x_k of every layer
        states = [start]
        for k in range(self.config.steps):
            x = self._input((states[-1] if forced is None else forced[:, :, k]) + self.step_position[k])
            for depth, block in enumerate(self._layers()):
                tokens[depth] = (*tokens[depth], block.attention.keys_values(x))
                x = block.read(x, history[depth], visible, tokens[depth])
            states.append(x)
        return torch.stack(states, 2)

    def _input(self, x: Tensor) -> Tensor:
        return dropout(self.input_norm(x), self.config.input_dropout, self.training)

    def _layers(self) -> list[EncoderLayer]:
        return [cast(EncoderLayer, block) for block in self.blocks]

    def score(self, state: ReaRecState, items_BTCD: Tensor) -> Tensor:
        """B T C, divided by the state's temperature."""
        return super().score(state, items_BTCD) / state.temperature

    def choices(self, batch: Batch, state: ReaRecState, kind: Kind) -> tuple[Tensor, Tensor]:
        """Logit of the positive, B T, and of all that it competes with, B T M: the candidates, or the catalogue."""
        if kind == "original":
            return self.catalogue_logits(batch, state)
        logits = self.score(state, self.items(batch.candidates))
        return logits.gather(2, batch.positive.unsqueeze(2)).squeeze(2), logits

    def objective(self, batch: Batch, state: ReaRecState, kind: Kind = "group") -> dict[str, Tensor]:
        """The ranking term at u; the variants add theirs. ``original``: cross-entropy over the catalogue."""
        return super().objective(batch, state, kind) if kind == "group" else {"rank": self.catalogue_loss(batch, state)}


class ReaRecERL(ReaRec):
    """Ensemble reasoning learning."""

    key = "rearec-erl"
    title = "ReaRec-ERL"
    Config = ERLConfig
    ensemble = True

    def objective(self, batch: Batch, state: ReaRecState, kind: Kind = "group") -> dict[str, Tensor]:
        """Adds ``diversity`` <= 0: minus the divergence between the steps' predictions."""
        terms = super().objective(batch, state, kind)
        if self.config.steps > 0 and self.config.kl_weight > 0:
            terms["diversity"] = -self.config.kl_weight * self.divergence(batch, state, kind)
        return terms

    def divergence(self, batch: Batch, state: ReaRecState, kind: Kind) -> Tensor:
        """KL between the predictions of r_0..r_K."""
        each = [self.choices(batch, replace(state, vector=r), kind)[1].log_softmax(2) for r in state.steps.unbind(2)]
        log_y, count = torch.stack(each, 2), len(each)
        fixed = log_y.detach() if self.config.divergence == "mean" else log_y
        cross = log_y.exp() @ fixed.transpose(2, 3)  # B T i j   sum over items of y_i log y_j
        kl = (log_y.exp() * log_y).sum(3, keepdim=True) - cross
        if self.config.divergence == "pairs":
            return mean_over(kl.triu(1).sum((2, 3)), batch.target_mask)
        kl = kl.masked_fill(torch.eye(count, dtype=torch.bool, device=kl.device), 0.0)
        return mean_over(kl.sum((2, 3)) / (count * (count - 1)), batch.target_mask)


class ReaRecPRL(ReaRec):
    """Progressive reasoning learning."""

    key = "rearec-prl"
    title = "ReaRec-PRL"
    Config = PRLConfig
    ensemble = False

    def objective(self, batch: Batch, state: ReaRecState, kind: Kind = "group") -> dict[str, Tensor]:
        """Adds ``steps``, the cross-entropy of the earlier steps, and ``contrastive``."""
        terms, config = super().objective(batch, state, kind), self.config
        if config.steps > 0 and config.step_weight > 0:
            terms["steps"] = config.step_weight * self.progressive(batch, state, kind)
        if config.steps > 0 and config.contrastive_weight > 0:
            terms["contrastive"] = config.contrastive_weight * self.contrastive(batch, state)
        return terms

    def progressive(self, batch: Batch, state: ReaRecState, kind: Kind) -> Tensor:
        """Mean over k < K of the cross-entropy of r_k at temperature tau alpha^(K-k)."""
        loss = torch.zeros_like(state.vector[..., 0])
        for k, r in enumerate(state.steps[:, :, :-1].unbind(2)):
            softer = state.temperature * self.config.temperature_scale ** (self.config.steps - k)
            positive_logit, logits = self.choices(batch, replace(state, vector=r, temperature=softer), kind)
            loss = loss + logits.logsumexp(2) - positive_logit
        return mean_over(loss / self.config.steps, batch.target_mask)

    def contrastive(self, batch: Batch, state: ReaRecState) -> Tensor:
        """Mean over steps of InfoNCE: noisy r_k against the clean r_k of the rows that have a target in its slot."""
        earlier = state.steps[:, :, :-1]
        if self.training:
            earlier = earlier + torch.randn_like(earlier) * self.config.noise_std
        noisy = self._reason(earlier[:, :, 0], state.history, state.visible, forced=earlier)
        # [k t noisy-row clean-row]: every step and slot is a batch of its own.
        similarity = torch.einsum("btkd,ctkd->ktbc", noisy[:, :, 1:], state.steps[:, :, 1:]) / self.config.temperature
        loss_TB = info_nce(similarity, batch.target_mask.T.unsqueeze(1)).mean(0)
        return mean_over(loss_TB.T, batch.target_mask)
