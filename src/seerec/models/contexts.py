"""LCR-SER's two sides, and the contexts C_s(k) and C_r(k) that their reasoning attends to (eq. 6), as keys and values."""

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from seerec.models.attention import Attention, EncoderLayer, KeysValues, Own
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


def attentions_and_sources(
    sides: dict[str, LatentSide], self_attends_to: dict[str, str], depth: int
) -> Iterator[tuple[Key, str, Attention]]:
    """Every attention at ``depth``, with the side whose context it reads (eq. 3 to 5).

    ``self_attends_to`` decides between the two readings of MSA_r (A1):

        MSA_s reads C_s    MSA_r reads C_r, or C_s as eq. 5 prints it
        MCA_s reads C_r    MCA_r reads C_s
    """
    for side in SIDES:
        yield ("self", side, depth), self_attends_to[side], sides[side].layer(depth).attention
        across = sides[side].attention_across(depth)
        if across is not None:
            yield ("cross", side, depth), OTHER[side], across


def project(
    sides: dict[str, LatentSide], self_attends_to: dict[str, str], inputs: dict[str, list[Tensor]], room: int
) -> dict[Key, KeysValues]:
    """Keys and values of both histories for every attention, with room for steps; ``inputs`` is side -> per layer B L D."""
    return {
        key: attention.keys_values(sides[source].layer(depth).context(inputs[source][depth]), room)
        for depth in range(len(inputs["r"]))
        for key, source, attention in attentions_and_sources(sides, self_attends_to, depth)
    }


class Contexts:
    """C(k) of one run of the recursion: ``history``, projected once, and the step inputs e(1)..e(k) appended so far."""

    def __init__(
        self, sides: dict[str, LatentSide], self_attends_to: dict[str, str], history: dict[Key, KeysValues], *, crossing: bool
    ) -> None:
        self.history = history
        self._sides, self._self_attends_to = sides, self_attends_to
        self._kinds = ("self", "cross") if crossing else ("self",)
        self._step_inputs: dict[Key, Own] = {}

    def extend(self, depth: int, step_input: dict[str, Tensor]) -> None:
        """Append this step's inputs (side -> B M D)."""
        for key, source, attention in attentions_and_sources(self._sides, self._self_attends_to, depth):
            if key[0] in self._kinds:
                fresh = attention.own_keys_values(self._sides[source].layer(depth).context(step_input[source]))
                self._step_inputs[key] = (*self._step_inputs.get(key, ()), fresh)

    def step_inputs(self, kind: str, side: str, depth: int) -> Own:
        """The keys and values of e(1)..e(k)."""
        return self._step_inputs[kind, side, depth]
