"""The input's products that AMX takes ahead of a walk: as the walk would have taken them."""

import llvmlite.ir as ir
import pytest
import torch
from tests.cpu.agreement import FORMS, compare, double, make, results, run
from tests.cpu.cells import BUNDLED, CELLS
from tests.cpu.processes import python
from tests.cpu.test_threads import BY_UNITS
from tests.tolerance import assert_close

import cellwright
import cellwright.nn as nn
from cellwright.cells import gru, lstm
from cellwright.cpu.call import choice, forward, plan
from cellwright.cpu.call.library import library
from cellwright.cpu.call.walks import dense
from cellwright.cpu.machine import jit
from cellwright.cpu.machine.target import host
from cellwright.cpu.walk import amx_projection
from cellwright.cpu.walk.amx_panels import Room
from cellwright.graph.interpret import interpret_layer

pytestmark = pytest.mark.skipif(not host().has_amx("float32"), reason="this machine has no AMX")
SPECIAL = (torch.inf, -torch.inf, torch.nan)


@pytest.fixture(autouse=True)
def projected(monkeypatch):
    """Let all calls take them so that can."""
    plan.plan_of.cache_clear()
    monkeypatch.setattr(choice, "takes_amx", lambda *_: False)
    monkeypatch.setattr(choice, "_reads_raw", lambda *_: False)
    monkeypatch.setattr(choice, "_projects_first", _can)
    for module, name in ((choice, "_projects_by_amx"), (forward, "may_project_by_amx")):
        monkeypatch.setattr(module, name, lambda layer, *_: layer.dtype == "float32")
    yield
    plan.plan_of.cache_clear()


def _can(layer, layout):
    shares_rows = choice._shares_rows(choice.share_of(layer, layout))
    return layer.products_first > 0 and not (layout.counts is not None and shares_rows)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("form", FORMS)
def test_forms(name, form):
    compare(make(CELLS[name], **FORMS[form]))


@pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
@pytest.mark.parametrize(("hidden", "inputs"), [(1, 1), (3, 17), (17, 65), (65, 1), (100, 40)])
def test_sizes(cell, hidden, inputs):
    for steps in (1, 16, 17, 33, 70):
        compare(make(cell, hidden, inputs, batch=2, steps=steps, directions=2))


def test_more_steps_than_are_split_at_once():
    compare(make(lstm, 33, 1024, batch=1, steps=70))
    compare(make(lstm, 33, 1000, batch=2, steps=65, batch_first=True))
    compare(make(lstm, 33, 1000, batch=3, steps=45))
    compare(make(lstm, 33, 1000, lengths=(60, 41, 8)))


@pytest.mark.parametrize("inputs", [32, 33, 128, 129, 160, 161, 257, 300])
def test_groups_of_depths(inputs):
    for steps in (15, 16, 17, 32, 40, 48, 49):
        compare(make(gru, 40, inputs, batch=1, steps=steps))


def test_packed_calls_of_other_lengths():
    """One prepared call serves all of them, in memory that has room for each."""
    for lengths in ((9, 4), (90, 70), (2, 1), (300, 300)):
        compare(make(lstm, 40, 20, lengths=lengths))


def test_calls_take_it():
    layer, x = plan.plan_of(lstm, 32, 32, 32, "float32", True), torch.zeros(4, 1, 32)
    for keep in (False, True):
        assert forward.ForwardCall(layer, plan.Rows(x, dense(4, 1)), 1, keep).amx_ahead


@pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
@pytest.mark.parametrize("value", SPECIAL, ids=str)
def test_special_values(cell, value):
    for place, part in (("input", 0.5), ("input", 0.9), ("weights", 0.5)):
        case = make(cell, 40, 20, batch=1, steps=70)
        changed = case.x if place == "input" else case.weights[0].tensors[0]
        changed.view(-1)[int(part * changed.numel())] = value
        cotangents = {"output": torch.randn(70, 1, 40)}
        pairs = run(case, cotangents), run(case, cotangents, engine=interpret_layer)
        found, expected = (kept | gradients for kept, gradients in pairs)
        for name, right in expected.items():
            assert torch.equal(found[name].isnan(), right.isnan()), f"{name}, {place}"
            assert_close(found[name].nan_to_num(), right.nan_to_num(), f"{name}, {place}")


@pytest.mark.parametrize("name", ["rnn_tanh", "gru"])
def test_sums_that_overflow_are_not_nan(name):
    """As those of torch, whose sums go on from infinity."""
    module = {"rnn_tanh": nn.RNN, "gru": nn.GRU}[name](128, 40)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.weight_ih_l0[5] = 1e38
        x = torch.randn(50, 1, 128)
        x[40] = 3.4e38 * x[40].sign()
        assert not module(x)[0].isnan().any()


def test_numbers_near_the_smallest_count_again_afterwards():
    with torch.no_grad():
        nn.LSTM(128, 64)(torch.randn(40, 1, 128))
    assert (torch.full((1 << 16,), 1e-40) * 1.0).count_nonzero() == 1 << 16


