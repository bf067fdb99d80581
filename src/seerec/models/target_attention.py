"""Target attention over a history shared by all trajectories and a few states of each trajectory's own.

For a candidate e, the states x of the history that its target sees, and a trajectory's own states (LCR-SER: h(1) .. h(K))

    w = softmax(a(x, e)) V x      over [history ; own states], under one softmax

    bilinear    a = x' W e                                          V = 1
    dot         a = <x, e> / sqrt(D)                                V = 1
    multihead   a = x' W e / sqrt(D / heads)                        V = ``value``; in each block of D / heads columns apart
    mlp         a = ``logit`` relu(``hidden`` [x ; e ; x o e ; x - e])   V = 1

where W is ``query`` and o the product by element. LCR-SER eq. 8 leaves the form open (ambiguity A17); the group's programs use
the bilinear softmax. Here N counts trajectories, and K the states of each trajectory's own.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from seerec.models.layers import MASKED

Form = Literal["bilinear", "dot", "multihead", "mlp"]


class TargetAttention(nn.Module):
    """See above. The history's logits and weighted sum do not depend on the trajectory: they are computed once per (target,
    candidate) and joined with each trajectory's own block through the logarithms of the softmax denominators.
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
        query = self._query(items_BTCD)  # B T [h] C e
        logits = self._history_logits(query, history_BLD)  # B T [h] C L
        head_axis = [1] * (logits.dim() - 4)
        logits = logits.masked_fill(~visible_BTL.view(b, t, *head_axis, 1, -1), MASKED)
        weights = logits.softmax(-1)
        of_history = self._sum(weights, history_BLD)  # B T [h] C e, once for all N
        if not k:
            w = of_history.unsqueeze(2)
        else:
            own_logits = self._own_logits(query.unsqueeze(2), own_BTNKD)  # B T N [h] C K
            own_logits = own_logits.masked_fill(~own_visible.view(b, t, 1, *head_axis, 1, k), MASKED)
            # The log of the history's softmax denominator. Not by ``logsumexp``, whose exp takes 30 times as long where it
            # underflows, as it does in every masked slot.
            history_log_sum = (logits.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()).unsqueeze(2)
            log_sum = torch.logaddexp(history_log_sum, own_logits.logsumexp(-1, keepdim=True))  # over both blocks
            own_weights = (own_logits - log_sum).exp()
            w = (history_log_sum - log_sum).exp() * of_history.unsqueeze(2) + own_weights @ self._values(own_BTNKD)
        if head_axis:
            w = w.transpose(3, 4).flatten(4)
        sees = visible_BTL.any(-1) | own_visible.any(-1)
        return (w * sees.view(b, t, 1, 1, 1)).expand(-1, -1, n, -1, -1)

    def _query(self, items: Tensor) -> Tensor:
        if self.form == "multihead":
            return self._heads(self.query(items)) / (items.shape[-1] // self.heads) ** 0.5
        if self.form == "bilinear":
            return self.query(items)
        return items / items.shape[-1] ** 0.5 if self.form == "dot" else items

    def _history_logits(self, query: Tensor, history_BLD: Tensor) -> Tensor:
        """B T [h] C L, with T and C folded into one axis, so that no history is copied per target."""
        b = len(history_BLD)
        if self.form == "mlp":
            return self._compare(query, history_BLD.unsqueeze(1))
        if self.form == "multihead":
            keys = self._heads(history_BLD)  # B h L e
            folded = query.transpose(1, 2).flatten(2, 3) @ keys.transpose(-1, -2)  # B h TC L
            return folded.unflatten(2, (query.shape[1], query.shape[3])).transpose(1, 2)
        if len(query) < b:  # one catalogue for all rows
            return (history_BLD @ query[0, 0].T).transpose(1, 2).unsqueeze(1)
        return (query.flatten(1, 2) @ history_BLD.transpose(1, 2)).unflatten(1, query.shape[1:3])

    def _sum(self, weights: Tensor, history_BLD: Tensor) -> Tensor:
        """Weights B T [h] C L over the history's values -> B T [h] C e."""
        values = self._values(history_BLD)
        if self.form == "multihead":
            folded = weights.transpose(1, 2).flatten(2, 3) @ values
            return folded.unflatten(2, (weights.shape[1], weights.shape[3])).transpose(1, 2)
        return (weights.flatten(1, 2) @ values).unflatten(1, weights.shape[1:3])

    def _own_logits(self, query: Tensor, states: Tensor) -> Tensor:
        if self.form == "mlp":
            return self._compare(query, states)
        keys = self._heads(states) if self.form == "multihead" else states
        return query @ keys.transpose(-1, -2)

    def _compare(self, items: Tensor, states: Tensor) -> Tensor:
        """Items ... C D and states ... L D -> ... C L, by the small network of ``mlp``."""
        e, x = torch.broadcast_tensors(items.unsqueeze(-2), states.unsqueeze(-3))
        return self.logit(torch.relu(self.hidden(torch.cat([x, e, x * e, x - e], -1)))).squeeze(-1)

    def _values(self, states: Tensor) -> Tensor:
        return self._heads(self.value(states)) if self.form == "multihead" else states

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
