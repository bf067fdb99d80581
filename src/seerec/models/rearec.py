"""ReaRec: latent reasoning for sequential recommendation (Tang et al., "Think Before Recommend", arXiv 2503.22675, 2025).

A causal Transformer encodes the clicked items; its state at the last visible event is r_0. K times the last state comes
back as one more token, x_k = LN(r_{k-1} + p_k), which attends to the history and to the tokens x_1..x_k through the same
layers: r_k. Keys and values of the history are projected once per layer and shared by all targets of a packed row.

ERL (ensemble): u = mean of r_0..r_K, and a term that keeps the steps' predictions apart. PRL (progressive): u = r_K, every
step predicts the item at a temperature that falls towards the last, and states reasoned from noisy tokens must find their
clean ones among those of other users. Either way the score is <u, e_v> / tau; the MLP scorer finds its own scale.

``original`` takes the cross-entropy over the catalogue for the ranking term and the terms of the steps; ``group`` takes the
shared ranking loss for the former and the target's candidates as the latter's catalogue. Neither paper nor program has a
reinforcement stage, so these are models of one stage.

Against the authors' program and the paper's text: the program's mean over steps divides by K + 1 (the paper prints 1 / K) and
its divergence is a mean over ordered pairs (``divergence``). Its noise has standard deviation .01 where the paper writes the
variance. It starts the contrastive term of PRL after a number of epochs, and fails before them, at K = 0 and at weight 0,
since the term is then undefined; here a model knows no epochs, the term acts from the first step, and is left out in those
cases. The noisy branch reads the clean branch's encoding of the history, which differs by dropout alone, and negatives are
the other rows' targets in the same slot, which is the batch when rows have one target. Dropout also acts inside the
feed-forward network. With ``width`` 256, ``dropout`` .5, ``softmax`` full, no features and the objective ``original`` the
settings are theirs; from equal weights scores and losses are equal, whichever side the padding is on.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from seerec.batch import Batch
from seerec.models.base import Kind, Vocabulary
from seerec.models.contexts import append
from seerec.models.layers import EncoderLayer, KeysValues, dropout, history_mask, initialise, initialise_normal
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
    """Of the divergence between the steps' predictions, which is to be large (.05; the paper searched .001 to .1)."""
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
    history: list[KeysValues]  # per layer, B h L e
    temperature: float  # of the scores


class ReaRec(SequentialRecommender[ReaRecState]):
    """The backbone and its reasoning. Names: ``input_norm`` and ``step_position`` are the wrapper's of the program."""

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
        initialise(self)
        initialise_normal(nn.ModuleList([self.input_norm, self.blocks]))
        for table in (self.position, self.step_position):
            nn.init.normal_(table, std=0.02)

    def encode(self, batch: Batch) -> ReaRecState:
        """Encode the events once, then K steps per target."""
        tokens, present, seen = self.sequence(batch)
        x = self._input(tokens + self.position[seen.position]) * present.unsqueeze(2)
        mask = history_mask(present, causal=True)
        history: list[KeysValues] = []
        for block in self._layers():
            history.append(block.attention.keys_values(x))
            x = block.read(x, history[-1], mask) * present.unsqueeze(2)
        steps = self._reason(seen.gather(x), history, seen.visible)
        vector = steps.mean(2) if self.ensemble else steps[:, :, -1]
        tau = self.config.temperature if self.mlp is None else 1.0
        return ReaRecState(vector, self.user(batch), steps=steps, visible=seen.visible, history=history, temperature=tau)

    def _reason(self, start: Tensor, history: list[KeysValues], visible: Tensor, given: Tensor | None = None) -> Tensor:
        """r_0..r_K, B T 1+K D, from r_0, B T D. With ``given`` (B T K D) step k comes from given[k - 1], not from r_{k-1}."""
        own: list[KeysValues | None] = [None] * self.config.layers
        states = [start]
        for k in range(self.config.steps):
            x = self._input((states[-1] if given is None else given[:, :, k]) + self.step_position[k])
            for depth, block in enumerate(self._layers()):
                own[depth] = append(own[depth], block.attention.own_keys_values(x))
                x = block.read(x, history[depth], visible, own[depth])
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
        log = torch.stack(each, 2)
        other = log.detach() if self.config.divergence == "mean" else log
        cross = log.exp() @ other.transpose(2, 3)  # B T i j   sum of p_i log p_j
        kl = (log.exp() * log).sum(3, keepdim=True) - cross
        if self.config.divergence == "pairs":
            return mean_over(kl.triu(1).sum((2, 3)), batch.target_mask)
        apart = kl.masked_fill(torch.eye(len(each), dtype=torch.bool, device=kl.device), 0.0)
        return mean_over(apart.sum((2, 3)) / (len(each) * (len(each) - 1)), batch.target_mask)


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
            own, every = self.choices(batch, replace(state, vector=r, temperature=softer), kind)
            loss = loss + every.logsumexp(2) - own
        return mean_over(loss / self.config.steps, batch.target_mask)

    def contrastive(self, batch: Batch, state: ReaRecState) -> Tensor:
        """Mean over steps of InfoNCE: noisy r_k against the clean r_k of the rows that have a target in its slot."""
        tokens = state.steps[:, :, :-1]
        if self.training:
            tokens = tokens + torch.randn_like(tokens) * self.config.noise_std
        noisy = self._reason(tokens[:, :, 0], state.history, state.visible, given=tokens)
        similarity = torch.einsum("btkd,ctkd->ktbc", noisy[:, :, 1:], state.steps[:, :, 1:]) / self.config.temperature
        return mean_over(info_nce(similarity, batch.target_mask.T.unsqueeze(1)).mean(0).T, batch.target_mask)
