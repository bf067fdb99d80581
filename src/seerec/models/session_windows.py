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

    def forward(self, states_BLD: Tensor, at: Reach, earlier_BT: Tensor, own_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Means over the first ``earlier`` events and a target's own state, B T 2 D, zeros where a window is empty.

        Also whether one of the windows holds its own state, B T.
        """
        last = earlier_BT.unsqueeze(2)
        index = at.position[:, None, None]
        earlier = (at.visible & (index[:, 0] < last)).unsqueeze(2)

        def mean(low_BT2: Tensor, high_BT2: Tensor) -> tuple[Tensor, Tensor]:
            held = earlier & (low_BT2.unsqueeze(3) <= index) & (index <= high_BT2.unsqueeze(3))
            own = (low_BT2 <= last) & (last <= high_BT2)
            total = held.flatten(1, 2).to(states_BLD.dtype) @ states_BLD
            count = (held.sum(3) + own).clamp(min=1).unsqueeze(3)
            return (total.view(*own.shape, states_BLD.shape[2]) + own.unsqueeze(3) * own_BTD.unsqueeze(2)) / count, own

        half, length = torch.arange(2, device=last.device), last + 1
        pooled, _ = mean(half * (length // 2), torch.where(half == 0, (length - 1) // 2, last))
        offset, width = self.predict(F.relu(pooled)).tanh().detach().unbind(3)
        centre, radius = (half + 0.5) / 2 + offset / 2, F.relu(width) / 2
        means, own = mean((centre - radius).clamp(0, 1) * length, (centre + radius).clamp(0, 1) * length)
        return means, own.any(2)
