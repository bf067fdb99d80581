"""Stage 2 against equations 14 to 17 and the algorithm of the specification, identities 11 to 15."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.models.conftest import one_thread  # noqa: F401
from tests.models.synthetic import batch, make, randomise, rows_of, scores
from torch import nn

from seerec.config import ReinforceSettings
from seerec.evaluation.metrics import per_target, random_level
from seerec.models.base import Trajectory
from seerec.training.optimizers import DenseAdam, LazyAdam
from seerec.training.reinforce import PolicyObjective, advantage, log_policy, reward

KINDS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")


class Stub(nn.Module):
    """A model whose logits, B T N C, or with an axis of steps B T N K C, are its parameter; ``length`` steps per rollout."""

    def __init__(self, logits, length=None):
        super().__init__()
        self.logits = nn.Parameter(logits.clone().double())
        self.length = torch.ones(logits.shape[2], dtype=torch.long) if length is None else length
        self.inputs = SimpleNamespace(open=lambda _: None, close=lambda: None)

    def items(self, ids):
        return ids

    def history(self, _batch):
        return None

    def reason(self, _state, _noise):
        return None

    def noise(self, _batch, _rollouts, _std, _generator):
        return None

    def trajectory(self, _state, _items):
        return Trajectory(self.logits if self.logits.dim() == 5 else self.logits.unsqueeze(3), self.length)


def stub_logits(b, rollouts, seed=0, spread=1.0):
    return torch.randn(*b.rec_seen.shape, rollouts, b.candidates.shape[2], generator=torch.Generator().manual_seed(seed)) * spread


def drawn(model, b, settings, stream):
    """The noise of the objective's streams: 0 of the policy, 1 of a reference with its own."""
    generator = torch.Generator().manual_seed(int(b.key[0]) + stream)
    return model.noise(b, settings.rollouts, settings.noise_std, generator)


def run(model, reference, b, **settings):
    objective = PolicyObjective(model, reference, ReinforceSettings(**{"rollouts": 4, **settings}))
    return objective(b)


def total(terms):
    return torch.stack([*terms.values()]).sum()


def policies(**changes):
    """A policy and a reference with other weights."""
    policy, reference = make(**changes), make(**changes)
    randomise(reference, seed=8)
    return policy.double(), reference.double()


# 14: reward --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("candidates", [1, 2, 7, 100])
def test_14_constant_logits_earn_the_random_level(kind, candidates):
    found = reward(torch.full((2, 1, 3, candidates), 0.7), torch.tensor([[0], [candidates - 1]]), kind)
    torch.testing.assert_close(found, torch.full((2, 1, 3), random_level(candidates)[kind]))
    if kind == "hr@1":
        torch.testing.assert_close(found, torch.full((2, 1, 3), 1 / candidates))


@pytest.mark.parametrize("kind", KINDS)
def test_14_the_reward_is_the_metric_of_evaluation(kind):
    """Integers as logits give ties of every size."""
    logits = torch.randint(0, 6, (4, 5, 3, 12), generator=torch.Generator().manual_seed(0)).float()
    positive = torch.randint(0, 12, (4, 5), generator=torch.Generator().manual_seed(1))
    own = np.take_along_axis(logits.numpy(), positive.numpy()[:, :, None, None].repeat(3, 2), 3)
    greater, ties = (logits.numpy() > own).sum(3).ravel(), (logits.numpy() == own).sum(3).ravel() - 1
    expected = per_target(greater, ties)[kind].reshape(4, 5, 3)
    torch.testing.assert_close(reward(logits, positive, kind), torch.from_numpy(expected).float())


# eq. 17 ------------------------------------------------------------------------------------------------------------------


def test_advantages_are_rewards_standardised_in_their_group():
    r = torch.tensor([[[1.0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0.5]]]).double()
    for scale, correction in (("population", 0), ("sample", 1)):
        found = advantage(r, ReinforceSettings(scale=scale))
        for t, group in enumerate(r[0]):
            spread = group.std(correction=correction)
            expected = (group - group.mean()) / (spread + 1e-4) if spread > 0 else torch.zeros(4).double()
            torch.testing.assert_close(found[0, t], expected)
        assert not found[0, 1].any()
    torch.testing.assert_close(advantage(r, ReinforceSettings(scale="none")), r - r.mean(2, keepdim=True))
    first = advantage(r, ReinforceSettings(baseline="first", scale="none"))
    torch.testing.assert_close(first, r - r[:, :, :1])
    assert not first[:, :, 0].any()


