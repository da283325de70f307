"""Calls over pairs of bfloat16, held against an interpreter that rounds what it multiplies."""

import pytest
import torch
from tests.cpu.agreement import FORMS, apply, double, make, results
from tests.cpu.cells import (
    BUNDLED,
    COPYING,
    NARROW,
    bare,
    coupled,
    highway,
    mgu,
    peephole,
    projects_c,
    reset_before,
    two_stages,
)
from tests.cpu.fences import Fences
from tests.cpu.test_threads import layout_of
from torch.nn.functional import linear
from torch.nn.utils.rnn import pack_sequence

import cellwright
import cellwright.nn as nn
from cellwright.autograd.operation import plan_for
from cellwright.cells import gru, lstm
from cellwright.cpu.call import choice, halves, plan
from cellwright.cpu.call.halves import HalfCall
from cellwright.cpu.machine.target import host
from cellwright.graph import interpret

HALF = torch.bfloat16
pytestmark = pytest.mark.skipif(
    host().pairs("float32") != "bfloat16" or host().has_amx("float32"),
    reason="this machine multiplies no pairs, or AMX does it",
)
PAIRED = {c.name: c for c in (*BUNDLED, coupled, peephole, *COPYING, bare)}
OTHER = {c.name: c for c in (mgu, reset_before, highway, projects_c, two_stages)}


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def _never_raw(monkeypatch):
    """Have calls of all sizes pack their weights."""
    plan.plan_of.cache_clear()
    monkeypatch.setattr(choice, "_reads_raw", lambda *_: False)
    yield
    plan.plan_of.cache_clear()


def is_paired(case):
    """Whether a call that was run went over pairs."""
    x, first = case.x, layout_of(case)
    found = plan_for(case.cell, x, case.states, case.weights, case.hidden, first.batch)
    (pairs,) = {one.pairs for one in found.prepared.values() if isinstance(one, HalfCall)}
    return pairs


def rounding(value, *parameters):
    """Multiply a value that is rounded first, as pairs are."""
    return linear(value.to(HALF).to(value.dtype), *parameters)


def compare(case, monkeypatch):
    """Hold a call against the interpreter in float64.

    Where a state lies halfway between two numbers, it may have been rounded to the other one.
    """
    found = results(case)
    assert is_paired(case)
    with monkeypatch.context() as patch:
        patch.setattr(interpret, "linear", rounding)
        expected = results(double(case), interpret.interpret_layer)
    eps = torch.finfo(HALF).eps
    for name, exact in expected.items():
        assert found[name].dtype == HALF
        error = (found[name].double() - exact).abs()
        bound = eps / 2 * exact.abs() + 0.25 * eps * exact.abs().max() + 1e-6
        assert (error <= bound).all(), name
        if exact.numel() > 200:
            assert error.mean() <= 0.3 * eps * exact.abs().mean(), name


def make_even(cell, hidden, inputs, **options):
    return make(cell, hidden, inputs, dtype=HALF, **options)


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("form", FORMS)
def test_forms(name, form, monkeypatch):
    compare(make_even(PAIRED[name], 18, 6, **FORMS[form]), monkeypatch)


@pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
@pytest.mark.parametrize("hidden", [2, 4, 16, 62, 64, 66, 100, 300])
def test_sizes(cell, hidden, monkeypatch):
    """Tiles of all widths and numbers of rows; depths of several pieces."""
    for inputs, batch in ((2, 1), (34, 2), (600, 3), (8, 4), (10, 5), (16, 6), (20, 40)):
        case = make_even(cell, hidden, inputs, batch=batch, steps=5, directions=2)
        compare(case, monkeypatch)


@pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
def test_one_step_is_as_exact_as_in_float32(cell):
    """Products of bfloat16 are exact in float32: with one step, nothing is rounded but the end."""
    case = make_even(cell, 34, 18, steps=1, batch=9, directions=2)
    found = results(case)
    assert is_paired(case)
    for name, exact in results(double(case), interpret.interpret_layer).items():
        slack = 2e-5 * exact.abs().max()
        bound = torch.finfo(HALF).eps / 2 * exact.abs() + slack
        assert ((found[name].double() - exact).abs() <= bound).all(), name


