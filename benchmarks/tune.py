"""The same small search of settings for two models, on validation alone, so that neither gets more care than the other.

A killed search goes on where it stopped; the table is printed after each trial and kept in ``tune.json``.

    head -n 20000 amazon-games/sequences.tsv > first/sequences.tsv; cp amazon-games/items.tsv first/
    seerec prepare interactions first --out corpus
    python benchmarks/tune.py corpus --out runs/tune
"""

import argparse
import json
from pathlib import Path
from typing import Any

import seerec
from seerec.atomic import write_json
from seerec.progress import Progress

SLOW: dict[str, Any] = {"learning_rate": 1e-3, "batch.rows": 128, "model.embedding_std": 0.02}
FAST: dict[str, Any] = {"learning_rate": 3e-3, "batch.rows": 64, "model.embedding_std": 0.1}
TRIALS: dict[str, dict[str, Any]] = {
    "slow": SLOW,
    "fast": FAST,
    "slow, dropout .3": {**SLOW, "model.dropout": 0.3},
    "fast, softmax": {**FAST, "model.loss": "softmax"},
}
EPOCHS = {"sasrec": 15, "lcr-ser": 10}


def curve(run: Path) -> list[float]:
    """Validation NDCG@5 after each epoch."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["ndcg@5"] for line in lines if line["kind"] == "val" and line["stage"] == 1]


def main() -> None:
    """Run the trials of the models asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--models", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--also", type=json.loads, default={}, help='more trials, as {"name": {"setting": value}}')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/tune"))
    asked = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    for model in asked.models:
        for name, settings in {**TRIALS, **asked.also}.items():
            folder = asked.out / f"{model} {name}".replace(" ", "-").replace(",", "")
            own = {"seed": asked.seed, "epochs": EPOCHS[model], **settings}
            seerec.train(asked.corpus, folder, model=model, settings=own, stages="1", resume=True, progress=Progress())
            found = results.setdefault(model, {})[name] = curve(folder)
            print(f"{model:<8} {name:<22} best {max(found):.4f}   " + " ".join(f"{x:.3f}" for x in found), flush=True)
            write_json(asked.out / f"tune-{'-'.join(asked.models)}.json", results)


if __name__ == "__main__":
    main()
