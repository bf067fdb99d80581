"""Metrics: expectation over random tie breaking.

HR@k = clip((k - greater) / (ties + 1), 0, 1); NDCG@k = mean of [p <= k] / log2(p + 1) and MRR = mean of 1 / p over the
ranks p = greater + 1 .. greater + ties + 1.
"""

from itertools import permutations
from math import fsum, log2
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seerec.config import TrainSettings
from seerec.errors import SeerecError
from seerec.evaluation.metrics import METRICS, per_target, random_level, ranks, summary

checked = settings(deadline=None, derandomize=True, database=None)
score_lists = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


def counted(scores):
    """The first score is the positive's."""
    others = np.asarray(scores[1:])
    return np.array([np.sum(others > scores[0])]), np.array([np.sum(others == scores[0])])


def metrics_of_rank(p):
    return {
        "hr@1": float(p <= 1),
        "hr@5": float(p <= 5),
        "hr@10": float(p <= 10),
        "ndcg@5": (p <= 5) / log2(p + 1),
        "ndcg@10": (p <= 10) / log2(p + 1),
        "mrr": 1 / p,
    }


def values(greater, ties):
    return {name: vector.tolist() for name, vector in per_target(np.asarray(greater), np.asarray(ties)).items()}


def test_the_metrics_have_the_names_and_order_of_the_settings():
    assert tuple(per_target(np.array([0]), np.array([0]))) == METRICS
    assert get_args(TrainSettings.model_fields["metric"].annotation) == METRICS


@checked
@given(st.lists(st.integers(-1, 1), min_size=1, max_size=6))
def test_expectation_is_the_average_over_all_tie_orders(scores):
    """Every order of the candidates, sorted stably by score, is one equally likely way to break the ties."""
    orders = [sorted(order, key=lambda i: -scores[i]).index(0) + 1 for order in permutations(range(len(scores)))]
    computed = summary(per_target(*counted(scores)))
    for name in METRICS:
        assert computed[name] == pytest.approx(np.mean([metrics_of_rank(p)[name] for p in orders]), abs=1e-12)
    assert ranks(*counted(scores))[0] == pytest.approx(np.mean(orders))


@checked
@given(score_lists, st.randoms(use_true_random=False))
def test_the_order_of_the_other_candidates_changes_nothing(scores, random):
    shuffled = [scores[0], *random.sample(scores[1:], len(scores) - 1)]
    assert values(*counted(shuffled)) == values(*counted(scores))


@checked
@given(score_lists)
def test_a_monotone_transform_of_the_scores_changes_nothing(scores):
    expected = values(*counted(scores))
    assert values(*counted(list(np.exp(scores)))) == expected
    assert values(*counted([x**3 + 7 for x in scores])) == expected


@checked
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=20))
def test_metrics_are_ordered_and_between_the_optimistic_and_the_pessimistic(pairs):
    greater, ties = np.array(pairs).T
    fair, best, worst = per_target(greater, ties), per_target(greater, 0 * ties), per_target(greater + ties, 0 * ties)
    for name in METRICS:
        assert (worst[name] - 1e-15 <= fair[name]).all()
        assert (fair[name] <= best[name] + 1e-15).all()
    assert (fair["hr@1"] <= fair["hr@5"]).all()
    assert (fair["hr@5"] <= fair["hr@10"]).all()
    assert (fair["ndcg@10"] <= fair["hr@10"] + 1e-15).all()


@pytest.mark.parametrize("targets", [1, 3, 7, 1000, 12_347])
def test_a_constant_scorer_over_100_candidates_gets_exactly_k_hundredths(targets):
    level = summary(per_target(np.zeros(targets, np.int64), np.full(targets, 99)))
    assert (level["hr@1"], level["hr@5"], level["hr@10"]) == (1 / 100, 5 / 100, 10 / 100)
    assert level == random_level(100)


def test_the_random_level_of_100_candidates():
    level = random_level(100)
    assert [round(level[name], 4) for name in METRICS[:5]] == [0.01, 0.05, 0.1, 0.0295, 0.0454]
    assert level["mrr"] == pytest.approx(fsum(1 / p for p in range(1, 101)) / 100, rel=1e-14)


def test_a_random_scorer_approaches_the_random_level():
    scores = np.random.Generator(np.random.Philox(0)).random((20_000, 100))
    simulated = summary(per_target((scores[:, 1:] > scores[:, :1]).sum(1), np.zeros(20_000, np.int64)))
    for name, level in random_level(100).items():
        assert simulated[name] == pytest.approx(level, abs=4 * (level / 20_000) ** 0.5)


@pytest.mark.parametrize("rank", [1, 2, 5, 6, 10, 11, 100])
def test_without_ties_the_textbook_values(rank):
    computed = summary(per_target(np.array([rank - 1]), np.array([0])))
    assert computed == pytest.approx(metrics_of_rank(rank), abs=1e-15)


@pytest.mark.parametrize(("greater", "ties"), [(9_999_999, 0), (9_990_000, 9), (5_000_000, 99_999), (0, 9_999_999)])
def test_mrr_of_ten_million_items_is_exact(greater, ties):
    expected = (1.0 / np.arange(greater + 1, greater + ties + 2)).sum() / (ties + 1)
    computed = per_target(np.array([greater]), np.array([ties]))["mrr"][0]
    assert computed == pytest.approx(expected, abs=2e-15 if ties else 0.0, rel=0.0)


def test_ranks():
    greater, ties = np.array([0, 3]), np.array([0, 4])
    assert ranks(greater, ties).tolist() == [1, 6]
    assert ranks(greater, ties, "optimistic").tolist() == [1, 4]
    assert ranks(greater, ties, "pessimistic").tolist() == [1, 8]


@pytest.mark.parametrize(
    ("greater", "ties"), [([-1], [0]), ([0], [-1]), ([0.5], [0]), ([float("nan")], [0]), ([0, 1], [0]), (0, 0)]
)
def test_what_is_no_count_is_refused(greater, ties):
    with pytest.raises(ValueError, match=r"greater|ties"):
        per_target(np.asarray(greater), np.asarray(ties))


def test_no_target_is_an_error_that_says_so():
    empty = per_target(np.array([], np.int64), np.array([], np.int64))
    assert all(vector.shape == (0,) for vector in empty.values())
    with pytest.raises(SeerecError, match="no target"):
        summary(empty)
