"""What every model promises. A model's tests inherit ``ModelConformance`` by naming its key.

Checks that a model cannot pass are named in ``EXCEPTIONS`` with the reason, and only there.
"""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from tests.models.synthetic import (
    ITEMS,
    NEITHER,
    ROOM,
    USERS,
    WORDS,
    R,
    S,
    as_search,
    batch,
    extend,
    left_padded,
    make,
    rows_of,
    scores,
    shift,
    single,
    vocabulary,
)

from seerec.config import ReinforceSettings
from seerec.models.base import CountingRecommender, ReasoningRecommender
from seerec.models.registry import MODELS, build
from seerec.training.optimizers import LazyAdam

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("sesrec", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("unifiedssr", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("unifiedssr", "sessions.predict"): "no gradient: it chooses which whole events a session holds",
    ("unisar", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("lcr-ser", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("sasrec", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("gru4rec", "inputs.user"): "no gradient: GRU4Rec does not read the user",
    ("sasrec", "inputs.user"): "no gradient: SASRec does not read the user",
    ("bert4rec", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("bert4rec", "inputs.user"): "no gradient: BERT4Rec does not read the user",
    ("cl4srec", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("cl4srec", "inputs.user"): "no gradient: CL4SRec does not read the user",
    ("nrhub", "inputs.user"): "no gradient: NRHUB does not read the user",
    ("query-seqrec", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("query-seqrec", "inputs.user"): "no gradient: Query-SeqRec does not read the user",
    ("jsr", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("user", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("user", "inputs.user"): "no gradient: USER does not read the user's id",
    ("rearec-erl", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("rearec-prl", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("rearec-erl", "inputs.user"): "no gradient: ReaRec does not read the user",
    ("rearec-prl", "inputs.user"): "no gradient: ReaRec does not read the user",
    ("lares", "key.bias"): "no gradient: softmax does not feel what is added to all its logits",
    ("lares", "inputs.user"): "no gradient: LARES does not read the user",
}


def other_ids(ids, high):
    """Other ids in the same slots."""
    return torch.where(ids != 0, (ids + 7) % (high - 2) + 2, 0)


PERTURB = {
    "rec": lambda b: b.with_(rec=other_ids(b.rec, ITEMS)),
    "query": lambda b: b.with_(query=other_ids(b.query, WORDS)),
    "click": lambda b: b.with_(click=other_ids(b.click, ITEMS)),
    "user": lambda b: b.with_(user=other_ids(b.user, USERS)),
    "time": lambda b: b.with_(rec_time=b.rec_time * 3 + 1, search_time=b.search_time * 2, target_time=b.target_time + 5),
}


class ModelConformance:
    key: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}

    @property
    def trainable(self):
        return not issubclass(MODELS[self.key], CountingRecommender)

    def model(self, **changes):
        """In evaluation mode, every parameter random; floors have counted one batch."""
        model = make(self.key, **self.settings, **changes)
        if isinstance(model, CountingRecommender):
            model.observe(batch(rows=40, seed=9))
            model.finish()
        return model

    def batch(self, **changes):
        return batch(**changes) if self.model().packs else batch(**{"targets": 1, **changes})

    def names(self, prefix):
        """What the exceptions of this model with this prefix name."""
        return {what.removeprefix(prefix) for key, what in EXCEPTIONS if key == self.key and what.startswith(prefix)}

    # what a score may depend on ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("field", [*PERTURB])
    def test_reads_what_it_declares_and_nothing_else(self, field):
        model, b = self.model(), self.batch()
        same = torch.equal(scores(model, b), scores(model, PERTURB[field](b)))
        assert same != (field in model.reads)

    def test_reads_features_if_it_declares_them(self):
        model, b, other = self.model(), self.batch(), vocabulary(seed=4)
        changed = self.model(vocab=replace(other, item_count=vocabulary().item_count))
        assert torch.equal(scores(model, b), scores(changed, b)) != ("features" in model.reads)

    def test_a_side_it_does_not_read_may_be_missing(self):
        model, b = self.model(), self.batch()
        if "rec" not in model.reads:
            none = b.with_(rec=0 * b.rec, rec_seen=0 * b.rec_seen)
            assert torch.equal(scores(model, b), scores(model, none))
        if not {"query", "click"} & model.reads:
            none = b.with_(query=0 * b.query, click=0 * b.click, searched=b.searched & False, search_seen=0 * b.search_seen)
            assert torch.equal(scores(model, b), scores(model, none))

    def test_never_reads_the_answer_or_the_random_key(self):
        model, b = self.model(), self.batch()
        other = b.with_(positive=(b.positive + 1) % b.candidates.shape[2], key=b.key + 1)
        assert torch.equal(scores(model, b), scores(model, other))

    def test_the_query_of_a_target_counts_for_searches_alone(self):
        """Rows of both tasks in one batch: a search row reads its query if the model declares searches."""
        model, b = self.model(), self.batch()
        rows = torch.arange(len(b.user)) % 2
        mixed = as_search(b).with_(task=rows)
        other = mixed.with_(target_query=other_ids(mixed.target_query, WORDS))
        found, changed = scores(model, mixed), scores(model, other)
        assert found.isfinite().all()
        assert torch.equal(found[rows == 0], changed[rows == 0])
        assert torch.equal(found[rows == 1], changed[rows == 1]) != model.searches
        torch.testing.assert_close(found[rows == 0], scores(model, b)[rows == 0], atol=1e-10, rtol=1e-10)

    def test_sees_only_the_events_before_each_target(self):
        model, b = self.model(), self.batch()
        expected = scores(model, b)
        for t in range(b.rec_seen.shape[1]):
            later = torch.arange(R) >= b.rec_seen[:, t, None]
            later_search = (torch.arange(S) >= b.search_seen[:, t, None])[..., None]
            changed = b.with_(
                rec=torch.where(later, other_ids(b.rec, ITEMS), b.rec),
                query=torch.where(later_search, other_ids(b.query, WORDS), b.query),
                click=torch.where(later_search, other_ids(b.click, ITEMS), b.click),
            )
            torch.testing.assert_close(scores(model, changed)[:, t], expected[:, t], atol=1e-10, rtol=1e-10)

    # shapes of the same question -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("move", [lambda b: extend(b, 3, 2), left_padded, lambda b: shift(b, 2, 1)])
    def test_padding_changes_nothing(self, move):
        model, b = self.model(), self.batch()
        torch.testing.assert_close(scores(model, move(b)), scores(model, b), atol=1e-10, rtol=1e-10)

    def test_a_row_scores_alone_as_in_company(self):
        model, b = self.model(), self.batch()
        alone = torch.cat([scores(model, rows_of(b, [row])) for row in range(len(b.user))])
        torch.testing.assert_close(alone, scores(model, b), atol=1e-10, rtol=1e-10)

    def test_a_packed_target_scores_as_its_own_row(self):
        model, b = self.model(), batch()
        if not model.packs:
            pytest.skip("the state depends on the whole history, so the batcher gives it one target per row")
        packed = scores(model, b)
        for row, t in torch.ones_like(b.rec_seen).nonzero().tolist():
            torch.testing.assert_close(scores(model, single(b, row, t))[0, 0], packed[row, t], atol=1e-5, rtol=1e-5)

    def test_a_candidate_scores_alone_as_among_others_in_any_order(self):
        model, b = self.model(), self.batch()
        state, count = model.encode(b), b.candidates.shape[2]
        expected = model.score(state, model.items(b.candidates))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        permuted = model.score(state, model.items(b.candidates[:, :, order]))
        torch.testing.assert_close(permuted, expected[:, :, order], atol=1e-10, rtol=1e-10)
        alone = [model.score(state, model.items(b.candidates[:, :, [c]])) for c in range(count)]
        torch.testing.assert_close(torch.cat(alone, 2), expected, atol=1e-10, rtol=1e-10)

    def test_one_catalogue_serves_all_rows(self):
        model, b = self.model(), self.batch()
        state, ids = model.encode(b), torch.arange(2, ITEMS)
        everything = model.score(state, model.items(ids)[None, None])
        assert everything.shape == (*b.rec_seen.shape, ITEMS - 2)
        each = model.score(state, model.items(ids.expand(*b.rec_seen.shape, -1)))
        torch.testing.assert_close(everything, each, atol=1e-10, rtol=1e-10)

    def test_empty_histories_are_finite_and_padding_items_are_zero(self):
        model, b = self.model(), self.batch()
        for x in (b, rows_of(b, [NEITHER]), rows_of(left_padded(b), [NEITHER, -1])):
            assert scores(model, x).isfinite().all()
        if self.trainable:
            assert not model.items(torch.tensor([0])).any()

    def test_retrieval_vectors_live_in_the_space_of_items(self):
        model, b = self.model(), self.batch()
        found = model.retrieval(model.encode(b))
        if found is not None:
            assert found.dim() == 4
            assert found.shape[:2] == b.rec_seen.shape
            assert found.shape[3] == model.items(b.candidates).shape[-1]
            assert found.isfinite().all()

    # weights -------------------------------------------------------------------------------------------------------------

    def test_weights_restore_to_the_same_scores(self):
        model, b = self.model(), self.batch()
        saved = {name: value.clone() for name, value in model.state_dict().items()}
        fresh = make(self.key, random=False, **self.settings)
        fresh.restore(saved)
        assert torch.equal(scores(fresh, b), scores(model, b))
        with pytest.raises(RuntimeError):
            fresh.restore({**saved, "stranger": torch.zeros(1)})

    def test_every_parameter_gets_a_gradient(self):
        """From the two objectives and the tasks together; both objectives are finite."""
        if not self.trainable:
            pytest.skip("counts")
        model, b = self.model(), self.batch()
        for kind in ("group", "original"):
            for x in [b, as_search(b)] if model.searches else [b]:
                terms = model.objective(x, model.encode(x), kind)
                assert all(term.dim() == 0 and term.isfinite() for term in terms.values())
                torch.stack([*terms.values()]).sum().backward()
        exempt = [what for key, what in EXCEPTIONS if key == self.key]
        without = [
            name
            for name, p in model.named_parameters()
            if (p.grad is None or p.grad.abs().max() < 1e-12) and not any(part in name for part in exempt)
        ]
        assert without == []

    def test_padded_targets_weigh_nothing(self):
        if not self.trainable:
            pytest.skip("counts")
        model, b = self.model(), self.batch()
        padded = b.with_(candidates=torch.cat([b.candidates, 0 * b.candidates], 1), positive=torch.cat([b.positive] * 2, 1),
                         rec_seen=torch.cat([b.rec_seen, 0 * b.rec_seen], 1), target_time=torch.cat([b.target_time] * 2, 1),
                         search_seen=torch.cat([b.search_seen, 0 * b.search_seen], 1),
                         target_query=torch.cat([b.target_query] * 2, 1)).check()  # fmt: skip
        found, same = ({}, {})
        for x, terms in ((b, found), (padded, same)):
            torch.manual_seed(0)
            terms |= model.objective(x, model.encode(x))
        for name in found.keys() - self.names("padding: "):
            torch.testing.assert_close(same[name], found[name])

    def trained(self, b, updates, rate=0.015, dropout=0.0):
        torch.manual_seed(1)
        kind = MODELS[self.key]
        config = kind.Config(**{"width": 16, "dropout": dropout, "embedding_std": 0.3, "feature_std": 0.3, **self.settings})
        model = build(self.key, config, vocabulary(users=65), R + ROOM, S + ROOM)
        optimizer = LazyAdam(model, 0.0)
        if model.learns_transitions:
            model.observe(b)
        for step in range(updates):
            torch.manual_seed(step)
            model.train()
            x = model.augment(b)
            model.inputs.open(x)
            optimizer.zero_grad()
            torch.stack([*model.objective(x, model.encode(x)).values()]).sum().backward()
            optimizer.step(rate)
            model.inputs.close()
        return model.eval()

    @pytest.mark.slow
    def test_overfits_64_rows_of_64_users(self):
        if not self.trainable:
            pytest.skip("counts")
        b = batch(rows=72, targets=1, seed=3)
        # Rows with both histories, so that every model has something to tell them apart by.
        whole = ((b.rec_seen > 0) & (b.search_seen > 0)).all(1).nonzero().flatten()[:64]
        b = rows_of(b, whole).with_(user=torch.arange(64) + 1)
        assert len(b.user) == 64
        model = self.trained(b, 80)
        best = scores(model, b)[:, 0].argmax(1)
        assert (best == b.positive[:, 0]).float().mean() > 0.95

    def test_the_same_seed_gives_the_same_bits(self):
        if not self.trainable:
            pytest.skip("counts")
        b = self.batch()
        first, second = (self.trained(b, 2, dropout=0.1).state_dict() for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def silent(self, model, b, rollouts):
        """The noise that leaves every rollout plain inference."""
        return torch.zeros(*b.rec_seen.shape, rollouts, model.start_width).double()

    def test_rollouts_share_the_start_of_plain_inference(self):
        model, b = self.model(), self.batch()
        if not isinstance(model, ReasoningRecommender):
            pytest.skip("does not reason")
        n = ReinforceSettings().rollouts
        silent = scores(model, b, self.silent(model, b, n))
        torch.testing.assert_close(silent, scores(model, b).unsqueeze(2).expand_as(silent), atol=1e-10, rtol=1e-10)
        found = scores(model, b, model.noise(b, n, 0.3, torch.Generator().manual_seed(1)))
        assert found.shape == silent.shape == (*b.rec_seen.shape, n, b.candidates.shape[2])
        assert not torch.allclose(found[:, :, 1], found[:, :, 0])
