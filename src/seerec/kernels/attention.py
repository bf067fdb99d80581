"""Attention of a row's queries over a history that they share and over vectors of each query's own, under one softmax.

Axes: B rows, M queries of a row, L slots of its history, h heads of e columns, D = h e.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seerec.kernels.draws import Draws, draw, factors_like
from seerec.kernels.library import address, functions, longs, pointers, rows_of, serves, threads

_MOST_OWN = 64
"""Own vectors of a query that the kernel takes."""


def attend(
    query_BMD: Tensor,
    key_BLD: Tensor,
    value_BLD: Tensor,
    visible_BML: Tensor,
    own: Sequence[Tensor],
    heads: int,
    share: float = 0.0,
    *,
    weigh: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k' / sqrt(e)) v, with dropout on the weights: B M D; zeros for a query that sees nothing.

    ``own`` holds keys and values by turns, each B M D: one vector per query. Where keys and values have the e columns of one
    head, all heads share them, and there is no gradient. With ``weigh`` also the weights of the
    history before dropout, h B M L, without a gradient.
    """
    draws = draw(share, training=True)
    tensors = (query_BMD, key_BLD, value_BLD, *own)
    shared = key_BLD.shape[2] < query_BMD.shape[2]
    if shared and torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        raise ValueError("keys and values that all heads share are for scoring alone: there is no gradient")
    fits = len(own) <= 2 * _MOST_OWN and query_BMD.numel() and key_BLD.shape[1] + len(own)
    if fits and visible_BML.dtype == torch.bool and serves(*tensors):
        return _attend(heads, draws, weigh, visible_BML, *tensors)
    return _attend_in_torch(heads, draws, weigh, visible_BML, *tensors)


def _attend_in_torch(
    heads: int, draws: Draws, weigh: bool, visible: Tensor, query: Tensor, key: Tensor, value: Tensor, *own: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The meaning of it."""
    e = query.shape[2] // heads
    query, key, value, *own_by_head = (x.unflatten(2, (-1, e)).transpose(1, 2) for x in (query, key, value, *own))
    length, owns = key.shape[2], len(own) // 2
    logits = [query @ key.transpose(2, 3), *((query * k).sum(3, keepdim=True) for k in own_by_head[::2])]
    seen = torch.cat([visible, visible.new_ones(*visible.shape[:2], owns)], 2).unsqueeze(1)  # B 1 M L+owns
    scaled = torch.cat(logits, 3) / math.sqrt(query.shape[3])
    weights = scaled.masked_fill(~seen, torch.finfo(scaled.dtype).min / 2).softmax(3) * seen
    kept = weights
    if draws.dropped and weights.numel():
        kept = weights * factors_like(weights, draws)
    out = kept[..., :length] @ value
    for column, v in enumerate(own_by_head[1::2], length):
        out = out + kept[..., column, None] * v
    return out.transpose(1, 2).flatten(2), weights[..., :length].detach().transpose(0, 1) if weigh else None


class _Attend(torch.autograd.Function):
    """Keeps two numbers per query and head; logits and draws are made again for the gradient."""

    @staticmethod
    def forward(
        ctx: Any, heads: int, draws: Draws, weigh: bool, visible: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        visible = visible.contiguous()
        query, key = tensors[:2]
        b, m, d = query.shape
        e = d // heads
        ctx.sizes, ctx.draws = (b, m, key.shape[1], heads, e, e if key.shape[2] == d else 0), draws
        out, tops = query.new_empty(b, m, d), torch.empty(b, heads, m, 2)
        weights = torch.empty(heads, b, m, key.shape[1]) if weigh else None
        _call(ctx.sizes, draws, visible, tensors, out, tops, weights, None)
        ctx.save_for_backward(visible, tops, *tensors)
        if weights is not None:
            ctx.mark_non_differentiable(weights)
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        visible, tops, *tensors = ctx.saved_tensors
        gradients = [torch.empty(x.shape, dtype=x.dtype) for x in tensors]
        _call(ctx.sizes, ctx.draws, visible, tensors, gradient, tops, None, gradients)
        return None, None, None, None, *gradients


_attend = cast(Callable[..., tuple[Tensor, Tensor | None]], _Attend.apply)


def _call(
    sizes: Sequence[int],
    draws: Draws,
    visible: Tensor,
    tensors: Sequence[Tensor],
    out: Tensor,
    tops: Tensor,
    weights: Tensor | None,
    gradients: Sequence[Tensor] | None,
) -> None:
    rows, strides = zip(*(rows_of(x) for x in tensors), strict=True)
    out, out_stride = rows_of(out)
    b, m, length, heads, e, _ = sizes
    functions().seerec_attend(
        out.element_size(), longs(sizes), ctypes.c_long(len(tensors) // 2 - 1), pointers(rows), longs(strides), address(visible),
        draws.array(), address(out), ctypes.c_long(out_stride), address(tops), address(weights),
        pointers(gradients) if gradients else None, longs([heads * e] * len(tensors)) if gradients else None,
        threads(b * m * (length + 4) * heads),
    )  # fmt: skip
