"""The command line: its surface, its output for machines, its errors, and one small way through it."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from seerec import cli, printing
from seerec.config import DataSettings
from seerec.models.registry import MODELS

SURFACE = {
    "prepare": (
        "source paths --announce --clicks --engine --help --item-column --items --json --map --master --memory --negatives "
        "--noise --notes --out --p-search --recipe --repeats --sampler --searches --searches-file --seed "
        "--set --shown --split --test-start --time-column --types --user --user-column --users --users-file "
        "--val-start --zero-click"
    ),
    "train": "corpus --device --epochs --from --help --json --model --out --preset --resume --seed --set --stages",
    "evaluate": "run --corpus --full --help --json --limit --precision --split --stage --task",
    "download": "name --accept-licence --help --json --out",
    "simulate": "out --as --help --json --scale --seed",
    "compare": (
        "paths --against --full --help --json --minutes --models --out --plan --recipe --seeds --set --split --trials "
        "--tune-minutes --tune-users"
    ),
    "recommend": "run --all-users --corpus --help --history --include-seen --json --out --resume --stage --user -k",
    "explain": "run --corpus --help --history --item --json --stage --user -k",
    "models": "key --help --json",
    "doctor": "--help --json",
    "demo": "--help --json --out --quick",
}
TINY = [
    "reinforce.epochs=1", "reinforce.steps_per_epoch=1", "reinforce.rollouts=2", "reinforce.rows=4", "reinforce.negatives=9",
    "model.width=16", "model.heads=2", "model.steps=2",
]  # fmt: skip

Seerec = Callable[..., tuple[int, str, str]]


@pytest.fixture
def seerec(capsys: pytest.CaptureFixture[str]) -> Seerec:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and three runs."""
    folder = tmp_path_factory.mktemp("world")
    commands = [["prepare", "simulated", "--users", 150, "--out", folder / "corpus"]]
    for model in ("popularity", "sasrec", "lcr-ser"):
        tiny = [part for pair in TINY for part in ("--set", pair)] if model == "lcr-ser" else []
        commands.append(["train", folder / "corpus", "--model", model, "--epochs", 1, "--out", folder / model, *tiny])
    for command in commands:
        assert cli.main([*map(str, command), "--json"]) == 0, command
    return folder


def commands() -> dict[str, Any]:
    """The commands by name, as typer built them."""
    return dict(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def test_commands_and_flags_are_these() -> None:
    found = {}
    for name, command in commands().items():
        arguments = [p.name for p in command.params if p.param_type_name == "argument"]
        flags = sorted(flag for p in command.params if p.param_type_name == "option" for flag in p.opts)
        found[name] = " ".join([*arguments, *sorted([*flags, "--help"])])
    assert found == SURFACE


@pytest.mark.parametrize("name", SURFACE)
def test_help_has_an_example_of_its_command(seerec: Seerec, name: str) -> None:
    code, out, err = seerec(name, "--help")
    assert (code, err) == (0, "")
    assert f"Example: seerec {name}" in out


@pytest.mark.parametrize("name", SURFACE)
def test_examples_use_only_flags_there_are(name: str) -> None:
    flags = [word for word in commands()[name].epilog.split() if word.startswith("-")]
    assert set(flags) <= set(SURFACE[name].split())


def test_shown_defaults_are_those_of_the_settings() -> None:
    fields = DataSettings.model_fields
    shown = {p.name: p.show_default for p in commands()["prepare"].params if p.name in fields and p.name != "seed"}
    assert {name: text for name, text in shown.items() if isinstance(text, str)} == {
        name: str(fields[name].default) for name in ("split", "repeats", "zero_click", "searches", "negatives", "sampler")
    }


def test_help_is_quick_and_the_module_runs() -> None:
    found = subprocess.run([sys.executable, "-m", "seerec", "--help"], capture_output=True, text=True, check=True, timeout=20)
    assert all(name in found.stdout for name in SURFACE)


# -- the way through ------------------------------------------------------------------------------------------------


def parsed(result: tuple[int, str, str]) -> Any:
    """The one JSON document on standard output of a command that went well."""
    code, out, err = result
    assert code == 0, err
    assert err == ""
    return json.loads(out)


def test_prepare_counts(seerec: Seerec, tmp_path: Path) -> None:
    found = parsed(seerec("prepare", "simulated", "--users", 30, "--negatives", 9, "--out", tmp_path / "c", "--json"))
    assert found["counts"]["users"] == 30
    assert found["counts"]["targets_test"] > 0
    assert found["replaced"] is False
    code, out, _ = seerec("prepare", "simulated", "--users", 30, "--negatives", 9, "--out", tmp_path / "c")
    assert code == 0
    assert "test targets" in out
    assert "replaces the corpus" in out


def test_prepare_names_refused_rows_by_reason(seerec: Seerec, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"u{user},i{(7 * user + 3 * step) % 40},{step + 1}000" for user in range(30) for step in range(6)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *rows, "u1,i2,soon", ""]))
    command = ["prepare", "tables", log, "--negatives", 9, "--set", "min_user_clicks=2", "--out", tmp_path / "c"]
    assert parsed(seerec(*command, "--json"))["quarantined"] == {"recommendations": {"time_not_a_number": 1}}
    assert "time_not_a_number" in seerec(*command)[1]


