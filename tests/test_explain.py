"""What ``explain`` tells is what a call then does."""

import warnings

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import cellwright
import cellwright.nn as nn
from cellwright import InterpreterWarning
from cellwright.cpu.machine.target import host


def only(module, given):
    (layer,) = cellwright.explain(module, given).layers
    return layer


@pytest.mark.parametrize(
    ("module", "given"),
    [
        (nn.LSTM(3, 5), torch.zeros(4, 2, 3)),
        (nn.GRU(3, 5, batch_first=True), torch.zeros(2, 4, 3)),
        (nn.RNN(3, 5), torch.zeros(4, 3)),
        (nn.RNN(3, 5), pack_sequence([torch.zeros(4, 3), torch.zeros(2, 3)])),
        (nn.SequenceModel("gru", 3, 5, 1).double(), torch.zeros(4, 2, 3).double()),
        (nn.LSTM(3, 5, dtype=torch.float16), torch.zeros(4, 2, 3, dtype=torch.float16)),
    ],
)
def test_a_kernel(module, given):
    layer = only(module, given)
    assert layer.cause == ""
    assert "forward" in layer.kernel
    assert min(layer.tile) > 0
    assert layer.floor > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(given)


@pytest.mark.parametrize(
    ("module", "given", "cause"),
    [
        (nn.LSTM(3, 5, device="meta"), torch.zeros(4, 2, 3, device="meta"), "meta"),
        (nn.GRU(3, 5), torch.zeros(4, 2, 3)._neg_view(), "sign"),
    ],
)
def test_the_interpreter(module, given, cause):
    layer = only(module, given)
    assert layer.kernel == "interpreter"
    assert cause in layer.cause
    assert cause in str(cellwright.explain(module, given))
    with pytest.warns(InterpreterWarning, match=cause):
        module(given)


def test_operations_and_bytes_follow_from_the_sizes():
    first, second = cellwright.explain(
        nn.LSTM(3, 5, num_layers=2, bidirectional=True), torch.zeros(7, 4, 3)
    ).layers
    assert first.operations == 2 * 2 * 7 * 4 * 4 * 5 * (3 + 5)
    assert second.operations == 2 * 2 * 7 * 4 * 4 * 5 * (10 + 5)
    assert first.bytes == 2 * 7 * 4 * 4 * 5 * (3 + 5)


@pytest.mark.parametrize(
    ("units", "passes", "of_one_step"), [(5, 2, 2), (180, 4, 4), (300, 5, 8), (700, 5, 8)]
)
def test_few_rows_read_the_weights_as_they_lie(units, passes, of_one_step):
    module, at_once, all_lie = nn.GRU(3, units), host().dot_rows, "weights read as they lie"

    def weights(steps, batch):
        return only(module, torch.zeros(steps, batch, 3)).weights

    assert weights(1, of_one_step * at_once) == all_lie
    assert weights(3, 1) == all_lie
    assert weights(passes, at_once) == all_lie
    assert "packed" in weights(1, of_one_step * at_once + 1)
    beyond = weights(max(3, passes) + 1, 1)
    assert "but for the input's" in beyond if units > 180 else "packed" in beyond


def test_packed_sequences_of_equal_lengths_are_a_dense_batch():
    module, x = nn.LSTM(40, 32), torch.randn(9, 2, 40)
    given = torch.nn.utils.rnn.pack_padded_sequence(x, [9, 9])
    assert only(module, given) == only(module, x)
    uneven = torch.nn.utils.rnn.pack_padded_sequence(x, [9, 8])
    assert only(module, uneven).input != only(module, x).input


LSTM, GRU = nn.LSTM(3, 5), nn.GRU(3, 5)
UNEVEN = pack_sequence([torch.zeros(4, 3), torch.zeros(2, 3)])


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("module", "given"),
    [
        (LSTM, torch.zeros(4, 2, 3)),
        (LSTM, torch.zeros(4, 3)),
        (LSTM, torch.zeros(4, 2, 3, dtype=torch.float16)),
        (LSTM, torch.zeros(4, 2, 3, dtype=torch.bfloat16)),
        (nn.LSTM(3, 5, 2, bidirectional=True, dtype=torch.bfloat16), torch.zeros(4, 2, 3)),
        (LSTM, UNEVEN),
        (nn.LSTM(3, 5, proj_size=2), torch.zeros(4, 2, 3)),
        (GRU, torch.zeros(4, 2, 3)),
        (nn.Recurrent("lstm", 3, 5), torch.zeros(4, 2, 3)),
    ],
)
def test_under_autocast(module, given, lower):
    with torch.autocast("cpu", lower), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layers = cellwright.explain(module, given).layers
        assert caught == []
        module(given)
    kernels = {layer.kernel != "interpreter" for layer in layers}
    assert kernels == {not [w for w in caught if w.category is InterpreterWarning]}


@pytest.mark.parametrize(
    ("module", "given"),
    [
        (LSTM, torch.zeros(4, 2, 9)),
        (LSTM, torch.zeros(0, 2, 3)),
        (LSTM, torch.zeros(4, 2, 3, 1)),
        (GRU, torch.zeros(4, 2, 3).double()),
        (GRU, torch.zeros(4, 2, 3).long()),
        (GRU, (4, 2, 3)),
        (GRU, pack_sequence([torch.zeros(4, 9), torch.zeros(2, 9)])),
    ],
)
def test_what_the_call_refuses_is_refused_alike(module, given):
    with pytest.raises((AttributeError, RuntimeError, ValueError)) as called:
        module(given)
    with pytest.raises(type(called.value)) as explained:
        cellwright.explain(module, given)
    assert str(explained.value) == str(called.value)


def test_other_modules_are_refused():
    with pytest.raises(TypeError, match=r"takes a module of cellwright\.nn .*, not torch"):
        cellwright.explain(torch.nn.LSTM(3, 5), torch.zeros(4, 2, 3))