@pytest.mark.parametrize("scale", ["population", "sample", "none"])
@pytest.mark.parametrize("baseline", ["mean", "first"])
def test_a_tied_group_has_no_advantage(scale, baseline):
    """Exactly none (A40), whatever rounding does to the mean of equal rewards: Adam would blow up the smallest remainder."""
    settings = ReinforceSettings(scale=scale, baseline=baseline)
    for rollouts in (2, 3, 7, 8):
        for value in (0.0, 1.0, 0.1, 1 / 3, 1 / math.log2(3)):
            assert not advantage(torch.full((1, 1, rollouts), value), settings).any(), (rollouts, value)


def test_the_policy_is_a_softmax_over_the_candidates_or_a_sigmoid():
    logits = torch.randn(2, 3, 4, 5).double()
    torch.testing.assert_close(log_policy(logits, ReinforceSettings()).exp().sum(3), torch.ones(2, 3, 4).double())
    torch.testing.assert_close(log_policy(logits, ReinforceSettings(policy="sigmoid")).exp(), torch.sigmoid(logits))


# 11: ratio, KL, equal rewards --------------------------------------------------------------------------------------------


def test_11_equal_rewards_leave_the_weighted_kl_alone():
    """Without noise all rollouts are plain inference: A = 0, and the loss is eq. 16 by hand."""
    b = batch()
    policy, reference = policies()
    terms, report = run(policy, reference, b, noise_std=0.0, kl_weight=0.7)
    delta = chosen(reference, b) - chosen(policy, b)
    kl = (delta.exp() - delta - 1)[b.target_mask].mean().item()
    assert kl > 0.01
    assert terms["policy"].item() == 0
    assert total(terms).item() == pytest.approx(0.7 * kl)
    assert report["kl_value"] == pytest.approx(kl)
    assert report["informative"] == report["advantage"] == 0


def chosen(model, b):
    """Log-probability of the positives at plain inference, B T."""
    return scores(model, b).log_softmax(2).gather(2, b.positive.unsqueeze(2)).squeeze(2)


def test_11_the_kl_is_zero_where_the_policy_is_the_reference():
    b = batch()
    policy, _ = policies()
    for kl in ("target", "candidates"):
        terms, report = run(policy, copy.deepcopy(policy), b, kl=kl)
        assert terms["kl"].item() == pytest.approx(0, abs=1e-12)
        assert report["kl_value"] == pytest.approx(0, abs=1e-12)


def test_11_groups_of_equal_reward_have_only_the_gradient_of_the_kl():
    """The positive wins by far in some targets and loses by far in the others, whatever the noise."""
    b = batch()
    logits, other = stub_logits(b, 4), stub_logits(b, 4, seed=1)
    wins = (torch.arange(b.rec_seen.numel()) % 2 == 0).view_as(b.rec_seen)
    at = b.positive[:, :, None, None].expand(-1, -1, 4, 1)
    logits.scatter_(3, at, torch.where(wins, 20.0, -20.0)[:, :, None, None].expand(-1, -1, 4, 1))
    policy, reference = Stub(logits), Stub(other)
    terms, report = run(policy, reference, b, kl_weight=0.0)
    assert 0 < report["reward"] < 1
    assert report["informative"] == 0
    total(terms).backward()
    assert not policy.logits.grad.any()
    policy.zero_grad()
    total(run(policy, reference, b, kl_weight=0.5)[0]).backward()
    with_kl = policy.logits.grad.clone()
    policy.zero_grad()
    delta = (reference.logits.detach().log_softmax(3) - policy.logits.log_softmax(3)).gather(3, at).squeeze(3)
    (0.5 * (delta.exp() - delta - 1).mean(2)[b.target_mask].mean()).backward()
    torch.testing.assert_close(with_kl, policy.logits.grad)
    assert with_kl.any()


