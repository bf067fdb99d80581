"""Run the checks group by group, print the seconds of each, and fail when any fails."""

import os
import subprocess
import sys
import time
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
    "data": [*PYTEST, "tests/data"],
    "models": [*PYTEST, "tests/models"],
    "evaluation": [*PYTEST, "tests/evaluation"],
    "training": [*PYTEST, "tests/training"],
    "evidence": [*PYTEST, "tests/evidence"],
    "use": [*PYTEST, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_*.py"))],
}
SLOW = {
    "crash": [*PYTEST, "tests/crash"],
    "demo": [*PYTEST, "tests/demo"],
}
QUICK = {name: [*command, "-m", "not slow"] for name, command in TESTS.items()}
GROUPS = {"check": CHECK, "quick": CHECK | QUICK, "all": CHECK | TESTS | SLOW}


def main() -> int:
    """Run the chosen groups; 0 when all pass."""
    # One thread per process: tests are many small operations, and the same seed then gives the same bytes anywhere.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    seconds: dict[str, float] = {}
    failed = []
    for name, command in GROUPS[sys.argv[1]].items():
        print(f"== {name}", flush=True)
        began = time.monotonic()
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            failed.append(name)
        seconds[name] = time.monotonic() - began
    for name, spent in seconds.items():
        print(f"{name:<12} {spent:7.1f} s  {'FAILED' if name in failed else 'ok'}")
    print(f"{'total':<12} {sum(seconds.values()):7.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
