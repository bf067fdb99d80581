"""Scores of many candidates of each target, in one pass where no gradient follows: LCR-SER's eq. 8 and 10."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seerec.kernels.library import address, functions, longs, pointers, rows_of, serves, threads

_WIDE = 16
"""Floats of the kernel's vectors, of which every width must be a multiple."""


class States(NamedTuple):
    """What the candidates of a target attend to on one side: a history that its row shares, and K states of its own."""

    x: Tensor  # B L D
    visible: Tensor  # B T L  bool
    own_x: Tensor  # B TK D
    of_key: Tensor  # D D    what makes keys of states
    of_v: Tensor  # D H    their columns of the MLP's first layer


class Network(NamedTuple):
    """The MLP without what the states have already been through; widths but the last in whole vectors."""

    known: Tensor  # B H    the first layer's bias and what the user gives
    of_item: Tensor  # H D
    later: tuple[Tensor, ...]  # matrices of later layers (outputs x inputs) and their biases, by turns

    @classmethod
    def of(cls, known_BH: Tensor, of_item_HD: Tensor, later: Sequence[Tensor]) -> "Network":
        """Pad hidden widths with zeros, which stay zeros."""
        columns = [whole(x.T).T if x.ndim == 2 else x for x in later]
        return cls(whole(known_BH.T).T, whole(of_item_HD), (*map(whole, columns[:-2]), *columns[-2:]))


def whole(x: Tensor) -> Tensor:
    """With rows of zeros up to whole vectors."""
    missing = -len(x) % _WIDE
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x


def scores(items_BTCD: Tensor) -> bool:
    """Whether ``score_candidates`` can take such candidates."""
    fits = items_BTCD.shape[3] % _WIDE == 0 and items_BTCD.numel() > 0 and items_BTCD.dtype == torch.float32
    return fits and not torch.is_grad_enabled() and serves(items_BTCD)


def score_candidates(items_BTCD: Tensor, sides: Sequence[States], network: Network | None, *, dot: bool) -> Tensor:
    """Logits B T C of both sides: with ``dot`` the inner product of w_s + w_r with e, with a network what it makes of them."""
    b, t, c, d = items_BTCD.shape
    items = items_BTCD.contiguous()
    given = [x for s in sides for x in (s.x, s.own_x)]
    matrices = [x.contiguous() for s in sides for x in (s.of_key, s.of_v)]
    rows, strides = zip(*(rows_of(x) if x.numel() else (x, 0) for x in given), strict=True)
    visible = [s.visible.contiguous() for s in sides]
    k = sides[0].own_x.shape[1] // t
    kept: list[Tensor] = []
    widths: list[int] = []
    of_item = known = None
    if network is not None:
        of_item, known = network.of_item.t().contiguous(), network.known.contiguous()
        kept = [w.t().contiguous() for w in network.later]
        widths = [len(network.of_item), *(bias.numel() for bias in kept[1::2])]
    out = items.new_empty(b, t, c)
    sizes = (b, t, c, d, widths[0] if widths else 0, k, *(s.x.shape[1] for s in sides), *widths)
    functions().seerec_score(
        longs(sizes), ctypes.c_long(len(widths)), pointers(rows), longs(strides), pointers(matrices), pointers(visible),
        address(items), int(dot), address(of_item), address(known), pointers(kept), address(out), threads(items.numel()),
    )  # fmt: skip
    return out
