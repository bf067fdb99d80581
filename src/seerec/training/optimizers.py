"""Adam for dense parameters, and for tables of which only touched rows move.

``lazy`` (default): tables use row-wise lazy Adam. Each touched row keeps a full first moment, one second moment (the mean
square of its gradient) and its own step count, and decays by decoupled L2; a row that is not touched does not change, so a
step costs the same at ten million rows. ``dense``: torch's Adam with coupled L2 over everything, as in the group's programs;
its cost grows with the table and its L2 erases rare rows.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from seerec.errors import SeerecError
from seerec.models.inputs import Table

_BETAS, _EPS = (0.9, 0.999), 1e-8
DENSE_ROWS = 2_000_000
"""Largest table that dense Adam accepts: beyond, a step spends its time on rows nobody touched."""


class LazyAdam:
    """Row-wise lazy Adam on the model's tables, AdamW on the rest (no decay on biases)."""

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        self.tables = {name: module for name, module in model.named_modules() if isinstance(module, Table)}
        for table in self.tables.values():
            table.weight.requires_grad_(False)
        self.weight_decay = weight_decay
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.dense = torch.optim.AdamW(_groups(self.named, weight_decay), lr=0.0, betas=_BETAS, eps=_EPS)
        self.mean = {name: torch.zeros_like(t.weight) for name, t in self.tables.items()}
        self.square = {name: t.weight.new_zeros(len(t.weight)) for name, t in self.tables.items()}
        self.count = {n: torch.zeros(len(t.weight), dtype=torch.int32, device=t.weight.device) for n, t in self.tables.items()}

    def parameters(self) -> list[Tensor]:
        """Everything that has a gradient after a backward pass, for clipping."""
        rows = [t.rows for t in self.tables.values() if t.rows is not None]
        return [*self.named.values(), *rows]

    def zero_grad(self) -> None:
        """Forget the gradients of dense parameters (rows are new in every step)."""
        self.dense.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move dense parameters and touched rows at learning rate ``rate``."""
        for group in self.dense.param_groups:
            group["lr"] = rate
        self.dense.step()
        for name, table in self.tables.items():
            if table.rows is None or table.rows.grad is None or table.touched is None:
                continue
            at, gradient = table.touched, table.rows.grad
            count = self.count[name].index_add_(0, at, torch.ones_like(at, dtype=torch.int32))[at].unsqueeze(1)
            mean = self.mean[name][at].lerp_(gradient, 1 - _BETAS[0])
            square = self.square[name][at].lerp_(gradient.square().mean(1), 1 - _BETAS[1])
            self.mean[name][at], self.square[name][at] = mean, square
            scale = (square.unsqueeze(1) / (1 - _BETAS[1] ** count)).sqrt_().add_(_EPS)
            update = mean / (1 - _BETAS[0] ** count) / scale
            table.weight[at] = table.rows * (1 - rate * self.weight_decay) - rate * update

    def state(self) -> dict[str, Tensor]:
        """Everything a checkpoint must hold, by name."""
        tensors = _dense_state(self.dense, self.named)
        for kind in ("mean", "square", "count"):
            tensors |= {f"table.{kind}.{name}": value for name, value in getattr(self, kind).items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from ``state``."""
        _restore_dense(self.dense, self.named, tensors)
        for kind in ("mean", "square", "count"):
            for name, value in getattr(self, kind).items():
                value.copy_(tensors[f"table.{kind}.{name}"])


class DenseAdam:
    """torch's Adam with coupled L2 over all parameters but biases, tables included (``preset paper``)."""

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        for name, module in model.named_modules():
            if isinstance(module, Table):
                if len(module.weight) > DENSE_ROWS:
                    raise SeerecError(
                        f"Dense Adam would rewrite all {len(module.weight):,} rows of {name} in every step.",
                        "Train with the lazy optimizer (the default), which moves touched rows only.",
                    )
                module.weight.requires_grad_(True)
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.dense = torch.optim.Adam(_groups(self.named, weight_decay), lr=0.0, betas=_BETAS, eps=_EPS)

    def parameters(self) -> list[Tensor]:
        """All parameters."""
        return list(self.named.values())

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.dense.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        """Move everything at learning rate ``rate``."""
        for group in self.dense.param_groups:
            group["lr"] = rate
        self.dense.step()

    def state(self) -> dict[str, Tensor]:
        """Everything a checkpoint must hold, by name."""
        return _dense_state(self.dense, self.named)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from ``state``."""
        _restore_dense(self.dense, self.named, tensors)


Optimizer = LazyAdam | DenseAdam


def _groups(named: dict[str, nn.Parameter], weight_decay: float) -> Iterable[dict[str, object]]:
    biases = [p for name, p in named.items() if name.endswith("bias")]
    weights = [p for name, p in named.items() if not name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _dense_state(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in named.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"dense.{kind}.{name}"] = value
    return tensors


def _restore_dense(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], tensors: dict[str, Tensor]) -> None:
    for name, parameter in named.items():
        found = {k: tensors[f"dense.{k}.{name}"] for k in ("step", "exp_avg", "exp_avg_sq") if f"dense.{k}.{name}" in tensors}
        if found:
            optimizer.state[parameter] = {kind: value.clone() for kind, value in found.items()}
