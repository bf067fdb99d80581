"""What ``make demo`` runs: a simulated marketplace from log to explanation, in a few minutes."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seerec.atomic import write_json
from seerec.data.corpus import TEST, Corpus
from seerec.data.door import prepare
from seerec.errors import SeerecError
from seerec.evaluation.evaluate import compare
from seerec.evaluation.metrics import METRICS
from seerec.explanations import explain
from seerec.explanations import text as explanation_text
from seerec.progress import SILENT, Progress
from seerec.recommendations import recommend
from seerec.training.train import train


@dataclass(frozen=True)
class Size:
    """How much the demo does."""

    users: int
    epochs: int
    rows: int
    reinforce_steps: int
    reinforce_epochs: int


FULL = Size(users=1500, epochs=6, rows=24, reinforce_steps=15, reinforce_epochs=1)
QUICK = Size(users=300, epochs=2, rows=32, reinforce_steps=2, reinforce_epochs=1)
"""For tests: every part of the demo, none of its quality."""

_ROWS = (("popularity", "popularity", 1), ("sasrec", "sasrec", 1), ("lcr-ser-stage1", "lcr-ser", 1), ("lcr-ser", "lcr-ser", 2))


def run(out: str | Path, *, quick: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Simulate, prepare, train popularity, SASRec and LCR-SER, compare, recommend, explain.

    Writes ``metrics.json`` ({model: {metric: value}} on the test split), ``comparison.json``, ``learning-curves.png`` and
    ``.svg`` beside the corpus and the runs. Returns what the command prints: metrics, comparison, one user's searches,
    recommendations and explanation, and the seconds of each part.

    Raises
    ------
    SeerecError
        ``out`` exists and is not an earlier demo, or the disk is full.
    """
    out, size = Path(out), QUICK if quick else FULL
    _clear(out)
    seconds: dict[str, float] = {}
    began = time.monotonic()
    corpus = prepare(out / "corpus", source="simulated", options={"users": size.users}, progress=progress)
    seconds["simulate and prepare"] = time.monotonic() - began
    settings = {"epochs": size.epochs, "batch.rows": size.rows}
    reinforce = {"reinforce.steps_per_epoch": size.reinforce_steps, "reinforce.epochs": size.reinforce_epochs}
    for key, extra in (("popularity", {}), ("sasrec", {}), ("lcr-ser", reinforce)):
        began = time.monotonic()
        train(corpus, out / key, model=key, settings={**settings, **extra}, progress=progress)
        seconds[f"train {key}"] = time.monotonic() - began
    began = time.monotonic()
    table = compare([out / key for _, key, _ in _ROWS], stages=[stage for _, _, stage in _ROWS], progress=progress)
    seconds["evaluate and compare"] = time.monotonic() - began
    names = [name for name, _, _ in _ROWS]
    rows = [{**row, "run": name} for name, row in zip(names, table.report(), strict=True)]
    metrics = {row["run"]: {name: row["all"][name] for name in METRICS} for row in rows}
    write_json(out / "metrics.json", metrics)
    write_json(out / "comparison.json", rows)
    _draw(out)
    user = _telling_user(corpus)
    shown = explain(out / "lcr-ser", user=user)
    return {
        "metrics": metrics,
        "comparison": {"split": "test", "candidates": "sampled", "runs": rows},
        "searches": _searches(corpus, user),
        "recommendations": recommend(out / "lcr-ser", users=[user], k=5),
        "explanation": shown,
        "explanation_text": explanation_text(shown),
        "seconds": seconds,
        "folder": str(out),
    }


def _clear(out: Path) -> None:
    """Make room for a new demo, but never for somebody's other files."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / "corpus" / "manifest.json").is_file():
        raise SeerecError(f"{out} exists and is not an earlier demo.", "Choose another --out.")
    shutil.rmtree(out)


def _telling_user(corpus: Corpus) -> str:
    """A user whose next interest a search has announced and the clicks do not show yet."""
    announced = corpus.truth("target_announced")
    assert announced is not None
    found = np.flatnonzero((np.asarray(corpus.rec_role) == TEST) & (np.asarray(announced) == 1))
    row = int(corpus.rec_row[found[0]]) if len(found) else 0
    return str(corpus.table("rows")["user_id"][row].as_py())


def _searches(corpus: Corpus, user: str) -> list[str]:
    """The text of a user's searches, oldest first."""
    row = corpus.table("rows")["user_id"].to_pylist().index(user)
    part = slice(int(corpus.search_offset[row]), int(corpus.search_offset[row + 1]))
    texts = corpus.table("queries")["text"]
    return [str(texts[int(query)].as_py()) for query in corpus.search_query[part]]


def _draw(out: Path) -> None:
    """Validation NDCG@5 after each epoch, for the models that learn."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for key, label, colour in (("sasrec", "SASRec", "#0072B2"), ("lcr-ser", "LCR-SER", "#D55E00")):
        records = [json.loads(line) for line in (out / key / "metrics.jsonl").read_text().splitlines()]
        judged = [record for record in records if record["kind"] == "val"]
        first = [record["ndcg@5"] for record in judged if record["stage"] == 1]
        second = [record["ndcg@5"] for record in judged if record["stage"] == 2]
        axes.plot(range(1, len(first) + 1), first, marker="o", markersize=3, color=colour, label=label)
        if second:
            places = range(len(first), len(first) + len(second))
            axes.plot(places, second, marker="s", markersize=3, linestyle="--", color=colour, label=f"{label}, stage 2")
    axes.set(xlabel="epoch", ylabel="validation NDCG@5 (1 + 99 candidates)", title="Learning on the simulated marketplace")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    for kind in ("png", "svg"):
        figure.savefig(out / f"learning-curves.{kind}", dpi=150)
    pyplot.close(figure)
