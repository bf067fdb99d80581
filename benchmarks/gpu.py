"""How fast a GPU trains and ranks: each rate beside what the card can do at most, measured in the same run.

    python benchmarks/gpu.py --device cuda

The load is that of `steps.py`, tables and batches on the device. Each kind of run (fp32; bf16 by autocast; bf16 compiled by
torch.compile, whose mode ``reduce-overhead`` records CUDA graphs) takes its steps in turns with the others, and the clock
waits for the device. A kind that fails is reported with its reason. Figures go to ``runs/bench/gpu.json``.
``--device cpu --quick`` shows that it runs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ceilings import FLOATS, LARGE
from counts import needed
from steps import Trainer, load, processor, vocabulary
from torch import Tensor

from seerec.allocator import keep_freed_memory
from seerec.atomic import write_json
from seerec.batch import Batch
from seerec.config import TrainSettings
from seerec.device import place_of
from seerec.errors import SeerecError
from seerec.models.base import Vocabulary
from seerec.models.inputs import Table

KINDS = ("fp32", "bf16", "bf16 compiled")
TARGETS, CANDIDATES = 30, 100


class DeviceTrainer(Trainer):
    """The steps of ``Trainer`` on a device, in one kind of run."""

    def __init__(self, key: str, sizes: Vocabulary, seed: int, device: torch.device, kind: str) -> None:
        super().__init__(key, sizes, seed, device=device)
        self.device, self.kind = device, kind
        self.terms, self.scores = self._terms, self._scores
        if "compiled" in kind:
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self.terms, self.scores = (torch.compile(f, mode=mode, dynamic=False) for f in (self._terms, self._scores))

    def autocast(self) -> torch.autocast:
        """Products in bf16 where the kind says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.kind != "fp32")

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.objective(batch, self.model.encode(batch))

    def _scores(self, batch: Batch) -> Tensor:
        return self.model.score(self.model.encode(batch), self.model.items(batch.candidates))

    def learn(self, batch: Batch) -> None:
        """One step of stage 1."""
        self.model.train()

        def terms() -> dict[str, Tensor]:
            with self.autocast():
                return self.terms(batch)

        self._step((batch,), terms, self.settings.learning_rate)

    def tune(self) -> Callable[[Batch], None]:
        """A function that takes one step of stage 2."""
        step = self.stage2(TrainSettings().reinforce)

        def tuned(batch: Batch) -> None:
            with self.autocast():
                step(batch)

        return tuned

    def order(self, batch: Batch) -> None:
        """One evaluated batch: how many candidates each positive is below."""
        self.model.eval()
        with torch.no_grad(), self.autocast():
            scores = self.scores(batch)
        (scores > scores.gather(2, batch.positive.unsqueeze(2))).sum(2)

    def step_of(self, what: str) -> Callable[[Batch], None]:
        """A function that takes one step of a kind."""
        return self.learn if what == "train" else self.order if what == "evaluate" else self.tune()

    def facts(self, batch: Batch) -> tuple[int, int]:
        """Rows of tables that a step touches, and parameters outside tables."""
        tables = [module for module in self.model.modules() if isinstance(module, Table)]
        self.model.inputs.open(batch)
        touched = sum(len(table.touched) for table in tables if table.touched is not None)
        self.model.inputs.close()
        return touched, sum(p.numel() for p in self.model.parameters()) - sum(table.weight.numel() for table in tables)


def wait(device: torch.device) -> None:
    """Until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call, to the end of its work on the device."""
    wait(device)
    began = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - began


def ceilings(device: torch.device, *, quick: bool) -> dict[str, float]:
    """FLOP/s of large products in fp32, TF32 (on a GPU) and bf16, and bytes/s of a copy."""
    size, floats = (256, 1 << 20) if quick else (4 * LARGE, FLOATS) if device.type == "cuda" else (LARGE, FLOATS)
    found = {}
    for name, kind in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "tf32" and device.type != "cuda":
            continue
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = (torch.ones(size, size, dtype=kind, device=device) for _ in range(2))
        spent = min(seconds(lambda a=a, b=b: a @ b, device) for _ in range(8))  # type: ignore[misc]
        found[name] = 2 * size**3 / spent
    torch.backends.cuda.matmul.allow_tf32 = False
    a, b = (torch.ones(floats, device=device) for _ in range(2))
    found["copy"] = 2 * 4 * floats / min(seconds(lambda: a.copy_(b), device) for _ in range(8))
    return found


