"""Layers the models share: tables, the input layer, attention over two blocks, target attention, losses."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch

if TYPE_CHECKING:
    from seerec.models.base import ModelConfig, Vocabulary

_HOLD_ROWS = 65_536
MASKED = -1e9
"""Logit of what may not be seen: finite, so that a row which sees nothing stays free of NaN."""


class Table(nn.Module):
    """An embedding table whose step touches only the rows it needs.

    ``open`` gathers the distinct rows of a step once; their gradient is dense over those rows, never over the table.
    Row 0 is padding: always zero, never trained.
    """

    def __init__(self, rows: int, width: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.weight, std=std)
        with torch.no_grad():
            self.weight[0] = 0
        self.register_buffer("slot", torch.zeros(rows, dtype=torch.int32), persistent=False)
        self.slot: Tensor
        self.touched: Tensor | None = None
        self.rows: Tensor | None = None

    def open(self, ids: Tensor) -> Tensor:
        """Gather the distinct ``ids`` (and padding) as the leaf ``rows`` (m, D); return the distinct ids (m)."""
        self.touched = torch.unique(F.pad(ids.reshape(-1), (1, 0)))
        self.slot[self.touched] = torch.arange(len(self.touched), dtype=torch.int32, device=ids.device)
        self.rows = self.weight.detach()[self.touched].requires_grad_()
        return self.touched

    def close(self) -> None:
        """Forget the step's rows."""
        self.touched = self.rows = None

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (any shape) -> vectors (that shape, D)."""
        if self.rows is None:
            return F.embedding(ids, self.weight, padding_idx=0)
        return F.embedding(self.slot[ids], self.rows, padding_idx=0)


class InputLayer(nn.Module):
    """The one place where ids become vectors, for every model.

    e_v = id row + V [category rows ; mean word row of its text], e_u likewise, e_q = mean word row of the query
    (LCR-SER section 3.2.1 prints the plain look-up, which this is when there are no features; the group's programs put
    Linear and tanh over the concatenation instead, which bounds every dot product).
    """

    def __init__(self, vocabulary: "Vocabulary", config: "ModelConfig") -> None:
        super().__init__()
        width, std = config.width, config.embedding_std
        self.user = Table(vocabulary.users, width, std)
        self.item = Table(vocabulary.items, width, std)
        self.word = Table(vocabulary.words, width, std)
        none = torch.zeros(1, 0, dtype=torch.int32)
        self.register_buffer("item_category", vocabulary.item_category if config.features else none)
        self.register_buffer("item_text", vocabulary.item_text if config.features else none)
        self.register_buffer("user_category", vocabulary.user_category if config.features else none)
        self.item_category: Tensor
        self.item_text: Tensor
        self.user_category: Tensor
        self.item_values = nn.ModuleList(_value_tables(self.item_category, width, std))
        self.user_values = nn.ModuleList(_value_tables(self.user_category, width, std))
        item_parts = len(self.item_values) + (self.item_text.shape[1] > 0)
        self.item_features = nn.Linear(item_parts * width, width, bias=False) if item_parts else None
        self.user_features = nn.Linear(len(self.user_values) * width, width, bias=False) if self.user_values else None
        self._vectors: Tensor | None = None
        self._held: Tensor | None = None

    def open(self, batch: Batch) -> None:
        """Gather the rows this batch touches, and make each distinct item's vector once."""
        items = self.item.open(torch.cat([batch.rec.reshape(-1), batch.click.reshape(-1), batch.candidates.reshape(-1)]))
        self.user.open(batch.user)
        words = [batch.query.reshape(-1)]
        if self.item_text.shape[1]:
            words.append(self.item_text[items].reshape(-1).long())
        self.word.open(torch.cat(words))
        self._vectors = self._item_vectors(items)

    @torch.no_grad()
    def hold(self) -> None:
        """Make every item's vector once, for a long evaluation; where there are no features, look-ups are as cheap."""
        if self.item_features is not None:
            ids = torch.arange(len(self.item.weight), device=self.item.weight.device)
            self._held = torch.cat([self._item_vectors(part) for part in ids.split(_HOLD_ROWS)])

    def close(self) -> None:
        """Forget the step's rows, and the held vectors."""
        self._vectors = self._held = None
        for table in (self.item, self.user, self.word):
            table.close()

    def items(self, ids: Tensor) -> Tensor:
        """Item ids (any shape) -> (that shape, D)."""
        if self._vectors is not None:
            return F.embedding(self.item.slot[ids], self._vectors)
        if self._held is not None:
            return F.embedding(ids, self._held)
        if self.item_features is None:
            return self.item(ids)
        distinct, place = torch.unique(ids, return_inverse=True)
        return F.embedding(place, self._item_vectors(distinct))

    def users(self, ids: Tensor) -> Tensor:
        """B -> B D."""
        vectors = self.user(ids)
        if self.user_features is not None:
            vectors = vectors + self.user_features(_values(self.user_values, self.user_category[ids]))
        return vectors

    def queries(self, words_BSW: Tensor) -> Tensor:
        """B S W -> B S D, the mean over the words; zeros where there is none."""
        return masked_mean(self.word(words_BSW), words_BSW != 0)

    def searches(self, query_BSW: Tensor, click_BSN: Tensor) -> Tensor:
        """B S D: query vector plus mean clicked item (LCR-SER section 3.2.2)."""
        return self.queries(query_BSW) + masked_mean(self.items(click_BSN), click_BSN != 0)

    def _item_vectors(self, ids: Tensor) -> Tensor:
        vectors = self.item(ids)
        if self.item_features is None:
            return vectors
        parts = [_values(self.item_values, self.item_category[ids])] if len(self.item_values) else []
        if self.item_text.shape[1]:
            words = self.item_text[ids].long()
            parts.append(masked_mean(self.word(words), words != 0))
        return vectors + self.item_features(torch.cat(parts, -1))


