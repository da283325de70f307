"""The torch operation: a layer, forward and backward, on a kernel or on the interpreter."""

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellwright.cpu.backward import backward_layer
from cellwright.cpu.forward import forward_layer
from cellwright.cpu.plan import Kept, Plan, Rows, plan_of
from cellwright.cpu.prepared import prepare
from cellwright.cpu.prepared_backward import prepare_backward
from cellwright.cpu.target import DTYPES
from cellwright.cpu.team import Team
from cellwright.cpu.walks import Layout, dense
from cellwright.errors import CompileError, InterpreterWarning
from cellwright.graph.cell import Cell
from cellwright.graph.interpret import Form, Weights, interpret_layer

__all__ = ["Repeat", "Weights", "obstacle", "plan_for", "repeat", "run_layer"]

_keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)
"""Whether the backward pass under way was told to keep its graph for another one."""
_functorch = torch._C._functorch
_NAMES = {getattr(torch, name): name for name in DTYPES}
_PLAIN = {Tensor, torch.nn.Parameter}
_form = attrgetter("__class__", "shape", "dtype", "is_cpu")
"""What a kernel that takes one tensor takes another for, if both have no gaps."""
_negated = Tensor.is_neg
_is_compiling, _tracing_state = torch.compiler.is_compiling, torch._C._get_tracing_state
_functorch_level, _is_wrapped = (
    _functorch.maybe_current_level,
    _functorch.is_functorch_wrapped_tensor,
)
_is_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
_forward_ad, _is_autocast = torch.autograd.forward_ad, torch.is_autocast_enabled


