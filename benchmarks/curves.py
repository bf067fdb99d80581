"""Cost curves: time of a training target and of an evaluated row against sizes, and memory against the length of histories.

    python benchmarks/curves.py
    python benchmarks/curves.py --curve items --curve length

Every point is a process of its own, and the points of a curve take turns (A B C A B C). A point's figure is the median over its
turns, each the median of its steps. Finished curves in the file are kept: a killed run goes on where it stopped.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from curve_figure import draw
from curve_plan import CURVES, QUICK, Curve, point_of
from curve_point import Point
from steps import LIMIT, processor

import seerec
from seerec.atomic import write_json
from seerec.errors import SeerecError
from seerec.kernels.library import library
from seerec.progress import Bar, Progress

KINDS = ("train", "evaluate")


class Worker:
    """A point's process, asked one line at a time."""

    def __init__(self, point: Point) -> None:
        command = [sys.executable, str(Path(__file__).with_name("curve_point.py")), json.dumps(asdict(point))]
        environment = {**os.environ, "OMP_NUM_THREADS": str(point.threads)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment)
        self.facts: dict[str, Any] = self._answer()
        self.turns: dict[str, list[list[float]]] = {what: [] for what in KINDS}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self.process.wait()
        return {"error": f"the process ended with {code}" + (": killed, probably for its memory" if code == -9 else "")}

    def take_turn(self, what: str, least: float) -> None:
        """Measure once, unless the point has failed."""
        if "error" in self.facts:
            return
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{what} {least}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # ``_answer`` says how it ended
        answer = self._answer()
        if "error" in answer:
            self.facts = answer
        else:
            self.turns[what].append(answer["seconds"])


@contextmanager
def worker(point: Point) -> Iterator[Worker]:
    """A worker that is gone afterwards, interrupted or not."""
    started = Worker(point)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def measure(name: str, curve: Curve, model: str, given: argparse.Namespace, common: dict[str, Any], bar: Bar) -> dict[str, Any]:
    """All points of one model on one curve, with their ratios to the base."""
    points = [point_of(curve, model, value, common) for value in curve.values]
    with ExitStack() as stack:
        workers = []
        for point in points:
            bar.note(f"{name}, {model}: starts {getattr(point, curve.field):,}")
            workers.append(stack.enter_context(worker(point)))
        for _ in range(given.turns):
            for each, what in itertools.product(workers, KINDS):
                each.take_turn(what, given.seconds)
                bar.advance(1)
                bar.note(f"{name}, {model}")
    results = [_result(point, curve, each) for point, each in zip(points, workers, strict=True)]
    base = next((r for r in results if r["value"] == curve.base and "error" not in r), None)
    for result in results:
        for what in KINDS if "error" not in result else ():
            result[what]["ratio"] = result[what]["median"] / base[what]["median"] if base else None
    return {"points": results, "checks": [_check(results, what) for what in KINDS] if curve.field == "items" else []}


def _result(point: Point, curve: Curve, worker: Worker) -> dict[str, Any]:
    """Seconds of a target or row: median, least and most of the turns."""
    found: dict[str, Any] = {"value": getattr(point, curve.field), "point": asdict(point), **worker.facts}
    if "error" in worker.facts:
        return found
    for what, each in (("train", point.rows * point.targets), ("evaluate", point.rows)):
        turns = [median(seconds) / each for seconds in worker.turns[what]]
        steps = sum(map(len, worker.turns[what]))
        found[what] = {"median": median(turns), "min": min(turns), "max": max(turns), "turns": turns, "steps": steps}
    return found


def _check(results: list[dict[str, Any]], what: str) -> dict[str, Any]:
    """Whether ten times the items cost at most ``LIMIT``, where steps touch equally many rows: the last two points."""
    small, large = results[-2:]
    if failed := [r for r in (small, large) if "error" in r]:
        return {"what": what, "holds": None, "reason": f"{failed[0]['value']:,}: {failed[0]['error']}"}
    if small["distinct_items"] != large["distinct_items"]:
        return {"what": what, "holds": None, "reason": "the tables are touched differently"}
    ratio = large[what]["median"] / small[what]["median"]
    return {"what": what, "values": [small["value"], large["value"]], "ratio": ratio, "limit": LIMIT, "holds": ratio <= LIMIT}


