"""The lines that our own workers exchange with the driver, the same as those of `peers/protocol.py`.

A request is ``WHAT NAME SECONDS`` on standard input or ``quit``; the answer is one JSON object in one line of standard output.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seerec.allocator import keep_freed_memory

Answer = dict[str, Any]


def serve(measure: Callable[[str, str, float], Answer]) -> None:
    """Answer until ``quit`` or the end of the input; what fails is answered with ``{"error": reason}``."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not answer
    set_threads()
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            return
        try:
            if len(words) != 3:
                raise ValueError(f"not a request: {line.strip()}. Write WHAT NAME SECONDS.")
            answer = measure(words[0], words[1], float(words[2]))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def set_threads() -> None:
    """Memory as in the seerec command; threads from ``SEEREC_BENCH_THREADS``, by default as many as there are processors."""
    keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("SEEREC_BENCH_THREADS", os.cpu_count() or 1)))


def peak_bytes() -> int:
    """The most memory that this process has held (Linux).

    Not ``ru_maxrss``: that one starts from what the parent held when it started the process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
