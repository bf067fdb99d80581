"""BERT4Rec: sequential recommendation with bidirectional encoder representations from Transformer (Sun et al., CIKM 2019).

Every event attends to every visible one. Masked items are predicted from both sides (Cloze); to recommend, a [MASK] is
appended to the history. With e the items' vectors, or that of [MASK], and P the positions, counted from the oldest event:

    X = LN(e + P)
    A = LN(X + attention(X, X, X)),  X' = LN(A + W2 gelu(W1 A + b1) + b2)        each block; the next starts from X'
    h = LN(gelu(W x + b))                        x: the last block's X' at a [MASK]; ``head``, ``norm_head``
    score of candidate v = <h, e_v> + b_v        b_v is one more column of ``items``: states end in a 1

Every target of a packed row has an encoding of its own, since all its events see its [MASK]. Who has seen nothing is the
lone [MASK], which ranks items like any other state.

    L_cloze = mean over masked items v of -log softmax(score of v among all items)

Objective ``group``: L_rank + w L_cloze, the shared ranking loss at the appended [MASK] and Cloze over the visible history, w
``cloze_weight``. ``original``: L_cloze alone, over the history and the target item as one sequence, as the authors' training
sequences hold all training items. Cloze reads what a row's last target sees: one sequence per window of a user, not one
per prefix, which would mask the early items most often. A share of the rows masks its last item only, as a share of the
authors' rows does: at test there is one [MASK], at the end, and random masks seldom show that. RecBole long lacked these rows
and scored lower.

Differences (the authors' program, FeiSun/BERT4Rec, in brackets):

- Masks are drawn anew for every row and step [ten copies are written beforehand].
- Nothing is dropped to make room for [MASK], since positions have one slot more. BERT's one segment vector is part of them.
- Linear layers start Xavier normal [truncated normal, .02].
- LN's epsilon is theirs, 1e-12, at the input and in the head, and torch's 1e-5 in the blocks.
- Dropout acts inside the feed-forward network too [on its output alone].

The authors' size: ``width`` 64, ``heads`` 2, ``layers`` 2, ``feed_width`` 256, ``features`` off, ``softmax`` full.
"""

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import RECOMMENDATION, Batch
from seerec.kernels import dropout
from seerec.models.attention import EncoderLayer, history_mask
from seerec.models.base import Kind, Vocabulary
from seerec.models.inputs import Table
from seerec.models.layers import initialise, reach
from seerec.models.merging import merge
from seerec.models.sequential import Sequence, SequenceState, SequentialConfig, SequentialRecommender
from seerec.models.unpacking import last_target

_EPS = 1e-12
"""Of the normalisations at the input, where vectors are small, and in the head; the authors' program."""


class BERT4RecConfig(SequentialConfig):
    """Settings of BERT4Rec. ``dropout`` is .2 (ML) or .5 (Beauty) in the authors' program; ``softmax`` is of every Cloze loss."""

    layers: int = Field(2, ge=1, le=100)
    """Authors' program."""
    heads: int = Field(2, ge=1)
    """Authors' program."""
    feed_width: int | None = Field(None, ge=1, le=65_536)
    """Inner width of the feed-forward network; None: 4 D, as in the authors' program (256 for 64)."""
    mask_rate: float = Field(0.2, gt=0, le=1)
    """Share of the items that are masked, at least one (.2 ML, .4 Steam, .6 Beauty in the authors' program)."""
    last_share: float = Field(0.1, ge=0, le=1)
    """Share of the rows that mask their last item alone, the situation at test (1 in 11 in the authors' data)."""
    cloze_weight: float = Field(1.0, ge=0)
    """Weight of the Cloze loss in ``group``; no source, 1 is equal weight."""


