"""Ranking among saved candidates and over the whole pool."""

import numpy as np
import pytest
import torch

from seerec import artifact
from seerec.config import BatchSettings, DataSettings
from seerec.data import candidates
from seerec.data.batches import EvaluationBatches
from seerec.data.corpus import Corpus
from seerec.errors import SeerecError
from seerec.evaluation.metrics import per_target, summary
from seerec.evaluation.ranking import count_above, rank_candidates, rank_catalogue
from seerec.models.base import Recommender
from seerec.models.registry import MODELS

BATCH = BatchSettings(rec_length=8, search_length=6, query_words=3, clicks=2, evaluation_rows=20)
CPU = torch.device("cpu")


class Scorer(Recommender[torch.Tensor]):
    """Scores an item by a function of its id alone."""

    key = "test"

    def __init__(self, of):
        super().__init__()
        self.of = of

    def encode(self, batch):
        return batch.rec_seen

    def items(self, ids):
        return self.of(ids.double())

    def score(self, state, items_BTCD, query=None):  # noqa: ARG002
        return items_BTCD.expand(*state.shape, -1)


def batches_of(corpus, split="test"):
    return EvaluationBatches(corpus, BATCH, candidates.load(corpus, split))


def hidden(corpus, batches, place):
    """Pool items that the user of target number ``place`` had before."""
    row, item = batches.seen_items(np.array([place]))
    assert not row.any()
    return {i for i in item.tolist() if corpus.item_pool[i]}


def test_counts_by_hand():
    logits = torch.tensor([[[1.0, 3.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]]])
    greater, ties = count_above(logits, torch.tensor([[0, 3]]))
    assert (greater.tolist(), ties.tolist()) == ([[1, 0]], [[1, 3]])
    with pytest.raises(SeerecError, match="NaN"):
        count_above(torch.tensor([[[1.0, float("nan")]]]), torch.tensor([[0]]))


def test_a_constant_scorer_earns_exactly_k_in_100(tiny_corpus):
    found = summary(per_target(*rank_candidates(Scorer(torch.zeros_like), batches_of(tiny_corpus), CPU)))
    assert [found[f"hr@{k}"] for k in (1, 5, 10)] == [k / 100 for k in (1, 5, 10)]


def test_a_constant_scorer_earns_k_in_what_is_left_of_the_pool(tiny_corpus):
    batches = batches_of(tiny_corpus)
    greater, ties = rank_catalogue(Scorer(torch.ones_like), tiny_corpus, batches, CPU)
    left = [int(tiny_corpus.item_pool.sum()) - len(hidden(tiny_corpus, batches, n)) for n in range(len(batches.target))]
    assert len(set(left)) > 5
    assert per_target(greater, ties)["hr@10"].tolist() == [10 / n for n in left]


def test_kept_repeats_stay_in_the_catalogue(tiny_corpus):
    kept = Corpus(tiny_corpus.path, {**tiny_corpus.manifest, "settings": DataSettings(repeats="keep").model_dump()})
    _, ties = rank_catalogue(Scorer(torch.ones_like), kept, batches_of(kept), CPU)
    assert (ties == tiny_corpus.item_pool.sum() - 1).all()


def test_the_order_of_targets_is_that_of_the_batches(tiny_corpus):
    """A scorer by id: what stands above a target follows from the candidates alone."""
    batches, sets = batches_of(tiny_corpus), candidates.load(tiny_corpus, "test")
    greater, ties = rank_candidates(Scorer(lambda ids: ids), batches, CPU)
    items = sets.items(tiny_corpus)
    positive = tiny_corpus.rec_item[sets.target]
    assert greater.tolist() == (items > positive[:, None]).sum(1).tolist()
    assert not ties.any()


@pytest.mark.parametrize("key", MODELS)
def test_the_catalogue_equals_brute_force_and_chunks_do_not_matter(key, tiny_corpus, tiny_run):
    model = artifact.load(tiny_run(key).artifact()).model
    c, batches = tiny_corpus, batches_of(tiny_corpus)
    greater, ties = rank_catalogue(model, c, batches, CPU)
    pool = np.flatnonzero(c.item_pool)
    for index, batch in batches:
        ids = torch.from_numpy(pool).expand(len(index), 1, -1)
        with torch.no_grad():
            scores = model.score(model.encode(batch), model.items(ids))[:, 0].numpy()
        for b, place in enumerate(index.tolist()):
            own = scores[b, pool == c.rec_item[batches.target[place]]].item()
            others = scores[b, ~np.isin(pool, list(hidden(c, batches, place)))]
            # Gathered and broadcast items may differ in the last digit: count what is clearly above or equal.
            assert (others > own + 1e-5).sum() <= greater[place] <= (others > own - 1e-5).sum()
            assert greater[place] + ties[place] >= (others >= own + 1e-5).sum()
            assert ties[place] <= (abs(others - own) < 1e-5).sum() - 1
    again, again_ties = rank_catalogue(model, c, batches, CPU, chunk=61)
    near = abs(again - greater) <= (0 if "click" in key or key == "popularity" else 2)
    assert near.all()
    assert (again_ties == ties).mean() > 0.9


@pytest.mark.parametrize("key", ["popularity", "last-search-click"])
def test_exact_scores_have_exact_counts(key, tiny_corpus, tiny_run):
    """Counts are small whole numbers plus a fraction: equality holds, and so does every tie."""
    model = artifact.load(tiny_run(key).artifact()).model
    c, batches = tiny_corpus, batches_of(tiny_corpus)
    greater, ties = rank_catalogue(model, c, batches, CPU)
    pool = np.flatnonzero(c.item_pool)
    for index, batch in batches:
        scores = model.score(model.encode(batch), model.items(torch.from_numpy(pool))[None, None])[:, 0].numpy()
        for b, place in enumerate(index.tolist()):
            others = scores[b, ~np.isin(pool, list(hidden(c, batches, place)))]
            own = scores[b, pool == c.rec_item[batches.target[place]]].item()
            assert (greater[place], ties[place]) == ((others > own).sum(), (others == own).sum() - 1)


@pytest.mark.parametrize("rank", [lambda m, _, b: rank_candidates(m, b, CPU), lambda m, c, b: rank_catalogue(m, c, b, CPU)])
def test_a_nan_is_a_named_error(rank, tiny_corpus):
    item = int(candidates.load(tiny_corpus, "test").negative[3, 5])
    one = Scorer(lambda ids: torch.where(ids == item, float("nan"), ids))
    with pytest.raises(SeerecError, match="NaN"):
        rank(one, tiny_corpus, batches_of(tiny_corpus))
