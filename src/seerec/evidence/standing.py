"""From records to the document that every table is printed from."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from seerec.data.targets import Task
from seerec.evaluation.metrics import METRICS, per_target, random_level
from seerec.evidence.cells import Work
from seerec.evidence.question import Cell, learns
from seerec.evidence.verdict import Measured, against, measure, spread
from seerec.models.registry import model_class
from seerec.training.presets import resolve

TASKS: tuple[Task, ...] = ("recommendation", "search")


def standing(work: Work, reference: str, broken: Mapping[str, str]) -> dict[str, Any]:
    """Everything that is recorded so far, as one document.

    Parameters
    ----------
    work
        The comparison.
    reference
        The model that the others are tested against.
    broken
        Name of a cell -> why it could not be finished, where this is known.

    Raises
    ------
    SeerecError
        A record is damaged or answers another question.
    """
    question = work.question
    seeds = {
        model: [(cell, record) for cell in _seeds(work, model) if (record := work.record(cell)) is not None]
        for model in question.models
    }
    finished = {model: [record for _, record in own if record["failed"] is None] for model, own in seeds.items()}
    models = [_model(work, model, seeds[model], finished[model], broken) for model in question.models]
    tasks = {}
    for task in TASKS:
        wanted = [key for key in question.models if task in work.tasks(key)]
        if wanted:
            tasks[task] = _task(work, task, wanted, seeds, reference)
    facts = {"metric": _metric(work), "split": "test", "candidates": "sampled"}
    return {
        "kind": "seerec-table", "corpus": str(work.corpus.path), "corpus_hash": work.corpus.content_hash,
        "folder": str(work.shelf.out), "question": question.model_dump(), **facts, "models": models,
        "tasks": tasks, "broken": dict(broken),
    }  # fmt: skip


def _seeds(work: Work, model: str) -> list[Cell]:
    """The seeds of a model that can have been recorded: none before its trials are."""
    return [Cell(model, "seed", number) for number in range(work.question.seeds)] if work.tuned(model) else []


def _metric(work: Work) -> str:
    """The metric that validation watches."""
    learning = next(filter(learns, work.question.models), work.question.models[0])
    return str(resolve(learning, "best", work.fixed(learning))[1].metric)


def _model(
    work: Work, model: str, seeds: list[tuple[Cell, dict[str, Any]]], finished: list[dict[str, Any]], broken: Mapping[str, str]
) -> dict[str, Any]:
    """What is the same for every task: seeds, time, size, choice, validation."""
    metric = _metric(work)
    choice = work.choice(model) if work.trials(model) and work.tuned(model) else None
    stages = sorted({stage for record in finished for stage in record["validation"]})
    validation = {}
    for stage in stages:
        values = np.array([record["validation"][stage][metric] for record in finished if stage in record["validation"]])
        validation[stage] = {"mean": float(values.mean()), "std": spread(values)}
    causes = {cell.name: record["failed"] for cell, record in seeds if record["failed"] is not None}
    causes |= {name: cause for name, cause in broken.items() if name.startswith((f"{model}-seed-", f"{model}-trial-"))}
    tuning = choice["trials"] if choice else []
    return {
        "model": model,
        "title": model_class(model).title,
        "seeds": len(finished),
        "seeds_asked": work.question.seeds,
        "missing": causes,
        "seconds": float(np.mean([sum(record["seconds"].values()) for record in finished])) if finished else None,
        "seconds_tuning": sum(sum(trial["seconds"].values()) for trial in tuning),
        "parameters": finished[0]["parameters"] if finished else None,
        "epochs": {stage: float(np.mean([record["epochs"][stage] for record in finished])) for stage in stages},
        "stopped_by_time": sum("time" in record["stopped"].values() for record in finished),
        "validation": validation,
        "chosen": None if choice is None else {name: choice[name] for name in ("trial", "settings")},
    }


def _task(
    work: Work, task: Task, wanted: list[str], seeds: Mapping[str, list[tuple[Cell, dict[str, Any]]]], reference: str
) -> dict[str, Any]:
    """The rows of one task. A reference that does not do the task gives way to the first model that does."""
    reference = reference if reference in wanted else wanted[0]
    user = work.users(task)
    measured: dict[str, dict[str, Measured]] = {}
    report: dict[str, Any] = {}
    for model in wanted:
        vectors = []
        for cell, record in seeds[model]:
            ranks = work.shelf.ranks(cell, record, task)
            if ranks is not None:
                vectors.append(per_target(ranks["greater"], ranks["ties"]))
                report = record["test"][task]
        if vectors:
            measured[model] = {metric: measure([vector[metric] for vector in vectors], user) for metric in METRICS}
    rows: dict[str, dict[str, Any]] = {
        model: {"model": model, "seeds": len(measured[model]["mrr"].means) if model in measured else 0}
        | {"metrics": {}, "against": {}}
        for model in wanted
    }
    for metric in METRICS:
        found = {model: measured[model][metric] if model in measured else None for model in wanted}
        means = {model: float(one.means.mean()) for model, one in found.items() if one is not None}
        places = sorted(set(means.values()), reverse=True)
        for model, value in means.items():
            one = measured[model][metric]
            own = {"mean": value, "std": spread(one.means), "place": places.index(value) + 1, "by_seed": one.means.tolist()}
            rows[model]["metrics"][metric] = own
        if found.get(reference) is not None:
            for model, difference in against(found, reference).items():
                rows[model]["against"][metric] = asdict(difference)
    per = report.get("candidates_per_target")
    return {
        "against": reference,
        "targets": len(user),
        "users": len(np.unique(user)),
        "candidates_per_target": per,
        "candidate_hash": report.get("candidate_hash"),
        "random": random_level(per) if per else None,
        "rows": list(rows.values()),
    }