class BERT4Rec(SequentialRecommender[SequenceState]):
    """State: the head's output at the appended [MASK], and a 1 for the item bias (which the MLP scorer does without)."""

    key = "bert4rec"
    title = "BERT4Rec"
    Config = BERT4RecConfig
    packs = True

    def __init__(self, config: BERT4RecConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__(config, vocabulary, rec_length, search_length)
        d = config.width
        if self.mlp is None:
            self.inputs.item_bias = Table(vocabulary.items, 1, 0.0)
        self.mask_token = nn.Parameter(torch.empty(d))
        self.position = nn.Parameter(torch.empty(self.length + 1, d))
        self.norm_input = nn.LayerNorm(d, eps=_EPS)
        self.blocks = nn.ModuleList(
            EncoderLayer(d, config.heads, config.feed_width or 4 * d, config.dropout, activation="gelu")
            for _ in range(config.layers)
        )
        self.head = nn.Linear(d, d)
        self.norm_head = nn.LayerNorm(d, eps=_EPS)
        initialise(self)
        for table in (self.mask_token, self.position):
            nn.init.normal_(table, std=0.02)

    def items(self, ids: Tensor) -> Tensor:
        """Item ids (any shape) -> vectors and biases (that shape, D + 1)."""
        vectors = self.inputs.items(ids)
        return vectors if self.inputs.item_bias is None else torch.cat([vectors, self.inputs.item_bias(ids)], -1)

    def reads_catalogue(self, kind: Kind) -> bool:
        """Cloze is a part of both objectives."""
        return self.config.softmax == "full" and (kind == "original" or self.config.cloze_weight > 0)

    def encode(self, batch: Batch) -> SequenceState:
        """Append [MASK] to what each target sees; its state."""
        sequence = self.sequence(batch)
        appended = sequence.reach.visible.new_ones(*batch.rec_seen.shape, 1)
        visible = torch.cat([sequence.reach.visible, appended], 2)
        hidden = torch.cat([torch.zeros_like(sequence.reach.visible), appended], 2)
        last = torch.full_like(batch.rec_seen, visible.shape[2] - 1).unsqueeze(2)
        return self.states(batch, sequence, visible, hidden, last)

    def states(
        self, batch: Batch, sequence: Sequence, visible_BTM: Tensor, hidden_BTM: Tensor, wanted_BTN: Tensor
    ) -> SequenceState:
        """States at the N ``wanted`` of M = L + 1 slots, B (T N) D: the L events and each target's item after them.

        What is ``hidden`` is a [MASK]. The last block works at the wanted slots alone.
        """
        b, t, m = visible_BTM.shape
        kind = 0 if self.kind is None else self.kind[RECOMMENDATION]
        target = self.inputs.items(batch.positive_item) + kind
        tokens = torch.cat([sequence.tokens.unsqueeze(1).expand(-1, t, -1, -1), target.unsqueeze(2)], 2)
        tokens = torch.where(hidden_BTM.unsqueeze(3), self.mask_token + kind, tokens).flatten(0, 1)
        target_position = visible_BTM[..., :-1].sum(2, keepdim=True)  # right after the visible events
        position = torch.cat([sequence.reach.position.unsqueeze(1).expand(b, t, m - 1), target_position], 2).flatten(0, 1)
        x = dropout(self.norm_input(tokens + self.position[position]), self.config.dropout, self.training)
        visible, wanted = visible_BTM.flatten(0, 1), wanted_BTN.flatten(0, 1)
        mask = history_mask(visible, causal=False)
        for block in list(self.blocks)[:-1]:
            x = block(x, mask)
        last_block = cast(EncoderLayer, self.blocks[-1])
        wanted_x = x.gather(1, wanted.unsqueeze(2).expand(-1, -1, x.shape[2]))
        # Without a causal mask all queries of a row see the same slots, so any rows of its mask will do.
        wanted_x = last_block.read(wanted_x, last_block.attention.keys_values(x), mask[:, : wanted.shape[1]])
        vector = self.norm_head(F.gelu(self.head(wanted_x))).view(b, -1, x.shape[2])
        if self.inputs.item_bias is not None:
            vector = F.pad(vector, (0, 1), value=1.0)
        return SequenceState(vector, self.user(batch))

    def objective(self, batch: Batch, state: SequenceState, kind: Kind = "group") -> dict[str, Tensor]:
        """See the module's docstring."""
        if kind == "original":
            return {"cloze": self.cloze(last_target(batch), with_target=True)}
        terms = super().objective(batch, state, kind)
        if self.config.cloze_weight > 0:
            terms["cloze"] = self.config.cloze_weight * self.cloze(last_target(batch), with_target=False)
        return terms

    def cloze(self, batch: Batch, with_target: bool) -> Tensor:
        """Cross-entropy of the masked items, mean over all. ``batch`` has one target per row; ``with_target``: the last item."""
        sequence = self.sequence(batch)
        (b, t), length, clicks = batch.rec_seen.shape, sequence.tokens.shape[1], batch.rec.shape[1]
        target_is_token = (batch.target_mask & with_target).unsqueeze(2)

        # Choose among the items, which are the clicks and after them the target's: no search is ever masked.
        item = torch.cat([batch.rec.unsqueeze(1).expand(-1, t, -1), batch.positive_item.unsqueeze(2)], 2)
        maskable = torch.cat([reach(batch.rec != 0, batch.rec_seen).visible, target_is_token], 2)
        chosen, count = self.masks(maskable)
        masked = torch.arange(chosen.shape[2], device=item.device) < count

        # From the number of an item to its slot in the sequence: the same, but where searches stand between the clicks.
        identity = torch.arange(clicks, device=item.device).expand(b, -1)
        click_slot = identity if self.kind is None else merge(batch).place[:, :clicks]
        item_slot = torch.cat([click_slot, torch.full_like(click_slot[:, :1], length)], 1).unsqueeze(1).expand(-1, t, -1)
        slot = item_slot.gather(2, chosen)

        # Encode with these items hidden, and score them at their slots.
        visible = torch.cat([sequence.reach.visible, target_is_token], 2)
        hidden = torch.zeros_like(visible).scatter(2, slot, masked)
        state = self.states(batch, sequence, visible, hidden, slot)
        return self.catalogue_loss(batch, state, (item.gather(2, chosen) * masked).flatten(1))

    def masks(self, maskable_BTM: Tensor) -> tuple[Tensor, Tensor]:
        """Items to mask (B T N), of which the first ``count`` (B T 1) count: random ones or, in some rows, the last."""
        (rows, _, items), device = maskable_BTM.shape, maskable_BTM.device
        total = maskable_BTM.sum(2, keepdim=True)
        last_only = torch.rand(rows, 1, 1, device=device) < self.config.last_share
        count = (total * self.config.mask_rate + 0.5).long().clamp(min=1).masked_fill(last_only, 1).minimum(total)
        # The smallest keys come first: the last item's, or those of a random choice; what is not maskable comes last.
        sort_key = torch.where(last_only, -torch.arange(items, device=device), torch.rand(rows, 1, items, device=device))
        order = sort_key.masked_fill(~maskable_BTM, 2.0).argsort(dim=2)
        return order[..., : max(1, int(count.max()))], count
