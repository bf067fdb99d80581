"""CSV, LaTeX and Markdown, read back."""

import copy
import csv
import io
import json

import pytest

from seerec import printing
from seerec.evaluation.metrics import METRICS
from seerec.evidence import tables


@pytest.fixture
def document(finished):
    return copy.deepcopy(finished[1])


def means(document):
    """Model -> metric -> mean."""
    rows = document["tasks"]["recommendation"]["rows"]
    return {row["model"]: {metric: row["metrics"][metric]["mean"] for metric in row["metrics"]} for row in rows}


def places(document, metric):
    """The models by mean, the best first."""
    values = means(document)
    return sorted(values, key=lambda model: -values[model][metric])


def test_files_hold_what_the_document_says(finished):
    out, document = finished
    assert json.loads((out / "table.json").read_text()) == json.loads(json.dumps(tables.finite(document)))
    for suffix, make in (("csv", tables.as_csv), ("tex", tables.as_latex), ("md", tables.as_markdown)):
        assert (out / f"table.{suffix}").read_text() == make(document)


def test_csv_gives_back_every_figure_unrounded(document):
    lines = {line["model"]: line for line in csv.DictReader(io.StringIO(tables.as_csv(document)))}
    for row in document["tasks"]["recommendation"]["rows"]:
        for metric in METRICS:
            assert float(lines[row["model"]][f"{metric} mean"]) == row["metrics"][metric]["mean"]
            for name, value in row["against"].get(metric, {}).items():
                assert lines[row["model"]][f"{metric} {name}"] == (value if name == "verdict" else repr(value))
    assert lines["sasrec"]["mrr verdict"] == ""


def latex_rows(text, number):
    """The rows of the ``number``-th table as lists of cells."""
    body = text.split(r"\midrule")[number + 1].split(r"\bottomrule")[0]
    return [[cell.strip() for cell in line.removesuffix(r"\\").split(" & ")] for line in body.strip().splitlines()]


def test_latex_gives_back_means_and_marks_the_best_two(document):
    rows = {row[0]: row for row in latex_rows(tables.as_latex(document), 0)}
    title = {model["model"]: model["title"] for model in document["models"]}
    for place, metric in enumerate(METRICS):
        value = means(document)
        order = sorted({value[model][metric] for model in value}, reverse=True)
        for model in value:
            mean, spread = rows[title[model]][place + 2].split(r" $\pm$ ")
            command = {0: r"\textbf{", 1: r"\underline{"}.get(order.index(value[model][metric]), "")
            assert mean.startswith(command) if command else "\\" not in mean
            assert float(mean.removeprefix(command).removesuffix("}")) == pytest.approx(value[model][metric], abs=5.1e-5)
            assert float(spread) >= 0
    tests = latex_rows(tables.as_latex(document), 1)
    assert [row[0] for row in tests] == [title["popularity"], title["last-click"]]
    assert float(tests[0][1]) == pytest.approx(
        document["tasks"]["recommendation"]["rows"][0]["against"]["ndcg@5"]["difference"], abs=5.1e-5
    )


def test_latex_is_balanced_and_escaped(document):
    document["models"][0]["title"] = "A_1 & 50% of {#}"
    text = tables.as_latex(document)
    assert r"A\_1 \& 50\% of \{\#\}" in text
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = body.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert body.count(r"\begin{tabular}") == body.count(r"\end{tabular}") == 2
    for number, columns in ((0, len(tables.HEAD)), (1, len(tables.TEST_HEAD))):
        assert {len(row) for row in latex_rows(text.replace(r"\&", "and"), number)} == {columns}


def test_markdown_has_the_same_marks(document):
    lines = tables.as_markdown(document).splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert head == list(tables.HEAD)
    body = {line.split("|")[1].strip(): [cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]}
    title = {model["model"]: model["title"] for model in document["models"]}
    best = places(document, "hr@10")[0]
    assert body[title[best]][head.index("hr@10")].startswith("**")


def test_equal_means_share_their_place(document):
    rows = document["tasks"]["recommendation"]["rows"]
    for row in rows:
        row["metrics"]["mrr"]["place"] = 1
    assert tables.as_latex(document).count(r"\textbf{") >= len(rows)


def test_a_missing_row_is_missing_in_every_form(document, capsys):
    row = document["tasks"]["recommendation"]["rows"][1]
    row |= {"seeds": 0, "metrics": {}, "against": {}}
    document["models"][1] |= {
        "seeds": 0,
        "seconds": None,
        "parameters": None,
        "missing": {"last-click-seed-0": "The loss is nan."},
    }
    (line,) = [line for line in csv.DictReader(io.StringIO(tables.as_csv(document))) if line["model"] == "last-click"]
    assert (line["mrr mean"], line["seeds"], line["missing"]) == ("", "0", "last-click-seed-0: The loss is nan.")
    printing.show(document, False, printing.standing)
    for text in (tables.as_latex(document), tables.as_markdown(document), capsys.readouterr().out):
        assert text.count("missing") >= 7
        assert "0 of 2" in text
        assert "The loss is nan." in text


def test_the_terminal_shows_the_best_bold_and_the_second_underlined(document):
    from rich.console import Console

    console = Console(force_terminal=True, width=250, record=True, file=io.StringIO(), markup=False)
    console.print(printing.standing(document))
    text = console.export_text(styles=True)
    rows = {row["model"]: row["metrics"]["mrr"] for row in document["tasks"]["recommendation"]["rows"]}
    first, second = places(document, "mrr")[:2]
    assert f"\x1b[1m{tables.figure_text(rows[first])}" in text
    assert f"\x1b[4m{tables.figure_text(rows[second])}" in text
