"""Products by AMX: the planes, the unit's tiles, and whole layers that are made to take it.

Left to itself a layer takes it only where it is faster; here all calls do whose weights are packed.
"""

import ctypes
from array import array
from itertools import product

import pytest
import torch
from tests.cpu.agreement import FORMS, compare, double, flatten, make, normal, results, run
from tests.cpu.cells import BUNDLED, CELLS
from tests.cpu.test_numbers import errors
from tests.cpu.test_threads import BY_UNITS, agree_on_threads
from tests.cpu.torch_layers import torch_layer
from tests.tolerance import assert_close

import cellwright
import cellwright.nn as nn
from cellwright.autograd.operation import run_layer
from cellwright.cells import lstm
from cellwright.cpu.amx.planes import PLANES, SPLIT, weight_size
from cellwright.cpu.amx.unit import AMX_DEPTH, AMX_ROWS, MATRIX, ROW_BLOCK
from cellwright.cpu.call import backward, choice, forward, plan
from cellwright.cpu.call.library import library
from cellwright.cpu.call.walks import dense
from cellwright.cpu.machine.memory import release_memory
from cellwright.cpu.machine.target import host
from cellwright.cpu.vector.simd import POINTER

pytestmark = pytest.mark.skipif(not host().has_amx("float32"), reason="this machine has no AMX")
each_cell = pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)


class _Switch:
    """Whether calls take AMX that can."""

    def __init__(self):
        self.set(on=True)

    def set(self, *, on):
        self.on = on
        plan.plan_of.cache_clear()  # plans remember how calls run

    def __call__(self, layer, layout, way):
        return self.on and layer.dtype == "float32"


@pytest.fixture
def amx(monkeypatch):
    """Let all calls take it that can."""
    switch = _Switch()
    for module in (choice, forward, backward):
        monkeypatch.setattr(module, "takes_amx", switch)
    yield switch
    plan.plan_of.cache_clear()


def function(name, arguments=()):
    """Return a function of the library for addresses and numbers."""
    kinds = [ctypes.c_void_p if kind == POINTER else ctypes.c_int64 for kind in arguments]
    functions = library("float32")
    functions.need(range(1, 65))
    return ctypes.CFUNCTYPE(None, *kinds)(functions.address(name))


def address(values):
    return values.data_ptr() if isinstance(values, torch.Tensor) else values.buffer_info()[0]


def aligned(*shape):
    """Return nan on whole cache lines, as the walks have their memory."""
    size = torch.Size(shape).numel()
    memory = torch.full((size + 16,), torch.nan)
    start = -address(memory) // 4 % 16
    return memory[start : start + size].view(shape)


def multiply(rows, weights, vectors, groups, transposed):
    """Return rows · weightsᵀ and whether the weights were refused."""
    function("setup")()
    count, depth = rows.shape
    units = weights.shape[1 if transposed else 0]
    blocks = -(-depth // AMX_DEPTH)
    planes, distance = aligned(groups, blocks * ROW_BLOCK), blocks * ROW_BLOCK
    table = array("q", [address(row) for row in rows])
    function("split", SPLIT)(address(table), count, depth, address(planes), distance)
    packed, refused = aligned(weight_size(blocks, vectors)), array("q", [0])
    pack = function("planes_depth" if transposed else "planes_units", PLANES)
    given = address(weights), weights.shape[1], units, depth
    pack(*given, address(packed), 0, blocks, 0, 1, address(refused))
    places = array("q", range(0, blocks * ROW_BLOCK, ROW_BLOCK))
    found = torch.full((groups * AMX_ROWS, vectors * 16 + 3), torch.nan)
    out = address(found), found.shape[1], address(planes), distance
    function(f"matrix_{groups}_{vectors}", MATRIX)(*out, address(places), address(packed), blocks)
    function("release")()
    assert found[:, vectors * 16 :].isnan().all(), "it wrote beyond its columns"
    return found[:count, :units], refused[0] == 1


DEPTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 65, 130)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
def test_tiles_and_planes(depth, transposed):
    for vectors, groups in product((1, 2, 3, 4), (1, 2)):
        for units in (16 * vectors, 16 * vectors - 5):
            rows = torch.randn(16 * groups - 3 * (units % 2), depth)
            weights = torch.randn((depth, units) if transposed else (units, depth))
            found, refused = multiply(rows, weights, vectors, groups, transposed)
            exact = rows.double() @ (weights if transposed else weights.T).double()
            sizes = rows.double().abs() @ (weights if transposed else weights.T).double().abs()
            assert not refused
            assert ((found - exact).abs() <= sizes * depth**0.5 * 2**-23 + 1e-30).all()


def test_errors_are_smaller_than_those_of_a_float32_product():
    for depth in (32, 96, 384, 1536):
        rows, weights = torch.randn(32, depth), torch.randn(64, depth)
        exact = rows.double() @ weights.double().T
        ours, _ = multiply(rows, weights, 4, 2, transposed=False)
        theirs = rows @ weights.T
        assert (ours - exact).square().mean() < (theirs - exact).square().mean()