def test_train_evaluate_compare(seerec: Seerec, world: Path) -> None:
    found = parsed(seerec("evaluate", world / "lcr-ser", "--json"))
    assert found["stage"] == 2
    assert found["all"]["targets"] == found["known"]["targets"] + found["unknown"]["targets"]
    assert found["random"]["hr@10"] == pytest.approx(0.1)
    assert parsed(seerec("evaluate", world / "lcr-ser", "--stage", 1, "--split", "val", "--json"))["stage"] == 1
    full = parsed(seerec("evaluate", world / "popularity", "--full", "--json"))
    assert full["candidates_per_target"] > 100
    runs = [str(world / "popularity"), str(world / "sasrec"), f"{world / 'lcr-ser'}:1", str(world / "lcr-ser")]
    table = parsed(seerec("compare", *runs, "--json"))["runs"]
    assert [row["run"] for row in table] == runs
    assert [row["stage"] for row in table] == [1, 1, 1, 2]
    assert set(table[3]["against_first"]["ndcg@5"]) >= {"difference", "low", "high", "holm_p"}
    code, out, err = seerec("compare", *runs)
    assert (code, err) == (0, "")
    assert "Holm p" in out


def test_resuming_a_finished_run_changes_nothing(seerec: Seerec, world: Path) -> None:
    command = ["train", world / "corpus", "--model", "sasrec", "--epochs", 1, "--out", world / "sasrec", "--json"]
    before = (world / "sasrec" / "result.json").read_bytes()
    assert parsed(seerec(*command, "--resume"))["validation"] == json.loads(before)
    assert (world / "sasrec" / "result.json").read_bytes() == before


def test_recommend_to_a_user_and_to_a_history(seerec: Seerec, world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    user, item = first_user(world), first_item(world)
    (found,) = parsed(seerec("recommend", world / "lcr-ser", "--user", user, "-k", 3, "--json"))["recommendations"]
    assert [entry["rank"] for entry in found["items"]] == [1, 2, 3]
    history = {"recommendations": [{"item_id": item}], "searches": [{"query": "wireless headphones", "clicked": [item]}]}
    (tmp_path / "h.json").write_text(json.dumps([history, history]))
    both = parsed(seerec("recommend", world / "lcr-ser", "--history", tmp_path / "h.json", "-k", 2, "--json"))
    assert len(both["recommendations"]) == 2
    assert both["recommendations"][0]["items"][0]["title"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(history)))
    code, out, _ = seerec("recommend", world / "lcr-ser", "--history", "-", "-k", 2)
    assert code == 0
    assert "title" in out


