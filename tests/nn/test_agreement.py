"""RNN, LSTM and GRU against torch.nn in float64: every form of input, every gradient."""

import pytest
import torch
from tests.nn.agreement import KINDS, compare, normal, packed, pair, states_for
from tests.tolerance import assert_close

SIZES = [
    (1, 1, 1, 1),
    (3, 17, 1, 3),
    (17, 3, 3, 17),
    (3, 1, 17, 65),
    (1, 65, 3, 1),
    (65, 1, 3, 3),
    (3, 3, 65, 17),
]
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
@pytest.mark.parametrize(("length", "batch", "features", "hidden"), SIZES)
def test_sizes(kind, length, batch, features, hidden, dtype):
    ours, theirs = pair(kind, features, hidden, dtype=dtype)
    compare(ours, theirs, normal(length, batch, features, dtype=dtype), states_for(ours, batch))


@each_kind
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_options(kind, layers, bias, batch_first, bidirectional, dtype):
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    ours, theirs = pair(kind, 3, 17, layers, dtype=dtype, **options)
    x = normal(*((2, 5, 3) if batch_first else (5, 2, 3)), dtype=dtype)
    compare(ours, theirs, x, states_for(ours, 2))


@each_kind
@pytest.mark.parametrize("lengths", [(5, 5, 3, 1), (3, 5, 1, 5), (4,), (3, 3), (1, 2, 3, 17)])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
def test_packed(kind, lengths, bidirectional, given, dtype):
    ours, theirs = pair(kind, 3, 17, 2, bidirectional=bidirectional, dtype=dtype)
    hx = states_for(ours, len(lengths)) if given else None
    compare(ours, theirs, packed(lengths, 3, dtype=dtype), hx)


@each_kind
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
def test_unbatched(kind, batch_first, given, dtype):
    ours, theirs = pair(kind, 3, 5, 2, batch_first=batch_first, bidirectional=True, dtype=dtype)
    compare(ours, theirs, normal(7, 3, dtype=dtype), states_for(ours) if given else None)


@each_kind
@pytest.mark.parametrize("batch_first", [False, True])
def test_without_initial_states(kind, batch_first, dtype):
    ours, theirs = pair(kind, 3, 5, 2, batch_first=batch_first, bidirectional=True, dtype=dtype)
    compare(ours, theirs, normal(4, 3, 3, dtype=dtype))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [None, (4, 2), (1, 5)], ids=["dense", "sorted", "unsorted"])
def test_projection(bidirectional, layers, lengths, dtype):
    ours, theirs = pair(
        "LSTM", 3, 17, layers, bidirectional=bidirectional, proj_size=5, dtype=dtype
    )
    x = normal(4, 2, 3, dtype=dtype) if lengths is None else packed(lengths, 3, dtype=dtype)
    compare(ours, theirs, x, states_for(ours, 2))
    compare(ours, theirs, x)


VIEWS = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "features first": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "every second": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    "every second step": lambda x: x.repeat_interleave(2, 0)[::2],
    "expanded": lambda x: x[:, :1].expand(-1, 3, -1),
}


@each_kind
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_strided_input_and_states(kind, view, batch_first, dtype):
    ours, theirs = pair(kind, 5, 3, batch_first=batch_first, dtype=dtype)
    x = VIEWS[view](normal(3, 3, 5, dtype=dtype))
    hx = states_for(ours, 3)
    strided = VIEWS["features first"]
    compare(ours, theirs, x, tuple(map(strided, hx)) if kind == "LSTM" else strided(hx))


@each_kind
def test_strided_weights(kind, dtype):
    ours, theirs = pair(kind, 5, 3, dtype=dtype)
    with torch.no_grad():
        for p in ours.parameters():
            p.data = p.data.t().contiguous().t()
    compare(ours, theirs, normal(3, 2, 5, dtype=dtype))


