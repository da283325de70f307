"""The short way of a call that is as one before it was in all but values.

What a call of a small layer takes is mostly Python that finds out what it is. Here one look at all
of its tensors tells that it is what it was before, and what was found out then still holds.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cellwright.autograd.gradient import Call, differentiate, keeps_graph, without_zeros
from cellwright.autograd.guard import Guard, guard
from cellwright.autograd.obstacle import backward_obstacle, forward_derivatives, obstacle
from cellwright.autograd.operation import function, plan_for
from cellwright.cpu.plan import Rows
from cellwright.cpu.prepared import Prepared, no_gaps, prepare
from cellwright.cpu.prepared_backward import prepare_backward
from cellwright.cpu.team import Team
from cellwright.cpu.walks import dense
from cellwright.errors import CompileError
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
        x: the input (L, N, H_in).
        states: the initial states (D, N, H_out), or ().
        weights: of each direction.
        hidden_size: H_out.
    """
    if obstacle(x, weights, states) is not None:
        return None
    rows = Rows(x, dense(x.shape[0], x.shape[1]))
    tensors = [x, *(t for w in weights for t in w.tensors), *states]
    if not (rows.in_order(x) and no_gaps(tensors[1:])):
        return None
    alike, plan = guard(tensors), plan_for(cell, x, weights, hidden_size)
    if alike is None or plan is None:
        return None
    threads = Team.threads()
    try:
        plain, keeping = (prepare(plan, rows, len(weights), threads, k) for k in (False, True))
    except CompileError:
        return None  # of which the call itself has warned
    if plain is None or keeping is None:
        return None
    call = Call(plan, rows, None, bool(states), [w.form for w in weights])
    return Repeat(call, tensors, alike, threads, plain, keeping)


class Repeat:
    """A call over a dense batch, as one before it was in all but values.

    Args:
        call: the call.
        tensors: of that one before: x, the parameters of each direction, the initial states.
        alike: what tells whether others are like them. threads: torch's setting.
        plain, keeping: the forward call without and with what the backward pass needs.
    """

    def __init__(
        self,
        call: Call,
        tensors: Sequence[Tensor],
        alike: Guard,
        threads: int,
        plain: Prepared,
        keeping: Prepared,
    ) -> None:
        self.call, self.keeping = call, keeping
        self._plain, self._threads, self._alike = plain, threads, alike
        self._count = len(tensors)
        self._asks = any(t.requires_grad for t in tensors)
        self._saved_alike: Guard | None = None

    def __call__(self, *tensors: Any) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Return the output and the final states; None if this is another kind of call.

        Args:
            tensors: x, the parameters, the initial states; what is no tensor is another kind.
        """
        if (
            len(tensors) != self._count
            or not self._alike(*tensors)
            or Team.threads() != self._threads
            or forward_derivatives()
        ):
            return None
        if self._asks and torch.is_grad_enabled():
            out, *finals = _apply(self, *tensors)
            return out, tuple(finals)
        return self._plain(tensors, self.call.given)[:2]

    def differentiate(
        self, needs: Sequence[bool], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the gradients of the call's tensors, as ``gradient.differentiate`` does."""
        call, alike, count = self.call, self._saved_alike, self._count
        if alike is not None and alike(*saved) and backward_obstacle(cotangents) is None:
            directions, threads = len(call.forms), Team.threads()
            short = prepare_backward(
                call.plan, call.rows, directions, threads, call.given, needs[0]
            )
            if short is not None:
                kept, ends = saved[count + 1 :], without_zeros(cotangents)
                return short(saved[:count], saved[count], kept, ends, not keeps_graph())
        found = differentiate(call, needs, saved, cotangents)
        self._saved_alike = guard(saved) if self._fits(saved) else None
        return found

    def _fits(self, saved: Sequence[Tensor]) -> bool:
        """Whether what was saved lies as a prepared call takes it."""
        x, out = saved[0], saved[self._count]
        others = (*saved[1 : self._count], *saved[self._count + 1 :])
        return all(map(self.call.rows.in_order, (x, out))) and no_gaps(others)


class _Repeated(torch.autograd.Function):
    """A layer whose call has a short way."""

    @staticmethod
    def forward(ctx: Any, repeat: Repeat, *tensors: Tensor) -> tuple[Tensor, ...]:
        out, finals, inner = repeat.keeping(tensors, repeat.call.given)
        ctx.repeat = repeat
        ctx.save_for_backward(*tensors, out, *inner)
        ctx.set_materialize_grads(False)
        return out, *finals

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad[1:]
        return None, *ctx.repeat.differentiate(needs, ctx.saved_tensors, cotangents)


_apply = function(_Repeated)
