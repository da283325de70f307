"""SequenceModel against torch's modules with a readout by hand."""

import pickle

import pytest
import torch
from tests.nn.agreement import normal, packed
from tests.nn.loops import LOOPS
from tests.tolerance import assert_close
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, unpack_sequence

import cellwright.nn as nn

BUNDLED = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
DOUBLE = torch.float64


def made(cell, **options):
    return nn.SequenceModel(cell, 3, 5, 2, **options).double()


def reference(model, x, hx=None):
    """Return h by torch's module, for one sequence (L, H_in), and its final states."""
    ours = model.recurrent
    kind = getattr(torch.nn, type(ours).__name__)
    extra = {"nonlinearity": ours.nonlinearity} if kind is torch.nn.RNN else {}
    theirs = kind(3, 5, ours.num_layers, bidirectional=ours.bidirectional, dtype=DOUBLE, **extra)
    theirs.load_state_dict(ours.state_dict())
    return theirs(x, hx)


def read(model, h):
    """Read out one sequence's h (L, D · H_out) as the description says."""
    if model.reads == "mean":
        h = h.sum(0) / len(h)
    elif model.reads == "last":
        h = torch.cat((h[-1, :5], h[0, 5:]))
    y = h @ model.readout.weight.T
    return y if model.readout.bias is None else y + model.readout.bias


@pytest.mark.parametrize("cell", BUNDLED)
@pytest.mark.parametrize("readout", ["each", "last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_dense(cell, readout, bidirectional, batch_first):
    options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first}
    model = made(cell, readout=readout, readout_bias=batch_first, **options)
    assert type(model.recurrent) is BUNDLED[cell]
    x = normal(4, 3, 3, dtype=DOUBLE)
    y, final = model(x)
    for n in range(3):
        one = x[n] if batch_first else x[:, n]
        expected, ends = reference(model, one)
        found = y[n] if readout != "each" or batch_first else y[:, n]
        assert_close(found, read(model, expected))
        assert_close(model(one)[0], read(model, expected))
        for s, e in zip(
            *((v if isinstance(v, tuple) else (v,)) for v in (final, ends)), strict=True
        ):
            assert_close(s[:, n], e)


@pytest.mark.parametrize("cell", BUNDLED)
@pytest.mark.parametrize("readout", ["each", "last", "mean"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [(4, 4, 1), (2, 5, 1, 5)], ids=["sorted", "mixed"])
def test_packed(cell, readout, bidirectional, lengths):
    model = made(cell, readout=readout, bidirectional=bidirectional, readout_bias=True)
    x = packed(lengths, 3, dtype=DOUBLE)
    y, _ = model(x)
    if readout == "each":
        assert isinstance(y, PackedSequence)
        padded, sizes = pad_packed_sequence(y)
        assert tuple(sizes.tolist()) == lengths
    for n, one in enumerate(unpack_sequence(x)):
        expected = read(model, reference(model, one)[0])
        found = padded[: lengths[n], n] if readout == "each" else y[n]
        assert_close(found, expected)


@pytest.mark.parametrize("readout", ["each", "last", "mean"])
def test_gradients_reach_everything(readout):
    model = made("lstm", readout=readout, num_layers=2, bidirectional=True, readout_bias=True)
    x = normal(4, 2, 3, dtype=DOUBLE).requires_grad_()
    hx = tuple(normal(4, 2, 5, dtype=DOUBLE).requires_grad_() for _ in range(2))
    y, _ = model(x, hx)
    y.square().sum().backward()
    for tensor in (x, *hx, *model.parameters()):
        assert tensor.grad.abs().sum() > 0


def test_the_textbook_network():
    model = made("rnn_tanh")
    assert model.readout.bias is None
    p = {n.removesuffix("_l0"): w for n, w in model.recurrent.named_parameters()}
    x, h = normal(4, 2, 3, dtype=DOUBLE), torch.zeros(2, 5, dtype=DOUBLE)
    y, _ = model(x)
    for t in range(4):
        a = x[t] @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
        h = torch.tanh(a)
        assert_close(y[t], h @ model.readout.weight.T)


def test_initial_states_are_passed_on():
    model = made("gru", readout="last")
    x, hx = normal(4, 2, 3, dtype=DOUBLE), normal(1, 2, 5, dtype=DOUBLE)
    first, middle = model(x[:2], hx)
    assert_close(model(x[2:], middle)[0], model(x, hx)[0])
    assert not torch.allclose(first, model(x[:2])[0])


def test_any_cell():
    model = nn.SequenceModel(LOOPS["peephole"][0], 3, 5, 2, readout="last", num_layers=2)
    assert type(model.recurrent) is nn.Recurrent
    y, (h, c) = model(torch.randn(4, 2, 3))
    assert torch.equal(y, model.readout(h[-1]))
    assert c.shape == (2, 2, 5)


def test_options_are_passed_on():
    model = nn.SequenceModel(
        "lstm", 3, 5, 2, num_layers=2, dropout=0.3, batch_first=True, dtype=DOUBLE, device="cpu"
    )
    assert repr(model.recurrent) == "LSTM(3, 5, num_layers=2, batch_first=True, dropout=0.3)"
    assert {p.dtype for p in model.parameters()} == {DOUBLE}
    x = torch.randn(2, 4, 3, dtype=DOUBLE)
    expected = model.eval()(x)[0]
    assert torch.equal(pickle.loads(pickle.dumps(model))(x)[0], expected)
    assert not torch.equal(model.train()(x)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_mean_over_packed_steps_does_not_overflow(dtype):
    model = nn.SequenceModel("rnn_relu", 4, 8, 1, readout="mean", dtype=dtype)
    x = (torch.rand(400, 4) * 1500).to(dtype)
    given = PackedSequence(x, torch.ones(400, dtype=torch.int64))
    found, exact = model(given)[0], model.double()(x.double())[0]
    assert found.dtype is dtype
    torch.testing.assert_close(found[0].double(), exact, rtol=0.03, atol=0.5)


def test_rejections():
    with pytest.raises(
        ValueError, match=r"no bundled cell 'lstn' \(did you mean 'lstm'\?\); there are rnn_t"
    ):
        nn.SequenceModel("lstn", 3, 5, 2)
    with pytest.raises(TypeError, match="a cell or the name of a bundled one, got <class"):
        nn.SequenceModel(nn.LSTM, 3, 5, 2)
    with pytest.raises(ValueError, match="must be one of each, last, mean, not 'first'"):
        nn.SequenceModel("lstm", 3, 5, 2, readout="first")
    with pytest.raises(ValueError, match="output_size must be at least 1, not 0"):
        nn.SequenceModel("lstm", 3, 5, 0)
    with pytest.raises(TypeError, match=r"output_size must be a whole number \(int\), not 2\.0"):
        nn.SequenceModel("lstm", 3, 5, 2.0)
    with pytest.raises(ValueError, match="hidden_size must be at least 1"):
        nn.SequenceModel("gru", 3, 0, 2)