# 12: without noise nothing moves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reward", "settings"),
    [
        (LazyAdam, "hr@1", {}),
        (LazyAdam, "hr@1", {"features": False, "scorer": "mlp+dot", "attention": "multihead"}),
        (LazyAdam, "ndcg@5", {}),
        (LazyAdam, "mrr", {"features": False}),
        (DenseAdam, "hr@1", {}),
        (DenseAdam, "hr@1", {"features": False, "scorer": "mlp+dot", "attention": "multihead"}),
    ],
    ids=lambda v: str(getattr(v, "__name__", v)),
)
def test_12_without_noise_a_step_leaves_every_weight_bit_identical(kind, reward, settings):
    policy = make(double=False, **settings)
    reference = copy.deepcopy(policy)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    optimizer = kind(policy, 0.0)
    objective = PolicyObjective(policy, reference, ReinforceSettings(rollouts=8, noise_std=0.0, reward=reward))
    # The lone target is a batch of its own: the mean over its equal rewards rounds differently from that of many groups.
    for b in (batch(rows=9), batch(seed=1), rows_of(batch(targets=1), [0]), rows_of(batch(targets=1), [4])):
        if kind is LazyAdam:
            policy.inputs.open(b)
        terms, _ = objective(b)
        optimizer.zero_grad()
        total(terms).backward()
        nn.utils.clip_grad_norm_(optimizer.parameters(), 1.0)
        optimizer.step(0.1)
        policy.inputs.close()
    moved = [name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == []


def test_12_with_noise_the_same_step_moves():
    b = batch()
    policy = make(double=False)
    reference, before = copy.deepcopy(policy), copy.deepcopy(policy.state_dict())
    optimizer = LazyAdam(policy, 0.0)
    policy.inputs.open(b)
    terms, report = run(policy, reference, b, noise_std=3.0, rollouts=8)
    assert report["informative"] > 0
    total(terms).backward()
    optimizer.step(0.1)
    policy.inputs.close()
    after = policy.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"search.cross.0.query.weight", "inputs.item.weight", "step_position.r", "mlp.0.weight"} <= moved
    assert all(torch.equal(a, b) for a, b in zip(reference.state_dict().values(), before.values(), strict=True))


# 13: the first rollout ---------------------------------------------------------------------------------------------------


def test_13_the_first_rollout_is_plain_inference():
    b, model = batch(), make()
    settings = ReinforceSettings(rollouts=4, noise_std=2.0)
    noise = drawn(model, b, settings, 0)
    assert noise.shape == (*b.rec_seen.shape, 4, model.start_width)
    assert not noise[:, :, 0].any()
    assert noise[:, :, 1:].std().item() == pytest.approx(2.0, rel=0.1)
    assert torch.equal(noise, drawn(model, b, settings, 0))
    assert not torch.equal(noise, drawn(model, b, settings, 1))
    assert not torch.equal(noise, drawn(model, b.with_(key=b.key + 1), settings, 0))
    found = scores(model, b, noise.double())
    torch.testing.assert_close(found[:, :, 0], scores(model, b), atol=1e-10, rtol=1e-10)
    assert not torch.allclose(found[:, :, 1], found[:, :, 0])
    report = run(model, make(), b, noise_std=2.0)[1]
    first = (scores(model, b).argmax(2) == b.positive)[b.target_mask].double().mean().item()
    assert report["reward_first"] == pytest.approx(first)


def test_the_two_sides_get_noise_of_their_own():
    """A34."""
    b, model = batch(), make()
    noise = drawn(model, b, ReinforceSettings(), 0)
    half = model.start_width // 2
    assert not torch.equal(noise[..., :half], noise[..., half:])


# 15: the gradient --------------------------------------------------------------------------------------------------------


