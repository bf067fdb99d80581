"""Arrays in files of NumPy's format, larger than memory should hold."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_array(file: Path) -> NDArray[Any]:
    """A mapped array. ``numpy.load`` would also open archives, and leave a damaged file open."""
    array: NDArray[Any] = np.lib.format.open_memmap(file, mode="r")
    return array


def write_array(file: Path, shape: tuple[int, ...], dtype: type[np.generic], parts: Iterable[NDArray[Any]]) -> None:
    """The bytes that ``numpy.save`` would write of all parts one below the other, without having them together."""
    with file.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
        for part in parts:
            out.write(np.ascontiguousarray(part, dtype).reshape(-1).view(np.uint8).data)
