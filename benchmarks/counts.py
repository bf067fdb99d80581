"""How many multiply-adds and bytes a training target and an evaluated row need: what rates are compared with ceilings by.

    SEEREC_KERNELS=off python benchmarks/counts.py

FLOP are counted in two ways. Of LCR-SER and SASRec the products are written out below, from the equations and the settings; of
every model torch's own counter counts those of a real step (two FLOP for a multiply-add; normalisation, softmax, dropout and the
optimizer are no products). The program prints both and their quotient as JSON. torch cannot look into the compiled kernels,
so they must be off.

Bytes are a lower bound for a step that is computed layer by layer: every product reads its operands and writes its result
once, the gradient of either operand takes as much again, and the rows of tables move once through the optimizer. What stays in a
cache between two layers is not taken off, and nothing but products and tables is counted.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from seerec.config import Settings
from seerec.models.lcr_ser_config import LCRSERConfig
from seerec.models.sasrec import SASRecConfig
from seerec.training.presets import resolve

FLOAT = 4
"""Bytes."""
WRITTEN = {"sasrec": SASRecConfig, "lcr-ser": LCRSERConfig}
"""Models whose products are written out."""


@dataclass(frozen=True)
class Shape:
    """Of one row: T targets with C candidates, L events of either history, W words and N clicks of a search."""

    targets: int
    candidates: int
    length: int = 30
    words: int = 6
    clicks: int = 2


class Product(NamedTuple):
    """``count`` products of (rows, inner) with (inner, columns) for one row of a batch."""

    count: int
    rows: int
    inner: int
    columns: int
    weights: bool = True
    """The right operand is a parameter, read once for a whole batch and so not counted here."""
    gradients: int = 2
    """How many of its operands have a gradient, each of which is one more product."""
    matrix: bool = True
    """False: an inner product of one vector with another, which torch's operations do element by element."""

    @property
    def flop(self) -> int:
        """Two for a multiply-add."""
        return 2 * self.count * self.rows * self.inner * self.columns

    @property
    def moved(self) -> int:
        """Bytes of operands and result."""
        right = 0 if self.weights else self.inner * self.columns
        return FLOAT * self.count * (self.rows * self.inner + self.rows * self.columns + right)


def attention(queries: int, length: int, own: int, width: int, heads: int, gradients: int = 2) -> list[Product]:
    """Q queries over a history of L and k vectors of each query's own, heads h of e = D / h.

    2 Q L D multiply-adds for logits and values of the history, 2 Q k D for those of the own vectors.
    """
    e = width // heads
    found = [
        Product(heads, queries, e, length, weights=False, gradients=gradients),
        Product(heads, queries, length, e, weights=False, gradients=gradients),
    ]
    alone = [
        Product(heads * queries, 1, e, own, weights=False, gradients=gradients, matrix=False),
        Product(heads * queries, 1, own, e, weights=False, gradients=gradients, matrix=False),
    ]
    return found + (alone if own else [])


def encoder(length: int, config: Any, inner: int) -> list[Product]:
    """One layer over L events: L (4 D^2 + 2 D F) in linear layers and 2 L^2 D in attention (masked slots are multiplied too)."""
    d = config.width
    linear = [Product(4, length, d, d), Product(1, length, d, inner), Product(1, length, inner, d)]
    return linear + attention(length, length, 0, d, config.heads)


def sasrec(config: SASRecConfig, shape: Shape) -> list[Product]:
    """Blocks over the clicks, then <state, item>: layers (L (4 D^2 + 2 D^2) + 2 L^2 D) + T C D multiply-adds a row."""
    if config.history != "rec" or config.scorer != "dot" or config.norm == "query_only":
        raise ValueError("these settings of sasrec are not written out; compare with what torch counts alone")
    blocks = config.layers * encoder(shape.length, config, config.width)
    return [*blocks, Product(shape.targets, shape.candidates, config.width, 1, weights=False)]


