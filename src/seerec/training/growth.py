"""Growing: a trained model goes on on a newer corpus, whose users, items and words partly are the old ones."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerec.artifact import Artifact, columns_of
from seerec.data.corpus import Corpus
from seerec.errors import SeerecError
from seerec.models.base import NeuralRecommender, Recommender
from seerec.models.inputs import InputLayer


def adopt(model: Recommender[Any], old: Artifact, corpus: Corpus) -> None:
    """Copy an artifact's weights into ``model``, built for ``corpus``: what both know starts equal, the rest stays new.

    Raises
    ------
    SeerecError
        The artifact holds another model, other settings or other feature columns.
    """
    if not isinstance(model, NeuralRecommender) or old.model.key != model.key:
        raise SeerecError(
            f"An artifact of {old.model.key} cannot start a run of {model.key}.", "Start from the same trainable model."
        )
    if old.model.config != model.config:
        raise SeerecError(
            "The artifact was trained with other model settings.",
            "Use the same --preset and --set model.* as that run.",
        )
    if old.manifest["columns"] != columns_of(corpus):
        raise SeerecError(
            "The artifact was trained with other category columns of items or users.",
            "Prepare the newer corpus with the same columns in the same order.",
        )
    rows = {
        "inputs.item": _shared(old.items, corpus.table("items"), "item", "item_id"),
        "inputs.user": _shared(old.users, corpus.table("users"), "user", "user_id"),
        "inputs.word": _shared(old.words, corpus.table("words"), "word", "text"),
    }
    rows["inputs.item_bias"] = rows["inputs.item"]
    new_inputs, old_inputs = model.inputs, old.model.inputs
    assert isinstance(old_inputs, InputLayer)
    rows |= _values("inputs.item_values", old_inputs.item_category, new_inputs.item_category, rows["inputs.item"])
    rows |= _values("inputs.user_values", old_inputs.user_category, new_inputs.user_category, rows["inputs.user"])
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in old.model.named_parameters():
            table = name.removesuffix(".weight")
            if table in rows:
                before, now = rows[table]
                own[name][torch.from_numpy(now)] = weight[torch.from_numpy(before)]
            elif name in own and own[name].shape == weight.shape:
                own[name].copy_(weight)
            else:
                raise SeerecError(
                    f"The artifact's {name} does not fit the new corpus.",
                    "Prepare the newer corpus with the same feature columns, and keep the batch lengths.",
                )


def _shared(old: pa.Table, new: pa.Table, number: str, raw: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(old rows, new rows) of what both tables know, with padding and the unknown row."""
    left = pa.table({"raw": old[raw].cast(pa.string()), "old": old[number]})
    right = pa.table({"raw": new[raw].cast(pa.string()), "new": new[number]})
    both = left.join(right, "raw", join_type="inner")
    pairs = [np.concatenate([[0, 1], both[side].to_numpy()]).astype(np.int64) for side in ("old", "new")]
    return pairs[0], pairs[1]


def _values(
    name: str, old: Tensor, new: Tensor, rows: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Category values are matched through the users or items that both know: a value is the one most of its owners had."""
    matched = {}
    for column in range(new.shape[1] if new.shape[1] == old.shape[1] else 0):
        pair = np.stack([old[rows[0], column].numpy(), new[rows[1], column].numpy()], 1)
        pair, owners = np.unique(pair[(pair > 0).all(1)], axis=0, return_counts=True)
        pair = pair[np.argsort(-owners, kind="stable")]
        values, first = np.unique(pair[:, 1], return_index=True)
        before, now = np.append(pair[first, 0], 0), np.append(values, 0)
        matched[f"{name}.{column}"] = (before.astype(np.int64), now.astype(np.int64))
    return matched
