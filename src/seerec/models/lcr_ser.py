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
from seerec.models.layers import (
    Attention,
    EncoderLayer,
    InputLayer,
    KeysValues,
    Reach,
    history_mask,
    initialise,
    mean_over,
    ranking_loss,
    reach,
)
from seerec.models.lcr_ser_config import LCRSERConfig
from seerec.models.target_attention import TargetAttention

SIDES = ("s", "r")
OTHER = {"s": "r", "r": "s"}


@dataclass(frozen=True)
class LCRState:
    """What the histories became: everything a candidate needs, and nothing of the candidates."""

    user: Tensor  # B D
    encoded: dict[str, Tensor]  # side -> B L D                      H of eq. 1
    reach: dict[str, Reach]  # side -> which slots each target sees
    start: dict[str, Tensor]  # side -> B T D                      h^(0)
    layer_inputs: dict[str, list[Tensor]]  # side -> per layer B L D       what contexts are made of
    steps: dict[str, Tensor] | None = None  # side -> B T N K D              h^(1..K)
    noisy_start: dict[str, Tensor] | None = None  # side -> B T N D          h^(0) of each rollout
    cross: dict[str, Tensor] | None = None  # side -> B T N K L   weights of the other side's events, mean over heads
    rollouts: bool = False  # True: the N axis is part of the scores


class LatentSide(nn.Module):
    """One side's encoder (MSA and FFN of eq. 1, shared by reasoning) and its cross-attention (MCA of eq. 4)."""

    def __init__(self, config: LCRSERConfig) -> None:
        super().__init__()
        inner, crossed = config.feed_width or config.width, config.layers if config.cross_layers == "all" else 1
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, inner, config.dropout, config.block, config.activation)
            for _ in range(config.layers)
        )
        self.cross = nn.ModuleList(Attention(config.width, config.heads, config.dropout) for _ in range(crossed))
        normed = config.cross_norm and config.block != "literal"
        self.cross_norm = nn.ModuleList(nn.LayerNorm(config.width) if normed else nn.Identity() for _ in range(crossed))


