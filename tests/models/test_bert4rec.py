"""BERT4Rec against the specification: its equations per slot, its masks, its two objectives, its item bias."""

import math

import pytest
import torch
from tests.models.sequences import events
from tests.models.synthetic import ITEMS, NEITHER, batch, extend, left_padded, make, rows_of, scores, vocabulary
from torch.nn import functional as F

from seerec.models.losses import ranking_loss
from seerec.models.registry import build
from seerec.training.optimizers import LazyAdam

SETTINGS = [
    {},
    {"layers": 1, "heads": 1},
    {"layers": 3, "feed_width": 5},
    {"features": False},
    {"history": "merged"},
    {"scorer": "mlp", "hidden": (7,)},
]


def names(settings):
    return "-".join(f"{k}={v}" for k, v in settings.items())


def encode(model, tokens):
    """The head's output at every slot of one sequence of vectors, slot by slot, from the equations."""
    x = torch.stack([model.norm_input(e + model.position[i]) for i, e in enumerate(tokens)])
    for block in model.blocks:
        part, new = block.attention, []
        q, k, v = part.query(x), part.key(x), part.value(x)
        e = model.config.width // part.heads
        for i in range(len(x)):
            read = []
            for h in range(part.heads):
                own = slice(h * e, (h + 1) * e)
                read.append((k[:, own] @ q[i, own] / math.sqrt(e)).softmax(0) @ v[:, own])
            a = block.norm_attention(x[i] + part.out(torch.cat(read)))
            new.append(block.norm_feed(a + block.feed_out(F.gelu(block.feed_in(a)))))
        x = torch.stack(new)
    return torch.stack([model.norm_head(F.gelu(model.head(row))) for row in x])


def mask_vector(model):
    return model.mask_token if model.kind is None else model.mask_token + model.kind[0]


def logits(model, user, state, ids):
    """Scores of items for one state."""
    vectors = model.inputs.items(ids)
    if model.mlp is None:
        return vectors @ state + model.inputs.item_bias.weight[ids, 0]
    x = torch.cat([torch.stack([torch.cat([user, state])] * len(ids)), vectors], 1)
    return model.mlp[1](F.relu(model.mlp[0](x))).squeeze(1)


