"""Are two runs different? Paired tests on the same users, corrections for many tests, and AUC.

The unit of every test is the user: a user's targets are averaged first, since they are not independent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from seerec.errors import SeerecError
from seerec.evaluation.metrics import mean

FLIPS = 10_000
_CHUNK = 1 << 22  # random signs held at once
_COMMON = 64  # from so many users with one size of difference on, one binomial draw is cheaper than their signs


@dataclass(frozen=True)
class Comparison:
    """Run A against run B on n users. All p values are two-sided; ``difference`` is A minus B."""

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    """Lower end of the 95 % confidence interval of the mean difference (Student's t)."""
    high: float
    """Upper end of the same interval."""
    t: float
    """Statistic of the paired t test, n - 1 degrees of freedom; infinite when all differences are one value but 0."""
    t_p: float
    wilcoxon_p: float
    """Wilcoxon's signed-rank test; users without a difference are left out of the ranking."""
    sign_flip_p: float
    """Permutation test: the sign of each user's difference is flipped at random."""
    effect_size: float
    """Cohen's d_z: mean difference / standard deviation of the differences; infinite where ``t`` is."""


def by_user(values: NDArray[np.float64], user: NDArray[np.integer]) -> NDArray[np.float64]:
    """Average the n values of targets within each user. Returns one float64 per distinct user, ascending by user."""
    _, index, count = np.unique(user, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(index, weights=values) / count, np.float64)


def compare(a: NDArray[np.float64], b: NDArray[np.float64], *, seed: int = 0) -> Comparison:
    """Compare two runs by one value per user each, in the same order of users.

    Parameters
    ----------
    a, b
        n values each.
    seed
        Of the sign flips: same seed, same p value.

    Raises
    ------
    SeerecError
        The runs hold different numbers of users, fewer than two, or a value that is not finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise SeerecError(
            f"The two runs hold {a.size} and {b.size} values, which cannot be paired.",
            "Compare runs that were evaluated on the same targets of the same corpus.",
        )
    if a.size < 2:
        raise SeerecError("A paired test needs at least two users.", "Evaluate on more users.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise SeerecError("A value of the two runs is not a finite number.", "Evaluate the runs again.")
    difference = a - b
    t, t_p = paired_t(difference)
    centre, low, high, effect_size = interval(difference)
    return Comparison(
        n=a.size,
        mean_a=mean(a),
        mean_b=mean(b),
        difference=centre,
        low=low,
        high=high,
        t=t,
        t_p=t_p,
        wilcoxon_p=wilcoxon(difference),
        sign_flip_p=sign_flip(difference, seed=seed),
        effect_size=effect_size,
    )


def interval(difference: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Of n >= 2 differences: mean, both ends of its 95 % confidence interval (Student's t), Cohen's d_z."""
    centre, deviation = mean(difference), _deviation(difference)
    margin = float(stats.t.ppf(0.975, difference.size - 1)) * deviation / difference.size**0.5
    return centre, centre - margin, centre + margin, _ratio(centre, deviation)


def _deviation(difference: NDArray[np.float64]) -> float:
    return float((np.square(difference - mean(difference)).sum() / (difference.size - 1)) ** 0.5)


def _ratio(centre: float, spread: float) -> float:
    if spread:
        return centre / spread
    return float(np.copysign(np.inf, centre)) if centre else 0.0


def paired_t(difference: NDArray[np.float64]) -> tuple[float, float]:
    """Student's paired t test of n >= 2 differences: statistic mean / (deviation / sqrt n), two-sided p."""
    t = _ratio(mean(difference), _deviation(difference) / difference.size**0.5)
    return t, float(2 * stats.t.sf(abs(t), difference.size - 1))


def _comparable(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The differences that are not 0, in units of the largest: sizes that only rounding tells apart become equal."""
    largest = np.abs(difference).max()
    if largest == 0:
        return difference[:0]
    scaled = np.round(difference / largest, 12)
    nonzero: NDArray[np.float64] = scaled[scaled != 0]
    return nonzero


def wilcoxon(difference: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 when all differences are 0."""
    nonzero = _comparable(difference)
    return float(stats.wilcoxon(nonzero).pvalue) if nonzero.size else 1.0


def sign_flip(difference: NDArray[np.float64], *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of the sign-flip permutation test: (1 + #{|flipped sum| >= |sum|}) / (1 + flips).

    Users with equal |difference| are exchangeable: the sum of m random signs is 2 Binomial(m, 1/2) - m. So a million
    users with a handful of distinct differences cost a handful of draws per flip.
    """
    nonzero = _comparable(difference)
    if nonzero.size == 0:
        return 1.0
    size, count = np.unique(np.abs(nonzero), return_counts=True)
    common = count >= _COMMON
    single = np.repeat(size[~common], count[~common])
    size, count = size[common], count[common]
    total = np.abs(nonzero).sum()
    reached = abs(nonzero.sum()) - 1e-12 * total  # sums of one set of signs differ in their last digits
    generator = np.random.Generator(np.random.Philox(seed))
    rows = max(1, _CHUNK // (len(single) + len(size)))
    extreme = 0
    for start in range(0, flips, rows):
        drawn = min(rows, flips - start)
        packed = generator.integers(0, 256, (drawn, -(-len(single) // 8)), dtype=np.uint8)
        positive = np.unpackbits(packed, axis=1, count=len(single)) @ single
        positive += generator.binomial(count, 0.5, (drawn, len(count))) @ size
        extreme += int(np.count_nonzero(np.abs(2 * positive - total) >= reached))
    return (1 + extreme) / (1 + flips)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjustment: the i-th smallest of m p values times m - i + 1, made monotone, at most 1.

    Rejecting where the adjusted value is below alpha keeps the chance of any false rejection below alpha. The order
    of the input is kept. Source: S. Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1.0)
    return adjusted


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The probability that a random positive scores above a random negative, ties counting half.

    nan unless both labels occur.
    """
    return mean_auc_by_group(scores, labels, np.zeros(np.shape(scores), np.int64))[0]


def mean_auc_by_group(scores: ArrayLike, labels: ArrayLike, group: ArrayLike) -> tuple[float, int]:
    """AUC inside each group (a user's searches), averaged over the groups that hold both labels.

    Parameters
    ----------
    scores, labels, group
        n numbers, n bools (or 0 / 1), n integers.

    Returns
    -------
    The mean (nan when no group holds both labels) and the number of groups that do.

    Raises
    ------
    ValueError
        Lengths differ, or a label is neither 0 nor 1.
    SeerecError
        A score is NaN.
    """
    scores, labels, group = np.asarray(scores, np.float64), np.asarray(labels), np.asarray(group)
    if scores.ndim != 1 or not scores.shape == labels.shape == group.shape:
        raise ValueError(f"scores {scores.shape}, labels {labels.shape}, group {group.shape} must be equal vectors")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if np.isnan(scores).any():
        raise SeerecError("A score is not a number (NaN).", "The model diverged: train again with a smaller learning rate.")
    if scores.size == 0:
        return float("nan"), 0
    order = np.lexsort((scores, group))
    scores, labels, group = scores[order], labels[order].astype(bool), group[order]
    new_group = np.concatenate([[True], group[1:] != group[:-1]])
    new_score = new_group | np.concatenate([[True], scores[1:] != scores[:-1]])
    start = np.flatnonzero(new_score)
    end = np.append(start[1:], scores.size)
    rank = ((start + end + 1) / 2)[np.cumsum(new_score) - 1]  # 1-based over all rows, shared by ties
    index = np.cumsum(new_group) - 1
    first = np.flatnonzero(new_group)
    positives = np.bincount(index, weights=labels)
    negatives = np.bincount(index) - positives
    rank_sum = np.bincount(index, weights=np.where(labels, rank - first[index], 0.0))
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return float("nan"), 0
    above = rank_sum[both] - positives[both] * (positives[both] + 1) / 2
    return mean(above / (positives[both] * negatives[both])), int(both.sum())
