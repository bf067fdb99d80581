"""Does reasoning find the searches that matter? Five simulated marketplaces, whose truth is known.

For every seed: SASRec, the last-search-click floor and LCR-SER on one marketplace, and LCR-SER again where every user has got
another user's searches. Printed and kept: paired tests by user, and how well cross-attention ranks the user's own searches above
searches copied from others (AUC), trained and untrained. A killed run goes on where it stopped.

    python benchmarks/marketplace.py --seeds 5 --out runs/marketplace
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import seerec
from seerec import artifact
from seerec.atomic import write_json
from seerec.data.batches import EvaluationBatches
from seerec.data.candidates import load as load_candidates
from seerec.data.draws import seed_of
from seerec.evaluation.attention import attention_auc
from seerec.evaluation.evaluate import evaluate
from seerec.evaluation.significance import by_user, compare
from seerec.models.lcr_ser import LCRSER
from seerec.models.registry import build
from seerec.progress import Progress

METRIC = "ndcg@5"
TESTS = {
    "lcr-ser against sasrec": (("lcr-ser", "own"), ("sasrec", "own")),
    "lcr-ser against last-search-click": (("lcr-ser", "own"), ("last-search-click", "own")),
    "shuffled: lcr-ser against sasrec": (("lcr-ser", "shuffled"), ("sasrec", "shuffled")),
}
RUNS = (("last-search-click", "own"), ("sasrec", "own"), ("lcr-ser", "own"), ("lcr-ser", "shuffled"), ("sasrec", "shuffled"))


def measure(out: Path, seed: int, users: int, settings: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """All of one seed."""
    corpora = {}
    for searches in ("own", "shuffled"):
        folder = out / f"corpus-{seed}-{searches}"
        if not (folder / "manifest.json").is_file():
            options = {"users": users, "seed": seed}
            seerec.prepare(folder, source="simulated", options=options, settings={"searches": searches, "seed": seed})
        corpora[searches] = seerec.Corpus.open(folder)
    found = {}
    for key, searches in RUNS:
        own = {"seed": seed, **settings}
        run = seerec.train(
            corpora[searches],
            out / f"{key}-{searches}-{seed}",
            model=key,
            settings=own,
            stages="1",
            resume=True,
            progress=progress,
        )
        found[key, searches] = evaluate(run.path, progress=progress)
    auc = {}
    loaded = artifact.load(artifact.locate(out / f"lcr-ser-own-{seed}"))
    batches = EvaluationBatches(corpora["own"], loaded.batch, load_candidates(corpora["own"], "test"))
    torch.manual_seed(seed_of(seed))
    lengths = loaded.batch.rec_length, loaded.batch.search_length
    fresh = build("lcr-ser", loaded.model.config, loaded.vocabulary, *lengths)
    for name, model in (("trained", loaded.model), ("untrained", fresh)):
        assert isinstance(model, LCRSER)
        report = attention_auc(model, corpora["own"], batches, torch.device("cpu"))
        auc[name] = {"mean of steps": report.auc, "by step": list(report.by_step), "targets": report.targets}
    return {
        "means": {f"{key}, {s} searches": float(np.mean(e.vectors()[METRIC])) for (key, s), e in found.items()},
        **{name: _test(found[a], found[b]) for name, (a, b) in TESTS.items()},
        "attention auc": auc,
    }


def _test(a: Any, b: Any) -> dict[str, float]:
    result = compare(by_user(a.vectors()[METRIC], a.user_id), by_user(b.vectors()[METRIC], b.user_id))
    return {"difference": result.difference, "low": result.low, "high": result.high, "p": result.t_p, "users": result.n}


def table(results: dict[str, dict[str, Any]]) -> str:
    """One line a seed, in Markdown."""
    heads = (
        "seed, last-search-click, SASRec, LCR-SER, lead over SASRec, p, lead with shuffled searches, p, AUC by step, untrained"
    )
    names = heads.split(", ")
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for seed, found in results.items():
        lead, floor, control = (found[name] for name in TESTS)
        auc = found["attention auc"]
        cells = [
            seed,
            *(f"{found['means'][f'{key}, own searches']:.4f}" for key in ("last-search-click", "sasrec", "lcr-ser")),
            f"{lead['difference']:+.4f} ({lead['low']:+.4f} to {lead['high']:+.4f})",
            f"{max(lead['p'], floor['p']):.1g}",
            f"{control['difference']:+.4f} ({control['low']:+.4f} to {control['high']:+.4f})",
            f"{control['p']:.2g}",
            f"{auc['trained']['mean of steps']:.3f}: " + " ".join(f"{x:.3f}" for x in auc["trained"]["by step"]),
            f"{auc['untrained']['mean of steps']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "The first p is the greater of those against SASRec and against last-search-click."])


def main() -> None:
    """Run the seeds one after the other; print and keep each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/marketplace"))
    asked = parser.parse_args()
    settings = {"epochs": asked.epochs}
    results = {}
    for seed in range(asked.seeds):
        results[str(seed)] = measure(asked.out, seed, asked.users, settings, Progress())
        write_json(asked.out / "marketplace.json", results)
        print(f"seed {seed}")
        for name, value in results[str(seed)].items():
            print(f"  {name}: {value}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
