"""What every model promises, and the sizes and features it is built for.

"The group", here and in the models, is the lab of LCR-SER's authors; its public programs are UniSAR, SESRec, GSERec and IV4Rec.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from seerec.batch import Batch
from seerec.config import Settings
from seerec.models.inputs import InputLayer
from seerec.models.layers import MASKED
from seerec.models.losses import evenly, mean_over, ranking_loss

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
    """Standard deviation of new rows of items and users."""
    feature_std: float = Field(0.1, gt=0)
    """Of new rows of words and categories. Greater than ``embedding_std``, because an item's own row is noise until it has been
    trained, while words and categories are shared; and text is a mean over words, which shrinks (docs/results.md)."""
    project: Literal["none", "linear", "tanh"] = "none"
    """How fields become a vector. none: id row plus a linear map of the features. linear, tanh: fields concatenated, one layer
    to D, as in the group's programs (UniSAR: tanh)."""
    field_width: int = Field(32, ge=1, le=65_536)
    """Columns of every field when ``project`` is not none (32 in UniSAR)."""
    loss: Literal["bce", "softmax"] = "bce"
    """Of the objective ``group``. bce: LCR-SER eq. 11 over 1 positive and n negatives. softmax: cross-entropy over the same."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        heads = getattr(self, "heads", 1)
        if self.width % heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {heads}")
        return self


class CatalogueConfig(ModelConfig):
    """Settings of models whose own paper has a softmax over all items (``NeuralRecommender.catalogue_loss``)."""

    softmax: Literal["sampled", "full"] = "sampled"
    """Of the objective ``original``. sampled: over negatives the batch shares, corrected by their
    chance of being drawn. full: over the whole catalogue."""
    samples: int = Field(512, ge=1)
    """Shared negatives of the sampled softmax, at most; an eighth of it where an MLP scores, which takes a pass for each."""


class Recommender(nn.Module, ABC, Generic[State]):
    """A model that ranks candidates given two histories.

    ``encode`` never sees the candidates, so its state can be cached per user; ``score`` returns logits.
    """

    key: ClassVar[str]
    title: str
    """The class says it for the default settings."""
    reads: frozenset[str]
    """What may influence a score: some of rec, query, click, user, time, features. The class says it for the default settings."""
    searches: ClassVar[bool] = False
    """Whether it also learns from search rows (``task`` 1), whose ``target_query`` it then reads."""
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
    def score(self, state: State, items_BTCD: Tensor) -> Tensor:
        """State and item vectors -> logits B T C. B and T of the items may be 1 (one catalogue for all rows)."""

    def objective(self, batch: Batch, state: State, kind: Kind = "group") -> dict[str, Tensor]:  # noqa: ARG002
        """Named, already weighted loss terms; their sum is minimised. ``batch`` holds rows of one task.

        ``group``: the 1:n ranking loss that all models of the group share, plus the model's own terms.
        ``original``: the objective of the model's own paper. Default: the former for both.
        """
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
    learns_transitions: ClassVar[bool] = False
    """Whether training batches are first shown once to ``observe``."""
    paired: bool = False
    """Whether half the rows of a training batch should end with the same item as a row of the other half."""

    def items(self, ids: Tensor) -> Tensor:
        """See ``Recommender.items``."""
        return self.inputs.items(ids)

    def observe(self, batch: Batch) -> None:
        """See one training batch before training, where ``learns_transitions``."""

    def augment(self, batch: Batch) -> Batch:
        """The batch to train on, before its rows are gathered; random changes to ids belong here."""
        return batch

    def reads_catalogue(self, kind: Kind) -> bool:
        """Whether this objective reads the row of every item."""
        return kind == "original" and getattr(self.config, "softmax", "") == "full"

    @property
    def samples(self) -> int:
        """Shared negatives of the sampled softmax, at most."""
        return int(self.config.samples)

    def catalogue_loss(self, batch: Batch, state: State, positive: Tensor | None = None) -> Tensor:
        """Cross-entropy of the positive against the catalogue, mean over targets; settings ``softmax`` and ``samples``.

        ``positive`` (B T, 0 = none): the items that ``state`` should find, where they are not the batch's targets.
        """
        positive = batch.positive_item if positive is None else positive
        positive_logit, logits = self.catalogue_logits(batch, state, positive)
        return mean_over(logits.logsumexp(2) - positive_logit, positive != 0)

    def catalogue_logits(self, batch: Batch, state: State, positive: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logit of the positive, B T, and logits of the catalogue or of a sample with the positive, B T M.

        Sampled: m negatives of the batch, drawn uniformly from P items, stand for all, so each counts P / m times:
        log(P / m) is added to its logit (Bengio & Senecal 2008), and the target's own item is left out. This is right
        only while training draws its negatives uniformly.
        """
        positive = batch.positive_item if positive is None else positive
        positive_logit = self.score(state, self.items(positive.unsqueeze(2)))
        rows = len(self.inputs.item.weight)  # ids 0 and 1 are no items
        if self.config.softmax == "full":
            catalogue = torch.arange(2, rows, device=positive.device)
            return positive_logit.squeeze(2), self.score(state, self.items(catalogue)[None, None])
        shared = shared_negatives(batch, self.samples)
        negative_logits = self.score(state, self.items(shared)[None, None]) + math.log((rows - 2) / len(shared))
        negative_logits = negative_logits.masked_fill(shared == positive.unsqueeze(2), MASKED)
        return positive_logit.squeeze(2), torch.cat([positive_logit, negative_logits], 2)