SPECIAL = [torch.nan, torch.inf, -torch.inf]


@pytest.mark.parametrize("value", [*SPECIAL, 3.4e38, -2.7e8], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_that_have_no_planes_are_refused(value, transposed):
    for at in range(0, 40 * 50, 61):
        weights = torch.randn(40, 50)
        weights.view(-1)[at] = value
        own = weights.T.contiguous() if transposed else weights
        assert multiply(torch.randn(16, 50), own, 3, 1, transposed)[1]


@pytest.mark.parametrize("value", [*SPECIAL, 3.4e38, -3.39e38, 1e-39], ids=str)
def test_rows_with_special_values(value):
    weights = torch.randn(48, 50).bfloat16().float()  # their other planes are 0
    weights[3], weights[:, 11] = 0.5, 0.25
    for k in (0, 11, 15, 16, 31, 32, 49):
        rows = torch.randn(20, 50) * (1e-3 if abs(value) > 1e38 else 1)
        rows[7, k] = value
        expected, (found, _) = rows @ weights.T, multiply(rows, weights, 3, 2, transposed=False)
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.isposinf(), expected.isposinf())
        if 1e27 < abs(value) < torch.inf:  # of such numbers, seven bits are kept
            torch.testing.assert_close(found, expected, rtol=2**-6, atol=1e-3)
        else:
            assert_close(found, expected)


@pytest.mark.parametrize("size", [1e26, 1e30, 1e36])
def test_large_rows_overflow_as_they_do_in_float32(size):
    """Small terms have other signs than the large one; where they overflow too, nan would come."""
    rows, weights = torch.randn(32, 40), torch.randn(64, 40) * 2e6
    rows[:, 5] *= size
    expected, (found, refused) = rows @ weights.T, multiply(rows, weights, 4, 2, transposed=False)
    edge = (expected / 2).abs() > 1.6e38  # where rounding decides whether it overflows
    assert not refused
    assert not found.isnan().any()
    assert torch.equal(found.isinf() | edge, expected.isinf() | edge)
    torch.testing.assert_close(found[~edge], expected[~edge], rtol=2**-6, atol=1e-3)


@pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
def test_large_products_saturate(cell, amx):
    """Weights so large are refused, rows so large have one plane: no nan comes of it."""
    for x, w in ((1e38, 1e5), (1e20, 1e21), (1e30, 1e8)):
        case = make(cell, 64, 64, steps=20, batch=32)
        case.x[3, 2, 0] = x
        next(iter(case.weights[0].bundles.values()))[0, 0] = w
        with torch.no_grad():
            ours, theirs = results(case), results(case, torch_layer)
        same_places(ours, theirs, f"{x} times {w}")


def test_a_signalling_nan_stays_nan():
    rows = torch.randn(16, 32)
    rows.view(torch.int32)[3, 5] = 0x7F800001
    found, _ = multiply(rows, torch.randn(16, 32), 1, 1, transposed=False)
    assert found[3].isnan().all()
    assert found.isnan().sum() == 16


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("form", FORMS)
def test_forms(name, form, amx):
    compare(make(CELLS[name], **FORMS[form]))


@each_cell
@pytest.mark.parametrize(
    ("hidden", "inputs"), [(1, 1), (3, 17), (17, 65), (65, 1), (100, 40), (64, 200)]
)
def test_sizes(cell, hidden, inputs, amx):
    for batch in (3, 16, 17, 33, 100):
        compare(make(cell, hidden, inputs, batch=batch, steps=5, directions=2))
    compare(make(cell, hidden, inputs, lengths=[6] * 20 + [3] * 14 + [1] * 3, directions=2))


def test_a_projection(amx):
    compare(make(lstm, 70, 20, batch=18, outputs=33))
    compare(make(lstm, 40, 20, outputs=39, lengths=[5] * 9 + [2] * 9, directions=2))


def same_places(ours, theirs, where):
    for name, expected in theirs.items():
        assert torch.equal(ours[name].isnan(), expected.isnan()), f"{name} {where}"
        assert torch.equal(ours[name].isposinf(), expected.isposinf()), f"{name} {where}"


