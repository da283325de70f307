"""Autocast on the CPU: kernels do the work, and results have the dtypes of torch's."""

import copy
import warnings
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.nn.agreement import KINDS, normal, pair, tensors
from tests.nn.repeated import flat, warmed
from tests.random_cells import REPRODUCIBLE, cells
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import cellwright
import cellwright.nn as nn
from cellwright import InterpreterWarning, cell
from cellwright.autograd import operation
from cellwright.cpu.machine.target import host
from cellwright.graph.interpret import interpret_layer

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]
ALL_KINDS = [*KINDS, "projected"]
HALF = torch.bfloat16


def layers(kind, *sizes, **options):
    """Our module in float32 and torch's in float64, of a kind that may be a projected LSTM."""
    if kind == "projected":
        kind, options = "LSTM", options | {"proj_size": 2}
    return pair(kind, *sizes, dtype=torch.float32, **options)


def gradients(made, inputs):
    """Of a sum over all that a module returned, each part with a factor of its own."""
    loss = sum((t.double() * (k + 1)).sum() for k, t in enumerate(tensors(made)))
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(
    ("lower", "dtype"),
    [(HALF, torch.float32), (HALF, HALF), (torch.float16, torch.float32)],
    ids=str,
)
@pytest.mark.parametrize("uneven", [False, True])
def test_kernels_take_the_layers(kind, lower, dtype, uneven):
    ours, theirs = layers(kind, 3, 17, 2)
    values, found = normal(3, 2, 3, dtype=dtype), []
    for module in (ours, theirs):
        x = values.to(dtype if module is ours else torch.float64, copy=True).requires_grad_()
        sequence = pack_padded_sequence(x, torch.tensor([3, 2])) if uneven else x
        with torch.autocast("cpu", lower) if module is ours else nullcontext():
            for _ in range(3):  # the last one may go the short way
                made = module(sequence)
        found.append([*tensors(made), *gradients(made, [x, *module.parameters()])])
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("uneven", [False, True])
def test_results_are_those_of_float32_rounded(kind, uneven):
    ours, _ = layers(kind, 5, 17, bidirectional=True)
    x = pack_sequence(
        [normal(n, 5, dtype=torch.float32) for n in ((4, 3, 1) if uneven else (3, 3))]
    )
    for _ in range(3):  # the short way of a call without autocast is ready by the third
        exact = tensors(ours(x))
        with torch.autocast("cpu", HALF):
            found = tensors(ours(x))
        for rounded, one in zip(found, exact, strict=True):
            assert torch.equal(rounded, one.to(rounded.dtype))


@pytest.mark.skipif(
    host().pairs("float32") != "bfloat16" or host().has_amx("float32"),
    reason="this machine multiplies no pairs, or AMX does it",
)
@pytest.mark.parametrize("kind", ["LSTM", "RNN_TANH", "GRU"])
def test_what_is_rounded_anyway_is_multiplied_in_pairs(kind):
    """Without gradients; the same bits at each call, whatever calls came before."""
    ours, _ = layers(kind, 6, 34)
    x = normal(40, 5, 6, dtype=torch.float32)
    half = copy.deepcopy(ours).bfloat16()
    pairs = kind != "GRU"  # whose state stays float32
    for grad in (False, False, False, True, True, True, False):
        with torch.autocast("cpu", HALF), torch.set_grad_enabled(grad):
            found = tensors(ours(x))
            (layer,) = cellwright.explain(ours, x).layers
        assert layer.kernel.endswith("in pairs)") == (pairs and not grad)
        with torch.no_grad():
            expected = half(x.bfloat16()) if pairs and not grad else ours(x)
        for one, other in zip(found, tensors(expected), strict=True):
            assert torch.equal(one, other.to(one.dtype))


@REPRODUCIBLE
@given(
    cell=cells(),
    steps=st.integers(1, 4),
    dtypes=st.tuples(*[st.sampled_from([torch.float32, HALF, torch.float16])] * 3),
)
def test_dtypes_of_any_cell_are_those_of_its_operations(cell, steps, dtypes):
    module = nn.Recurrent(cell, 4, 4, dtype=dtypes[0])
    x = normal(steps, 2, 4, dtype=dtypes[1])
    hx = tuple(torch.zeros(1, 2, 4, dtype=dtypes[2]) for _ in cell.states)
    given = x, hx if len(hx) > 1 else hx[0]
    with torch.no_grad(), torch.autocast("cpu", HALF):
        found = flat(module(*given))
        with patch.object(operation, "run_layer", lambda *call: interpret_layer(*call[:6])):
            expected = flat(module(*given))
    assert [t.dtype for t in found] == [t.dtype for t in expected]


@cell
def swap(x, h, c):
    """States that take turns, so that their dtypes do."""
    return c, h + 0 * x.a


