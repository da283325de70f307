"""What torch.nn rejects is rejected with the same exception type, and a message that helps."""

import re

import numpy as np
import pytest
import torch
from tests.nn.agreement import KINDS, classes
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import cellwright as cw
import cellwright.nn as nn

ARGUMENTS = [
    ((), {}, "hidden_size"),
    ((10,), {}, "hidden_size"),
    ((10, 20, 0), {}, "num_layers must be at least 1, not 0"),
    ((10, 20, -1), {}, "num_layers must be at least 1, not -1"),
    ((10, 20, 1.5), {}, "num_layers must be a whole number"),
    ((10, 20), {"num_layers": "2"}, "num_layers must be a whole number"),
    ((0, 20), {}, "input_size must be at least 1, not 0"),
    ((-3, 20), {}, "input_size must be at least 1, not -3"),
    ((10.0, 20), {}, "input_size must be a whole number (int), not 10.0"),
    (("a", 20), {}, "input_size must be a whole number (int), not 'a'"),
    ((10, 0), {}, "hidden_size must be at least 1, not 0"),
    ((10, 2.0), {}, "hidden_size must be a whole number"),
    ((10, 20), {"bias": 1}, "bias must be True or False, not 1"),
    ((10, 20), {"bias": None}, "bias must be True or False, not None"),
    ((10, 20), {"batch_first": 1}, "batch_first must be True or False"),
    ((10, 20), {"dropout": 1.1}, "dropout must be a number from 0 to 1"),
    ((10, 20), {"dropout": -0.1}, "dropout must be a number from 0 to 1"),
    ((10, 20), {"dropout": True}, "dropout must be a number from 0 to 1"),
    ((10, 20), {"dropout": "a"}, "could not convert"),
    ((10, 20), {"dropout": None}, "float"),
    ((10, 20), {"foo": 1}, "foo"),
    ((10, 20, 1, "x"), {}, "must be"),
    ((10, 20), {"proj_size": -1}, "proj_size"),
    ((10, 20), {"proj_size": 20}, "proj_size"),
    ((10, 20), {"dtype": torch.int64}, "floating point"),
]


def raised(function):
    """Return the exception of a call that must fail."""
    with pytest.raises(Exception) as info:  # noqa: PT011  # any type: the point is to compare
        function()
    return info.value


def check(ours, theirs, message):
    """Check that ours fails with the type of theirs, and says ``message``."""
    error = raised(ours)
    assert type(error) is type(raised(theirs))
    assert re.search(re.escape(message), str(error)), error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("args", "options", "message"), ARGUMENTS)
def test_arguments(kind, args, options, message):
    if kind.startswith("RNN") and len(args) == 4:
        message = "nonlinearity must be 'tanh' or 'relu', not 'x'"
    ours, theirs = classes(kind)
    if kind == "RNN_RELU" and len(args) == 4:
        pytest.skip("the nonlinearity stands in the fixed arguments")
    check(lambda: ours(*args, **options), lambda: theirs(*args, **options), message)


@pytest.mark.parametrize("name", ["RNN", "GRU"])
@pytest.mark.parametrize("size", [0, 5])
def test_projection_is_for_lstm_alone(name, size):
    ours, theirs = getattr(nn, name), getattr(torch.nn, name)
    check(
        lambda: ours(10, 20, proj_size=size),
        lambda: theirs(10, 20, proj_size=size),
        f"{name} has no proj_size: only LSTM does",
    )


@pytest.mark.parametrize("given", ["sigmoid", None, ["relu"], True])
def test_unknown_nonlinearity(given):
    check(
        lambda: nn.RNN(10, 20, nonlinearity=given),
        lambda: torch.nn.RNN(10, 20, nonlinearity=given),
        f"nonlinearity must be 'tanh' or 'relu', not {given!r}",
    )


