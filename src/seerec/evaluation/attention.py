"""How well cross-attention finds the searches that matter, where the source knows the truth.

For each target, the visible searches are ranked by the attention that the recommendation side's reasoning pays them; the AUC
of the user's own searches against added ones (same words, same items) is averaged over the targets that have both.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from seerec.data.batches import EvaluationBatches
from seerec.data.corpus import Corpus
from seerec.errors import SeerecError
from seerec.evaluation.significance import mean_auc_by_group
from seerec.models.lcr_ser import LCRSER


@dataclass(frozen=True)
class AttentionReport:
    """``auc``: attention averaged over the steps; ``by_step``: each step alone; ``targets``: how many had both kinds."""

    auc: float
    by_step: tuple[float, ...]
    targets: int


@torch.no_grad()
def attention_auc(model: LCRSER, corpus: Corpus, batches: EvaluationBatches, device: torch.device) -> AttentionReport:
    """AUC of attention on the user's own searches (truth 1) against added ones (truth 0); off-topic ones (2) stay out.

    Raises
    ------
    SeerecError
        The corpus knows no truth, or the model does not reason.
    """
    truth = corpus.truth("search_relevant")
    if truth is None or model.config.steps == 0:
        raise SeerecError(
            "Attention cannot be judged: the corpus knows no truth labels, or the model has no reasoning step.",
            "Use a corpus of the source `simulated` or `interactions`, and a model with steps.",
        )
    model.eval()
    weights: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int8]] = []
    groups: list[NDArray[np.int64]] = []
    for index, cpu_batch in batches:
        state = model.encode(cpu_batch.to(device))
        assert state.cross is not None
        by_layer = state.cross["r"][:, 0, 0].unflatten(1, (model.config.steps, -1))  # B K layers S
        cross = by_layer.mean(2).transpose(1, 2).cpu().numpy()  # B S K
        place = batches.search_places(index, cross.shape[1])
        there = place >= 0
        weights.append(cross[there])
        labels.append(np.asarray(truth)[place[there]])
        groups.append(np.broadcast_to(index[:, None], place.shape)[there])
    weight, label, group = np.concatenate(weights), np.concatenate(labels), np.concatenate(groups)
    kept = (label == 0) | (label == 1)
    weight, relevant, group = weight[kept], label[kept] == 1, group[kept]
    auc, targets = mean_auc_by_group(weight.mean(1), relevant, group)
    by_step = tuple(float(mean_auc_by_group(weight[:, k], relevant, group)[0]) for k in range(weight.shape[1]))
    return AttentionReport(float(auc), by_step, int(targets))
