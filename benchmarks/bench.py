"""Ours and the peers, taking turns: training, evaluation, memory, against each other and against the machine's ceilings.

    python benchmarks/bench.py
    python benchmarks/bench.py --quick

One load for all: the item and word counts that KuaiSAR's authors publish, width 64, histories of 30 + 30, a target in each of
30 slots, one negative, 100 candidates of an evaluated row. In a turn everything is measured once, for ``--seconds``; every other
turn goes backwards. Ratios are taken turn by turn, because rates of different hours cannot be compared. Everything goes to
``runs/bench/bench.json``, beside it the figure.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_lines import lines
from bench_plan import QUICK_MODELS, QUICK_SECONDS, Ask, others, ours, plan
from environments import PEERS, python_of
from figures import draw
from report import Report, Turns, extras
from steps import load, processor, vocabulary
from workers import Alive, Answer, run_once

from seerec.atomic import write_json
from seerec.errors import SeerecError
from seerec.kernels.library import library
from seerec.models.registry import MODELS
from seerec.progress import Progress

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Size:
    """Of the load; items and words with rows 0 and 1, users of our table and of the peers' data."""

    items: int
    words: int
    users: int
    loaded: int
    rows: int
    width: int = 64
    length: int = 30
    targets: int = 30


FULL = Size(items=673_415, words=394_912, users=100_000, loaded=4_096, rows=128)
QUICK = Size(items=2_000, words=2_000, users=500, loaded=64, rows=8)


def write_load(size: Size, seed: int, file: Path) -> None:
    """What all workers read; the histories are the peers', drawn by the same law as our batches."""
    events = size.length + 1  # a history and the target after it
    drawn = load(seed, size.loaded, 1, 1, vocabulary(size.items, size.words, size.users), length=events).rec
    np.savez(
        file, sequence=drawn.numpy() - 1, items=size.items - 2, width=size.width, length=size.length, batch=size.rows,
        seed=seed, words=size.words, users=size.users, targets=size.targets,
    )  # fmt: skip


def take_turns(asks: list[Ask], turns: int, common: dict[str, str], first: Any) -> tuple[Turns, list[Answer]]:
    """Ask everything once a turn; what has failed is not asked again. ``first`` takes a first step in a new process."""
    found: Turns = {}
    starts = []
    with Alive(common) as alive, Progress().task("bench", total=turns * len(asks), unit="measurements") as bar:
        for turn in range(turns):
            starts.append(first())
            for ask in asks[:: -1 if turn % 2 else 1]:
                bar.note(f"turn {turn + 1}: {ask.program.name} {ask.what}")
                before = found.setdefault(ask.program.name, {}).setdefault(ask.what, [])
                failed = next((answer for answer in before if "error" in answer), None)
                line = f"{ask.what} {ask.model} {ask.seconds}"
                before.append(failed or alive.ask(ask.program, line, 600 + 20 * ask.seconds))
                bar.advance(1)
                if failed is None and "error" in before[-1]:
                    print(f"{ask.program.name} {ask.what} failed: {before[-1]['error']}", flush=True)
    return found, starts


def first_step(file: Path, common: dict[str, str]) -> Answer:
    """Seconds to the first training step of LCR-SER, in a new process."""
    command = [sys.executable, str(HERE / "ours_worker.py"), str(file), "--started", str(time.monotonic())]
    return run_once(command, common, 600)