def lcr_ser(config: LCRSERConfig, shape: Shape, rollouts: int = 1) -> list[Product]:
    """LCR-SER of one layer with bilinear target attention, as in the preset ``best``; F is the feed-forward width.

    Multiply-adds of a row and a side, with S = L + T K states and M = min(T C, S):

        positions   L^2 D                                             rows of a small table are taken by a product
        history     L (4 D^2 + 2 D F) + 2 L^2 D                       eq. 1
        contexts    4 L D^2                                           keys and values of MSA and of the other side's MCA
        step k      T (8 D^2 + 2 D F + 4 (L + k) D)                   eq. 2 to 6, k = 1 .. K
        twin        T (4 D^2 + 2 D F + 2 (L + k) D)                   eq. 9, training alone, without MCA

    for scoring, where candidates are more than steps (evaluation)

        M D^2 + 2 T C (L + K) D                                       eq. 8 and the dot product
        S D H + T C (L + K) H                                         the MLP's first layer on states, then mixed (eq. 10)

    or where they are not (training with few negatives)

        T C (D^2 + 2 (L + K) D + D + D H)                             w of eq. 8, its dot product, the MLP's first layer on w

    and for both sides together D H + T C (D H + H) of the MLP: its columns of user and candidate, and its last layer.

    N ``rollouts`` make T N of T in the steps, and of T C where trajectories differ: own states, mixtures, the MLP's later layers.
    """
    if config.layers != 1 or config.attention != "bilinear" or config.aggregation != "target" or config.scorer != "mlp+dot":
        raise ValueError("these settings of lcr-ser are not written out; compare with what torch counts alone")
    d, heads, inner, hidden = config.width, config.heads, config.feed_width or config.width, config.hidden
    t, c, length, k = shape.targets, shape.candidates, shape.length, config.steps
    side = [Product(1, length, length, d, gradients=1), *encoder(length, config, inner)]
    side += [Product(4, length, d, d)] if k else []
    runs = t * rollouts
    for step in range(1, k + 1):
        side += [Product(8, runs, d, d), Product(1, runs, d, inner), Product(1, runs, inner, d)]
        side += 2 * attention(runs, length, step, d, heads)
    if c <= k and rollouts == 1:
        side += scored_by_vector(t, c, length, k, d, hidden[0])
    else:
        side += scored_by_mixture(t, rollouts, c, length, k, d, hidden[0])
    ends = [Product(1, 1, d, hidden[0]), Product(1, t * c, d, hidden[0])]
    ends += [Product(1, runs * c, a, b) for a, b in pairwise((*hidden, 1))]
    return 2 * side + ends


def scored_by_mixture(t: int, rollouts: int, c: int, length: int, k: int, d: int, h: int) -> list[Product]:
    """Of one side: weights of eq. 8, and with them mixtures of inner products and of mapped states; h is H."""
    runs = t * rollouts
    states = length + runs * k
    found = [Product(1, min(t * c, states), d, d)]  # the bilinear form, on candidates or on states
    found += 2 * [Product(1, t * c, d, length, weights=False)]  # logits, then the dot product with each state
    found += [Product(1, states, d, h), Product(1, runs * c, length, h, weights=False)]
    own = [*2 * [Product(runs, c, d, k, weights=False)], Product(runs, c, k, h, weights=False)]
    return found + (own if k else [])


def reinforced(rows: int, targets: int) -> dict[str, float]:
    """FLOP and bytes of a target of LCR-SER in stage 2: the policy with its gradient, the reference without."""
    config, settings = resolve("lcr-ser", "best", {})
    tuned, shape = settings.reinforce, Shape(targets, 1 + settings.reinforce.negatives)
    found = lcr_ser(config, shape, tuned.rollouts)
    moved = sum(p.moved * (2 + p.gradients) for p in found)
    return {"flop": (flop(found, True) + flop(found, False)) / targets, "bytes": moved / targets, "rows": rows}


def scored_by_vector(t: int, c: int, length: int, k: int, d: int, h: int) -> list[Product]:
    """Of one side: w of eq. 8 itself, by an attention of one head whose queries are the candidates; h is H."""
    dot = Product(t * c, 1, d, 1, weights=False, matrix=False)
    return [Product(1, t * c, d, d), *attention(t * c, length, k, d, 1), dot, Product(1, t * c, d, h)]


def twin(config: LCRSERConfig, shape: Shape) -> list[Product]:
    """The run without cross-attention that TCL compares with, both sides; see ``lcr_ser``."""
    if not config.contrastive_weight or config.twin != "keep_norm":
        return []
    d, inner, t = config.width, config.feed_width or config.width, shape.targets
    gradients, side = 0 if config.detach in ("twin", "both") else 2, list[Product]()
    for step in range(1, config.steps + 1):
        side += [Product(4, t, d, d, gradients=gradients), Product(1, t, d, inner, gradients=gradients)]
        side += [Product(1, t, inner, d, gradients=gradients)]
        side += attention(t, shape.length, step, d, config.heads, gradients)
    return 2 * side


