"""Models with random weights, or counted ones, for tests of what happens after training."""

from pathlib import Path
from typing import Any

import torch

from seerec import artifact
from seerec.atomic import write_json
from seerec.config import BatchSettings
from seerec.data.batches import TrainingBatches
from seerec.data.corpus import Corpus
from seerec.models.base import CountingRecommender, Recommender
from seerec.models.registry import build, model_class


def untrained(corpus: Corpus, key: str, config: dict[str, Any], batch: BatchSettings, seed: int) -> Recommender[Any]:
    """A model in evaluation mode."""
    torch.manual_seed(seed)
    vocabulary = artifact.vocabulary_of(corpus, batch.query_words)
    model = build(key, model_class(key).Config(**config), vocabulary, batch.rec_length, batch.search_length)
    if isinstance(model, CountingRecommender):
        batches = TrainingBatches(corpus, batch, seed=0, packs=True, rows=64, negatives=1, unknown_user_share=0)
        for step in range(batches.steps(0)):
            model.observe(batches.batch(0, step))
        model.finish()
    return model.eval()


def save_run(run: Path, model: Recommender[Any], corpus: Corpus, batch: BatchSettings) -> None:
    """The model as the first stage of a run."""
    artifact.save(run / "stage1", model, artifact.vocabulary_of(corpus, batch.query_words), corpus, batch, {"stage": 1})
    write_json(run / "run.json", {"corpus": str(corpus.path)})