def test_15_the_gradient_is_the_advantage():
    """D loss / d log pi = -A / (B N) at ratio 1 without KL, over the targets that are not padding."""
    b = batch()
    logits = stub_logits(b, 4)
    policy = Stub(logits)
    settings = ReinforceSettings(rollouts=4)
    terms, report = run(policy, Stub(logits), b, kl_weight=0.0)
    assert report["informative"] > 0.3
    total(terms).backward()
    gain = advantage(reward(logits.double(), b.positive, "hr@1"), settings)
    slope = -gain / (b.target_mask.sum() * 4) * b.target_mask.unsqueeze(2)
    target = nn.functional.one_hot(b.positive, b.candidates.shape[2]).unsqueeze(2)
    expected = slope.unsqueeze(3) * (target - logits.double().softmax(3))  # d log pi / d logits of a softmax
    torch.testing.assert_close(policy.logits.grad, expected)
    assert terms["policy"].item() == pytest.approx(-(gain.mean(2)[b.target_mask]).mean().item(), abs=1e-12)


def test_15_with_the_sigmoid_policy_negatives_get_no_gradient():
    b = batch()
    logits = stub_logits(b, 4)
    policy = Stub(logits)
    total(run(policy, Stub(logits), b, kl_weight=0.0, policy="sigmoid")[0]).backward()
    gain = advantage(reward(logits.double(), b.positive, "hr@1"), ReinforceSettings(rollouts=4))
    slope = -gain / (b.target_mask.sum() * 4) * b.target_mask.unsqueeze(2)
    target = nn.functional.one_hot(b.positive, b.candidates.shape[2]).unsqueeze(2)
    torch.testing.assert_close(policy.logits.grad, slope.unsqueeze(3) * target * (1 - logits.double().sigmoid()))


# the switches ------------------------------------------------------------------------------------------------------------


def by_hand(logits, other, old, b, s):
    """Equations 15 to 17 in plain Python, one trajectory at a time."""
    loss, kl_sum, count = 0.0, 0.0, 0
    gain = advantage(reward(logits, b.positive, s.reward), s)
    for row, t in b.target_mask.nonzero().tolist():
        p, count = int(b.positive[row, t]), count + 1
        for n in range(s.rollouts):
            z, y, was = (x[row, t, n].tolist() for x in (logits, other, old))
            if s.policy == "softmax":
                log_z, log_y, log_w = ([v - math.log(sum(map(math.exp, x))) for v in x] for x in (z, y, was))
            else:
                log_z, log_y, log_w = ([-math.log1p(math.exp(-v)) for v in x] for x in (z, y, was))
            ratio, a = math.exp(log_z[p] - log_w[p]), float(gain[row, t, n])
            if s.updates > 1:
                loss -= min(ratio * a, min(max(ratio, 1 - s.clip), 1 + s.clip) * a) / s.rollouts
            else:
                loss -= ratio * a / s.rollouts
            if s.kl == "candidates":
                kl = sum(math.exp(u) * (u - v) for u, v in zip(log_z, log_y, strict=True))
            else:
                kl = math.exp(log_y[p] - log_z[p]) - (log_y[p] - log_z[p]) - 1
            kl_sum += kl / s.rollouts
    return loss / count, s.kl_weight * kl_sum / count


@pytest.mark.parametrize(
    "settings",
    [{}, {"policy": "sigmoid"}, {"kl": "candidates"}, {"reward": "ndcg@5"}, {"reward": "mrr"}, {"scale": "sample"},
     {"scale": "none"}, {"baseline": "first"}, {"kl_weight": 0.0}, {"rollouts": 2}],
    ids=str,
)  # fmt: skip
def test_the_loss_equals_the_equations(settings):
    s, b = ReinforceSettings(**{"rollouts": 4, **settings}), batch()
    logits, other = stub_logits(b, s.rollouts).double(), stub_logits(b, s.rollouts, seed=1).double()
    terms, _ = run(Stub(logits), Stub(other), b, **settings)
    policy, kl = by_hand(logits, other, logits, b, s)
    assert terms["policy"].item() == pytest.approx(policy, abs=1e-10)
    assert terms["kl"].item() == pytest.approx(kl, abs=1e-10)


