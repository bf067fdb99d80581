"""Each kernel against what it means in torch's operations, gradients included, and against itself on other numbers of threads."""

import ctypes

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seerec.kernels import (
    attend,
    averages,
    dropout,
    encodes,
    has_halves,
    join_norm,
    mean_of_rows,
    products_in,
    relu_dropout,
)
from seerec.kernels import library as loading
from seerec.kernels.attention import _attend_in_torch
from seerec.kernels.draws import Draws, draw, factors_like
from seerec.models.attention import Absorbed, Attention, EncoderLayer
from seerec.models.layers import masked_mean

compiled = pytest.mark.skipif(loading.library.functions is None, reason=loading.library.said)
TYPES = {torch.float32: 1e-5, torch.bfloat16: 0.03}
"""And how far a result of size 1 may be off."""


@pytest.fixture(params=["kernels", "torch"])
def way(request, monkeypatch):
    """Both ways to one meaning."""
    if request.param == "torch":
        monkeypatch.setattr(loading, "library", loading.Library(None, "as if nothing had been compiled"))
    elif loading.library.functions is None:
        pytest.skip(loading.library.said)
    return request.param


def attention_inputs(b, m, length, width, owns, dtype=torch.float32) -> tuple[list[Tensor], Tensor]:
    """Leaves, and which slots are seen; the first query sees none."""
    g = torch.Generator().manual_seed(b * m + length + owns)
    shapes = [(b, m, width), *[(b, length, width)] * 2, *[(b, m, width)] * (2 * owns)]
    visible = torch.rand(b, m, length, generator=g) < 0.6
    visible[0, 0] = False
    return [torch.randn(shape, generator=g).to(dtype).requires_grad_() for shape in shapes], visible


def with_gradients(function, leaves) -> list[Tensor]:
    """The result, and the gradient of a weighted sum of it by every leaf."""
    result = function(*leaves)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(9))
    return [result.detach().float(), *(x.float() for x in torch.autograd.grad((result * weights).sum(), leaves))]


def assert_near(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.isfinite().all()
        assert not ours.numel() or (ours - theirs).abs().max() <= tolerance * max(1.0, float(theirs.abs().max()))


# attention ---------------------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize(
    ("b", "m", "length", "width", "heads", "owns"),
    [
        (1, 1, 1, 1, 1, 0), (3, 7, 5, 8, 2, 2), (2, 30, 30, 64, 2, 3), (4, 1, 33, 64, 4, 1), (2, 2, 16, 6, 2, 0),
        (2, 70, 90, 32, 1, 0), (1, 33, 1, 48, 3, 20), (3, 2, 0, 8, 1, 1), (2, 40, 31, 16, 1, 1),
    ],
)  # fmt: skip
def test_attention_is_its_meaning(b, m, length, width, heads, owns, share, dtype):
    leaves, visible = attention_inputs(b, m, length, width, owns, dtype)
    wide = [leaf.detach().float().requires_grad_() for leaf in leaves]
    torch.manual_seed(4)
    found = with_gradients(lambda q, k, v, *own: attend(q, k, v, visible, own, heads, share)[0], leaves)
    torch.manual_seed(4)
    draws = draw(share, training=True)
    expected = with_gradients(lambda *flat: _attend_in_torch(heads, draws, False, visible, *flat)[0], wide)
    assert_near(found, expected, TYPES[dtype])


@compiled
def test_the_meaning_of_attention_has_torchs_gradient_in_double_precision():
    leaves, visible = attention_inputs(2, 3, 4, 6, 2)
    leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    draws = Draws(3, 5, 64)
    assert torch.autograd.gradcheck(lambda *flat: _attend_in_torch(2, draws, False, visible, *flat)[0], leaves)


@pytest.mark.usefixtures("way")
def test_attentions_weights_are_those_of_the_history():
    leaves, visible = attention_inputs(2, 3, 5, 8, 0)
    query, key, value = leaves
    out, weights = attend(query, key, value, visible, (), 2, weigh=True)
    assert weights.shape == (2, 2, 3, 5)
    by_head = torch.stack([weights[h] @ value[..., 4 * h : 4 * h + 4] for h in range(2)], 2).flatten(2)
    torch.testing.assert_close(by_head, out)
    assert not out[0, 0].any()
    assert not weights[:, ~visible].any()
    torch.testing.assert_close(weights.sum(3)[:, visible.any(2)], torch.ones(2, int(visible.any(2).sum())))


@pytest.mark.usefixtures("way")
def test_attention_reads_slices_of_one_projection():
    projected = torch.randn(3, 4, 48)
    visible = torch.ones(3, 4, 4, dtype=torch.bool)
    slices, copies = projected.split(16, 2), [part.contiguous() for part in projected.split(16, 2)]
    expected = attend(*copies, visible, (), 2)[0]
    torch.testing.assert_close(attend(*slices, visible, (), 2)[0], expected, rtol=0, atol=0)
    crossed = projected.transpose(0, 1)  # rows at no constant distance
    queries, keys, values = (part.transpose(0, 1) for part in crossed.contiguous().split(16, 2))
    torch.testing.assert_close(
        attend(queries, keys, values, visible, (), 2)[0], attend(*copies, visible, (), 2)[0], rtol=0, atol=0
    )


