"""LCR-SER: latent cross reasoning for search-enhanced recommendation (arXiv 2508.04152).

Two causal encoders read the two histories; K latent steps feed the last states back, each side attending first to
itself and then across to the other; a candidate-aware attention gathers all states, an MLP scores. The contexts of
reasoning hold inputs (eq. 6), so keys and values of a history are projected once and shared by all targets of a packed
row, all steps, the twin without cross-attention and all rollouts of stage 2.

Equation numbers are the paper's, A-numbers the register in ``lcr_ser_config.py``. Sides: ``s`` search, ``r`` recommendation.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.models.base import Kind, ReasoningRecommender, Vocabulary
from seerec.models.contexts import OTHER, SIDES, Contexts, Key, LatentSide, append, project
from seerec.models.inputs import InputLayer
from seerec.models.layers import KeysValues, Reach, ScoringMLP, history_mask, initialise, reach
from seerec.models.lcr_ser_config import LCRSERConfig
from seerec.models.losses import mean_over, ranking_loss
from seerec.models.target_attention import TargetAttention


@dataclass(frozen=True)
class LCRState:
    """What the histories became: everything a candidate needs, and nothing of the candidates."""

    user: Tensor  # B D
    encoded: dict[str, Tensor]  # side -> B L D                      H of eq. 1
    reach: dict[str, Reach]  # side -> which slots each target sees
    start: dict[str, Tensor]  # side -> B T D                      h^(0)
    layer_inputs: dict[str, list[Tensor]]  # side -> per layer B L D       what contexts are made of
    projected: dict[Key, KeysValues]  # the same as keys and values, projected once for every run from here
    steps: dict[str, Tensor] | None = None  # side -> B T N K D              h^(1..K)
    noisy_start: dict[str, Tensor] | None = None  # side -> B T N D          h^(0) of each rollout
    cross: dict[str, Tensor] | None = None  # side -> B T N K L   weights of the other side's events, mean over heads
    rollouts: bool = False  # True: the N axis is part of the scores


class LCRSER(ReasoningRecommender[LCRState]):
    """See the module's docstring. ``reads`` everything but the times."""

    key = "lcr-ser"
    title = "LCR-SER"
    reads = frozenset({"rec", "query", "click", "user", "features"})
    Config = LCRSERConfig
    packs = True

    def __init__(self, config: LCRSERConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__()
        d = config.width
        self.config, self.packs, self.start_width = config, config.packable, 2 * d
        self.inputs = InputLayer(vocabulary, config)
        self.position = nn.ParameterDict({"s": torch.empty(search_length, d), "r": torch.empty(rec_length, d)})
        kinds = {"table": config.steps, "shared": 1, "none": 0}[config.step_position]
        self.step_position = nn.ParameterDict({side: torch.empty(kinds, d) for side in SIDES})
        self.empty = nn.ParameterDict({side: torch.empty(d) for side in SIDES if config.empty == "learned"})
        self.search, self.recommendation = LatentSide(config), LatentSide(config)
        if config.shared_cross:
            self.recommendation.cross = self.search.cross
        if config.aggregation == "target":
            self.target = nn.ModuleDict({s: TargetAttention(d, config.attention, config.heads) for s in SIDES})
        if config.scorer != "dot":
            self.mlp = ScoringMLP((d, d, d, d), config.hidden, config.dropout)
        initialise(self)
        for table in (*self.position.values(), *self.step_position.values(), *self.empty.values()):
            nn.init.normal_(table, std=0.02)
        if config.twin == "separate":
            self.twin_search, self.twin_recommendation = copy.deepcopy((self.search, self.recommendation))

    @property
    def _own_source(self) -> dict[str, str]:
        """Whose inputs each side's self-attention reads while reasoning (A1)."""
        return {"s": "s", "r": "r" if self.config.self_context == "own" else "s"}

    def sides(self, twin: bool = False) -> dict[str, LatentSide]:
        """The encoders by side; the twin without cross-attention has its own only on request (A18)."""
        if twin and self.config.twin == "separate":
            return {"s": self.twin_search, "r": self.twin_recommendation}
        return {"s": self.search, "r": self.recommendation}

    # -- encoding, eq. 1 --------------------------------------------------------------------------------------------

    def history(self, batch: Batch) -> LCRState:
        """H_s, H_r and the start states, for all targets of each row."""
        tokens = {"s": self.inputs.searches(batch.query, batch.click), "r": self.inputs.items(batch.rec)}
        present = {"s": batch.searched, "r": batch.rec != 0}
        seen = {"s": batch.search_seen, "r": batch.rec_seen}
        reaches = {side: reach(present[side], seen[side]) for side in SIDES}
        state = LCRState(self.inputs.users(batch.user), {}, reaches, {}, {}, {})
        for side in SIDES:
            index = reaches[side].position
            if self.config.position == "recent":
                index = present[side].sum(1, keepdim=True) - 1 - index
            x = (tokens[side] + self.position[side][index.clamp(min=0)]) * present[side].unsqueeze(2)
            mask = history_mask(present[side], self.config.causal)
            layers: list[Tensor] = []
            for layer in self.sides()[side].layers:
                layers.append(x)
                x = layer(x, mask) * present[side].unsqueeze(2)
            state.encoded[side] = x
            state.layer_inputs[side] = layers if self.config.context == "raw" else [x] * len(layers)
            start = reaches[side].gather(x)
            if self.config.empty == "learned":
                start = torch.where(reaches[side].any.unsqueeze(2), start, self.empty[side])
            state.start[side] = start
        if self.config.steps:
            state.projected.update(project(self.sides(), self._own_source, state.layer_inputs))
        return state

    # -- latent cross reasoning, eq. 2 to 7 -------------------------------------------------------------------------

    def reason(self, state: LCRState, noise_BTND: Tensor | None = None) -> LCRState:
        """K steps for every target; with noise (B T N 2D: search half, recommendation half) one run per rollout."""
        b, t, d = state.start["r"].shape
        n = 1 if noise_BTND is None else noise_BTND.shape[2]
        start = {side: state.start[side].unsqueeze(2).expand(b, t, n, d) for side in SIDES}
        if noise_BTND is not None:
            start = {"s": start["s"] + noise_BTND[..., :d], "r": start["r"] + noise_BTND[..., d:]}
        steps, cross = self._steps(state, start)
        if self.config.trajectory == "data" and noise_BTND is not None:
            steps = {side: steps[side].detach() for side in SIDES}
        return replace(state, steps=steps, noisy_start=start, cross=cross, rollouts=noise_BTND is not None)

    def _steps(
        self, state: LCRState, start: dict[str, Tensor], *, twin: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run the recursion from ``start`` (side -> B T N D), without cross-attention for the twin.

        Returns h^(1..K), B T N K D, and the weights of the other side's events, B T N K L, both by side.
        """
        config, sides = self.config, self.sides(twin)
        b, t, n, d = start["r"].shape
        source = self._own_source
        visible = {s: state.reach[s].visible.unsqueeze(2).expand(b, t, n, -1).flatten(1, 2) for s in SIDES}
        separate = twin and config.twin == "separate"
        history = project(sides, source, state.layer_inputs) if separate else state.projected
        contexts = Contexts(sides, source, history, crossing=not twin or config.twin == "last_step")
        h = {side: start[side].flatten(1, 2) for side in SIDES}
        outputs: dict[str, list[Tensor]] = {side: [] for side in SIDES}
        weights: dict[str, list[Tensor]] = {side: [] for side in SIDES}
        for k in range(config.steps):
            x = {side: h[side] + self._step_position(side, k) for side in SIDES}  # eq. 2
            crossing = not twin or (config.twin == "last_step" and k + 1 < config.steps)
            for depth in range(config.layers):
                contexts.extend(depth, x)  # eq. 6
                new: dict[str, Tensor] = {}
                for side in SIDES:
                    layer = sides[side].layer(depth)
                    own = contexts.own("self", side, depth, drop_last=not config.includes_current)
                    past = contexts.history["self", side, depth]
                    update, _ = layer.attention(layer.context(x[side]), past, visible[source[side]], own)
                    f = layer.join(x[side], update, layer.norm_attention)  # eq. 3
                    fresh = new["s"] if side == "r" and config.update == "search_first" else None
                    f, w = self._cross(sides[side], contexts, side, depth, f, visible, crossing, fresh)
                    if w is not None:
                        weights[side].append(w)
                    new[side] = layer.feed(f)  # eq. 4
                x = new
            h = x
            for side in SIDES:
                outputs[side].append(h[side])
        none = start["r"].new_zeros(b, t * n, 0, d)
        steps = {s: (torch.stack(outputs[s], 2) if outputs[s] else none).unflatten(1, (t, n)) for s in SIDES}
        cross = {s: (torch.stack(weights[s], 2) if weights[s] else none).unflatten(1, (t, n)) for s in SIDES}
        return steps, cross

    def _cross(
        self,
        encoder: LatentSide,
        contexts: Contexts,
        side: str,
        depth: int,
        f: Tensor,
        visible: dict[str, Tensor],
        crossing: bool,
        fresh: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """MCA of eq. 4 and 5 with its residual; in the twin (A18) the update is zero, or the whole join is skipped."""
        attention, layer = encoder.attention_across(depth), encoder.layer(depth)
        if attention is None:
            return f, None
        norm = encoder.cross_norm(depth)
        if not crossing:
            return (f if self.config.twin == "skip_norm" else layer.join(f, torch.zeros_like(f), norm)), None
        own = contexts.own("cross", side, depth) if self.config.cross_steps else None
        if fresh is not None:
            own = append(own, attention.own_keys_values(self.search.layer(depth).context(fresh)))
        query = norm(f) if self.config.block == "pre" else f
        update, weights = attention(query, contexts.history["cross", side, depth], visible[OTHER[side]], own)
        return layer.join(f, update, norm), weights

    def _step_position(self, side: str, k: int) -> Tensor | float:
        kind = self.config.step_position
        return 0.0 if kind == "none" else self.step_position[side][k if kind == "table" else 0]

    # -- aggregation and scoring, eq. 8 and 10 ----------------------------------------------------------------------

    def score(self, state: LCRState, items_BTCD: Tensor) -> Tensor:
        """Logits B T C, or B T N C after ``reason`` with noise."""
        w = {side: self._aggregate(state, side, items_BTCD) for side in SIDES}  # B T N C D
        e_v = items_BTCD.unsqueeze(2)
        logits = torch.zeros((), device=e_v.device)
        if self.config.scorer != "mlp":
            logits = logits + ((w["s"] + w["r"]) * e_v).sum(-1)
        if self.config.scorer != "dot":
            logits = logits + self.mlp(state.user[:, None, None, None], w["s"], w["r"], e_v)
        return logits if state.rollouts else logits.squeeze(2)

    def _aggregate(self, state: LCRState, side: str, items_BTCD: Tensor) -> Tensor:
        """W of eq. 8 over H^(K) of eq. 7, or one of table 3's means; B T N C D (C = 1 for the means)."""
        assert state.steps is not None
        steps, encoded, seen = state.steps[side], state.encoded[side], state.reach[side]
        k = steps.shape[3]
        if self.config.aggregation == "target":
            visible, own_visible = seen.visible, seen.any.new_ones(*seen.any.shape, k)
            if self.config.perturb_history:  # A16: the last history state gives way to its noisy copy
                assert state.noisy_start is not None
                slot = torch.arange(encoded.shape[1], device=encoded.device)
                visible = visible & (slot != seen.last.unsqueeze(2))
                steps = torch.cat([state.noisy_start[side].unsqueeze(3), steps], 3)
                own_visible = torch.cat([seen.any.unsqueeze(2), own_visible], 2)
            return self.target[side](items_BTCD, encoded, visible, steps, own_visible)
        if self.config.aggregation == "last":
            last = steps[:, :, :, -1] if k else state.start[side].unsqueeze(2)
            return last.unsqueeze(3)
        total, count = steps.sum(3), torch.full_like(seen.any, k, dtype=steps.dtype)
        if self.config.aggregation == "mean" or k == 0:
            mask = seen.visible.to(steps.dtype)
            total, count = total + (mask @ encoded).unsqueeze(2), count + mask.sum(2)
        return (total / count.clamp(min=1)[:, :, None, None]).unsqueeze(3)

    # -- stage 1, eq. 9, 11 and 12 ----------------------------------------------------------------------------------

    def objective(self, batch: Batch, state: LCRState, kind: Kind = "group") -> dict[str, Tensor]:  # noqa: ARG002
        """Ranking loss plus the weighted contrastive loss (eq. 12; its L2 term is the optimiser's)."""
        logits = self.score(state, self.items(batch.candidates))
        terms = {"rank": ranking_loss(logits, batch.positive, batch.target_mask, self.config.loss)}
        if self.config.contrastive_weight > 0 and self.config.steps > 0:  # A23: at K = 0 it is a constant
            terms["tcl"] = self.config.contrastive_weight * self.contrastive(batch, state)
        return terms

    def contrastive(self, batch: Batch, state: LCRState) -> Tensor:
        """Eq. 9, positives only (A22): the crossed states should be nearer to the target than their twin's."""
        assert state.steps is not None
        assert state.noisy_start is not None
        stopped = self.config.detach in ("twin", "both")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stopped):
            twin, _ = self._steps(state, state.noisy_start, twin=True)
        target = self.items(batch.positive_item)
        if self.config.detach in ("target", "both"):
            target = target.detach()
        loss = torch.zeros((), device=target.device)
        for side in SIDES:
            crossed, alone = state.steps[side][:, :, 0, -1], twin[side][:, :, 0, -1]
            gap = self._distance(target, crossed) - self._distance(target, alone)
            loss = loss + mean_over(F.relu(gap + self.config.margin), batch.target_mask)
        return loss

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        if self.config.distance == "cosine":
            return 1 - F.cosine_similarity(a, b, dim=-1)
        if self.config.distance == "normalised":
            a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
        return (a - b).square().sum(-1).clamp(min=1e-12).sqrt()

    def retrieval(self, state: LCRState) -> Tensor | None:
        """B T J D: the start states and all steps of both sides, where a dot product places them near items."""
        if self.config.scorer == "mlp" or state.steps is None:
            return None
        return torch.cat([torch.cat([state.start[s].unsqueeze(2), state.steps[s][:, :, 0]], 2) for s in SIDES], 2)