@pytest.mark.parametrize("settings", SETTINGS, ids=names)
@torch.no_grad()
def test_scores_equal_the_equations(settings):
    model, b = make("bert4rec", **settings), batch(rows=5, targets=1, seed=1)
    for x in (b, left_padded(b), extend(b, 2, 1)):
        found = scores(model, x)
        for row in range(len(b.user)):
            state = encode(model, [vector for _, vector in events(model, x, row, 0)] + [mask_vector(model)])[-1]
            expected = logits(model, model.inputs.users(b.user[row, None])[0], state, x.candidates[row, 0])
            torch.testing.assert_close(found[row, 0], expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_every_slot_reads_every_slot():
    """Also the earlier ones the later, which a causal model would not; the last block included."""
    model, b = make("bert4rec"), rows_of(batch(targets=2), [-1])
    b = b.with_(rec_seen=torch.tensor([[8, 0]]))
    sequence = model.sequence(b)
    visible = torch.ones(1, 2, 9, dtype=torch.bool)
    visible[:, 1] = False
    wanted = torch.arange(9).expand(1, 2, -1)
    before = model.states(b, sequence, visible, ~visible, wanted).vector[0, :9]
    for slot in range(8):
        rec = b.rec.clone()
        rec[0, slot] = rec[0, slot] % 50 + 2
        changed = b.with_(rec=rec)
        after = model.states(changed, model.sequence(changed), visible, ~visible, wanted).vector[0, :9]
        assert ((after - before).abs().amax(1) > 1e-6).all()


@torch.no_grad()
def test_the_order_of_the_history_counts_and_no_history_is_a_history():
    model, b = make("bert4rec"), rows_of(batch(targets=2), [-1])
    assert not torch.allclose(scores(model, b)[0, 1], scores(model, b.with_(rec=b.rec.flip(1)))[0, 1], atol=1e-6)
    nobody = rows_of(batch(targets=1), [NEITHER])
    expected = logits(model, None, encode(model, [model.mask_token])[0], nobody.candidates[0, 0])
    torch.testing.assert_close(scores(model, nobody)[0, 0], expected)


# masks -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.2, 0.5, 1.0])
def test_so_many_random_slots_are_masked_and_never_padding(rate):
    torch.manual_seed(0)
    model = make("bert4rec", mask_rate=rate, last_share=0.0)
    total = torch.arange(2000) % 10
    maskable = (torch.arange(12) >= 1) & (torch.arange(12) <= total[:, None])
    chosen, count = model.masks(maskable.unsqueeze(1))
    expected = [0 if not n else max(1, math.floor(n * rate + 0.5)) for n in total.tolist()]
    assert count.flatten().tolist() == expected
    often = torch.zeros(12)
    for row, n in enumerate(expected):
        slots = chosen[row, 0, :n]
        assert len(slots.unique()) == n
        assert maskable[row, slots].all()
        if total[row] == 9:
            often[slots] += 1
    often = often[1:10] / often.sum()
    assert ((often - 1 / 9).abs() < 0.04).all()  # no slot is preferred


def test_a_share_of_the_rows_masks_the_last_item_alone():
    torch.manual_seed(0)
    maskable = (torch.arange(6) < 5).expand(4000, 1, 6).clone()
    maskable[1::2, :, :2] = False
    chosen, count = make("bert4rec", mask_rate=1.0, last_share=0.25).masks(maskable)
    last = (count == 1).flatten()
    assert last.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (chosen[last, 0, 0] == 4).all()
    assert (count.flatten()[~last] == maskable.sum(2).flatten()[~last]).all()


# objectives --------------------------------------------------------------------------------------------------------------


def cloze_by_hand(model, b, with_target, seed):
    """The loss over masked items in a loop, with the masks that this seed draws."""
    torch.manual_seed(seed)
    r = b.rec.shape[1]
    seen = (b.rec != 0) & ((b.rec != 0).cumsum(1) <= b.rec_seen)
    chosen, count = model.masks(torch.cat([seen, torch.full((len(seen), 1), with_target)], 1).unsqueeze(1))
    found = []
    for row in range(len(b.user)):
        clicks = seen[row].nonzero().flatten().tolist()
        # Slot r is the target; a click's place among the events is found by its own count.
        hidden = [clicks.index(slot) if slot < r else len(clicks) for slot in chosen[row, 0, : count[row, 0, 0]].tolist()]
        sequence = events(model, b, row, 0)
        if with_target:
            target = model.inputs.items(b.positive_item[row, 0]) + (0 if model.kind is None else model.kind[0])
            sequence.append((int(b.positive_item[row, 0]), target))
        places = [place for place, (item, _) in enumerate(sequence) if item is not None]
        tokens, wanted = [vector for _, vector in sequence], [places[n] for n in hidden]
        for place in wanted:
            tokens[place] = mask_vector(model)
        user = model.inputs.users(b.user[row, None])[0]
        for place in wanted:
            z = logits(model, user, encode(model, tokens)[place], torch.arange(2, ITEMS))
            found.append(float(z.logsumexp(0) - z[sequence[place][0] - 2]))
    return sum(found) / len(found)


@pytest.mark.parametrize("settings", [{}, {"history": "merged"}, {"scorer": "mlp", "hidden": (7,)}], ids=names)
@pytest.mark.parametrize("with_target", [False, True])
@torch.no_grad()
def test_the_cloze_loss_equals_its_formula(settings, with_target):
    model = make("bert4rec", softmax="full", mask_rate=0.5, last_share=0.3, **settings)
    b = batch(targets=1)
    for x in (b, left_padded(b)):
        expected = cloze_by_hand(model, x, with_target, seed=4)
        torch.manual_seed(4)
        assert model.cloze(x, with_target).item() == pytest.approx(expected)


@torch.no_grad()
def test_group_is_the_ranking_loss_plus_cloze_over_the_history_and_original_is_cloze_with_the_target():
    b = batch(targets=1)
    for weight in (0.0, 1.0, 2.5):
        model = make("bert4rec", cloze_weight=weight)
        torch.manual_seed(0)
        terms = model.objective(b, model.encode(b))
        torch.testing.assert_close(terms["rank"], ranking_loss(scores(model, b), b.positive, b.target_mask, "bce"))
        assert ("cloze" in terms) == (weight > 0)
        if weight:
            torch.manual_seed(0)
            torch.testing.assert_close(terms["cloze"], weight * model.cloze(b, with_target=False))
    torch.manual_seed(0)
    terms = model.objective(b, model.encode(b), "original")
    torch.manual_seed(0)
    assert terms == {"cloze": model.cloze(b, with_target=True)}


@pytest.mark.parametrize("kind", ["group", "original"])
def test_the_full_softmax_says_that_it_reads_the_catalogue(kind):
    """With the rows that it asks for, the loss is what whole tables give."""
    b = batch(rows=3, targets=1, candidates=3)
    for settings, every in (({}, True), ({"cloze_weight": 0.0}, kind == "original"), ({"softmax": "sampled"}, False)):
        model, found = make("bert4rec", **{"softmax": "full", **settings}), []
        assert model.reads_catalogue(kind) == every
        for gather in (lambda: None, lambda m=model: m.inputs.open(b, catalogue=m.reads_catalogue(kind))):
            gather()
            torch.manual_seed(0)
            found.append(torch.stack([*model.objective(b, model.encode(b), kind).values()]).sum())
        torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("softmax", ["sampled", "full"])
@torch.no_grad()
def test_masking_the_last_item_is_the_situation_at_test(softmax):
    """With the target masked, the Cloze loss is the loss of the state that recommends."""
    for history in ("rec", "merged"):
        model, b = make("bert4rec", softmax=softmax, last_share=1.0, history=history), batch(targets=1)
        torch.testing.assert_close(model.cloze(b, with_target=True), model.catalogue_loss(b, model.encode(b)))


@torch.no_grad()
def test_a_masked_item_is_hidden_from_the_model():
    model, b = make("bert4rec", mask_rate=1.0, last_share=0.0, features=False), batch(targets=1)
    seen = model.sequence(b).reach.visible
    hidden = torch.cat([seen, seen[..., :1]], 2)
    wanted = torch.zeros_like(b.rec_seen).unsqueeze(2)
    other = b.with_(rec=torch.where(b.rec != 0, b.rec % 50 + 2, 0))
    first, second = (model.states(x, model.sequence(x), hidden, hidden, wanted).vector for x in (b, other))
    assert torch.equal(first[b.rec_seen > 0], second[b.rec_seen > 0])
    shown = hidden & (torch.arange(hidden.shape[2]) > 0)
    first, second = (model.states(x, model.sequence(x), hidden, shown, wanted).vector for x in (b, other))
    assert not torch.isclose(first[b.rec_seen > 0], second[b.rec_seen > 0])[..., :-1].any()


def test_nothing_to_mask_is_no_loss():
    model, b = make("bert4rec"), rows_of(batch(targets=1), [NEITHER])
    loss = model.cloze(b, with_target=False)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# the item bias -----------------------------------------------------------------------------------------------------------


def test_the_bias_is_one_number_per_item_and_moves_only_where_touched():
    torch.manual_seed(0)
    model = build("bert4rec", make("bert4rec").config, vocabulary(), 12, 9)
    bias = model.inputs.item_bias.weight
    assert bias.shape == (ITEMS, 1)
    assert not bias.any()
    b, optimizer = batch(rows=3, targets=1, candidates=3), LazyAdam(model, 0.0)
    model.inputs.open(b)
    touched = torch.cat([x.flatten() for x in (b.rec, b.click, b.candidates)]).unique()
    torch.stack([*model.objective(b, model.encode(b)).values()]).sum().backward()
    optimizer.step(0.1)
    model.inputs.close()
    moved = bias.flatten().nonzero().flatten()
    assert {*b.candidates.flatten().tolist()} <= {*moved.tolist()} <= {*touched.tolist()} - {0}
    before = scores(model.eval(), b)
    with torch.no_grad():
        bias[b.candidates[1, 0, 2]] += 0.5
    change = scores(model, b) - before
    torch.testing.assert_close(change[1, 0], torch.where(b.candidates[1, 0] == b.candidates[1, 0, 2], 0.5, 0.0))


def test_the_mlp_scorer_has_no_bias():
    assert make("bert4rec", scorer="mlp").inputs.item_bias is None
    assert make("bert4rec").inputs.item_bias is not None


@torch.no_grad()
def test_searches_count_only_if_merged():
    b = batch(targets=1)
    other = b.with_(query=torch.where(b.query != 0, b.query % 30 + 2, 0))
    for history, same in (("rec", True), ("merged", False)):
        model = make("bert4rec", history=history)
        assert torch.equal(scores(model, b), scores(model, other)) == same


@pytest.mark.parametrize(
    ("name", "value"), [("layers", 1), ("heads", 4), ("feed_width", 9), ("history", "merged"), ("scorer", "mlp")]
)
def test_a_switch_has_its_effect(name, value):
    b = batch(targets=1)
    changed = scores(make("bert4rec", **{name: value}), b)
    assert not torch.allclose(scores(make("bert4rec"), b)[1], changed[1], atol=1e-6)
