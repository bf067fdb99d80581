"""Stage 2 of LCR-SER as one would first write it: each rollout encodes the histories again, each candidate takes all layers.

The same objective, weights and draws as ``seerec.training.reinforce``, in torch's operations: `bench.py` sets ours beside it.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.config import ReinforceSettings
from seerec.models.base import Trajectory
from seerec.models.contexts import SIDES
from seerec.models.lcr_ser import LCRSER, LCRState
from seerec.training.reinforce import PolicyObjective


class Straightforward(nn.Module):
    """As much of a model that reasons as stage 2 asks for."""

    def __init__(self, model: LCRSER) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.noise, self.items = model.inputs, model.noise, model.items

    def history(self, batch: Batch) -> Batch:
        """Nothing is shared."""
        return batch

    def reason(self, batch: Batch, noise_BTND: Tensor) -> list[LCRState]:
        """Each rollout from the batch anew."""
        noises = (noise.contiguous() for noise in noise_BTND.split(1, 2))
        return [self.model.reason(self.model.history(batch), noise) for noise in noises]

    def trajectory(self, states: list[LCRState], items_BTCD: Tensor) -> Trajectory:
        """Scores of the last step."""
        logits = torch.stack([self._score(state, items_BTCD) for state in states], 2).unsqueeze(3)
        return Trajectory(logits, torch.ones(len(states), dtype=torch.long))

    def _score(self, state: LCRState, e: Tensor) -> Tensor:
        """Eq. 8 and 10 with every w and every input of the MLP written out, B T C."""
        model = self.model
        assert state.steps is not None
        w = {}
        for side in SIDES:
            b, t, _, k, _ = state.steps[side].shape
            history = state.encoded[side].unsqueeze(1).expand(-1, t, -1, -1)
            states = torch.cat([history, state.steps[side][:, :, 0]], 2)  # B T L+K D
            seen = torch.cat([state.reach[side].visible, state.reach[side].visible.new_ones(b, t, k)], 2)
            logits = model.target[side].query(e) @ states.transpose(2, 3)
            w[side] = logits.masked_fill(~seen.unsqueeze(2), -1e9).softmax(3) @ states
        user = state.user[:, None, None].expand(*e.shape[:3], -1)
        x = torch.cat([user, w["s"], w["r"], e], 3)
        for layer in list(model.mlp)[:-1]:
            x = F.relu(layer(x))
        return model.mlp[-1](x).squeeze(3) + ((w["s"] + w["r"]) * e).sum(3)


def objective(model: LCRSER, settings: ReinforceSettings) -> PolicyObjective:
    """Stage 2's, with a frozen copy as its reference."""
    plain: Any = Straightforward(model)
    return PolicyObjective(plain, copy.deepcopy(plain), settings)
