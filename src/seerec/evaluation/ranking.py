"""Scores -> for each target, how many candidates are above the positive and how many tie with it.

Ranking happens on logits; a NaN is an error. Metrics turn the two counts into expectations under random tie breaking.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerec.data.batches import EvaluationBatches
from seerec.data.corpus import Corpus
from seerec.data.targets import pool_of
from seerec.errors import SeerecError
from seerec.models.base import NeuralRecommender, Recommender
from seerec.progress import SILENT, Progress

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]


def count_above(logits_BTC: Tensor, positive_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(greater, ties), B T each: candidates above the positive, and others with exactly its score.

    Raises
    ------
    SeerecError
        A score is NaN.
    """
    _no_nan(logits_BTC)
    own = logits_BTC.gather(2, positive_BT.unsqueeze(2))
    return (logits_BTC > own).sum(2), (logits_BTC == own).sum(2) - 1


@torch.no_grad()
def rank_candidates(
    model: Recommender[Any], batches: EvaluationBatches, device: torch.device, progress: Progress = SILENT
) -> Counts:
    """Rank each target among its saved candidates: (greater, ties), n each, in the order of ``batches.target``."""
    model.eval()
    greater, ties = (np.zeros(len(batches.target), dtype=np.int64) for _ in range(2))
    with _held_items(model), progress.task("evaluate", total=len(batches.target), unit="targets") as bar:
        for index, cpu_batch in batches:
            batch = cpu_batch.to(device)
            logits = model.score(model.encode(batch), model.items(batch.candidates))
            above, equal = count_above(logits, batch.positive)
            greater[index], ties[index] = above[:, 0].cpu().numpy(), equal[:, 0].cpu().numpy()
            bar.advance(len(index))
    return greater, ties


@torch.no_grad()
def rank_catalogue(
    model: Recommender[Any],
    corpus: Corpus,
    batches: EvaluationBatches,
    device: torch.device,
    progress: Progress = SILENT,
    chunk: int = 2048,
) -> Counts:
    """Rank each target among the whole pool, in chunks; with ``repeats = drop`` without what its user had before.

    Memory is rows x chunk scores; an excluded item is scored with the rest and left out of the counts.
    """
    model.eval()
    pool = torch.from_numpy(pool_of(corpus, batches.targets.task)).to(device)
    drops = corpus.manifest["settings"]["repeats"] == "drop"
    in_pool = torch.zeros(corpus.items, dtype=torch.bool).index_fill_(0, pool.cpu(), True)
    greater, ties = (np.zeros(len(batches.target), dtype=np.int64) for _ in range(2))
    with _held_items(model), progress.task("evaluate full catalogue", total=len(batches.target), unit="targets") as bar:
        for index, cpu_batch in batches:
            batch = cpu_batch.to(device)
            state = model.encode(batch)
            # The positive is scored inside its chunk like every other item, so that equal items tie exactly.
            scores = torch.cat([_catalogue_scores(model, state, part) for part in pool.split(chunk)], 1)
            _no_nan(scores)
            place = torch.searchsorted(pool, batch.positive_item[:, 0])
            own = scores.gather(1, place.unsqueeze(1))
            if drops:
                row, item = batches.seen_items(index)
                inside = in_pool[torch.from_numpy(item)]
                hidden = torch.searchsorted(pool, torch.from_numpy(item)[inside].to(device))
                scores[torch.from_numpy(row)[inside].to(device), hidden] = float("-inf")
            greater[index] = (scores > own).sum(1).cpu().numpy()
            ties[index] = ((scores == own).sum(1) - 1).cpu().numpy()
            bar.advance(len(index))
    return greater, ties


@contextlib.contextmanager
def _held_items(model: Recommender[Any]) -> Iterator[None]:
    """Item vectors are made once for the whole evaluation."""
    if isinstance(model, NeuralRecommender):
        model.inputs.hold()
    try:
        yield
    finally:
        if isinstance(model, NeuralRecommender):
            model.inputs.close()


def _catalogue_scores(model: Recommender[Any], state: Any, ids: Tensor) -> Tensor:
    """Scores of the same items for every row, B c."""
    return model.score(state, model.items(ids)[None, None]).squeeze(1)


def _no_nan(scores: Tensor) -> None:
    if bool(scores.isnan().any()):
        raise SeerecError("The model scores NaN, so nothing can be ranked.", "Train again with a lower learning rate.")
