"""What commands print: one JSON document, or tables made from that document."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from seerec.terminal import printable

METRICS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")
_PIPED_WIDTH = 200  # columns where nobody's terminal says how many there are


def show(content: Any, as_json: bool, human: Callable[[Any], RenderableType]) -> None:
    """Print a document as JSON, or as what ``human`` makes of it. Lines that are already laid out stay as they are."""
    if as_json:
        document(content)
        return
    console = Console(markup=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(markup=False, highlight=False, width=_PIPED_WIDTH)
    made = human(content)
    console.print(made, soft_wrap=isinstance(made, str))


def document(content: Any) -> None:
    """Print ``content`` as one JSON document. Numbers that JSON has no word for become null."""
    print(json.dumps(_plain(content), indent=2, allow_nan=False))


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(name): _plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return content


@contextlib.contextmanager
def waiting(text: str, quiet: bool) -> Iterator[None]:
    """A moving sign on a terminal's stderr while work of unknown length goes on."""
    with contextlib.nullcontext() if quiet or not sys.stderr.isatty() else Console(stderr=True).status(text):
        yield


def agreed(question: str) -> bool:
    """Whether somebody at a terminal says yes; where nobody can be asked, no."""
    return sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(question, err=True)


def with_random_level(report: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's report with the metrics of a scorer that knows nothing."""
    from seerec.evaluation.metrics import random_level

    return {**report, "random": random_level(report["candidates_per_target"])}


def downloaded(content: dict[str, Any]) -> RenderableType:
    """The files of a data set that is complete."""
    title = f"{content['folder']}: {content['dataset']}, {content['bytes'] / 1e6:,.0f} MB, {content['new']} new"
    return _table([title], [[name] for name in content["files"]])


def raw_files(content: dict[str, Any]) -> RenderableType:
    """What a simulation wrote."""
    rows = [[name.replace("_", " "), f"{number:,}"] for name, number in content["counts"].items()]
    return _table([f"{content['folder']}: simulated, in the format of {content['as']}", ""], rows)


def corpus(content: dict[str, Any]) -> RenderableType:
    """Counts of a corpus, and refused rows by reason."""
    counts = content["counts"]
    before = {name: f"{counts[f'{name}_before_filters']:,}" for name in ("users", "recommendation_clicks", "searches")}
    rows = [
        [label, before.get(name, ""), f"{counts[name]:,}"]
        for label, name in (
            ("users", "users"), ("items", "items"), ("items without a description", "items_without_description"),
            ("words", "words"), ("recommendation clicks", "recommendation_clicks"),
            ("searches", "searches"), ("clicks in searches", "search_clicks"), ("training targets", "targets_train"),
            ("validation targets", "targets_val"), ("test targets", "targets_test"),
        )
        if name in counts and (counts[name] or name != "items_without_description")
    ]  # fmt: skip
    title = f"{content['corpus']} (replaces the corpus that was there)" if content["replaced"] else content["corpus"]
    if content["simulated"]:
        title += ", of simulated files"
    parts: list[RenderableType] = [_table([title, "before filters", "kept"], rows)]
    if content["absent"]:
        parts.append(f"Not there, and done without: {', '.join(content['absent'])}.")
    refused = [
        [table, reason, f"{number:,}"] for table, reasons in content["quarantined"].items() for reason, number in reasons.items()
    ]
    if refused:
        parts.append(_table(["refused rows of", "reason", ""], refused))
    return Group(*parts)


def run(content: dict[str, Any]) -> RenderableType:
    """Best validation metrics of each stage of a run."""
    rows = [[name, *_metrics(found)] for name, found in content["validation"].items()]
    return _table([f"{content['run']} (validation)", *METRICS], rows)


def evaluation(content: dict[str, Any]) -> RenderableType:
    """Metrics of all, known and unknown users beside the random level."""
    parts = [(name, content[name]) for name in ("all", "known", "unknown")]
    rows = [[f"{name} users", f"{part['targets']:,}", *_metrics(part)] for name, part in parts if part["targets"]]
    rows.append(["random level", "", *_metrics(content["random"])])
    return _table([_title(content), "targets", *METRICS], rows)


def comparison(content: dict[str, Any]) -> RenderableType:
    """Means of each run, then per metric the difference to the first run."""
    rows = content["runs"]
    title = f"{content['split']}, {content['candidates']}"
    means = [[row["run"], f"{row['all']['targets']:,}", *_metrics(row["all"])] for row in rows]
    parts = [_table([title, "targets", *METRICS], means)]
    tests = [
        [row["run"], metric, f"{t['difference']:+.4f}", f"{t['low']:+.4f} to {t['high']:+.4f}", f"{t['holm_p']:.2g}"]
        for row in rows[1:]
        for metric, t in row["against_first"].items()
    ]
    if tests:
        parts.append(_table([f"against {rows[0]['run']}", "metric", "difference", "95 % interval", "Holm p"], tests))
    return Group(*parts)


def plan(content: dict[str, Any]) -> RenderableType:
    """The cells of a comparison and the time they may take."""
    rows = []
    for row in content["rows"]:
        cells = [f"{row[kind]['done']} of {row[kind]['cells']}" if row[kind]["cells"] else "none" for kind in ("trial", "seed")]
        times = [duration(row[kind]["each"]) if row[kind]["left"] else "" for kind in ("trial", "seed")]
        left = duration(row["trial"]["left"] + row["seed"]["left"])
        rows.append([row["model"], cells[0], times[0], cells[1], times[1], left, ", ".join(row["left_out"])])
    total, asked = content["total"], content["question"]
    rows.append(["all", f"{total['done']} of {total['cells']}", "", "", "", duration(total["left"]), ""])
    users = "all users" if asked["tune_users"] is None else f"{asked['tune_users']:,} users"
    head = [content["corpus"], "trials done", "a trial", "seeds done", "a seed", "left, about", "has not, so keeps its own"]
    limits = f"A trial trains on {users} for at most {asked['tune_minutes']:g} min, a seed for at most {asked['minutes']:g} min."
    stops = "The estimate is of the training steps up to the last epoch: stopping early shortens it, evaluation comes on top."
    return Group(_table(head, rows), Text(f"{limits} {stops}"))


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def cell(record: dict[str, Any]) -> None:
    """One line for a finished cell of a comparison."""
    metric = record["settings"]["metric"]
    what = record["failed"] or f"validation {metric} {record['value']:.4f}"
    stopped = ", ended by the time limit" if "time" in record["stopped"].values() else ""
    name = f"{record['model']} {record['cell']} {record['number']}"
    text = f"[{record['finished']} of {record['cells']}] {name}: {what}, {duration(record['wall_seconds'])}{stopped}"
    print(printable(text), flush=True)


def standing(content: dict[str, Any]) -> RenderableType:
    """The tables of a comparison: means (the best bold, the second underlined), differences, notes."""
    from seerec.evidence import tables

    def mark(text: str, place: int) -> Text:
        return Text(text, style={1: "bold", 2: "underline"}.get(place, ""))

    parts: list[RenderableType] = []
    for task in content["tasks"]:
        means = tables.figures(content, task, mark)
        parts.append(_table([f"{content['corpus']}, {task}", *tables.HEAD[1:]], means))
        parts.append(_table(tables.test_head(content, task), tables.tests(content, task)))
        parts += [Text(printable(note)) for note in tables.notes(content, task)]
    parts += [Text(printable(f"could not be finished: {name}: {cause}")) for name, cause in content["broken"].items()]
    files = "table.csv, table.tex, table.md, table.json, the cells and the runs"
    parts.append(Text(printable(f"{content['folder']} holds {files}.")))
    return Group(*parts)


def recommendations(content: dict[str, Any]) -> RenderableType:
    """One table per user or history."""
    parts: list[RenderableType] = []
    for found in content["recommendations"]:
        who = "a history" if found["user_id"] is None else f"user {found['user_id']}"
        known = "" if found["known"] else " (not seen in training)"
        rows = [[str(item["rank"]), str(item["item_id"]), item["title"] or "", f"{item['score']:.4f}"] for item in found["items"]]
        parts.append(_table([f"for {who}{known}", "item", "title", "score"], rows))
        if found["ignored"]:
            parts.append(Text(printable(f"ignored, since training never saw them: {', '.join(found['ignored'])}")))
    return Group(*parts)


def written(content: dict[str, Any]) -> RenderableType:
    """The file of ``recommend --all-users``."""
    return Text(f"{content['file']} holds recommendations for {content['users']:,} users")


def models(content: dict[str, Any]) -> RenderableType:
    """The list of models."""
    rows = []
    for found in content["models"]:
        training = found["training"] + (" + GRPO" if found["reasons"] else "")
        packs = "yes" if found["packs"] else "no"
        tasks = "both" if found["searches"] else "recommendation"
        rows.append([found["key"], found["title"], ", ".join(found["reads"]) or "nothing", packs, tasks, training])
    return _table(["key", "title", "reads", "packs", "tasks", "training"], rows)


def model(content: dict[str, Any]) -> RenderableType:
    """A model's settings; a preset's value stands below the default where it differs."""
    rows = []
    for setting in content["settings"]:
        values = [json.dumps(setting["default"])]
        values += [f"{preset}: {json.dumps(v)}" for preset, v in setting["presets"].items() if v != setting["default"]]
        rows.append([setting["name"], "\n".join(values), f"[{setting['type']}] {setting['meaning']}"])
    parts: list[RenderableType] = [Text(f"{content['title']} reads {', '.join(content['reads']) or 'nothing'}.")]
    parts.append(_table(["setting", "default", "meaning"], rows) if rows else Text("It has no settings."))
    for preset, changed in content["training_presets"].items():
        if changed:
            values = [f"{name}={json.dumps(value)}" for name, value in changed.items()]
            parts.append(Text(f"--preset {preset} also sets {', '.join(values)}"))
    return Group(*parts)


def health(content: dict[str, Any]) -> RenderableType:
    """The doctor's findings."""
    rows = [["ok" if check["ok"] else "PROBLEM", check["name"], check["value"], check["fix"]] for check in content["checks"]]
    return _table(["", "", "", ""], rows)


def demo(content: dict[str, Any]) -> RenderableType:
    """The comparison, then one user's searches, recommendations and explanation."""
    user = content["recommendations"][0]["user_id"]
    parts: list[RenderableType] = [comparison(content["comparison"])]
    parts.append(_table([f"searches of user {user}, oldest first"], [[query] for query in content["searches"]]))
    parts.append(recommendations(content))
    parts.append(Text(content["explanation_text"], no_wrap=True, overflow="ignore"))
    parts.append(_table(["what took how long", "seconds"], [[part, f"{time:.0f}"] for part, time in content["seconds"].items()]))
    parts.append(Text(f"Everything is in {content['folder']}: metrics.json, learning-curves.png, the corpus and the runs."))
    return Group(*parts)


def _title(content: dict[str, Any]) -> str:
    task = "" if content["task"] == "recommendation" else f"{content['task']}, "
    return f"{content['model']} stage {content['stage']}, {task}{content['split']}, {content['candidates']}"


def _metrics(found: Mapping[str, float]) -> list[str]:
    return [f"{found[name]:.4f}" for name in METRICS]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=any(columns))
    for place, column in enumerate(columns):
        number = place > 0 and bool(rows) and all(str(row[place])[-1:].isdigit() or not row[place] for row in rows)
        table.add_column(Text(printable(column)), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    return table
