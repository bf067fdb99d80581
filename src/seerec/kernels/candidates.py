"""Scores of the candidates of each target, of all its trajectories, as one operation: LCR-SER's eq. 8 and 10, and their gradient.

Axes: B rows, T targets, N trajectories of a target, C candidates, L slots of a side's history, K states of a trajectory's own, D
columns of a state, H of the MLP's first layer.
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
"""Floats of the kernel's vectors, of which every width must be a multiple."""


class States(NamedTuple):
    """What the candidates of a target attend to on one side: a history that its row shares, and K states of each trajectory."""

    x: Tensor  # B L D
    visible: Tensor  # B T L  bool
    own: Tensor  # B T N K D
    of_key: Tensor  # D D    what makes keys of states: outputs x inputs
    of_v: Tensor  # H D    their columns of the MLP's first layer


class Network(NamedTuple):
    """The MLP without what the states have already been through; widths but the last in whole vectors."""

    known: Tensor  # B H    the first layer's bias and what the user gives
    of_item: Tensor  # H D
    later: tuple[Tensor, ...]  # matrices of later layers (outputs x inputs) and their biases, by turns
    draws: tuple[Draws, ...]  # of every hidden layer

    @classmethod
    def of(cls, known_BH: Tensor, of_item_HD: Tensor, later: Sequence[Tensor], draws: Sequence[Draws]) -> "Network":
        """Pad hidden widths with zeros, which stay zeros."""
        columns = [whole(x.T).T if x.ndim == 2 else x for x in later]
        return cls(whole(known_BH.T).T, whole(of_item_HD), (*map(whole, columns[:-2]), *columns[-2:]), tuple(draws))


def whole(x: Tensor) -> Tensor:
    """With rows of zeros up to whole vectors."""
    missing = -len(x) % _WIDE
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x


def scores(items: Tensor, rollouts: int) -> bool:
    """Whether ``score_candidates`` can take such candidates; of one catalogue for all targets (1 1 C D) there is no gradient."""
    fits = items.shape[3] % _WIDE == 0 and items.numel() > 0 and serves_whole(items)
    return fits and (items.shape[:2] != (1, 1) or (rollouts == 1 and not torch.is_grad_enabled()))


def score_candidates(items: Tensor, sides: Sequence[States], network: Network | None, *, dot: bool) -> Tensor:
    """Logits B T N C of both sides: with ``dot`` the inner product of w_s + w_r with e, with a network what it makes of them.

    ``items``: B T C D, or one catalogue for all targets, 1 1 C D.
    """
    shared = items.shape[:2] == (1, 1)
    none = items.new_empty(0, items.shape[3])
    first = [network.known, network.of_item] if network else [items.new_empty(len(sides[0].own), 0), none]
    of_v = [side.of_v if network else none for side in sides]
    later, draws = (network.later, network.draws) if network else ((), ())
    states = [x for side in sides for x in (side.x, side.own)]
    return _score(
        _Shape(shared, dot, in_halves(), draws), *(side.visible for side in sides), *states, items, *first,
        *(side.of_key for side in sides), *of_v, *later,
    )  # fmt: skip


class _Shape(NamedTuple):
    """All that is no tensor."""

    shared: bool
    dot: bool
    half: bool
    draws: tuple[Draws, ...]


class _Score(torch.autograd.Function):
    """Keeps its inputs alone: what is between them and the scores is made again for the gradient, where it stays in the cache."""

    @staticmethod
    def forward(ctx: Any, shape: _Shape, visible_s: Tensor, visible_r: Tensor, *tensors: Tensor) -> Tensor:
        in_fp32(*tensors)
        tensors = tuple(x.contiguous() for x in tensors)
        visible = visible_s.contiguous(), visible_r.contiguous()
        out = tensors[0].new_empty(*tensors[1].shape[:3], tensors[4].shape[2])
        _call(shape, visible, tensors, out, None)
        ctx.shape = shape
        ctx.save_for_backward(*visible, *tensors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        visible_s, visible_r, *tensors = ctx.saved_tensors
        leaves, known = tensors[:5], tensors[5]
        layers = _layers(tensors)
        sizes = [x.numel() for x in layers]
        flat = gradient.new_empty(sum(sizes))
        of_known, *of_leaves = (torch.empty_like(x) for x in (known, *leaves))
        of_states, of_items = of_leaves[:4], of_leaves[4]
        taken = [gradient.contiguous(), *of_states, of_items, of_known, flat]
        _call(ctx.shape, (visible_s, visible_r), tensors, None, taken)
        parts = [part.view_as(x) for part, x in zip(flat.split(sizes), layers, strict=True)]
        of_key, of_v, of_item, later = parts[:4:2], parts[4:8:2], parts[8], parts[10:]
        return None, None, None, *of_states, of_items, of_known, of_item, *of_key, *of_v, *later


_score = cast(Callable[..., Tensor], _Score.apply)


def _layers(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Matrix and bias of each layer in the kernel's order; those of states and items have none."""
    of_item, key_s, key_r, v_s, v_r, *later = tensors[6:]
    return [x for matrix in (key_s, key_r, v_s, v_r, of_item) for x in (matrix, matrix.new_zeros(len(matrix)))] + later


def _call(
    shape: _Shape, visible: Sequence[Tensor], tensors: Sequence[Tensor], out: Tensor | None, taken: Sequence[Tensor] | None
) -> None:
    (b, t, n, k, d), (x_s, _, x_r, _, items, known, *_) = tensors[1].shape, tensors
    layers = _layers(tensors)
    matrices = layers[::2]
    c = items.shape[2]
    sizes = (
        b, t, n, c, d, known.shape[1], k, int(shape.shared), int(shape.dot), x_s.shape[1], x_r.shape[1], int(shape.half),
        *(size for matrix in matrices for size in (matrix.shape[1], matrix.shape[0])),
    )  # fmt: skip
    numbers = [number for one in shape.draws for number in one]
    functions().seerec_score(
        longs(sizes), ctypes.c_long(len(matrices)), pointers([*tensors[:6], out]), pointers(visible), pointers(layers),
        (ctypes.c_uint32 * len(numbers))(*numbers), pointers(taken) if taken else None, threads(b * t * n * c * d),
    )  # fmt: skip