def run_layer(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    batch_sizes: list[int] | None,
    hidden_size: int,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a layer over a sequence, in D directions, compiled where that is possible.

    Takes and returns what :func:`cellwright.graph.interpret.interpret_layer` does; where no kernel
    can do the work, that does it, with one warning that names the cause.
    """
    cause = obstacle(x, weights, states or ())
    if cause is None:
        try:
            plan = plan_for(cell, x, weights, hidden_size)
            if plan is not None:
                return _compiled(plan, x, states, weights, batch_sizes)
            cause = "the parameters differ in dtype, device or shape from what the input asks for"
        except CompileError as error:
            cause = str(error)
    result = interpret_layer(cell, x, states, weights, batch_sizes, hidden_size)
    if not torch.compiler.is_compiling():
        _warn(cell, cause)
    return result


def _warn(cell: Cell, cause: str) -> None:
    message = f"{cell.name} runs on the interpreter: {cause}"
    warnings.warn(message, InterpreterWarning, stacklevel=3)


def obstacle(x: Tensor, weights: Sequence[Weights], states: Sequence[Tensor] = ()) -> str | None:
    """Return why no kernel can take this call, or None."""
    if weights[0].form.projects:
        return "kernels for projected states (proj_size) do not exist yet"
    if x.dtype not in _NAMES:
        return f"kernels take float32 and float64, not {x.dtype}".replace("torch.", "")
    if not x.is_cpu:
        return f"kernels run on the CPU, and the input is on {x.device}"
    cause = _transformation(x)
    if cause is not None:
        return cause
    tensors = (x, *states)
    for kinds in (map(type, tensors), *(map(type, w.tensors) for w in weights)):
        if not _PLAIN.issuperset(kinds):
            return "a subclass of Tensor need not have memory that a kernel can read"
    if any(map(_negated, tensors)):
        return "the sign of a tensor is yet to be changed; resolve_neg() makes it a plain one"
    return None


def _transformation(x: Tensor) -> str | None:
    """Return what torch makes of the layer's operations other than to run them, or None."""
    if _is_compiling():
        return "torch.compile traces the layer as torch operations"
    if _tracing_state() is not None:
        return "torch.jit.trace records the layer as torch operations"
    if _functorch_level() is not None or _is_wrapped(x):
        return "torch.func transforms the layer"
    if _forward_ad._current_level >= 0:
        return "forward-mode derivatives are asked for"
    if _is_autocast("cpu"):
        return "autocast chooses the dtype of each product"
    return None


def plan_for(cell: Cell, x: Tensor, weights: Sequence[Weights], hidden_size: int) -> Plan | None:
    """Return the plan of a layer, or None if its parameters do not fit the input.

    A kernel reads memory by address, so nothing that does not fit may ever reach it.
    """
    dtype = x.dtype
    plan = plan_of(cell, x.shape[-1], hidden_size, _NAMES[dtype], bool(weights[0].form.biases))
    shapes = plan.shapes
    for w in weights:
        if len(w.tensors) != len(shapes):
            return None
        for t, shape in zip(w.tensors, shapes):  # noqa: B905  # lengths are equal by now
            if t.shape != shape or t.dtype is not dtype or not t.is_cpu:
                return None
    return plan


def _compiled(
    plan: Plan,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    batch_sizes: list[int] | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    layout = _layout(x, batch_sizes)
    if torch.is_grad_enabled():
        tensors = [x, *(states or ())]
        for w in weights:
            tensors += w.tensors
        if _differentiates(tensors):
            forms = [w.form for w in weights]
            batch_first = Rows(x, layout).batch_first
            call = _Call(plan, layout, batch_sizes, batch_first, states is not None, forms)
            out, *finals = _apply(call, *tensors)
            return out, tuple(finals)
    out, ends, _ = _forward(plan, layout, x, states, weights, keep=False)
    return out, ends


def _forward(
    plan: Plan,
    layout: Layout,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
    """Run the forward walks, the short way where that is open; also return what is kept."""
    if layout.counts is None and len(weights) == 1:
        short = prepare(plan, layout, Team.threads(), keep)
        done = None if short is None else short(x, states, weights[0].tensors)
        if done is not None:
            return done
    out, finals, kept = forward_layer(plan, layout, *_ready(x, states, weights), keep)
    if not keep:
        return out, finals, []
    inner = [t for k in kept for t in (k.accumulators, *k.states, *k.expressions)]
    return out, finals, [t for t in inner if t is not None]


def _layout(x: Tensor, batch_sizes: list[int] | None) -> Layout:
    if batch_sizes is None:
        return dense(x.shape[0], x.shape[1])
    falling = all(a >= b for a, b in pairwise(batch_sizes)) and batch_sizes[-1] > 0
    if not falling or sum(batch_sizes) != x.shape[0]:  # a kernel would read what is not there
        raise RuntimeError(
            "expected a packed sequence whose batch_sizes fall, stay above 0 and add up to the "
            f"{x.shape[0]} rows of its data, got {batch_sizes}; pack_padded_sequence makes one"
        )
    return Layout(len(batch_sizes), batch_sizes[0], batch_sizes)


def _differentiates(tensors: Sequence[Tensor]) -> bool:
    """Whether anything that goes in asks for a gradient."""
    for t in tensors:  # noqa: SIM110  # any() would take as long again
        if t.requires_grad:
            return True
    return False


def _ready(
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


class _Call(NamedTuple):
    """What a call of a layer is besides its tensors: x, the states, then all parameters."""

    plan: Plan
    layout: Layout
    batch_sizes: list[int] | None
    batch_first: bool  # the order of rows in what the forward pass keeps
    given: bool  # whether there are initial states
    forms: list[Form]  # of each direction

    def split(
        self, tensors: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor] | None, list[Weights]]:
        """Return x, the initial states, and the parameters of each direction."""
        start = 1 + (len(self.plan.cell.states) if self.given else 0)
        each = len(self.plan.shapes)
        weights = [
            Weights(form, tensors[start + d * each : start + (d + 1) * each])
            for d, form in enumerate(self.forms)
        ]
        return tensors[0], tensors[1:start] if self.given else None, weights


class _Layer(torch.autograd.Function):
    """A layer whose backward pass is the derived walk."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        out, finals, inner = _forward(call.plan, call.layout, *call.split(tensors), keep=True)
        ctx.call = call
        ctx.save_for_backward(*tensors, out, *inner)
        ctx.set_materialize_grads(False)
        return out, *finals

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        call: _Call = ctx.call
        needs = ctx.needs_input_grad[1:]
        saved = ctx.saved_tensors
        tensors = saved[: len(needs)]
        if torch.is_grad_enabled():
            cause = "a gradient that can be differentiated again (create_graph=True) is asked for"
            return None, *_interpreted(call, needs, tensors, cotangents, cause)
        if any(g is not None and _is_batched(g) for g in cotangents):
            cause = "gradients of several cotangents at once (is_grads_batched=True) are asked for"
            return None, *_interpreted(call, needs, tensors, cotangents, cause)
        out, *inner = saved[len(needs) :]
        return None, *_backward(call, tensors, out, inner, cotangents, needs[0])


_apply: Callable[..., tuple[Tensor, ...]] = super(torch.autograd.Function, _Layer).apply
"""What ``_Layer.apply`` calls in the end; what comes before is for torch.func, an obstacle here."""


def repeat(
    cell: Cell, x: Tensor, states: tuple[Tensor, ...], weights: Weights, hidden_size: int
) -> "Repeat | None":
    """Return what takes further calls like this one, or None if no kernel takes it."""
    if obstacle(x, [weights], states) is not None:
        return None
    plan = plan_for(cell, x, [weights], hidden_size)
    try:
        return None if plan is None else Repeat(plan, x, states, weights)
    except CompileError:
        return None  # of which the call itself has warned


class Repeat:
    """A call of one direction over a dense batch, as one before it was in all but values.

    What a call of a small layer takes is mostly Python that finds out what it is. Here that is
    compared with the call before at once.

    Args:
        plan: of the layer.
        x: the input (L, N, H_in). states: the initial states, or ().
        weights: the direction's parameters.
    """

    def __init__(self, plan: Plan, x: Tensor, states: tuple[Tensor, ...], weights: Weights) -> None:
        tensors = [x, *states, *weights.tensors]
        self._forms = [*map(_form, tensors)]
        self._threads = Team.threads()
        layout = dense(x.shape[0], x.shape[1])
        self._prepared = prepare(plan, layout, self._threads, keep=False)
        self._call = _Call(plan, layout, None, False, bool(states), [weights.form])

    def __call__(
        self, x: Tensor, states: tuple[Tensor, ...], parameters: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Return the output and the final states; None if this is another kind of call."""
        tensors = (x, *states, *parameters)
        if (
            [*map(_form, tensors)] != self._forms
            or not x.is_contiguous()
            or _transformation(x) is not None
            or x.is_neg()
            or any(map(_negated, states))
            or Team.threads() != self._threads
        ):
            return None
        if torch.is_grad_enabled() and _differentiates(tensors):
            out, *finals = _apply(self._call, *tensors)
            return out, tuple(finals)
        if self._prepared is None:
            return None
        done = self._prepared(x, states or None, parameters)
        return None if done is None else done[:2]


def _backward(
    call: _Call,
    tensors: Sequence[Tensor],
    out: Tensor,
    inner: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    want_x: bool,
) -> Sequence[Tensor | None]:
    """Run the backward walks, the short way where that is open; gradients as ``tensors`` are."""
    plan, layout, last = call.plan, call.layout, not _keeps_graph()
    x, states, weights = call.split(tensors)
    _check_saved(call, x, weights, (*tensors, out, *inner))
    cotangents = [None if g is None or g._is_zerotensor() else g for g in cotangents]
    if layout.counts is None and len(weights) == 1 and not call.batch_first:
        short = prepare_backward(plan, layout, Team.threads(), call.given, want_x)
        if short is not None:
            done = short(x, states, weights[0].tensors, out, inner, cotangents, last)
            if done is not None:
                return done
    if layout.counts is None and Rows(x, layout).batch_first != call.batch_first:
        x = x.transpose(0, 1).contiguous().transpose(0, 1) if call.batch_first else x.contiguous()
    x, states, ready = _ready(x, states, weights)
    kept = _kept(plan, len(weights), [t.contiguous() for t in inner])
    dy, *dfinals = cotangents
    found = backward_layer(plan, layout, x, states, ready, out, kept, dy, dfinals, want_x, last)
    parameters = [t for w in found.weights for t in w.tensors]
    return [found.x, *(found.states if call.given else ()), *parameters]


def _check_saved(
    call: _Call, x: Tensor, weights: Sequence[Weights], saved: Sequence[Tensor]
) -> None:
    """Refuse what no longer is as the forward pass saw it: a kernel reads memory by address."""
    plan, rows = call.plan, call.layout.rows
    dtype = saved[-1].dtype  # of what the forward pass made
    fits = x.numel() == rows * plan.inputs and _NAMES.get(dtype) == plan.dtype
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
    call: _Call,
    needs: Sequence[bool],
    tensors: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    cause: str,
) -> list[Tensor | None]:
    """Return the interpreter's gradients, which can be differentiated again if grad is enabled."""
    plan, again = call.plan, torch.is_grad_enabled()
    _warn(plan.cell, cause)
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
