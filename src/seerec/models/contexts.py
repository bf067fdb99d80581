"""LCR-SER's two sides, and the contexts C_s(k) and C_r(k) that their reasoning attends to (eq. 6), as keys and values."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from seerec.models.attention import Absorbed, Attention, EncoderLayer, KeysValues, Own
from seerec.models.layers import linears
from seerec.models.lcr_ser_config import LCRSERConfig

SIDES = ("s", "r")
OTHER = {"s": "r", "r": "s"}


class LatentSide(nn.Module):
    """One side's encoder (MSA and FFN of eq. 1, shared by reasoning) and its cross-attention (MCA of eq. 4 and 5)."""

    def __init__(self, config: LCRSERConfig) -> None:
        super().__init__()
        inner, cross_count = config.feed_width or config.width, config.layers if config.cross_layers == "all" else 1
        self.layers = nn.ModuleList(
            EncoderLayer(config.width, config.heads, inner, config.dropout, config.block, config.activation)
            for _ in range(config.layers)
        )
        self.cross = nn.ModuleList(Attention(config.width, config.heads, config.dropout) for _ in range(cross_count))
        normed = config.cross_norm and config.block != "literal"
        self.cross_norms = nn.ModuleList(nn.LayerNorm(config.width) if normed else nn.Identity() for _ in range(cross_count))

    def layer(self, depth: int) -> EncoderLayer:
        """The encoder layer at this depth."""
        return cast(EncoderLayer, self.layers[depth])

    def attention_across(self, depth: int) -> Attention | None:
        """The cross-attention that acts at this depth, if any."""
        index = depth - (len(self.layers) - len(self.cross))
        return cast(Attention, self.cross[index]) if index >= 0 else None

    def cross_norm(self, depth: int) -> nn.Module:
        """The normalisation that belongs to it."""
        return self.cross_norms[depth - (len(self.layers) - len(self.cross))]


Key = tuple[str, str, int]
"""(kind, side, depth) of an attention: ``self`` is a side's MSA, ``cross`` its MCA."""


def readers(sides: dict[str, LatentSide], self_attends_to: dict[str, str], side: str, depth: int) -> dict[Key, Attention]:
    """Every attention at ``depth`` that reads this side's context (eq. 3 to 5).

    ``self_attends_to`` decides between the two readings of MSA_r (A1):

        MSA_s reads C_s    MSA_r reads C_r, or C_s as eq. 5 prints it
        MCA_s reads C_r    MCA_r reads C_s
    """
    found = {("self", reader, depth): sides[reader].layer(depth).attention for reader in SIDES if self_attends_to[reader] == side}
    across = sides[OTHER[side]].attention_across(depth)
    return found if across is None else {**found, ("cross", OTHER[side], depth): across}


def keys_and_values(x: Tensor, attentions: dict[Key, Attention], *more: nn.Linear) -> tuple[dict[Key, KeysValues], list[Tensor]]:
    """Keys and values of one input for all that read it, and what more layers make of it, in one product."""
    flat = list(linears(x, *more, *(layer for attention in attentions.values() for layer in (attention.key, attention.value))))
    after = flat[len(more) :]
    return dict(zip(attentions, map(KeysValues, after[::2], after[1::2]), strict=True)), flat[: len(more)]


class Projected(NamedTuple):
    """Both histories as every attention reads them."""

    keys_values: dict[Key, KeysValues]
    absorbed: dict[Key, Absorbed] | None
    """The attentions, where they read what is not projected."""


def project(
    sides: dict[str, LatentSide], self_attends_to: dict[str, str], inputs: dict[str, list[Tensor]], queries: int
) -> Projected:
    """Keys and values of both histories for every attention; ``inputs`` is side -> per layer B L D, ``queries`` are a row's.

    Where ``absorbs`` says so, there is nothing to project.
    """
    if absorbs(sides, inputs, queries):
        return _absorb(sides, self_attends_to, inputs)
    projected: dict[Key, KeysValues] = {}
    for side in SIDES:
        for depth, x in enumerate(inputs[side]):
            attentions = readers(sides, self_attends_to, side, depth)
            if attentions:
                projected |= keys_and_values(sides[side].layer(depth).context(x), attentions)[0]
    return Projected(projected, None)


def absorbs(sides: dict[str, LatentSide], inputs: dict[str, list[Tensor]], queries: int) -> bool:
    """Whether the queries of all heads are fewer than half the events, and nothing is learnt."""
    longest = max((x.shape[1] for side in SIDES for x in inputs[side]), default=0)
    learns = torch.is_grad_enabled() or any(sides[side].training for side in SIDES)
    return not learns and any(2 * queries * sides[side].layer(0).attention.heads <= longest for side in SIDES)


def _absorb(sides: dict[str, LatentSide], self_attends_to: dict[str, str], inputs: dict[str, list[Tensor]]) -> Projected:
    keys_values: dict[Key, KeysValues] = {}
    absorbed: dict[Key, Absorbed] = {}
    for side in SIDES:
        for depth, x in enumerate(inputs[side]):
            context = sides[side].layer(depth).context(x)
            for key, attention in readers(sides, self_attends_to, side, depth).items():
                absorbed[key] = Absorbed(attention)
                keys_values[key] = absorbed[key].keys_values(context)
    return Projected(keys_values, absorbed)


class Contexts:
    """C(k) of one run of the recursion: ``history``, projected once, and the step inputs e(1)..e(k) appended so far."""

    def __init__(
        self, sides: dict[str, LatentSide], self_attends_to: dict[str, str], projected: Projected, *, crossing: bool
    ) -> None:
        self.history, self._absorbed = projected
        self._sides, self._self_attends_to = sides, self_attends_to
        self._kinds = ("self", "cross") if crossing else ("self",)
        self._step_inputs: dict[Key, Own] = {}

    def extend(self, depth: int, step_input: dict[str, Tensor]) -> dict[str, Tensor]:
        """Append this step's inputs; return their queries for self-attention (both side -> B M D)."""
        queries: dict[str, Tensor] = {}
        for side in SIDES:
            layer = self._sides[side].layer(depth)
            attentions = readers(self._sides, self._self_attends_to, side, depth)
            attentions = {key: attention for key, attention in attentions.items() if key[0] in self._kinds}
            x = layer.context(step_input[side])
            if self._absorbed is None:
                fresh, (queries[side],) = keys_and_values(x, attentions, layer.attention.query)
            else:
                fresh = {key: self._absorbed[key].keys_values(x) for key in attentions}
                queries[side] = self._absorbed["self", side, depth].query(x)
            for key, pair in fresh.items():
                self._step_inputs[key] = (*self._step_inputs.get(key, ()), pair)
        return queries

    def reader(self, kind: str, side: str, depth: int) -> Attention | Absorbed | None:
        """The attention that reads ``history`` and ``step_inputs`` of the same key."""
        if self._absorbed is not None:
            return self._absorbed.get((kind, side, depth))
        return self._sides[side].layer(depth).attention if kind == "self" else self._sides[side].attention_across(depth)

    def step_inputs(self, kind: str, side: str, depth: int) -> Own:
        """The keys and values of e(1)..e(k)."""
        return self._step_inputs[kind, side, depth]
