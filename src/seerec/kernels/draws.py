"""Dropout whose draws are a hash of a counter: cheap, the same in a kernel and in torch, and never kept for the gradient.

A share is rounded to 1/256, and a byte decides an element; the scale is exact for the rounded share. On a processor the draws of
torch's generator would cost more than all else that dropout does. A GPU has fast draws of its own, which are taken there.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seerec.kernels.library import address, functions, serves, threads

CHUNK, LANES = 64, 16
"""Elements of a row that share sixteen 32-bit draws, a byte of each."""


class Draws(NamedTuple):
    """The two seeds of one use of dropout, and how many of 256 elements it drops."""

    seed: int
    other: int
    dropped: int

    @property
    def scale(self) -> float:
        """Of what is kept."""
        return 256 / (256 - self.dropped)

    def array(self) -> ctypes.Array[ctypes.c_uint32]:
        """As the kernels take them."""
        return (ctypes.c_uint32 * 3)(*self)

    def factors(self, rows: int, columns: int) -> Tensor:
        """What elements are multiplied with, rows x columns: 0 or the scale. On the processor."""
        chunks = -(-columns // CHUNK)
        counter = torch.arange(rows * chunks * LANES, dtype=torch.int32) + _signed(self.seed)
        word = _mixed(_mixed(counter) ^ _signed(self.other)).view(rows, chunks, 1, LANES)
        byte = torch.stack([word >> shift for shift in (0, 8, 16, 24)], 2).bitwise_and_(255).view(rows, chunks * CHUNK)
        return (byte[:, :columns] >= self.dropped) * self.scale


def draw(share: float, training: bool) -> Draws:
    """Seeds from torch's generator; none are drawn where nothing is dropped."""
    dropped = round(share * 256) if training else 0
    if dropped == 0:
        return Draws(0, 0, 0)
    seed, other = torch.randint(0, 1 << 32, (2,)).tolist()
    return Draws(seed, other, dropped)


def _signed(x: int) -> int:
    """The same 32 bits as torch's whole numbers have them."""
    return x - (1 << 32) if x >= 1 << 31 else x


def _mixed(x: Tensor) -> Tensor:
    """A hash of 32 bits to 32 (C. Wellons, "Prospecting for hash functions", 2018)."""
    x = x ^ (x >> 16 & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15 & 0x1FFFF)
    x = x * _signed(0x846CA68B)
    return x ^ (x >> 16 & 0xFFFF)


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """``x`` with elements dropped at random, what is left scaled up."""
    if x.device.type != "cpu":
        return F.dropout(x, share, training)
    draws = draw(share, training)
    if draws.dropped == 0 or x.numel() == 0:
        return x
    return _dropout(x, draws) if serves(x) else x * factors_like(x, draws)


def factors_like(x: Tensor, draws: Draws) -> Tensor:
    """``Draws.factors`` in the shape and type of ``x``; a row is all of the last axis. A GPU draws for itself."""
    if x.device.type != "cpu":
        return F.dropout(torch.ones_like(x), draws.dropped / 256)
    return draws.factors(x.numel() // x.shape[-1], x.shape[-1]).view(x.shape).to(x.dtype)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, draws: Draws) -> Tensor:
        ctx.draws = draws
        return _dropped(x, draws)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _dropped(gradient, ctx.draws), None


_dropout = cast(Callable[[Tensor, Draws], Tensor], _Dropout.apply)


def _dropped(x: Tensor, draws: Draws) -> Tensor:
    x = x.contiguous()
    y, d = torch.empty_like(x), x.shape[-1]
    functions().seerec_drop(
        x.element_size(),
        ctypes.c_long(x.numel() // d),
        ctypes.c_long(d),
        address(x),
        draws.array(),
        address(y),
        threads(x.numel()),
    )
    return y


def relu_dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """``dropout`` of the positive part of ``x``, which is overwritten; the gradient needs nothing but the result."""
    if serves(x) and x.is_contiguous() and x.numel():
        return _relu_dropout(x, draw(share, training))
    return dropout(x.relu_(), share, training)


class _ReLUDropout(torch.autograd.Function):
    """What is positive in the result was positive before and was kept, at the scale of all that is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, draws: Draws) -> Tensor:
        d, ctx.scale = x.shape[-1], draws.scale
        functions().seerec_relu(
            x.element_size(), ctypes.c_long(x.numel() // d), ctypes.c_long(d), address(x), draws.array(), threads(x.numel())
        )
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_x = torch.empty_like(gradient)
        functions().seerec_relu_gradient(
            gradient.element_size(), ctypes.c_long(gradient.numel()), address(gradient), address(result),
            ctypes.c_float(ctx.scale), address(of_x), threads(gradient.numel()),
        )  # fmt: skip
        return of_x, None


_relu_dropout = cast(Callable[[Tensor, Draws], Tensor], _ReLUDropout.apply)
