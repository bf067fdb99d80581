"""Progressive layered extraction (Tang et al., RecSys 2020), one level: experts that all tasks share, and each task's own.

For the input z and task j

    E_k(z) = relu(A_k z + a_k)          expert k              experts, here a task's own; the shared ones are handed over
    g_j(z) = softmax(G_j z + b_j)       weights over k        gate: shared experts first, then the task's own
    y_j = MLP_j(tower_j(sum_k g_jk(z) E_k(z)))                tower: layers with ReLU; output: the MLP, one logit
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.kernels import dropout
from seerec.models.layers import ScoringMLP


class TaskHead(nn.Module):
    """What one task owns: experts, a gate over [shared ; own] experts, a tower, an MLP. Dropout follows every ReLU.

    z is ``parts`` vectors of ``width`` side by side; experts and gate act on each at its own size, so that what candidates
    share is multiplied once.
    """

    def __init__(
        self,
        parts: int,
        width: int,
        expert_width: int,
        experts: tuple[int, int],
        tower: Sequence[int],
        hidden: Sequence[int],
        dropout: float,
    ) -> None:
        """``experts``: how many are shared, how many the task's own."""
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(parts * width, expert_width) for _ in range(experts[1]))
        self.gate = nn.Linear(parts * width, sum(experts))
        self.tower = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((expert_width, *tower)))
        self.output = ScoringMLP((tower[-1],), hidden, dropout)
        self.dropout = dropout

    def forward(self, parts: Sequence[Tensor], shared: nn.ModuleList) -> Tensor:
        """Parts of z whose leading axes broadcast, and the shared experts -> logits without the last axis."""
        # All experts and the gate are one matrix product, [A_1 ; .. ; A_n ; G] z.
        layers = [cast(nn.Linear, layer) for layer in (*shared, *self.experts, self.gate)]
        weight_of_part = torch.cat([layer.weight for layer in layers]).chunk(len(parts), 1)
        # From the last part to the first: the small parts come last (the user, the query), so that sums stay small until
        # candidates join.
        x = F.linear(parts[-1], weight_of_part[-1], torch.cat([layer.bias for layer in layers]))
        for part, weight in zip(parts[-2::-1], weight_of_part[-2::-1], strict=True):
            x = x + F.linear(part, weight)
        count = self.gate.out_features
        expert_outputs, gate_logits = x.split([x.shape[-1] - count, count], -1)
        expert_outputs = dropout(F.relu(expert_outputs), self.dropout, self.training).unflatten(-1, (count, -1))
        x = (gate_logits.softmax(-1).unsqueeze(-2) @ expert_outputs).squeeze(-2)
        for layer in self.tower:
            x = dropout(F.relu(layer(x)), self.dropout, self.training)
        logits: Tensor = self.output(x)
        return logits
