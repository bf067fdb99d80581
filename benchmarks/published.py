"""Which orderings of the paper's Table 2 hold in a comparison of ours?

    python benchmarks/published.py RUNS/COMPARISON

The paper (LCR-SER, Table 2, NDCG@5) orders 15 models on Qilin, KuaiSAR-Small and KuaiSAR-Large. Printed: its places beside ours,
Kendall's tau between the orders (the paper's own between its data sets beside it, as a yardstick), and of the pairs
that it orders alike on all three, how many hold here, turn around, or are within twice the standard error over seeds.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from seerec.evidence.verdict import SEED_ERRORS, seed_error

PAPER: dict[str, tuple[float, float, float]] = {
    "gru4rec": (0.2360, 0.1123, 0.2128), "sasrec": (0.2423, 0.1162, 0.2310), "bert4rec": (0.2475, 0.1145, 0.2349),
    "cl4srec": (0.2527, 0.1175, 0.2390), "rearec-erl": (0.2502, 0.1176, 0.2486), "rearec-prl": (0.2579, 0.1404, 0.2409),
    "lares": (0.2541, 0.1186, 0.2405), "nrhub": (0.2423, 0.1487, 0.2264), "query-seqrec": (0.2470, 0.1192, 0.2366),
    "jsr": (0.2553, 0.1205, 0.2633), "user": (0.2573, 0.1475, 0.2607), "sesrec": (0.2536, 0.1714, 0.3005),
    "unifiedssr": (0.2521, 0.1123, 0.2392), "unisar": (0.2643, 0.1821, 0.3174), "lcr-ser": (0.2844, 0.2120, 0.3396),
}  # fmt: skip
"""NDCG@5 on Qilin, KuaiSAR-Small, KuaiSAR-Large."""
DATA = ("Qilin", "KuaiSAR-Small", "KuaiSAR-Large")


def places(values: dict[str, float]) -> dict[str, int]:
    """1 for the greatest; equals share the better place."""
    ordered = sorted(values.values(), reverse=True)
    return {key: ordered.index(value) + 1 for key, value in values.items()}


def pairs(models: list[str]) -> list[tuple[str, str]]:
    """(better, worse) that the paper orders alike on all its data sets."""
    return [(a, b) for a, b in itertools.permutations(models, 2) if all(x > y for x, y in zip(PAPER[a], PAPER[b], strict=True))]


def judged(ours: dict[str, list[float]], better: str, worse: str) -> str:
    """Whether the means over seeds agree with the paper, disagree, or are too close to say."""
    a, b = (np.asarray(ours[key]) for key in (better, worse))
    error = seed_error(a, b)
    difference = float(a.mean() - b.mean())
    if error is None or abs(difference) <= SEED_ERRORS * error:
        return "within error"
    return "holds" if difference > 0 else "turns around"


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="folder of `seerec compare`")
    table = json.loads((parser.parse_args().comparison / "table.json").read_text())
    rows = table["tasks"]["recommendation"]["rows"]
    ours = {row["model"]: row["metrics"]["ndcg@5"]["by_seed"] for row in rows if row["model"] in PAPER and row["metrics"]}
    models = list(ours)
    means = {key: float(np.mean(values)) for key, values in ours.items()}
    printed = [{key: PAPER[key][place] for key in models} for place in range(len(DATA))]
    print(f"| model | ours: NDCG@5 | place | {' | '.join(DATA)} |\n|---|---|---|---|---|---|")
    ranked = [places(means), *map(places, printed)]
    for key in sorted(models, key=means.__getitem__, reverse=True):
        print(f"| {key} | {means[key]:.4f} | {' | '.join(str(place[key]) for place in ranked)} |")
    print("\nKendall's tau:")
    orders = {"ours": means, **dict(zip(DATA, printed, strict=True))}
    for (a, first), (b, second) in itertools.combinations(orders.items(), 2):
        found = kendalltau([first[key] for key in models], [second[key] for key in models])
        print(f"* {a} and {b}: {found.statistic:+.2f} (p = {found.pvalue:.2g})")
    verdicts: dict[str, list[str]] = {"holds": [], "turns around": [], "within error": []}
    for better, worse in pairs(models):
        verdicts[judged(ours, better, worse)].append(f"{better} > {worse}")
    total = sum(map(len, verdicts.values()))
    print(f"\nOf the {total} pairs that the paper orders alike on all three:")
    for verdict, named in verdicts.items():
        print(f"* {verdict}: {len(named)}" + (f" ({', '.join(named)})" if verdict == "turns around" else ""))


if __name__ == "__main__":
    main()