class LCRSER(ReasoningRecommender[LCRState]):
    """See the module's docstring. ``reads`` everything but the times."""

    key = "lcr-ser"
    title = "LCR-SER"
    reads = frozenset({"rec", "query", "click", "user", "features"})
    Config = LCRSERConfig

    def __init__(self, config: LCRSERConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__()
        d = config.width
        self.config, self.packs, self.start_width = config, config.packable, 2 * d
        self.inputs = InputLayer(vocabulary, config)
        self.position = nn.ParameterDict({"s": torch.empty(search_length, d), "r": torch.empty(rec_length, d)})
        kinds = {"table": config.steps, "shared": 1, "none": 0}[config.step_position]
        self.step_position = nn.ParameterDict({side: torch.empty(kinds, d) for side in SIDES})
        self.empty = nn.ParameterDict({side: torch.empty(d) for side in SIDES if config.empty == "learned"})
        self.sides = nn.ModuleDict({side: LatentSide(config) for side in SIDES})
        if config.shared_cross:
            self.sides["r"].cross = self.sides["s"].cross  # type: ignore[union-attr]
        if config.aggregation == "target":
            self.target = nn.ModuleDict({s: TargetAttention(d, config.attention, config.heads) for s in SIDES})
        sizes = (4 * d, *config.hidden, 1)
        self.mlp = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        if config.scorer == "dot":
            self.mlp = nn.ModuleList()
        initialise(self)
        for table in (*self.position.values(), *self.step_position.values(), *self.empty.values()):
            nn.init.normal_(table, std=0.02)
        self.twin_sides = copy.deepcopy(self.sides) if config.twin == "separate" else self.sides

    # -- encoding, eq. 1 --------------------------------------------------------------------------------------------

    def history(self, batch: Batch) -> LCRState:
        """H_s, H_r and the start states, for all targets of each row."""
        tokens = {"s": self.inputs.searches(batch.query, batch.click), "r": self.inputs.items(batch.rec)}
        present = {"s": batch.searched, "r": batch.rec != 0}
        seen = {"s": batch.search_seen, "r": batch.rec_seen}
        reaches = {side: reach(present[side], seen[side]) for side in SIDES}
        state = LCRState(self.inputs.users(batch.user), {}, reaches, {}, {})
        for side in SIDES:
            index = reaches[side].position
            if self.config.position == "recent":
                index = present[side].sum(1, keepdim=True) - 1 - index
            x = (tokens[side] + self.position[side][index.clamp(min=0)]) * present[side].unsqueeze(2)
            mask = history_mask(present[side], self.config.causal)
            layers: list[Tensor] = []
            for layer in self.sides[side].layers:  # type: ignore[union-attr]
                layers.append(x)
                x = layer(x, mask) * present[side].unsqueeze(2)
            state.encoded[side] = x
            state.layer_inputs[side] = layers if self.config.context == "raw" else [x] * len(layers)
            start = reaches[side].gather(x)
            if self.config.empty == "learned":
                start = torch.where(reaches[side].any.unsqueeze(2), start, self.empty[side])
            state.start[side] = start
        return state

    # -- latent cross reasoning, eq. 2 to 7 -------------------------------------------------------------------------

    def reason(self, state: LCRState, noise_BTND: Tensor | None = None) -> LCRState:
        """K steps for every target; with noise (B T N 2D: search half, recommendation half) one run per rollout."""
        b, t, d = state.start["r"].shape
        n = 1 if noise_BTND is None else noise_BTND.shape[2]
        start = {side: state.start[side].unsqueeze(2).expand(b, t, n, d) for side in SIDES}
        if noise_BTND is not None:
            start = {"s": start["s"] + noise_BTND[..., :d], "r": start["r"] + noise_BTND[..., d:]}
        steps, cross = self._steps(state, start, "cross")
        if self.config.trajectory == "data" and noise_BTND is not None:
            steps = {side: steps[side].detach() for side in SIDES}
        return replace(state, steps=steps, noisy_start=start, cross=cross, rollouts=noise_BTND is not None)

    def _steps(
        self, state: LCRState, start: dict[str, Tensor], mode: str
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run the recursion from ``start`` (side -> B T N D). ``mode``: cross, or twin (without cross-attention)."""
        config = self.config
        b, t, n, d = start["r"].shape
        sides = self.twin_sides if mode == "twin" else self.sides
        own_source = {"s": "s", "r": "r" if config.self_context == "own" else "s"}
        visible = {s: state.reach[s].visible.unsqueeze(2).expand(b, t, n, -1).flatten(1, 2) for s in SIDES}
        cache = _Contexts(sides, state, own_source)
        h = {side: start[side].flatten(1, 2) for side in SIDES}
        outputs: dict[str, list[Tensor]] = {side: [] for side in SIDES}
        weights: dict[str, list[Tensor]] = {side: [] for side in SIDES}
        for k in range(config.steps):
            x = {side: h[side] + self._step_position(side, k) for side in SIDES}  # eq. 2
            crossing = mode == "cross" or (config.twin == "last_step" and k + 1 < config.steps)
            for depth in range(config.layers):
                cache.extend(depth, x)  # eq. 6
                new: dict[str, Tensor] = {}
                for side in SIDES:
                    layer, source = sides[side].layers[depth], own_source[side]  # type: ignore[union-attr, index]
                    own = cache.own("self", side, depth, drop_last=not config.includes_current)
                    query = layer.context(x[side])
                    update, _ = layer.attention(query, cache.history["self", side, depth], visible[source], own)
                    f = layer.join(x[side], update, layer.norm_attention)  # eq. 3
                    at = cache.cross_index(depth)
                    if at is not None:
                        fresh = new["s"] if side == "r" and config.update == "search_first" else None
                        f, w = self._cross(sides, cache, side, depth, at, f, visible, crossing, fresh)
                        if w is not None:
                            weights[side].append(w)
                    new[side] = layer.feed(f)  # eq. 4
                x = new
            h = x
            for side in SIDES:
                outputs[side].append(h[side])
        stacked = {
            s: torch.stack(outputs[s], 2).unflatten(1, (t, n)) if outputs[s] else start[s].new_zeros(b, t, n, 0, d)
            for s in SIDES
        }
        crossed = {
            s: torch.stack(weights[s], 2).unflatten(1, (t, n)) if weights[s] else start[s].new_zeros(b, t, n, 0, 0)
            for s in SIDES
        }
        return stacked, crossed

    def _cross(
        self, sides: nn.ModuleDict, cache: "_Contexts", side: str, depth: int, at: int, f: Tensor,
        visible: dict[str, Tensor], crossing: bool, fresh: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """MCA of eq. 4 and 5 with its residual; in the twin (A18) the update is zero, or the whole join is skipped."""
        layer: EncoderLayer = sides[side].layers[depth]  # type: ignore[union-attr, index, assignment]
        norm = sides[side].cross_norm[at]  # type: ignore[union-attr, index]
        if not crossing:
            return (f if self.config.twin == "skip_norm" else layer.join(f, torch.zeros_like(f), norm)), None
        attention: Attention = sides[side].cross[at]  # type: ignore[union-attr, index, assignment]
        own = cache.own("cross", side, depth) if self.config.cross_steps else None
        if fresh is not None:
            own = _append(own, attention.own(fresh))
        query = norm(f) if self.config.block == "pre" else f
        update, weights = attention(query, cache.history["cross", side, depth], visible[OTHER[side]], own)
        return layer.join(f, update, norm), weights

    def _step_position(self, side: str, k: int) -> Tensor | float:
        kind = self.config.step_position
        return 0.0 if kind == "none" else self.step_position[side][k if kind == "table" else 0]

    # -- aggregation and scoring, eq. 8 and 10 ----------------------------------------------------------------------

    def score(self, state: LCRState, items_BTCD: Tensor, query: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Logits B T C, or B T N C after ``reason`` with noise."""
        w = {side: self._aggregate(state, side, items_BTCD) for side in SIDES}  # B T N C D
        e_v = items_BTCD.unsqueeze(2)
        logits = torch.zeros((), device=e_v.device)
        if self.config.scorer != "mlp":
            logits = logits + ((w["s"] + w["r"]) * e_v).sum(-1)
        if self.config.scorer != "dot":
            # The first layer acts on four vectors; each part is computed at its own size and then added.
            first = self.mlp[0]
            u, s, r, v = first.weight.split(self.config.width, 1)  # type: ignore[union-attr, operator]
            user = F.linear(state.user, u, first.bias)[:, None, None, None]  # type: ignore[arg-type]
            x = user + F.linear(w["s"], s) + F.linear(w["r"], r) + F.linear(e_v, v)
            for layer in list(self.mlp)[1:]:
                x = layer(F.dropout(F.relu(x), self.config.dropout, self.training))
            logits = logits + x.squeeze(-1)
        return logits if state.rollouts else logits.squeeze(2)

    def _aggregate(self, state: LCRState, side: str, items_BTCD: Tensor) -> Tensor:
        """w of eq. 8 over H^(K) of eq. 7, or one of table 3's means; B T N C D (C = 1 for the means)."""
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
            return self.target[side](items_BTCD, encoded, visible, steps, own_visible)  # type: ignore[no-any-return]
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
        twin, _ = self._steps(state, state.noisy_start, "twin")
        target = self.items(batch.positive_item)
        if self.config.detach in ("target", "both"):
            target = target.detach()
        loss = torch.zeros((), device=target.device)
        for side in SIDES:
            alone = twin[side][:, :, 0, -1]
            if self.config.detach in ("twin", "both"):
                alone = alone.detach()
            gap = self._distance(target, state.steps[side][:, :, 0, -1]) - self._distance(target, alone)
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


class _Contexts:
    """Keys and values of eq. 6's contexts: each history once, then one more own vector per step, layer and reader."""

    def __init__(self, sides: nn.ModuleDict, state: LCRState, own_source: dict[str, str]) -> None:
        self.sides, self.own_source = sides, own_source
        self.depths = len(state.layer_inputs["r"])
        self.history: dict[tuple[str, str, int], KeysValues] = {}
        self._own: dict[tuple[str, str, int], KeysValues] = {}
        for depth in range(self.depths):
            for side in SIDES:
                for reader, source, attention in self._readers(side, depth):
                    context = sides[source].layers[depth].context(state.layer_inputs[source][depth])  # type: ignore[union-attr, index]
                    self.history[reader, side, depth] = attention.history(context)

    def cross_index(self, depth: int) -> int | None:
        """Which cross-attention acts at this depth."""
        index = depth - (self.depths - len(self.sides["r"].cross))  # type: ignore[arg-type]
        return index if index >= 0 else None

    def _readers(self, side: str, depth: int) -> list[tuple[str, str, Attention]]:
        readers = [("self", self.own_source[side], self.sides[side].layers[depth].attention)]  # type: ignore[union-attr, index]
        at = self.cross_index(depth)
        if at is not None:
            readers.append(("cross", OTHER[side], self.sides[side].cross[at]))  # type: ignore[union-attr, index]
        return readers  # type: ignore[return-value]

    def extend(self, depth: int, x: dict[str, Tensor]) -> None:
        """Append this step's inputs (side -> B M D) to every context that holds them."""
        for side in SIDES:
            for reader, source, attention in self._readers(side, depth):
                layer = self.sides[source].layers[depth]  # type: ignore[union-attr, index]
                fresh = attention.own(layer.context(x[source]))
                self._own[reader, side, depth] = _append(self._own.get((reader, side, depth)), fresh)

    def own(self, reader: str, side: str, depth: int, drop_last: bool = False) -> KeysValues | None:
        """The own block B M k h e; without this step's input if asked, None where that leaves nothing."""
        block = self._own[reader, side, depth]
        if not drop_last:
            return block
        return KeysValues(block.key[:, :, :-1], block.value[:, :, :-1]) if block.key.shape[2] > 1 else None


def _append(block: KeysValues | None, fresh: KeysValues) -> KeysValues:
    if block is None:
        return fresh
    return KeysValues(torch.cat([block.key, fresh.key], 2), torch.cat([block.value, fresh.value], 2))
