"""Target attention over a history shared by all trajectories and a few states of each trajectory's own.

LCR-SER eq. 8 leaves the form open (ambiguity A17); the group's programs use the bilinear softmax.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from seerec.models.layers import MASKED

Form = Literal["bilinear", "dot", "multihead", "mlp"]


class TargetAttention(nn.Module):
    """w = softmax over [history ; own states] of similarity with the candidate, times those states.

    The history's logits and weighted sum do not depend on the trajectory: they are computed once per (target,
    candidate) and merged with each trajectory's own block through the log of the softmax denominators.
    """

    def __init__(self, width: int, form: Form, heads: int) -> None:
        super().__init__()
        self.form = form
        self.heads = heads if form == "multihead" else 1
        if form in ("bilinear", "multihead"):
            self.query = nn.Linear(width, width, bias=False)
        if form == "multihead":
            self.value = nn.Linear(width, width, bias=False)
        if form == "mlp":
            self.hidden = nn.Linear(4 * width, width)
            self.logit = nn.Linear(width, 1)

    def forward(
        self, items_BTCD: Tensor, history_BLD: Tensor, visible_BTL: Tensor, own_BTNKD: Tensor, own_visible: Tensor
    ) -> Tensor:
        """Return w, B T N C D. ``own_visible`` is B T K; a target that sees nothing gets zeros."""
        b, t, n, k, _ = own_BTNKD.shape
        hidden = visible_BTL.logical_not()[:, :, None, None]  # B T 1 1 L
        logits = self._logits(items_BTCD.unsqueeze(2), history_BLD[:, None, None]).masked_fill(
            hidden[..., None, :, :] if self.heads > 1 else hidden, MASKED
        )  # B T 1 [h] C L
        own = self._logits(items_BTCD.unsqueeze(2), own_BTNKD)  # B T N [h] C K
        own_hidden = own_visible.logical_not().view(b, t, 1, *([1] * (own.dim() - 4)), k)
        own = own.masked_fill(own_hidden, MASKED)
        history_total = logits.logsumexp(-1, keepdim=True)
        total = torch.logaddexp(history_total, own.logsumexp(-1, keepdim=True)) if k else history_total
        values, own_values = self._values(history_BLD[:, None, None]), self._values(own_BTNKD)
        shared = (logits - history_total).exp() @ values  # B T 1 [h] C D, once for all N
        w = (history_total - total).exp() * shared
        if k:
            w = w + (own - total).exp() @ own_values
        sees = visible_BTL.any(-1) | own_visible.any(-1)
        if self.heads > 1:
            w = w.transpose(3, 4).flatten(4)
        return (w * sees.view(b, t, 1, 1, 1)).expand(-1, -1, n, -1, -1)

    def _logits(self, items: Tensor, states: Tensor) -> Tensor:
        """Items ... C D and states ... L D -> ... C L (multi-head: ... h C L)."""
        if self.form == "mlp":
            c, s = torch.broadcast_tensors(items.unsqueeze(-2), states.unsqueeze(-3))
            return self.logit(torch.relu(self.hidden(torch.cat([s, c, s * c, s - c], -1)))).squeeze(-1)
        if self.form == "dot":
            return items @ states.transpose(-1, -2) / states.shape[-1] ** 0.5
        query = self.query(items)
        if self.form == "bilinear":
            return query @ states.transpose(-1, -2)
        split = self._heads(query) @ self._heads(states).transpose(-1, -2)
        return split / (states.shape[-1] // self.heads) ** 0.5

    def _values(self, states: Tensor) -> Tensor:
        return self._heads(self.value(states)) if self.form == "multihead" else states

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
