"""The short way of a call that is as one before it was in all but values.

What a call of a small layer takes is mostly Python that finds out what it is. Here one look at all
of its tensors tells that it is what it was before, and what was found out then still holds.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cellwright.autograd.gradient import Call, differentiate, gradients, prepared, ready
from cellwright.autograd.guard import Guard, guard
from cellwright.autograd.obstacle import backward_obstacle, forward_derivatives, obstacle
from cellwright.autograd.operation import apply, plan_for
from cellwright.cpu.backward import BackwardCall
from cellwright.cpu.forward import ForwardCall, forward_call, no_gaps
from cellwright.cpu.plan import Rows
from cellwright.cpu.team import Team
from cellwright.cpu.walks import dense
from cellwright.graph.cell import Cell
from cellwright.graph.interpret import Weights

__all__ = ["Repeat", "repeat"]


def repeat(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Weights],
    hidden_size: int,
) -> "Repeat | None":
    """Return what takes further calls like this one, or None if they have no short way.

    Args:
        cell: the cell.
        x: the input (L, N, H_in), of a call that was run.
        states: the initial states (D, N, H_out), or ().
        weights: of each direction.
        hidden_size: H_out.
    """
    rows = Rows(x, dense(x.shape[0], x.shape[1]))
    given = Call.join(x, states, weights)
    if not (rows.in_order(x) and no_gaps(given[1:])) or obstacle(x, weights, states) is not None:
        return None
    tensors, plan = _distinct(given), plan_for(cell, x, weights, hidden_size)
    alike = guard(tensors)
    if alike is None or plan is None:
        return None
    call = Call(plan, rows, None, bool(states), [w.form for w in weights])
    return Repeat(call, any(t.requires_grad for t in tensors), alike)


def _distinct(tensors: Sequence[Any]) -> Sequence[Any]:
    """Put a view for each tensor that stands here a second time: a guard takes each only once."""
    first = {id(t): k for k, t in reversed([*enumerate(tensors)])}
    if len(first) == len(tensors) or not all(isinstance(t, Tensor) for t in tensors):
        return tensors
    return [t if first[id(t)] == k else t.view_as(t) for k, t in enumerate(tensors)]


class Repeat:
    """A call over a dense batch, as one before it was in all but values.

    Args:
        call: the call. asks: whether any of its tensors asks for a gradient.
        alike: what tells whether others are like them.
    """

    def __init__(self, call: Call, asks: bool, alike: Guard) -> None:
        self.call = call
        self.threads = Team.threads()
        self._asks, self._alike, self._count = asks, alike, call.arity
        self._saved_alike: Guard | None = None
        self._prepared: list[ForwardCall | None] = [None, None]
        self._derived: list[BackwardCall | None] = [None, None]

    def __call__(self, *tensors: Any) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Return the output and the final states; None if this is another kind of call.

        Args:
            tensors: x, the parameters, the initial states; what is no tensor is another kind.
        """
        if len(tensors) != self._count:
            return None
        given: Sequence[Any] = tensors
        if not self._alike(*tensors):
            given = _distinct(tensors)
            if given is tensors or not self._alike(*given):
                return None
        if Team.threads() != self.threads or forward_derivatives():
            return None
        if self._asks and torch.is_grad_enabled():
            out, *finals = apply(self, *given)
            return out, tuple(finals)
        return self.forward(given, keep=False)[:2]

    def forward(
        self, tensors: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Return the output, the final states and what is kept for the backward pass."""
        call, found = self.call, self._prepared[keep]
        if found is None:
            found = forward_call(call.plan, call.rows, len(call.forms), keep)
            self._prepared[keep] = found
        return found(tensors, call.given, call.rows)

    def differentiate(
        self, needs: Sequence[bool], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the gradients of the call's tensors, as ``gradient.differentiate`` does."""
        call, alike = self.call, self._saved_alike
        if backward_obstacle(cotangents) is not None:
            return differentiate(call, needs, saved, cotangents)
        if alike is not None and alike(*saved):
            backward = self._backward(needs[0])
            return gradients(backward, call.rows, self._count, saved, cotangents)
        done = differentiate(call, needs, saved, cotangents)
        self._saved_alike = guard(saved) if ready(call, saved) else None
        return done

    def _backward(self, want_x: bool) -> BackwardCall:
        """Return what computes the gradients, of the input too if ``want_x``."""
        if Team.threads() != self.threads:
            return prepared(self.call, want_x)
        found = self._derived[want_x]
        if found is None:
            found = self._derived[want_x] = prepared(self.call, want_x)
        return found
