"""The backward pass of a layer: a walk for each direction, then matrix products.

The walk leaves the gradient of every accumulator at every step. What needs no order in time
follows from it in a few products over all steps at once: the gradients of weights and input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cellwright.cpu.direction import Direction
from cellwright.cpu.direction_products import DirectionProducts
from cellwright.cpu.plan import Kept, Plan, Rows
from cellwright.cpu.walks import Layout
from cellwright.graph.interpret import Weights

__all__ = ["Gradients", "backward_layer"]


@dataclass
class Gradients:
    """Gradients of one layer; None where not wanted."""

    x: Tensor | None
    states: list[Tensor]
    weights: list[Weights]


def backward_layer(
    plan: Plan,
    layout: Layout,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    out: Tensor,
    kept: Sequence[Kept],
    dy: Tensor | None,
    dfinals: Sequence[Tensor | None],
    want_x: bool,
    last: bool,
) -> Gradients:
    """Return the gradients of everything that went into ``forward_layer``.

    Args:
        plan: the layer.
        layout: how the rows of ``x`` lie.
        x: the input.
        states: the initial states, or None.
        weights: the parameters of each direction.
        out: the output of the forward pass.
        kept: what the forward pass kept of each direction.
        dy: cotangent of the output, or None for 0.
        dfinals: cotangent of each final state (D, N, H), or None for 0.
        want_x: whether the input's gradient is wanted.
        last: whether ``kept`` is not needed again, so that its memory may be written over.
    """
    D, H, N = len(weights), plan.outputs, layout.batch
    rows = Rows(x, layout)
    widths = map(plan.width, plan.cell.states)
    pairs = zip(dfinals, widths, strict=True)
    dstates = [x.new_zeros(D, N, width) if g is None else _copy(g) for g, width in pairs]
    if dy is not None and dy.stride(-1) != 1:
        dy = dy.contiguous()
    outputs = rows.matrix(out)
    dx: Tensor | None = None
    found: list[Weights] = []
    for d, held in enumerate(weights):
        one = Direction(plan, rows, x, held, d == 1, kept[d], last)
        own = dstates if D == 1 else [g[d] for g in dstates]
        if states is not None:
            one.initial = [s[d] for s in states]
        one.walk(_half(outputs, d, D, H), None if dy is None else _half(dy, d, D, H), own)
        if states is not None:
            one.add_state_gradients([g[d] for g in dstates])
        gradients, dx = DirectionProducts(one).gradients(dx, want_x)
        found.append(gradients)
    return Gradients(None if dx is None else rows.sequence(dx), dstates, found)


def _half(t: Tensor, d: int, directions: int, width: int) -> Tensor:
    """Return the part of an output that belongs to direction ``d``."""
    return t if directions == 1 else t.narrow(-1, d * width, width)


def _copy(t: Tensor) -> Tensor:
    return t.clone(memory_format=torch.contiguous_format)
