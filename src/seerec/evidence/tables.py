"""The document of a comparison as CSV, LaTeX, Markdown and JSON files; the terminal prints the same document.

Mean and standard deviation over seeds; the best mean of a column bold, the second underlined (in Markdown, which knows no
underline, italic).
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seerec.atomic import write_bytes, write_json
from seerec.evaluation.metrics import METRICS

TESTS = ("difference", "low", "high", "t_p", "holm_p", "effect_size", "seed_error", "verdict")
Printed = TypeVar("Printed")


def write(folder: Path, document: Mapping[str, Any]) -> None:
    """``table.json``, ``table.csv``, ``table.tex`` and ``table.md``; the search targets' beside them, ``table-search.*``.

    Raises
    ------
    SeerecError
        The disk is full.
    """
    write_json(folder / "table.json", finite(document))
    for task in document["tasks"]:
        stem = "table" if task == "recommendation" else f"table-{task}"
        for suffix, make in (("csv", as_csv), ("tex", as_latex), ("md", as_markdown)):
            write_bytes(folder / f"{stem}.{suffix}", make(document, task).encode())


def finite(content: Any) -> Any:
    """Numbers that JSON has no word for become null."""
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def rows(document: Mapping[str, Any], task: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of (what is known of a model, its row of this task)."""
    models = {model["model"]: model for model in document["models"]}
    return [(models[row["model"]], row) for row in document["tasks"][task]["rows"]]


def as_csv(document: Mapping[str, Any], task: str = "recommendation") -> str:
    """One line per model with every figure unrounded; what is missing is empty."""
    out = io.StringIO()
    facts = ("model", "title", "seeds", "seeds_asked", "parameters", "seconds", "seconds_tuning", "stopped_by_time")
    figures = [f"{metric} {name}" for metric in METRICS for name in ("mean", "std", *TESTS)]
    writer = csv.DictWriter(out, [*facts, "trial", "missing", *figures], lineterminator="\n")
    writer.writeheader()
    for model, row in rows(document, task):
        line = {name: model[name] for name in facts} | {"seeds": row["seeds"]}
        line["trial"] = model["chosen"]["trial"] if model["chosen"] else None
        line["missing"] = "; ".join(f"{cell}: {cause}" for cell, cause in model["missing"].items())
        for metric in METRICS:
            for part in ("metrics", "against"):
                line |= {f"{metric} {name}": value for name, value in row[part].get(metric, {}).items()}
        line = {name: value for name, value in line.items() if not name.endswith((" place", " by_seed"))}
        writer.writerow({name: repr(value) if isinstance(value, float) else value for name, value in line.items()})
    return out.getvalue()


HEAD = ("model", "seeds", *METRICS, "seconds", "parameters")
TEST_HEAD = ("against {against}, {metric}", "difference", "95 % interval", "p", "Holm p", "d", "seed error", "verdict")


def figures(document: Mapping[str, Any], task: str, mark: Callable[[str, int], Printed]) -> list[list[str | Printed]]:
    """The cells of the table of means under ``HEAD``; ``mark`` prints a figure that has a place (1 the best, 2 the second)."""
    found = []
    for model, row in rows(document, task):
        cells: list[str | Printed] = [model["title"], seeds(model, row)]
        for metric in METRICS:
            figure = row["metrics"].get(metric)
            cells.append("missing" if figure is None else mark(figure_text(figure), figure["place"]))
        seconds, parameters = model["seconds"], model["parameters"]
        cells.append("" if seconds is None else f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2f}")
        cells.append("" if parameters is None else f"{parameters:,}")
        found.append(cells)
    return found


def tests(document: Mapping[str, Any], task: str) -> list[list[str]]:
    """The cells of the table of differences, for the metric that validation watches."""
    found = []
    for model, row in rows(document, task):
        test = row["against"].get(document["metric"])
        if model["model"] == document["tasks"][task]["against"]:
            continue
        if test is None:
            found.append([model["title"], *[""] * 6, "missing"])
            continue
        error = "" if test["seed_error"] is None else f"{test['seed_error']:.4f}"
        found.append(
            [
                model["title"], f"{test['difference']:+.4f}", f"{test['low']:+.4f} to {test['high']:+.4f}", f"{test['t_p']:.2g}",
                f"{test['holm_p']:.2g}", f"{test['effect_size']:+.3f}", error, test["verdict"],
            ]
        )  # fmt: skip
    return found


