"""Calls in half precision for no gradient: weights as they are stored, all else as float32."""

import copy
from array import array

import pytest
import torch
from tests.cpu.agreement import FORMS, apply, double, make, results
from tests.cpu.cells import BUNDLED, CELLS, NARROW
from tests.cpu.fences import Fences, bits
from tests.cpu.test_threads import layout_of

import cellwright
import cellwright.nn as nn
from cellwright.autograd.obstacle import HALF_NAMES
from cellwright.autograd.operation import plan_for, run_layer
from cellwright.cells import gru, lstm, rnn_tanh
from cellwright.cpu.call import choice, halves, plan
from cellwright.cpu.call.library import library
from cellwright.cpu.call.team import WALK
from cellwright.cpu.machine.target import Target, host
from cellwright.graph.interpret import interpret_layer

pytestmark = pytest.mark.skipif(not host().halves("float32"), reason="no kernels read halves here")
HALVES = pytest.mark.parametrize("dtype", list(HALF_NAMES), ids=str)
LONG = {"steps": 40, "batch": 1}


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


def compare(case):
    """Hold a call against the interpreter in float64: rounded once, at the end."""
    found = results(case)
    for name, exact in results(double(case), interpret_layer).items():
        finfo = torch.finfo(found[name].dtype)
        slack = 2e-5 * exact.abs().max().item() + 1e-6  # of the float32 that is rounded
        bound = finfo.eps / 2 * exact.abs() + finfo.smallest_normal * finfo.eps / 2 + slack
        assert ((found[name].double() - exact).abs() <= bound).all(), name


@HALVES
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("form", FORMS)
def test_forms(name, form, dtype):
    compare(make(CELLS[name], 17, 5, dtype=dtype, **FORMS[form]))


@HALVES
@pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
@pytest.mark.parametrize("hidden", [1, 3, 16, 64, 65, 100, 300])
def test_sizes(cell, hidden, dtype):
    """Weights that are packed, and such as are read as they lie, by one row or several."""
    for form in ({"steps": 1, "batch": 1}, LONG, {"steps": 3, "batch": 3}, {"batch": 20}):
        compare(make(cell, hidden, 33, dtype=dtype, directions=2, **form))


@HALVES
@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(("hidden", "outputs"), [(17, 3), (48, 272)])
def test_narrow_outputs(name, hidden, outputs, dtype):
    for form in ("one row", "packed, both ways"):
        compare(make(NARROW[name], hidden, 3, outputs=outputs, dtype=dtype, **FORMS[form]))


@HALVES
@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "two_stages"])
@pytest.mark.parametrize("form", ["one step of one row", "batch first", "packed, both ways"])
def test_fences(name, form, dtype, monkeypatch):
    plan.plan_of.cache_clear()
    fences = Fences()
    fences.install(monkeypatch)
    for hidden in (1, 17, 64):
        compare(apply(make(CELLS[name], hidden, 3, dtype=dtype, **FORMS[form]), fences.copy))
        fences.check()
    plan.plan_of.cache_clear()


@HALVES
@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
def test_threads(cell, dtype, monkeypatch):
    monkeypatch.setattr(choice, "_UNITS_FROM", 0)
    torch.set_num_threads(2)
    try:
        for form in (LONG, {"steps": 12, "batch": 37}, {"lengths": (40, 38, 31, 9, 9, 8, 1)}):
            compare(make(cell, 336, 17, dtype=dtype, **form))
    finally:
        torch.set_num_threads(1)


@HALVES
def test_weights_are_not_copied(dtype, monkeypatch):
    """Of what is widened, none is a weight, unless AMX takes it."""
    widened = []
    convert = halves._convert
    monkeypatch.setattr(halves, "_convert", lambda *a: widened.append(a[3]) or convert(*a))
    case = make(lstm, 64, 32, dtype=dtype, steps=1, batch=1)
    results(case)
    sizes, made = widened
    assert sizes == [32, 256, 256, 64, 64]
    assert made == [64, 64, 64]
    widened.clear()
    plan.plan_of.cache_clear()
    monkeypatch.setattr(halves, "reads_stored", lambda *_: False)
    compare(case)
    assert widened[0] == [32, 256 * 32, 256 * 64, 256, 256, 64, 64]
    plan.plan_of.cache_clear()


