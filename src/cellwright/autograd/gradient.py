"""The gradients of a call: the derived walks, or the interpreter."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellwright.autograd.obstacle import DTYPE_NAMES, backward_obstacle, functorch_level
from cellwright.cpu.call.backward import BackwardCall, backward_call
from cellwright.cpu.call.forward import no_gaps
from cellwright.cpu.call.plan import Plan, Rows
from cellwright.cpu.machine.memory import lacks_memory
from cellwright.errors import InterpreterWarning
from cellwright.graph.cell import Cell
from cellwright.graph.interpret import Form, Weights, interpret_layer

__all__ = [
    "Call",
    "check_saved",
    "differentiate",
    "gradients",
    "keeps_graph",
    "plain",
    "prepared",
    "ready",
    "warn",
    "without_gaps",
]

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

    @property
    def arity(self) -> int:
        """How many tensors it has."""
        states = len(self.plan.cell.states) if self.given else 0
        return 1 + len(self.forms) * len(self.plan.shapes) + states

    @staticmethod
    def join(
        x: Tensor, states: Sequence[Tensor] | None, weights: Sequence[Weights]
    ) -> list[Tensor]:
        """Return the tensors of a call in its order; ``split`` takes them apart again."""
        return [x, *(t for w in weights for t in w.tensors), *(states or ())]

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


def without_gaps(rows: Rows, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return a sequence in the order of its rows, and other tensors, all of them without gaps."""
    x, *others = tensors
    x = x if rows.in_order(x) else rows.put_in_order(x)
    return [x, *(t if t.is_contiguous() else t.contiguous() for t in others)]


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
    cause = backward_obstacle(cotangents)
    if cause is not None:
        return _interpreted(call, needs, saved[: call.arity], cotangents, cause)
    check_saved(call, saved)
    if not ready(call, saved):
        count = call.arity
        parts = saved[:count], saved[count:]
        saved = [t for part in parts for t in without_gaps(call.rows, part)]
    readable = _readable(cotangents)
    return gradients(prepared(call, needs[0]), call.rows, call.arity, saved, readable)


def ready(call: Call, saved: Sequence[Tensor]) -> bool:
    """Whether what was saved has no gaps, x and the output in the order of the rows."""
    x, out, others = saved[0], saved[call.arity], (*saved[1 : call.arity], *saved[call.arity + 1 :])
    return all(map(call.rows.in_order, (x, out))) and no_gaps(others)


def prepared(call: Call, want_x: bool) -> BackwardCall:
    """Return what computes a call's gradients, of the input too if ``want_x``."""
    return backward_call(call.plan, call.rows, len(call.forms), call.given, want_x)


def gradients(
    backward: BackwardCall,
    rows: Rows,
    count: int,
    saved: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
) -> Sequence[Tensor | None]:
    """Return the gradients of a call with ``count`` tensors.

    What was saved is ready, and the cotangents are plain.
    """
    tensors, out, kept = saved[:count], saved[count], saved[count + 1 :]
    return backward(tensors, out, kept, cotangents, not keeps_graph(), rows)


def plain(cotangents: Sequence[Tensor | None]) -> bool:
    """Whether all of them that are there have memory, and values as they lie there."""
    readable = zip(cotangents, _readable(cotangents), strict=True)
    return all(given is found for given, found in readable)


def _readable(cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Put None for cotangents that are 0 and have no memory; change signs that are yet to be."""
    return [None if g is None or g._is_zerotensor() else g.resolve_neg() for g in cotangents]


def check_saved(call: Call, saved: Sequence[Tensor]) -> None:
    """Refuse what no longer is as the forward pass saw it: a kernel reads memory by address.

    Raises:
        RuntimeError: the form, dtype, device or memory of a tensor is another one.
    """
    plan, layout, D = call.plan, call.rows.layout, len(call.forms)
    H, rows = plan.units, layout.rows
    ends = [(D, layout.batch, plan.width(s)) for s in plan.cell.states]
    dtype = saved[-1].dtype  # of what the forward pass made
    _, states, weights = call.split(saved[: call.arity])
    sizes = [rows * plan.inputs, *[None] * (call.arity - 1), rows * D * plan.outputs]
    each = (len(saved) - len(sizes)) // D
    sizes += [rows * plan.accumulators, *[rows * H] * (each - 1)] * D
    shapes = [(t, shape) for w in weights for t, shape in zip(w.tensors, plan.shapes, strict=True)]
    shapes += zip(states or (), ends)  # noqa: B905  # there may be no states
    fits = DTYPE_NAMES.get(dtype) == plan.dtype and all(t.shape == s for t, s in shapes)
    for t, size in zip(saved, sizes, strict=True):
        fits = fits and t.dtype is dtype and t.is_cpu and size in (None, t.numel())
    if not fits or any(map(lacks_memory, saved)):
        raise RuntimeError(
            "expected the tensors that the forward pass saved for the gradient, but their shape, "
            "dtype, device or memory was changed since (module.half(), .data = …, a saved-tensor "
            "hook); call the layer again after such a change"
        )


def _interpreted(
    call: Call,
    needs: Sequence[bool],
    tensors: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    cause: str,
) -> list[Tensor | None]:
    """Return the interpreter's gradients, which can be differentiated again if grad is enabled."""
    again = torch.is_grad_enabled()
    warn(call.plan.given, cause)
    if functorch_level() is not None:
        return _pulled_back(call, tensors, cotangents)
    if again:
        # gradients must end here, even where one tensor follows from another, or stands twice
        tensors = [t.view_as(t) for t in tensors]
    else:  # the saved tensors belong to a graph that is not to grow
        tensors = [t.detach().requires_grad_(n) for t, n in zip(tensors, needs, strict=True)]
    with torch.enable_grad():
        made = _interpret(call, tensors)
    pairs = [(o, g) for o, g in zip(made, cotangents, strict=True) if g is not None]
    wanted = [t for t, need in zip(tensors, needs, strict=True) if need]
    outputs, given = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=again, allow_unused=True))
    return [next(found) if need else None for need in needs]


def _interpret(call: Call, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the output and the final states as the interpreter computes them.

    Autocast lowers nothing here, as it lowered nothing of the kernels.
    """
    x, states, weights = call.split(tensors)
    sizes, units = call.batch_sizes, call.plan.units
    with torch.autocast("cpu", enabled=False):
        out, finals = interpret_layer(call.plan.given, x, states, weights, sizes, units)
    return (out, *finals)


def _pulled_back(
    call: Call, tensors: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return gradients inside of a transformation by torch.func."""
    grows = torch.is_grad_enabled()  # whether the result is to be differentiated again
    primals = [t if grows else t.detach() for t in tensors]
    pulled: Any = torch.func.vjp(lambda *given: _interpret(call, given), *primals)
    outputs, pull_back = pulled
    pairs = zip(outputs, cotangents, strict=True)
    return [*pull_back(tuple(torch.zeros_like(o) if g is None else g for o, g in pairs))]


def warn(cell: Cell, cause: str) -> None:
    """Warn of what a kernel does not do."""
    message = f"{cell.name} runs on the interpreter: {cause}"
    warnings.warn(message, InterpreterWarning, stacklevel=3)
