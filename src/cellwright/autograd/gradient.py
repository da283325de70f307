"""The gradients of a call: the derived walks, or the interpreter."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cellwright.autograd.obstacle import DTYPE_NAMES, backward_obstacle
from cellwright.cpu.backward import backward_layer
from cellwright.cpu.plan import Kept, Plan, Rows
from cellwright.cpu.prepared import no_gaps
from cellwright.cpu.prepared_backward import prepare_backward
from cellwright.cpu.team import Team
from cellwright.errors import InterpreterWarning
from cellwright.graph.cell import Cell
from cellwright.graph.interpret import Form, Weights, interpret_layer

__all__ = ["Call", "contiguous_rows", "differentiate", "keeps_graph", "warn", "without_zeros"]

keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)
"""Whether the backward pass under way was told to keep its graph for another one."""


class Call(NamedTuple):
    """What a call of a layer is besides its tensors: x, all parameters, then the initial states."""

    plan: Plan
    rows: Rows  # the order of rows in what the forward pass keeps
    batch_sizes: list[int] | None
    given: bool  # whether there are initial states
    forms: list[Form]  # of each direction

    def split(
        self, tensors: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor] | None, list[Weights]]:
        """Return x, the initial states, and the parameters of each direction."""
        each = len(self.plan.shapes)
        weights = [
            Weights(form, tensors[1 + d * each : 1 + (d + 1) * each])
            for d, form in enumerate(self.forms)
        ]
        return tensors[0], tensors[1 + len(weights) * each :] if self.given else None, weights


def contiguous_rows(
    x: Tensor, states: Sequence[Tensor] | None, weights: Sequence[Weights]
) -> tuple[Tensor, Sequence[Tensor] | None, Sequence[Weights]]:
    """Make rows contiguous where they are not: kernels read rows as they lie."""
    if x.stride(-1) != 1:
        x = x.contiguous()
    if states is not None and any(s.stride(-1) != 1 for s in states):
        states = [s.contiguous() for s in states]
    if any(t.stride(-1) != 1 for w in weights for t in w.tensors):
        weights = [Weights(w.form, [t.contiguous() for t in w.tensors]) for w in weights]
    return x, states, weights


def differentiate(
    call: Call,
    needs: Sequence[bool],
    saved: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
) -> Sequence[Tensor | None]:
    """Return the gradients of a call's tensors.

    Args:
        call: the call.
        needs: which of its tensors ask for a gradient.
        saved: its tensors, its output, and what the forward pass kept.
        cotangents: of the output and of the final states; None is 0.

    Raises:
        RuntimeError: what was saved is no longer as the forward pass saw it.
    """
    tensors = saved[: len(needs)]
    cause = backward_obstacle(cotangents)
    if cause is not None:
        return _interpreted(call, needs, tensors, cotangents, cause)
    out, *inner = saved[len(needs) :]
    return _backward(call, tensors, out, inner, cotangents, needs[0])


def _backward(
    call: Call,
    tensors: Sequence[Tensor],
    out: Tensor,
    inner: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    want_x: bool,
) -> Sequence[Tensor | None]:
    """Run the backward walks, the short way where that is open; gradients as ``tensors`` are."""
    plan, rows, last = call.plan, call.rows, not keeps_graph()
    x, states, weights = call.split(tensors)
    _check_saved(call, x, weights, (*tensors, out, *inner))
    cotangents = without_zeros(cotangents)
    if rows.layout.counts is None:
        short = prepare_backward(plan, rows, len(weights), Team.threads(), call.given, want_x)
        in_order = rows.in_order(x) and rows.in_order(out)
        if short is not None and in_order and no_gaps((*tensors[1:], *inner)):
            return short(tensors, out, inner, cotangents, last)
        if Rows(x, rows.layout).batch_first != rows.batch_first:
            x = rows.put_in_order(x)
    x, states, ready = contiguous_rows(x, states, weights)
    kept = _kept(plan, len(weights), [t.contiguous() for t in inner])
    dy, *dfinals = cotangents
    found = backward_layer(
        plan, rows.layout, x, states, ready, out, kept, dy, dfinals, want_x, last
    )
    parameters = [t for w in found.weights for t in w.tensors]
    return [found.x, *parameters, *(found.states if call.given else ())]


def without_zeros(cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Put None for cotangents that are 0 and have no memory."""
    return [None if g is None or g._is_zerotensor() else g for g in cotangents]


def _check_saved(
    call: Call, x: Tensor, weights: Sequence[Weights], saved: Sequence[Tensor]
) -> None:
    """Refuse what no longer is as the forward pass saw it: a kernel reads memory by address."""
    plan, rows = call.plan, call.rows.layout.rows
    dtype = saved[-1].dtype  # of what the forward pass made
    fits = x.numel() == rows * plan.inputs and DTYPE_NAMES.get(dtype) == plan.dtype
    for w in weights:
        for t, shape in zip(w.tensors, plan.shapes, strict=True):
            fits = fits and t.shape == shape
    for t in saved:
        fits = fits and t.dtype is dtype and t.is_cpu
    if not fits:
        raise RuntimeError(
            "expected the tensors that the forward pass saved for the gradient, but their shape, "
            "dtype or device was changed since (module.half(), .data = …, a saved-tensor hook); "
            "call the layer again after such a change"
        )


def _kept(plan: Plan, directions: int, inner: Sequence[Tensor]) -> list[Kept]:
    each = len(inner) // directions
    states = len(plan.cell.states) - 1
    found = []
    for d in range(directions):
        a, *rest = inner[d * each : (d + 1) * each]
        found.append(Kept(a, list(rest[:states]), list(rest[states:])))
    return found


def _interpreted(
    call: Call,
    needs: Sequence[bool],
    tensors: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    cause: str,
) -> list[Tensor | None]:
    """Return the interpreter's gradients, which can be differentiated again if grad is enabled."""
    plan, again = call.plan, torch.is_grad_enabled()
    warn(plan.cell, cause)
    if not again:  # the saved tensors belong to a graph that is not to grow
        tensors = [t.detach().requires_grad_(n) for t, n in zip(tensors, needs, strict=True)]
    x, states, weights = call.split(tensors)
    with torch.enable_grad():
        out, finals = interpret_layer(plan.cell, x, states, weights, call.batch_sizes, plan.units)
    pairs = [(o, g) for o, g in zip((out, *finals), cotangents, strict=True) if g is not None]
    wanted = [t for t, need in zip(tensors, needs, strict=True) if need]
    outputs, given = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=again, allow_unused=True))
    return [next(found) if need else None for need in needs]


def warn(cell: Cell, cause: str) -> None:
    """Warn of what a kernel does not do."""
    message = f"{cell.name} runs on the interpreter: {cause}"
    warnings.warn(message, InterpreterWarning, stacklevel=3)
