"""The short way of a call that is as one before it was in all but values.

What a call of a small layer takes is mostly Python that finds out what it is. Here one look at all
of its tensors tells that it is what it was before, and what was found out then still holds.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellwright.autograd.autocast import autocasts
from cellwright.autograd.function import Widened, apply
from cellwright.autograd.gradient import Call, differentiate, gradients, plain, prepared, ready
from cellwright.autograd.guard import Guard, guard
from cellwright.autograd.obstacle import (
    HALF_NAMES,
    backward_obstacle,
    forward_derivatives,
    obstacle,
)
from cellwright.autograd.operation import (
    Forward,
    Tensors,
    autocast_tensors,
    forward_of,
    plan_for,
    reads,
)
from cellwright.cpu.call.backward import BackwardCall
from cellwright.cpu.call.forward import no_gaps
from cellwright.cpu.call.plan import Rows
from cellwright.cpu.call.team import Team
from cellwright.cpu.call.walks import dense
from cellwright.graph.cell import Cell
from cellwright.graph.interpret import Weights

__all__ = ["Repeat", "repeat"]


def repeat(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Weights],
    hidden_size: int,
    lowered: torch.dtype | None = None,
) -> "Repeat | None":
    """Return what takes further calls like this one, or None if they have no short way.

    Args:
        cell: the cell.
        x: the input (L, N, H_in), of a call that was run.
        states: the initial states (D, N, H_out), or ().
        weights: of each direction.
        hidden_size: H_out.
        lowered: the dtype that autocast lowers the call to as a whole, if it does.
    """
    rows = Rows(x, dense(x.shape[0], x.shape[1]))
    given = Call.join(x, states, weights)
    if not (rows.in_order(x) and no_gaps(given[1:])) or obstacle(x, weights, states) is not None:
        return None
    taken: Tensors = x, states or None, weights
    under = None
    if autocasts():
        found = autocast_tensors(cell, taken, rows.layout, hidden_size, lowered)
        if found is None:
            return None
        taken, results = found
        under = _Autocast(results, lowered)
    plan = plan_for(cell, *taken, hidden_size, rows.layout.batch)
    if plan is None or not reads(plan, taken[0].dtype):
        return None
    alike = guard(_distinct(given))
    if alike is None:
        return None
    call = Call(plan, rows, None, bool(states), [w.form for w in weights])
    return Repeat(call, any(t.requires_grad for t in given), alike, taken[0].dtype, under)


def _distinct(tensors: Sequence[Any]) -> Sequence[Any]:
    """Put a view for each tensor that stands here a second time: a guard takes each only once."""
    first = {id(t): k for k, t in reversed([*enumerate(tensors)])}
    if len(first) == len(tensors) or not all(isinstance(t, Tensor) for t in tensors):
        return tensors
    return [t if first[id(t)] == k else t.view_as(t) for k, t in enumerate(tensors)]


def _told(alike: Guard, tensors: Sequence[Any]) -> Sequence[Any] | None:
    """Return the tensors if they are alike, with a view for each that stands twice; else None."""
    if alike(*tensors):
        return tensors
    distinct = _distinct(tensors)
    return None if distinct is tensors or not alike(*distinct) else distinct


class _Derivative(NamedTuple):
    """What computes gradients, and what tells whether saved tensors and cotangents are for it."""

    alike: Guard
    call: BackwardCall


class _Autocast:
    """The autocast that a call is made under.

    Args:
        results: the dtypes of its results.
        lowered: the dtype that the call is lowered to as a whole, if it is.
    """

    def __init__(self, results: Sequence[torch.dtype], lowered: torch.dtype | None) -> None:
        self.results, self.lowered = results, lowered
        self._lower, self._grad = torch.get_autocast_dtype("cpu"), torch.is_grad_enabled()

    def holds(self) -> bool:
        """Whether what no guard sees is as it was: what is lowered to, and grad mode."""
        same = torch.get_autocast_dtype("cpu") is self._lower
        return same and torch.is_grad_enabled() is self._grad


class Repeat:
    """A call over a dense batch, as one before it was in all but values.

    ``reads_output``: see ``Differentiable``.

    Args:
        call: the call. asks: whether any of its tensors asks for a gradient.
        alike: what tells whether others are like them. dtype: what kernels take them in.
        under: the autocast that it is made under, if it is.
    """

    reads_output = True

    def __init__(
        self, call: Call, asks: bool, alike: Guard, dtype: torch.dtype, under: _Autocast | None
    ) -> None:
        self.call, self.dtype, self._under = call, dtype, under
        self.lowered = None if under is None else under.lowered
        self.threads = Team.threads()
        self._asks, self._alike, self._count = asks, alike, call.arity
        self._prepared: list[Forward | None] = [None, None]
        self._widened: Widened | None = None
        if dtype in HALF_NAMES:
            self._widened = Widened(self, [dtype] * (1 + len(call.plan.cell.states)))
        # the last two of each kind: cotangents of a sum and others may come in turns
        self._derivatives: dict[tuple[int, ...], tuple[_Derivative, ...]] = {}

    def __deepcopy__(self, memo: object) -> "Repeat":
        """Return itself, for it has nothing of the module that it is a call of."""
        return self

    def __call__(self, *tensors: Any) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Return the output and the final states; None if this is another kind of call.

        Args:
            tensors: x, the parameters, the initial states; what is no tensor is another kind.
        """
        if len(tensors) != self._count:
            return None
        given = _told(self._alike, tensors)
        if given is None:
            return None
        if Team.threads() != self.threads or forward_derivatives():
            return None
        if self._under is None:
            return self._run(given)
        if not self._under.holds():
            return None
        dtype = self.dtype
        made, ends = self._run([t if t.dtype is dtype else t.to(dtype) for t in given])
        out, *finals = map(Tensor.to, (made, *ends), self._under.results)
        return out, tuple(finals)

    def _run(self, given: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the results of tensors as kernels take them."""
        if self._asks and torch.is_grad_enabled():
            out, *finals = apply(self._widened or self, *given)
            return out, tuple(finals)
        return self.forward(given, keep=False)[:2]

    def forward(
        self, tensors: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Return the output, the final states and what is kept for the backward pass."""
        call, found = self.call, self._prepared[keep]
        if found is None:
            dtype = tensors[0].dtype  # with what is kept, half precision comes widened
            found = forward_of(call.plan, call.rows, len(call.forms), keep, dtype)
            self._prepared[keep] = found
        return found(tensors, call.given, call.rows)

    def differentiate(
        self, needs: Sequence[bool], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the gradients of the call's tensors, as ``gradient.differentiate`` does."""
        kind = (Team.threads(), *[g is None for g in cotangents])
        tensors = (*saved, *[g for g in cotangents if g is not None])
        known = self._derivatives.get(kind, ())
        for one in () if torch.is_grad_enabled() else known:
            if _told(one.alike, tensors) is not None:
                return gradients(one.call, self.call.rows, self._count, saved, cotangents)
        done = differentiate(self.call, needs, saved, cotangents)
        if backward_obstacle(cotangents) is None and ready(self.call, saved) and plain(cotangents):
            alike = guard(_distinct(tensors))
            if alike is not None:
                made = _Derivative(alike, prepared(self.call, needs[0]))
                self._derivatives[kind] = (made, *known[:1])
        return done