def test_head(document: Mapping[str, Any], task: str) -> list[str]:
    """``TEST_HEAD`` with the reference and the metric in it."""
    titles = {model["model"]: model["title"] for model in document["models"]}
    against = titles[document["tasks"][task]["against"]]
    return [name.format(against=against, metric=document["metric"]) for name in TEST_HEAD]


def notes(document: Mapping[str, Any], task: str) -> list[str]:
    """What a reader of the table must know: circumstances, and why something is missing."""
    asked, found = document["question"], document["tasks"][task]
    tuned = f"{asked['trials']} trials a model, chosen on validation ({document['metric']})" if asked["trials"] else "no trials"
    among = f"among {found['candidates_per_target']} candidates each"
    lines = [f"{found['targets']:,} test targets of {found['users']:,} users {among}."] if found["targets"] else []
    lines += [
        f"Mean ± standard deviation over seeds; {tuned}.",
        "Seconds: time by the clock for training one seed, validation included; limits count processor time of training.",
        "Users are paired after averaging over seeds; Holm over all rows, a missing one counting as p = 1; better or worse "
        "also needs a difference over twice the seed standard error.",
    ]
    for model, row in rows(document, task):
        if row["seeds"] < model["seeds_asked"]:
            why = "; ".join(f"{cell}: {cause}" for cell, cause in model["missing"].items()) or "not done yet"
            lines.append(f"{model['title']}: {seeds(model, row)} seeds ({why})")
        if model["stopped_by_time"]:
            lines.append(f"{model['title']}: the time limit ended {model['stopped_by_time']} of {model['seeds']} seeds")
    return lines


def seeds(model: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """``5``, or ``2 of 5``."""
    asked = model["seeds_asked"]
    return str(asked) if row["seeds"] == asked else f"{row['seeds']} of {asked}"


def figure_text(figure: Mapping[str, Any]) -> str:
    """``0.4512 ± 0.0012``, or the mean alone where there is one seed."""
    return f"{figure['mean']:.4f}" + ("" if figure["std"] is None else f" ± {figure['std']:.4f}")


def as_markdown(document: Mapping[str, Any], task: str = "recommendation") -> str:
    """Both tables and the notes."""

    def mark(text: str, place: int) -> str:
        return {1: f"**{text}**", 2: f"*{text}*"}.get(place, text)

    parts = [_pipes(HEAD, figures(document, task, mark)), _pipes(test_head(document, task), tests(document, task))]
    return "\n\n".join([*parts, "\n".join(f"* {note}" for note in notes(document, task))]) + "\n"


def _pipes(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_latex(document: Mapping[str, Any], task: str = "recommendation") -> str:
    r"""Two ``tabular`` (booktabs), the best in ``\textbf``, the second in ``\underline``; the notes as comments."""

    def mark(text: str, place: int) -> str:
        mean, _, deviation = text.partition(" ± ")
        marked = {1: rf"\textbf{{{mean}}}", 2: rf"\underline{{{mean}}}"}.get(place, mean)
        return marked + (rf" $\pm$ {deviation}" if deviation else "")

    parts = ["% needs \\usepackage{booktabs}", *(f"% {_one_line(note)}" for note in notes(document, task))]
    body = [[_escape(line[0]), *line[1:]] for line in figures(document, task, mark)]
    parts.append(_tabular([name.upper() if name in METRICS else name for name in HEAD], body))
    differences = [[_escape(cell) for cell in line] for line in tests(document, task)]
    parts.append(_tabular([_escape(name) for name in test_head(document, task)], differences))
    return "\n".join(parts) + "\n"


def _tabular(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    lines += [" & ".join(cells) + r" \\" for cells in body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
