"""Does attention find the user's own searches among added ones?"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seerec import artifact
from seerec.config import BatchSettings
from seerec.data import candidates
from seerec.data.batches import EvaluationBatches
from seerec.errors import SeerecError
from seerec.evaluation.attention import attention_auc
from seerec.models.registry import MODELS, build

BATCH = BatchSettings(rec_length=8, search_length=12, query_words=3, clicks=2, evaluation_rows=20)
CPU = torch.device("cpu")


def batches_of(corpus, split="test"):
    return EvaluationBatches(corpus, BATCH, candidates.load(corpus, split))


class Watcher:
    """Attends by a function of the search's truth: weights B 1 1 K S, as a model's state holds them."""

    config = SimpleNamespace(steps=2)

    def __init__(self, corpus, by_step):
        truth = np.asarray(corpus.truth("search_relevant"))
        self.by_step = by_step
        self.truth = {int(t): int(label) for t, label in zip(corpus.search_time, truth, strict=True)}
        assert len(self.truth) == len(truth)

    def eval(self):
        pass

    def encode(self, batch):
        label = torch.tensor([[self.truth.get(int(t), -1) for t in row] for row in batch.search_time])
        weights = torch.stack([torch.where(batch.searched, of(label), 9.0) for of in self.by_step], 1)
        return SimpleNamespace(cross={"r": weights[:, None, None]})


def own(label):
    return torch.where(label == 1, 0.5, torch.where(label == 0, 0.1, 0.9))


def added(label):
    return torch.where(label == 0, 0.2, 0.1)


def nothing(label):
    return torch.full(label.shape, 0.25)


def test_hand_made_attention(tiny_corpus):
    batches = batches_of(tiny_corpus)
    report = attention_auc(Watcher(tiny_corpus, (own, nothing)), tiny_corpus, batches, CPU)
    assert report.by_step == (1.0, 0.5)
    assert report.auc == 1.0
    report = attention_auc(Watcher(tiny_corpus, (added, nothing)), tiny_corpus, batches, CPU)
    assert report.by_step == (0.0, 0.5)
    assert report.auc == 0.0
    # Off-topic searches have the highest weight in ``own``: they are left out.
    truth = np.asarray(tiny_corpus.truth("search_relevant"))
    both = 0
    for place in range(len(batches.target)):
        labels = truth[[at for at in batches.search_places(np.array([place]), BATCH.search_length)[0] if at >= 0]]
        both += {0, 1} <= set(labels.tolist())
    assert report.targets == both > 5


def untrained(corpus, seed, **changed):
    torch.manual_seed(seed)
    config = MODELS["lcr-ser"].Config(width=8, **changed)
    vocabulary = artifact.vocabulary_of(corpus, BATCH.query_words)
    return build("lcr-ser", config, vocabulary, BATCH.rec_length, BATCH.search_length)


def test_an_untrained_model_knows_nothing(tiny_corpus):
    batches = batches_of(tiny_corpus)
    reports = [attention_auc(untrained(tiny_corpus, seed), tiny_corpus, batches, CPU) for seed in range(8)]
    found = np.array([report.auc for report in reports])
    print(f"untrained attention AUC: {found.mean():.3f}, {reports[0].targets} targets")
    assert abs(found.mean() - 0.5) < 0.06
    assert len(reports[0].by_step) == 3
    assert len(set(found.tolist())) == 8


def test_steps_are_counted_not_crossing_layers(tiny_corpus):
    model = untrained(tiny_corpus, 0, layers=2, cross_layers="all")
    assert len(attention_auc(model, tiny_corpus, batches_of(tiny_corpus), CPU).by_step) == 3


def test_without_truth_or_steps_there_is_nothing_to_judge(tiny_corpus):
    batches = batches_of(tiny_corpus)
    with pytest.raises(SeerecError, match="cannot be judged"):
        attention_auc(untrained(tiny_corpus, 0, steps=0), tiny_corpus, batches, CPU)
    blind = SimpleNamespace(truth=lambda _: None)
    with pytest.raises(SeerecError, match="cannot be judged"):
        attention_auc(untrained(tiny_corpus, 0), blind, batches, CPU)
