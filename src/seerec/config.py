"""Shared settings: every default, what it means and where it comes from.

Model settings live beside their model. All settings are frozen, refuse unknown names and are stored with every result.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seerec.errors import SeerecError


class Settings(BaseModel):
    """Base of all settings: frozen, unknown names are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class DataSettings(Settings):
    """How event tables become a corpus (protocol: history = strictly earlier, and before the own request)."""

    split: Literal["leave-one-out", "chronological"] = "leave-one-out"
    """leave-one-out: last click of a user is test, the one before validation. chronological: by two instants."""
    val_start: str | None = None
    """chronological: first instant of validation, ISO date or date-time in UTC. None: by ``val_fraction``."""
    test_start: str | None = None
    """chronological: first instant of test. None: by ``test_fraction``."""
    val_fraction: float = Field(0.1, gt=0, lt=1)
    """chronological without dates: share of the clicks, latest before test, that are validation."""
    test_fraction: float = Field(0.1, gt=0, lt=1)
    """chronological without dates: share of the clicks, latest of all, that are test."""
    repeats: Literal["drop", "keep"] = "drop"
    """drop: an item already in the user's own history is no target, and history items are no negatives."""
    zero_click: Literal["keep", "first-shown", "drop"] = "keep"
    """Searches without a click. keep: their query alone. first-shown: with the first item shown, which plays by itself on
    KuaiSAR, as their click in histories, never as a target. drop: none of them."""
    min_user_clicks: int = Field(1, ge=1)
    """Users with fewer recommendation clicks are left out."""
    min_item_clicks: int = Field(1, ge=1)
    """Items with fewer training clicks (recommendation or search) have no id of their own."""
    min_word_count: int = Field(1, ge=1)
    """Words seen fewer times in training queries and item text become the unknown word."""
    max_words: int = Field(1_000_000, ge=1)
    """Size limit of the vocabulary; the most frequent words stay."""
    searches: Literal["own", "shuffled", "none"] = "own"
    """A control: ``shuffled`` gives every user another user's searches, ``none`` removes them."""
    negatives: int = Field(99, ge=1)
    """Negatives of a validation or test target (LCR-SER section 4.1.3: 99)."""
    sampler: Literal["uniform", "popularity"] = "uniform"
    """How those negatives are drawn; the group's notebooks draw from the interaction list, i.e. by popularity."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the candidate sets and of shuffled searches."""


class BatchSettings(Settings):
    """Lengths and sizes of a batch."""

    rec_length: int = Field(30, ge=1)
    """R, recommendation clicks a model sees (30 on KuaiSAR, 20 on Qilin in the group's programs)."""
    search_length: int = Field(30, ge=1)
    """S, searches a model sees."""
    query_words: int = Field(12, ge=1)
    """W, words of a query or of an item's text; later words are cut."""
    clicks: int = Field(5, ge=1)
    """N, clicks of a search; later clicks are cut."""
    targets_per_row: int | None = Field(None, ge=1)
    """T, targets of a packed training row. None: R / 2, so that no target is starved of history."""
    rows: int = Field(128, ge=1)
    """B, rows of a training batch on average: packed rows carry up to T targets each, and a batch of long ones has fewer, so that
    all batches have equally many targets."""
    negatives: int = Field(4, ge=1)
    """Negatives of a training target, not of the user's own training events unless the pool has hardly others."""
    fresh_negatives: bool = True
    """A28: drawn anew each epoch; False keeps a target's negatives, as the group's pre-drawn files do."""
    evaluation_rows: int = Field(1024, ge=1)
    """B at evaluation."""


class ReinforceSettings(Settings):
    """Stage 2, GRPO (LCR-SER section 3.4; the paper prints none of these numbers)."""

    rollouts: int = Field(8, ge=1)
    """N, trajectories of a target; of LCR-SER the first carries no noise (eq. 14). One alone leaves the KL term."""
    noise_std: float = Field(0.1, ge=0)
    """Gamma times sigma of eq. 14; only the product matters. LARES starts as in its own stage 1, whatever this says."""
    kl_weight: float = Field(0.1, ge=0)
    """Weight of the KL term of eq. 15."""
    reward: Literal["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"] = "hr@1"
    """The paper's experiments use HR@1; ties count by their expectation."""
    negatives: int = Field(99, ge=1)
    """A38: negatives of a stage-2 target, drawn fresh, as many as at test."""
    policy: Literal["softmax", "sigmoid"] = "softmax"
    """A37: probability over the row's candidates, so that an advantage moves the ranking."""
    scale: Literal["population", "sample", "none"] = "population"
    """A40: the deviation that divides an advantage; a group of equal rewards gets advantage 0."""
    baseline: Literal["mean", "first"] = "mean"
    """A44: eq. 17 takes the mean over all N; ``first`` takes the noiseless rollout."""
    kl: Literal["target", "candidates"] = "target"
    """A42: eq. 16 looks at the target alone; ``candidates`` is the full divergence over the row."""
    reference_noise: Literal["same", "fresh"] = "same"
    """A35, A43: the reference reasons with its own weights from the same noise."""
    updates: int = Field(1, ge=1)
    """A41: optimiser steps per rollout; with more than one the ratio is clipped."""
    clip: float = Field(0.2, gt=0)
    """A41: the usual clip of PPO, only used when ``updates`` is over 1."""
    dropout: bool = False
    """A45: dropout would be a second, unrecorded noise."""
    bce_weight: float = Field(0.0, ge=0)
    """A46: weight of the ranking loss kept beside eq. 15, which has none."""
    learning_rate: float = Field(1e-5, gt=0, le=100)
    """A47: Adam, for dense parameters and tables alike, without weight decay."""
    rows: int = Field(32, ge=1)
    """B, packed rows of a step."""
    epochs: int = Field(5, ge=0)
    """At most; early stopping watches the same validation metric as stage 1."""
    steps_per_epoch: int | None = Field(None, ge=1)
    """Steps between two validations; None: all rows."""
    patience: int = Field(2, ge=1)
    """Epochs without a new best before stopping."""
    max_minutes: float | None = Field(None, gt=0)
    """As ``max_minutes`` of stage 1."""


