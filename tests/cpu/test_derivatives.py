"""Derivatives of any order against finite differences."""

import pytest
import torch
from tests.cpu.agreement import apply, flatten, make, results
from tests.cpu.cells import CELLS, SQUARE
from torch.autograd import gradcheck, gradgradcheck

from cellwright import InterpreterWarning
from cellwright.cells import gru, lstm

# at a kink, finite differences see both sides
SMOOTH = [name for name in CELLS if name != "rnn_relu"]
FORMS = {
    "both ways": {"directions": 2, "steps": 3, "batch": 2},
    "packed": {"lengths": (3, 2, 2), "directions": 2},
    "zeros, batch first": {"given": False, "steps": 2, "batch": 2, "batch_first": True},
}


def checkable(cell, **form):
    """Return a function of a list of tensors, and those tensors."""
    case = make(cell, 3, 3 if cell.name in SQUARE else 2, dtype=torch.float64, **form)
    inputs = list(flatten(case).values())

    def function(*tensors):
        given = iter(tensors)
        return tuple(results(apply(case, lambda _: next(given))).values())

    order = _order(case, inputs)
    for tensor in order:
        tensor.requires_grad_()
    return function, order


def _order(case, inputs):
    """Return the tensors in the order in which ``apply`` changes them."""
    order = []
    apply(case, lambda t: order.append(t) or t)
    assert {id(t) for t in order} == {id(t) for t in inputs}
    return order


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(name, form):
    function, inputs = checkable(CELLS[name], **FORMS[form])
    assert gradcheck(function, inputs)


@pytest.mark.parametrize("name", ["rnn_tanh", "gru", "lstm", "peephole"])
def test_gradgradcheck(name):
    function, inputs = checkable(CELLS[name], steps=2, batch=2)
    with pytest.warns(InterpreterWarning, match="differentiated again"):
        assert gradgradcheck(function, inputs)


def test_gradient_of_a_gradient_of_some_results():
    for cell, chosen in ((lstm, 2), (gru, 0)):
        function, inputs = checkable(cell, steps=2, batch=2)
        loss = function(*inputs)[chosen].square().sum()
        with pytest.warns(InterpreterWarning, match="differentiated again"):
            (first,) = torch.autograd.grad(loss, inputs[:1], create_graph=True)
        second = torch.autograd.grad(first.square().sum(), inputs, allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in second)
