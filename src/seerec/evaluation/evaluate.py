"""``evaluate`` a run and ``compare`` several on the same targets and candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seerec import artifact
from seerec.data.batches import EvaluationBatches
from seerec.data.candidates import load as load_candidates
from seerec.data.candidates import name_of
from seerec.data.corpus import UNKNOWN
from seerec.data.targets import Task, pool_of
from seerec.device import place_of
from seerec.errors import SeerecError
from seerec.evaluation.metrics import METRICS
from seerec.evaluation.ranking import rank_candidates, rank_catalogue
from seerec.evaluation.results import Evaluation
from seerec.evaluation.significance import Comparison, by_user, holm
from seerec.evaluation.significance import compare as compare_pairs
from seerec.kernels import Precision, choose, products_in
from seerec.progress import SILENT, Progress

Candidates = Literal["sampled", "full"]


def evaluate(
    path: str | Path,
    *,
    corpus: str | Path | None = None,
    split: str = "test",
    stage: int | None = None,
    candidates: Candidates = "sampled",
    task: Task = "recommendation",
    limit: int | None = None,
    precision: Precision = "fp32",
    device: str | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Rank every target of a split and keep the result in the run (``evaluation/[search-]SPLIT-CANDIDATES-stageN[-bf16]``).

    Parameters
    ----------
    path
        A run or an artifact.
    corpus
        Another corpus than the run's own; it must be the one the model was trained on.
    split
        ``test`` or ``val``.
    stage
        1 or 2; None: the last there is.
    candidates
        ``sampled``: the saved candidate sets. ``full``: the whole pool, in chunks.
    task
        ``recommendation``, or ``search``: the clicked items of the split's searches, given their queries; for models that
        learn from searches.
    limit
        Only that many targets, the same ones for every model.
    precision
        Of the kernels' products; ``bf16`` is faster on a processor with AMX, and for a look rather than for a table.

    Raises
    ------
    SeerecError
        No model, no corpus, another corpus than the model's, NaN scores, a task that the model does not learn or of which
        the split has no target.
    """
    if limit is not None and limit < 1:
        raise SeerecError(f"limit is {limit}.", "Evaluate at least one target.")
    folder = artifact.locate(path, stage)
    data = artifact.corpus_of(path, corpus)
    loaded = artifact.load(folder)
    if loaded.manifest["corpus_hash"] != data.content_hash:
        raise SeerecError(
            f"{folder} was trained on another corpus than {data.path}.", "Evaluate on the corpus it was trained on."
        )
    if task == "search" and not loaded.model.searches:
        raise SeerecError(f"{loaded.model.title} does not learn from searches.", "`seerec models` says which models do.")
    sets = load_candidates(data, split, task)
    if not len(sets.target):
        raise SeerecError(f"The split {split} has no {task} targets.", "Evaluate another split or task.")
    batches = EvaluationBatches(data, loaded.batch, sets, limit)
    place = place_of(device)
    model = loaded.model.to(place)
    with products_in(choose(precision, place)[0]):
        if candidates == "full":
            greater, ties = rank_catalogue(model, data, batches, place, progress)
        else:
            greater, ties = rank_candidates(model, batches, place, progress)
    number = int(loaded.manifest.get("stage", 1))
    result = Evaluation(
        target=np.asarray(batches.target),
        user_id=data.user_ids[batches.row],
        known=np.asarray(data.row_user)[batches.row] != UNKNOWN,
        greater=greater,
        ties=ties,
        facts={
            "model": model.key,
            "stage": number,
            "task": task,
            "split": split,
            "candidates": candidates,
            "candidate_hash": sets.hash if candidates == "sampled" else "full",
            "candidates_per_target": len(pool_of(data, task)) if candidates == "full" else sets.negative.shape[1] + 1,
            "corpus_hash": data.content_hash,
            "seed": loaded.manifest.get("settings", {}).get("seed"),
            "products": precision,
        },
    )
    part = ("" if precision == "fp32" else f"-{precision}") + ("" if limit is None else f"-first{limit}")
    result.save(folder.parent / "evaluation" / f"{name_of(split, task)}-{candidates}-stage{number}{part}")
    return result


@dataclass(frozen=True)
class Table:
    """Several evaluations on the same targets; every other row is compared with the first."""

    names: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    comparisons: dict[str, tuple[Comparison, ...]]
    """metric -> one comparison (row minus first row, users averaged) per later row."""
    adjusted: dict[str, tuple[float, ...]]
    """metric -> Holm-adjusted p of the paired t test, over the later rows."""

    def report(self) -> list[dict[str, Any]]:
        """One record per row, for machines."""
        rows: list[dict[str, Any]] = []
        for place, (name, evaluation) in enumerate(zip(self.names, self.evaluations, strict=True)):
            record: dict[str, Any] = {"run": name, **evaluation.report()}
            if place:
                record["against_first"] = {
                    metric: {
                        "difference": found[place - 1].difference,
                        "low": found[place - 1].low,
                        "high": found[place - 1].high,
                        "t_p": found[place - 1].t_p,
                        "holm_p": self.adjusted[metric][place - 1],
                        "wilcoxon_p": found[place - 1].wilcoxon_p,
                        "sign_flip_p": found[place - 1].sign_flip_p,
                        "users": found[place - 1].n,
                    }
                    for metric, found in self.comparisons.items()
                }
            rows.append(record)
        return rows


def compare(
    paths: Sequence[str | Path],
    *,
    split: str = "test",
    candidates: Candidates = "sampled",
    stages: Sequence[int | None] | None = None,
    progress: Progress = SILENT,
) -> Table:
    """Evaluate what has no saved evaluation yet, then test every run against the first, paired by user.

    Raises
    ------
    SeerecError
        The runs do not share targets and candidates.
    """
    if isinstance(paths, str | Path) or not len(paths):
        raise SeerecError("compare needs a list of runs.", "Write compare([run, other_run]).")
    wanted = list(stages) if stages is not None else [None] * len(paths)
    evaluations = [_saved_or_new(path, split, candidates, stage, progress) for path, stage in zip(paths, wanted, strict=True)]
    first = evaluations[0]
    for path, other in zip(paths, evaluations, strict=True):
        same = other.facts["candidate_hash"] == first.facts["candidate_hash"] and np.array_equal(other.target, first.target)
        if not same or other.facts["corpus_hash"] != first.facts["corpus_hash"]:
            raise SeerecError(
                f"{path} was evaluated on other targets or candidates than {paths[0]}.",
                "Compare runs trained on one corpus, and evaluate them alike.",
            )
    vectors = [evaluation.vectors() for evaluation in evaluations]
    found: dict[str, tuple[Comparison, ...]] = {}
    for metric in METRICS:
        base = by_user(vectors[0][metric], first.user_id)
        found[metric] = tuple(compare_pairs(by_user(v[metric], first.user_id), base) for v in vectors[1:])
    adjusted = {m: tuple(float(p) for p in holm([c.t_p for c in row])) if row else () for m, row in found.items()}
    return Table(tuple(str(path) for path in paths), tuple(evaluations), found, adjusted)


def _saved_or_new(path: str | Path, split: str, candidates: Candidates, stage: int | None, progress: Progress) -> Evaluation:
    folder = artifact.locate(path, stage)
    number = int(artifact.read_manifest(folder).get("stage", 1))
    saved = folder.parent / "evaluation" / f"{split}-{candidates}-stage{number}"
    if (saved / "report.json").is_file():
        return Evaluation.load(saved)
    return evaluate(path, split=split, candidates=candidates, stage=stage, progress=progress)
