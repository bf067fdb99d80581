"""What the models of one sequence share: which events they read, how a state is scored, their loss over the catalogue.

The recommendation-only baselines read the clicked items (``history = rec``) or, as in one public comparison, both histories
merged by time (``merged``: a search is its query plus the mean of its clicked items, and every event carries a vector of its
kind). Their state h scores candidate v by a dot product, or by the MLP of the group's programs:

    score = <h, e_v>    or    MLP([e_u ; h ; e_v])

Under the dot product a state of zeros, which some models give a user without events, ties all candidates.
Axis L: R slots, R + S where merged.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from seerec.batch import RECOMMENDATION, SEARCH, Batch
from seerec.models.base import CatalogueConfig, NeuralRecommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.layers import Reach, ScoringMLP, dot, reach
from seerec.models.merging import merge


class SequentialConfig(CatalogueConfig):
    """Settings of every model that reads one sequence."""

    history: Literal["rec", "merged"] = "rec"
    """rec: the clicked items. merged: searches too, merged by time."""
    scorer: Literal["dot", "mlp"] = "dot"
    """dot: state times item vector. mlp: the group's MLP over [user ; state ; item]; published gaps may rest on it."""
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = (200, 80)
    """Hidden layers of that MLP in the group's programs."""


class Sequence(NamedTuple):
    """The events a model reads."""

    tokens: Tensor  # B L D   zeros where there is no event
    present: Tensor  # B L     bool
    reach: Reach


@dataclass(frozen=True)
class SequenceState:
    """``vector`` stands for the user at each target; ``user`` is read by the MLP scorer alone."""

    vector: Tensor  # B T D
    user: Tensor | None = None  # B D


Sequential = TypeVar("Sequential", bound=SequenceState)


class SequentialRecommender(NeuralRecommender[Sequential], Generic[Sequential]):
    """Base of the models of one sequence."""

    reads = frozenset({"rec", "features"})

    def __init__(self, config: SequentialConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__()
        d = config.width
        merged = config.history == "merged"
        self.config = config
        self.inputs = InputLayer(vocabulary, config)
        self.length = rec_length + search_length * merged
        self.kind = nn.Parameter(torch.randn(2, d) * 0.02) if merged else None
        self.mlp = ScoringMLP((d, d, d), config.hidden, config.dropout) if config.scorer == "mlp" else None
        self.reads = self.reads | ({"query", "click", "time"} if merged else set()) | ({"user"} if self.mlp else set())

    @property
    def samples(self) -> int:
        """See ``CatalogueConfig.samples``."""
        return int(self.config.samples if self.mlp is None else max(1, self.config.samples // 8))

    def sequence(self, batch: Batch) -> Sequence:
        """The events of each row, and which of them each target sees."""
        present = batch.rec != 0
        tokens = self.inputs.items(batch.rec)
        if self.kind is None:
            return Sequence(tokens, present, reach(present, batch.rec_seen))
        merged = merge(batch)
        searches = self.inputs.searches(batch.query, batch.click) + self.kind[SEARCH]
        tokens = merged.arrange(tokens + self.kind[RECOMMENDATION], searches) * merged.present.unsqueeze(2)
        return Sequence(tokens, merged.present, merged.reach)

    def user(self, batch: Batch) -> Tensor | None:
        """User vectors for the MLP scorer."""
        return self.inputs.users(batch.user) if self.mlp is not None else None

    @abstractmethod
    def encode(self, batch: Batch) -> Sequential:
        """See ``Recommender.encode``."""

    def score(self, state: Sequential, items_BTCD: Tensor) -> Tensor:
        """B T C."""
        if self.mlp is None:
            return dot(state.vector, items_BTCD)
        assert state.user is not None
        return self.mlp(state.user[:, None, None], state.vector.unsqueeze(2), items_BTCD)

    def retrieval(self, state: Sequential) -> Tensor | None:
        """B T 1 D, where the score is a dot product."""
        return state.vector.unsqueeze(2) if self.mlp is None else None
