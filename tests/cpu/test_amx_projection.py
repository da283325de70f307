"""The input's products that AMX takes ahead of a walk: as the walk would have taken them."""

import pytest
import torch
from tests.cpu.agreement import FORMS, compare, double, make, results, run
from tests.cpu.cells import BUNDLED, CELLS
from tests.cpu.test_threads import BY_UNITS
from tests.tolerance import assert_close

import cellwright
import cellwright.nn as nn
from cellwright.cells import gru, lstm
from cellwright.cpu import choice, forward, plan
from cellwright.cpu.target import host
from cellwright.cpu.walks import dense
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
    monkeypatch.setattr(choice, "_projects_by_amx", lambda layer, *_: layer.dtype == "float32")
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
    for steps in (15, 32, 40):
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
    for place in ("input", "weights"):
        case = make(cell, 40, 20, batch=1, steps=40)
        changed = case.x if place == "input" else case.weights[0].tensors[0]
        changed.view(-1)[changed.numel() // 2] = value
        cotangents = {"output": torch.randn(40, 1, 40)}
        pairs = run(case, cotangents), run(case, cotangents, engine=interpret_layer)
        found, expected = (kept | gradients for kept, gradients in pairs)
        for name, right in expected.items():
            assert torch.equal(found[name].isnan(), right.isnan()), f"{name}, {place}"
            assert_close(found[name].nan_to_num(), right.nan_to_num(), f"{name}, {place}")


@pytest.mark.parametrize("name", ["lstm", "gru", "two_stages"])
@pytest.mark.parametrize("form", [*BY_UNITS, "weights without planes"])
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
    for batch_first in (False, True):
        case = make(lstm, 100, 40, steps=90, batch=10, batch_first=batch_first)
        for _ in range(5):
            agree_on_threads(case, threads=4)


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
    assert not takes(32, 64, 400)
    assert takes(32, 64, 500)
    assert not takes(16, 64, 4000)
    assert not takes(256, 64, 20)
    assert takes(256, 64, 30)  # the clock of a walk with so many weights is faster after it


def test_explain_tells(monkeypatch):
    module, x = nn.LSTM(128, 256), torch.zeros(100, 1, 128)
    assert "by AMX" in cellwright.explain(module, x).layers[0].input
    monkeypatch.setattr(choice, "_projects_by_amx", lambda *_: False)
    assert "by AMX" not in cellwright.explain(module, x).layers[0].input
