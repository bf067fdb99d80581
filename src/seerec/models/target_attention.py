"""Target attention over a history shared by all trajectories and a few states of each trajectory's own.

For a candidate e, the states x of the history that its target sees, and a trajectory's own states (LCR-SER: h(1) .. h(K))

    w = softmax(a(x, e)) V x      over [history ; own states], under one softmax

    bilinear    a = x' W e                                          V = 1
    dot         a = <x, e> / sqrt(D)                                V = 1
    multihead   a = x' W e / sqrt(D / heads)                        V = ``value``; in each block of D / heads columns apart
    mlp         a = ``logit`` relu(``hidden`` [x ; e ; x o e ; x - e])   V = 1

where W is ``query`` and o the product by element. LCR-SER eq. 8 leaves the form open (ambiguity A17); the group's programs use
the bilinear softmax. Here N counts trajectories, K the states of each trajectory's own, h heads of e columns (1 but for
``multihead``), and H is the width of whatever w is mapped to.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from seerec.kernels import States, attend
from seerec.models.layers import MASKED

Form = Literal["bilinear", "dot", "multihead", "mlp"]


class Mixture(NamedTuple):
    """The w of every candidate, as weights over states that are far fewer than candidates.

    A linear map of w is a mixture of the mapped states: they are mapped once, and w itself is never needed.
    """

    weights: Tensor  # B T N h C (L + K)
    history: Tensor  # B h L e        values
    own: Tensor  # B T N h K e

    def vector(self) -> Tensor:
        """w, B T N C D."""
        b, t, n, h, c, _ = self.weights.shape
        shape = b, t, n, c, self.history.shape[3]
        w = [
            self._mixed(self.history.new_zeros(shape), head, self.history[:, head], self.own[:, :, :, head]) for head in range(h)
        ]
        return w[0] if h == 1 else torch.cat(w, -1)

    def through(self, matrix_HD: Tensor, onto: Tensor) -> Tensor:
        """``onto`` (broadcasts to B T N C H), which is used up, plus every w times the matrix, B T N C H."""
        for head, columns in enumerate(matrix_HD.chunk(self.weights.shape[3], 1)):
            onto = self._mixed(onto, head, self.history[:, head] @ columns.T, self.own[:, :, :, head] @ columns.T)
        return onto

    def inner(self, items_BTCD: Tensor) -> Tensor:
        """Inner product of every w with its candidate, B T N C."""
        total = torch.zeros((), device=items_BTCD.device)
        for head, e in enumerate(items_BTCD.chunk(self.weights.shape[3], -1)):
            products = both(state_products(e, self.history[:, head]).unsqueeze(2), own_products(e, self.own[:, :, :, head]))
            total = total + (self.weights[:, :, :, head] * products).sum(-1)
        return total

    def _mixed(self, onto: Tensor, head: int, history_BLH: Tensor, own_BTNKH: Tensor) -> Tensor:
        """``onto`` plus the head's mixture of these values."""
        b, t, n, _, c, _ = self.weights.shape
        length, width = history_BLH.shape[1:]
        # Autocast gives products 16 bits and leaves a softmax its 32, and adding up in place takes one type.
        weights, history_BLH, own_BTNKH = (x.to(onto.dtype) for x in (self.weights[:, :, :, head], history_BLH, own_BTNKH))
        total = onto.expand(b, t, n, c, width).contiguous().view(b, t * n * c, width)
        if length:
            total = total.baddbmm_(weights[..., :length].reshape(b, -1, length), history_BLH)
        if own_BTNKH.shape[3]:
            own_weights = weights[..., length:].flatten(0, 2)
            total = total.view(b * t * n, c, width).baddbmm_(own_weights, own_BTNKH.flatten(0, 2))
        return total.view(b, t, n, c, width)


class Vectors(NamedTuple):
    """w itself, by candidate or (C = 1) the same for all of a trajectory's; used as a ``Mixture``."""

    w: Tensor  # B T N C D

    def vector(self) -> Tensor:
        """w, B T N C D."""
        return self.w

    def through(self, matrix_HD: Tensor, onto: Tensor) -> Tensor:
        """``onto`` (broadcasts to B T N C H) plus w times the matrix."""
        return onto + self.w @ matrix_HD.T

    def inner(self, items_BTCD: Tensor) -> Tensor:
        """Inner product of w with every candidate, B T N C."""
        if self.w.shape[3] == 1:
            return own_products(items_BTCD, self.w).squeeze(4)
        return (self.w * items_BTCD.unsqueeze(2)).sum(-1)