def test_later_updates_compare_with_the_policy_that_rolled_out_and_are_clipped():
    """A41: the second update on the same rollouts has ratios away from 1; a new batch starts at 1 again."""
    s, b = ReinforceSettings(rollouts=4, updates=2), batch()
    first, second, other = (stub_logits(b, 4, seed=i, spread=0.5).double() for i in range(3))
    model = Stub(first)
    objective = PolicyObjective(model, Stub(other), s)
    for update, logits in ((0, first), (1, second)):
        model.logits.data.copy_(logits)
        terms, _ = objective(b, update)
        policy, kl = by_hand(logits, other, first, b, s)
        assert terms["policy"].item() == pytest.approx(policy, abs=1e-10)
        assert terms["kl"].item() == pytest.approx(kl, abs=1e-10)
    terms, _ = objective(b, 0)
    assert terms["policy"].item() == pytest.approx(by_hand(second, other, second, b, s)[0], abs=1e-10)


def test_the_anchor_is_the_ranking_loss_of_the_first_rollout():
    b = batch()
    policy, reference = policies()
    terms, _ = run(policy, reference, b, bce_weight=0.3)
    rank = policy.objective(b, policy.encode(b))["rank"].item()
    assert terms["anchor"].item() == pytest.approx(0.3 * rank)
    assert "anchor" not in run(policy, reference, b)[0]


def test_the_reference_reasons_with_its_own_weights_from_the_same_noise():
    """A43: unless told otherwise, when it gets noise of its own."""
    b = batch()
    policy, reference = policies()
    s = ReinforceSettings(rollouts=4, noise_std=1.0)
    noise = drawn(policy, b, s, 0).double()
    mine, theirs = scores(policy, b, noise), scores(reference, b, noise)
    same, fresh = (run(policy, reference, b, noise_std=1.0, reference_noise=kind)[0]["kl"].item() for kind in ("same", "fresh"))
    assert same == pytest.approx(by_hand(mine, theirs, mine, b, s)[1], abs=1e-10)
    other = scores(reference, b, drawn(policy, b, s, 1).double())
    assert fresh == pytest.approx(by_hand(mine, other, mine, b, s)[1], abs=1e-10)
    assert same != pytest.approx(fresh)


def test_dropout_is_off_unless_asked_for():
    """A45."""
    b = batch()
    policy, reference = make(dropout=0.5), make(dropout=0.5)
    for dropout in (False, True):
        losses = []
        for seed in range(2):
            torch.manual_seed(seed)
            losses.append(total(run(policy, reference, b, dropout=dropout)[0]).item())
        assert (losses[0] != losses[1]) == dropout
        assert not reference.training


def test_the_reference_never_learns():
    b = batch()
    policy, reference = policies()
    total(run(policy, reference, b)[0]).backward()
    assert all(p.grad is None and not p.requires_grad for p in reference.parameters())
    assert reference.inputs.item.rows is None


def test_a_good_trajectory_becomes_likelier():
    """Ascent on a stub: the positive's probability rises where it won its group, and falls where it lost."""
    b = batch()
    logits = stub_logits(b, 4)
    policy = Stub(logits)
    total(run(policy, Stub(logits), b, kl_weight=0.0)[0]).backward()
    moved = Stub(logits - policy.logits.grad.detach())
    gain = advantage(reward(logits.double(), b.positive, "hr@1"), ReinforceSettings(rollouts=4)) * b.target_mask.unsqueeze(2)
    at = b.positive[:, :, None, None].expand(-1, -1, 4, 1)
    change = (moved.logits.log_softmax(3) - logits.double().log_softmax(3)).gather(3, at).squeeze(3)
    assert torch.equal(change.detach().sign(), gain.sign())


# every step an action ----------------------------------------------------------------------------------------------------


def stub_steps(b, lengths, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*b.rec_seen.shape, len(lengths), max(lengths), b.candidates.shape[2], generator=g)