def test_recommend_to_everybody(seerec: Seerec, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.parquet"
    found = parsed(seerec("recommend", world / "sasrec", "--all-users", "--out", out, "-k", 2, "--json"))
    assert out.is_file()
    assert found["file"] == str(out)


def test_explain(seerec: Seerec, world: Path) -> None:
    assert parsed(seerec("explain", world / "lcr-ser", "--user", first_user(world), "--json"))
    code, out, err = seerec("explain", world / "lcr-ser", "--user", first_user(world))
    assert (code, err) == (0, "")
    assert out.strip()


def test_models(seerec: Seerec) -> None:
    assert [model["key"] for model in parsed(seerec("models", "--json"))["models"]] == list(MODELS)
    settings = parsed(seerec("models", "lcr-ser", "--json"))["settings"]
    (scorer,) = [setting for setting in settings if setting["name"] == "model.scorer"]
    assert scorer["presets"]["paper"] == scorer["default"] == "mlp"
    assert all(setting["meaning"] for setting in settings)
    code, out, _ = seerec("models", "lcr-ser")
    assert code == 0
    assert "model.contrastive_weight" in out


def test_doctor(seerec: Seerec, monkeypatch: pytest.MonkeyPatch) -> None:
    found = parsed(seerec("doctor", "--json"))
    assert found["healthy"]
    assert {"python", "torch", "duckdb", "memory", "self check"} <= {check["name"] for check in found["checks"]}
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["torch>=999.0", "no-such-package>=1", "pytest; extra == 'dev'"])
    code, out, _ = seerec("doctor", "--json")
    assert code == 1
    ill = {check["name"]: check["fix"] for check in json.loads(out)["checks"] if not check["ok"]}
    assert set(ill) == {"torch", "no-such-package"}
    assert "999.0" in ill["torch"]


# -- errors ---------------------------------------------------------------------------------------------------------


def first_user(world: Path) -> str:
    """The raw id of some known user."""
    import pyarrow.parquet as pq

    return str(pq.read_table(world / "corpus" / "users.parquet")["user_id"][0].as_py())


def first_item(world: Path) -> str:
    """The raw id of some known item."""
    import pyarrow.parquet as pq

    return str(pq.read_table(world / "corpus" / "items.parquet")["item_id"][0].as_py())


