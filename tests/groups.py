"""Run the checks in groups, print the seconds of each, and fail when any fails."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CHECK = {
    "lint": [str(BIN / "ruff"), "check", "src", "tests", "benchmarks"],
    "format": [str(BIN / "ruff"), "format", "--check", "src", "tests", "benchmarks"],
    "types": [str(BIN / "mypy")],
    "imports": [str(BIN / "lint-imports")],
}
PYTEST = [sys.executable, "-m", "pytest"]
TESTS = {
    "models": [*PYTEST, "tests/models"],
    "evaluation": [*PYTEST, "tests/evaluation"],
    "training": [*PYTEST, "tests/training"],
    "use": [*PYTEST, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_*.py"))],
    "data": [*PYTEST, "tests/data", "--ignore=tests/data/test_spark.py"],
    "evidence": [*PYTEST, "tests/evidence"],
}
SLOW = {
    "spark": [*PYTEST, "tests/data/test_spark.py"],
    "crash": [*PYTEST, "tests/crash"],
    "demo": [*PYTEST, "tests/demo"],
}
QUICK = {name: [*command, "-m", "not slow"] for name, command in TESTS.items()}
GROUPS = {"check": CHECK, "quick": CHECK | QUICK, "all": CHECK | TESTS | SLOW}


def run(name: str, command: list[str]) -> tuple[str, bool, float]:
    """One group in a process of its own; its output comes out whole, when it has ended."""
    # One thread per process: tests are many small operations, and the same seed then gives the same bytes anywhere.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    began = time.monotonic()
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    spent = time.monotonic() - began
    print(f"== {name} ({spent:.0f} s)\n{ended.stdout}", end="", flush=True)
    return name, ended.returncode == 0, spent


def main() -> int:
    """Run the chosen groups, two at a time; 0 when all pass."""
    began = time.monotonic()
    groups = GROUPS[sys.argv[1]]
    print(f"{len(groups)} groups: {', '.join(groups)}", flush=True)
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        found = list(pool.map(run, groups, groups.values()))
    for name, passed, spent in found:
        print(f"{name:<12} {spent:7.1f} s  {'ok' if passed else 'FAILED'}")
    print(f"{'together':<12} {time.monotonic() - began:7.1f} s")
    return 0 if all(passed for _, passed, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
