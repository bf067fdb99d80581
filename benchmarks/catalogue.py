"""The whole catalogue: users ranked a second, exactly and in two stages, and what the two stages lose.

    python benchmarks/catalogue.py --synthetic
    python benchmarks/catalogue.py RUN CORPUS

Exactly: ``rank_catalogue``, which `seerec evaluate --candidates full` runs, and ``Ranker.best``, which `seerec recommend` runs.
Two stages: ``two_stages.py``; the library retrieves nothing itself yet. Recall is the share of the exact best k among the best k
of the two stages. Random weights have no meaningful recall, so generated users (``--synthetic``) are only timed.
"""

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from generated_catalogue import GeneratedCorpus, GeneratedTargets, Ints, untrained
from steps import R, generator, processor
from two_stages import DEPTHS, POOLINGS, TwoStages, recall

from seerec import artifact
from seerec.atomic import write_json
from seerec.data.batches import EvaluationBatches
from seerec.data.candidates import load as load_candidates
from seerec.errors import SeerecError
from seerec.evaluation.ranking import rank_catalogue
from seerec.incoming import People
from seerec.kernels.library import library
from seerec.models.lcr_ser import LCRSER
from seerec.progress import Progress
from seerec.recommendations import Ranker, corpus_for

CPU = torch.device("cpu")
RETRIEVED = (100, 500, 2000, 10_000)


def rate(ranked: Callable[[Ints], object], rows: Ints, group: int, repeats: int, label: str) -> dict[str, Any]:
    """Users a second: the median of the repeats, each over all rows, ``group`` at a time."""
    spent = []
    with Progress().task(label, total=repeats * len(rows), unit="users") as bar:
        for _ in range(repeats):
            spent.append(0.0)
            for first in range(0, len(rows), group):
                some = rows[first : first + group]
                spent[-1] += _seconds(lambda some=some: ranked(some))  # type: ignore[misc]
                bar.advance(len(some))
    return _rate(spent, len(rows), group)


def _rate(spent: list[float], users: int, group: int) -> dict[str, Any]:
    return {"seconds": spent, "users": users, "rows_at_once": group, "users_per_second": users / median(spent)}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def flop(model: LCRSER, items: int) -> float:
    """Floating point operations of one user's exact scores: products of eq. 8 and 10 alone, an estimate from their shapes.

    The item's part of the MLP's first layer is left out: users scored together share it.
    """
    c = model.config
    states = 2 * (R + c.steps)
    hidden = c.hidden if c.scorer != "dot" else (0,)
    attended = states * c.width * (1 if c.scorer == "mlp" else 2)  # logits, and where the dot product counts its products too
    return 2.0 * items * (attended + states * hidden[0] + sum(a * b for a, b in itertools.pairwise((*hidden, 1))))


def synthetic(items: int, given: argparse.Namespace) -> dict[str, Any]:
    """Users a second over one generated catalogue."""
    loaded, people = untrained("lcr-ser", items, given.words, given.users, given.seed)
    everyone, corpus, ranker = np.arange(given.users), GeneratedCorpus(items), Ranker(loaded, "cpu")
    assert isinstance(loaded.model, LCRSER)

    def evaluated(row: Ints) -> None:
        rank_catalogue(loaded.model, corpus, GeneratedTargets(people, row), CPU)  # type: ignore[arg-type]

    def recommended(row: Ints) -> None:
        ranker.best(people, row, max(DEPTHS))  # type: ignore[arg-type]

    found: dict[str, Any] = {"items": items, "flop_per_user": flop(loaded.model, items)}
    for name, ranked in (("evaluate", evaluated), ("recommend", recommended)):
        found[name] = _told(rate(ranked, everyone, given.rows, given.repeats, name), f"{items:,} items, {name}")
    each, rated = found["flop_per_user"], found["flop_per_user"] * found["evaluate"]["users_per_second"]
    print(f"  products take {each / 1e9:.1f} GFLOP a user; evaluate does {rated / 1e9:.1f} GFLOP a second")
    two = TwoStages(loaded, people)
    found["two_stages"] = [_two_stages(two, everyone, n, given) for n in _possible(given.retrieved, len(two.pool))]
    if given.profile:
        found["profile"] = profiled(lambda: evaluated(everyone[:4]))
    return found


