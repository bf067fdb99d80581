"""Stage 2: GRPO over reasoning trajectories (LCR-SER section 3.4), for any model with reasoning states.

For each target, N trajectories start from the encoded history's last states, all but the first perturbed by noise (eq. 14).
A trajectory's reward is a ranking metric of its scores; its advantage is the reward standardised in its group (eq. 17); the
objective raises the probability of the target along good trajectories and lowers it along bad ones, held near the frozen
stage-1 model by a KL term (eq. 15 and 16). The encoded history is shared by all rollouts.

A model says what its noise is and after which steps a trajectory is judged (``noise``, ``trajectory``). LCR-SER judges the
last step alone, K = 1 below. LARES takes every step as an action: the loss is the mean over the steps a rollout has, and the
reward that of its last.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.config import ReinforceSettings
from seerec.models.base import ReasoningRecommender
from seerec.models.losses import mean_over, ranking_loss

_STD_FLOOR = 1e-4


def reward(logits_BTNC: Tensor, positive_BT: Tensor, kind: str) -> Tensor:
    """Expected metric of the positive under random tie breaking, B T N: hr@k, ndcg@k or mrr."""
    index = positive_BT[:, :, None, None].expand(*logits_BTNC.shape[:3], 1)
    own = logits_BTNC.gather(3, index)
    greater = (logits_BTNC > own).sum(3)
    ties = (logits_BTNC == own).sum(3) - 1
    if kind == "hr@1":
        return (greater == 0) / (ties + 1)
    rank = torch.arange(1, logits_BTNC.shape[3] + 1, device=own.device)
    metric, _, k = kind.partition("@")
    gain = 1 / rank if metric == "mrr" else (rank <= int(k)).float()
    if metric == "ndcg":
        gain = gain / torch.log2(rank + 1.0)
    total = F.pad(gain.double().cumsum(0), (1, 0))
    return ((total[greater + ties + 1] - total[greater]) / (ties + 1)).to(logits_BTNC.dtype)


def advantage(reward_BTN: Tensor, settings: ReinforceSettings) -> Tensor:
    """Eq. 17, B T N; exactly zero in a group whose rewards are all equal (A40)."""
    baseline = reward_BTN[:, :, :1] if settings.baseline == "first" else reward_BTN.mean(2, keepdim=True)
    gain = reward_BTN - baseline
    if settings.scale != "none":
        sample = settings.scale == "sample" and reward_BTN.shape[2] > 1  # one rollout has no spread, and no advantage either
        spread = reward_BTN.std(2, keepdim=True, correction=int(sample))
        gain = gain / (spread + _STD_FLOOR)
    # A mean of equal rewards may differ from them by rounding, so equality is asked of the rewards themselves.
    tied = reward_BTN.amax(2, keepdim=True) == reward_BTN.amin(2, keepdim=True)
    return gain.masked_fill(tied, 0.0)


def log_policy(logits: Tensor, settings: ReinforceSettings) -> Tensor:
    """Log-probability of every candidate, last axis, along each trajectory (A37)."""
    return F.logsigmoid(logits) if settings.policy == "sigmoid" else logits.log_softmax(-1)


@dataclass
class Rollout:
    """What the several updates on one batch share (A41): the noise and the policy that rolled out."""

    noise: Any
    old: Tensor | None = None


class PolicyObjective:
    """The GRPO loss of one batch, with its diagnostics.

    Parameters
    ----------
    model
        The policy; its rollouts run without dropout unless the settings say otherwise (A45).
    reference
        The frozen stage-1 model.
    """

    def __init__(
        self, model: ReasoningRecommender[Any], reference: ReasoningRecommender[Any], settings: ReinforceSettings
    ) -> None:
        self.model, self.reference, self.settings = model, reference, settings
        reference.requires_grad_(False).eval()
        self._rollout: Rollout | None = None

    def __call__(self, batch: Batch, update: int = 0) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Loss terms and diagnostics; ``update`` > 0 repeats on the same rollouts."""
        s, model = self.settings, self.model
        model.train(s.dropout)
        if update == 0 or self._rollout is None:
            self._rollout = Rollout(self._draw(batch, stream=0))
        mask = batch.target_mask
        items = model.items(batch.candidates)
        run = model.trajectory(model.reason(model.history(batch), self._rollout.noise), items)
        final = run.last()
        with torch.no_grad():
            rewards = reward(final, batch.positive, s.reward)
            gain = advantage(rewards, s).unsqueeze(3)
            noise = self._draw(batch, stream=1) if s.reference_noise == "fresh" else self._rollout.noise
        other = _logits(self.reference, batch, noise)
        log_all, reference_all = log_policy(run.logits, s), log_policy(other, s)  # B T N K C
        chosen, reference = _chosen(log_all, batch.positive), _chosen(reference_all, batch.positive)  # B T N K
        if self._rollout.old is None:
            self._rollout.old = chosen.detach()
        ratio = (chosen - self._rollout.old).exp()
        surrogate = ratio * gain
        if s.updates > 1:
            surrogate = torch.minimum(surrogate, ratio.clamp(1 - s.clip, 1 + s.clip) * gain)
        if s.kl == "candidates":
            kl = (log_all.exp() * (log_all - reference_all)).sum(4)
        else:
            delta = reference - chosen
            kl = delta.exp() - delta - 1  # eq. 16
        surrogate, kl = run.mean(surrogate), run.mean(kl)
        terms = {
            "policy": mean_over(-surrogate.mean(2), mask),
            "kl": s.kl_weight * mean_over(kl.mean(2), mask),
        }
        if s.bce_weight > 0:
            terms["anchor"] = s.bce_weight * ranking_loss(final[:, :, 0], batch.positive, mask, "bce")
        informative = (rewards.amax(2) > rewards.amin(2)).to(rewards.dtype)
        report = {
            "reward": mean_over(rewards.mean(2), mask),
            "reward_first": mean_over(rewards[:, :, 0], mask),
            "informative": mean_over(informative, mask),
            "advantage": mean_over(gain.abs().squeeze(3).mean(2), mask),
            "kl_value": mean_over(kl.detach().mean(2), mask),
        }
        return terms, {name: float(value) for name, value in report.items()}

    def _draw(self, batch: Batch, stream: int) -> Any:
        """The model's noise for N rollouts; the batch's key decides the draws."""
        generator = torch.Generator().manual_seed(int(batch.key[0]) + stream)
        return self.model.noise(batch, self.settings.rollouts, self.settings.noise_std, generator)


def _logits(model: ReasoningRecommender[Any], batch: Batch, noise: Any) -> Tensor:
    """The reference's logits, without a gradient.

    They come the policy's way, through gathered tables and with gradients enabled, so that equal weights agree bit for bit: where
    none follows, other kernels serve, which round differently.
    """
    model.inputs.open(batch)
    run = model.trajectory(model.reason(model.history(batch), noise), model.items(batch.candidates))
    model.inputs.close()
    return run.logits.detach()


def _chosen(log_BTNKC: Tensor, positive_BT: Tensor) -> Tensor:
    return log_BTNKC.gather(4, positive_BT[:, :, None, None, None].expand(*log_BTNKC.shape[:4], 1)).squeeze(4)
