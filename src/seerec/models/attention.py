"""Multi-head attention over two blocks, and the encoder layer made of it.

The core, ``_Attend``, has its gradient written out. Left to autograd it makes more passes over memory, and those, not the
products, are what attention over short histories costs on a CPU (docs/performance.md).

Axes beside those of ``batch.py``: M queries of a row, h heads, e columns of a head. O are the columns of a logit: L of the
history, then room for a query's own vectors.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seerec.models.layers import MASKED, dropout, kept, relu_dropout


class KeysValues(NamedTuple):
    """Projected keys and values, of a history (B O D, zeros where there is room) or of one own vector per query (B M D)."""

    key: Tensor
    value: Tensor
    room: int = 0
    """Columns of a history's O that are left for own vectors."""


Own = tuple[KeysValues, ...]
"""The own vectors of each query, oldest first."""


class Attention(nn.Module):
    """Multi-head attention whose context is two blocks under one softmax.

    The first block is a history shared by all M queries of a row (projected once), of which query m sees
    ``visible[:, m]``; the second holds m's own few vectors. Nothing is repeated per query.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def keys_values(self, x_BLD: Tensor, room: int = 0) -> KeysValues:
        """Keys and values of a history, with room for that many own vectors per query."""
        key, value = self.key(x_BLD), self.value(x_BLD)
        return KeysValues(F.pad(key, (0, 0, 0, room)), F.pad(value, (0, 0, 0, room)), room) if room else KeysValues(key, value)

    def own_keys_values(self, x_BMD: Tensor) -> KeysValues:
        """Keys and values of one own vector per query."""
        return KeysValues(self.key(x_BMD), self.value(x_BMD))

    def forward(self, x_BMD: Tensor, history: KeysValues, visible_BML: Tensor, own: Own = ()) -> tuple[Tensor, Tensor]:
        """Attend; return (B M D, weights over the history by head h B M L, without a gradient)."""
        length = history.key.shape[1] - history.room
        query = self.query(x_BMD)
        hidden_BMO = query.new_full((*visible_BML.shape[:2], history.key.shape[1]), MASKED)
        hidden_BMO[..., :length].masked_fill_(visible_BML, 0.0)
        share = self.dropout if self.training else 0.0
        flat = [tensor for pair in own for tensor in (pair.key, pair.value)]
        out, weights = _attend(query, history.key, history.value, hidden_BMO, self.heads, length, share, *flat)
        return self.out(out), weights.narrow(3, 0, length)


class _Attend(torch.autograd.Function):
    """softmax(q k / sqrt(e)) v over the history and each query's own vectors, with dropout on the weights.

    Returns the sums B M D and the weights h B M O, of which only the sums have a gradient. Heads are taken one by one as slices
    of D, so that nothing is transposed; own vector i has column L + i.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        hidden: Tensor,
        heads: int,
        length: int,
        share: float,
        *own: Tensor,
    ) -> tuple[Tensor, Tensor]:
        b, m, d = query.shape
        ctx.heads, ctx.length, ctx.scale = heads, length, 1 / math.sqrt(d // heads)
        own_key, own_value = own[::2], own[1::2]
        logits = query.new_empty(heads, b, m, key.shape[1])
        for head, columns in _each_head(d, heads):
            keys = key[..., columns].transpose(1, 2)
            torch.baddbmm(hidden, query[..., columns], keys, alpha=ctx.scale, out=logits[head])
        for column, other in enumerate(own_key, length):
            logits[..., column] = _per_head(query, other, heads).mul_(ctx.scale)
        weights = logits.softmax(-1)
        if not own:  # zeroes a query that sees nothing at all
            weights.mul_((hidden.amax(-1, keepdim=True) == 0).to(weights.dtype))
        factor = kept(weights, share)
        dropped_weights = weights if factor is None else weights * factor
        out = query.new_empty(b, m, d)
        for head, columns in _each_head(d, heads):
            out[..., columns] = torch.bmm(dropped_weights[head], value[..., columns])
        for column, other in enumerate(own_value, length):
            _by_head(out, heads).addcmul_(_column(dropped_weights, column), _by_head(other, heads))
        ctx.save_for_backward(query, key, value, weights, factor, *own)
        ctx.mark_non_differentiable(weights)
        return out, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, factor, *own = ctx.saved_tensors
        heads, d = ctx.heads, query.shape[2]
        own_key, own_value = own[::2], own[1::2]
        dropped_weights = weights if factor is None else weights * factor
        of_weights = torch.empty_like(weights)
        of_value, of_key, of_query = torch.empty_like(value), torch.empty_like(key), torch.empty_like(query)
        for head, columns in _each_head(d, heads):
            part = gradient[..., columns]
            torch.bmm(part, value[..., columns].transpose(1, 2), out=of_weights[head])
            of_value[..., columns] = torch.bmm(dropped_weights[head].transpose(1, 2), part)
        for column, other in enumerate(own_value, ctx.length):
            of_weights[..., column] = _per_head(gradient, other, heads)
        if factor is not None:
            of_weights.mul_(factor)
        of_logits = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        for head, columns in _each_head(d, heads):
            of_query[..., columns] = torch.bmm(of_logits[head], key[..., columns])
            of_key[..., columns] = torch.bmm(of_logits[head].transpose(1, 2), query[..., columns])
        of_own: list[Tensor] = []
        for column, other in enumerate(own_key, ctx.length):
            of_logit = _column(of_logits, column)
            _by_head(of_query, heads).addcmul_(of_logit, _by_head(other, heads))
            of_own.append((of_logit * _by_head(query, heads)).flatten(2))
            of_own.append((_column(dropped_weights, column) * _by_head(gradient, heads)).flatten(2))
        return of_query, of_key, of_value, None, None, None, None, *of_own


_attend = cast(Callable[..., tuple[Tensor, Tensor]], _Attend.apply)


def _each_head(width: int, heads: int) -> Iterator[tuple[int, slice]]:
    """Every head and its columns of D."""
    size = width // heads
    return ((head, slice(head * size, (head + 1) * size)) for head in range(heads))


def _by_head(x_BMD: Tensor, heads: int) -> Tensor:
    """B M h e."""
    return x_BMD.unflatten(2, (heads, -1))


def _per_head(a_BMD: Tensor, b_BMD: Tensor, heads: int) -> Tensor:
    """Inner products by head, h B M. A product and a sum: as many tiny matrix products take several times as long."""
    return _by_head(a_BMD * b_BMD, heads).sum(-1).permute(2, 0, 1)


def _column(x_hBMO: Tensor, column: int) -> Tensor:
    """One column, B M h 1."""
    return x_hBMO[..., column].permute(1, 2, 0).unsqueeze(-1)


class EncoderLayer(nn.Module):
    """One Transformer layer in pieces, so that reasoning can put cross-attention between its halves.

    ``post``: a = LN(x + attention), y = LN(a + W2 relu(W1 a)), as torch's default. ``pre``: normalisation before each
    half. ``literal``: the printed equations, no normalisation, no residual around the feed-forward network.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        dropout: float,
        block: Literal["post", "pre", "literal"] = "post",
        activation: Literal["relu", "gelu"] = "relu",
    ) -> None:
        super().__init__()
        self.block = block
        self.attention = Attention(width, heads, dropout)
        self.norm_attention = nn.LayerNorm(width) if block != "literal" else nn.Identity()
        self.norm_feed = nn.LayerNorm(width) if block != "literal" else nn.Identity()
        self.feed_in = nn.Linear(width, inner)
        self.feed_out = nn.Linear(inner, width)
        self.activation = activation
        self.dropout = dropout

    def context(self, x: Tensor) -> Tensor:
        """What keys, values and queries are made from."""
        return self.norm_attention(x) if self.block == "pre" else x

    def join(self, x: Tensor, update: Tensor, norm: nn.Module) -> Tensor:
        """Residual around an attention, with its normalisation where the block has one there."""
        joined = x + dropout(update, self.dropout, self.training)
        return norm(joined) if self.block == "post" else joined

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward half."""
        inside = self.norm_feed(x) if self.block == "pre" else x
        inner = self.feed_in(inside)
        if self.activation == "relu":
            inner = relu_dropout(inner, self.dropout, self.training)
        else:
            inner = dropout(F.gelu(inner), self.dropout, self.training)
        update = self.feed_out(inner)
        if self.block == "literal":
            return update
        joined = x + dropout(update, self.dropout, self.training)
        return self.norm_feed(joined) if self.block == "post" else joined

    def forward(self, x_BLD: Tensor, visible_BLL: Tensor) -> Tensor:
        """The whole layer over a history."""
        context = self.context(x_BLD)
        update, _ = self.attention(context, self.attention.keys_values(context), visible_BLL)
        return self.feed(self.join(x_BLD, update, self.norm_attention))

    def read(self, x_BMD: Tensor, history: KeysValues, visible_BML: Tensor, own: Own = ()) -> Tensor:
        """The whole layer for M queries that read a history (and each something of its own), which are already projected."""
        update, _ = self.attention(self.context(x_BMD), history, visible_BML, own)
        return self.feed(self.join(x_BMD, update, self.norm_attention))


def history_mask(present_BL: Tensor, causal: bool) -> Tensor:
    """B L L bool: slot i sees slot j when j holds an event and, if causal, j <= i."""
    length = present_BL.shape[1]
    mask = present_BL.unsqueeze(1).expand(-1, length, -1)
    return mask.tril() if causal else mask
