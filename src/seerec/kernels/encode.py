"""What an evaluated batch spends its time on, in one pass where no gradient follows: an encoder layer, means of table rows."""

import ctypes

import torch
from torch import Tensor

from seerec.kernels.library import address, functions, longs, pointers, serves, serves_whole, threads
from seerec.kernels.precision import in_halves

_WIDE = 16
"""Every width must be a multiple of the kernel's vectors."""


def encodes(x_BLD: Tensor, visible_BLL: Tensor, heads: int, inner: int) -> bool:
    """Whether ``encode`` can take these."""
    d = x_BLD.shape[2]
    fits = all(width % _WIDE == 0 for width in (d, d // heads, inner))
    whole = visible_BLL.dtype == torch.bool and visible_BLL.shape == (*x_BLD.shape[:2], x_BLD.shape[1])
    return fits and whole and x_BLD.numel() > 0 and not torch.is_grad_enabled() and serves_whole(x_BLD)


def encode(
    x_BLD: Tensor, visible_BLL: Tensor, heads: int, inner: int, weights: tuple[Tensor, ...], epsilons: tuple[float, float]
) -> Tensor:
    """The post-norm layer of ``EncoderLayer`` without dropout: a = norm(x + attention), norm(a + W2 relu(W1 a)).

    ``weights``: matrix and bias of queries, keys and values side by side, of the attention's output, of W1 and of W2; gain
    and shift of the first norm and of the second.
    """
    b, length, d = x_BLD.shape
    x, visible = x_BLD.contiguous(), visible_BLL.contiguous()
    kept = [weight.contiguous() for weight in weights]
    y = torch.empty_like(x)
    sizes = b, length, d, heads, inner, int(in_halves())
    functions().seerec_encode(
        longs(sizes), address(x), address(visible), pointers(kept), ctypes.c_float(epsilons[0]), ctypes.c_float(epsilons[1]),
        address(y), threads(x.numel()),
    )  # fmt: skip
    return y


def averages(table_VD: Tensor, ids: Tensor) -> bool:
    """Whether ``mean_of_rows`` can take these."""
    plain = table_VD.dtype == torch.float32 and table_VD.is_contiguous() and ids.dtype == torch.int64
    learns = torch.is_grad_enabled() and table_VD.requires_grad
    return plain and not learns and ids.device.type == "cpu" and ids.numel() > 0 and serves(table_VD)


def mean_of_rows(table_VD: Tensor, ids: Tensor) -> Tensor:
    """Mean of a table's rows over the last axis of ``ids``, of which 0 counts as none; zeros where all are."""
    if int(ids.max()) >= len(table_VD) or int(ids.min()) < 0:
        raise IndexError(f"an id is not among the table's {len(table_VD)} rows")
    ids, d = ids.contiguous(), table_VD.shape[1]
    y = table_VD.new_empty(*ids.shape[:-1], d)
    w = ids.shape[-1]
    functions().seerec_mean_of_rows(
        address(table_VD), ctypes.c_long(d), address(ids), ctypes.c_long(ids.numel() // w), ctypes.c_long(w), address(y),
        threads(y.numel()),
    )  # fmt: skip
    return y
