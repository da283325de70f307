"""Folding changes no value that torch would show, nan and infinity included."""

import math

import pytest
import torch

from cellwright.graph.expr import Expr, const, leaf, node
from cellwright.graph.interpret import evaluate
from cellwright.graph.simplify import simplify

H = leaf("state", "h")
SPECIAL = torch.tensor(
    [0.0, -0.0, 1.0, -2.5, math.inf, -math.inf, math.nan, 1e308], dtype=torch.float64
)


def simple(e: Expr) -> Expr:
    return simplify([e])[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (H + 0.0, H),
        (0.0 + H, H),
        (H - 0.0, H),
        (H * 1.0, H),
        (1.0 * H, H),
        (H / 1.0, H),
        (node("neg", (-H,)), H),
        (const(2) * const(3) + H, const(6) + H),
        (node("tanh", (const(0),)) + H, H),
        (node("sqrt", (const(4),)) * H, const(2) * H),
        ((H + 0.0) * (const(0.5) + const(0.5)), H),
        (node("maximum", (const(1), const(2))) * H, const(2) * H),
    ],
    ids=repr,
)
def test_what_is_folded(before: Expr, after: Expr) -> None:
    assert simple(before) is after


@pytest.mark.parametrize(
    "kept",
    [
        0.0 * H,
        H * 0.0,
        H - H,
        H / H,
        0.0 / H,
        0.0 - H,
        H * -1.0,
        const(1) / const(0),
        node("log", (const(-1),)),
        node("exp", (const(1000),)),
        node("maximum", (const(1), const(math.nan))),
        node("minimum", (const(math.nan), const(1))),
        node("relu", (const(math.nan),)),
        const(math.inf) - const(math.inf),
        node("project", (H,), ("h", "a")),
    ],
    ids=repr,
)
def test_what_is_not_folded(kept: Expr) -> None:
    assert simple(kept) is kept


@pytest.mark.parametrize("number", [0.0, 1.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "maximum", "minimum"])
@pytest.mark.parametrize("left", [True, False])
def test_no_value_changes(op: str, number: float, left: bool) -> None:
    args = (const(number), H) if left else (H, const(number))
    before = node(op, args)

    def value(e: Expr) -> torch.Tensor:
        return evaluate([e], lambda *_: SPECIAL)[0]

    torch.testing.assert_close(value(simple(before)), value(before), rtol=0, atol=0, equal_nan=True)


def test_constants_are_the_same_node_only_if_the_same_number() -> None:
    assert const(0.0) is not const(-0.0)
    assert const(math.nan) is const(math.nan)
    assert const(1) is const(1.0)


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown operation 'swish' of 1 arguments"):
        node("swish", (H,))
    with pytest.raises(ValueError, match=r"unknown operation 'add' of 1 arguments"):
        node("add", (H,))
