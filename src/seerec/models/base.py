"""What every model promises, and the sizes and features it is built for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from seerec.batch import Batch
from seerec.config import Settings
from seerec.models.layers import InputLayer, ranking_loss

State = TypeVar("State")
Kind = Literal["group", "original"]


@dataclass(frozen=True)
class Vocabulary:
    """Table sizes (ids 0 and 1 included) and the features of items and users."""

    users: int
    items: int
    words: int
    item_count: Tensor  # I      int64, training clicks
    item_category: Tensor  # I F    int32, value of each category column, 0 = missing
    item_text: Tensor  # I W    int32, words of the item's text
    user_category: Tensor  # U G    int32


class ModelConfig(Settings):
    """Settings every trainable model shares."""

    width: int = Field(64, ge=1, le=65_536)
    """D (64 in the group's programs on KuaiSAR)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Group's programs: .1."""
    features: bool = True
    """Item and user features besides the ids, where the corpus has them (ambiguity A31); False: ids only."""
    embedding_std: float = Field(0.02, gt=0)
    """Standard deviation of new table rows."""
    loss: Literal["bce", "softmax"] = "bce"
    """bce: eq. 11 over 1 positive and n negatives. softmax: cross-entropy over the same candidates."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        heads = getattr(self, "heads", 1)
        if self.width % heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {heads}")
        return self


class Recommender(nn.Module, ABC, Generic[State]):
    """A model that ranks candidates given two histories.

    ``encode`` never sees the candidates, so its state can be cached per user; ``score`` returns logits.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    reads: ClassVar[frozenset[str]]
    """What may influence a score: some of rec, query, click, user, time, features."""
    Config: ClassVar[type[Settings]]
    config: Any
    packs: bool = False
    """True when the state of target t depends on nothing after its own prefix."""

    @abstractmethod
    def encode(self, batch: Batch) -> State:
        """Histories of a batch -> state, independent of the candidates."""

    @abstractmethod
    def items(self, ids: Tensor) -> Tensor:
        """Item ids (any shape) -> vectors (that shape, D), features inside; padding gives zeros."""

    @abstractmethod
    def score(self, state: State, items_BTCD: Tensor, query: Tensor | None = None) -> Tensor:
        """State and item vectors -> logits B T C. B and T of the items may be 1 (one catalogue for all rows)."""

    def objective(self, batch: Batch, state: State, kind: Kind = "group") -> dict[str, Tensor]:  # noqa: ARG002
        """Named, already weighted loss terms; their sum is minimised. Default: the shared 1:n ranking loss."""
        logits = self.score(state, self.items(batch.candidates))
        return {"rank": ranking_loss(logits, batch.positive, batch.target_mask, self.config.loss)}

    def retrieval(self, state: State) -> Tensor | None:  # noqa: ARG002
        """B T J D: J query vectors for nearest-neighbour retrieval, or None."""
        return None

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over saved weights. Raises RuntimeError where names or shapes differ."""
        self.load_state_dict(tensors)


class NeuralRecommender(Recommender[State]):
    """A model trained by gradient, on the shared input layer."""

    inputs: InputLayer

    def items(self, ids: Tensor) -> Tensor:
        """See ``Recommender.items``."""
        return self.inputs.items(ids)


class ReasoningRecommender(NeuralRecommender[State]):
    """A model with latent reasoning steps, which stage 2 can tune."""

    start_width: int
    """Width of the noise that perturbs the start of a trajectory."""

    @abstractmethod
    def history(self, batch: Batch) -> State:
        """Encode the histories, without reasoning; shared by all rollouts."""

    @abstractmethod
    def reason(self, state: State, noise_BTND: Tensor | None = None) -> State:
        """Run the reasoning steps. With noise, N trajectories per target, and ``score`` returns B T N C."""

    def encode(self, batch: Batch) -> State:
        """History, then one trajectory without noise."""
        return self.reason(self.history(batch))


class CountingRecommender(Recommender[State]):
    """A floor fitted by counting once through the training batches, not by gradient."""

    @abstractmethod
    def observe(self, batch: Batch) -> None:
        """Count one training batch."""

    def finish(self) -> None:
        """Called once after the last batch."""


def no_weights() -> Tensor:
    """An empty tensor, for buffers that are filled later."""
    return torch.zeros(0, dtype=torch.int64)
