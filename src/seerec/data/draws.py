"""Counter-based random numbers: a draw is a function of its coordinates, so no state needs saving."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 finaliser (Steele, Lea & Flood 2014): a bijection whose output looks uniform."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def bits(*coordinates: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for each point of the broadcast integer coordinates, such as (seed, epoch, event, draw)."""
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for coordinate in coordinates:
            state = _mix((state + _STEP) ^ (np.asarray(coordinate).astype(np.int64).astype(np.uint64) * _STEP))
        return _mix(np.asarray(state + _STEP))


def below(limit: ArrayLike, *coordinates: ArrayLike) -> NDArray[np.int64]:
    """Integers uniform on 0 .. limit - 1 (limit < 2**32)."""
    high = bits(*coordinates) >> np.uint64(32)
    return ((high * np.asarray(limit).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def uniform(*coordinates: ArrayLike) -> NDArray[np.float64]:
    """Floats uniform on [0, 1)."""
    return (bits(*coordinates) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def seed_of(*coordinates: int) -> int:
    """One non-negative 63-bit seed for a torch generator."""
    return int(bits(*coordinates) >> np.uint64(1))
