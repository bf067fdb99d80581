"""Ranking metrics as pure functions of how many candidates stand above the positive, and how many beside it.

A target has one relevant item, the positive. ``greater`` counts the candidates scored strictly above it, ``ties`` the
OTHER candidates with exactly its score. Ties are broken uniformly at random and every metric is its expectation over
that draw: the rank p is uniform on greater + 1 .. greater + ties + 1. So a scorer that gives all candidates the same
score gets the random level and no more.

n below is the number of targets.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from seerec.errors import SeerecError

METRICS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")
"""Every metric, in the order in which tables print them."""


def _counts(greater: ArrayLike, ties: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    arrays = np.asarray(greater), np.asarray(ties)
    for name, array in zip(("greater", "ties"), arrays, strict=True):
        if array.size and (not np.issubdtype(array.dtype, np.integer) or array.min() < 0):
            raise ValueError(f"{name} must hold counts: integers that are not negative")
    if arrays[0].ndim != 1 or arrays[0].shape != arrays[1].shape:
        raise ValueError(f"greater {arrays[0].shape} and ties {arrays[1].shape} must be two vectors of one length")
    return arrays[0].astype(np.int64), arrays[1].astype(np.int64)


def hit_rate(greater: ArrayLike, ties: ArrayLike, k: int) -> NDArray[np.float64]:
    """HR@k: the probability that the positive is among the first k.

    P(p <= k) = clip((k - greater) / (ties + 1), 0, 1). Returns n float64.
    """
    above, beside = _counts(greater, ties)
    probability: NDArray[np.float64] = np.clip((k - above) / (beside + 1), 0.0, 1.0)
    return probability


def ndcg(greater: ArrayLike, ties: ArrayLike, k: int) -> NDArray[np.float64]:
    """NDCG@k with one relevant item, so that the ideal is 1.

    E[p <= k] / log2(p + 1) = (D(min(k, greater + ties + 1)) - D(min(k, greater))) / (ties + 1), where
    D(m) = sum of 1 / log2(p + 1) over p = 1 .. m. Returns n float64.
    """
    above, beside = _counts(greater, ties)
    gain = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    total: NDArray[np.float64] = gain[np.minimum(above + beside + 1, k)] - gain[np.minimum(above, k)]
    return total / (beside + 1)


def reciprocal_rank(greater: ArrayLike, ties: ArrayLike) -> NDArray[np.float64]:
    """MRR: E 1 / p = (H(greater + ties + 1) - H(greater)) / (ties + 1), H(m) the m-th harmonic number.

    H(m) is digamma(m + 1) plus a constant, so no table grows with the catalogue. Returns n float64.
    """
    above, beside = _counts(greater, ties)
    mean = (digamma(above + beside + 2.0) - digamma(above + 1.0)) / (beside + 1)
    # The difference of two large harmonic numbers loses digits; without ties none is needed.
    reciprocal: NDArray[np.float64] = np.where(beside == 0, 1.0 / (above + 1), mean)
    return reciprocal


def per_target(greater: ArrayLike, ties: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """All of ``METRICS``, each n float64 in [0, 1].

    With ``ties`` set to 0 the same call gives the optimistic metrics, and with ``greater + ties`` and 0 the
    pessimistic ones.

    Raises
    ------
    ValueError
        The two are not vectors of counts of one length.
    """
    return {
        "hr@1": hit_rate(greater, ties, 1),
        "hr@5": hit_rate(greater, ties, 5),
        "hr@10": hit_rate(greater, ties, 10),
        "ndcg@5": ndcg(greater, ties, 5),
        "ndcg@10": ndcg(greater, ties, 10),
        "mrr": reciprocal_rank(greater, ties),
    }


def ranks(
    greater: ArrayLike, ties: ArrayLike, kind: Literal["expected", "optimistic", "pessimistic"] = "expected"
) -> NDArray[np.float64]:
    """Rank of the positive, 1 = first: n float64.

    expected = 1 + greater + ties / 2; optimistic = 1 + greater; pessimistic = 1 + greater + ties.
    """
    above, beside = _counts(greater, ties)
    share = {"expected": 0.5, "optimistic": 0.0, "pessimistic": 1.0}[kind]
    return 1.0 + above + share * beside


def mean(values: NDArray[Any]) -> float:
    """Arithmetic mean that rounding cannot push outside the range of the values: equal values have exactly it."""
    return float(np.clip(values.mean(), values.min(), values.max()))


def summary(values: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Mean of each vector that ``per_target`` returned.

    Raises
    ------
    SeerecError
        There is no target.
    """
    if any(len(vector) == 0 for vector in values.values()):
        raise SeerecError(
            "There is no target to evaluate.", "Choose a split with targets, or prepare again with other split bounds."
        )
    return {name: mean(vector) for name, vector in values.items()}


def random_level(candidates: int) -> dict[str, float]:
    """The metrics of a scorer that knows nothing, ranking the positive among ``candidates`` items (itself included)."""
    return summary(per_target(np.array([0]), np.array([candidates - 1])))