@HALVES
def test_machines_without_conversions(dtype, monkeypatch):
    monkeypatch.setattr(Target, "halves", lambda *_: ())
    monkeypatch.setattr(halves, "_convert", None)
    for form in ("one row", "packed, both ways"):
        compare(make(gru, 17, 5, dtype=dtype, **FORMS[form]))


@HALVES
def test_repeated_calls(dtype):
    """The short way, with states and without, and a gradient in between."""
    module, x = nn.LSTM(5, 33, dtype=dtype), torch.randn(1, 1, 5).to(dtype)
    right, state = copy.deepcopy(module).double(), None
    for step in range(6):
        exact, final = right(x.double(), state and tuple(t.double() for t in state))
        found, state = module(x, state)
        for one, other in zip((found, *state), (exact, *final), strict=True):
            torch.testing.assert_close(one.double(), other, rtol=0, atol=2 * torch.finfo(dtype).eps)
        assert len(module._repeats[0]) == min(1, step)  # which takes calls with gradients too
        with torch.enable_grad():
            module.zero_grad()
            out, _ = module(x, state)
            out.sum().backward()
        exact, _ = right(x.double(), tuple(t.double() for t in state))
        with torch.enable_grad():
            right.zero_grad()
            right(x.double(), tuple(t.double() for t in state))[0].sum().backward()
        for p, q in zip(module.parameters(), right.parameters(), strict=True):
            assert p.grad.dtype == out.dtype == dtype
            torch.testing.assert_close(p.grad.double(), q.grad, rtol=0.02, atol=0.02)


def with_weight(case):
    """A call's output, and the weight of a state, of which gradients are asked for."""
    weight = case.weights[0].tensors[1].requires_grad_()
    run = interpret_layer if case.x.dtype is torch.float64 else run_layer
    return results(case, run)["output"], weight


@HALVES
@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
@pytest.mark.filterwarnings("ignore::cellwright.errors.InterpreterWarning")
def test_gradients_of_gradients(cell, dtype):
    case, found = make(cell, 17, 5, dtype=dtype, steps=3), []
    with torch.enable_grad():
        for one in (case, double(case)):
            output, weight = with_weight(one)
            (first,) = torch.autograd.grad(
                output.double().square().sum(), weight, create_graph=True
            )
            found.append((first, *torch.autograd.grad(first.double().sum(), weight)))
    for mine, exact in zip(*found, strict=True):
        assert mine.dtype == dtype
        error = (mine.double() - exact).abs().max()
        assert error <= 8 * torch.finfo(dtype).eps * exact.abs().max()


@HALVES
def test_a_graph_of_many_steps_holds_no_copies_of_the_weights(dtype):
    module, x, state, kept = nn.GRU(4, 64, dtype=dtype), torch.randn(1, 1, 4).to(dtype), None, []

    def pack(t):
        kept.append(t)
        return t

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        for _ in range(5):
            _, state = module(x, state)
    largest = {t.untyped_storage().data_ptr() for t in kept if t.numel() >= 64 * 64}
    assert len(largest) == 1


@HALVES
@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
def test_changes_in_place(cell, dtype):
    """The output may be changed before the backward pass; parameters may not."""
    case, found = make(cell, 17, 5, dtype=dtype, steps=3), []
    with torch.enable_grad():
        for one in (case, double(case)):
            output, weight = with_weight(one)
            loss = output.double().sum()
            output.mul_(2)
            found += torch.autograd.grad(loss, weight)
        error = (found[0].double() - found[1]).abs().max()
        assert error <= 2 * torch.finfo(dtype).eps * found[1].abs().max()
        output, weight = with_weight(case)
        with torch.no_grad():
            weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


