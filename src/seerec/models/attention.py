"""Multi-head attention over two blocks, and the encoder layer made of it.

Axes beside those of ``batch.py``: M queries of a row, h heads.
"""

import math
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.kernels import Matrix, attend, dropout, encode, encodes, join_norm, relu_dropout
from seerec.models.layers import linears


class KeysValues(NamedTuple):
    """Projected keys and values, of a history (B L D) or of one own vector per query (B M D)."""

    key: Tensor
    value: Tensor


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

    def keys_values(self, x: Tensor) -> KeysValues:
        """Keys and values of a history (B L D) or of one own vector per query (B M D)."""
        return KeysValues(*linears(x, self.key, self.value))

    def forward(self, x_BMD: Tensor, history: KeysValues, visible_BML: Tensor, own: Own = ()) -> Tensor:
        """Attend, B M D."""
        return self.attend(self.query(x_BMD), history, visible_BML, own)[0]

    def attend(
        self, query_BMD: Tensor, history: KeysValues, visible_BML: Tensor, own: Own = (), *, weigh: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The same for projected queries; with ``weigh`` also the weights of the history, h B M L, without a gradient."""
        share = self.dropout if self.training else 0.0
        flat = [tensor for pair in own for tensor in pair]
        out, weights = attend(query_BMD, history.key, history.value, visible_BML, flat, self.heads, share, weigh=weigh)
        return self.out(out), weights


class Absorbed:
    """An attention whose products with keys and values are folded into those of query and output: it reads x itself.

    q' (W_k x) = (W_k' q)' x, and a mixture of W_v x is W_v times the mixture; the bias of keys adds the same to all logits. So a
    history of L events costs nothing per event but its two inner products, which pays where queries are far fewer than events;
    each head's query is then D wide. Without gradient and dropout: for scoring.
    """

    @torch.no_grad()
    def __init__(self, attention: Attention) -> None:
        self.heads = attention.heads
        query, key, value = (
            layer.weight.unflatten(0, (self.heads, -1)) for layer in (attention.query, attention.key, attention.value)
        )  # h e D
        bias = attention.query.bias.view(self.heads, 1, -1)
        scale = math.sqrt(self.heads)  # ``attend`` divides by sqrt(D) where sqrt(D / h) is meant
        self.query_map = Matrix((key.transpose(1, 2) @ query).flatten(0, 1) * scale, (bias @ key).flatten() * scale)  # D -> hD
        by_head = attention.out.weight.unflatten(1, (self.heads, -1)).transpose(0, 1)  # h D e
        of_values = attention.out.weight @ attention.value.bias
        mixed = (by_head @ value).transpose(0, 1).flatten(1)
        self.out_map = Matrix(mixed, attention.out.bias + of_values)  # hD -> D, where a query sees anything
        self._blind_bias = attention.out.bias

    def query(self, x_BMD: Tensor) -> Tensor:
        """Each head's query in terms of x, B M hD."""
        return F.linear(x_BMD, *self.query_map)

    def keys_values(self, x: Tensor) -> KeysValues:
        """What is attended to as it is."""
        return KeysValues(x, x)

    def attend(
        self, query_BMD: Tensor, history: KeysValues, visible_BML: Tensor, own: Own = (), *, weigh: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """As of ``Attention``."""
        flat = [tensor for pair in own for tensor in pair]
        mixed, weights = attend(query_BMD, history.key, history.value, visible_BML, flat, self.heads, weigh=weigh)
        out = F.linear(mixed, *self.out_map)
        if own:
            return out, weights
        return torch.where(visible_BML.any(2, keepdim=True), out, self._blind_bias), weights


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
        if self.block == "post" and isinstance(norm, nn.LayerNorm):
            return join_norm(x, update, norm.weight, norm.bias, norm.eps, self.dropout, self.training)
        return x + dropout(update, self.dropout, self.training)

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
        return self.join(x, update, self.norm_feed)

    def forward(self, x_BLD: Tensor, visible_BLL: Tensor) -> Tensor:
        """The whole layer over a history."""
        heads, inner = self.attention.heads, self.feed_in.out_features
        plain = self.block == "post" and self.activation == "relu" and not (self.training and self.dropout)
        if plain and encodes(x_BLD, visible_BLL, heads, inner):
            return encode(x_BLD, visible_BLL, heads, inner, *self._weights())
        context = self.context(x_BLD)
        attention = self.attention
        query, key, value = linears(context, attention.query, attention.key, attention.value)
        update, _ = attention.attend(query, KeysValues(key, value), visible_BLL)
        return self.feed(self.join(x_BLD, update, self.norm_attention))

    def _weights(self) -> tuple[tuple[Tensor, ...], tuple[float, float]]:
        """As ``encode`` takes them."""
        first, second = cast(nn.LayerNorm, self.norm_attention), cast(nn.LayerNorm, self.norm_feed)
        attention, found = self.attention, []
        for layers in ((attention.query, attention.key, attention.value), (attention.out,), (self.feed_in,), (self.feed_out,)):
            found += [torch.cat([x.weight for x in layers]), torch.cat([x.bias for x in layers])]
        return (*found, *(x for norm in (first, second) for x in (norm.weight, norm.bias))), (first.eps, second.eps)

    def at(self, x_BLD: Tensor, some_BMD: Tensor, visible_BML: Tensor) -> Tensor:
        """What the layer makes of some of its inputs alone, B M D; where they are few and nothing is learnt, ``Absorbed``."""
        attention: Attention | Absorbed = self.attention
        learns = torch.is_grad_enabled() or self.training
        if not learns and 2 * some_BMD.shape[1] * attention.heads <= x_BLD.shape[1]:
            attention = Absorbed(self.attention)
        query, history = attention.query(self.context(some_BMD)), attention.keys_values(self.context(x_BLD))
        update, _ = attention.attend(query, history, visible_BML)
        return self.feed(self.join(some_BMD, update, self.norm_attention))

    def read(self, x_BMD: Tensor, history: KeysValues, visible_BML: Tensor, own: Own = ()) -> Tensor:
        """The whole layer for M queries that read a history (and each something of its own), which are already projected."""
        update = self.attention(self.context(x_BMD), history, visible_BML, own)
        return self.feed(self.join(x_BMD, update, self.norm_attention))


def history_mask(present_BL: Tensor, causal: bool) -> Tensor:
    """B L L bool: slot i sees slot j when j holds an event and, if causal, j <= i."""
    length = present_BL.shape[1]
    mask = present_BL.unsqueeze(1).expand(-1, length, -1)
    return mask.tril() if causal else mask