@compiled
def test_large_and_hidden_logits_stay_finite():
    leaves, visible = attention_inputs(2, 5, 20, 16, 1)
    huge = [leaf.detach().mul(1e4).requires_grad_() for leaf in leaves]
    for found in with_gradients(lambda q, k, v, *own: attend(q, k, v, visible, own, 2)[0], huge):
        assert found.isfinite().all()


@compiled
@pytest.mark.parametrize("threads", [2, 3])
def test_attention_is_the_same_on_any_number_of_threads(threads, monkeypatch):
    leaves, visible = attention_inputs(5, 9, 40, 32, 2)
    results = []
    for count in (1, threads):
        monkeypatch.setattr("seerec.kernels.attention.threads", lambda _, count=count: count)
        torch.manual_seed(1)
        results.append(with_gradients(lambda q, k, v, *own: attend(q, k, v, visible, own, 2, 0.2)[0], leaves))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# rows --------------------------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(1, 1), (5, 9, 64), (3, 7), (2, 3, 4, 130), (400, 64)])
def test_joining_is_its_meaning(shape, share, dtype):
    g = torch.Generator().manual_seed(1)
    x, update = (torch.randn(shape, generator=g).to(dtype).requires_grad_() for _ in range(2))
    gain, shift = (torch.randn(shape[-1], generator=g).requires_grad_() for _ in range(2))
    torch.manual_seed(2)
    found = with_gradients(lambda *leaves: join_norm(*leaves, 1e-5, share, True), [x, update, gain, shift])
    torch.manual_seed(2)
    draws = draw(share, training=True)
    factors = factors_like(x.float(), draws)
    wide = [leaf.detach().float().requires_grad_() for leaf in (x, update, gain, shift)]
    expected = with_gradients(lambda a, u, *affine: F.layer_norm(a + u * factors, shape[-1:], *affine, 1e-5), wide)
    if shape[-1] > 1:  # one column has no deviation: its gradient is noise
        assert_near(found, expected, TYPES[dtype])


@compiled
def test_joining_without_a_gradient_is_the_same():
    x, update, gain, shift = torch.randn(4, 8), torch.randn(4, 8), torch.randn(8), torch.randn(8)
    leaf = x.clone().requires_grad_()
    assert torch.equal(
        join_norm(leaf, update, gain, shift, 1e-5, 0.0, False).detach(), join_norm(x, update, gain, shift, 1e-5, 0.0, False)
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_dropout_of_a_positive_part_is_that_of_its_two_halves(share):
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    results = []
    for first in (lambda y: relu_dropout(y, share, True), lambda y: dropout(torch.relu(y), share, True)):
        torch.manual_seed(3)
        leaf = x.clone().requires_grad_()
        result = first(leaf * 1)
        (result**2).sum().backward()
        results.append((result.detach(), leaf.grad))
    torch.testing.assert_close(*results)


# dropout -----------------------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("columns", [1, 16, 63, 64, 65, 200])
def test_a_kernel_draws_what_torch_draws(columns):
    x, draws = torch.ones(33, columns), Draws(0xFFFFFFFF, 0x80000001, 100)
    y = torch.empty_like(x)
    pointer = ctypes.c_void_p
    loading.library.functions.seerec_drop(
        4, ctypes.c_long(33), ctypes.c_long(columns), pointer(x.data_ptr()), draws.array(), pointer(y.data_ptr()), 2
    )
    assert torch.equal(y, factors_like(x, draws))


def test_dropout_drops_its_share_everywhere_alike():
    torch.manual_seed(0)
    kept = torch.stack([dropout(torch.ones(64, 100), 0.2, True) > 0 for _ in range(200)]).double()
    assert float(kept.mean()) == pytest.approx(1 - 51 / 256, abs=0.001)
    for axis in (0, 1, 2):  # no use, row or column is favoured: five deviations of a binomial
        others = [a for a in range(3) if a != axis]
        means = kept.mean(others)
        assert (means - kept.mean()).abs().max() < 5 * (0.2 * 0.8 / (kept.numel() / kept.shape[axis])) ** 0.5
    flat = kept.flatten()
    for lag in (1, 4, 16, 64, 100, 6400):  # neighbours in a draw, a vector, a chunk, a row, a use
        a, b = flat[:-lag] - flat.mean(), flat[lag:] - flat.mean()
        assert abs(float((a * b).mean() / flat.var())) < 0.004


@pytest.mark.usefixtures("way")
def test_dropout_is_a_function_of_torchs_seed():
    def once(seed):
        torch.manual_seed(seed)
        return dropout(torch.ones(10, 10), 0.5, True)

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    assert torch.equal(dropout(torch.ones(3), 0.5, False), torch.ones(3))
    assert torch.equal(dropout(torch.ones(3), 0.0, True), torch.ones(3))


# loading -----------------------------------------------------------------------------------------------------------------


def test_kernels_can_be_turned_off_and_say_so(monkeypatch):
    monkeypatch.setenv("SEEREC_KERNELS", "off")
    assert loading.load() == loading.Library(None, "torch's operations (SEEREC_KERNELS=off)")


def test_other_types_are_left_to_torch():
    assert not loading.serves(torch.zeros(1, dtype=torch.float64))
    assert not loading.serves(torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16))


