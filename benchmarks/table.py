"""One table over runs of several models and seeds on one corpus, as in docs/results.md.

Runs of the same model and stage are seeds of one row: mean and standard deviation over seeds. Tests pair users after averaging
each user's metric over the seeds. The first row named is what the others are tested against.

    python benchmarks/table.py --against lcr-ser:1 runs/amazon/*
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from seerec import artifact
from seerec.evaluation.evaluate import evaluate
from seerec.evaluation.metrics import METRICS
from seerec.evaluation.results import Evaluation
from seerec.evaluation.significance import by_user, compare


def main() -> None:
    """Evaluate what has no evaluation yet; print a Markdown table and the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--against", required=True, help="model:stage, such as sasrec:1")
    parser.add_argument("--metric", default="ndcg@5", choices=METRICS)
    asked = parser.parse_args()
    rows: dict[str, list[Evaluation]] = defaultdict(list)
    for run in asked.runs:
        for stage in (1, 2):
            if (run / f"stage{stage}" / "manifest.json").is_file():
                saved = run / "evaluation" / f"test-sampled-stage{stage}"
                found = Evaluation.load(saved) if saved.is_dir() else evaluate(run, stage=stage)
                rows[f"{artifact.read_manifest(run / f'stage{stage}')['model']}:{stage}"].append(found)
    print("| model:stage | seeds | " + " | ".join(METRICS) + " |")
    print("|---" * (len(METRICS) + 2) + "|")
    for name, evaluations in rows.items():
        means = np.array([[found.vectors()[metric].mean() for metric in METRICS] for found in evaluations])
        spread = means.std(0, ddof=1) if len(means) > 1 else np.full(len(METRICS), np.nan)
        cells = [f"{m:.4f} ± {s:.4f}" if len(means) > 1 else f"{m:.4f}" for m, s in zip(means.mean(0), spread, strict=True)]
        print(f"| {name} | {len(means)} | " + " | ".join(cells) + " |")
    base = _over_seeds(rows[asked.against], asked.metric)
    print(f"\n{asked.metric} against {asked.against}, paired by user after averaging over seeds:\n")
    for name, evaluations in rows.items():
        if name != asked.against:
            test = compare(_over_seeds(evaluations, asked.metric), base)
            interval = f"{test.low:+.4f} to {test.high:+.4f}"
            print(f"* {name}: {test.difference:+.4f} ({interval}), p = {test.t_p:.2g}, d = {test.effect_size:.3f}, n = {test.n}")


def _over_seeds(evaluations: list[Evaluation], metric: str) -> np.ndarray:
    vectors = [by_user(found.vectors()[metric], found.user_id) for found in evaluations]
    return np.mean(vectors, axis=0)


if __name__ == "__main__":
    main()