@pytest.mark.parametrize("steps", range(1, 9))
def test_dtypes_of_states_that_take_turns(steps):
    module = nn.Recurrent(swap, 4, 4)
    given = normal(steps, 2, 4, dtype=torch.float32), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
    given[1][1].data = given[1][1].to(HALF)
    with torch.no_grad(), torch.autocast("cpu", HALF):
        found = flat(module(*given))
        with patch.object(operation, "run_layer", lambda *call: interpret_layer(*call[:6])):
            expected = flat(module(*given))
    assert [t.dtype for t in found] == [t.dtype for t in expected]


def test_onednn_switched_off_and_on_again(without_onednn):
    """Which decides whether torch lowers an LSTM as a whole, and no guard sees it."""
    ours, theirs, x = warmed("LSTM")
    for off in (True, False, True):
        torch._C._set_mkldnn_enabled(not off)
        for _ in range(3):
            assert dtypes_under_autocast(ours, x) == dtypes_under_autocast(theirs, x)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH"])
def test_one_half_under_autocast_to_the_other(kind):
    """What results can hold is not rounded to what parameters are stored in."""
    ours, _ = layers(kind, 6, 34)
    ours = ours.bfloat16()
    x = normal(40, 5, 6, dtype=HALF)
    with torch.no_grad():
        for _ in range(3):
            with torch.autocast("cpu", torch.float16):
                found = tensors(ours(x))
        exact = tensors(copy.deepcopy(ours).float()(x.float()))
    for one, other in zip(found, exact, strict=True):
        assert torch.equal(one, other.to(one.dtype))


def test_wrong_states_are_refused_in_the_same_words():
    ours, _, x = warmed("LSTM")
    h = torch.zeros(1, 2, 3)
    for _ in range(4):
        with torch.autocast("cpu", HALF):
            ours(x, (h, h))
            with pytest.raises(AttributeError, match="the initial state c must be a tensor"):
                ours(x, (h, None))


def test_another_default_device():
    ours, _, x = warmed("GRU", shape=(7, 2, 3))
    with torch.device("meta"), torch.autocast("cpu", torch.float16):
        assert ours(x)[0].device == x.device


def test_each_autocast_has_its_dtype():
    ours, _, x = warmed("RNN")
    for lower in (HALF, torch.float16, HALF):
        for _ in range(3):
            with torch.autocast("cpu", lower):
                assert [t.dtype for t in flat(ours(x))] == [lower, lower]
    assert ours(x)[0].dtype is torch.float32


@pytest.mark.filterwarnings("ignore::cellwright.errors.InterpreterWarning")
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_second_derivatives_within_autocast(kind):
    ours, theirs = layers(kind, 3, 4)
    values, found = normal(3, 2, 3, dtype=torch.float32), []
    for module in (ours, theirs):
        x = values.to(module.weight_ih_l0.dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", HALF, enabled=module is ours):
            first = torch.autograd.grad(module(x)[0].double().square().sum(), x, create_graph=True)
            found.append([*first, *torch.autograd.grad(first[0].sum(), module.weight_hh_l0)])
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("given", [None, torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_dtypes_are_those_of_torch(kind, packed, dtype, given):
    ours, theirs = layers(kind, 3, 4, 2)
    x, hx = normal(3, 2, 3, dtype=dtype), None
    if given is not None:
        hx = torch.zeros(2, 2, 2 if kind == "projected" else 4, dtype=given)
        hx = (hx, torch.zeros(2, 2, 4, dtype=given)) if kind in ("LSTM", "projected") else hx
    if packed:
        x = pack_padded_sequence(x, torch.tensor([3, 2]))
    dtypes = []
    for module in (theirs.float(), ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            try:
                output, states = module(x, hx)
            except (RuntimeError, ValueError) as error:
                dtypes.append(type(error))
            else:
                states = states if isinstance(states, tuple) else (states,)
                output = output.data if packed else output
                dtypes.append([t.dtype for t in (output, *states)])
    assert dtypes[0] == dtypes[1]


@pytest.fixture
def without_onednn():
    """What switches oneDNN off for a test; torch's own context warns of other devices."""
    before = torch.backends.mkldnn.enabled
    yield lambda: torch._C._set_mkldnn_enabled(False)
    torch._C._set_mkldnn_enabled(before)


def dtypes_under_autocast(module, x):
    """The dtypes of what a module returns; what it raises instead."""
    with torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpreterWarning)
        try:
            output, states = module(x)
        except (RuntimeError, ValueError) as error:
            return type(error)
    return [t.dtype for t in (output, *states)]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("onednn", [True, False])
def test_autocast_lowers_the_lstms_that_torch_lowers(weights, given, batch, onednn, without_onednn):
    x = normal(6, batch, 3, dtype=given)
    ours, theirs = (library.LSTM(3, 4, dtype=weights) for library in (nn, torch.nn))
    if not onednn:
        without_onednn()
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert dtypes_under_autocast(ours, x) == dtypes_under_autocast(theirs, x)
