"""How a process that repeats steps of one shape holds its memory."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 1 << 30
"""Bytes below which a freed block waits for its next use."""


def keep_freed_memory() -> bool:
    """Let freed blocks wait for the next step; whether that could be arranged (it is a matter of the GNU C library).

    Otherwise large blocks go back to the system with every step, and come again a page fault for every 4 KiB: of an evaluated
    batch that was 5 to 25 % of the time (docs/performance.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_THRESHOLD, _MOST)) and bool(libc.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
