"""The adjoint against torch.autograd through the interpreter, in float64."""

import pytest
import torch
from hypothesis import given
from tests.graph.evaluation import ROWS, UNITS, Run, Values
from tests.random_cells import REPRODUCIBLE, cells
from torch import Tensor

import cellwright as cw
from cellwright import Cell, cell
from cellwright.cells import CELLS
from cellwright.graph.accumulate import accumulate
from cellwright.graph.derive import RULES, adjoint
from cellwright.graph.expr import leaf, node
from cellwright.graph.interpret import evaluate, interpret_step
from cellwright.graph.ops import ELEMENTWISE


def check_adjoint(subject: Cell) -> None:
    values = Values.random(subject, gradients=True)
    parts = [values.weights, values.biases, values.vectors]
    new = interpret_step(subject, values.x, list(values.states.values()), *parts)
    generator = torch.Generator().manual_seed(1)
    shape = (ROWS, UNITS)
    cotangents = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in new]
    wanted = torch.autograd.grad(
        new, list(values.all().values()), cotangents, allow_unused=True, materialize_grads=True
    )
    with torch.no_grad():
        run = Run(subject, values)
        run.forward()
        got = run.backward(dict(zip(subject.states, cotangents, strict=True)))
    for (name, gradient), expected in zip(got.items(), wanted, strict=True):
        torch.testing.assert_close(
            gradient,
            expected,
            rtol=1e-10,
            atol=1e-10,
            msg=lambda m, name=name: f"{subject.name}, gradient of {name}: {m}",
        )


@pytest.mark.parametrize("name", CELLS)
def test_the_adjoint_of_bundled_cells(name: str) -> None:
    check_adjoint(CELLS[name])


@REPRODUCIBLE
@given(cells())
def test_the_adjoint_of_random_cells(subject: Cell) -> None:
    check_adjoint(subject)


def test_the_gradient_of_a_projected_expression_comes_through_its_gates() -> None:
    @cell
    def twice(x, h):
        r = cw.sigmoid(x.r + h.r)
        n = cw.tanh(x.n + (r * h).n)
        m = cw.tanh((r * h).m + (n * r).k)
        return n + m * h

    derived = adjoint(accumulate(twice))
    assert [e.op for e in derived.expressions] == ["backproject", "backproject"]
    check_adjoint(twice)


def test_a_projected_accumulator_gets_both_gradients() -> None:
    @cell
    def deep(x, h):
        a = x.a + h.a
        return cw.tanh(a.b) * cw.sigmoid(a)

    check_adjoint(deep)


@pytest.mark.parametrize("name", [name for name, op in ELEMENTWISE.items() if op.by_value])
def test_rules_by_value_need_no_operand(name: str) -> None:
    held, g = leaf("accumulator", 0), leaf("cotangent", "h")
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    value = getattr(torch, name)(x)
    (expected,) = torch.autograd.grad(value.sum(), x)
    (rule,) = RULES[name](held, g)
    leaves = {held: value.detach(), g: torch.ones_like(value)}
    (found,) = evaluate([rule], lambda e, _: leaves[e])
    torch.testing.assert_close(found, expected)


def test_what_no_new_state_reads_has_no_gradient() -> None:
    @cell
    def forgetful(x, h, c):
        return cw.tanh(x.h + h.h), cw.tanh(x.c)

    derived = adjoint(accumulate(forgetful))
    assert derived.states == (None, None)
    assert derived.input is None


def test_a_tie_shares_the_gradient_as_torch_does() -> None:
    a, b = leaf("state", "h"), leaf("state", "c")
    g = leaf("cotangent", "h")
    same = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    other = torch.tensor([1.0, 5.0, -1.0], dtype=torch.float64)
    values = {a: same, b: other, g: torch.tensor([0.7, 0.7, 0.7], dtype=torch.float64)}
    for op in ("maximum", "minimum"):
        parts = RULES[op](node(op, (a, b)), g)
        got = evaluate([p for p in parts if p is not None], lambda e, _: values[e])
        left, right = same.clone().requires_grad_(), other.clone().requires_grad_()
        getattr(torch, op)(left, right).backward(values[g])
        torch.testing.assert_close(got, [left.grad, right.grad])


@pytest.mark.parametrize("op", sorted(ELEMENTWISE))
def test_each_rule_is_the_derivative_of_its_meaning(op: str) -> None:
    generator = torch.Generator().manual_seed(3)
    operands = [leaf("state", f"s{k}") for k in range(ELEMENTWISE[op].arity)]
    drawn = torch.rand((len(operands), 50), generator=generator, dtype=torch.float64) * 3 - 1.5
    drawn = drawn.abs() + 0.1 if op in ("log", "sqrt") else drawn
    values = dict(zip(operands, drawn, strict=True))
    g = leaf("cotangent", "h")
    values[g] = torch.randn(50, generator=generator, dtype=torch.float64)
    e = node(op, tuple(operands))
    for variable, rule in zip(operands, RULES[op](e, g), strict=True):
        values[variable] = values[variable].clone().requires_grad_()
        (out,) = evaluate([e], lambda found, _: values[found])
        expected = torch.zeros(50, dtype=torch.float64)
        if out.requires_grad:
            (expected,) = torch.autograd.grad(out, values[variable], values[g])
        with torch.no_grad():
            got: Tensor = expected * 0
            if rule is not None:
                (got,) = evaluate([rule], lambda found, _: values[found])
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_softplus_has_slope_one_half_at_zero() -> None:
    @cell
    def soft(x, h):
        return cw.softplus(x.a + h.a)

    values = Values.random(soft)
    for part in (values.x, *values.states.values(), *values.biases.values()):
        part.zero_()  # as a first step after a zero input: every pre-activation is exactly 0
    run = Run(soft, values)
    run.forward()
    ones = torch.ones(ROWS, UNITS, dtype=torch.float64)
    gradient = run.backward({"h": ones})["biases x"]
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.5 * ROWS))
