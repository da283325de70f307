"""Layers whose output is narrower than their units: a projection after each step."""

import pytest
import torch
from tests.cpu.agreement import FORMS, compare, make, results, run
from tests.cpu.cells import NARROW
from tests.cpu.test_derivatives import checkable
from tests.tolerance import assert_close
from torch.autograd import gradcheck

from cellwright.cells import lstm
from cellwright.cpu.call import choice, plan
from cellwright.cpu.call.walks import dense
from cellwright.graph.accumulate import accumulate
from cellwright.graph.cell import projected

each_cell = pytest.mark.parametrize("name", NARROW)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_cell
@pytest.mark.parametrize("form", FORMS)
def test_forms(name, form, dtype):
    compare(make(NARROW[name], dtype=dtype, outputs=5, **FORMS[form]))


@each_cell
@pytest.mark.parametrize(
    ("hidden", "outputs", "inputs"), [(2, 1, 1), (17, 16, 3), (65, 17, 20), (130, 129, 3)]
)
def test_sizes(name, hidden, outputs, inputs):
    for form in ("one row", "two rows, both ways", "one step of one row", "packed, both ways"):
        compare(make(NARROW[name], hidden, inputs, outputs=outputs, **FORMS[form]))


@each_cell
@pytest.mark.parametrize("of", ["output", "final"])
@pytest.mark.parametrize("form", ["time first", "zeros, both ways", "packed, both ways"])
def test_cotangents_of_some_results(name, of, form):
    compare(make(NARROW[name], outputs=5, **FORMS[form]), of)


@pytest.mark.parametrize("name", [n for n in NARROW if n != "rnn_relu"])
@pytest.mark.parametrize("form", [{"directions": 2, "steps": 3, "batch": 2}, {"lengths": (3, 2)}])
def test_gradcheck(name, form):
    function, inputs = checkable(NARROW[name], outputs=2, **form)
    assert gradcheck(function, inputs)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("form", [{"batch": 1}, {"batch": 3, "directions": 2}, {"batch": 41}])
def test_threads_that_share_units(threads, form, monkeypatch):
    monkeypatch.setattr(choice, "_UNITS_FROM", 0)  # as for weights of many MiB
    case = make(lstm, 330, 17, outputs=150, **form)
    cotangents = {name: torch.randn_like(t) for name, t in results(case).items()}
    alone = run(case, cotangents)
    torch.set_num_threads(threads)
    try:
        layer = plan.plan_of(projected(lstm), 17, 330, 150, "float32", True)
        assert choice.share_of(layer, dense(*case.x.shape[:2])) == (threads, True)
        found = run(case, cotangents)
    finally:
        torch.set_num_threads(1)
    for ours, expected in zip(found, alone, strict=True):
        for name, tensor in expected.items():
            assert_close(ours[name], tensor, name)


def test_the_work_is_that_of_the_weights():
    layer = plan.plan_of(projected(lstm), 3, 20, 7, "float32", True)
    assert layer.work == 4 * 20 * (3 + 7) + 7 * 20
    assert layer.shapes == [(80, 3), (80, 7), (80,), (80,), (7, 20)]
    assert layer.accumulators == 4 * 20 + 7


@each_cell
def test_the_projection_has_a_stage_of_its_own(name):
    before, after = accumulate(NARROW[name]), accumulate(projected(NARROW[name]))
    assert (after.stages, after.rounds) == (before.stages + 1, before.stages)
    assert [a.stage for a in after.accumulators if a.narrow] == [before.stages]
    assert after.accumulators[-1].narrow
