"""Constant folding and neutral elements. Common terms are shared by construction of the nodes."""

import math
from collections.abc import Iterable

from cellwright.graph.expr import Expr, const, substitute
from cellwright.graph.ops import ELEMENTWISE

__all__ = ["simplify"]


def simplify(roots: Iterable[Expr]) -> list[Expr]:
    """Return ``roots`` with constants folded and neutral elements dropped.

    Products with 0 stay: 0 · nan is nan, as it is in torch. The one liberty is the sign of a zero:
    -0 + 0 is left -0.
    """
    return substitute(roots, _rule)


def _rule(e: Expr) -> Expr | None:
    if e.op not in ELEMENTWISE:
        return None
    numbers = [_number(arg) for arg in e.args]
    known = [n for n in numbers if n is not None]
    if len(known) == len(numbers):
        return _fold(e.op, known)
    if e.op == "neg" and e.args[0].op == "neg":
        return e.args[0].args[0]
    if len(e.args) == 2:
        return _neutral(e, numbers[0], numbers[1])
    return None


def _fold(op: str, numbers: list[float]) -> Expr | None:
    if not all(map(math.isfinite, numbers)):  # Python's max(1, nan) is 1, the machine's is nan
        return None
    try:
        value = ELEMENTWISE[op].value(*numbers)
    except (ArithmeticError, ValueError):  # 1/0, log(-1): leave it to the machine's inf and nan
        return None
    return const(value) if math.isfinite(value) else None


def _neutral(e: Expr, left: float | None, right: float | None) -> Expr | None:
    a, b = e.args
    match e.op:
        case "add":
            return b if left == 0.0 else a if right == 0.0 else None
        case "sub":
            return a if right == 0.0 else None  # 0 - b is no -b: 1/(0 - 0) is inf
        case "mul":
            return b if left == 1.0 else a if right == 1.0 else None
        case "div":
            return a if right == 1.0 else None
    return None


def _number(e: Expr) -> float | None:
    return e.value if e.op == "const" and isinstance(e.value, float) else None
