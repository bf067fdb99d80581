"""Layer normalisation of a residual whose update is dropped from: the end of every half of a Transformer layer."""

import ctypes
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seerec.kernels.draws import Draws, draw, dropout
from seerec.kernels.library import address, functions, serves, threads


def join_norm(x: Tensor, update: Tensor, gain_D: Tensor, shift_D: Tensor, epsilon: float, share: float, training: bool) -> Tensor:
    """norm(x + dropout(update)) * gain + shift, over the last axis; ``x`` and ``update`` have one shape."""
    if x.shape == update.shape and x.numel() and serves(x, update) and gain_D.dtype == torch.float32:
        return _join_norm(x, update, gain_D, shift_D, epsilon, draw(share, training))
    return F.layer_norm(x + dropout(update, share, training), gain_D.shape, gain_D, shift_D, epsilon)


class _JoinNorm(torch.autograd.Function):
    """Keeps the normalised rows and the inverse of their deviation; the draws are made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor, gain: Tensor, shift: Tensor, epsilon: float, draws: Draws) -> Tensor:
        x, update = x.contiguous(), update.contiguous()
        d = x.shape[-1]
        rows, y = x.numel() // d, torch.empty_like(x)
        learns = any(ctx.needs_input_grad)
        normed = torch.empty_like(x) if learns else None
        inverse = torch.empty(rows) if learns else None
        functions().seerec_join(
            x.element_size(), ctypes.c_long(rows), ctypes.c_long(d), address(x), address(update), address(gain), address(shift),
            ctypes.c_float(epsilon), draws.array(), address(y), address(normed), address(inverse), threads(x.numel()),
        )  # fmt: skip
        ctx.draws = draws
        ctx.save_for_backward(normed, inverse, gain)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, inverse, gain = ctx.saved_tensors
        gradient = gradient.contiguous()
        d, draws = gradient.shape[-1], ctx.draws
        of_x = torch.empty_like(gradient)
        of_update = torch.empty_like(gradient) if draws.dropped else of_x
        of_gain, of_shift = torch.empty_like(gain), torch.empty_like(gain)
        functions().seerec_join_gradient(
            gradient.element_size(), ctypes.c_long(gradient.numel() // d), ctypes.c_long(d), address(gradient), address(normed),
            address(inverse), address(gain), draws.array(), address(of_x), address(of_update), address(of_gain),
            address(of_shift), threads(gradient.numel()),
        )  # fmt: skip
        return of_x, of_update, of_gain, of_shift, None, None


_join_norm = cast(Callable[..., Tensor], _JoinNorm.apply)
