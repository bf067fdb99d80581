"""What speed must not cost: validation NDCG@5 with packed rows against one row a target, and with bf16 against fp32 products.

    python benchmarks/quality.py CORPUS --out runs/quality

Trains LCR-SER (stage 1) three ways over several seeds: packed in fp32; one row a target in fp32, with as many targets a step as
packed rows hold; packed in bf16. Every run is an ordinary one, so a killed benchmark goes on where it stopped. Written after
each: ``quality.json``, with every seed's best validation and the paired differences.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from seerec.atomic import write_json
from seerec.config import TrainSettings
from seerec.data.batches import TrainingBatches
from seerec.data.corpus import Corpus
from seerec.errors import SeerecError
from seerec.kernels import has_halves
from seerec.progress import Progress
from seerec.training.presets import resolve
from seerec.training.train import train


def targets_a_step(corpus: Corpus, settings: TrainSettings) -> int:
    """Mean number of targets of a packed step, over an epoch: its steps hold rows of like lengths, so that they differ."""
    rows = settings.batch.rows
    batches = TrainingBatches(corpus, settings.batch, seed=0, packs=True, rows=rows, negatives=1, unknown_user_share=0.0)
    steps = batches.steps(0)
    return round(sum(int(batches.batch(0, step).target_mask.sum()) for step in range(steps)) / steps)


def ways(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Settings of each way."""
    _, settings = resolve("lcr-ser", "best", {})
    single = {"batch.targets_per_row": 1, "batch.rows": targets_a_step(corpus, settings), "precision": "fp32"}
    found = {"packed": {"precision": "fp32"}, "row by row": single}
    return {**found, "bf16": {"precision": "bf16"}} if has_halves() else found


def differences(best: dict[str, dict[int, float]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of every way against packed rows in fp32, by seed."""
    for way, found in best.items():
        seeds = [seed for seed in found if way != "packed" and seed in best["packed"]]
        if len(seeds) > 1:
            gaps = [found[seed] - best["packed"][seed] for seed in seeds]
            error = stdev(gaps) / len(gaps) ** 0.5
            yield way, {"seeds": len(seeds), "mean": mean(gaps), "standard_error": error, "by_seed": gaps}


def main() -> None:
    """Train what is missing, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    corpus = Corpus.open(given.corpus)
    best: dict[str, dict[int, float]] = {}
    seconds: dict[str, dict[int, float]] = {}
    for seed in range(given.seeds):
        for way, settings in ways(corpus).items():
            out = given.out / f"{way.replace(' ', '-')}-{seed}"
            out.parent.mkdir(parents=True, exist_ok=True)
            asked = {**settings, "seed": seed, "epochs": given.epochs}
            try:
                run = train(corpus, out, settings=asked, stages="1", resume=out.exists(), progress=Progress())
            except SeerecError as error:
                print(f"{way}, seed {seed}: {error}", flush=True)
                continue
            found = json.loads((run.path / "result.json").read_text())["stage1"]["ndcg@5"]
            timing = [json.loads(line) for line in (run.path / "timing.jsonl").read_text().splitlines()]
            best.setdefault(way, {})[seed], seconds.setdefault(way, {})[seed] = found, sum(part["seconds"] for part in timing)
            print(f"{way}, seed {seed}: validation NDCG@5 {found:.4f} in {seconds[way][seed]:.0f} s", flush=True)
            gaps = dict(differences(best))
            write_json(
                given.out / "quality.json", {"epochs": given.epochs, "best": best, "seconds": seconds, "differences": gaps}
            )
    for way, gap in differences(best):
        print(f"{way} less packed in fp32: {gap['mean']:+.4f} (standard error {gap['standard_error']:.4f}, {gap['seeds']} seeds)")


if __name__ == "__main__":
    main()