def files(world: Path, tmp_path: Path) -> dict[str, Path]:
    """What the wrong commands below name."""
    (tmp_path / "empty.csv").touch()
    (tmp_path / "header.csv").write_text("user_id,item_id,timestamp\n")
    (tmp_path / "latin.csv").write_bytes(b"user_id,item_id,timestamp\nJos\xe9,1,1000\n")
    (tmp_path / "columns.csv").write_text("who,what\n1,2\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("precious")
    return {"W": world, "T": tmp_path}


WRONG = [
    "train {T}/folder --out {T}/r",
    "train {T}/nowhere --out {T}/r",
    "train {W}/corpus --model no-such-model --out {T}/r",
    "train {W}/corpus --set no_such_setting=1 --out {T}/r",
    "train {W}/corpus --set model.no_such_setting=1 --out {T}/r",
    "train {W}/corpus --set batch=3 --out {T}/r",
    "train {W}/corpus --set batch.rows=many --out {T}/r",
    "train {W}/corpus --set batch.rows.more=1 --out {T}/r",
    "train {W}/corpus --set learning_rate=NaN --out {T}/r",
    "train {W}/corpus --set seed.more=1 --preset paper --out {T}/r",
    "train {W}/corpus --model popularity --set model.width=3 --out {T}/r",
    "train {W}/corpus --out {W}/sasrec",
    "train {W}/corpus --out {T}/folder",
    "train {W}/corpus --model sasrec --epochs 2 --out {W}/sasrec --resume",
    "train {W}/corpus --out {T}/r --from {T}/folder",
    "prepare simulated --users 50 --out {T}/folder",
    "prepare simulated --users 0 --out {T}/c",
    "prepare simulated --noise 2 --out {T}/c",
    "prepare simulated --users 50 --set no_such_setting=1 --out {T}/c",
    "prepare simulated --users 50 --split chronological --val-start yesterday --out {T}/c",
    "prepare interactions {T}/nowhere.csv --out {T}/c",
    "prepare interactions {T}/empty.csv --items {T}/empty.csv --out {T}/c",
    "prepare tables {T}/empty.csv --out {T}/c",
    "prepare tables {T}/header.csv --out {T}/c",
    "prepare tables {T}/latin.csv --out {T}/c",
    "prepare tables {T}/columns.csv --out {T}/c",
    "prepare tables {T}/broken.parquet --out {T}/c",
    "prepare tables {T}/folder --out {T}/c",
    "evaluate {T}/folder",
    "evaluate {W}/corpus",
    "evaluate {W}/sasrec --stage 2",
    "evaluate {W}/sasrec --corpus {T}/nowhere",
    "compare {W}/sasrec {T}/nowhere",
    "recommend {W}/sasrec --user nobody-like-that",
    "recommend {W}/sasrec --history {T}/nowhere.json",
    "recommend {W}/sasrec --history {T}/broken.json",
    "recommend {W}/sasrec --history {T}/list.json",
    "recommend {T}/folder --user 1",
    "explain {W}/lcr-ser --user nobody-like-that",
    "explain {W}/lcr-ser --user {U} --item no-such-item",
    "models no-such-model",
]


@pytest.mark.parametrize("command", WRONG)
def test_a_mistake_gets_two_lines_and_exit_code_1(seerec: Seerec, world: Path, tmp_path: Path, command: str) -> None:
    names = files(world, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = seerec(*command.format(**names, U=first_user(world)).split(), "--json")
    assert code == 1, err
    cause, fix = err.strip().split("\n")
    assert json.loads(out) == {"error": {"cause": cause, "fix": fix}}
    assert cause
    assert fix.endswith((".", "?", ")"))
    assert "unexpected" not in cause
    assert sorted(tmp_path.rglob("*")) == before, "something half-written was left"


@pytest.mark.parametrize(
    "command",
    [
        "no-such-command",
        "train",
        "prepare elsewhere --out c",
        "prepare simulated file.csv --out c",
        "prepare interactions --out c",
        "prepare tables a.csv b.csv --out c",
        "prepare simulated --p-search 0.3 --out c",
        "train c --out r --set batch.rows",
        "train c --out r --set batch=1 --set batch.rows=2",
        "train c --out r --preset good",
        "evaluate r --split train",
        "recommend r",
        "recommend r --user 1 --all-users --out f.parquet",
        "recommend r --all-users",
        "recommend r --user 1 -k 0",
        "explain r",
        "doctor --no-such-flag",
        "train c --out r --epochs 1 --set epochs=2",
        "train c --out r --set epochs=1 --set epochs=2",
    ],
)
def test_wrong_usage_is_exit_code_2(seerec: Seerec, command: str) -> None:
    code, out, err = seerec(*command.split())
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert len(err) > 10
    code, out, _ = seerec(*command.split(), "--json")
    assert code == 2
    assert json.loads(out)["error"]["cause"] in err
    assert "--help" in json.loads(out)["error"]["fix"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "--resume"),
        (MemoryError(), 1, "memory"),
        (OSError(28, "No space left on device", "/full/disk"), 1, "/full/disk"),
        (RuntimeError("what is this"), 1, "SEEREC_TRACEBACK=1"),
    ],
)
def test_what_nobody_foresaw_is_a_sentence(
    seerec: Seerec, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("seerec.training.train.train", fail)
    found, out, err = seerec("train", "corpus", "--out", "run")
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    if code == 1:
        monkeypatch.setenv("SEEREC_TRACEBACK", "1")
        assert "Traceback" in seerec("train", "corpus", "--out", "run")[2]


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m seerec models lcr-ser | true"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"})
    assert "Traceback" not in found.stderr


def test_numbers_without_a_word_in_json_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    printing.document({"p": float("nan"), "t": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"p": None, "t": [None, 1.5]}


def test_text_in_brackets_is_printed_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    item = {"rank": 1, "item_id": "[red]7", "title": "[bold]Shoes[/bold] [/]", "score": 0.5}
    found = {"user_id": "[blue]u", "known": True, "ignored": [], "items": [item]}
    printing.show({"recommendations": [found]}, False, printing.recommendations)
    out = capsys.readouterr().out
    assert all(text in out for text in ("[red]7", "[bold]Shoes[/bold] [/]", "[blue]u"))
    assert len(out.splitlines()) < 8


def test_what_a_log_holds_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    item = {"rank": 1, "item_id": "7\n8", "title": "\x1b[31mRED", "score": 0.5}
    found = {"user_id": "u\x07", "known": True, "ignored": ["\x1b[2J"], "items": [item]}
    printing.show({"recommendations": [found]}, False, printing.recommendations)
    out = capsys.readouterr().out
    assert "RED" in out
    assert not {"\x1b", "\x07"} & set(out)
    assert any("7 8" in line and "RED" in line for line in out.splitlines())