def test_misplaced_nonlinearity():
    with pytest.raises(TypeError, match="nonlinearity"):
        nn.LSTM(10, 20, nonlinearity="tanh")
    with pytest.raises(TypeError, match="nonlinearity"):
        nn.RNN(10, 20, 1, "tanh", nonlinearity="tanh")


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_with_one_layer_warns(kind):
    ours, theirs = classes(kind)
    with pytest.warns(UserWarning, match=r"dropout=0\.5 has no effect with num_layers=1"):
        ours(3, 5, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout"):
        theirs(3, 5, dropout=0.5)


def _x(*shape, **options):
    return torch.zeros(*shape, **options)


INPUTS = [
    (_x(10), "2 dimensions (L, H_in) or 3"),
    (_x(1, 1, 1, 10), "not 4: its shape is (1, 1, 1, 10)"),
    (_x(5, 3, 11), "must be input_size, 10, and is 11"),
    (_x(5, 11), "must be input_size, 10, and is 11"),
    (_x(5, 3, 10, dtype=torch.float64), "input.to(torch.float32)"),
    (_x(5, 10, dtype=torch.float64), "module.to(torch.float64)"),
    (_x(5, 3, 10, dtype=torch.int64), "input is torch.int64"),
    (_x(0, 3, 10), "input has no steps"),
    (_x(0, 0, 10), "input has no steps"),
    (_x(0, 10), "input has no steps"),
    (_x(5, 3, 10, device="meta"), "input is on meta and the weights are on cpu"),
    ([1.0], "not a list"),
    (None, "not a NoneType"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("x", "message"), INPUTS)
def test_input(kind, x, message):
    ours, theirs = (make(10, 20, 2) for make in classes(kind))
    check(lambda: ours(x), lambda: theirs(x), message)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_first_input_without_steps(kind):
    ours, theirs = (make(10, 20, batch_first=True) for make in classes(kind))
    check(lambda: ours(_x(3, 0, 10)), lambda: theirs(_x(3, 0, 10)), "input has no steps")
    check(lambda: ours(_x(3, 4, 9)), lambda: theirs(_x(3, 4, 9)), "is batch_first as you mean it?")


def _states(state, kind):
    return (state, state.clone()) if kind == "LSTM" else state


STATES = [
    (_x(2, 20), "(2, 3, 20), and has shape (2, 20)"),
    (_x(2, 1, 20), "(2, 3, 20), and has shape (2, 1, 20); states are never batch first"),
    (_x(1, 3, 20), "(2, 3, 20), and has shape (1, 3, 20)"),
    (_x(2, 3, 19), "(2, 3, 20), and has shape (2, 3, 19)"),
    (_x(2, 3, 20, dtype=torch.float64), "is torch.float64 and the input is torch.float32"),
    (_x(2, 3, 20, device="meta"), "is on meta and the input is on cpu: move it with .to('cpu')"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("state", "message"), STATES)
def test_states(kind, state, message):
    ours, theirs = (make(10, 20, 2) for make in classes(kind))
    x, hx = _x(5, 3, 10), _states(state, kind)
    check(lambda: ours(x, hx), lambda: theirs(x, hx), message)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_states_for_an_unbatched_input(kind):
    ours, theirs = (make(10, 20, 2) for make in classes(kind))
    x, hx = _x(5, 10), _states(_x(2, 1, 20), kind)
    check(lambda: ours(x, hx), lambda: theirs(x, hx), "unbatched 2-D input")


ONE = [(_x(2, 3, 20),), (), [_x(2, 3, 20)], 1.0]
TWO = [
    (_x(2, 3, 20), "not as one tensor of shape (2, 3, 20)"),
    ((_x(2, 3, 20),), "(h_0, c_0); the tuple given has 1 in it"),
    ((), "the tuple given has 0 in it"),
    ((_x(2, 3, 20),) * 3, "the tuple given has 3 in it"),
    ((_x(2, 3, 20), None), "the initial state c must be a tensor"),
    (1.0, "as one tuple, (h_0, c_0), not as a float"),
]


@pytest.mark.parametrize("kind", ["RNN_TANH", "GRU"])
@pytest.mark.parametrize("hx", ONE)
def test_one_state_is_a_tensor(kind, hx):
    ours, theirs = (make(10, 20, 2) for make in classes(kind))
    x = _x(5, 3, 10)
    check(lambda: ours(x, hx), lambda: theirs(x, hx), "the initial state h must be a tensor")


@pytest.mark.parametrize(("hx", "message"), TWO)
def test_two_states_are_a_tuple(hx, message):
    ours, theirs = (make(10, 20, 2) for make in classes("LSTM"))
    x = _x(5, 3, 10)
    check(lambda: ours(x, hx), lambda: theirs(x, hx), message)


@pytest.mark.parametrize("shape", [(1, 3, 20), (3, 3, 20), ()])
def test_one_tensor_for_two_states(shape):
    ours, theirs = (make(10, 20, 1) for make in classes("LSTM"))
    x, hx = _x(5, 3, 10), torch.zeros(shape)
    check(lambda: ours(x, hx), lambda: theirs(x, hx), f"as one tensor of shape {shape}")


def test_an_order_that_names_other_sequences():
    """States would be read beyond their end."""
    for order in (torch.tensor([0]), torch.tensor([0, 1, 2, 0])):
        packed = PackedSequence(_x(3, 10), torch.tensor([3]), order, None)
        hx = _x(1, 3, 20)
        ours, theirs = (make(10, 20, 1) for make in classes("GRU"))
        check(lambda: ours(packed, hx), lambda: theirs(packed, hx), "sorted_indices")  # noqa: B023


def test_numpy_counts_layers():
    assert repr(nn.GRU(3, 4, np.int64(2))) == repr(nn.GRU(3, 4, 2))


def test_forms_of_states_that_torch_takes():
    torch.manual_seed(0)
    module, x = nn.LSTM(10, 20, 2), torch.randn(5, 3, 10)
    h, c = torch.randn(2, 2, 3, 20)
    assert torch.equal(module(x, [h, c])[0], module(x, (h, c))[0])
    stacked = torch.stack((h[:, 0], c[:, 0]))
    assert torch.equal(module(x[:, 0], stacked)[0], module(x[:, 0], (h[:, 0], c[:, 0]))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_packed(kind):
    ours, theirs = (make(10, 20, 2) for make in classes(kind))
    packed = pack_sequence([_x(4, 10), _x(2, 10)])
    wrong = _states(_x(2, 3, 20), kind)
    check(lambda: ours(packed, wrong), lambda: theirs(packed, wrong), "(2, 2, 20), and has shape")
    double = packed.double()
    check(lambda: ours(double), lambda: theirs(double), "input.to(torch.float32)")
    states = _states(_x(2, 2, 20).double(), kind)
    check(lambda: ours(packed, states), lambda: theirs(packed, states), "is torch.float64")
    one = _x(2, 2, 20) if kind == "LSTM" else (_x(2, 2, 20),)
    check(lambda: ours(packed, one), lambda: theirs(packed, one), "initial state")


@pytest.mark.parametrize("kind", KINDS)
def test_packed_data_of_a_wrong_shape(kind):
    # torch's LSTM reads past the data here; its RNN and GRU raise this
    module = classes(kind)[0](10, 20)
    with pytest.raises(RuntimeError, match="must be input_size, 10, and is 11"):
        module(pack_sequence([_x(4, 11)]))
    with pytest.raises(RuntimeError, match=r"must be \(sum of lengths, H_in\), not \(4, 1, 10\)"):
        module(PackedSequence(_x(4, 1, 10), torch.ones(4, dtype=torch.int64)))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_several_dtypes(kind):
    ours, theirs = (make(10, 20) for make in classes(kind))
    for module in (ours, theirs):
        module.weight_hh_l0.data = module.weight_hh_l0.data.double()
    assert type(raised(lambda: ours(_x(5, 3, 10)))) is type(raised(lambda: theirs(_x(5, 3, 10))))


def test_a_cell_that_uses_its_input_elementwise_needs_equal_sizes():
    @cw.cell
    def highway(x, h):
        t = cw.sigmoid(x.t + h.t)
        return t * cw.tanh(x.h + h.h) + (1 - t) * x

    nn.Recurrent(highway, 5, 5, num_layers=2)
    with pytest.raises(ValueError, match=r"input_size \(3\) must equal hidden_size \(5\)"):
        nn.Recurrent(highway, 3, 5)
    with pytest.raises(ValueError, match=r"layer below \(10\) must equal hidden"):
        nn.Recurrent(highway, 5, 5, num_layers=2, bidirectional=True)


def test_a_cell_that_uses_its_output_elementwise_takes_no_projection():
    with pytest.raises(ValueError, match="leave proj_size at 0"):
        nn.Recurrent(cw.cells.gru, 3, 5, proj_size=2)
