"""LCR-SER: latent cross reasoning for search-enhanced recommendation (Shi, Qin, Yu, Zhang, He, Fan & Xu, "Bridging Search
and Recommendation through Latent Cross Reasoning", arXiv 2508.04152, 2025).

Equation numbers are the paper's, A-numbers the entries of docs/ambiguities.md. A side a is ``s`` (search) or ``r``
(recommendation), b is the other one. E_r: clicked items; E_s: per search its query plus the mean of its clicked items; P and P~:
learned positions of events and of steps; e(k) and h(k): input and output of step k; C(k): what it attends to; v: a candidate.
MSA(q, C) takes queries from q, keys and values from C.

    eq. 1     H_a = FFN_a(MSA_a(E^_a, E^_a) + E^_a),  E^_a = E_a + P_a            ``history``; causal
              h_a(0) = H_a at the last visible event
    eq. 2     e_a(k) = h_a(k-1) + P~_a[k],  k = 1 .. K                             ``_steps``, to eq. 5
    eq. 6     C_a(k) = [E^_a ; e_a(1) .. e_a(k)]                                   ``Contexts``
    eq. 3     f_a = MSA_a(e_a(k), C_a(k)) + e_a(k)                                 in eq. 5 MSA_r reads C_s(k): A1
    eq. 4, 5  h_a(k) = FFN_a(MCA_a(f_a, C_b(k)) + f_a)                             ``_cross``
    eq. 7     H_a(K) = [H_a ; h_a(1) .. h_a(K)]                                    ``_aggregate``
    eq. 8     w_a = Att(e_v, H_a(K))                                               ``TargetAttention``
    eq. 10    y_v = MLP([e_u ; w_s ; w_r ; e_v])                                   ``score``

Objective (``group`` and ``original`` are the same), v+ the clicked item, h~ from a twin run without MCA:

    eq. 9     TCL = sum_a max(d(e_v+, h_a(K)) - d(e_v+, h~_a(K)) + m, 0)           ``contrastive``
    eq. 12    L = BCE + lambda_TCL TCL + lambda_Reg |Phi|^2                        BCE: eq. 11; the last term is the optimiser's

Stage 2, eq. 13 to 17, is GRPO over N runs from noisy h(0): ``training/reinforce.py``.

Where the paper is silent: post-norm layers (A7) and a bilinear Att (A17) as in the group's programs; a norm after the residual
of MCA (A8). A side without events starts from zeros (A12), and its C(k) holds step inputs alone.

The preset ``paper`` is all this. ``best``, the default, departs from print: C(k) holds H_a for E^_a (A5); <w_s + w_r, e_v> is
added to eq. 10; d is the cosine distance, m = 1 (A20, A21), TCL has no gradient through e_v+ and the twin (A19), and a softmax
over 16 negatives stands for eq. 11.

The history's part of C(k) changes with neither step nor run, so its keys and values are projected once and shared by all targets
of a packed row, all steps, the twin and all N rollouts. Axes beside those of ``batch.py``: L events of a side, N rollouts.
"""

import copy
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from seerec.batch import Batch
from seerec.kernels import Network, draw, score_candidates, scores, whole
from seerec.models.attention import history_mask
from seerec.models.base import Kind, ReasoningRecommender, Vocabulary
from seerec.models.contexts import OTHER, SIDES, Contexts, LatentSide, Projected, absorbs, project
from seerec.models.inputs import InputLayer
from seerec.models.layers import Reach, ScoringMLP, initialise, looked_up, reach
from seerec.models.lcr_ser_config import LCRSERConfig
from seerec.models.losses import mean_over, ranking_loss
from seerec.models.recursion import Histories, Runs, crossings, is_one_operation, steps_at_once
from seerec.models.target_attention import Mixture, TargetAttention, Vectors

_FEW = 8
"""Candidates of a target below which scoring learns apart."""
_PART, _HELD = 1 << 22, 1 << 24
"""Elements of the widest tensor of scoring: in one part (16 MB), and in all where a gradient follows (docs/performance.md)."""


