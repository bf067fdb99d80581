"""Freed memory waits for its next use."""

import subprocess
import sys

import pytest

from seerec.allocator import keep_freed_memory

PROGRAM = """
import resource, sys
import torch
from seerec.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=120)
    return int(run.stdout)


def test_a_step_pays_for_its_memory_once():
    if not keep_freed_memory():
        pytest.skip("not the GNU C library")
    assert faults("keep") * 2 < faults("leave")  # what remains is the heap that grows, not every step's blocks
