"""Arrays in files of NumPy's format, larger than memory should hold."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_parsing = threading.Lock()
"""NumPy parses an array's header as Python, and CPython 3.11 cannot do that on two threads at once: now and then it fails with
"AST constructor recursion depth mismatch"."""


def read_array(file: Path) -> NDArray[Any]:
    """A mapped array. ``numpy.load`` would also open archives, and leave a damaged file open."""
    with _parsing:
        array: NDArray[Any] = np.lib.format.open_memmap(file, mode="r")
    return array


def write_array(file: Path, shape: tuple[int, ...], dtype: type[np.generic], parts: Iterable[NDArray[Any]]) -> None:
    """The bytes that ``numpy.save`` would write of all parts one below the other, without having them together."""
    with file.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
        for part in parts:
            out.write(np.ascontiguousarray(part, dtype).reshape(-1).view(np.uint8).data)