@each_kind
def test_inference_gives_what_training_does(kind, dtype):
    ours, theirs = pair(kind, 3, 17, 2, bidirectional=True, dtype=dtype)
    x, hx = normal(5, 3, 3, dtype=dtype), states_for(ours, 3)
    with torch.no_grad():
        found, expected = ours(x, hx)[0], theirs(x.double(), _double(hx))[0]
    assert not found.requires_grad
    assert_close(found, expected)
    with torch.inference_mode():
        assert_close(ours(x, hx)[0], expected)


def _double(hx):
    return tuple(h.double() for h in hx) if isinstance(hx, tuple) else hx.double()


@each_kind
@pytest.mark.parametrize("frozen", ["weight", "bias", "hh", "ih", "all"])
def test_frozen_parameters_get_no_gradient(kind, frozen, dtype):
    ours, theirs = pair(kind, 3, 5, dtype=dtype)
    for module in (ours, theirs):
        for name, p in module.named_parameters():
            p.requires_grad_(frozen not in name and frozen != "all")
    x = normal(4, 2, 3, dtype=dtype).requires_grad_()
    y = x.detach().double().requires_grad_()
    ours(x)[0].square().sum().backward()
    theirs(y)[0].square().sum().backward()
    assert_close(x.grad, y.grad)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if q.grad is not None:
            assert_close(p.grad, q.grad)


@each_kind
@pytest.mark.parametrize("which", ["output", "final"])
def test_gradients_of_one_result_alone(kind, which, dtype):
    ours, theirs = pair(kind, 3, 5, 2, bidirectional=True, dtype=dtype)
    x = normal(4, 2, 3, dtype=dtype)
    gradients = []
    for module, value in ((ours, x), (theirs, x.double())):
        out, final = module(value)
        last = final[-1] if isinstance(final, tuple) else final
        loss = (out if which == "output" else last).square().sum()
        gradients.append(torch.autograd.grad(loss, list(module.parameters()), allow_unused=True))
    for found, expected in zip(*gradients, strict=True):
        if found is None or expected is None:  # what the result does not depend on
            assert all(g is None or not g.any() for g in (found, expected))
        else:
            assert_close(found, expected)


@each_kind
def test_input_without_gradient(kind, dtype):
    ours, theirs = pair(kind, 3, 5, dtype=dtype)
    x = normal(4, 2, 3, dtype=dtype)
    for module, value in ((ours, x), (theirs, x.double())):
        module(value)[0].square().sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(p.grad, q.grad)


@each_kind
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_empty_batch(kind, batch_first, bidirectional, dtype):
    options = {"batch_first": batch_first, "bidirectional": bidirectional}
    ours, theirs = pair(kind, 3, 5, 2, dtype=dtype, **options)
    x = normal(*((0, 4, 3) if batch_first else (4, 0, 3)), dtype=dtype)
    compare(ours, theirs, x)
    compare(ours, theirs, x, states_for(ours, 0))


@each_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_come_through(kind, value, dtype):
    ours, theirs = pair(kind, 3, 5, dtype=dtype)
    x = normal(4, 2, 3, dtype=dtype)
    x[1, 0, 2] = value
    out, expected = ours(x)[0], theirs(x.double())[0]
    assert_close(out, expected)
    assert torch.equal(out.isfinite(), expected.isfinite())


@each_kind
@pytest.mark.parametrize("packing", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_draws_the_masks_of_torch(kind, packing, batch_first, bidirectional, dtype):
    options = {"dropout": 0.4, "batch_first": batch_first, "bidirectional": bidirectional}
    ours, theirs = pair(kind, 3, 17, 3, dtype=dtype, **options)
    x = packed((4, 2, 5), 3, dtype=dtype) if packing else normal(5, 3, 3, dtype=dtype)
    results = []
    for module, value in ((ours, x), (theirs, x.double())):
        module.train()
        torch.manual_seed(4)
        trained = module(value)[0]
        module.eval()
        results.append([r.data if packing else r for r in (trained, module(value)[0])])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)
    assert not torch.allclose(results[0][0], results[0][1])


@each_kind
def test_dropout_of_all(kind, dtype):
    ours, theirs = pair(kind, 3, 5, 2, dropout=1.0, dtype=dtype)
    compare(ours, theirs, normal(4, 2, 3, dtype=dtype))
