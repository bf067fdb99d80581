"""What `bench.py` measures in a turn, and in which order: rivals stand beside each other."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers import Program

from seerec.kernels import has_halves
from seerec.models.base import CountingRecommender
from seerec.models.registry import MODELS

HERE = Path(__file__).parent
SECONDS, SLOW_SECONDS, QUICK_SECONDS = 5.0, 30.0, 0.1
"""SLOW: of RecBole and of the UniSAR authors' program, whose steps take seconds at KuaiSAR's sizes."""
QUICK_MODELS = ("lcr-ser", "sasrec")
OFFERED = {
    "recbole": ("sasrec", "sasrec-unchecked", "gru4rec", "gru4rec-unchecked"),
    "rectools": ("sasrec", "gru4rec"),
    "replay": ("sasrec", "gru4rec"),
}
"""Models asked of a peer; it says itself why it has none. ``unchecked`` evaluates as the other one, so it only trains."""
NOBODY = {
    "bert4rec": "not asked for: RecTools and RePlay have one, their workers do not offer it",
    "unisar": "not measured: give a checkout of its authors' program with --unisar",
    "sasrec": "none in this run: ask for some with --peers",
    "gru4rec": "none in this run: ask for recbole with --peers",
}
"""Why a model has no ratio where none of its rivals ran."""


@dataclass(frozen=True)
class Ask:
    """One line to one program in every turn."""

    program: Program
    what: str
    model: str
    seconds: float
    peer: bool = False


def ours() -> list[str]:
    """Our models that learn by gradient, those with peers first."""
    keys = [key for key, kind in MODELS.items() if not issubclass(kind, CountingRecommender)]
    first = ["lcr-ser", "unisar", "sasrec", "gru4rec"]
    return [*first, *(key for key in keys if key not in first)]


def others(key: str, names: list[str]) -> dict[str, str]:
    """Implementations of the same model in this run; each with the name under which its evaluation was measured."""
    if key == "unisar":
        return {name: name for name in names if name == "unisar program"}
    found = [name for name in names if name.split(" ")[-1].removesuffix("-unchecked") == key]
    return {name: name.removesuffix("-unchecked") for name in found}


def plan(given: argparse.Namespace, size: Any, load: Path, pythons: Mapping[str, Path]) -> list[Ask]:
    """All lines of a turn, in order."""
    base, slow = given.seconds or SECONDS, given.seconds or SLOW_SECONDS
    own = (sys.executable, str(HERE / "ours_worker.py"), str(load))
    asks = [Ask(Program("ceilings", (sys.executable, str(HERE / "ceilings.py"))), "measure", "ceilings", base)]
    for key in given.models:
        asks += [Ask(Program(key, own), what, key, base) for what in ("train", "evaluate")]
        if key == "lcr-ser":
            asks += [Ask(Program(f"lcr-ser K={k}", (*own, "--steps", str(k))), "evaluate", key, base) for k in (0, 5)]
            asks.append(Ask(Program("lcr-ser stage 2", own), "reinforce", key, base))
            exact, half = (Program(f"lcr-ser {kind}", (*own, "--precision", kind)) for kind in ("fp32", "bf16"))
            asks += [Ask(exact, "train", key, base), Ask(exact, "reinforce", key, base)]
            asks += [Ask(half, "evaluate", key, base)] if has_halves() else []
            plain = Program("lcr-ser stage 2 straightforward", (*own, "--straightforward"))
            asks.append(Ask(plain, "reinforce", key, base))
        if given.unisar and key == "lcr-ser":
            sizes = ("--words", str(size.words), "--users", str(size.loaded), "--negatives", "1")
            worker = str(HERE / "peers" / "unisar_program.py")
            program = Program("unisar program", (sys.executable, worker, str(load), "--program", str(given.unisar), *sizes))
            asks += [Ask(program, what, "unisar", slow, True) for what in ("train", "evaluate")]
        for peer, python in pythons.items():
            for model in OFFERED[peer]:
                if model.removesuffix("-unchecked") == key:
                    program = Program(f"{peer} {model}", (str(python), str(HERE / "peers" / f"{peer}_worker.py"), str(load)))
                    whats = ("train",) if model.endswith("-unchecked") else ("train", "evaluate")
                    asks += [Ask(program, what, model, slow if peer == "recbole" else base, True) for what in whats]
    return asks