def _value_tables(categories: Tensor, width: int, std: float) -> list[nn.Embedding]:
    tables = []
    for column in range(categories.shape[1]):
        table = nn.Embedding(int(categories[:, column].max()) + 1, width, padding_idx=0)
        nn.init.normal_(table.weight, std=std)
        with torch.no_grad():
            table.weight[0] = 0
        tables.append(table)
    return tables


def _values(tables: nn.ModuleList, values: Tensor) -> Tensor:
    return torch.cat([table(values[..., column].long()) for column, table in enumerate(tables)], -1)


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

    def history(self, x_BLD: Tensor) -> KeysValues:
        """Keys and values of a history, B h L e each."""
        return KeysValues(*(self._split(f(x_BLD)).transpose(1, 2) for f in (self.key, self.value)))

    def own(self, x_BMD: Tensor) -> KeysValues:
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
        update, _ = self.attention(context, self.attention.history(context), visible_BLL)
        return self.feed(self.join(x_BLD, update, self.norm_attention))


def history_mask(present_BL: Tensor, causal: bool) -> Tensor:
    """B L L bool: slot i sees slot j when j holds an event and, if causal, j <= i."""
    length = present_BL.shape[1]
    mask = present_BL.unsqueeze(1).expand(-1, length, -1)
    return mask.tril() if causal else mask


def mean_over(loss_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the targets that are not padding; 0 where all are."""
    weight = mask_BT.to(loss_BT.dtype)
    return (loss_BT * weight).sum() / weight.sum().clamp(min=1)


def ranking_loss(logits_BTC: Tensor, positive_BT: Tensor, mask_BT: Tensor, kind: Literal["bce", "softmax"]) -> Tensor:
    """Mean loss over targets: binary cross-entropy over all C scores (LCR-SER eq. 11), or softmax cross-entropy."""
    if kind == "softmax":
        chosen = logits_BTC.log_softmax(-1).gather(2, positive_BT.unsqueeze(2)).squeeze(2)
        return mean_over(-chosen, mask_BT)
    label = torch.zeros_like(logits_BTC).scatter_(2, positive_BT.unsqueeze(2), 1.0)
    return mean_over(F.binary_cross_entropy_with_logits(logits_BTC, label, reduction="none").mean(-1), mask_BT)


def initialise(model: nn.Module) -> None:
    """Linear layers: Xavier normal, bias 0, as in the group's programs (the tables initialise themselves)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
