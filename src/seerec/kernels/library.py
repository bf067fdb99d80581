"""Where the compiled kernels are, whether they serve given tensors, and how tensors are handed to them."""

import ctypes
import importlib.machinery
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

_GENERATIONS = {"AVX512": ("x86_64_v4", "x86_64_v3", "x86_64"), "AVX2": ("x86_64_v3", "x86_64")}
"""By what torch says of the processor, best first."""
_SMALL = 1 << 14
"""Elements below which a second thread costs more than it does."""


class Library(NamedTuple):
    """The kernels in use, or why there are none."""

    functions: ctypes.CDLL | None
    said: str
    """One line for the log."""


def load() -> Library:
    """The best build that this processor can run; ``SEEREC_KERNELS=off`` does without."""
    if os.environ.get("SEEREC_KERNELS", "on") == "off":
        return Library(None, "torch's operations (SEEREC_KERNELS=off)")
    capability = torch.backends.cpu.get_cpu_capability()
    folder = Path(__file__).parent
    for name in (*_GENERATIONS.get(capability, ("x86_64",)), "generic"):
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            file = folder / f"native_{name}{suffix}"
            if file.is_file():
                try:
                    return Library(ctypes.CDLL(str(file)), f"compiled kernels ({name.replace('_', '-')})")
                except OSError as error:
                    return Library(None, f"torch's operations ({file.name} does not load: {error})")
    return Library(None, "torch's operations (no kernels: seerec was installed without g++)")


library = load()


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels can do it: one of the two types of storage, on the processor."""
    if library.functions is None:
        return False
    first = tensors[0].dtype
    return first in (torch.float32, torch.bfloat16) and all(t.dtype == first and t.device.type == "cpu" for t in tensors)


def serves_whole(*tensors: Tensor) -> bool:
    """Whether an operation made of many products can be done: all in fp32, which autocast would not leave so."""
    return all(x.dtype == torch.float32 for x in tensors) and serves(*tensors) and not torch.is_autocast_enabled("cpu")


def in_fp32(*tensors: Tensor) -> None:
    """Raise TypeError for a tensor that the kernels would read as what it is not."""
    if any(x.dtype != torch.float32 for x in tensors):
        raise TypeError(f"the kernel reads fp32, and was given {', '.join(sorted({str(x.dtype) for x in tensors}))}")


def functions() -> ctypes.CDLL:
    """The kernels, after ``serves`` has said yes."""
    assert library.functions is not None
    return library.functions


def threads(elements: int) -> int:
    """Threads for work on so many elements."""
    return torch.get_num_threads() if elements > _SMALL else 1


def rows_of(x_BMD: Tensor) -> tuple[Tensor, int]:
    """The tensor as rows at a constant distance, copied only if it is not, and that distance in elements."""
    b, m, d = x_BMD.shape
    stride = x_BMD.stride(1) if m > 1 else x_BMD.stride(0)
    regular = (d == 1 or x_BMD.stride(2) == 1) and (b == 1 or m == 1 or x_BMD.stride(0) == m * stride) and stride >= d
    return (x_BMD, stride) if regular else (x_BMD.contiguous(), d)


def pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Their addresses."""
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def longs(values: Sequence[int]) -> ctypes.Array[ctypes.c_long]:
    """Whole numbers as C has them."""
    return (ctypes.c_long * len(values))(*values)


def address(x: Tensor | None) -> ctypes.c_void_p | None:
    """Of the first element."""
    return None if x is None else ctypes.c_void_p(x.data_ptr())