@dataclass(frozen=True)
class LCRState:
    """What the histories became: everything a candidate needs, and nothing of the candidates."""

    user: Tensor  # B D
    encoded: dict[str, Tensor]  # side -> B L D                      H of eq. 1
    reach: dict[str, Reach]  # side -> which slots each target sees
    start: dict[str, Tensor]  # side -> B T D                      h(0)
    layer_inputs: dict[str, list[Tensor]]  # side -> per layer B L D       what contexts are made of
    projected: Projected | None  # the same as every attention reads them, once for every run from here; None: not needed
    steps: dict[str, Tensor] | None = None  # side -> B T N K D              h(1) .. h(K)
    run_start: dict[str, Tensor] | None = None  # side -> B T N D            h(0) of each run, with its noise if any
    cross: dict[str, Tensor] | None = (
        None  # side -> B T N KM L   MCA's weights of events, mean over heads; M layers with MCA; None in training
    )
    rollouts: bool = False  # True: the N axis is part of the scores

    def rows(self, rows: slice) -> "LCRState":
        """What scoring needs, of some rows."""
        assert self.steps is not None
        assert self.run_start is not None
        return replace(
            self,
            user=self.user[rows],
            encoded={side: self.encoded[side][rows] for side in SIDES},
            reach={side: Reach(*(tensor[rows] for tensor in self.reach[side])) for side in SIDES},
            start={side: self.start[side][rows] for side in SIDES},
            steps={side: self.steps[side][rows] for side in SIDES},
            run_start={side: self.run_start[side][rows] for side in SIDES},
        )


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
            self.target = nn.ModuleDict({side: TargetAttention(d, config.attention, config.heads) for side in SIDES})
        if config.scorer != "dot":
            self.mlp = ScoringMLP((d, d, d, d), config.hidden, config.dropout)
        initialise(self)
        for table in (*self.position.values(), *self.step_position.values(), *self.empty.values()):
            nn.init.normal_(table, std=0.02)
        if config.twin == "separate":
            self.twin_search, self.twin_recommendation = copy.deepcopy((self.search, self.recommendation))

    @property
    def _self_attends_to(self) -> dict[str, str]:
        """Whose context each side's self-attention reads while reasoning (A1)."""
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
        user = self.inputs.users(batch.user)
        encoded: dict[str, Tensor] = {}
        start: dict[str, Tensor] = {}
        layer_inputs: dict[str, list[Tensor]] = {}
        for side in SIDES:
            position = reaches[side].position
            if self.config.position == "recent":
                position = present[side].sum(1, keepdim=True) - 1 - position
            x = (tokens[side] + looked_up(self.position[side], position.clamp(min=0))) * present[side].unsqueeze(2)
            mask = history_mask(present[side], self.config.causal)
            raw: list[Tensor] = []
            for layer in self.sides()[side].layers:
                raw.append(x)
                x = layer(x, mask) * present[side].unsqueeze(2)
            encoded[side] = x
            layer_inputs[side] = raw if self.config.context == "raw" else [x] * len(raw)
            start[side] = reaches[side].gather(x)
            if self.config.empty == "learned":
                start[side] = torch.where(reaches[side].any.unsqueeze(2), start[side], self.empty[side])
        projected = None
        if self.config.steps and not is_one_operation(self.config, start, layer_inputs):
            projected = project(self.sides(), self._self_attends_to, layer_inputs, batch.rec_seen.shape[1])
        return LCRState(user, encoded, reaches, start, layer_inputs, projected)

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
        return replace(state, steps=steps, run_start=start, cross=cross, rollouts=noise_BTND is not None)

    def _steps(
        self, state: LCRState, start: dict[str, Tensor], *, twin: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Run the recursion from ``start`` (side -> B T N D), without cross-attention for the twin.

        Returns h(1) .. h(K), B T N K D, and ``LCRState.cross``, both by side.
        """
        config, sides = self.config, self.sides(twin)
        b, t, n, d = start["r"].shape
        source = self._self_attends_to
        visible = {side: state.reach[side].visible.unsqueeze(2).expand(b, t, n, -1).flatten(1, 2) for side in SIDES}
        if config.steps and is_one_operation(config, start, state.layer_inputs):
            histories = {side: Histories(state.layer_inputs[side][0], visible[side]) for side in SIDES}
            runs = {side: Runs(start[side].flatten(1, 2), self._step_positions(side)) for side in SIDES}
            absorbed = absorbs(sides, state.layer_inputs, t * n)
            states, seen = steps_at_once(sides, histories, runs, crossings(config, twin), absorbed=absorbed)
            return _by_rollout(states, t, n), None if seen is None else _by_rollout(seen, t, n)
        separate = twin and config.twin == "separate"
        history = project(sides, source, state.layer_inputs, t * n) if separate else state.projected
        none = start["r"].new_zeros(b, t, n, 0, d)
        if history is None:
            return dict.fromkeys(SIDES, none), None if self.training else dict.fromkeys(SIDES, none)
        contexts = Contexts(sides, source, history, crossing=not twin or config.twin == "last_step")
        h = {side: start[side].flatten(1, 2) for side in SIDES}  # every target of every rollout is a query of its row
        outputs: dict[str, list[Tensor]] = {side: [] for side in SIDES}
        weights: dict[str, list[Tensor]] = {side: [] for side in SIDES}
        for k in range(config.steps):
            step_input = {side: h[side] + self._step_positions(side)[k] for side in SIDES}  # eq. 2
            crossing = not twin or (config.twin == "last_step" and k + 1 < config.steps)
            for depth in range(config.layers):  # the paper has one layer
                queries = contexts.extend(depth, step_input)  # eq. 6
                output: dict[str, Tensor] = {}
                for side in SIDES:
                    layer, past = sides[side].layer(depth), contexts.history["self", side, depth]
                    step_inputs = contexts.step_inputs("self", side, depth)
                    if not config.includes_current:
                        step_inputs = step_inputs[:-1]
                    reader = contexts.reader("self", side, depth)
                    assert reader is not None
                    update, _ = reader.attend(queries[side], past, visible[source[side]], step_inputs)
                    f = layer.join(step_input[side], update, layer.norm_attention)  # eq. 3 and 5
                    fresh = output["s"] if side == "r" and config.update == "search_first" else None
                    crossed, cross_weights = self._cross(sides[side], contexts, side, depth, f, visible, crossing, fresh)
                    if cross_weights is not None:
                        weights[side].append(cross_weights)
                    output[side] = layer.feed(crossed)  # eq. 4 and 5
                step_input = output
            h = step_input
            for side in SIDES:
                outputs[side].append(h[side])
        steps = {side: torch.stack(outputs[side], 2).unflatten(1, (t, n)) for side in SIDES}
        if self.training:
            return steps, None
        means = {side: [w.mean(0) for w in weights[side]] for side in SIDES}
        cross = {side: torch.stack(means[side], 2).unflatten(1, (t, n)) if means[side] else none for side in SIDES}
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
        """MCA_a(f_a, C_b(k)) + f_a of eq. 4 and 5, and its weights; in the twin the update is zero, or all is skipped (A18).

        ``fresh``: the other side's output of this step, where A2 shows it.
        """
        attention, layer = contexts.reader("cross", side, depth), encoder.layer(depth)
        if attention is None:
            return f, None
        norm = encoder.cross_norm(depth)
        if not crossing:
            return (f if self.config.twin == "skip_norm" else layer.join(f, torch.zeros_like(f), norm)), None
        step_inputs = contexts.step_inputs("cross", side, depth) if self.config.cross_steps else ()
        if fresh is not None:
            step_inputs = (*step_inputs, attention.keys_values(self.search.layer(depth).context(fresh)))
        query = attention.query(norm(f) if self.config.block == "pre" else f)
        history = contexts.history["cross", side, depth]
        update, weights = attention.attend(query, history, visible[OTHER[side]], step_inputs, weigh=not self.training)
        return layer.join(f, update, norm), weights

    def _step_positions(self, side: str) -> Tensor:
        """P~ of all steps, K D."""
        table = self.step_position[side]
        return table.expand(self.config.steps, -1) if len(table) else table.new_zeros(self.config.steps, self.config.width)

    # -- aggregation and scoring, eq. 8 and 10 ----------------------------------------------------------------------

    def score(self, state: LCRState, items_BTCD: Tensor) -> Tensor:
        """Logits B T C, or B T N C after ``reason`` with noise.

        Rows do not know of each other, so that what all candidates of all rows need at once is never held: some rows at a time,
        and where a gradient follows, once more then.
        """
        if self._at_once(state, items_BTCD):
            return self._score_at_once(state, items_BTCD)
        assert state.run_start is not None
        b, size = len(state.user), state.run_start["r"].shape[1:3].numel() * items_BTCD.shape[2] * self._widest
        learning = torch.is_grad_enabled()
        if b * size <= (_HELD if learning else _PART):
            return self._score(state, items_BTCD)
        parts = []
        for first in range(0, b, max(_PART // size, 1)):
            rows = slice(first, first + max(_PART // size, 1))
            given = state.rows(rows), items_BTCD if len(items_BTCD) == 1 else items_BTCD[rows]
            parts.append(checkpoint(self._score, *given, use_reentrant=False) if learning else self._score(*given))
        return torch.cat(parts)

    @property
    def _widest(self) -> int:
        """Columns of the widest tensor of a candidate."""
        return max((self.config.width, *(self.config.hidden if self.config.scorer != "dot" else ())))

    def _score(self, state: LCRState, items_BTCD: Tensor) -> Tensor:
        e_v = items_BTCD.unsqueeze(2)
        w = {side: self._aggregate(state, side, items_BTCD) for side in SIDES}  # eq. 8
        logits = torch.zeros((), device=e_v.device)
        if self.config.scorer != "mlp":
            logits = logits + w["s"].inner(items_BTCD) + w["r"].inner(items_BTCD)
        if self.config.scorer != "dot":  # eq. 10
            of_user, of_s, of_r, of_item = self.mlp.columns
            known = F.linear(state.user, of_user, self.mlp.bias)[:, None, None, None] + F.linear(e_v, of_item)
            logits = logits + self.mlp.after_first(w["r"].through(of_r, w["s"].through(of_s, known)))
        return logits if state.rollouts else logits.squeeze(2)

    def _at_once(self, state: LCRState, items_BTCD: Tensor) -> bool:
        """Whether one kernel does eq. 8 and 10; where few candidates learn, it has too little to share."""
        config = self.config
        plain = config.aggregation == "target" and config.attention in ("bilinear", "dot") and not config.perturb_history
        plain = plain and (config.scorer == "dot" or len(config.hidden) > 0)
        assert state.run_start is not None
        few = items_BTCD.shape[2] < _FEW and torch.is_grad_enabled()
        return plain and not few and scores(items_BTCD, state.run_start["r"].shape[2])

    def _score_at_once(self, state: LCRState, items_BTCD: Tensor) -> Tensor:
        assert state.steps is not None
        network, of_side = None, dict.fromkeys(SIDES, items_BTCD.new_empty(0, items_BTCD.shape[3]))
        if self.config.scorer != "dot":
            of_user, of_side["s"], of_side["r"], of_item = self.mlp.columns
            draws = [draw(self.mlp.dropout, self.training) for _ in self.config.hidden]
            network = Network.of(F.linear(state.user, of_user, self.mlp.bias), of_item, self.mlp.later, draws)
        sides = [
            cast(TargetAttention, self.target[side]).states(
                state.encoded[side], state.reach[side].visible, state.steps[side], whole(of_side[side])
            )
            for side in SIDES
        ]
        logits = score_candidates(items_BTCD, sides, network, dot=self.config.scorer != "mlp")
        return logits if state.rollouts else logits.squeeze(2)

    def _aggregate(self, state: LCRState, side: str, items_BTCD: Tensor) -> Mixture | Vectors:
        """The vector w of eq. 8 over H(K) of eq. 7, by trajectory and candidate, or one of table 3's means."""
        assert state.steps is not None
        steps, encoded, side_reach = state.steps[side], state.encoded[side], state.reach[side]
        k = steps.shape[3]
        if self.config.aggregation == "target":
            visible, steps_visible = side_reach.visible, None
            if self.config.perturb_history:  # A16: the last history state gives way to its noisy copy
                assert state.run_start is not None
                slot = torch.arange(encoded.shape[1], device=encoded.device)
                visible = visible & (slot != side_reach.last.unsqueeze(2))
                steps = torch.cat([state.run_start[side].unsqueeze(3), steps], 3)
                steps_visible = F.pad(side_reach.any.unsqueeze(2), (0, k), value=True)
            # eq. 7 and 8: [H ; steps] under one softmax
            return self.target[side](items_BTCD, encoded, visible, steps, steps_visible)
        if self.config.aggregation == "last":
            last = steps[:, :, :, -1] if k else state.start[side].unsqueeze(2)
            return Vectors(last.unsqueeze(3))
        total, count = steps.sum(3), torch.full_like(side_reach.any, k, dtype=steps.dtype)
        if self.config.aggregation == "mean" or k == 0:
            mask = side_reach.visible.to(steps.dtype)
            total, count = total + (mask @ encoded).unsqueeze(2), count + mask.sum(2)
        return Vectors((total / count.clamp(min=1)[:, :, None, None]).unsqueeze(3))

    # -- stage 1, eq. 9, 11 and 12 ----------------------------------------------------------------------------------

    def objective(self, batch: Batch, state: LCRState, kind: Kind = "group") -> dict[str, Tensor]:  # noqa: ARG002
        """``rank`` of eq. 11 and the weighted ``tcl`` of eq. 9, which eq. 12 adds up; its L2 term is the optimiser's."""
        logits = self.score(state, self.items(batch.candidates))
        terms = {"rank": ranking_loss(logits, batch.positive, batch.target_mask, self.config.loss)}
        if self.config.contrastive_weight > 0 and self.config.steps > 0:  # A23: at K = 0 it is a constant
            terms["tcl"] = self.config.contrastive_weight * self.contrastive(batch, state)
        return terms

    def contrastive(self, batch: Batch, state: LCRState) -> Tensor:
        """Eq. 9, positives only (A22): the crossed states should be nearer to the target than the twin's."""
        assert state.steps is not None
        assert state.run_start is not None
        stopped = self.config.detach in ("twin", "both")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stopped):
            twin, _ = self._steps(state, state.run_start, twin=True)
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


def _by_rollout(x_by_side: dict[str, Tensor], targets: int, rollouts: int) -> dict[str, Tensor]:
    """Queries of a row as its targets and their rollouts: B TN ... -> B T N ..."""
    return {side: x.unflatten(1, (targets, rollouts)) for side, x in x_by_side.items()}
