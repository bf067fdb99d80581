"""Query-SeqRec: query-aware sequential recommendation (He, Zhao, Wang, Lin, Kale & McAuley, CIKM 2022).

Both histories become one sequence in order of time in which a search is its query's token followed by its clicked items, so
L <= R + S (1 + N) slots. With e_i an item's vector or the mean of a query's words, P_i the position, k_i one vector for items and
one for queries, a causal Transformer whose attention normalises only its query predicts items alone:

    x_i = e_i + P_i + k_i
    Q = LN(X),  A = Q + attention(Q, X, X; causal),  Z = LN(A),
    X' = Z + FFN(Z),  FFN(z) = z + W2 relu(W1 z + b1) + b2               each block (Z enters twice)
    F = LN(X') after the last block,  score of item v = <F_t, e_v>       t the last token that a target sees

Who has seen nothing is the zero vector, so all candidates tie.

Objective ``group``: the shared ranking loss at the batch's targets. ``original``: mean of -log softmax(score of v among all
items) over the tokens whose next one is an item v: the targets that see any (each follows the last one), and the clicked items
of searches, each predicted from the token before it. A search counts in the one packed row whose targets it precedes, not again
where it is only history. Nothing is predicted from an item before a query.

While training, inputs are replaced at random (``augment``): an item with probability p_i, a query with p_q; with probability g
by a neighbour in the graph of queries and the items clicked for them (an item clicked for the query; a query that led to its
first click), else by a random item, or a random query of the training searches. A recommended item has no active query, so it
has no neighbours, and ``early_query`` adds nothing to it. The graph is made of training batches alone (``observe``).

The authors' program (AaronHeee/Query-SeqRec) is this with ``residual = False``, ``features = False`` and ``softmax = "full"``:
from equal weights and without dropout, states, scores, the loss and its gradients agree to rounding. Whose weight is whose:

    theirs                                          here
    item_emb, a row for each item, then each word   inputs.item, inputs.word
    pos_emb                                         position
    type_emb                                        kind: items, queries
    attention_layernorms.i, forward_layernorms.i    blocks.i.norm_attention, .norm_feed
    attention_layers.i.linear_layers.0, 1, 2        blocks.i.attention.query, .key, .value
    attention_layers.i.output_linear                blocks.i.attention.out
    forward_layers.i.conv1, conv2                   blocks.i.feed_in, .feed_out
    last_layernorm                                  norm

Differences (theirs in brackets):

- The attention's query is added to its output [the line is commented out in the released file: ``residual = False``].
- Every next item trains [a sequence of full length gives up all tokens but its queries].
- All words of a query count, and a search has at most ``clicks`` clicks; the lengths of the batch decide which events are read
  [its first five words, all clicks, the last 50 tokens].
- ``early_query`` adds a query to its search's clicks [to each token the query that their data put beside it; which one stands
  beside a query's own token is in data that were not released].
- A clicked item that was replaced in the input is no label in that batch [it is].
- A random item is any; any query may be replaced [one that was clicked for a query; not the last token's, nor one that begins
  with the table's first word]. The graph has each pair once [a file that was not released, made with a threshold].
- Tables, positions and kinds start normal, linear layers Xavier normal [all Xavier uniform].

Source: the authors' program; the paper's body was not available.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seerec.batch import Batch
from seerec.kernels import dropout
from seerec.models.attention import Attention, history_mask
from seerec.models.base import CatalogueConfig, Kind, NeuralRecommender, Vocabulary
from seerec.models.inputs import InputLayer
from seerec.models.layers import Reach, dot, initialise, reach
from seerec.models.merging import merge
from seerec.models.query_graph import Augmented, QueryGraph, bag


class QuerySeqRecConfig(CatalogueConfig):
    """Settings of Query-SeqRec."""

    layers: int = Field(2, ge=1, le=100)
    """Blocks (2 in the authors' scripts)."""
    heads: int = Field(2, ge=1)
    """2 in the authors' scripts."""
    clicks: int = Field(5, ge=1, le=1000)
    """Clicked items of a search that become tokens, at most; later ones are left out (as many as a batch has by default)."""
    residual: bool = True
    """Add the attention's query to its output. The released program has this line commented out, surely not as it was run."""
    early_query: bool = False
    """Add a search's query vector to its clicked items' tokens (an option of the authors' program, not used in its scripts)."""
    norm_eps: float = Field(1e-8, gt=0)
    """Epsilon of the layer normalisations (1e-8 in the authors' program)."""
    replace_items: float = Field(0.1, ge=0, le=1)
    """p_i, chance that an input item is replaced while training (authors' scripts: .1 Unsplash, .25 Diginetica)."""
    replace_queries: float = Field(0.1, ge=0, le=1)
    """p_q, chance that a query is (.1 and .25)."""
    graph_share: float = Field(0.3, ge=0, le=1)
    """g, chance that the substitute is a neighbour in the graph instead of a random one (.3 and .2)."""


class Tokens(NamedTuple):
    """The sequence: clicks, queries and their clicked items in order of time, padding last."""

    vectors: Tensor  # B L D
    present: Tensor  # B L     bool
    is_query: Tensor  # B L     bool
    reach: Reach
    place: Tensor  # B S 1+N   slot of each search's query and clicks


@dataclass(frozen=True)
class QuerySeqRecState:
    """``vector`` is the state after the last token that each target sees."""

    vector: Tensor  # B T D
    encoded: Tensor  # B L D   F
    place: Tensor  # B S 1+N   as in ``Tokens``


class QuerySeqRec(NeuralRecommender[QuerySeqRecState]):
    """See the module's docstring."""

    key = "query-seqrec"
    title = "Query-SeqRec"
    reads = frozenset({"rec", "query", "click", "time", "features"})
    Config = QuerySeqRecConfig
    config: QuerySeqRecConfig
    packs = True
    learns_transitions = True

    def __init__(self, config: QuerySeqRecConfig, vocabulary: Vocabulary, rec_length: int, search_length: int) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.inputs = InputLayer(vocabulary, config)
        self.position = nn.Parameter(torch.empty(rec_length + search_length * (1 + config.clicks), d))
        self.kind = nn.Parameter(torch.empty(2, d))
        self.blocks = nn.ModuleList(QuerySeqRecBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.graph = QueryGraph()
        initialise(self)
        nn.init.normal_(self.position, std=0.02)
        nn.init.normal_(self.kind, std=0.02)

    # -- encoding and scoring ---------------------------------------------------------------------------------------

    def tokens(self, batch: Batch) -> Tokens:
        """The events of each row as one sequence."""
        r, click = batch.rec.shape[1], batch.click[..., : self.config.clicks]  # here N <= ``clicks``
        query, clicked = self.inputs.queries(batch.query).unsqueeze(2), self.inputs.items(click)
        if self.config.early_query:
            clicked = clicked + query
        vectors = torch.cat([self.inputs.items(batch.rec), torch.cat([query, clicked], 2).flatten(1, 2)], 1)
        in_search = torch.cat([batch.searched.unsqueeze(2), (click != 0) & batch.searched.unsqueeze(2)], 2)  # B S 1+N
        places = in_search.shape[2]
        present = torch.cat([batch.rec != 0, in_search.flatten(1)], 1)
        is_query = torch.zeros_like(present)
        is_query[:, r::places] = batch.searched
        # Rank = event x (1 + N) + place inside the search: events by time, then a query before its clicks.
        event_rank = merge(batch).place * places
        search_rank = event_rank[:, r:, None] + torch.arange(places, device=event_rank.device)
        rank = torch.cat([event_rank[:, :r], search_rank.flatten(1)], 1).masked_fill(~present, torch.iinfo(event_rank.dtype).max)
        order = rank.argsort(dim=1, stable=True)
        slot = torch.arange(order.shape[1], device=order.device).expand_as(order)
        place = torch.empty_like(order).scatter_(1, order, slot)[:, r:].unflatten(1, (-1, places))
        order = order[:, : max(1, int(present.sum(1).max()))]  # most searches have far fewer clicks than slots
        search_visible = reach(batch.searched, batch.search_seen).visible
        seen = batch.rec_seen + (search_visible * in_search.sum(2).unsqueeze(1)).sum(2)
        vectors = vectors.gather(1, order.unsqueeze(2).expand(-1, -1, vectors.shape[2]))
        ordered = present.gather(1, order)
        return Tokens(vectors, ordered, is_query.gather(1, order), reach(ordered, seen), place)

    def encode(self, batch: Batch) -> QuerySeqRecState:
        """Encode the tokens once; gather each target's state."""
        tokens = self.tokens(batch)
        present = tokens.present.unsqueeze(2)
        x = tokens.vectors + self.position[tokens.reach.position] + self.kind[tokens.is_query.long()]
        x = dropout(x, self.config.dropout, self.training) * present
        mask = history_mask(tokens.present, causal=True)
        for block in self.blocks:
            x = block(x, mask) * present
        encoded = self.norm(x)
        return QuerySeqRecState(tokens.reach.gather(encoded), encoded, tokens.place)

    def score(self, state: QuerySeqRecState, items_BTCD: Tensor) -> Tensor:
        """B T C."""
        return dot(state.vector, items_BTCD)

    def retrieval(self, state: QuerySeqRecState) -> Tensor:
        """B T 1 D."""
        return state.vector.unsqueeze(2)

    # -- training ---------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch, state: QuerySeqRecState, kind: Kind = "group") -> dict[str, Tensor]:
        """``original``: cross-entropy over the catalogue at targets and at clicked items of searches."""
        if kind == "group":
            return super().objective(batch, state, kind)
        label = self.labels(batch)
        row, search, click = label.nonzero(as_tuple=True)
        before = state.encoded[row, state.place[row, search, click + 1] - 1]  # a query or a click of the same search
        follows = batch.target_mask & (batch.rec_seen + batch.search_seen > 0)  # nothing comes before a first event
        vector = torch.cat([state.vector[follows], before])[None]
        positive = torch.cat([batch.positive_item[follows], batch.click[row, search, click]])[None]
        return {"rank": self.catalogue_loss(batch, replace(state, vector=vector), positive)}

    def labels(self, batch: Batch) -> Tensor:
        """B S N bool: which clicks of searches are predicted.

        The windows of a user overlap, but each click should train once per epoch, or about that: in the window whose targets
        it stands among. So its search comes after all recommended clicks that the first target sees, and before the last target.
        """
        targets, r = batch.target_mask, batch.rec.shape[1]
        first_target_sees = batch.rec_seen.masked_fill(~targets, r).amin(1, keepdim=True)
        last_target_sees = (batch.search_seen * targets).amax(1, keepdim=True)
        searches_before = reach(batch.searched, batch.search_seen).position
        recommendations_before = merge(batch).place[:, r:] - searches_before
        counted = batch.searched & (recommendations_before >= first_target_sees) & (searches_before < last_target_sees)
        label = counted.unsqueeze(2) & (batch.click > 1)
        label[..., self.config.clicks :] = False
        return label & batch.intact if isinstance(batch, Augmented) else label

    def observe(self, batch: Batch) -> None:
        """Add a training batch's searches to the graph."""
        self.graph.observe(batch.query * batch.searched.unsqueeze(2), batch.click * batch.searched.unsqueeze(2))

    def augment(self, batch: Batch) -> Batch:
        """Replace input items and queries at random; evaluation never asks for it."""
        p_i, p_q, g = self.config.replace_items, self.config.replace_queries, self.config.graph_share
        if p_i == p_q == 0:
            return batch
        self.graph.index(batch.rec.device)
        rec = torch.where(_chosen(batch.rec != 0, p_i), self._random_items(batch.rec), batch.rec)
        neighbour, known = self.graph.items_of.draw(bag(batch.query).unsqueeze(2).expand_as(batch.click))
        item = torch.where(_chosen(known, g), neighbour, self._random_items(batch.click))
        click = torch.where(_chosen(batch.click != 0, p_i), item, batch.click)
        query = self._replaced_queries(batch, p_q, g) if len(self.graph.words) else batch.query
        return Augmented(**{**vars(batch), "rec": rec, "click": click, "query": query}, intact=click == batch.click)

    def _random_items(self, like: Tensor) -> Tensor:
        return torch.randint_like(like, 2, max(3, len(self.inputs.item.weight)))

    def _replaced_queries(self, batch: Batch, p_q: float, g: float) -> Tensor:
        """Queries of training searches in place of some of the batch's; as wide as the widest."""
        first_click = (batch.click != 0).int().argmax(2, keepdim=True)
        neighbour, known = self.graph.queries_of.draw(batch.click.gather(2, first_click).squeeze(2))
        number = torch.where(_chosen(known, g), neighbour, torch.randint_like(neighbour, len(self.graph.words)))
        words = max(batch.query.shape[2], self.graph.words.shape[1])
        query, substitute = (F.pad(x, (0, words - x.shape[-1])) for x in (batch.query, self.graph.words[number]))
        replaced = _chosen((batch.query != 0).any(2), p_q)
        return torch.where(replaced.unsqueeze(2), substitute, query)


def _chosen(possible: Tensor, share: float) -> Tensor:
    """Each possible place with this chance."""
    return possible & (torch.rand(possible.shape, device=possible.device) < share)


class QuerySeqRecBlock(nn.Module):
    """The authors' block: normalised attention query, and a feed-forward network that is its own residual twice."""

    def __init__(self, config: QuerySeqRecConfig) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.norm_attention = nn.LayerNorm(d, eps=config.norm_eps)
        self.attention = Attention(d, config.heads, config.dropout)
        self.norm_feed = nn.LayerNorm(d, eps=config.norm_eps)
        self.feed_in = nn.Linear(d, d)
        self.feed_out = nn.Linear(d, d)

    def forward(self, x_BLD: Tensor, visible_BLL: Tensor) -> Tensor:
        """B L D -> B L D."""
        query = self.norm_attention(x_BLD)
        attended = self.attention(query, self.attention.keys_values(x_BLD), visible_BLL)
        z = self.norm_feed(query + attended if self.config.residual else attended)
        inner = F.relu(dropout(self.feed_in(z), self.config.dropout, self.training))
        # X' = Z + FFN(Z) with FFN(z) = z + ...: Z twice, as the module's docstring prints it.
        return 2 * z + dropout(self.feed_out(inner), self.config.dropout, self.training)
