"""Whether the kernels' products round their operands to 16 bits (bfloat16); sums, states and softmax stay in fp32."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

from seerec.errors import SeerecError
from seerec.kernels import library as loading

Precision = Literal["fp32", "bf16"]

_now: ContextVar[Precision] = ContextVar("precision", default="fp32")
"""Of this thread: another one may be answering a question meanwhile."""


def has_halves() -> bool:
    """Whether this processor multiplies matrices of 16-bit numbers (AMX), and the kernels are there to ask it."""
    return loading.library.functions is not None and bool(loading.library.functions.seerec_has_halves())


def choose(asked: Literal["auto", "bf16", "fp32"], place: torch.device) -> tuple[Precision, str]:
    """The precision of a training's products there, and one line that says why.

    Raises
    ------
    SeerecError
        bf16 is asked for, and there is none.
    """
    can = place.type == "cpu" and has_halves()
    if asked == "bf16" and not can:
        raise SeerecError(
            "Kernels cannot multiply in bf16 here: that takes a processor with AMX and compiled kernels.",
            "Set precision to auto or fp32.",
        )
    if asked == "fp32":
        return "fp32", "products in fp32, as asked"
    if can:
        return "bf16", "products in bf16, since the processor has AMX (--set precision=fp32 does without)"
    return "fp32", "products in fp32: " + ("kernels are for processors" if place.type != "cpu" else "no AMX, or no kernels")


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Within, kernels multiply in this precision; ``bf16`` only after ``has_halves``."""
    token = _now.set(precision)
    try:
        yield
    finally:
        _now.reset(token)


def in_halves() -> bool:
    """Whether they do so now."""
    return _now.get() == "bf16"
