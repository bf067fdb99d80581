"""Contrastive losses of SESRec and UniSAR: queries with the items clicked for them, and two views of one row.

Query and item: for every pair (query q, item v clicked for it) that a target can see, l(q, v) = tanh(q' W v) / t and
l(v, q) = tanh(v' W q) / t with one W for both directions and a learned t. The loss is half the sum of -log softmax of l(q, v)
among it and up to m negative items, and of l(v, q) among it and up to m negative queries, mean over pairs. The authors draw
negatives from lists of all items and queries; here they are items and queries of the batch, whose vectors the step has already
made, nothing clicked for the same query counts as a negative, a search without words has no pair, and of a large batch 2048
pairs, spread evenly, stand for all.

Views: tanh(a' W b) / t between 2 n vectors, two for each row, each to find its partner.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seerec.batch import Batch
from seerec.models.layers import MASKED
from seerec.models.losses import evenly, info_nce

_PAIRS = 2048  # more of them cost time and memory, not accuracy: logits are pairs times negatives
_CODE = 6364136223846793005  # odd, so that its powers (modulo 2 ** 64) tell word ids and places apart


class Temperature(nn.Module):
    """A learned divisor, kept away from 0 because a step of Adam could carry it across."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(start))

    def forward(self, logits: Tensor) -> Tensor:
        """Logits divided by the temperature."""
        return logits / self.value.abs().clamp(min=0.01)


class QueryItemAlignment(nn.Module):
    """InfoNCE between queries and clicked items, see above; W is ``match.weight``, t ``temperature.value``."""

    def __init__(self, width: int, temperature: float, negatives: int) -> None:
        super().__init__()
        self.match = nn.Linear(width, width, bias=False)
        self.temperature = Temperature(temperature)
        self.negatives = negatives

    def forward(self, batch: Batch, shown_BS: Tensor, queries_BSD: Tensor, items: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean over the pairs of the searches ``shown``, 0 where there is none. ``batch`` has one target per row."""
        shown_BS = shown_BS & (batch.query != 0).any(2)
        counted = batch.target_mask.any(1)
        # Queries: one vector for each distinct list of words.
        words = batch.query[shown_BS]
        code = (words * torch.full_like(words[:1], _CODE).cumprod(1)).sum(1)
        _, same = code.unique(return_inverse=True)
        first = torch.zeros(int(same.max()) + 1 if len(same) else 0, dtype=torch.long, device=same.device)
        queries = queries_BSD[shown_BS][first.scatter_(0, same, torch.arange(len(same), device=same.device))]
        # Items: what the batch holds anyway.
        seen = [batch.rec[counted], batch.click[shown_BS], batch.candidates[counted]]
        pool = torch.cat([x.reshape(-1) for x in seen]).unique()
        pool = pool[pool != 0]
        vectors = items(pool)
        # Pairs, as indices into both.
        click = batch.click[shown_BS]
        row, column = evenly(click.nonzero(), _PAIRS).unbind(1)
        query, item = same[row], torch.searchsorted(pool, click[row, column])
        to_item = self._contrast(queries, query, vectors, item)
        to_query = self._contrast(vectors, item, queries, query)
        return (to_item + to_query).sum() / 2 / max(1, len(query))

    def _contrast(self, anchors: Tensor, anchor: Tensor, others: Tensor, partner: Tensor) -> Tensor:
        """A loss per pair (``anchor``, ``partner``), indices into the vectors; negatives are spread evenly over ``others``."""
        chosen = evenly(torch.arange(len(others), device=anchor.device), self.negatives)
        count = len(chosen)
        used, row = anchor.unique(return_inverse=True)
        place = torch.searchsorted(chosen, partner)
        found = chosen[place.clamp(max=max(count - 1, 0))] == partner
        # An anchor's own partners are no negatives; the extra column takes those that were not chosen.
        own = torch.zeros(len(used), count + 1, dtype=torch.bool, device=anchor.device)
        own[row, torch.where(found, place, count)] = True
        matched = self.match(others)
        negative = self.temperature((anchors[used] @ matched[chosen].T).tanh()).masked_fill(own[:, :-1], MASKED)
        positive = self.temperature((anchors[anchor] * matched[partner]).sum(1).tanh())
        return torch.logaddexp(negative.logsumexp(1)[row], positive) - positive


class ViewContrast(nn.Module):
    """NT-Xent between two views of n rows: the partner against the 2 n - 2 views of the other rows."""

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__()
        self.match = nn.Linear(width, width, bias=False)
        self.temperature = Temperature(temperature)

    def forward(self, a_ND: Tensor, b_ND: Tensor) -> Tensor:
        """Mean loss, 0 for no rows."""
        views, partners = torch.cat([a_ND, b_ND]), torch.cat([b_ND, a_ND])
        similarity = self.temperature((views @ self.match(partners).T).tanh())
        not_itself = ~torch.eye(len(views), dtype=torch.bool, device=views.device).roll(len(a_ND), 1)
        return info_nce(similarity, not_itself).sum() / max(1, len(views))