def project_by_amx_alone():
    """Have nothing check what AMX finds, and nothing else do its work."""
    amx_projection.all_finite = lambda *_: ir.Constant(ir.IntType(1), 1)
    choice._projects_first = _can
    choice._projects_by_amx = forward.may_project_by_amx = lambda *_: True
    choice._reads_raw = choice.takes_amx = lambda *_: False
    for inputs, steps in ((20, 33), (129, 17), (160, 70), (300, 40)):
        compare(make(lstm, 70, inputs, batch=1, steps=steps))
        compare(make(gru, 33, inputs, batch=3, steps=steps))


def test_amx_alone(tmp_path):
    """What comes out wrong is mostly nan, which vectors would put right."""
    code = f"from {__name__} import project_by_amx_alone as f; f(); print('right')"
    assert python(code, CELLWRIGHT_CACHE_DIR=str(tmp_path)) == "right"


@pytest.mark.parametrize("name", ["lstm", "gru", "two_stages"])
@pytest.mark.parametrize("form", [*BY_UNITS, "weights that vectors take"])
def test_threads(name, form):
    case = make(CELLS[name], 330, 17, **BY_UNITS.get(form, {"batch": 2, "steps": 20}))
    if form not in BY_UNITS:
        case.weights[0].tensors[0][5, 3] = torch.inf
    agree_on_threads(case)


def agree_on_threads(case, threads=2):
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            found = results(case)
    finally:
        torch.set_num_threads(1)
    with torch.no_grad():
        expected = results(double(case), interpret_layer)
    for n, right in expected.items():
        assert torch.equal(found[n].isnan(), right.isnan()), n
        assert_close(found[n].nan_to_num(), right.to(torch.float32).nan_to_num(), n)


def test_threads_with_more_rows_than_others():
    """Each has memory of its own, wherever that of the others ends."""
    for batch, batch_first in ((6, False), (6, True), (10, False)):
        case = make(lstm, 100, 40, steps=90, batch=batch, batch_first=batch_first)
        for _ in range(5):
            agree_on_threads(case, threads=4)


def test_the_memory_of_threads_is_apart():
    """Machine code adds up the same parts, whose sizes grow evenly with panels of rows."""
    for inputs, units in ((1, 1), (33, 40), (129, 65), (1100, 300)):
        layer = plan.plan_of(lstm, inputs, units, units, "float32", True)
        room = Room.of(layer.forward_walk.program)
        first, second, third = (room.parts(n) for n in (0, 1, 2))
        assert [2 * b - a for a, b in zip(first, second, strict=True)] == list(third)
        assert room.size(10_000, 3) == 3 * room.size(None, 1) or room.at_once * 32 > 10_000


@pytest.mark.parametrize("name", ["lstm", "gru", "two_stages"])
def test_threads_that_share_rows(name):
    case = make(CELLS[name], 100, 17, steps=90, batch=2)
    layer = plan.plan_of(case.cell, 17, 100, 100, "float32", True)
    try:
        torch.set_num_threads(2)
        assert choice.share_of(layer, dense(90, 2)) == (2, False)
    finally:
        torch.set_num_threads(1)
    for _ in range(5):
        agree_on_threads(case)


def test_layers_choose(monkeypatch):
    """By what is faster: many products with the input, or many of its weights."""
    monkeypatch.undo()

    def takes(units, inputs, steps, dtype="float32"):
        layer = plan.plan_of(lstm, inputs, units, units, dtype, True)
        return choice._projects_by_amx(layer, dense(steps, 1))

    assert takes(256, 128, 1)
    assert not takes(256, 128, 100, "float64")
    assert not takes(32, 64, 5000)
    assert not takes(64, 128, 120)
    assert takes(64, 128, 130)
    assert not takes(16, 64, 4000)
    assert not takes(256, 64, 20)
    assert takes(256, 64, 30)  # the clock of a walk with so many weights is faster after it


def test_weights_out_of_the_own_cache_are_not_read_three_times(monkeypatch):
    """Those of the input are then read once, ahead of the walk."""
    monkeypatch.undo()
    for units, steps, raw in ((512, 2, True), (512, 3, False), (128, 3, True)):
        layer = plan.plan_of(lstm, units, units, units, "float32", True)
        way = choice.forward_way(layer, dense(steps, 1))
        assert (way.raw, way.amx_ahead) == (raw, not raw)


def test_other_lengths_compile_nothing(monkeypatch):
    monkeypatch.undo()
    for cached in (plan.plan_of, library):
        cached.cache_clear()
    module, loaded = nn.LSTM(128, 256), []
    with torch.no_grad():
        module(torch.randn(2, 1, 128))  # which reads weights as they lie
        monkeypatch.setattr(jit, "load", lambda *args: loaded.append(args))
        for steps, batch in ((100, 1), (20, 8), (50, 40)):
            module(torch.randn(steps, batch, 128))
    assert not loaded


def test_explain_tells(monkeypatch):
    module, x = nn.LSTM(128, 256), torch.zeros(100, 1, 128)
    assert "by AMX" in cellwright.explain(module, x).layers[0].input
    monkeypatch.setattr(choice, "_projects_by_amx", lambda *_: False)
    assert "by AMX" not in cellwright.explain(module, x).layers[0].input
