"""LCR-SER's recursion as one operation of ``seerec.kernels``: for which settings it is one, and what it is given.

Other settings, and machines without the kernels, take the same steps one by one (``LCRSER._steps``).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from seerec.kernels import SITES, Draws, Matrix, Norm, Recursion, draw, recur, recurs
from seerec.models.attention import Absorbed, Attention
from seerec.models.contexts import OTHER, SIDES, LatentSide
from seerec.models.lcr_ser_config import LCRSERConfig

_CROSSED, _NORM_ALONE, _SKIPPED = 2, 1, 0


def is_one_operation(config: LCRSERConfig, states: dict[str, Tensor], contexts: dict[str, list[Tensor]]) -> bool:
    """Whether ``steps_at_once`` does what ``config`` asks; ``states`` are start states (side -> B T ... D)."""
    plain = config.layers == 1 and config.block == "post" and config.activation == "relu" and config.cross_norm
    printed = config.includes_current and config.cross_steps and config.self_context == "own" and config.update == "parallel"
    given = [*states.values(), *(contexts[side][0] for side in SIDES)]
    return plain and printed and recurs(config.width, config.heads, config.feed_width or config.width, *given)


def crossings(config: LCRSERConfig, twin: bool) -> list[int]:
    """What each step does after its self-attention; the twin leaves out cross-attention, in one of three ways (A18)."""
    if not twin or config.twin == "last_step":
        return [_CROSSED] * (config.steps - twin) + [_NORM_ALONE] * twin
    return [_SKIPPED if config.twin == "skip_norm" else _NORM_ALONE] * config.steps


class Histories(NamedTuple):
    """What the attentions read of one side."""

    context: Tensor  # B L D
    visible: Tensor  # B M L  bool, for each query (target of a rollout) of the row


class Runs(NamedTuple):
    """Where one side's runs begin, and what every step adds."""

    start: Tensor  # B M D
    position: Tensor  # K D


def steps_at_once(
    sides: dict[str, LatentSide],
    histories: dict[str, Histories],
    runs: dict[str, Runs],
    crossing: Sequence[int],
    *,
    absorbed: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """h(1) .. h(K), side -> B M K D, and in evaluation the weights of cross-attention, side -> B M K L, mean over heads."""
    given = []
    for side in SIDES:
        layer = sides[side].layer(0)
        maps = (*_attentions(sides, side, absorbed), _matrix(layer.feed_in), _matrix(layer.feed_out))
        norms = (cast(nn.LayerNorm, x) for x in (layer.norm_attention, sides[side].cross_norm(0), layer.norm_feed))
        given.append(Recursion(*histories[side], *runs[side], maps, tuple(Norm(x.weight, x.bias, x.eps) for x in norms)))
    some = sides["s"].layer(0)
    drawn = [list(_draws(some.attention.dropout, some.dropout, kind, some.training)) for kind in crossing for _ in SIDES]
    draws = [one for a in range(len(SIDES)) for step in drawn[a :: len(SIDES)] for one in step]
    steps, cross = recur(given, some.attention.heads, crossing, draws, absorbed=absorbed, weigh=not some.training)
    return dict(zip(SIDES, steps, strict=True)), None if cross is None else dict(zip(SIDES, cross, strict=True))


def _attentions(sides: dict[str, LatentSide], side: str, absorbed: bool) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """What a side makes of step inputs, and the rest of its two attentions."""
    own = sides[side].layer(0).attention
    across, of_other = (cast(Attention, sides[x].attention_across(0)) for x in (side, OTHER[side]))
    if absorbed:
        both = Absorbed(own), Absorbed(across)
        return both[0].query_map, both[0].out_map, both[1].query_map, both[1].out_map
    made = own.query, own.key, own.value, of_other.key, of_other.value
    first = Matrix(torch.cat([x.weight for x in made]), torch.cat([x.bias for x in made]))
    return first, _matrix(own.out), _matrix(across.query), _matrix(across.out)


def _matrix(layer: nn.Linear) -> Matrix:
    return Matrix(layer.weight, layer.bias)


def _draws(of_weights: float, share: float, crossing: int, training: bool) -> Iterator[Draws]:
    """Of one step of one side, in the order in which the steps one by one would draw them."""
    none = Draws(0, 0, 0)
    yield draw(of_weights, training)
    yield draw(share, training)
    yield draw(of_weights, training) if crossing == _CROSSED else none
    yield draw(share, training) if crossing != _SKIPPED else none
    for _ in range(SITES - 4):
        yield draw(share, training)
