"""Where ids become vectors, for every model: tables whose step touches only the rows it needs, and the input layer."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.kernels import averages, mean_of_rows
from seerec.models.layers import masked_mean

if TYPE_CHECKING:
    from seerec.models.base import ModelConfig, Vocabulary

_HOLD_ROWS = 65_536


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

    def mean(self, ids: Tensor) -> Tensor:
        """Mean of the vectors over the last axis of ids, of which 0 counts as none: (... W) -> (... D)."""
        if self.rows is None and averages(self.weight, ids):
            return mean_of_rows(self.weight, ids)
        return masked_mean(self(ids), ids != 0)


class InputLayer(nn.Module):
    """The one place where ids become vectors, for every model.

    ``project = none``: e_v = id row + V [category rows ; mean word row of its text], e_u likewise, e_q = mean word row of
    the query (LCR-SER section 3.2.1 prints the plain look-up, which this is when there are no features).
    ``linear``, ``tanh``: every field has ``field_width`` columns; they are concatenated and one layer makes D of them, as in
    the group's programs (UniSAR: tanh, which bounds every dot product; SESRec: linear). An item's text then passes
    through the same layer as queries do.
    """

    def __init__(self, vocabulary: "Vocabulary", config: "ModelConfig") -> None:
        super().__init__()
        self.project = config.project
        plain = config.project == "none"
        width = config.width
        field = width if plain else config.field_width
        self.user = Table(vocabulary.users, field, config.embedding_std)
        self.item = Table(vocabulary.items, field, config.embedding_std)
        self.word = Table(vocabulary.words, field, config.feature_std)
        none = torch.zeros(1, 0, dtype=torch.int32)
        self.register_buffer("item_category", vocabulary.item_category if config.features else none)
        self.register_buffer("item_text", vocabulary.item_text if config.features else none)
        self.register_buffer("user_category", vocabulary.user_category if config.features else none)
        self.item_category: Tensor
        self.item_text: Tensor
        self.user_category: Tensor
        self.item_values = nn.ModuleList(_value_tables(self.item_category, field, config.feature_std))
        self.user_values = nn.ModuleList(_value_tables(self.user_category, field, config.feature_std))
        own = 0 if plain else field
        item_inputs = own + len(self.item_values) * field + (self.item_text.shape[1] > 0) * width
        user_inputs = own + len(self.user_values) * field
        self.item_features = nn.Linear(item_inputs, width, bias=not plain) if item_inputs else None
        self.user_features = nn.Linear(user_inputs, width, bias=not plain) if user_inputs else None
        self.query_projection = None if plain else nn.Linear(field, width)
        self.item_bias: Table | None = None  # a model that adds a number of its own to every item's score sets it
        self._vectors: Tensor | None = None
        self._held: Tensor | None = None

    def open(self, *batches: Batch, catalogue: bool = False) -> None:
        """Gather the rows these batches touch (of items: all, for ``catalogue``), and make each item's vector once."""
        every = [torch.arange(len(self.item.weight), device=self.item.weight.device)] if catalogue else []
        items = self.item.open(_flat(every, [x for b in batches for x in (b.rec, b.click, b.candidates)]))
        if self.item_bias is not None:
            self.item_bias.open(items)
        self.user.open(_flat([b.user for b in batches]))
        texts = [self.item_text[items].long()] if self.item_text.shape[1] else []
        self.word.open(_flat(texts, [x for b in batches for x in (b.query, b.target_query)]))
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
        for table in (self.item, self.user, self.word, self.item_bias):
            if table is not None:
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
        row = self.user(ids)
        if self.user_features is None:
            return row
        return self._join(self.user_features, row, _values(self.user_values, self.user_category[ids]))

    def queries(self, words: Tensor) -> Tensor:
        """Words (... W) -> (... D), the mean over the words, projected if asked; without a word: zeros, projected."""
        mean = self.word.mean(words)
        return mean if self.query_projection is None else self._activate(self.query_projection(mean))

    def searches(self, query_BSW: Tensor, click_BSN: Tensor) -> Tensor:
        """B S D: query vector plus mean clicked item (LCR-SER section 3.2.2). Slots without a search are not masked."""
        return self.queries(query_BSW) + self._mean_item(click_BSN)

    def _mean_item(self, ids: Tensor) -> Tensor:
        if self._vectors is None and self._held is None and self.item_features is None:
            return self.item.mean(ids)
        if self._vectors is None and self._held is not None and averages(self._held, ids):
            return mean_of_rows(self._held, ids)
        return masked_mean(self.items(ids), ids != 0)

    def _item_vectors(self, ids: Tensor) -> Tensor:
        row = self.item(ids)
        if self.item_features is None:
            return row
        parts = _values(self.item_values, self.item_category[ids])
        if self.item_text.shape[1]:
            parts.append(self.queries(self.item_text[ids].long()))
        return self._join(self.item_features, row, parts) * (ids != 0).unsqueeze(-1)

    def _join(self, layer: nn.Linear, row: Tensor, parts: list[Tensor]) -> Tensor:
        if self.project == "none":
            return row + layer(torch.cat(parts, -1))
        return self._activate(layer(torch.cat([row, *parts], -1)))

    def _activate(self, x: Tensor) -> Tensor:
        return x.tanh() if self.project == "tanh" else x


def _flat(*parts: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for part in parts for tensor in part])


def _value_tables(categories: Tensor, width: int, std: float) -> list[nn.Embedding]:
    tables = []
    for column in range(categories.shape[1]):
        table = nn.Embedding(int(categories[:, column].max()) + 1, width, padding_idx=0)
        nn.init.normal_(table.weight, std=std)
        with torch.no_grad():
            table.weight[0] = 0
        tables.append(table)
    return tables


def _values(tables: nn.ModuleList, values: Tensor) -> list[Tensor]:
    return [table(values[..., column].long()) for column, table in enumerate(tables)]