def shared_negatives(batch: Batch, most: int) -> Tensor:
    """At most ``most`` negatives of a batch's targets, evenly over its rows."""
    negative = torch.ones_like(batch.candidates, dtype=torch.bool).scatter_(2, batch.positive.unsqueeze(2), False)
    return evenly(batch.candidates[negative & batch.target_mask.unsqueeze(2)], most)


class Trajectory(NamedTuple):
    """Scores after every reasoning step of N rollouts per target. Rollouts that take fewer than K steps are padded."""

    logits: Tensor  # B T N K C
    length: Tensor  # N   steps that exist, at least 1

    def last(self) -> Tensor:
        """B T N C: scores after each rollout's last step."""
        b, t, n, _, c = self.logits.shape
        return self.logits.gather(3, (self.length - 1).view(1, 1, n, 1, 1).expand(b, t, n, 1, c)).squeeze(3)

    def mean(self, x_BTNK: Tensor) -> Tensor:
        """B T N: mean over the steps that exist."""
        mask = torch.arange(x_BTNK.shape[3], device=x_BTNK.device) < self.length.unsqueeze(1)
        return x_BTNK.masked_fill(~mask, 0.0).sum(3) / self.length


class ReasoningRecommender(NeuralRecommender[State]):
    """A model with latent reasoning steps, which stage 2 can tune."""

    start_width: int
    """Width of the noise that perturbs the start of a trajectory."""

    @abstractmethod
    def history(self, batch: Batch) -> State:
        """Encode the histories, without reasoning; shared by all rollouts."""

    @abstractmethod
    def reason(self, state: State, noise: Any = None) -> State:
        """Run the reasoning steps. With the ``noise`` of N rollouts, N trajectories per target, and ``score`` returns B T N C."""

    def noise(self, batch: Batch, rollouts: int, std: float, generator: torch.Generator) -> Any:
        """What tells N rollouts apart: here Gaussian, B T N ``start_width``, none for the first (LCR-SER eq. 14).

        A model may draw another kind; whatever two draws for the same batch must share follows from ``batch.key``.
        """
        noise = torch.randn(*batch.rec_seen.shape, rollouts, self.start_width, generator=generator)
        noise[:, :, 0] = 0
        return (noise * std).to(batch.rec.device)

    def trajectory(self, state: State, items_BTCD: Tensor) -> Trajectory:
        """Scores of N rollouts, after each step that counts as an action of its own; here the last alone."""
        logits = self.score(state, items_BTCD).unsqueeze(3)
        return Trajectory(logits, torch.ones(logits.shape[2], dtype=torch.long, device=logits.device))

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
