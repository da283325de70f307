"""The closed set of operations that a cell's graph is made of.

Each elementwise operation has one entry here with its arity, its meaning on numbers and how it is
printed; its derivative stands in :mod:`cellwright.graph.derive`, its meaning on tensors in
:mod:`cellwright.graph.interpret`, its MathML in :mod:`cellwright.printing.mathml` and its machine
code in :mod:`cellwright.cpu.vector.vecmath`. A test holds the tables against each other, so an
operation cannot be half added.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ELEMENTWISE", "LEAVES", "Op"]


@dataclass(frozen=True)
class Op:
    """One elementwise operation: arity, value on floats, and templates for print.

    ``by_value``: its derivative follows from its value alone.
    """

    arity: int
    value: Callable[..., float]
    unicode: str
    latex: str
    precedence: int = 9
    by_value: bool = False


def _sigmoid(a: float) -> float:
    return 1.0 / (1.0 + math.exp(-a)) if a >= 0 else math.exp(a) / (1.0 + math.exp(a))


def _sign(a: float) -> float:
    return math.nan if math.isnan(a) else float((a > 0) - (a < 0))


ELEMENTWISE: dict[str, Op] = {
    "add": Op(2, lambda a, b: a + b, "{} + {}", "{} + {}", 1),
    "sub": Op(2, lambda a, b: a - b, "{} − {}", "{} - {}", 1),
    "mul": Op(2, lambda a, b: a * b, "{} ⊙ {}", r"{} \odot {}", 2),
    "div": Op(2, lambda a, b: a / b, "{} / {}", r"\frac{{{}}}{{{}}}", 2),
    "neg": Op(1, lambda a: -a, "−{}", "-{}", 3),
    "sigmoid": Op(1, _sigmoid, "σ({})", r"\sigma({})", by_value=True),
    "tanh": Op(1, math.tanh, "tanh({})", r"\tanh({})", by_value=True),
    "relu": Op(1, lambda a: max(a, 0.0), "relu({})", r"\operatorname{{relu}}({})"),
    "exp": Op(1, math.exp, "exp({})", r"\exp({})", by_value=True),
    "log": Op(1, math.log, "log({})", r"\log({})"),
    "sqrt": Op(1, math.sqrt, "√({})", r"\sqrt{{{}}}"),
    "abs": Op(1, abs, "|{}|", r"\lvert {} \rvert"),
    "sign": Op(1, _sign, "sign({})", r"\operatorname{{sign}}({})"),
    "positive": Op(1, lambda a: float(not a <= 0), "[{} > 0]", r"[{} > 0]"),
    "maximum": Op(2, max, "max({}, {})", r"\max({}, {})"),
    "minimum": Op(2, min, "min({}, {})", r"\min({}, {})"),
}
"""Elementwise operations. ``positive`` is 0 where its argument is at most 0, else 1, also for
nan: the derivative of relu, through which torch lets nan pass."""

LEAVES: dict[str, str] = {
    "const": "a number",
    "input": "the bare input x_t, elementwise",
    "state": "a previous state, elementwise; value: its name",
    "vector": "a learned per-unit vector; value: its name",
    "project": "a projection W·source + b of its one argument; value: (bundle, gate)",
    "accumulator": "a sum of projections, or a function of it, that one accumulator holds; value: "
    "its index",
    "cotangent": "the gradient that reaches a new state; value: its name",
    "backproject": "Wᵀ times the gradients of the gates fed by an expression; value: its index",
    "tile": "an accumulator's matrix product, in the kernel; value: its index in the stage",
    "read": "a load from memory, in the kernel; value: a schedule.Read",
}
"""Operations with a meaning of their own in some stage of the way."""
