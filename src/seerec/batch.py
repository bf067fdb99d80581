"""The Batch: everything a model may look at, named and shaped once.

Axis letters, used in every file: B rows, R recommendation history, S searches, W words of a query, N clicks of a search,
T targets, C candidates, K reasoning steps, D width. L is the length of any sequence, M a number of rows or vectors that the file
names, J the vectors of a target by which items are retrieved, h the heads of an attention and e the width of one. Two letters
have a second meaning: N is the rollouts of a model that reasons, K the keys of an attention.

Ids: 0 = padding, 1 = unknown, for users, items and words alike.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

RECOMMENDATION, SEARCH = 0, 1
"""The tasks of ``Batch.task``; models number the two kinds of events, clicks and searches, in the same way."""


@dataclass(frozen=True)
class Batch:
    """B rows of histories with T targets each.

    The events of a history are contiguous. The library builds right-padded batches; models also accept left padding.
    """

    user: Tensor  # B       user ids
    rec: Tensor  # B R      clicked items, oldest first, 0 = padding
    rec_time: Tensor  # B R      ms UTC
    query: Tensor  # B S W    word ids of each search
    click: Tensor  # B S N    items clicked in that search
    search_time: Tensor  # B S      ms UTC
    searched: Tensor  # B S      bool, true where the slot holds a search (its query and clicks may both be empty)
    rec_seen: Tensor  # B T      how many recommendation events target t may see, counted from the oldest slot
    search_seen: Tensor  # B T      how many searches target t may see
    candidates: Tensor  # B T C    items to score; a padded target has only zeros
    positive: Tensor  # B T      column of the positive
    target_time: Tensor  # B T      ms UTC
    task: Tensor  # B        RECOMMENDATION (0) or SEARCH (1)
    target_query: Tensor  # B T W    query of a search target, zeros for a recommendation (its W may not be that of ``query``)
    key: Tensor  # B        counter-based random key from (seed, epoch, step, row)

    @property
    def target_mask(self) -> Tensor:
        """B T bool: true where there is a target."""
        return self.positive_item != 0

    @property
    def positive_item(self) -> Tensor:
        """B T: the item of the positive, 0 where the target is padding."""
        return self.candidates.gather(2, self.positive.unsqueeze(2)).squeeze(2)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on ``device``."""
        return self.with_(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def with_(self, **changed: Tensor) -> Self:
        """A copy with some fields replaced."""
        return replace(self, **changed)

    def check(self) -> "Batch":
        """Return the batch; raise ValueError naming the first field whose shape or content breaks the contract."""
        b, r = self.rec.shape
        s, t, c = self.search_time.shape[1], self.rec_seen.shape[1], self.candidates.shape[2]
        w, n, asked = self.query.shape[2], self.click.shape[2], self.target_query.shape[2]
        shapes = {
            "user": (b,), "rec": (b, r), "rec_time": (b, r), "query": (b, s, w), "click": (b, s, n),
            "search_time": (b, s), "searched": (b, s), "rec_seen": (b, t), "search_seen": (b, t),
            "candidates": (b, t, c), "positive": (b, t), "target_time": (b, t), "task": (b,),
            "target_query": (b, t, asked), "key": (b,),
        }  # fmt: skip
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"batch field {name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        for seen, present in (("rec_seen", self.rec != 0), ("search_seen", self.searched)):
            if (getattr(self, seen) > present.sum(1, keepdim=True)).any():
                raise ValueError(f"batch field {seen} counts more events than the row holds")
        if self.positive.numel() and not (int(self.positive.min()) >= 0 and int(self.positive.max()) < c):
            raise ValueError("batch field positive points outside the candidates")
        return self