@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
def test_fences(cell, monkeypatch):
    fences = Fences()
    fences.install(monkeypatch)
    for form in ("one row", "batch first, both ways", "packed, both ways"):
        for hidden, inputs in ((2, 2), (18, 6), (64, 34)):
            case = apply(make_even(cell, hidden, inputs, **FORMS[form]), fences.copy)
            compare(case, monkeypatch)
            fences.check()


@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
def test_threads(cell, monkeypatch):
    monkeypatch.setattr(choice, "_UNITS_FROM", 0)
    torch.set_num_threads(2)
    try:
        for form in (
            {"steps": 40, "batch": 1, "directions": 2},
            {"steps": 12, "batch": 37},
            {"lengths": (40, 38, 31, 9, 9, 8, 1)},
        ):
            compare(make_even(cell, 336, 18, **form), monkeypatch)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
def test_what_is_not_finite(cell, monkeypatch):
    case = make_even(cell, 18, 6, batch=4)
    case.x[1, 0, 3], case.x[2, 1, 0], case.states[0][0, 2, 5] = torch.nan, torch.inf, torch.nan
    found = results(case)
    assert is_paired(case)
    with monkeypatch.context() as patch:
        patch.setattr(interpret, "linear", rounding)
        expected = results(double(case), interpret.interpret_layer)
    for name, exact in expected.items():
        assert torch.equal(found[name].isnan(), exact.isnan())


@pytest.mark.parametrize("name", [*PAIRED, *OTHER])
@pytest.mark.parametrize(("hidden", "inputs"), [(18, 6), (17, 6), (18, 5)])
def test_which_calls_go_over_pairs(name, hidden, inputs):
    case = make_even((PAIRED | OTHER)[name], hidden, inputs)
    results(case)
    assert is_paired(case) == (name in PAIRED and hidden == 18 and inputs == 6)


@pytest.mark.parametrize("name", NARROW)
def test_projected_outputs_do_not(name):
    case = make_even(NARROW[name], 18, 6, outputs=4)
    results(case)
    assert not is_paired(case)


@pytest.fixture
def raw_where_it_pays(monkeypatch):
    monkeypatch.undo()


@pytest.mark.usefixtures("raw_where_it_pays")
def test_lengths_decide_at_each_call():
    """A few short sequences are read by dots, longer ones go over pairs, whichever came first."""
    module, found = nn.GRU(64, 256, dtype=HALF), []
    long, short = (
        pack_sequence([torch.randn(n, 64, dtype=HALF) for n in lengths])
        for lengths in ((5, 3), (2, 1))
    )
    for order in ((long, short), (short, long)):
        plan.plan_of.cache_clear()
        results = {id(one): module(one)[0].data for one in order}
        found.append([results[id(one)] for one in (long, short)])
        kernels = [cellwright.explain(module, one).layers[0].kernel for one in (long, short)]
        assert [k.endswith("in pairs)") for k in kernels] == [True, False]
    assert all(map(torch.equal, *found))


@pytest.mark.usefixtures("raw_where_it_pays")
def test_few_units_of_a_wide_input_are_left_to_dots():
    case = make_even(lstm, 2, 1000, steps=20, batch=16)
    results(case)
    assert not is_paired(case)


def test_weights_input_and_output_are_not_copied(monkeypatch):
    copied = []
    convert = halves._convert
    monkeypatch.setattr(halves, "_convert", lambda *a: copied.append(a[3]) or convert(*a))
    results(make_even(lstm, 64, 32, steps=3, batch=1))
    assert copied == [[256, 256, 64, 64], [64, 64]]  # biases and states; final states


def test_explain_says_so():
    module, x = nn.LSTM(32, 64, dtype=HALF), torch.zeros(7, 5, 32, dtype=HALF)
    (layer,) = cellwright.explain(module, x).layers
    assert layer.kernel.endswith("bfloat16 in pairs)")
    assert layer.weights == "weights packed"
    assert layer.bytes == 7 * 2 * 256 * (32 + 64)
    with torch.enable_grad():  # of the input alone, which goes on to the second layer
        layers = nn.LSTM(32, 64, 2, dtype=HALF).requires_grad_(False)
        for layer in cellwright.explain(layers, x.clone().requires_grad_()).layers:
            assert layer.kernel.endswith("float32 for bfloat16)")
        (layer,) = cellwright.explain(module, x).layers
    assert layer.kernel.endswith("float32 for bfloat16)")