class TrainSettings(Settings):
    """Stage 1 and what both stages share."""

    batch: BatchSettings = BatchSettings()
    reinforce: ReinforceSettings = ReinforceSettings()
    objective: Literal["group", "original"] = "group"
    """group: the 1:n ranking loss that all models of the paper's authors share, plus a model's own terms. original: the
    objective of the model's own paper."""
    epochs: int = Field(200, ge=1)
    """At most; early stopping usually ends sooner."""
    max_minutes: float | None = Field(None, gt=0)
    """A stage ends, with a validation, when it has trained so long, in processor time of the training thread over all its
    resumed parts; the result then depends on the machine's speed. None: no limit."""
    users: int | None = Field(None, ge=1)
    """Train and validate on this many users, drawn at random, the same ones for every model; None: all."""
    patience: int = Field(5, ge=1)
    """Epochs without a new best validation metric before stopping (5 in the group's programs)."""
    patience_steps: int = Field(200, ge=1)
    """An epoch of fewer steps counts as that share of one for ``patience`` and ``decay_patience``: on a small log epochs are
    short, and models need hundreds of steps before they rise above popularity. 1: every epoch counts."""
    learning_rate: float = Field(1e-3, gt=0, le=100)
    """Adam (1e-3 in the group's programs)."""
    schedule: Literal["plateau", "constant"] = "plateau"
    """plateau: multiply the rate by ``decay`` when the metric has not risen for ``decay_patience`` epochs."""
    decay: float = Field(0.1, gt=0, lt=1)
    """Factor of ``plateau`` (.1 in the group's programs)."""
    decay_patience: int = Field(3, ge=1)
    """Epochs without a new best before the rate falls (3 in the group's programs)."""
    min_learning_rate: float = Field(1e-6, gt=0)
    """The rate never falls below it."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate rises linearly from 0."""
    weight_decay: float = Field(1e-6, ge=0)
    """L2: decoupled (AdamW) and, in tables, on touched rows only; see ``optimizer``."""
    optimizer: Literal["lazy", "dense"] = "lazy"
    """lazy: tables update touched rows only. dense: Adam with coupled L2 over whole tables (``preset paper``)."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Largest gradient norm; None: no clipping."""
    unknown_user_share: float = Field(0.1, ge=0, lt=1)
    """Share of training rows whose user is replaced by the unknown user, so that new users have a trained row."""
    metric: Literal["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"] = "ndcg@5"
    """Validation metric that early stopping and the schedule watch."""
    validation_users: int | None = Field(None, ge=1)
    """Validate on this many targets, the same ones each time; None: all."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the kernels' products in training: bf16 rounds what is multiplied to 16 bits; sums, weights and validation stay in fp32.
    auto: bf16 where the processor multiplies such numbers (AMX)."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of weights, batches, dropout and noise."""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """A checkpoint at every epoch's end, and within an epoch when this much time has passed."""
    keep_checkpoints: int = Field(2, ge=1)
    """Older checkpoints are removed."""


def refusal(error: ValidationError, fix: str, known: Iterable[str], prefix: str = "") -> SeerecError:
    """What is wrong with the first setting that was refused, by the name the user gave (after ``prefix``).

    The answer to an unknown name is the nearest of the ``known`` ones.
    """
    first = error.errors()[0]
    name = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = get_close_matches(name, list(known), n=1)
        return SeerecError(f"There is no setting {name!r}.", f"Did you mean {near[0]}? {fix}" if near else fix)
    if first["type"] == "missing":
        return SeerecError(f"The setting {name!r} is missing.", fix)
    message = first["msg"].removeprefix("Value error, ")
    what = f"The setting {name!r} = {first['input']!r} is" if first["loc"] else "The settings are"
    return SeerecError(f"{what} not valid: {message[0].lower()}{message[1:]}.", fix)


def names(settings: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting by its dotted name."""
    for name, field in settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from names(inner, f"{prefix}{name}.")
        else:
            yield prefix + name
