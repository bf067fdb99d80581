"""Optimisers against their formulas: lazy Adam row by row, dense Adam against torch, and what a step may touch."""

import math

import pytest
import torch
from tests.models.conftest import one_thread  # noqa: F401
from tests.models.synthetic import ROOM, R, S, batch, make, vocabulary
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seerec.config import ReinforceSettings
from seerec.errors import SeerecError
from seerec.models.inputs import Table
from seerec.models.lcr_ser_config import LCRSERConfig
from seerec.models.registry import MODELS, build
from seerec.training import optimizers
from seerec.training.optimizers import DenseAdam, LazyAdam
from seerec.training.reinforce import PolicyObjective

ROWS, WIDTH, BETA1, BETA2, EPS = 30, 4, 0.9, 0.999, 1e-8


class Toy(nn.Module):
    """One table and one linear layer; the loss weighs each looked-up row by given numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = Table(ROWS, WIDTH, 1.0)
        self.linear = nn.Linear(WIDTH, 2)

    def backward(self, ids, weight):
        ((self.linear(self.table(ids)) ** 2).sum(1) * weight).sum().backward()


def touches(step, count=6):
    """Ids with repeats and sometimes padding, and their weights."""
    g = torch.Generator().manual_seed(step)
    return torch.randint(0, ROWS, (count,), generator=g), torch.randn(count, generator=g)


def lazy_step(model, optimizer, ids, weight, rate):
    """One step; returns the gradient of the table, dense, computed through the whole table."""
    model.table.open(ids)
    optimizer.zero_grad()
    model.backward(ids, weight)
    whole = torch.zeros(ROWS, WIDTH).index_add_(0, model.table.touched, model.table.rows.grad)
    optimizer.step(rate)
    model.table.close()
    return whole


# lazy --------------------------------------------------------------------------------------------------------------------


def test_only_touched_rows_move():
    model = Toy()
    optimizer = LazyAdam(model, weight_decay=0.3)
    before = {name: value.clone() for name, value in (optimizer.state() | {"weight": model.table.weight}).items()}
    ids, weight = torch.tensor([3, 7, 3, 0]), torch.ones(4)
    lazy_step(model, optimizer, ids, weight, 0.1)
    others = [i for i in range(ROWS) if i not in (3, 7)]
    after = optimizer.state() | {"weight": model.table.weight}
    for name in ("weight", "table.mean.table", "table.square.table"):
        assert torch.equal(after[name][others], before[name][others])
        assert (after[name][[3, 7]] != before[name][[3, 7]]).all()
    assert after["table.count.table"].nonzero().flatten().tolist() in ([3, 7], [0, 3, 7])


def test_the_first_step_of_a_row_is_the_formula():
    """With m = v = 0 before, bias correction gives g / rms(g), and decay is decoupled."""
    model, rate, decay = Toy(), 0.1, 0.3
    optimizer = LazyAdam(model, decay)
    before, ids = model.table.weight.detach().clone(), torch.tensor([5, 9])
    g = lazy_step(model, optimizer, ids, torch.tensor([1.0, -2.0]), rate)[ids]
    expected = before[ids] * (1 - rate * decay) - rate * g / (g.square().mean(1, keepdim=True).sqrt() + EPS)
    torch.testing.assert_close(model.table.weight[ids], expected)


def test_a_row_counts_its_own_steps():
    """A row first touched at step 100 moves as if it were its first."""
    early, late = Toy(), Toy()
    optimizers_ = LazyAdam(early, 0.0), LazyAdam(late, 0.0)
    with torch.no_grad():
        late.linear.load_state_dict(early.linear.state_dict())
    for _ in range(100):
        lazy_step(late, optimizers_[1], torch.tensor([2]), torch.tensor([0.0]), 0.0)
    for model, optimizer in zip((early, late), optimizers_, strict=True):
        lazy_step(model, optimizer, torch.tensor([5]), torch.tensor([1.0]), 0.1)
    assert torch.equal(early.table.weight[5], late.table.weight[5])


def test_twenty_steps_equal_plain_python():
    model, decay = Toy(), 0.05
    optimizer = LazyAdam(model, decay)
    w = model.table.weight.double().tolist()
    m, v, count = [[0.0] * WIDTH for _ in w], [0.0] * ROWS, [0] * ROWS
    for step in range(20):
        rate, (ids, weight) = 0.05 / (1 + step), touches(step)
        gradient = lazy_step(model, optimizer, ids, weight, rate).double().tolist()
        for i in {*ids.tolist()} - {0}:
            g, count[i] = gradient[i], count[i] + 1
            v[i] = BETA2 * v[i] + (1 - BETA2) * sum(x * x for x in g) / WIDTH
            for d in range(WIDTH):
                m[i][d] = BETA1 * m[i][d] + (1 - BETA1) * g[d]
                update = m[i][d] / (1 - BETA1 ** count[i]) / (math.sqrt(v[i] / (1 - BETA2 ** count[i])) + EPS)
                w[i][d] = w[i][d] * (1 - rate * decay) - rate * update
        torch.testing.assert_close(model.table.weight, torch.tensor(w), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(optimizer.state()["table.mean.table"], torch.tensor(m), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(optimizer.state()["table.square.table"], torch.tensor(v), atol=1e-5, rtol=1e-4)
    assert optimizer.state()["table.count.table"][1:].tolist() == count[1:]
    assert len({*count}) > 3


def test_lazy_dense_parameters_are_torchs_adamw_without_decay_on_biases():
    model, twin = Toy(), Toy()
    optimizer = LazyAdam(model, 0.2)
    theirs = torch.optim.AdamW(
        [{"params": [twin.linear.weight], "weight_decay": 0.2}, {"params": [twin.linear.bias], "weight_decay": 0.0}], lr=0.1
    )
    for step in range(5):
        ids, weight = touches(step)
        with torch.no_grad():
            twin.table.weight.copy_(model.table.weight)
        lazy_step(model, optimizer, ids, weight, 0.1)
        theirs.zero_grad()
        twin.backward(ids, weight)
        theirs.step()
        torch.testing.assert_close(model.linear.weight, twin.linear.weight)
        torch.testing.assert_close(model.linear.bias, twin.linear.bias)


def test_clipping_sees_rows_and_dense_parameters():
    model = Toy()
    optimizer = LazyAdam(model, 0.0)
    ids, weight = touches(0)
    model.table.open(ids)
    model.backward(ids, weight)
    total = math.sqrt(sum(float(p.grad.square().sum()) for p in (model.linear.weight, model.linear.bias, model.table.rows)))
    assert float(nn.utils.clip_grad_norm_(optimizer.parameters(), 1e9)) == pytest.approx(total, rel=1e-5)


# dense -------------------------------------------------------------------------------------------------------------------


def test_dense_adam_is_torchs_adam_with_coupled_l2_over_whole_tables():
    model, twin = Toy(), Toy()
    optimizer = DenseAdam(model, 0.2)
    theirs = torch.optim.Adam(
        [
            {"params": [twin.table.weight, twin.linear.weight], "weight_decay": 0.2},
            {"params": [twin.linear.bias], "weight_decay": 0.0},
        ],
        lr=0.1,
    )
    before = model.table.weight.detach().clone()
    for step in range(5):
        ids, weight = touches(step)
        for m, o in ((model, optimizer), (twin, theirs)):
            o.zero_grad()
            m.backward(ids, weight)
        optimizer.step(0.1)
        theirs.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(value, dict(twin.named_parameters())[name])
    untouched = [i for i in range(1, ROWS) if all(i not in touches(s)[0] for s in range(5))]
    assert untouched
    assert (model.table.weight[untouched] != before[untouched]).all()  # coupled L2 moves them all


def test_dense_adam_refuses_a_large_table(monkeypatch):
    assert optimizers.DENSE_ROWS == 2_000_000
    monkeypatch.setattr(optimizers, "DENSE_ROWS", ROWS)
    DenseAdam(Toy(), 0.0)
    monkeypatch.setattr(optimizers, "DENSE_ROWS", ROWS - 1)
    with pytest.raises(SeerecError, match=r"30 rows of table .*lazy"):
        DenseAdam(Toy(), 0.0)
    LazyAdam(Toy(), 0.0)


# both --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LazyAdam, DenseAdam])
@pytest.mark.parametrize("key", ["sasrec", "lcr-ser"])
def test_padding_rows_stay_zero(kind, key):
    model = make(key, double=False, random=False).train()
    optimizer = kind(model, 0.1)
    for seed in range(3):
        update(model, optimizer, batch(seed=seed), kind is LazyAdam)
    tables = [module for module in model.modules() if isinstance(module, Table)]
    assert len(tables) == 3
    assert all(not table.weight[0].any() for table in tables)
    assert model.inputs.item.weight[1:].any()


def update(model, optimizer, b, gathered, rate=0.01):
    if gathered:
        model.inputs.open(b)
    optimizer.zero_grad()
    torch.stack([*model.objective(b, model.encode(b)).values()]).sum().backward()
    nn.utils.clip_grad_norm_(optimizer.parameters(), 1.0)
    optimizer.step(rate)
    model.inputs.close()


@pytest.mark.parametrize("kind", [LazyAdam, DenseAdam])
def test_a_restored_optimizer_goes_on_bit_for_bit(kind):
    def fresh():
        model = make("sasrec", double=False, random=False)
        return model, kind(model, 0.1)

    model, optimizer = fresh()
    for seed in range(3):
        update(model, optimizer, batch(seed=seed), kind is LazyAdam)
    saved = {name: value.clone() for name, value in optimizer.state().items()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for seed in range(3, 6):
        update(model, optimizer, batch(seed=seed), kind is LazyAdam)
    other, continued = fresh()
    other.load_state_dict(weights)
    continued.restore(saved)
    for seed in range(3, 6):
        update(other, continued, batch(seed=seed), kind is LazyAdam)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    for name, value in continued.state().items():
        assert torch.equal(value, optimizer.state()[name]), name
    assert saved.keys() == optimizer.state().keys()
    assert any(not torch.equal(saved[name], value) for name, value in optimizer.state().items())


# no work proportional to the catalogue -----------------------------------------------------------------------------------

CATALOGUE = 100_003
# What reads or writes single rows of a table given as operand, or only looks at it another way.
ROW_WISE = {
    "aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::index_add_", "aten::embedding", "aten::index_select",
    "aten::detach", "aten::detach_", "detach", "detach_", "aten::alias", "aten::view", "aten::slice", "aten::select",
    "aten::reshape", "aten::as_strided", "aten::result_type", "aten::requires_grad_", "aten::unsqueeze", "aten::expand",
}  # fmt: skip


class Outputs(TorchDispatchMode):
    """Operations that return something as long as the catalogue: new memory, or work of its size."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.name().split(".")[0]
        if name not in ROW_WISE:
            for value in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(value, torch.Tensor) and value.numel() >= CATALOGUE:
                    self.found.add(name)
        return out


