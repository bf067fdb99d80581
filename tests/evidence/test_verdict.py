"""The verdict: calibrated where nothing differs, and never from one seed's luck."""

import numpy as np
import pytest
from scipy import stats

from seerec.evaluation.significance import holm, paired_t
from seerec.evidence.verdict import Measured, against, judge, measure, seed_error


def measured(users, means=(0.0, 0.0)):
    return Measured(np.array(means), np.array(means), np.asarray(users, float))


def test_where_nothing_differs_five_in_a_hundred_tests_say_so_and_few_families():
    """Per-user differences of two rankings, whose signs are flipped at random: no model is better than another.

    The tests of a draw are taken apart for speed; ``against`` says the same in every tenth.
    """
    generator = np.random.default_rng(20261122)
    rank = generator.integers(1, 101, (2, 15, 200))
    gain = np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0)
    size = (gain[0] - gain[1]) + generator.normal(0, 0.02, (15, 200))  # 15 models, 200 users
    reference = measured(np.zeros(200))
    draws, single, family = 2000, 0, 0
    for draw in range(draws):
        flipped = size * generator.choice([-1.0, 1.0], size.shape)
        p = [paired_t(users)[1] for users in flipped]
        adjusted = holm(p)
        single += sum(one < 0.05 for one in p)
        family += bool(adjusted.min() < 0.05)
        if draw % 10 == 0:
            rows = {"reference": reference, **{str(i): measured(users) for i, users in enumerate(flipped)}}
            found = list(against(rows, "reference").values())
            assert [one.t_p for one in found] == p
            assert [one.holm_p for one in found] == adjusted.tolist()
            assert [one.verdict != "no difference" for one in found] == (adjusted < 0.05).tolist(), "the seeds have no spread"
    assert single / (15 * draws) == pytest.approx(0.05, abs=0.015)
    assert family / draws <= 0.065
    assert family / draws >= 0.02, "a test that never speaks is not calibrated either"


@pytest.mark.parametrize(
    ("difference", "p", "error", "word"),
    [
        (0.1, 0.001, 0.04, "better"),
        (-0.1, 0.001, 0.04, "worse"),
        (0.1, 0.001, 0.06, "no difference"),
        (0.1, 0.06, 0.001, "no difference"),
        (0.1, 0.05, 0.001, "no difference"),
        (0.1, 1e-9, None, "one seed only"),
        (0.0, 1.0, 0.0, "no difference"),
    ],
)
def test_the_rule(difference, p, error, word):
    assert judge(difference, p, error) == word


def test_a_lead_inside_the_spread_of_seeds_is_no_difference_however_many_users():
    users = np.random.default_rng(0).normal(0.02, 0.1, 5000)
    rows = {"base": measured(np.zeros(5000), (0.50, 0.50)), "row": measured(users, (0.40, 0.64))}
    found = against(rows, "base")["row"]
    assert found.t_p < 1e-9
    assert found.verdict == "no difference"
    steady = against({**rows, "row": measured(users, (0.519, 0.521))}, "base")["row"]
    assert steady.verdict == "better"


def test_seeds_are_averaged_before_users_are_paired_and_targets_before_users():
    """Two targets of user 0, one of user 1, two seeds."""
    found = measure([np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0])], np.array([0, 0, 1]))
    assert found.means.tolist() == pytest.approx([2 / 3, 2 / 3])
    assert found.user_means.tolist() == pytest.approx([0.75, 0.5])
    assert found.users.tolist() == pytest.approx([0.75, 0.5])


def test_the_seed_standard_error_is_that_of_welch():
    a, b = np.array([0.1, 0.2, 0.6]), np.array([0.3, 0.4])
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert (0.3 - 0.35) / seed_error(a, b) == pytest.approx(welch.statistic)
    assert seed_error(a, np.array([0.3])) is None


def test_equal_rows_differ_by_nothing():
    row = measured(np.array([0.1, 0.2, 0.7]))
    found = against({"base": row, "same": row}, "base")["same"]
    assert (found.difference, found.t_p, found.holm_p, found.effect_size, found.verdict) == (0.0, 1.0, 1.0, 0.0, "no difference")