def measured(key: str, sizes: Vocabulary, rows: int, repeats: int, seed: int, device: torch.device) -> list[dict[str, Any]]:
    """Rates of one model: training, evaluation and, of LCR-SER, stage 2, every kind of run in turns with the others."""
    reinforced = max(1, rows // 16)
    shapes = {
        "train": (rows, TARGETS, 2),
        "evaluate": (2 * rows, 1, CANDIDATES),
        "reinforce": (reinforced, TARGETS // 2, CANDIDATES),
    }
    results = []
    for what, (b, t, c) in shapes.items():
        if what == "reinforce" and key != "lcr-ser":
            continue
        batches = [load(seed + 1 + i, b, t, c, sizes).to(device) for i in range(3)]
        steps: dict[str, Callable[[Batch], None]] = {}
        failed: dict[str, str] = {}
        spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
        touched = dense = 0
        for kind in KINDS:
            if what == "reinforce" and "compiled" in kind:
                failed[kind] = "stage 2 samples between its parts: only what is called as one function is compiled"
                continue
            trainer = DeviceTrainer(key, sizes, seed, device, kind)
            steps[kind] = trainer.step_of(what)
            touched, dense = trainer.facts(batches[0])
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for turn in range(repeats + 2):  # two warm up
            for kind, step in steps.items():
                if kind in failed:
                    continue
                batch = batches[turn % len(batches)]
                try:
                    spent[kind].append(seconds(lambda step=step, batch=batch: step(batch), device))  # type: ignore[misc]
                except Exception as error:  # a kind that fails must not end the others
                    failed[kind] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        needs = needed(key, what, b, t, touched, dense) if what != "reinforce" else {}
        results += [
            {
                "model": key, "what": what, "kind": kind, "rows": b, "T": t, "candidates": c, "failed": failed.get(kind),
                "seconds": spent[kind][2:], "rate": b * t / median(spent[kind][2:]) if kind not in failed else None, **needs,
                "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            }
            for kind in KINDS
        ]  # fmt: skip
    return results


def line(result: dict[str, Any], most: dict[str, float]) -> str:
    """One figure: ``lcr-ser train bf16 20123 targets/s, 12.0 % of bf16 products, 30.0 % of the memory``."""
    name = f"{result['model']} {result['what']} {result['kind']}"
    if result["failed"]:
        return f"{name} not measured: {result['failed']}"
    unit = "rows/s" if result["what"] == "evaluate" else "targets/s"
    said = f"{name} {result['rate']:.0f} {unit}"
    if "flop" in result:
        kind = "fp32" if result["kind"] == "fp32" else "bf16"
        products, memory = result["rate"] * result["flop"] / most[kind], result["rate"] * result["bytes"] / most["copy"]
        said += f", {100 * products:.1f} % of {kind} products, {100 * memory:.1f} % of the memory"
    return said if result["peak_bytes"] is None else f"{said}; peak {result['peak_bytes'] / 1e9:.2f} GB with all kinds"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats: shows that it runs, measures nothing")
    parser.add_argument("--models", default="lcr-ser,sasrec")
    parser.add_argument("--repeats", type=int, help="steps of each kind that count; 20, or 1 with --quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu.json"))
    given = parser.parse_args()
    try:
        device = place_of(given.device)
    except SeerecError as error:
        parser.exit(1, f"{error}\n")
    keep_freed_memory()
    sizes = vocabulary(2_000, 2_000, 500) if given.quick else vocabulary(673_415, 394_912, 100_000)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    facts = {"device": card, "torch": torch.__version__, "seed": given.seed, "quick": given.quick}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    most = ceilings(device, quick=given.quick)
    print(", ".join(f"{name} {value / 1e9:,.0f} {'GB/s' if name == 'copy' else 'GFLOP/s'}" for name, value in most.items()))
    results = []
    for key in given.models.split(","):
        found = measured(key, sizes, 16 if given.quick else 512, given.repeats or (1 if given.quick else 20), given.seed, device)
        print("\n".join(line(result, most) for result in found), flush=True)
        results += found
    write_json(given.out, {"facts": facts, "ceilings": most, "results": results})


if __name__ == "__main__":
    main()