@each_cell
@pytest.mark.parametrize("value", SPECIAL, ids=str)
def test_special_values_come_out_where_they_do_without_it(cell, value, amx):
    case = make(cell, batch=18, steps=7)
    for name, tensor in flatten(case).items():
        kept = tensor.clone()
        tensor.view(-1)[tensor.numel() // 2] = value
        expected = results(case, torch_layer)
        cotangents = {n: torch.ones_like(t) for n, t in expected.items()}
        amx.set(on=True)
        found, gradients = run(case, cotangents)
        same_places(found, expected, f"after {value} in {name}")
        assert_close(found["output"], expected["output"], name)
        amx.set(on=False)
        same_places(gradients, run(case, cotangents)[1], f"after {value} in {name}")
        tensor.copy_(kept)


@each_cell
@pytest.mark.parametrize("value", SPECIAL, ids=str)
def test_special_values_in_cotangents(cell, value, amx):
    case = make(cell, 65, batch=18, steps=4)
    cotangents = {n: normal(*t.shape, dtype=t.dtype) for n, t in results(case).items()}
    cotangents["output"][2, 5, 7] = value
    _, ours = run(case, cotangents)
    amx.set(on=False)
    same_places(ours, run(case, cotangents)[1], f"after {value}")


@each_cell
def test_errors_are_no_larger_than_those_of_torch(cell, amx):
    case = make(cell, 64, 32, steps=40, batch=32)
    ours, theirs = errors(case, run_layer, 9), errors(case, torch_layer, 9)
    for kind, error in theirs.items():
        assert ours[kind] <= 1.2 * error, f"{kind}: {ours[kind]:.2e}, torch has {error:.2e}"


@each_cell
def test_gradients_that_vanish(cell, amx):
    """AMX takes planes below the smallest normal number, about 1e-38, as 0."""
    case = make(cell, 40, batch=18, steps=3)
    for size in (1e-30, 1e-32, 1e-37):
        cotangents = {n: torch.full_like(t, size) for n, t in results(case).items()}
        found, expected = run(case, cotangents)[1], run(double(case), cotangents)[1]
        for name, right in expected.items():
            if size > 1e-35:
                assert_close(found[name] / size, right / size, name)
            else:
                assert (found[name] - right).abs().max() < 1e-35, name


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "peephole", "two_stages"])
def test_threads_that_share_rows(name, amx):
    agree_on_threads(make(CELLS[name], 40, 20, steps=6, batch=70))
    agree_on_threads(make(CELLS[name], 20, 20, lengths=[9] * 20 + [2] * 31, directions=2))


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "peephole", "two_stages"])
@pytest.mark.parametrize("form", [*BY_UNITS, "weights without planes"])
def test_threads_that_share_units(name, form, amx, monkeypatch):
    monkeypatch.setattr(choice, "_UNITS_FROM", 0)  # as for weights of many MiB
    case = make(CELLS[name], 330, 17, **BY_UNITS.get(form, {"batch": 20}))
    if form not in BY_UNITS:
        next(iter(case.weights[0].bundles.values()))[5, 3] = torch.inf
    try:
        torch.set_num_threads(2)
        compare(case)
    finally:
        torch.set_num_threads(1)


def test_layers_choose():
    """By what is faster: many rows, weights whose planes a cache holds."""

    def takes(units, inputs, steps, batch, dtype="float32"):
        layer = plan.plan_of(lstm, inputs, units, units, dtype, True)
        return choice.takes_amx(layer, dense(steps, batch), "forward")

    assert takes(64, 32, 100, 32)
    assert not takes(64, 32, 100, 32, "float64")
    assert not takes(64, 32, 100, 8)
    assert not takes(64, 32, 100, 17)  # the second group is nearly empty
    assert not takes(16, 32, 100, 32)
    assert not takes(64, 32, 0, 32)


def test_threads_share_the_units_of_rows_that_fill_no_tile_each():
    layer = plan.plan_of(lstm, 128, 256, 256, "float32", True)
    uneven = plan.plan_of(lstm, 128, 200, 200, "float32", True)
    try:
        torch.set_num_threads(2)
        for batch, by_units in ((15, False), (16, True), (17, False), (48, True), (64, False)):
            assert choice.share_of(layer, dense(50, batch)) == (2, by_units), batch
        assert choice.share_of(uneven, dense(50, 16)) == (2, False)
    finally:
        torch.set_num_threads(1)


def test_explain_tells():
    layer = cellwright.explain(nn.LSTM(32, 64), torch.zeros(100, 32, 32)).layers[0]
    assert "amx" in layer.kernel
    assert layer.tile == (32, 32)
    assert "bfloat16" in layer.weights
    assert layer.floor > 0


def test_a_layer_that_takes_it_keeps_to_its_weights():
    layer, x = nn.LSTM(32, 64), torch.randn(50, 32, 32)
    before = layer(x)[0]
    with torch.no_grad():
        layer.weight_hh_l0[3, 3] = torch.inf
        assert torch.equal(layer(x)[0].isnan(), torch.nn.LSTM.forward(like(layer), x)[0].isnan())
        layer.weight_hh_l0[3, 3] = 0.0
    release_memory()
    after, expected = layer(x)[0], like(layer)(x)[0]
    assert_close(after, expected)
    assert not torch.equal(after, before)


def like(layer):
    """Return torch.nn's layer with the same weights."""
    other = torch.nn.LSTM(layer.input_size, layer.hidden_size)
    other.load_state_dict(layer.state_dict())
    return other
