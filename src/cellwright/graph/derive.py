"""The derivative of a step, graph to graph: one rule an operation.

The adjoint of a step takes the accumulators, the previous states and the cotangents of the new
states, and gives the gradients of the accumulators, of the previous states' elementwise use, of the
per-unit vectors and of the bare input. Products with weights stay outside: what a state's
projections add to its gradient is Wᵀ times the accumulators' gradients, one step later in the walk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cellwright.graph.accumulate import Step
from cellwright.graph.expr import Expr, const, leaf, node, topological
from cellwright.graph.simplify import simplify

__all__ = ["RULES", "Adjoint", "adjoint"]

Rule = Callable[[Expr, Expr], tuple[Expr | None, ...]]


def _tie(e: Expr, g: Expr, sign: float) -> tuple[Expr, Expr]:
    """Share the gradient of max (sign 1) or min (-1): all to the winner, half and half in a tie."""
    first = 0.5 + (0.5 * sign) * node("sign", (e.args[0] - e.args[1],))
    return g * first, g * (1.0 - first)


RULES: dict[str, Rule] = {
    "add": lambda _, g: (g, g),
    "sub": lambda _, g: (g, -g),
    "mul": lambda e, g: (g * e.args[1], g * e.args[0]),
    "div": lambda e, g: (g / e.args[1], -(g * e / e.args[1])),
    "neg": lambda _, g: (-g,),
    "sigmoid": lambda e, g: (g * (e * (1.0 - e)),),
    "tanh": lambda e, g: (g * (1.0 - e * e),),
    "relu": lambda e, g: (g * node("positive", e.args),),
    "exp": lambda e, g: (g * e,),
    "log": lambda e, g: (g / e.args[0],),
    "sqrt": lambda e, g: (g * 0.5 / e,),
    "abs": lambda e, g: (g * node("sign", e.args),),
    "sign": lambda _e, _g: (None,),
    "positive": lambda _e, _g: (None,),
    "maximum": lambda e, g: _tie(e, g, 1.0),
    "minimum": lambda e, g: _tie(e, g, -1.0),
}
"""For each operation: (node, its cotangent) → the cotangents of its operands, None where 0."""


@dataclass(frozen=True)
class Adjoint:
    """The backward step. A gradient that is None is 0 everywhere.

    Attributes:
        accumulators: gradient of each accumulator's sum.
        states: gradient of each previous state through its elementwise uses.
        vectors: gradient of each per-unit vector, to be summed over steps and rows.
        input: gradient of the bare input.
        expressions: for each projected expression, the ``backproject`` leaf of its gradient.
    """

    step: Step
    accumulators: tuple[Expr, ...]
    states: tuple[Expr | None, ...]
    vectors: Mapping[str, Expr]
    input: Expr | None
    expressions: tuple[Expr, ...]


@lru_cache(maxsize=256)
def adjoint(step: Step) -> Adjoint:
    """Differentiate ``step`` in reverse."""
    cell, expressions = step.cell, step.expressions
    leaves = tuple(leaf("backproject", j) for j in range(len(expressions)))
    gradients: dict[Expr, Expr] = {}
    for state, update in zip(cell.states, step.updates, strict=True):
        _add(gradients, update, leaf("cotangent", state))
    for e in reversed(_order(step)):
        if e in expressions:
            _add(gradients, e, leaves[expressions.index(e)])
        if e.args and e in gradients:
            for arg, gradient in zip(e.args, RULES[e.op](e, gradients[e]), strict=True):
                if gradient is not None and arg.op != "const":
                    _add(gradients, arg, gradient)
    zero = const(0.0)
    accumulators = [leaf("accumulator", k) for k in range(len(step.accumulators))]
    for held, accumulator in zip(accumulators, step.accumulators, strict=True):
        if accumulator.function is not None and held in gradients:
            (through,) = RULES[accumulator.function](held, gradients[held])
            assert through is not None
            gradients[held] = through
    states = [leaf("state", s) for s in cell.states]
    wanted = [*accumulators, *states, *(leaf("vector", v) for v in cell.vectors), leaf("input")]
    found = simplify(gradients.get(e, zero) for e in wanted)
    n, m = len(accumulators), len(states)
    optional = [None if e is zero else e for e in found]
    vectors = dict(zip(cell.vectors, found[n + m : -1], strict=True))
    return Adjoint(
        step=step,
        accumulators=tuple(found[:n]),
        states=tuple(optional[n : n + m]),
        vectors=vectors,
        input=optional[-1],
        expressions=leaves,
    )


def _add(gradients: dict[Expr, Expr], e: Expr, gradient: Expr) -> None:
    gradients[e] = gradients[e] + gradient if e in gradients else gradient


def _order(step: Step) -> list[Expr]:
    """Return all nodes so that an expression stands before the accumulators that it feeds."""
    done: dict[Expr, None] = {}

    def visit(root: Expr) -> None:
        for e in topological([root]):
            if e.op == "accumulator" and e not in done and isinstance(e.value, int):
                for term in step.accumulators[e.value].terms:
                    if term.is_expression:
                        visit(term.source)
            done.setdefault(e)

    for update in step.updates:
        visit(update)
    return list(done)