# without a gradient ------------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize(("b", "length", "width", "heads", "inner"), [(3, 5, 32, 2, 48), (9, 30, 64, 2, 64), (2, 33, 64, 4, 256)])
def test_a_whole_layer_is_its_pieces(b, length, width, heads, inner):
    g = torch.Generator().manual_seed(length)
    layer = EncoderLayer(width, heads, inner, 0.2).eval()
    for parameter in layer.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=g), alpha=0.1)
    x = torch.randn(b, length, width, generator=g)
    visible = torch.rand(b, length, length, generator=g) < 0.5
    visible[0, 0] = False
    pieces = layer(x, visible)
    assert pieces.requires_grad  # so it was not the kernel
    with torch.no_grad():
        assert encodes(x, visible, heads, inner)
        assert_near([layer(x, visible)], [pieces.detach()], 1e-5)
        layer.train()
        assert not torch.equal(layer(x, visible), layer(x, visible))  # dropout is not forgotten


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("b", "m", "length", "owns"), [(5, 1, 9, 0), (5, 1, 35, 2), (3, 6, 30, 1), (2, 1, 0, 1)])
def test_an_absorbed_attention_is_the_attention(b, m, length, owns):
    g = torch.Generator().manual_seed(length + owns)
    attention = Attention(32, 2, 0.1).eval()
    absorbed = Absorbed(attention)
    x, history = torch.randn(b, m, 32, generator=g), torch.randn(b, length, 32, generator=g)
    visible = torch.rand(b, m, length, generator=g) < 0.5
    visible[0] = False
    own = [torch.randn(b, m, 32, generator=g) for _ in range(owns)]
    with torch.no_grad():
        results = [
            form.attend(form.query(x), form.keys_values(history), visible, tuple(map(form.keys_values, own)), weigh=True)
            for form in (attention, absorbed)
        ]
    assert_near(results[1], results[0], 1e-5)


@pytest.mark.usefixtures("way")
def test_heads_that_share_keys_have_no_gradient():
    query, shared = torch.randn(2, 1, 8, requires_grad=True), torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match="no gradient"):
        attend(query, shared, shared, torch.ones(2, 1, 3, dtype=torch.bool), (), 2)


@compiled
@pytest.mark.parametrize(("shape", "width"), [((4, 3, 6), 64), ((7, 2), 5), ((50, 30, 6), 32)])
def test_means_of_rows(shape, width):
    g = torch.Generator().manual_seed(width)
    table = torch.randn(40, width, generator=g)
    ids = torch.randint(0, 40, shape, generator=g) * (torch.rand(shape, generator=g) < 0.6)
    ids.view(-1, shape[-1])[0] = 0
    assert averages(table, ids)
    assert_near([mean_of_rows(table, ids)], [masked_mean(table[ids], ids != 0)], 1e-6)
    with pytest.raises(IndexError, match="40 rows"):
        mean_of_rows(table, ids + 40)
    assert not averages(table.requires_grad_(), ids)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("block", ["post", "pre", "literal"])
@pytest.mark.parametrize(("places", "learns"), [([3], False), ([8], False), ([0, 4, 8], True), (list(range(9)), True)])
def test_some_places_of_a_layer_are_those_of_the_whole(places, learns, block):
    g = torch.Generator().manual_seed(2)
    layer = EncoderLayer(32, 2, 48, 0.2, block).eval()
    for parameter in layer.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=g), alpha=0.1)
    x, mask = torch.randn(4, 9, 32, generator=g), torch.ones(4, 9, 9, dtype=torch.bool).tril()
    with torch.set_grad_enabled(learns):
        whole, some = layer(x, mask)[:, places], layer.at(x, x[:, places], mask[:, places])
    assert some.requires_grad == learns
    assert_near([some.detach()], [whole.detach()], 1e-5)


@pytest.mark.skipif(not has_halves(), reason="no AMX here")
@pytest.mark.parametrize(("length", "width", "heads"), [(30, 64, 2), (33, 32, 2), (5, 64, 1)])
def test_a_whole_layer_in_halves_is_near(length, width, heads):
    layer = EncoderLayer(width, heads, 48, 0.2).eval()
    x, mask = torch.randn(7, length, width), torch.ones(7, length, length, dtype=torch.bool).tril()
    with torch.no_grad():
        exact = layer(x, mask)
        with products_in("bf16"):
            near = layer(x, mask)
    assert not torch.equal(near, exact)
    assert (near - exact).norm() < 0.02 * exact.norm()
