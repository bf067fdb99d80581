"""Is a row different from the reference? Users paired after averaging over seeds, Holm's correction, and the seeds' spread.

"Better" needs both: an adjusted p below .05 over users, and a difference over twice its seed standard error. The first alone
would call chance of initialisation a finding, since thousands of users make any one pair of trained models differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seerec.errors import SeerecError
from seerec.evaluation.metrics import mean
from seerec.evaluation.significance import by_user, holm, interval, paired_t

Word = Literal["better", "worse", "no difference", "one seed only"]
ALPHA = 0.05
SEED_ERRORS = 2.0


@dataclass(frozen=True)
class Measured:
    """One model and one metric: S seeds on U users."""

    means: NDArray[np.float64]  # S    over targets, as `seerec evaluate` prints it
    user_means: NDArray[np.float64]  # S    over users, whose targets are averaged first
    users: NDArray[np.float64]  # U    each user's metric, averaged over seeds


@dataclass(frozen=True)
class Difference:
    """A row minus the reference."""

    difference: float
    low: float
    """Lower end of the 95 % interval over users (Student's t)."""
    high: float
    t_p: float
    """Two-sided paired t test over users."""
    holm_p: float
    """Adjusted over all rows that were asked for, a missing one counting as p = 1."""
    effect_size: float
    """Cohen's d_z."""
    seed_error: float | None
    """sqrt(s_a^2 / n_a + s_b^2 / n_b) over the seeds' means; None where either has one seed."""
    verdict: Word


def measure(vectors: list[NDArray[np.float64]], user: NDArray[np.integer]) -> Measured:
    """One vector of n targets per seed, and the user of each target."""
    users = [by_user(vector, user) for vector in vectors]
    return Measured(
        np.array([mean(vector) for vector in vectors]),
        np.array([mean(vector) for vector in users]),
        np.asarray(np.mean(users, axis=0), np.float64),
    )


def spread(means: NDArray[np.float64]) -> float | None:
    """Standard deviation over S seeds (S - 1 in the denominator); None for one."""
    return float(means.std(ddof=1)) if len(means) > 1 else None


def seed_error(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Standard error of the difference of two models' averages, each over its seeds' means; None where either has one seed."""
    if min(a.size, b.size) < 2:
        return None
    return float(np.sqrt(a.var(ddof=1) / a.size + b.var(ddof=1) / b.size))


def judge(difference: float, holm_p: float, error: float | None) -> Word:
    """The rule."""
    if error is None:
        return "one seed only"
    if holm_p < ALPHA and abs(difference) > SEED_ERRORS * error:
        return "better" if difference > 0 else "worse"
    return "no difference"


def against(rows: Mapping[str, Measured | None], reference: str) -> dict[str, Difference]:
    """Every row that was measured against the reference.

    Parameters
    ----------
    rows
        One metric of every model asked for, None where it is missing.
    reference
        One of them, which was measured.

    Raises
    ------
    SeerecError
        There are fewer than two users.
    """
    base = rows[reference]
    assert base is not None
    if base.users.size < 2:
        raise SeerecError("A paired test needs at least two users.", "Compare on a corpus with more users.")
    others = [key for key in rows if key != reference]
    tested = {key: row.users - base.users for key in others if (row := rows[key]) is not None}
    p = {key: paired_t(values)[1] for key, values in tested.items()}
    adjusted = dict(zip(others, holm([p.get(key, 1.0) for key in others]), strict=True))
    found = {}
    for key, values in tested.items():
        centre, low, high, effect = interval(values)
        row = rows[key]
        assert row is not None
        error = seed_error(row.user_means, base.user_means)
        found[key] = Difference(
            centre, low, high, p[key], float(adjusted[key]), effect, error,
            judge(centre, float(adjusted[key]), error),
        )  # fmt: skip
    return found
