"""Metrics against three implementations of other people: trec_eval (C) and MS MARCO's own script, reached through ir-measures,
and ranx.

The first two break ties by the names of the documents, each in its own direction. So for ties our expectation must be the mean of
theirs over every way to name the candidates. ranx sorts, and says nothing about ties: it is asked without any.
"""

from itertools import permutations

import ir_measures
import numpy as np
import pytest
import torch
from ir_measures import RR, Success, nDCG

from seerec.evaluation.metrics import METRICS, per_target
from seerec.evaluation.ranking import count_above

TREC = {"hr@1": Success @ 1, "hr@5": Success @ 5, "hr@10": Success @ 10, "ndcg@5": nDCG @ 5, "ndcg@10": nDCG @ 10, "mrr": RR}
OTHERS = {"trec_eval": (ir_measures.pytrec_eval, TREC), "msmarco": (ir_measures.msmarco, {"mrr": RR})}

implementations = pytest.mark.parametrize("other", [*OTHERS])


def ours(scores_BC, positive_B):
    """Each metric of each row, through the ranking that ``evaluate`` uses."""
    above, beside = count_above(scores_BC[:, None], positive_B[:, None])
    return per_target(above[:, 0].numpy(), beside[:, 0].numpy()), beside[:, 0].numpy()


def theirs(other, scores_BC, positive_B, names_BC=None):
    """The same from another implementation; candidate c of row b is called ``names_BC[b, c]``, by default c."""
    rows, width = scores_BC.shape
    names_BC = torch.arange(width).expand(rows, -1) if names_BC is None else names_BC
    run = {
        f"{b}": {f"{name:06}": score for name, score in zip(names, scores, strict=True)}
        for b, (names, scores) in enumerate(zip(names_BC.tolist(), scores_BC.tolist(), strict=True))
    }
    relevant = names_BC.gather(1, positive_B[:, None])[:, 0].tolist()
    truth = {f"{b}": {f"{name:06}": 1} for b, name in enumerate(relevant)}
    provider, measures = OTHERS[other]
    found = {name: np.full(rows, np.nan) for name in measures}
    back = {measure: name for name, measure in measures.items()}
    for metric in provider.iter_calc([*measures.values()], truth, run):
        found[back[metric.measure]][int(metric.query_id)] = metric.value
    return found


def drawn(seed, rows, width):
    """Scores of float32 and where the positive is, which is somewhat above the others, so that every rank near the top occurs."""
    g = torch.Generator().manual_seed(seed)
    scores, positive = torch.randn(rows, width, generator=g), torch.randint(width, (rows,), generator=g)
    return scores.scatter_add(1, positive[:, None], torch.full((rows, 1), 2.0)), positive


def test_trec_eval_computes_every_metric():
    assert tuple(TREC) == METRICS


@implementations
@pytest.mark.parametrize("width", [1, 2, 7, 100, 1000])
def test_without_ties_every_target_has_their_value(other, width):
    scores, positive = drawn(width, 200, width)
    found, ties = ours(scores, positive)
    assert ties.sum() == 0
    for name, values in theirs(other, scores, positive).items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-12)
        assert width < 100 or len(set(values.tolist())) > 1


@implementations
def test_ties_have_the_mean_of_their_values_over_all_orders(other):
    """40 rows of 5 candidates with scores 0, 1, 2: each under all 120 ways to name the candidates."""
    g = torch.Generator().manual_seed(0)
    scores, positive = torch.randint(3, (40, 5), generator=g).float(), torch.randint(5, (40,), generator=g)
    names = torch.tensor([*permutations(range(5))])
    found, ties = ours(scores, positive)
    values = theirs(other, scores.repeat_interleave(120, 0), positive.repeat_interleave(120), names.repeat(40, 1))
    assert set(ties) == {0, 1, 2, 3, 4}
    for name, orders in values.items():
        each = orders.reshape(40, 120)
        np.testing.assert_allclose(found[name], each.mean(1), rtol=0, atol=1e-12)
        if name not in ("hr@5", "hr@10"):  # 5 candidates are always among the first 5
            assert (np.ptp(each, axis=1) > 0).any()


@implementations
def test_many_ties_have_the_mean_over_every_place_of_the_positive(other):
    """Rows of 100 candidates with 8 scores: only where the positive stands among its equals matters, each place is as likely."""
    g = torch.Generator().manual_seed(1)
    scores, positive = torch.randint(8, (30, 100), generator=g).float(), torch.randint(100, (30,), generator=g)
    found, ties = ours(scores, positive)
    assert ties.min() > 0
    for row in range(30):
        equal = (scores[row] == scores[row, positive[row]]).nonzero()[:, 0]
        names = torch.arange(100).repeat(len(equal), 1)
        # The positive exchanges names with each of its equals in turn.
        names[torch.arange(len(equal)), positive[row]] = equal
        names[torch.arange(len(equal)), equal] = positive[row]
        values = theirs(other, scores[row].expand(len(equal), -1), positive[row].expand(len(equal)), names)
        for name, orders in values.items():
            assert found[name][row] == pytest.approx(orders.mean(), abs=1e-12)


@pytest.mark.slow  # ranx compiles itself anew
@pytest.mark.filterwarnings("ignore")  # of its compiler
def test_without_ties_ranx_agrees():
    from ranx import Qrels, Run
    from ranx import evaluate as judge

    scores, positive = drawn(7, 200, 100)
    found, _ = ours(scores, positive)
    truth = {f"{b}": {f"{c}": 1} for b, c in enumerate(positive.tolist())}
    run = {f"{b}": {f"{c}": score for c, score in enumerate(row)} for b, row in enumerate(scores.tolist())}
    names = {metric: metric.replace("hr@", "hit_rate@") for metric in METRICS}
    judged = Run(run)
    judge(Qrels(truth), judged, [*names.values()], return_mean=False)
    for metric, name in names.items():
        values = np.array([judged.scores[name][f"{b}"] for b in range(len(positive))])
        np.testing.assert_allclose(found[metric], values, rtol=0, atol=1e-12)
        assert len(set(values.tolist())) > 1
