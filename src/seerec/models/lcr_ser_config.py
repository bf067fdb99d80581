"""LCR-SER's settings: the model's switches of the ambiguity register (docs/ambiguities.md), each with its default and reason.

The defaults are the faithful reading, and what the preset ``paper`` runs; ``best`` is the one that did best on validation
(``training/presets.py``, docs/results.md). Stage 2's switches are in ``config.ReinforceSettings``.
"""

from typing import Annotated, Literal

from pydantic import Field

from seerec.models.base import ModelConfig


class LCRSERConfig(ModelConfig):
    """Settings of LCR-SER. A number such as A7 is the entry of the register in docs/ambiguities.md."""

    steps: int = Field(3, ge=0, le=1000)
    """K (A15): the paper does not print its value; figure 6 sweeps it, table 4 measures 0 to 5."""
    layers: int = Field(1, ge=1, le=100)
    """A6: the equations are written for one layer, and the group uses one."""
    cross_layers: Literal["top", "all"] = "top"
    """A6 with more layers: where the cross-attention sits; the equations do not say."""
    heads: int = Field(2, ge=1)
    """A52: 2 in the group's programs, for self- and cross-attention alike."""
    feed_width: int | None = Field(None, ge=1, le=65_536)
    """A7: inner width of the feed-forward network; None: D, as in the group's programs."""
    block: Literal["post", "pre", "literal"] = "post"
    """A7: post-normalisation as in the group's programs; ``literal`` is the printed form, badly scaled over K steps."""
    activation: Literal["relu", "gelu"] = "relu"
    """A7: group's programs."""
    cross_norm: bool = True
    """A8: a normalisation after the cross-attention's residual, so that the recursion keeps its scale."""
    causal: bool = True
    """A9: printed. False, as in the group's programs, means one row per target (no packing)."""
    self_context: Literal["own", "search"] = "own"
    """A1: eq. 5 prints the search context for the recommendation side's self-attention; the text calls the sides
    symmetric, and the weights are those of the recommendation encoder, hence its own context."""
    update: Literal["parallel", "search_first"] = "parallel"
    """A2: eq. 6 holds step inputs only, which exist before the step; ``search_first`` shows h_s^(k) to the other side."""
    includes_current: bool = True
    """A3: the shape (L + k) is printed twice, and it keeps an empty history's context non-empty."""
    cross_steps: bool = True
    """A4: eq. 6 as printed lets each side see the other's step inputs; False: only the other's history."""
    context: Literal["raw", "encoded"] = "raw"
    """A5: eq. 6 prints position-aware embeddings, not encoder outputs."""
    empty: Literal["zero", "learned"] = "zero"
    """A12: start state of a side without history; the group's wrapper returns zeros."""
    step_position: Literal["table", "shared", "none"] = "table"
    """A13: K x D table, indexed by step."""
    position: Literal["oldest", "recent"] = "oldest"
    """A14: slot 0 is the oldest kept event, as in the group's programs; ``recent`` counts back (no packing)."""
    perturb_history: bool = False
    """A16: eq. 14 defines the noisy start apart from eq. 7's encoded history."""
    attention: Literal["bilinear", "dot", "multihead", "mlp"] = "bilinear"
    """A17: the same block in three programs of the group."""
    twin: Literal["keep_norm", "skip_norm", "last_step", "separate"] = "keep_norm"
    """A18: the run without cross-attention: same weights, all K steps, its residual's normalisation kept."""
    detach: Literal["none", "twin", "target", "both"] = "none"
    """A19: nothing is stopped in print."""
    distance: Literal["euclidean", "cosine", "normalised"] = "euclidean"
    """A20: the group's triplet loss is Euclidean; cosine does not depend on the states' norm."""
    margin: float = Field(0.1, ge=0)
    """A21: m of eq. 9 (.1 in the group's triplet loss)."""
    contrastive_weight: float = Field(0.01, ge=0)
    """A21: lambda_TCL of eq. 12; figure 7 sweeps it, 0 turns TCL off."""
    aggregation: Literal["target", "mean", "mean_steps", "last"] = "target"
    """A24, A25: target is eq. 8 (TRA); the means are the rows of table 3 without it."""
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = (200, 80)
    """A26: hidden layers of the MLP of eq. 10 in the group's programs."""
    scorer: Literal["mlp", "mlp+dot", "dot"] = "mlp"
    """mlp is eq. 10; the dot product of (w_s + w_r) with e_v, ours, learns item similarity much faster."""
    shared_cross: bool = False
    """A52: one cross-attention for both sides instead of the printed pair."""
    trajectory: Literal["train", "data"] = "train"
    """A36: stage 2 recomputes the trajectory with gradient, since reasoning is what it tunes; ``data`` stops there."""

    @property
    def packable(self) -> bool:
        """Whether the state of a target depends on nothing after its own prefix."""
        return self.causal and self.position == "oldest"
