"""Paired tests against scipy and brute force, and their calibration when there is no difference."""

import json
from dataclasses import asdict
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seerec.errors import SeerecError
from seerec.evaluation.significance import (
    auc,
    by_user,
    compare,
    holm,
    mean_auc_by_group,
    paired_t,
    sign_flip,
    wilcoxon,
)

checked = settings(max_examples=50, deadline=None, derandomize=True, database=None)


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def test_compare_agrees_with_scipy():
    a, b = generator(1).random(200), generator(2).random(200) - 0.05
    found, expected = compare(a, b), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert (found.n, found.mean_a, found.mean_b) == (200, pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert (found.t, found.t_p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-10)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(a, b).pvalue, rel=1e-10)
    assert found.effect_size == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert found.sign_flip_p == pytest.approx(expected.pvalue, abs=0.01)


def test_exchanging_the_runs_changes_signs_only():
    a, b = generator(1).random(50), generator(2).random(50)
    there, back = compare(a, b), compare(b, a)
    assert (back.difference, back.t, back.low, back.effect_size) == (
        -there.difference, -there.t, -there.high, -there.effect_size,
    )  # fmt: skip
    assert (back.t_p, back.wilcoxon_p, back.sign_flip_p) == (there.t_p, there.wilcoxon_p, there.sign_flip_p)


def test_the_seed_decides_the_sign_flips():
    a, b = generator(1).random(50), generator(2).random(50)
    assert compare(a, b, seed=3) == compare(a, b, seed=3)
    assert compare(a, b, seed=3).sign_flip_p != compare(a, b, seed=4).sign_flip_p


@pytest.mark.parametrize("n", [2, 5, 14, 1000])
def test_equal_runs_have_p_one(n):
    found = compare(np.full(n, 0.1), np.full(n, 0.1))
    assert (found.t_p, found.wilcoxon_p, found.sign_flip_p) == (1, 1, 1)
    assert (found.difference, found.low, found.high, found.t, found.effect_size) == (0, 0, 0, 0, 0)
    assert "NaN" not in json.dumps(asdict(found))


@checked
@given(st.lists(st.tuples(st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1])), min_size=2, max_size=30))
def test_no_input_gives_nan_or_a_warning(pairs):
    a, b = np.array(pairs, float).T
    found = compare(a, b)
    assert not any(np.isnan(value) for value in asdict(found).values())
    assert all(0 <= p <= 1 for p in (found.t_p, found.wilcoxon_p, found.sign_flip_p))
    assert found.low <= found.difference <= found.high


def test_sign_flips_approach_the_exact_permutation_test():
    """All 2^9 sign vectors by brute force."""
    difference = np.array([0.3, -0.1, 0.3, 0.5, -0.5, 0.6, 0.25, 0.6, -0.05])
    signs = np.array(list(product([-1, 1], repeat=9)))
    exact = np.mean(np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9)
    assert sign_flip(difference, flips=100_000) == pytest.approx(exact, abs=0.002)


def test_sign_flips_of_many_equal_differences_approach_the_exact_test():
    """100 differences of one size, 3 of another: binomial weights times the 8 sign vectors."""
    difference = np.array([0.3] * 60 + [-0.3] * 40 + [0.1, 0.2, -0.15])
    common = 0.3 * (2 * np.arange(101) - 100)
    single = np.array(list(product([-1, 1], repeat=3))) @ difference[100:]
    extreme = np.abs(common[:, None] + single) >= abs(difference.sum()) - 1e-9
    exact = stats.binom.pmf(np.arange(101), 100, 0.5) @ extreme.mean(1)
    assert sign_flip(difference, flips=100_000) == pytest.approx(exact, abs=0.004)


def test_sign_flip_ignores_users_without_a_difference_and_the_scale():
    difference = generator(5).normal(0.1, 1, 60)
    p = sign_flip(difference)
    assert sign_flip(np.concatenate([difference, np.zeros(1000)])) == p
    assert sign_flip(difference * 2**-10) == p


def test_differences_that_only_rounding_tells_apart_are_ties():
    clean = np.array([0.1] * 12 + [-0.1] * 3 + [0.2] * 5)
    noisy = clean * (1 + generator().uniform(-4e-16, 4e-16, 20))
    assert wilcoxon(noisy) == wilcoxon(clean)
    assert sign_flip(noisy) == sign_flip(clean)


