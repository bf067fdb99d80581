"""What the machine can do at most: rates of matrix products and of memory, measured in turns with everything else.

A worker: ``measure ceilings SECONDS`` (see `answers.py`). A figure is the fastest call of its share of these seconds, because
a ceiling is what is possible, not what is usual.
"""

import time
from collections.abc import Callable

import torch
from answers import Answer, serve

LARGE = 2048
"""Rows, columns and depth of the large product."""
SMALL = (3840, 64, 64)
"""Rows, depth and columns of the product that models of width 64 make: 128 rows with a target in each of 30 slots."""
FLOATS = 1 << 26
"""Of one array (256 MB): more than a cache holds."""
CALLS = 20
"""Small products between two looks at the clock."""


def fastest(call: Callable[[], object], least: float, calls: int = 1) -> float:
    """Seconds of the fastest call within ``least`` seconds, after one that does not count; ``calls`` at a time."""
    call()
    best, until = float("inf"), time.perf_counter() + least
    while True:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        ended = time.perf_counter()
        best = min(best, (ended - began) / calls)
        if ended >= until:
            return best


def product(rows: int, depth: int, columns: int, kind: torch.dtype, least: float, calls: int = 1) -> float:
    """Floating-point operations a second of a matrix product: 2 rows depth columns each."""
    a, b = torch.ones(rows, depth, dtype=kind), torch.ones(depth, columns, dtype=kind)
    out = torch.empty(rows, columns, dtype=kind)
    return 2 * rows * depth * columns / fastest(lambda: torch.mm(a, b, out=out), least, calls)


def measure(what: str, name: str, least: float) -> Answer:
    """FLOP/s of products by type and shape, and bytes/s of a copy (2 arrays) and of a triad a = b + s c (3 arrays)."""
    if (what, name) != ("measure", "ceilings"):
        return {"error": f"this worker answers `measure ceilings SECONDS`, not `{what} {name}`"}
    part, found = least / 6, {}
    for label, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found[f"matmul_{label}_flop_per_s"] = product(LARGE, LARGE, LARGE, kind, part)
        found[f"matmul_{label}_small_flop_per_s"] = product(*SMALL, kind, part, CALLS)
    a, b, c = torch.zeros(FLOATS), torch.ones(FLOATS), torch.ones(FLOATS)
    found["copy_bytes_per_s"] = 2 * 4 * FLOATS / fastest(lambda: a.copy_(b), part)
    found["triad_bytes_per_s"] = 3 * 4 * FLOATS / fastest(lambda: torch.add(b, c, alpha=3.0, out=a), part)
    return found


if __name__ == "__main__":
    serve(measure)
