"""Whether the kernels' products round their operands to 16 bits (bfloat16). Sums, states, normalisation and softmax stay in fp32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from seerec.kernels.library import library

Precision = Literal["fp32", "bf16"]

_now: Precision = "fp32"


def has_halves() -> bool:
    """Whether this processor multiplies matrices of 16-bit numbers (AMX), and the kernels are there to ask it."""
    return library.functions is not None and bool(library.functions.seerec_has_halves())


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Within, kernels multiply in this precision; ``bf16`` only after ``has_halves``."""
    global _now
    before, _now = _now, precision
    try:
        yield
    finally:
        _now = before


def in_halves() -> bool:
    """Whether they do so now."""
    return _now == "bf16"
