"""LARES: latent reasoning by recurrent depth for sequential recommendation (Liu et al., arXiv 2505.16865, 2025).

A pre-block encodes the clicked items E with positions P once. A core block then turns random states of the whole sequence into
answers, again and again with the same weights, so depth grows without parameters. Both are causal and pre-norm, so a packed row
holds a state per target.

    H = Pre(LN1(E + P))                                                                ``history``
    S_0 = omega z,  S_t = Core(LN2((S_{t-1} + H) / 2)),  t = 1 .. T                     ``reason``; ``mix`` has other means
    u = S_T at the last visible event,  score = <u, e_v>
    training: T = min(1 + Poisson(rate), 3 m), log rate ~ N(log m - 1/8, 1/4), for every forward pass;  evaluation: T = m

Stage 1, with a second run of the same sequences (u', S'_t; other start, other T):

    L = rank + alpha TLA + gamma SLA
    TLA = (NCE(u', u*) + NCE(u*, u')) / 2      u*: u of another sequence with the same next item
    SLA = (NCE(u', s) + NCE(s, u')) / 2        s: S'_t at the last visible event, t uniform in 1 .. T'
    NCE(a, b) = mean over i of -log(exp(<a_i, b_i> / tau) / sum_j exp(<a_i, b_j> / tau)),  j: i, and who has another next item

``group``: rank is the shared loss over 1 + n candidates. ``original``: it is the cross-entropy over the catalogue. Stage 2 is
GRPO over N runs per target (``training/reinforce.py``): every step counts as an action, and the reward is that of the last.
Who has seen nothing is the zero vector: by dot product all items tie.

The paper's body and the authors' program were not available: all this follows the port by the authors' lab in RecBole 3.0,
whose published settings of the model are the defaults except ``dropout`` (theirs: .5) and ``start`` (theirs: a new draw at every
evaluation). Differences: it draws u* per sample from the whole log, and takes the sequence itself where there is none; here u*
belongs to another row of the batch (``paired`` asks the batcher for some) and a target without one is left out of TLA. A sample
there is one prefix, here targets of a packed row share the run; SLA's negatives are therefore the other rows' targets in the
same slot. There sequences with the same next item are negatives too (``same_item_negatives``). Rollouts share H, and so the
dropout of the pre-block. Without features and from equal weights, scores are equal: ``input_norm`` is LN1, ``mix_norm`` LN2.

Axes beside those of ``batch.py``: L events, N rollouts, J vectors of a target, M that are compared.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.kernels import dropout
from seerec.models.attention import EncoderLayer, history_mask
from seerec.models.base import Kind, ReasoningRecommender, Trajectory, Vocabulary
from seerec.models.layers import Reach, initialise, initialise_normal
from seerec.models.losses import info_nce, mean_over
from seerec.models.sequential import SequenceState, SequentialConfig, SequentialRecommender

_RATE_STD = 0.5  # of the logarithm of the rate; its mean is shifted so that the rate's own mean is m
_DEPTHS = 1 << 32  # stream of the depths beside those of the starts


class LARESConfig(SequentialConfig):
    """Settings of LARES; defaults of the published configuration file unless said otherwise."""

    pre_layers: int = Field(2, ge=1, le=100)
    """Layers of the pre-block."""
    core_layers: int = Field(2, ge=1, le=100)
    """Layers of the core block."""
    heads: int = Field(2, ge=1)
    """Attention heads."""
    inner: int = Field(256, ge=1, le=65_536)
    """Inner width of the feed-forward networks."""
    steps: int = Field(3, ge=1, le=1000)
    """m: passes through the core at evaluation; in training m + 1 on average, at most 3 m."""
    start: Literal["normal_zero", "normal"] = "normal_zero"
    """S_0 at evaluation: zeros, or (normal) a draw that is the same for every row and call (the published
    file: drawn anew each time). In training always random."""
    start_std: float = Field(1.0, ge=0)
    """s: z is normal with this deviation, cut at three of them."""
    start_scale: float = Field(3.0, ge=0)
    """omega."""
    mix: Literal["add", "concat", "linear"] = "add"
    """add: (S + H) / 2. concat: a linear layer over both. linear: g S + (1 - g) H with a learned g."""
    similarity: Literal["dot", "cos"] = "dot"
    """Of the dot scorer and the alignments; cosines are divided by tau in the score too."""
    temperature: float = Field(1.0, gt=0)
    """tau (.07 in the port's classes, with cosines)."""
    trajectory_weight: float = Field(0.2, ge=0)
    """alpha, of TLA."""
    step_weight: float = Field(0.1, ge=0)
    """gamma, of SLA."""
    same_item_negatives: bool = False
    """Whether sequences with the same next item are negatives of one another, as in the port."""


class Start(NamedTuple):
    """What tells N runs apart. Deeper runs come first, so that those which have ended drop off the end."""

    state: Tensor  # B N L D   S_0
    depth: Tensor  # N         T, not rising


@dataclass(frozen=True, kw_only=True)
class LARESState(SequenceState):
    """``vector`` is u (with rollouts B T N D); before reasoning it is H at the last visible event."""

    encoded: Tensor  # B L D   H
    present: Tensor  # B L     bool
    reach: Reach
    steps: Tensor | None = None  # B T N K D   S_1..S_T at the last visible event, zeros after T
    depth: Tensor | None = None  # N           T
    rollouts: bool = False  # True: the N axis is part of the scores


class LARES(ReasoningRecommender[LARESState], SequentialRecommender[LARESState]):
    """See the module's docstring."""

    key = "lares"
    title = "LARES"
    Config = LARESConfig
    packs = True
    paired = True

    def __init__(self, config: LARESConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__(config, vocabulary, rec_length, search_length)
        d = config.width
        self.position = nn.Parameter(torch.empty(self.length, d))
        self.input_norm, self.mix_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.pre, self.core = (
            nn.ModuleList(EncoderLayer(d, config.heads, config.inner, config.dropout, "pre", "gelu") for _ in range(layers))
            for layers in (config.pre_layers, config.core_layers)
        )
        self.adapter = nn.Linear(2 * d, d) if config.mix == "concat" else None
        self.gate = nn.Parameter(torch.zeros(())) if config.mix == "linear" else None
        initialise(self)  # stays for the features and the MLP scorer; the rest is the port's, for its own parts
        for part in (self.input_norm, self.mix_norm, self.pre, self.core, self.adapter):
            if part is not None:
                initialise_normal(part)
        nn.init.normal_(self.position, std=0.02)

    # -- reasoning ----------------------------------------------------------------------------------------------------

    def history(self, batch: Batch) -> LARESState:
        """H, and where each target stands in it."""
        tokens, present, reach = self.sequence(batch)
        x = dropout(self.input_norm(tokens + self.position[reach.position]), self.config.dropout, self.training)
        mask = history_mask(present, causal=True)
        for block in self.pre:
            x = block(x, mask)
        return LARESState(reach.gather(x), self.user(batch), encoded=x, present=present, reach=reach)

    def reason(self, state: LARESState, noise: Start | None = None) -> LARESState:
        """S_1..S_T; without rollouts one run, of depth m at evaluation and a random one in training."""
        start = self.start(state) if noise is None else noise
        b, n, length, d = start.state.shape
        causal = history_mask(state.present, causal=True)
        depth = start.depth.tolist()
        s, at_targets = start.state, []
        for t in range(max(depth)):
            running = sum(steps > t for steps in depth)  # the first so many runs are not at their end yet
            x = self.mix_norm(self._mix(s[:, :running], state.encoded.unsqueeze(1))).flatten(0, 1)
            mask = causal.unsqueeze(1).expand(b, running, length, length).flatten(0, 1)
            for block in self.core:
                x = block(x, mask)
            s = x.unflatten(0, (b, running))
            last = state.reach.gather(s.transpose(1, 2).flatten(2)).unflatten(2, (running, d))  # B T running D
            at_targets.append(F.pad(last, (0, 0, 0, n - running)))
        steps = torch.stack(at_targets, 3)
        end = (start.depth - 1).to(steps.device).view(1, 1, n, 1, 1).expand(*steps.shape[:3], 1, d)
        u = steps.gather(3, end).squeeze(3)
        rollouts = noise is not None
        return replace(state, vector=u if rollouts else u[:, :, 0], steps=steps, depth=start.depth, rollouts=rollouts)

    def _mix(self, s: Tensor, h: Tensor) -> Tensor:
        if self.adapter is not None:
            return self.adapter(torch.cat([s, h.expand_as(s)], -1))
        g = 0.5 if self.gate is None else self.gate.sigmoid()
        return g * s + (1 - g) * h

    def start(self, state: LARESState) -> Start:
        """S_0 and T of the one run without rollouts."""
        h = state.encoded
        if self.training:
            return Start(self._random(h.shape).to(h).unsqueeze(1), self._depths(1))
        start = torch.zeros_like(h)
        if self.config.start == "normal":
            start = self._random((self.length, h.shape[2]), torch.Generator().manual_seed(0)).to(h)[state.reach.position]
        return Start(start.unsqueeze(1), torch.tensor([self.config.steps]))

    def noise(self, batch: Batch, rollouts: int, std: float, generator: torch.Generator) -> Start:  # noqa: ARG002
        """Random starts, as in stage 1, and depths, which follow from ``batch.key``: another draw for a batch is as deep."""
        length = batch.rec.shape[1] + (0 if self.kind is None else batch.searched.shape[1])
        state = self._random((len(batch.user), rollouts, length, self.config.width), generator)
        depths = self._depths(rollouts, torch.Generator().manual_seed(int(batch.key[0]) ^ _DEPTHS))
        return Start(state.to(batch.rec.device), depths)

    def _random(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Random omega z."""
        std = self.config.start_std
        z = nn.init.trunc_normal_(torch.empty(shape), 0.0, std, -3 * std, 3 * std, generator) if std else torch.zeros(shape)
        return self.config.start_scale * z

    def _depths(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Random T of so many runs, the deepest first."""
        m = self.config.steps
        rate = torch.empty(count).log_normal_(math.log(m) - _RATE_STD**2 / 2, _RATE_STD, generator=generator)
        depth = (torch.poisson(rate, generator) + 1).clamp(max=3 * m)
        return depth.long().sort(descending=True).values

    # -- scoring ------------------------------------------------------------------------------------------------------

    def score(self, state: LARESState, items_BTCD: Tensor) -> Tensor:
        """B T C, or B T N C with rollouts."""
        if state.rollouts:
            return self._scores(state, state.vector, items_BTCD)
        return self._scores(state, state.vector.unsqueeze(2), items_BTCD).squeeze(2)

    def trajectory(self, state: LARESState, items_BTCD: Tensor) -> Trajectory:
        """Scores after every step."""
        assert state.steps is not None
        assert state.depth is not None
        logits = self._scores(state, state.steps.flatten(2, 3), items_BTCD)
        return Trajectory(logits.unflatten(2, state.steps.shape[2:4]), state.depth.to(logits.device))

    def _scores(self, state: LARESState, vectors_BTJD: Tensor, items_BTCD: Tensor) -> Tensor:
        """B T J C."""
        if self.mlp is not None:
            assert state.user is not None
            return self.mlp(state.user[:, None, None, None], vectors_BTJD.unsqueeze(3), items_BTCD.unsqueeze(2))
        if self.config.similarity == "cos":
            vectors_BTJD = F.normalize(vectors_BTJD, dim=-1) / self.config.temperature
            items_BTCD = F.normalize(items_BTCD, dim=-1)
        catalogue = items_BTCD.shape[:2] == (1, 1)  # the same items for all rows: one matrix, not one per target
        return vectors_BTJD @ (items_BTCD[0, 0].T if catalogue else items_BTCD.transpose(2, 3))

    def retrieval(self, state: LARESState) -> Tensor | None:
        """B T 1 D, where the score is a dot product."""
        return super().retrieval(state) if self.config.similarity == "dot" else None

    # -- stage 1 ------------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch, state: LARESState, kind: Kind = "group") -> dict[str, Tensor]:
        """The ranking term of ``kind``, ``tla`` and ``sla``."""
        config = self.config
        terms = super().objective(batch, state) if kind == "group" else {"rank": self.catalogue_loss(batch, state)}
        if config.trajectory_weight > 0 or config.step_weight > 0:
            second_run = self.encode(batch)
            if config.trajectory_weight > 0:
                terms["tla"] = config.trajectory_weight * self.trajectory_alignment(batch, second_run, state)
            if config.step_weight > 0:
                terms["sla"] = config.step_weight * self.step_alignment(batch, second_run)
        return terms

    def trajectory_alignment(self, batch: Batch, one: LARESState, other: LARESState) -> Tensor:
        """TLA over the targets that have a partner: their u of one run, the partners' of the other; 0 without any."""
        target, partner = same_next_item(batch)
        item = batch.positive_item.flatten()[target]
        a, b = one.vector.flatten(0, 1)[target], other.vector.flatten(0, 1)[partner]
        return self._align(a, b, item).sum() / max(len(target), 1)

    def step_alignment(self, batch: Batch, state: LARESState) -> Tensor:
        """SLA: the last state and that after a random step t, which may be the last."""
        assert state.steps is not None
        steps = state.steps[:, :, 0]
        early = steps[:, :, int(torch.randint(steps.shape[2], ()))]
        item = batch.positive_item.T
        loss_TB = self._align(steps[:, :, -1].transpose(0, 1), early.transpose(0, 1), item)
        return mean_over(loss_TB.T, batch.target_mask)

    def _align(self, a: Tensor, b: Tensor, item: Tensor) -> Tensor:
        """(NCE(a, b) + NCE(b, a)) / 2 per row of (... M D); ``item`` (... M) is what follows, 0 for padding."""
        if self.config.similarity == "cos":
            a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
        allowed = (item != 0).unsqueeze(-2).expand(*item.shape, item.shape[-1])
        if not self.config.same_item_negatives:
            allowed = allowed & (item.unsqueeze(-1) != item.unsqueeze(-2))
        similarity = a @ b.mT / self.config.temperature
        return (info_nce(similarity, allowed) + info_nce(similarity.mT, allowed)) / 2


def same_next_item(batch: Batch) -> tuple[Tensor, Tensor]:
    """Targets and, for each, one of another row with the same positive item: two lists of indices into B T flattened.

    A row stands once for an item. The rows of an item are a circle in which everyone's partner is the next.
    """
    item, (rows, targets) = batch.positive_item.flatten(), batch.positive_item.shape
    row = torch.arange(rows, device=item.device).repeat_interleave(targets)
    item_and_row = item * rows + row  # as one number
    target = item.nonzero().flatten()
    target = target[item_and_row[target].argsort(stable=True)]  # by item, then by row
    target = target[_begins(item_and_row[target])]  # a row once per item
    begins = _begins(item[target])  # where the circle of an item begins
    here = torch.arange(len(target), device=item.device)
    first_of_circle = here[begins][begins.cumsum(0) - 1]
    partner = torch.where(begins.roll(-1), first_of_circle, here + 1)  # the next; of the last of a circle, the first
    paired = partner != here
    return target[paired], target[partner[paired]]


def _begins(values: Tensor) -> Tensor:
    """Where a run of equal values begins; the first always does."""
    return torch.cat([values.new_ones(1), values.diff()])[: len(values)] != 0
