"""How fast a step is: training targets per second, what a ten times larger table costs, evaluation rows per second.

Measurements, not tests. Batches are generated, and the clock holds one step or one evaluated batch, nothing else. Every figure
is a median over ``--repeats``; variants that are compared take turns (A B A B). Figures and circumstances go to
``runs/bench/bench.json``.
"""

import argparse
import copy
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seerec.allocator import keep_freed_memory
from seerec.atomic import write_json
from seerec.batch import Batch
from seerec.config import ReinforceSettings, TrainSettings
from seerec.evaluation.ranking import count_above
from seerec.kernels import Precision, choose, products_in
from seerec.models.base import NeuralRecommender, ReasoningRecommender, Vocabulary
from seerec.models.registry import build
from seerec.training.optimizers import LazyAdam
from seerec.training.presets import resolve
from seerec.training.reinforce import PolicyObjective

Step = Callable[[], object]
R, S = 30, 30
"""Events of a history, all present: the lengths of the LCR-SER group's programs on KuaiSAR."""
LIMIT = 1.3
"""Most that the large table may cost, in times of the small one."""


def generator(*seed: int) -> np.random.Generator:
    """Random numbers of their own for each purpose."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))


def vocabulary(items: int, words: int, users: int) -> Vocabulary:
    """Sizes without features."""
    none = torch.zeros(1, 0, dtype=torch.int32)
    return Vocabulary(users, items, words, torch.zeros(items, dtype=torch.int64), none, none, none)


def load(
    seed: int, rows: int, targets: int, candidates: int, sizes: Vocabulary, items: np.ndarray | None = None, length: int = R
) -> Batch:
    """A batch of full histories: item and word ids by Zipf's law, 1 to 6 words and up to 2 clicks a search.

    Target t of T sees all but the last T - t events of either history. ``items`` are the ids that may occur, all of them by
    default; ``length`` are the events of either history.
    """
    draw = generator(seed)
    pool = np.arange(2, sizes.items) if items is None else items

    def zipf(high: int, *shape: int) -> np.ndarray:
        """Ranks 0 .. high - 1, each with a share of about 1 / rank."""
        return np.minimum((high ** draw.random(shape)).astype(np.int64) - 1, high - 1)

    words = (zipf(sizes.words - 2, rows, length, 6) + 2) * (np.arange(6) < draw.integers(1, 7, (rows, length, 1)))
    clicks = pool[zipf(len(pool), rows, length, 2)] * (np.arange(2) < draw.integers(0, 3, (rows, length, 1)))
    seen = np.broadcast_to(np.arange(length - targets, length) if targets > 1 else np.array([length]), (rows, targets))
    scored = pool[draw.integers(0, len(pool), (rows, targets, candidates))]
    arrays = {
        "user": draw.integers(1, sizes.users, rows),
        "rec": pool[zipf(len(pool), rows, length)],
        "rec_time": np.broadcast_to(np.arange(length), (rows, length)),
        "query": words,
        "click": clicks,
        "search_time": np.broadcast_to(np.arange(length), (rows, length)),
        "searched": np.ones((rows, length), bool),
        "rec_seen": seen,
        "search_seen": seen,
        "candidates": scored,
        "positive": np.zeros((rows, targets), np.int64),
        "target_time": np.full((rows, targets), length),
        "task": np.zeros(rows, np.int64),
        "target_query": np.zeros((rows, targets, 6), np.int64),
        "key": draw.integers(0, 1 << 62, rows),
    }
    return Batch(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}).check()


class Trainer:
    """Steps as the training loop takes them: gather rows, loss, gradient, clip, move.

    Training multiplies in ``learning_in``, evaluation in ``ranking_in``; by default as the training loop chooses.
    """

    def __init__(
        self,
        key: str,
        sizes: Vocabulary,
        seed: int,
        overrides: Mapping[str, Any] = MappingProxyType({}),
        length: int = R,
        device: torch.device | str = "cpu",
    ) -> None:
        config, self.settings = resolve(key, "best", dict(overrides))
        torch.manual_seed(seed)
        model = build(key, config, sizes, length, length)
        assert isinstance(model, NeuralRecommender)
        self.model = model.to(device)
        self.learning_in, _ = choose(self.settings.precision, torch.device(device))
        self.ranking_in: Precision = "fp32"
        self.optimizer = LazyAdam(model, self.settings.weight_decay)
        for kind in (self.optimizer.mean, self.optimizer.square, self.optimizer.count):
            for state in kind.values():
                state.zero_()  # takes the memory now: a fresh page would otherwise be paid for inside the clock

    def stage1(self, batch: Batch) -> None:
        """One step of stage 1."""
        self.model.train()
        self._step((batch,), lambda: self.model.objective(batch, self.model.encode(batch)), self.settings.learning_rate)

    def stage2(self, settings: ReinforceSettings) -> Callable[[Batch], None]:
        """A function that takes one step of stage 2."""
        assert isinstance(self.model, ReasoningRecommender)
        objective = PolicyObjective(self.model, copy.deepcopy(self.model), settings)
        return lambda batch: self._step((batch,), lambda: objective(batch)[0], settings.learning_rate)

    def rank(self, batch: Batch) -> None:
        """One evaluated batch."""
        model = self.model.eval()
        with torch.no_grad(), products_in(self.ranking_in):
            count_above(model.score(model.encode(batch), model.items(batch.candidates)), batch.positive)

    def _step(self, batches: tuple[Batch, ...], terms: Callable[[], dict[str, Tensor]], rate: float) -> None:
        self.model.inputs.open(*batches)
        with products_in(self.learning_in):
            loss = torch.stack(list(terms().values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.optimizer.parameters(), self.settings.clip_norm or float("inf"))
        self.optimizer.step(rate)
        self.model.inputs.close()


def seconds(steps: Iterable[Step]) -> list[float]:
    """Seconds of each step."""
    spent = []
    for step in steps:
        began = time.perf_counter()
        step()
        spent.append(time.perf_counter() - began)
    return spent


def training(sizes: Vocabulary, rows: tuple[int, int], repeats: int, seed: int) -> list[dict[str, Any]]:
    """Targets per second of SASRec and LCR-SER in stage 1, and of LCR-SER in stage 2; ``rows`` of a batch by stage.

    LCR-SER also with a target in every slot and one negative: the shape of the rates in docs/performance.md.
    """
    settings = TrainSettings()
    own, tuned = settings.batch.negatives, settings.reinforce.negatives
    results = []
    for key, stage, targets, negatives in (
        ("sasrec", 1, R // 2, own), ("lcr-ser", 1, R // 2, own), ("lcr-ser", 1, R, 1), ("lcr-ser", 2, R // 2, tuned),
    ):  # fmt: skip
        batches = [load(seed + 1 + i, rows[stage - 1], targets, 1 + negatives, sizes) for i in range(repeats + 2)]
        trainer = Trainer(key, sizes, seed)
        step = trainer.stage1 if stage == 1 else trainer.stage2(settings.reinforce)
        spent = seconds([lambda batch=batch, step=step: step(batch) for batch in batches])[2:]  # type: ignore[misc]
        done = rows[stage - 1] * targets
        results.append(
            {
                "model": key, "stage": stage, "rows": rows[stage - 1], "T": targets, "candidates": 1 + negatives,
                "mean_visible_clicks": float(batches[0].rec_seen.double().mean()),
                "mean_visible_searches": float(batches[0].search_seen.double().mean()),
                "seconds": spent, "targets_per_second": done / median(spent),
            }
        )  # fmt: skip
    return results


def table_size(small: int, large: int, rows: int, repeats: int, seed: int) -> dict[str, Any]:
    """A SASRec step with a large item table against a small one: the same batches, the same number of distinct rows."""
    used = min(200_000, small // 2)
    sizes = {size: vocabulary(size, 100, 1000) for size in (small, large)}
    trainers = {size: Trainer("sasrec", sizes[size], seed) for size in sizes}
    spent: dict[int, list[float]] = {size: [] for size in sizes}
    distinct = []
    for repeat in range(repeats + 2):
        counts = set()
        for size in sizes:
            ids = generator(seed, repeat, size).choice(size - 2, used, replace=False) + 2
            batch = load(seed + repeat, rows, R // 2, 5, sizes[size], ids)
            counts.add(len(torch.cat([batch.rec.reshape(-1), batch.click.reshape(-1), batch.candidates.reshape(-1)]).unique()))
            spent[size] += seconds([lambda size=size, batch=batch: trainers[size].stage1(batch)])  # type: ignore[misc]
        distinct.append(counts)
    assert all(len(counts) == 1 for counts in distinct), "the two tables must be touched alike"
    spent = {size: times[2:] for size, times in spent.items()}
    ratio = median(spent[large]) / median(spent[small])
    return {
        "model": "sasrec", "rows": rows, "T": R // 2, "small": small, "large": large, "distinct_rows": max(distinct[0]),
        "seconds_small": spent[small], "seconds_large": spent[large], "ratio": ratio, "limit": LIMIT, "holds": ratio <= LIMIT,
    }  # fmt: skip


def evaluation(sizes: Vocabulary, rows: int, repeats: int, seed: int) -> list[dict[str, Any]]:
    """Evaluated rows per second, 100 candidates each."""
    results = []
    for key in ("sasrec", "lcr-ser"):
        trainer = Trainer(key, sizes, seed)
        batches = [load(seed + 1 + i, rows, 1, 100, sizes) for i in range(repeats + 1)]
        spent = seconds([lambda batch=batch, rank=trainer.rank: rank(batch) for batch in batches])[1:]  # type: ignore[misc]
        results.append({"model": key, "rows": rows, "candidates": 100, "seconds": spent, "rows_per_second": rows / median(spent)})
    return results


def processor() -> str:
    """The name of the processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats: shows that it runs, measures nothing")
    parser.add_argument("--repeats", type=int, help="steps of each kind that count; 9, or 2 with --quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/bench.json"))
    given = parser.parse_args()
    keep_freed_memory()  # as the seerec command does
    repeats = given.repeats or (2 if given.quick else 9)
    # The catalogue and vocabulary sizes that KuaiSAR's authors publish.
    sizes = vocabulary(2_000, 2_000, 500) if given.quick else vocabulary(673_415, 394_912, 100_000)
    rows = (8, 2) if given.quick else (256, 32)
    facts = {
        "processor": processor(), "processors": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "seed": given.seed, "repeats": repeats, "quick": given.quick,
        "items": sizes.items, "words": sizes.words, "width": resolve("lcr-ser", "best", {})[0].width,
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    trained = training(sizes, rows, repeats, given.seed)
    for r in trained:
        print(
            f"{r['model']:<8} stage {r['stage']}  {r['targets_per_second']:>9,.0f} targets/s   "
            f"median {median(r['seconds']) * 1e3:,.0f} ms a step "
            f"({min(r['seconds']) * 1e3:,.0f} to {max(r['seconds']) * 1e3:,.0f}); "
            f"B {r['rows']}, T {r['T']}, C {r['candidates']}, "
            f"mean visible history {r['mean_visible_clicks']:.1f} clicks + {r['mean_visible_searches']:.1f} searches"
        )
    small, large = (10_000, 100_000) if given.quick else (1_000_000, 10_000_000)
    grown = table_size(small, large, rows[0], repeats, given.seed)
    print(
        f"table    {large:,} rows against {small:,}: ratio {grown['ratio']:.3f} (at most {LIMIT}); "
        f"{grown['distinct_rows']:,} distinct rows a step, "
        f"medians {median(grown['seconds_large']) * 1e3:,.0f} and {median(grown['seconds_small']) * 1e3:,.0f} ms"
    )
    ranked = evaluation(sizes, 32 if given.quick else 512, repeats, given.seed)
    for r in ranked:
        print(f"{r['model']:<8} evaluation  {r['rows_per_second']:>9,.0f} rows/s, {r['candidates']} candidates each")
    write_json(given.out, {"facts": facts, "training": trained, "table": grown, "evaluation": ranked})


if __name__ == "__main__":
    main()
