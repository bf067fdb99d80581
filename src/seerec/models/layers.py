"""Layers the models share: means and products, reach of a target, the scoring MLP."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.kernels import relu_dropout

MASKED = -1e9
"""Logit of what may not be seen: finite, so that a row which sees nothing stays free of NaN."""


def linears(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """Several layers of one input, in one product."""
    if len(layers) == 1:
        return (layers[0](x),)
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).split([layer.out_features for layer in layers], -1)


def looked_up(table_VD: Tensor, index: Tensor) -> Tensor:
    """Rows of a table that is much smaller than the index, by a product: so is its gradient, which else adds up row by row."""
    if not torch.is_grad_enabled():
        return F.embedding(index, table_VD)
    return F.one_hot(index, len(table_VD)).to(table_VD.dtype) @ table_VD


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
        first, *others = self.columns
        x = F.linear(parts[0], first, self.bias)
        for part, columns in zip(parts[1:], others, strict=True):
            x = x + F.linear(part, columns)
        return self.after_first(x)

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """The first layer's matrix, cut into the columns of each part."""
        return cast(nn.Linear, self[0]).weight.split(self.widths, 1)

    @property
    def bias(self) -> Tensor:
        """The first layer's."""
        return cast(nn.Linear, self[0]).bias

    @property
    def later(self) -> tuple[Tensor, ...]:
        """Matrices and biases of the layers after the first, by turns."""
        return tuple(x for layer in list(self)[1:] for x in (cast(nn.Linear, layer).weight, cast(nn.Linear, layer).bias))

    def after_first(self, x: Tensor) -> Tensor:
        """Logits of what the first layer gave, which is overwritten."""
        for layer in list(self)[1:]:
            x = layer(relu_dropout(x, self.dropout, self.training))
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