def products(key: str, config: Settings, shape: Shape, training: bool) -> list[Product]:
    """Those of one row of a batch, forward."""
    if isinstance(config, LCRSERConfig):
        return lcr_ser(config, shape) + (twin(config, shape) if training else [])
    if isinstance(config, SASRecConfig):
        return sasrec(config, shape)
    raise ValueError(f"the products of {key} are not written out")


def flop(found: list[Product], training: bool, matrices_alone: bool = False) -> int:
    """Of one row; a gradient takes a product for each operand that has one."""
    kept = [p for p in found if p.matrix or not matrices_alone]
    return sum(p.flop * (1 + p.gradients * training) for p in kept)


def training_bytes(found: list[Product], key: str, config: Any, shape: Shape, rows: int, touched: int, dense: int) -> float:
    """Of one row of a batch of ``rows``.

    Products: operands and result once, and once more for each gradient. Looked-up vectors are read and written,
    and their gradients as well: 4 D floats each. A touched row of a table is gathered (read, written), read, its gradient
    written and read, its mean read and written, and itself written: 8 D floats, and 4 for ``square`` and ``count``. A dense
    parameter is read, its gradient written and read, two moments read and written, itself written: 8 floats.
    """
    d = config.width
    of_products = sum(p.moved * (1 + p.gradients) for p in found)
    of_lookups = 4 * FLOAT * d * lookups(key, shape)
    of_tables = FLOAT * (touched * (8 * d + 4) + 8 * dense) / rows
    return of_products + of_lookups + of_tables


def evaluation_bytes(found: list[Product], key: str, config: Any, shape: Shape, rows: int, dense: int) -> float:
    """Of one row of a batch of ``rows``: products, looked-up vectors read and written, dense parameters read once a batch."""
    return sum(p.moved for p in found) + FLOAT * (2 * config.width * lookups(key, shape) + dense / rows)


def lookups(key: str, shape: Shape) -> int:
    """Vectors that one row takes from tables: clicks and candidates, of LCR-SER also user, words, clicked results."""
    items = shape.length + shape.targets * shape.candidates
    return items if key == "sasrec" else items + 1 + shape.length * (shape.words + shape.clicks) + shape.targets


def counted(key: str) -> dict[str, Any]:
    """FLOP of a training target and of an evaluated row of 100 candidates: torch's, ours, and ours over torch's.

    On small tables, whose size changes no product; without our inner products of single vectors, which torch's operations
    do element by element.
    """
    import torch
    from curve_point import Point
    from ours_worker import Measured
    from torch.utils.flop_counter import FlopCounterMode

    # Of the products that torch's counter knows, it does not know this one where it overwrites.
    overwriting = {torch.ops.aten.baddbmm_: lambda _, a, b, **__: 2 * a.numel() * b[2]}
    rows, shapes = 4, {"train": Shape(30, 2), "evaluate": Shape(1, 100)}
    measured = Measured(Point(key, 0, items=500, users=50, words=500, rows=rows, targets=30, train_candidates=2))
    measured.evaluation_rows = rows
    answer: dict[str, Any] = {}
    for what, shape in shapes.items():
        given = measured.given(what)[0]
        units = sum(batch.rec_seen.numel() for batch in given)
        # torch counts a GRU only where it is not one call into the library of the processor.
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False, custom_mapping=overwriting) as counter:
            measured.step(what)(given)
        answer[what] = {"torch": counter.get_total_flops() / units}
        if key in WRITTEN:
            found = products(key, measured.learner.model.config, shape, what == "train")
            per = units / rows
            answer[what]["ours"] = flop(found, what == "train") / per
            answer[what]["agreement"] = flop(found, what == "train", matrices_alone=True) / per / answer[what]["torch"]
    return answer


def needed(key: str, what: str, rows: int, targets: int, touched: int, dense: int) -> dict[str, float]:
    """FLOP and bytes of a training target or an evaluated row on the load, for a model whose products are written out."""
    config = resolve(key, "best", {})[0]
    training = what == "train"
    shape = Shape(targets, 2) if training else Shape(1, 100)
    found, per = products(key, config, shape, training), shape.targets
    if training:
        moved = training_bytes(found, key, config, shape, rows, touched, dense)
    else:
        moved = evaluation_bytes(found, key, config, shape, rows, dense)
    return {"flop": flop(found, training) / per, "bytes": moved / per}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(WRITTEN), help="keys; %(default)s")
    if os.environ.get("SEEREC_KERNELS", "on") != "off":
        sys.exit("torch's counter sees no compiled kernel: set SEEREC_KERNELS=off.")
    print(json.dumps({key: counted(key) for key in parser.parse_args().models}))