class TargetAttention(nn.Module):
    """See above. The history's logits do not depend on the trajectory: they are computed once per (target, candidate)."""

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
        self, items_BTCD: Tensor, history_BLD: Tensor, visible_BTL: Tensor, own_BTNKD: Tensor, own_visible: Tensor | None = None
    ) -> Mixture | Vectors:
        """Mix. ``own_visible`` is B T K, None: all; for a target that sees nothing every w is zero.

        ``items`` may be one catalogue for all targets, 1 1 C D. Where candidates are fewer than states, w is the smaller thing.
        """
        b, t, n, k, _ = own_BTNKD.shape
        few = items_BTCD.shape[2] * n <= k and items_BTCD.shape[:2] == (b, t)
        if few and own_visible is None and self.form != "mlp":
            return Vectors(self._attended(items_BTCD, history_BLD, visible_BTL, own_BTNKD))
        query, keys, own_keys = self._match(items_BTCD, history_BLD, own_BTNKD)
        hidden = visible_BTL.to(history_BLD.dtype).sub_(1).mul_(-MASKED).unsqueeze(2)
        weights = []
        for head in range(self.heads):
            logits = self._products(query[head], keys[head]) + hidden  # B T C L
            logits = logits.unsqueeze(2)
            if k:
                own_logits = self._own_products(query[head], own_keys[head])
                if own_visible is not None:
                    own_logits = own_logits.masked_fill(~own_visible.view(b, t, 1, 1, k), MASKED)
                logits = both(logits, own_logits)
            weights.append(logits.softmax(-1).expand(-1, -1, n, -1, -1))
        all_weights = weights[0].unsqueeze(3) if self.heads == 1 else torch.stack(weights, 3)
        if not k or own_visible is not None:
            sees = visible_BTL.any(-1) if own_visible is None else visible_BTL.any(-1) | own_visible.any(-1)
            all_weights = all_weights * sees.view(b, t, 1, 1, 1, 1)
        return Mixture(all_weights, self._values(history_BLD), self._values(own_BTNKD))

    def states(self, history_BLD: Tensor, visible_BTL: Tensor, own_BTNKD: Tensor, matrix_HD: Tensor) -> States:
        """What ``score_candidates`` reads; for one head, and not for ``mlp``."""
        d = history_BLD.shape[2]
        of_key = torch.eye(d, device=history_BLD.device) / math.sqrt(d) if self.form == "dot" else self.query.weight.T
        return States(history_BLD, visible_BTL, own_BTNKD, of_key, matrix_HD)

    def _attended(self, items_BTCD: Tensor, history_BLD: Tensor, visible_BTL: Tensor, own_BTNKD: Tensor) -> Tensor:
        """w, B T N C D, every candidate of every trajectory a query of its row."""
        b, t, n, k, d = own_BTNKD.shape
        c = items_BTCD.shape[2]
        query = items_BTCD if self.form == "dot" else self.query(items_BTCD)
        if self.form == "bilinear":
            query = query * math.sqrt(d)
        value, own_value = (self.value(x) if self.form == "multihead" else x for x in (history_BLD, own_BTNKD))

        def by_query(x: Tensor, columns: int) -> Tensor:
            return x.expand(b, t, n, c, columns).reshape(b, t * n * c, columns)

        own = [by_query(x[:, :, :, None, i], d) for i in range(k) for x in (own_BTNKD, own_value)]
        visible = by_query(visible_BTL[:, :, None, None], visible_BTL.shape[2])
        w, _ = attend(by_query(query.unsqueeze(2), d), history_BLD, value, visible, own, self.heads)
        return w.view(b, t, n, c, d)

    def _match(
        self, items: Tensor, history: Tensor, own: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Queries, keys of the history and of own states, by head. W goes to the fewer: to the candidates or to the states."""
        width = items.shape[-1]
        if self.form in ("bilinear", "multihead"):
            scale = (width // self.heads) ** -0.5 if self.form == "multihead" else 1.0
            of_states = self.form == "bilinear" and items.shape[:3].numel() > history.shape[:2].numel() + own.shape[:4].numel()
            if of_states:
                history, own = history @ self.query.weight, own @ self.query.weight
            else:
                items = self.query(items)
            items = items * scale if scale != 1 else items
        elif self.form == "dot":
            items = items / width**0.5
        return items.chunk(self.heads, -1), history.chunk(self.heads, -1), own.chunk(self.heads, -1)

    def _products(self, items: Tensor, states_BLD: Tensor) -> Tensor:
        return self._compare(items, states_BLD.unsqueeze(1)) if self.form == "mlp" else state_products(items, states_BLD)

    def _own_products(self, items: Tensor, states: Tensor) -> Tensor:
        return self._compare(items.unsqueeze(2), states) if self.form == "mlp" else own_products(items, states)

    def _compare(self, items: Tensor, states: Tensor) -> Tensor:
        """Items ... C D and states ... L D -> ... C L, by the small network of ``mlp``."""
        e, x = torch.broadcast_tensors(items.unsqueeze(-2), states.unsqueeze(-3))
        return self.logit(torch.relu(self.hidden(torch.cat([x, e, x * e, x - e], -1)))).squeeze(-1)

    def _values(self, states: Tensor) -> Tensor:
        if self.form == "multihead":
            return self.value(states).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        return states.unsqueeze(-3)


def state_products(items_BTCD: Tensor, history_BLD: Tensor) -> Tensor:
    """Inner products B T C L, with T and C folded into one axis, so that no history is copied per target.

    One catalogue for all targets (1 1 C D): B 1 C L.
    """
    if items_BTCD.shape[:2] == (1, 1):
        return (items_BTCD[0] @ history_BLD.transpose(1, 2)).unsqueeze(1)
    return (items_BTCD.flatten(1, 2) @ history_BLD.transpose(1, 2)).unflatten(1, items_BTCD.shape[1:3])


def own_products(items_BTCD: Tensor, own_BTNKD: Tensor) -> Tensor:
    """Inner products with a trajectory's own states, B T N C K, with N and K folded into one axis."""
    b, t, n, k, _ = own_BTNKD.shape
    if items_BTCD.shape[:2] == (1, 1):
        return (own_BTNKD @ items_BTCD[0, 0].T).transpose(3, 4)
    c = items_BTCD.shape[2]
    return (items_BTCD @ own_BTNKD.flatten(2, 3).transpose(2, 3)).view(b, t, c, n, k).transpose(2, 3)


def both(of_history: Tensor, of_own_BTNCK: Tensor) -> Tensor:
    """What belongs to the history (B T 1 C L, or B 1 1 C L) beside what belongs to each trajectory: B T N C (L + K)."""
    return torch.cat([of_history.expand(*of_own_BTNCK.shape[:4], -1), of_own_BTNCK], -1)
