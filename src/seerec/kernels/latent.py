"""The recursion of LCR-SER (eq. 2 to 6) as one operation: K steps of both sides for every query, and their gradient.

Axes: B rows, M queries of a row (every target of every rollout), L slots of a side's history, K steps, D columns of a state.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seerec.kernels.draws import Draws
from seerec.kernels.library import functions, in_fp32, longs, pointers, serves_whole, threads
from seerec.kernels.precision import in_halves

_WIDE = 16
"""Every width must be a multiple of the kernel's vectors."""
SITES = 6
"""Uses of dropout in a step of one side: weights and join of self- and of cross-attention, inside and after the feed-forward."""


class Matrix(NamedTuple):
    """A linear layer."""

    weight: Tensor  # outputs x inputs
    bias: Tensor


class Norm(NamedTuple):
    """A layer normalisation."""

    gain: Tensor
    shift: Tensor
    epsilon: float


class Recursion(NamedTuple):
    """One side of the recursion.

    ``maps``: of a step input its query, key and value of self-attention, and key and value of the other side's
    cross-attention, side by side; output of self-attention; query and output of cross-attention; both halves of the feed-forward
    network. ``norms``: after self-attention, cross-attention and the feed-forward network. In the absorbed form the first map
    gives the query alone, and every query has h D columns.
    """

    context: Tensor  # B L D   what both sides attend to
    visible: Tensor  # B M L   bool
    start: Tensor  # B M D
    position: Tensor  # K D
    maps: tuple[Matrix, ...]
    norms: tuple[Norm, ...]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """All that a gradient may be asked of, in the kernel's order."""
        matrices = [x for map_ in self.maps for x in map_]
        return self.context, self.start, self.position, *matrices, *(x for norm in self.norms for x in norm[:2])


def recurs(width: int, heads: int, inner: int, *tensors: Tensor) -> bool:
    """Whether ``recur`` can take such sizes and states (which are not empty)."""
    wide = all(x % _WIDE == 0 for x in (width, width // heads, inner))
    return wide and all(x.numel() > 0 for x in tensors) and serves_whole(*tensors)


def recur(
    sides: Sequence[Recursion], heads: int, crossing: Sequence[int], draws: Sequence[Draws], *, absorbed: bool, weigh: bool
) -> tuple[list[Tensor], list[Tensor] | None]:
    """All h(k) of both sides, B M K D, and with ``weigh`` the weights that each side's cross-attention gave the other's events.

    Parameters
    ----------
    crossing
        Of each step: 2, with cross-attention; 1, with its normalisation alone; 0, without both.
    draws
        Of each side, step and site (``SITES``).
    absorbed
        Histories are read as they are; without a gradient.
    """
    epsilons = tuple(norm.epsilon for side in sides for norm in side.norms)
    shape = _Shape(heads, tuple(crossing), tuple(draws), absorbed, weigh, in_halves(), epsilons)
    found = _recur(shape, *(side.visible for side in sides), *(x for side in sides for x in side.leaves))
    return list(found[:2]), list(found[2:]) if weigh else None


class _Shape(NamedTuple):
    """All that is no tensor."""

    heads: int
    crossing: tuple[int, ...]
    draws: tuple[Draws, ...]
    absorbed: bool
    weigh: bool
    half: bool
    epsilons: tuple[float, ...]


_FIRST_MAP, _MAPS, _NORMS = 3, 6, 3
_LEAVES = _FIRST_MAP + 2 * _MAPS + 2 * _NORMS


class _Recur(torch.autograd.Function):
    """Keeps its inputs alone: the steps are made again for the gradient, where they stay in the cache."""

    @staticmethod
    def forward(ctx: Any, shape: _Shape, visible_s: Tensor, visible_r: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        in_fp32(*leaves)
        leaves = tuple(x.contiguous() for x in leaves)
        visible = visible_s.contiguous(), visible_r.contiguous()
        sides = leaves[:_LEAVES], leaves[_LEAVES:]
        (b, m, d), k = sides[0][1].shape, len(shape.crossing)
        out = [leaves[0].new_empty(b, m, k, d) for _ in sides]
        cross = [x.new_zeros(b, m, k, visible[1 - a].shape[2]) for a, x in enumerate(out)] if shape.weigh else []
        _call(shape, visible, sides, out, cross, None)
        ctx.shape = shape
        ctx.save_for_backward(*visible, *leaves)
        ctx.mark_non_differentiable(*cross)
        return *out, *cross

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        visible_s, visible_r, *leaves = ctx.saved_tensors
        sides = leaves[:_LEAVES], leaves[_LEAVES:]
        of_out = [gradient.contiguous() for gradient in gradients[:2]]
        found: list[Tensor] = []
        taken: list[Tensor] = []
        for side, of in zip(sides, of_out, strict=True):
            context, start, position, *weights = side
            order = [*weights, position]  # as the kernel writes them
            flat = context.new_empty(sum(x.numel() for x in order))
            parts = [part.view_as(x) for part, x in zip(flat.split([x.numel() for x in order]), order, strict=True)]
            taken += [of, torch.empty_like(context), torch.empty_like(start), flat]
            found += [taken[-3], taken[-2], parts[-1], *parts[:-1]]
        _call(ctx.shape, (visible_s, visible_r), sides, None, [], taken)
        return None, None, None, *found


_recur = cast(Callable[..., tuple[Tensor, ...]], _Recur.apply)


def _call(
    shape: _Shape,
    visible: Sequence[Tensor],
    sides: Sequence[Sequence[Tensor]],
    out: list[Tensor] | None,
    cross: list[Tensor],
    taken: list[Tensor] | None,
) -> None:
    data: list[Tensor | None] = []
    maps: list[Tensor | None] = []
    norms: list[Tensor | None] = []
    for a, (context, start, position, *weights) in enumerate(sides):
        data += [context, start, position, out[a] if out else None, cross[a] if cross else None]
        maps += weights[: 2 * _MAPS]
        norms += weights[2 * _MAPS :]
    (b, m, d), k = sides[0][1].shape, len(shape.crossing)
    inner = sides[0][_FIRST_MAP + 8].shape[0]
    sizes = b, m, d, inner, shape.heads, k, *(side[0].shape[1] for side in sides), int(shape.absorbed), int(shape.half)
    numbers = [number for one in shape.draws for number in one]
    functions().seerec_latent(
        longs(sizes), bytes(shape.crossing), pointers(data), pointers(visible), pointers(maps), pointers(norms),
        (ctypes.c_float * len(shape.epsilons))(*shape.epsilons), (ctypes.c_uint32 * len(numbers))(*numbers),
        pointers(taken) if taken else None, threads(b * m * d * k),
    )  # fmt: skip
