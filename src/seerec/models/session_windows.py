"""UnifiedSSR's sessions: one window in either half of what a target sees."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.models.layers import Reach


class SessionWindows(nn.Module):
    """Two windows of a sequence of n states, the last of which is the target's own.

    The sequence is averaged in halves (an odd middle state counts in both). From each average, after a ReLU, a linear layer
    predicts an offset o and a width w, and the window of that half lies between

        n (c + tanh(o) / 2 - h)  and  n (c + tanh(o) / 2 + h),  h = relu(tanh(w)) / 2,  c = 1/4 or 3/4,

    both inside [0, n]. It holds the states 0 .. n - 1 whose index does not lie outside, perhaps none.

    Windows hold whole states, so the layer gets no gradient. It starts with o = 0 and tanh(w) = 1/4 for every input and stays
    so: from n / 8 to 3n / 8 and from 5n / 8 to 7n / 8.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.predict = nn.Linear(width, 2)  # offset, width
        with torch.no_grad():
            self.predict.weight.zero_()
            self.predict.bias.copy_(torch.tensor([0.0, math.log(5 / 3) / 2]))

    def forward(self, states_BLD: Tensor, reach: Reach, earlier_BT: Tensor, target_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Means over the first ``earlier`` states and the target's own, B T 2 D, zeros where a window is empty.

        Also whether one of the windows holds the target's own state, B T.
        """
        target_index = earlier_BT.unsqueeze(2)  # n - 1
        index = reach.position[:, None, None]
        earlier = (reach.visible & (index[:, 0] < target_index)).unsqueeze(2)

        def window_mean(low_BT2: Tensor, high_BT2: Tensor) -> tuple[Tensor, Tensor]:
            """Mean of the states from low to high, both included; whether the target's own is one of them."""
            inside = earlier & (low_BT2.unsqueeze(3) <= index) & (index <= high_BT2.unsqueeze(3))
            holds_target = (low_BT2 <= target_index) & (target_index <= high_BT2)
            total = inside.flatten(1, 2).to(states_BLD.dtype) @ states_BLD
            count = (inside.sum(3) + holds_target).clamp(min=1).unsqueeze(3)
            total = total.view(*holds_target.shape, states_BLD.shape[2]) + holds_target.unsqueeze(3) * target_BTD.unsqueeze(2)
            return total / count, holds_target

        half, n = torch.arange(2, device=target_index.device), target_index + 1
        pooled, _ = window_mean(half * (n // 2), torch.where(half == 0, (n - 1) // 2, target_index))
        offset, width = self.predict(F.relu(pooled)).tanh().detach().unbind(3)
        centre, radius = (half + 0.5) / 2 + offset / 2, F.relu(width) / 2  # c + tanh(o) / 2 and h
        means, holds_target = window_mean((centre - radius).clamp(0, 1) * n, (centre + radius).clamp(0, 1) * n)
        return means, holds_target.any(2)
