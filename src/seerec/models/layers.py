"""Layers the models share: dropout, reach of a target, attention over two blocks, the encoder layer, the scoring MLP."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -1e9
"""Logit of what may not be seen: finite, so that a row which sees nothing stays free of NaN."""


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout with its share rounded to 1/256, so that one random 64-bit draw decides eight elements.

    On a CPU the draws are what dropout costs; this is several times faster than torch's. The scale is exact for the
    rounded share.
    """
    dropped = round(share * 256)
    if not training or dropped == 0:
        return x
    draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    keep = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * keep.to(x.dtype).mul_(256 / (256 - dropped))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last but one axis where ``mask``; zeros where nothing is."""
    weight = mask.to(x.dtype)
    return (x * weight.unsqueeze(-1)).sum(-2) / weight.sum(-1, keepdim=True).clamp(min=1)


def dot(vector_BTD: Tensor, items_BTCD: Tensor) -> Tensor:
    """Inner products B T C. One catalogue for all rows (1 1 C D) is one matrix product, which never repeats it per row."""
    if items_BTCD.shape[:2] == (1, 1):
        return vector_BTD @ items_BTCD[0, 0].T
    return (items_BTCD @ vector_BTD.unsqueeze(3)).squeeze(3)


class Reach(NamedTuple):
    """Which slots of a padded history each target may see, wherever the padding is."""

    visible: Tensor  # B T L  bool
    last: Tensor  # B T    slot of the last visible event; 0 where nothing has been seen
    any: Tensor  # B T    bool
    position: Tensor  # B L    index of each event counted from the oldest

    def gather(self, x_BLD: Tensor) -> Tensor:
        """The state at the last visible slot, B T D; zeros where nothing has been seen."""
        index = self.last.unsqueeze(2).expand(-1, -1, x_BLD.shape[2])
        return x_BLD.gather(1, index) * self.any.unsqueeze(2)


def reach(present_BL: Tensor, seen_BT: Tensor) -> Reach:
    """Slots visible to targets that see the first ``seen`` events of a contiguous history."""
    length = present_BL.shape[1]
    first = present_BL.int().argmax(1) if length else present_BL.new_zeros(len(present_BL), dtype=torch.long)
    slot = torch.arange(length, device=present_BL.device)
    index = slot - first.unsqueeze(1)
    visible = (index.unsqueeze(1) >= 0) & (index.unsqueeze(1) < seen_BT.unsqueeze(2))
    last = (first.unsqueeze(1) + seen_BT - 1).clamp(min=0, max=max(length - 1, 0))
    return Reach(visible, last, seen_BT > 0, index.clamp(min=0))


class KeysValues(NamedTuple):
    """Projected keys and values: of a history (B h L e), or of own step inputs (B h M k e)."""

    key: Tensor
    value: Tensor


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

    def keys_values(self, x_BLD: Tensor) -> KeysValues:
        """Keys and values of a history, B h L e each."""
        return KeysValues(*(self._split(f(x_BLD)).transpose(1, 2) for f in (self.key, self.value)))

    def own_keys_values(self, x_BMD: Tensor) -> KeysValues:
        """Keys and values of one own vector per query, B h M 1 e each."""
        return KeysValues(*(self._split(f(x_BMD)).transpose(1, 2).unsqueeze(3) for f in (self.key, self.value)))

    def forward(
        self, x_BMD: Tensor, history: KeysValues, visible_BML: Tensor, own: KeysValues | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend; return (B M D, weights over the history averaged over heads B M L)."""
        query = self._split(self.query(x_BMD)).transpose(1, 2) / math.sqrt(x_BMD.shape[-1] // self.heads)
        length = history.key.shape[2]
        visible = visible_BML.unsqueeze(1)
        logits = (query @ history.key.transpose(2, 3)).masked_fill(~visible, MASKED)
        if own is not None:
            # A product and a sum: a batched matrix product over this many tiny matrices is several times slower.
            logits = torch.cat([logits, (query.unsqueeze(3) * own.key).sum(-1)], -1)
        weights = logits.softmax(-1)
        if own is None:
            weights = weights * visible  # zeroes a query that sees nothing at all
        dropped = dropout(weights, self.dropout, self.training)
        out = dropped[..., :length] @ history.value
        if own is not None:
            out = out + (dropped[..., length:].unsqueeze(4) * own.value).sum(3)
        return self.out(out.transpose(1, 2).flatten(2)), weights[..., :length].mean(1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


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
        self.activation: Callable[[Tensor], Tensor] = F.relu if activation == "relu" else F.gelu
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
        inner = dropout(self.activation(self.feed_in(inside)), self.dropout, self.training)
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

    def read(self, x_BMD: Tensor, history: KeysValues, visible_BML: Tensor, own: KeysValues | None = None) -> Tensor:
        """The whole layer for M queries that read a history (and each something of its own), which are already projected."""
        update, _ = self.attention(self.context(x_BMD), history, visible_BML, own)
        return self.feed(self.join(x_BMD, update, self.norm_attention))


def history_mask(present_BL: Tensor, causal: bool) -> Tensor:
    """B L L bool: slot i sees slot j when j holds an event and, if causal, j <= i."""
    length = present_BL.shape[1]
    mask = present_BL.unsqueeze(1).expand(-1, length, -1)
    return mask.tril() if causal else mask


class ScoringMLP(nn.ModuleList):
    """Hidden layers with ReLU and dropout over concatenated parts, one logit (the scorer of the group's programs).

    The first layer acts on every part at the part's own size, so that what candidates or trajectories share is
    multiplied once.
    """

    def __init__(self, widths: Sequence[int], hidden: Sequence[int], dropout: float) -> None:
        super().__init__(nn.Linear(a, b) for a, b in pairwise((sum(widths), *hidden, 1)))
        self.widths, self.dropout = tuple(widths), dropout

    def forward(self, *parts: Tensor) -> Tensor:
        """Parts whose leading axes broadcast, last axes as ``widths`` -> logits without that axis."""
        first = cast(nn.Linear, self[0])
        weights = first.weight.split(self.widths, 1)
        x = F.linear(parts[0], weights[0], first.bias)
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            x = x + F.linear(part, weight)
        for layer in list(self)[1:]:
            x = layer(dropout(F.relu(x), self.dropout, self.training))
        return x.squeeze(-1)


def initialise(model: nn.Module) -> None:
    """Linear layers: Xavier normal, bias 0, as in the group's programs (the tables initialise themselves)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialise_normal(model: nn.Module) -> None:
    """Linear layers: normal .02, bias 0; layer normalisation with epsilon 1e-12, as in programs that follow BERT's."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.eps = 1e-12
