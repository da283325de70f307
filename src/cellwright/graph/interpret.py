"""Run a cell with torch operations, on any device, differentiable to any order.

This is the definition of what is right; each compiled kernel is tested against it.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cellwright.graph.expr import Expr, topological
from cellwright.graph.trace import INPUT, Cell

__all__ = ["MEANINGS", "evaluate", "interpret_step"]


def _positive(a: Tensor) -> Tensor:
    return (a > 0).to(a.dtype)


MEANINGS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "sign": torch.sign,
    "positive": _positive,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
"""The meaning of each elementwise operation on tensors."""


def evaluate(roots: Sequence[Expr], leaves: Callable[[Expr, list[Tensor]], Tensor]) -> list[Tensor]:
    """Evaluate ``roots``; ``leaves`` gives the tensor of a node that is no elementwise operation.

    Numbers are 0-dimensional float64 tensors: they take on the other operand's dtype.
    """
    values: dict[Expr, Tensor] = {}
    for e in topological(roots):
        operands = [values[arg] for arg in e.args]
        if e.op == "const":
            values[e] = torch.tensor(e.value, dtype=torch.float64)
        elif e.op in MEANINGS:
            values[e] = MEANINGS[e.op](*operands)
        else:
            values[e] = leaves(e, operands)
    return [values[root] for root in roots]


def interpret_step(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Mapping[str, Tensor],
    biases: Mapping[str, Tensor],
    vectors: Mapping[str, Tensor],
) -> list[Tensor]:
    """Compute one step.

    Args:
        x: input (N, H_in).
        states: previous states, each (N, H_out); the first may be narrower (a projected state).
        weights: for each bundle, the packed weights (gates · H_out, width of the source).
        biases: for each bundle, the packed biases (gates · H_out); a missing one is 0.
        vectors: the per-unit vectors (H_out).

    Returns:
        The new states, each (N, H_out).
    """
    previous = dict(zip(cell.states, states, strict=True))
    projected: dict[tuple[str, Expr], dict[str, Tensor]] = {}

    def project(bundle: str, gate: str, source: Expr, value: Tensor) -> Tensor:
        key = (bundle, source)
        if key not in projected:
            # gates fed by other sources of the same bundle have rows of their own
            gates = [g for g in cell.bundles[bundle] if _source(cell, bundle, g) is source]
            rows = _rows(cell, bundle, gates, weights[bundle])
            bias = _rows(cell, bundle, gates, biases[bundle]) if bundle in biases else None
            product = torch.nn.functional.linear(value, rows, bias)
            projected[key] = dict(zip(gates, product.chunk(len(gates), -1), strict=True))
        return projected[key][gate]

    def leaves(e: Expr, operands: list[Tensor]) -> Tensor:
        if e.op == "project":
            bundle, gate = e.value  # type: ignore[misc]
            return project(bundle, gate, e.args[0], operands[0])
        if e.op == "state":
            return previous[str(e.value)]
        return x if e.op == "input" else vectors[str(e.value)]

    return [_full(v, states[-1]) for v in evaluate(cell.updates, leaves)]


def _full(value: Tensor, like: Tensor) -> Tensor:
    """Give a state its full shape and dtype, also where its equation is a constant or a vector."""
    return value.to(like.dtype).expand(like.shape[0], -1 if value.dim() > 0 else like.shape[1])


def _source(cell: Cell, bundle: str, gate: str) -> Expr | None:
    for e in topological(cell.updates):
        if e.op == "project" and e.value == (bundle, gate):
            return e.args[0]
    return None


def _rows(cell: Cell, bundle: str, gates: list[str], packed: Tensor) -> Tensor:
    names = cell.bundles[bundle]
    if len(gates) == len(names):
        return packed
    blocks = packed.chunk(len(names))
    return torch.cat([blocks[names.index(g)] for g in gates])
