"""The paper's experiments as data, from raw files to the table, on simulated files of each format."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from seerec import cli
from seerec.config import DataSettings
from seerec.data.simulation import simulate
from seerec.errors import SeerecError
from seerec.evidence.question import Question, accepts
from seerec.progress import SILENT
from seerec.recipes import read_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    capsys.readouterr()
    code = cli.main([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


def test_there_are_three() -> None:
    assert [file.stem for file in RECIPES] == ["kuaisar-large", "kuaisar-small", "qilin"]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_value_is_a_setting_with_its_evidence(file: Path) -> None:
    recipe = read_recipe(file)
    DataSettings(**recipe.data)
    Question(**{**recipe.compare, "models": ("lcr-ser",)})
    for name, value in recipe.train.items():
        assert accepts("lcr-ser", name, value), name
    for line in file.read_text().splitlines():
        if "=" in line and not line.startswith(("#", "title", "source", "minutes", "seeds")):
            assert " # " in line, line


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_runs_end_to_end(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = read_recipe(file)
    scale = 0.002 if recipe.source == "kuaisar" else 0.02
    simulate(tmp_path / "raw", kind=recipe.source, scale=scale, seed=0, progress=SILENT)
    # a share of KuaiSAR's small set has its days, which end before validation of the large one begins
    earlier = ["--val-start", "2023-05-28", "--test-start", "2023-05-29"] if file.stem == "kuaisar-large" else []
    corpus = tmp_path / "corpus"
    made = run(capsys, "prepare", recipe.source, tmp_path / "raw", "--recipe", file, "--out", corpus, *earlier)
    assert made["simulated"]
    assert made["counts"]["targets_test"] > 20
    settings = json.loads((corpus / "manifest.json").read_text())["settings"]
    given = {name: value for name, value in recipe.data.items() if not earlier or not name.endswith("_start")}
    assert {name: settings[name] for name in given} == given
    few = ["--models", "popularity,gru4rec,lcr-ser", "--seeds", 1, "--minutes", 0.02, "--set", "reinforce.epochs=0"]
    table = run(capsys, "compare", corpus, "--recipe", file, "--out", tmp_path / "table", *few)
    rows = table["tasks"]["recommendation"]["rows"]
    assert [row["model"] for row in rows] == ["popularity", "gru4rec", "lcr-ser"]
    pinned = json.loads((tmp_path / "table" / "plan.json").read_text())["question"]
    assert {name: pinned["settings"][name] for name in recipe.train} == recipe.train
    assert pinned["seeds"] == 1  # a flag goes before the recipe


def test_flags_go_first_and_strange_recipes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "raw", kind="kuaisar", scale=0.001, seed=0, progress=SILENT)
    small = RECIPES[1]
    command = ["prepare", "kuaisar", tmp_path / "raw", "--out", tmp_path / "corpus", "--recipe", small]
    run(capsys, *command, "--negatives", 7, "--zero-click", "drop")
    settings = json.loads((tmp_path / "corpus" / "manifest.json").read_text())["settings"]
    assert (settings["negatives"], settings["zero_click"], settings["sampler"]) == (7, "drop", "popularity")
    assert cli.main(["prepare", "qilin", str(tmp_path / "raw"), "--out", str(tmp_path / "q"), "--recipe", str(small)]) == 2
    assert "for the source kuaisar" in capsys.readouterr().err
    for content, cause in (
        ("title = 1", "'title' = 1"), ("title", "not a TOML file"), ('title = "a"\nsource = "b"\nx = 1', "no setting 'x'"),
        ('\ufeffsource = "b"', "'title' is missing"),
        ('title = "a"\nsource = "b"\ncompares = {}', "Did you mean compare"),
    ):  # fmt: skip
        (tmp_path / "odd.toml").write_text(content)
        with pytest.raises(SeerecError, match=cause):
            read_recipe(tmp_path / "odd.toml")
    with pytest.raises(SeerecError, match="No such file"):
        read_recipe(tmp_path / "none.toml")
    assert tomllib.loads(small.read_text())["source"] == "kuaisar"