def catalogue_work(step):
    """Names of the operations of ``step`` that touch something as long as the catalogue, other than row by row."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        step()
    found = set()
    for event in profile.events():
        large = any(max(shape, default=0) >= CATALOGUE for shape in event.input_shapes if isinstance(shape, (list, tuple)))
        if large and event.name not in ROW_WISE:
            found.add(event.name)
    with Outputs() as outputs:
        step()
    return found | outputs.found


def large(key):
    torch.manual_seed(0)
    v = vocabulary(items=CATALOGUE, users=CATALOGUE, words=CATALOGUE)
    settings = {"width": 8, "steps": 2} if key == "lcr-ser" else {"width": 8}
    return build(key, MODELS[key].Config(**settings), v, R + ROOM, S + ROOM)


@pytest.mark.parametrize("key", ["sasrec", "lcr-ser"])
def test_a_lazy_step_does_no_work_proportional_to_the_catalogue(key):
    model, b = large(key).train(), batch()
    optimizer = LazyAdam(model, 0.1)
    update(model, optimizer, b, gathered=True)
    assert catalogue_work(lambda: update(model, optimizer, b, gathered=True)) == set()


def test_nor_does_a_step_of_stage_2():
    model, reference, b = large("lcr-ser"), large("lcr-ser"), batch()
    optimizer = LazyAdam(model, 0.0)
    objective = PolicyObjective(model, reference, ReinforceSettings(rollouts=2))

    def step():
        model.inputs.open(b)
        terms, _ = objective(b)
        optimizer.zero_grad()
        torch.stack([*terms.values()]).sum().backward()
        optimizer.step(0.01)
        model.inputs.close()

    step()
    assert catalogue_work(step) == set()


def test_the_detector_sees_dense_work():
    model, b = large("sasrec"), batch()
    optimizer = DenseAdam(model, 0.0)
    found = catalogue_work(lambda: update(model, optimizer, b, gathered=False))
    assert found
    table = torch.zeros(CATALOGUE, 2)
    assert catalogue_work(lambda: table.mul_(2))
    assert catalogue_work(lambda: torch.zeros(CATALOGUE))


def test_the_settings_of_the_toy_are_torchs_defaults():
    """Betas and epsilon of both optimisers, as the references above assume."""
    assert LCRSERConfig().width == 64
    for kind in (LazyAdam, DenseAdam):
        group = kind(Toy(), 0.0).dense.param_groups[0]
        assert (group["betas"], group["eps"]) == ((BETA1, BETA2), EPS)