def commit() -> str | None:
    """The commit that is measured, and whether the files differ from it; None outside of git."""
    try:
        ask = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def table_and_shapes(given: argparse.Namespace, common: dict[str, str]) -> Answer:
    """What `steps.py` measures, the large item table against the small one among it; in a process of its own, for its 7 GB."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "steps.json"
        command = [sys.executable, str(HERE / "steps.py"), "--seed", str(given.seed), "--out", str(out)]
        command += ["--quick"] if given.quick else ["--repeats", "5"]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=1200, env={**os.environ, **common})
        except subprocess.TimeoutExpired:
            return {"error": "steps.py was not ready within 1200 s"}
        if ran.returncode:
            return {
                "error": f"steps.py ended with {ran.returncode}: {(ran.stderr.strip().splitlines() or ['it said nothing'])[-1]}"
            }
        print(ran.stdout, end="")
        found: Answer = json.loads(out.read_text())
        return found


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, help="how often everything is measured; 3, or 1 with --quick")
    parser.add_argument("--seconds", type=float, help="of a measurement, at least; 5, and 30 where steps take seconds")
    parser.add_argument("--peers", help=f"some of {','.join(PEERS)}, or none; all of them, none with --quick")
    parser.add_argument("--models", help="some of ours, by key and comma; all that learn by gradient, two with --quick")
    parser.add_argument("--unisar", type=Path, default=os.environ.get("SEEREC_UNISAR"), help="a checkout of its authors' program")
    parser.add_argument("--environments", type=Path, default=Path("runs/peers"), help="of the peers; made where missing")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of everything (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, measures nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/bench.json"), help="the figure is beside it")
    given = parser.parse_args()
    given.peers = tuple(
        name for name in (given.peers or ("none" if given.quick else ",".join(PEERS))).split(",") if name != "none"
    )
    if unknown := [name for name in given.peers if name not in PEERS]:
        parser.error(f"there is no peer {unknown[0]}: choose some of {', '.join(PEERS)}, or none")
    given.models = given.models.split(",") if given.models else [*QUICK_MODELS] if given.quick else ours()
    if unknown := [key for key in given.models if key not in ours()]:
        parser.error(f"{unknown[0]} is not measured: choose some of {', '.join(ours())}")
    given.turns = given.turns or (1 if given.quick else 3)
    if given.quick:
        given.seconds = given.seconds or QUICK_SECONDS
    return given


def circumstances(given: argparse.Namespace, size: Size) -> dict[str, Any]:
    """What rates depend on; the models say their own T, rows and mean visible histories."""
    precision = str(torch.get_default_dtype()).removeprefix("torch.")
    return {
        "processor": processor(), "processors": os.cpu_count(), "threads": given.threads, "torch": torch.__version__,
        "python": platform.python_version(), "kernels": library.said, "precision": precision, "commit": commit(),
        "seed": given.seed, "turns": given.turns, "quick": given.quick, "negatives": 1, "candidates": 100, **vars(size),
        "load_average_before": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Measure, print, write and draw."""
    given, began = arguments(), time.monotonic()
    size = QUICK if given.quick else FULL
    common = {"SEEREC_BENCH_THREADS": str(given.threads), "OMP_NUM_THREADS": str(given.threads)}
    facts = circumstances(given, size)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    pythons, missing = {}, {}
    for peer in given.peers:
        try:
            pythons[peer] = python_of(peer, given.environments)
        except SeerecError as error:
            missing[peer] = str(error)
            print(f"{peer} not measured: {error}", flush=True)
    steps = table_and_shapes(given, common)
    counts = run_once([sys.executable, str(HERE / "counts.py"), *given.models], {**common, "SEEREC_KERNELS": "off"}, 600)
    users = ("--users", "300") if given.quick else ()
    waited = run_once([sys.executable, str(HERE / "waiting.py"), "--seed", str(given.seed), *users], common, 900)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "load.npz"
        write_load(size, given.seed, file)
        asks = plan(given, size, file, pythons)
        turns, starts = take_turns(asks, given.turns, common, lambda: first_step(file, common))
    report = Report(turns, {} if "error" in counts else counts)
    peers = {
        name: report.peer(name)
        for name in dict.fromkeys(ask.program.name for ask in asks)
        if " " in name and not name.startswith("lcr-ser ")
    }
    models = {key: report.model(key, others(key, list(peers))) for key in given.models}
    facts["seconds"] = time.monotonic() - began
    skipped = {key: "counts once through the batches: it has no training step" for key in MODELS if key not in ours()}
    skipped |= {key: "left out by --models or --quick" for key in ours() if key not in given.models}
    rest = {
        "circumstances": facts, "lcr-ser alone": extras(report, starts, waited), "peers": peers, "missing_peers": missing,
        "skipped_models": skipped, "ceilings": report.answers("ceilings", "measure"), "counts": counts, "steps": steps,
        "not_asked_for": {"bert4rec of rectools and replay": "their workers offer SASRec and GRU4Rec alone"},
    }  # fmt: skip
    write_json(given.out, {**models, **rest})
    for line in lines(models, rest):
        print(line)
    about = f"{facts['processor']}, {given.threads} threads, torch {facts['torch']}, {given.turns} turns, seed {given.seed}"
    for path in draw(models, peers, about + (", quick: measures nothing" if given.quick else ""), given.out):
        print(path)
    print(given.out)


if __name__ == "__main__":
    main()