def show(name: str, curve: Curve, found: dict[str, Any]) -> None:
    """Print a curve."""
    held = "".join(f", {field} {value}" for field, value in curve.held)
    print(f"\n{name}{held}: microseconds a training target, microseconds an evaluated row, MB a step of each takes")
    for model, result in found["models"].items():
        before = None
        for r in result["points"]:
            if "error" in r:
                print(f"  {model:<8} {r['value']:>10,}  failed: {r['error']}")
                continue
            cells = []
            for what in KINDS:
                t, ratio = r[what], r[what]["ratio"]
                span = f"({t['min'] * 1e6:,.1f} to {t['max'] * 1e6:,.1f})"
                cells.append(f"{t['median'] * 1e6:>9,.1f} {span:<21} {'x -' if ratio is None else f'x {ratio:.2f}':<8}")
            memory = " / ".join(f"{r['step_bytes'][what] / 1e6:,.1f}" for what in KINDS)
            growth = "" if before is None or name != "length" else f"  memory grows by length ^ {_exponents(before, r)}"
            print(f"  {model:<8} {r['value']:>10,}  {'  '.join(cells)} {memory} MB{growth}")
            before = r
        for check in result["checks"]:
            says = {True: "holds", False: "does not hold", None: f"not known: {check.get('reason')}"}[check["holds"]]
            ratio = f" {check['ratio']:.3f}, at most {LIMIT}:" if "ratio" in check else ""
            print(f"  {model:<8} {check['what']}, ten times the items{ratio} {says}")


def _exponents(small: dict[str, Any], large: dict[str, Any]) -> str:
    """By which power of the length the memory of a step grows from one point to the next: 1 is linear, 2 an L x L tensor."""
    pairs = [(small["step_bytes"][what], large["step_bytes"][what]) for what in KINDS]
    scale = math.log(large["value"] / small["value"])
    return " / ".join(f"{math.log(b / a) / scale:.2f}" if min(a, b) > 0 else "-" for a, b in pairs)


def source() -> str:
    """A hash of the program that is measured."""
    digest = hashlib.sha256()
    files = [*Path(seerec.__file__).parent.rglob("*.py"), *Path(seerec.__file__).parent.rglob("*.so")]
    for file in sorted([*files, *Path(__file__).parent.glob("curve*.py"), Path(__file__).with_name("steps.py")]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def kept(out: Path, facts: dict[str, Any], again: bool) -> dict[str, Any]:
    """The finished curves of the file.

    Raises
    ------
    SeerecError
        They were measured under other circumstances.
    """
    if not out.is_file():
        return {}
    found = json.loads(out.read_text())
    changed = [name for name in facts if found["facts"].get(name) != facts[name]]
    if not changed:
        curves: dict[str, Any] = found["curves"]
        return curves
    if again:
        return {}
    name = changed[0]
    raise SeerecError(
        f"{out} was measured with {name} {found['facts'].get(name)}, not {facts[name]}.",
        "Choose another --out, or measure everything anew with --again.",
    )


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curve", action="append", choices=CURVES, help="only this one; repeatable")
    parser.add_argument("--turns", type=int, help="of every point; 5, or 2 with --quick")
    parser.add_argument("--seconds", type=float, help="of a turn, at least; 2, or 0.1 with --quick")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of all curves but that of threads")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, measures nothing")
    parser.add_argument("--again", action="store_true", help="measure finished curves anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/curves.json"), help="the figure is beside it")
    given = parser.parse_args()
    given.turns = given.turns or (2 if given.quick else 5)
    given.seconds = given.seconds or (0.1 if given.quick else 2.0)
    # The catalogue and vocabulary sizes that KuaiSAR's authors publish.
    sizes = (
        {"items": 2_000, "users": 500, "words": 2_000} if given.quick else {"items": 673_415, "users": 100_000, "words": 394_912}
    )
    common = {**sizes, "seed": given.seed, "threads": given.threads} | ({"rows": 8, "pool": 4_000} if given.quick else {})
    facts = {
        "processor": processor(), "processors": os.cpu_count(), "threads": given.threads, "torch": torch.__version__,
        "python": platform.python_version(), "kernels": library.said, "source": source(), "turns": given.turns,
        "seconds": given.seconds, "quick": given.quick, **sizes, "seed": given.seed,
    }  # fmt: skip
    try:
        curves = kept(given.out, facts, given.again)
    except SeerecError as error:
        sys.exit(str(error))
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    plan = QUICK if given.quick else CURVES
    wanted = [name for name in given.curve or plan if given.again or name not in curves]
    units = sum(len(plan[name].values) * len(plan[name].models) for name in wanted) * given.turns * len(KINDS)
    with Progress().task("curves", total=units, unit="turns") as bar:
        for name in wanted:
            curve = plan[name]
            curves[name] = {
                "field": curve.field,
                "base": curve.base,
                "models": {model: measure(name, curve, model, given, common, bar) for model in curve.models},
            }
            write_json(given.out, {"facts": facts, "curves": curves})
    for name in given.curve or plan:
        show(name, plan[name], curves[name])
    for file in draw(curves, facts, given.out):
        print(file)


if __name__ == "__main__":
    main()
