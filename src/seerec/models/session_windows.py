"""UnifiedSSR's sessions: windows that move and grow from the two halves of what a target sees."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.models.layers import Reach


class SessionWindows(nn.Module):
    """Two windows of a sequence of n visible events.

    The sequence is averaged in halves (an odd middle event counts in both), and a linear layer with ReLU predicts from each
    average how many events its window moves on and how many it grows by, starting from the half. Windows hold whole events, at
    least one, so the layer gets no gradient.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.predict = nn.Linear(width, 2)  # offset, growth

    def forward(self, states_BLD: Tensor, at: Reach, seen_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the windows, B T 2 D (zeros where nothing is seen), and which of them hold the last event, B T 2."""
        length, first = seen_BT.unsqueeze(2), (at.last - seen_BT + 1).clamp(min=0).unsqueeze(2)
        total = F.pad(states_BLD.cumsum(1), (0, 0, 1, 0)).unsqueeze(2).expand(-1, -1, 2, -1)

        def mean(start: Tensor, end: Tensor) -> Tensor:
            before, after = (total.gather(1, (first + x).unsqueeze(3).expand(-1, -1, -1, total.shape[3])) for x in (start, end))
            return (after - before) / (end - start).clamp(min=1).unsqueeze(3)

        half = torch.arange(2, device=seen_BT.device)
        pooled = mean(half * (length // 2), torch.where(half == 0, (length + 1) // 2, length))
        offset, growth = F.relu(self.predict(pooled)).detach().unbind(3)
        centre, radius = (half + 0.5) * length / 2 + offset, length / 4 + growth / 2
        start = torch.minimum((centre - radius).floor().long().clamp(min=0), (length - 1).clamp(min=0))
        end = torch.minimum((centre + radius).ceil().long(), length)
        return mean(start, end), (end == length) & (length > 0)
