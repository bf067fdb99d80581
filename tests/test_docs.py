"""What the documents say is so: the settings page, links, the Python example, the commands.

``python tests/test_docs.py`` writes the settings page anew.
"""

import json
import random
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from seerec.cli import main
from seerec.config import BatchSettings, DataSettings, ReinforceSettings, Settings, TrainSettings
from seerec.data.sources.simulated import simulate

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings.md"
TINY = {
    "model.width": 8,
    "batch.rows": 64,
    "reinforce.rows": 8,
    "reinforce.rollouts": 2,
    "reinforce.negatives": 9,
    "reinforce.epochs": 1,
    "reinforce.steps_per_epoch": 1,
}
PARTS: tuple[tuple[str, str, str, type[Settings]], ...] = (
    ("Training", "", "`seerec train --set NAME=VALUE`; stage 1, and what both stages share.", TrainSettings),
    ("Batches", "batch.", "`seerec train --set batch.NAME=VALUE`; lengths and sizes.", BatchSettings),
    ("Stage 2", "reinforce.", "`seerec train --set reinforce.NAME=VALUE`; for models that reason.", ReinforceSettings),
    ("Data", "", "`seerec prepare --set NAME=VALUE`; several have an option of their own.", DataSettings),
)
HEAD = """# Settings

Every setting of training and preparation, written from the docstrings in `src/seerec/config.py` by
`python tests/test_docs.py`; a test fails when this page is out of date. Those of a model: `seerec models lcr-ser`.
An A with a number is an entry of [ambiguities.md](ambiguities.md); equation and section numbers are those of the
LCR-SER paper; the axis letters B, R, S, T, ... are explained in [CONTRIBUTING.md](../CONTRIBUTING.md).
Values are JSON: `--set clip_norm=null`, `--set batch.rows=64`.
"""


def settings_page() -> str:
    """The text of docs/settings.md."""
    parts = [HEAD]
    for title, prefix, text, kind in PARTS:
        rows = [f"## {title}\n", f"{text}\n", "| setting | default | values | meaning |", "|---|---|---|---|"]
        for name, field in kind.model_fields.items():
            default = field.get_default(call_default_factory=True)
            if not isinstance(default, Settings):
                meaning = " ".join((field.description or "").replace("``", "`").split())
                rows.append(f"| `{prefix}{name}` | `{json.dumps(default)}` | {_values(field)} | {meaning} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _values(field: Any) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    names = [kind.__name__ for kind in get_args(field.annotation) or [field.annotation]]
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [f"{sign} {getattr(bound, n):g}" for bound in field.metadata for n, sign in signs.items() if hasattr(bound, n)]
    kind = {"str": "text", "bool": "`true`, `false`", "int": "whole number", "float": "number"}[names[0]]
    return " ".join([kind, " and ".join(bounds), "or `null`" if "NoneType" in names else ""]).strip().replace("  ", " ")


def blocks(document: str, language: str) -> list[str]:
    """Code blocks of a document."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def lines(document: str) -> list[str]:
    """Commands of a document, in order."""
    return [line for block in blocks(document, "sh") for line in block.splitlines()]


def test_the_settings_page_is_up_to_date() -> None:
    assert PAGE.read_text() == settings_page(), "run `python tests/test_docs.py`"


@pytest.mark.parametrize("document", sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]))
def test_links_between_documents_lead_somewhere(document: str) -> None:
    for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", (ROOT / document).read_text()):
        assert link.startswith("https://") or (ROOT / document).parent.joinpath(link).exists(), link


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("README.md", "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"^test NDCG@5: 0\.\d+$", printed, re.MULTILINE)
    assert re.search(r"^3 \w+", printed, re.MULTILINE)
    assert "on_searches" in printed


def write_logs() -> None:
    """Tiny logs under the names that the documents use."""
    import pyarrow.parquet as pq

    draw = random.Random(0)
    words = ("red", "quiet", "long", "night", "river", "city", "ghost", "train", "winter", "summer", "robot", "king")
    titles = [f"{draw.choice(words).title()} {draw.choice(words)} {number}" for number in range(160)]
    for folder, users in (("films", 70), ("films-newer", 75), ("games", 90)):
        Path(folder).mkdir()
        logs = {user: draw.sample(range(160), 12) for user in range(1, users + 1)}
        if folder == "games":
            rows = [f'{user},"{" ".join(map(str, items))}"' for user, items in logs.items()]
            Path(folder, "sequences.csv").write_text("\n".join(["user_id,item_id_list", *rows]))
            Path(folder, "items.csv").write_text("\n".join(["item_id,title", *(f"{i},{t}" for i, t in enumerate(titles))]))
            continue
        clock = 964_980_000
        seen = [(user, item, place) for user, log in logs.items() for place, item in enumerate(log)]
        rows = [f"{user},{item},4.0,{clock + 3600 * place + user}" for user, item, place in seen]
        Path(folder, "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows]))
        films = [f'{item},"{title}",{draw.choice(["Drama|War", "Comedy"])}' for item, title in enumerate(titles)]
        Path(folder, "movies.csv").write_text("\n".join(["movieId,title,genres", *films]))
    Path("shop").mkdir()
    for name, table in simulate(users=60).items():
        pq.write_table(table, f"shop/{name}.parquet")


@pytest.mark.parametrize("document", ["README.md", "docs/guide.md"])
def test_the_commands_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_logs()
    shutil.copytree(ROOT / "recipes", "recipes")
    for block in blocks(document, "json"):
        Path("history.json").write_text(block)
    commands = [shlex.split(line) for line in lines(document)]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert any(command[0] == "seerec" for command in commands)
    for program, *arguments in commands:
        if program == "make":
            assert arguments[0] in targets
        elif arguments[0] == "demo":
            assert main(["demo", "--help"]) == 0
        else:
            assert program == "seerec"
            tiny = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
            learns = arguments[0] == "train" and "popularity" not in arguments
            given = [*arguments, "--epochs", "1", *tiny] if learns else arguments
            if arguments[0] == "download":  # simulated files of the same format stand in for the published ones
                given = ["simulate", arguments[arguments.index("--out") + 1], "--as", "kuaisar", "--scale", "0.002"]
            if arguments[0] == "compare" and "--recipe" in arguments:
                given = [*arguments, "--models", "popularity,gru4rec", "--seeds", "1", "--minutes", "0.02"]
            if "--models" in arguments:  # fewer of them, and less of each
                fewer = {"all": "popularity,sasrec", "5": "2"}
                given = [*(fewer.get(word, word) for word in arguments), "--trials", "2", "--set", "epochs=1", *tiny]
            assert main(given) == 0, shlex.join(arguments)


if __name__ == "__main__":
    PAGE.write_text(settings_page())