@HALVES
def test_explain_counts_bytes_as_stored(dtype):
    x = torch.randn(1, 1, 32).to(dtype)
    module = nn.LSTM(32, 64, dtype=dtype)
    (layer,) = cellwright.explain(module, x).layers
    assert layer.bytes == 2 * 256 * (32 + 64)
    with torch.enable_grad():  # which needs float32
        (layer,) = cellwright.explain(module, x).layers
    assert layer.bytes == 4 * 256 * (32 + 64)
    if HALF_NAMES[dtype] == host().pairs("float32"):
        return
    (layer,) = cellwright.explain(module, x.expand(9, 40, 32)).layers
    assert layer.weights.startswith("weights packed")  # which are float32
    assert layer.bytes >= 4 * 256 * (9 * 64 + 32)


@HALVES
def test_lengths_that_change(dtype):
    for lengths in ((6, 4, 4, 1), (6, 6, 6, 6), (3, 2, 1, 1), (9, 1, 1, 1)):
        compare(make(lstm, 17, 5, dtype=dtype, lengths=lengths, directions=2))


@HALVES
@pytest.mark.parametrize("form", ["one row", "packed"])
def test_a_state_alone_asks_for_a_gradient(form, dtype):
    case = make(gru, 17, 5, dtype=dtype, **FORMS[form])
    (state,) = case.states
    state.requires_grad_()
    with torch.enable_grad():
        results(case)["output"].sum().backward()
    exact = double(case)
    with torch.enable_grad():
        (start,) = exact.states = [state.detach().double().requires_grad_()]
        results(exact, interpret_layer)["output"].sum().backward()
    error = (state.grad.double() - start.grad).abs().max()
    assert error <= torch.finfo(dtype).eps * start.grad.abs().max()


def numbers(dtype):
    """All numbers of a half precision."""
    return torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)


def convert(way, dtype, source, target):
    functions, half = library("float32"), HALF_NAMES[dtype]
    functions.need_half(half)
    table = array("q", [source.data_ptr(), target.data_ptr(), source.numel()])
    WALK(functions.address(f"{way}_{half}"))(table.buffer_info()[0], 1)
    return target


@HALVES
def test_widening_is_exact(dtype):
    source = numbers(dtype)[:-3]
    found = convert("widen", dtype, source, torch.empty(source.numel()))
    assert torch.equal(found.nan_to_num(7.0), source.float().nan_to_num(7.0))
    assert torch.equal(found.isnan(), source.isnan())
    assert torch.equal(found.signbit(), source.signbit())


@HALVES
def test_rounding_is_to_nearest_even(dtype):
    """Numbers, those halfway between two, the next ones of these, and beyond all."""
    exact = numbers(dtype).float()
    exact = exact[exact.isfinite()].sort().values
    halfway = (exact[1:] / 2 + exact[:-1] / 2).nan_to_num()
    near = [halfway.nextafter(torch.tensor(side)) for side in (torch.inf, -torch.inf)]
    beyond = torch.tensor([torch.inf, -torch.inf, torch.nan, 3.4e38, -3.4e38, 65519.0, 65520.0])
    payloads = torch.tensor([0x7F800001, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    source = torch.cat([exact, halfway, *near, beyond, payloads, 1e-42 * torch.randn(1000)])
    found = convert("narrow", dtype, source, torch.empty(source.numel(), dtype=dtype))
    expected = source.to(dtype)
    assert torch.equal(found.isnan(), expected.isnan())
    number = ~expected.isnan()
    assert torch.equal(bits(found)[number], bits(expected)[number])


@pytest.mark.parametrize("form", ["one step of one row", "one row", "packed, one row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_no_half_is_no_half_call(form, dtype):
    case = make(rnn_tanh, dtype=dtype, **FORMS[form])
    found = plan_for(case.cell, case.x, case.states, case.weights, case.hidden, 1)
    results(case)
    assert layout_of(case).batch == 1
    assert not any(isinstance(one, halves.HalfCall) for one in found.prepared.values())