@pytest.mark.parametrize("kind", ["continuous", "ranks"])
def test_false_positives_are_five_percent_when_nothing_differs(kind):
    """2,000 simulated comparisons of two runs of equal quality on 40 users."""
    random = generator(11)
    a, b = random.random((2, 2000, 40)) if kind == "continuous" else 1 / random.integers(1, 20, (2, 2000, 40))
    t_p = np.array([paired_t(row)[1] for row in a - b])
    flip_p = np.array([sign_flip(row, flips=199, seed=i) for i, row in enumerate(a - b)])
    assert np.mean(t_p <= 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(flip_p <= 0.05) == pytest.approx(0.05, abs=0.015)


def test_a_planted_effect_is_found():
    """d_z = .5 on 60 users: the power of the t test is 97 %."""
    difference = generator(12).normal(0.5, 1, (300, 60))
    assert np.mean([paired_t(row)[1] <= 0.05 for row in difference]) > 0.9
    assert np.mean([sign_flip(row, flips=199) <= 0.05 for row in difference]) > 0.9


def test_the_confidence_interval_covers_the_truth():
    difference = generator(13).normal(0.2, 1, (300, 30))
    found = [compare(row, np.zeros(30)) for row in difference[:100]]
    assert np.mean([one.low <= 0.2 <= one.high for one in found]) == pytest.approx(0.95, abs=0.06)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 2, 3], [1, 2], "cannot be paired"),
        ([1], [2], "at least two users"),
        ([], [], "at least two users"),
        ([1, float("nan")], [1, 2], "not a finite number"),
    ],
)
def test_what_cannot_be_compared_is_named(a, b, message):
    with pytest.raises(SeerecError, match=message):
        compare(np.array(a, float), np.array(b, float))


def test_a_users_targets_are_averaged_first():
    averages = by_user(np.array([1.0, 0.0, 0.5, 0.25]), np.array([7, 3, 7, 9]))
    assert averages.tolist() == [0.0, 0.75, 0.25]


def test_holm_by_hand():
    """.005 x 4 = .02; .01 x 3 = .03; .03 x 2 = .06; .04 x 1 = .04 is raised to .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).shape == (0,)


def test_holm_keeps_the_family_wise_error():
    p_values = generator(14).random((2000, 14))
    assert np.mean([holm(row).min() <= 0.05 for row in p_values]) == pytest.approx(0.05, abs=0.015)


def brute_auc(scores, labels):
    """Mean over pairs (positive, negative) of [above] + [equal] / 2."""
    pairs = [(x > y) + (x == y) / 2 for x, i in zip(scores, labels, strict=True) if i
             for y, j in zip(scores, labels, strict=True) if not j]  # fmt: skip
    return sum(pairs) / len(pairs) if pairs else None


@checked
@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 4)), max_size=40))
def test_mean_auc_by_group_is_the_mean_of_brute_force(rows):
    scores, labels, group = (np.array([row[i] for row in rows]) for i in range(3))
    each = [brute_auc(scores[group == g], labels[group == g]) for g in set(group.tolist())]
    each = [value for value in each if value is not None]
    found, groups = mean_auc_by_group(scores, labels.astype(bool), group)
    assert groups == len(each)
    assert found == pytest.approx(np.mean(each), abs=1e-12) if each else np.isnan(found)
    whole = brute_auc(scores, labels)
    assert np.isnan(auc(scores, labels.astype(bool))) if whole is None else auc(scores, labels) == pytest.approx(whole)


def test_auc_is_the_normalised_mann_whitney_statistic():
    scores, labels = generator(1).random(500), generator(2).random(500) < 0.3
    expected = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic / (labels.sum() * (~labels).sum())
    assert auc(scores, labels) == pytest.approx(expected, rel=1e-12)
    assert auc(-np.log(scores), ~labels) == pytest.approx(expected, rel=1e-12)


def test_auc_refuses_what_it_cannot_rank():
    with pytest.raises(SeerecError, match="NaN"):
        auc([0.1, float("nan")], [0, 1])
    with pytest.raises(ValueError, match="0 or 1"):
        auc([0.1, 0.2], [-1, 1])
    with pytest.raises(ValueError, match="equal vectors"):
        mean_auc_by_group([0.1, 0.2], [0, 1], [0])