def trained(given: argparse.Namespace) -> dict[str, Any]:
    """Users a second and recall of a trained model, over users drawn by the seed."""
    loaded = artifact.load(artifact.locate(given.model, None))
    corpus = corpus_for(loaded, given.model, given.corpus)
    people, ranker, two = People(corpus, loaded.batch), Ranker(loaded, "cpu"), TwoStages(loaded, People(corpus, loaded.batch))
    loaded.model.eval()
    users, pool = min(given.users, len(corpus.row_user)), len(two.pool)
    rows = np.sort(generator(given.seed).choice(len(corpus.row_user), users, replace=False))
    settings = loaded.batch.model_copy(update={"evaluation_rows": given.rows})
    batches = EvaluationBatches(corpus, settings, load_candidates(corpus, "test"), users)
    exact: list[Ints] = []

    def evaluated() -> None:
        rank_catalogue(loaded.model, corpus, batches, CPU)

    def recommended(row: Ints) -> None:
        exact.append(ranker.best(people, row, max(DEPTHS)).item)

    found: dict[str, Any] = {"items": pool, "model": loaded.model.key}
    spent = [_seconds(evaluated) for _ in range(given.repeats)]
    found["evaluate"] = _told(_rate(spent, len(batches.target), given.rows), f"{pool:,} items, evaluate")
    found["recommend"] = _told(rate(recommended, rows, given.rows, given.repeats, "recommend"), f"{pool:,} items, recommend")
    best = np.concatenate(exact)[:users]  # the repeats found the same
    found["two_stages"] = [_two_stages(two, rows, n, given, best) for n in _possible(given.retrieved, pool)]
    if given.profile:
        found["profile"] = profiled(lambda: recommended(rows[:4]))
    return found


def _possible(retrieved: list[int], pool: int) -> list[int]:
    """The N that the catalogue has."""
    if left := [f"{n:,}" for n in retrieved if n > pool]:
        print(f"  not retrieved: {', '.join(left)}, because the catalogue has {pool:,} items")
    return [n for n in retrieved if n <= pool]


def _two_stages(two: TwoStages, rows: Ints, n: int, given: argparse.Namespace, exact: Ints | None = None) -> dict[str, Any]:
    """Users a second with N retrieved, and for every pooling the recall of the exact best."""
    found: dict[str, Any] = {"retrieved": n, "share_of_items": n / len(two.pool)}
    group = min(given.rows, 8)
    found |= rate(lambda row: two.best(row, n, max(DEPTHS), "max"), rows, group, given.repeats, f"retrieve {n:,}")
    text = f"{n:,} of {len(two.pool):,} retrieved, then ranked"
    if exact is not None:
        found["recall"] = {}
        for pooling in POOLINGS:
            parts = [two.best(rows[i : i + group], n, max(DEPTHS), pooling).numpy() for i in range(0, len(rows), group)]
            found["recall"][pooling] = recall(exact, np.concatenate(parts))
            text += f"; {pooling}: " + " ".join(f"recall@{k} {value:.3f}" for k, value in found["recall"][pooling].items())
    return _told(found, text)


def _told(found: dict[str, Any], text: str) -> dict[str, Any]:
    times = [found["users"] / seconds for seconds in found["seconds"]]
    print(f"  {found['users_per_second']:>9,.2f} users/s ({min(times):,.2f} to {max(times):,.2f})  {text}", flush=True)
    return found


def profiled(work: Callable[[], object]) -> list[dict[str, Any]]:
    """Where the time of four users goes: torch's operations, most expensive first, in shares of all their time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    rows = [
        {"operation": e.key, "share": e.self_cpu_time_total / total, "seconds": e.self_cpu_time_total / 1e6, "calls": e.count}
        for e in events[:12]
    ]
    for row in rows:
        print(f"    {row['share']:>6.1%} {row['seconds']:>8.3f} s {row['calls']:>7,} calls  {row['operation']}")
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a run or an artifact")
    parser.add_argument("corpus", nargs="?", type=Path, help="the corpus it was trained on")
    parser.add_argument("--synthetic", action="store_true", help="random weights and generated users: users a second alone")
    parser.add_argument("--items", type=int, nargs="+", default=[673_415], help="with --synthetic; KuaiSAR's by default")
    parser.add_argument("--words", type=int, default=394_912, help="with --synthetic")
    parser.add_argument("--users", type=int, help="16 with --synthetic, 256 without")
    parser.add_argument("--rows", type=int, default=16, help="users scored together")
    parser.add_argument("--retrieved", type=int, nargs="+", default=list(RETRIEVED), help="N of the two stages")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also show where the time of four users goes")
    parser.add_argument("--quick", action="store_true", help="20,000 items, 8 users, once: shows that it runs, measures nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/catalogue.json"))
    given = parser.parse_args()
    if given.synthetic == (given.corpus is not None):
        parser.error("name a model and its corpus, or --synthetic")
    if given.quick:
        given.items, given.words, given.users, given.repeats = [20_000], 2_000, 8, 1
    given.users = given.users or (16 if given.synthetic else 256)
    facts = {
        "processor": processor(), "processors": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "kernels": library.said, "seed": given.seed, "repeats": given.repeats,
        "quick": given.quick,
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    try:
        found = {"catalogues": [synthetic(items, given) for items in given.items]} if given.synthetic else trained(given)
    except SeerecError as error:
        sys.exit(str(error))
    write_json(given.out, {"facts": facts, **found})


if __name__ == "__main__":
    main()