@pytest.mark.parametrize("kl", ["target", "candidates"])
def test_the_loss_is_the_mean_over_the_steps_that_exist(kl):
    """One step at a time in plain Python; the reward is that of a rollout's last step."""
    b, lengths = batch(), [4, 3, 1]
    logits, other = (stub_steps(b, lengths, seed).double() for seed in range(2))
    s = ReinforceSettings(rollouts=3, reward="hr@5", kl=kl, scale="sample", kl_weight=0.7)
    terms, report = run(Stub(logits, torch.tensor(lengths)), Stub(other), b, **s.model_dump())
    last = torch.stack([logits[:, :, n, k - 1] for n, k in enumerate(lengths)], 2)
    gain = advantage(reward(last, b.positive, "hr@5"), s)
    policy, divergence = [], []
    for row, t in b.target_mask.nonzero().tolist():
        p = int(b.positive[row, t])
        for n, steps in enumerate(lengths):
            log, frozen = (x[row, t, n, :steps].log_softmax(1) for x in (logits, other))
            delta = frozen[:, p] - log[:, p]
            each = delta.exp() - delta - 1 if kl == "target" else (log.exp() * (log - frozen)).sum(1)
            policy.append(-gain[row, t, n])  # the ratio of every step is 1
            divergence.append(each.sum() / steps)
    assert report["informative"] > 0.2
    assert terms["policy"].item() == pytest.approx(torch.stack(policy).mean().item(), abs=1e-10)
    assert terms["kl"].item() == pytest.approx(0.7 * torch.stack(divergence).mean().item(), abs=1e-10)


def test_every_step_gets_the_advantage_of_its_rollout_over_its_length_and_padding_nothing():
    b, lengths = batch(), [4, 3, 1]
    logits = stub_steps(b, lengths)
    logits[:, :, 2, 1:] = 1e4  # whatever stands where there is no step
    policy = Stub(logits, torch.tensor(lengths))
    terms, _ = run(policy, Stub(logits), b, rollouts=3, kl_weight=0.3, reward="ndcg@5")
    assert all(term.isfinite() for term in terms.values())
    total(terms).backward()
    gain = advantage(reward(Trajectory(policy.logits, policy.length).last(), b.positive, "ndcg@5"), ReinforceSettings())
    target = nn.functional.one_hot(b.positive, b.candidates.shape[2])[:, :, None, None]
    exists = torch.arange(4) < torch.tensor(lengths)[:, None]
    slope = -(gain * b.target_mask.unsqueeze(2)).unsqueeze(3) * exists / torch.tensor(lengths)[:, None] / b.target_mask.sum() / 3
    expected = slope.unsqueeze(4) * (target - policy.logits.softmax(4))
    torch.testing.assert_close(policy.logits.grad, expected)
    assert policy.logits.grad[:, :, 2, 0].any()


@pytest.mark.parametrize("scale", ["population", "sample", "none"])
def test_one_rollout_leaves_the_kl_alone(scale):
    """The deviation of one reward is not a number; its advantage is 0 all the same."""
    b = batch()
    policy, reference = policies(key="lares")
    terms, report = run(policy, reference, b, rollouts=1, scale=scale, kl_weight=0.4)
    assert terms["policy"].item() == report["advantage"] == 0
    assert total(terms).item() == pytest.approx(0.4 * report["kl_value"])
    assert report["kl_value"] > 0.01


def lares_scores(model, b, noise):
    return model.trajectory(model.reason(model.history(b), noise), model.items(b.candidates))


def test_lares_reasons_from_its_own_noise_and_its_reference_from_another_of_the_same_depth():
    b = batch()
    policy, reference = policies(key="lares")
    s = ReinforceSettings(rollouts=4, reference_noise="fresh", scale="sample", reward="mrr", kl_weight=1.0)
    found, report = run(policy, reference, b, **s.model_dump())
    mine = lares_scores(policy, b, drawn(policy, b, s, 0))
    theirs = lares_scores(reference, b, drawn(policy, b, s, 1))
    assert torch.equal(mine.length, theirs.length)
    assert len(set(mine.length.tolist())) > 1
    expected, _ = run(Stub(mine.logits.detach(), mine.length), Stub(theirs.logits, theirs.length), b, **s.model_dump())
    for name in ("policy", "kl"):
        assert found[name].item() == pytest.approx(expected[name].item(), abs=1e-12)
    assert report["informative"] > 0.1
    total(found).backward()
    quiet = {name for name, p in policy.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {name for name in quiet if name.startswith(("pre", "core", "position", "inputs.item.")) and "key.bias" not in name}
    same = copy.deepcopy(policy)
    assert run(policy, same, b, reference_noise="same")[0]["kl"].item() == pytest.approx(0, abs=1e-12)
    assert run(policy, same, b, reference_noise="fresh")[0]["kl"].item() > 1e-4
