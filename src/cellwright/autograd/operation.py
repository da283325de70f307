"""The torch operation: a layer, forward and backward, on a kernel or on the interpreter."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from cellwright.autograd.autocast import autocasts, result_dtypes
from cellwright.autograd.function import Widened, apply
from cellwright.autograd.gradient import Call, differentiate, warn, without_gaps
from cellwright.autograd.obstacle import DTYPE_NAMES, HALF_NAMES, obstacle
from cellwright.cpu.call.choice import takes_pairs
from cellwright.cpu.call.forward import ForwardCall, forward_call
from cellwright.cpu.call.halves import HalfCall, half_call
from cellwright.cpu.call.plan import Plan, Rows, plan_of
from cellwright.cpu.call.walks import Layout, dense, packed
from cellwright.cpu.machine.target import host
from cellwright.errors import CompileError
from cellwright.graph.cell import Cell
from cellwright.graph.interpret import Weights, interpret_layer

__all__ = [
    "Forward",
    "Tensors",
    "asks",
    "autocast_tensors",
    "forward_of",
    "plan_for",
    "reads",
    "run_layer",
]


Forward = ForwardCall | HalfCall
"""What runs a layer forward: all that it needs but the addresses."""
Tensors = tuple[Tensor, Sequence[Tensor] | None, Sequence[Weights]]
"""A call's input, its initial states, each direction's parameters."""


def run_layer(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    batch_sizes: list[int] | None,
    hidden_size: int,
    lowered: torch.dtype | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a layer over a sequence, in D directions, compiled where that is possible.

    Takes and returns what :func:`cellwright.graph.interpret.interpret_layer` does; where no kernel
    can do the work, that does it, with one warning that names the cause. In half precision and
    under autocast, kernels work in float32 or with products of bfloat16, and the results are
    rounded: to ``lowered`` where autocast lowers the call as a whole.
    """
    cause = obstacle(x, weights, states or ())
    if cause is None:
        try:
            given = x, states, weights
            made = _on_kernels(cell, given, batch_sizes, hidden_size, lowered)
            if made is not None:
                return made
            cause = (
                "parameters or states differ in dtype, device or shape from what the input asks for"
            )
        except CompileError as error:
            cause = str(error)
    with nullcontext() if lowered is None else torch.autocast(x.device.type, enabled=False):
        if lowered is not None:
            x, states, weights = _cast(lowered, x, states, weights)
        result = interpret_layer(cell, x, states, weights, batch_sizes, hidden_size)
    if not torch.compiler.is_compiling():
        warn(cell, cause)
    return result


def _on_kernels(
    cell: Cell,
    given: Tensors,
    batch_sizes: list[int] | None,
    hidden_size: int,
    lowered: torch.dtype | None,
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Run a layer on kernels; None if its parameters or states do not fit the input."""
    layout = _layout(given[0], batch_sizes)
    dtypes: Sequence[torch.dtype] = ()  # of the results, where that is not the input's
    if autocasts():
        taken = autocast_tensors(cell, given, layout, hidden_size, lowered)
        if taken is None:
            return None
        given, dtypes = taken
    plan = plan_for(cell, *given, hidden_size, layout.batch)
    if plan is None:
        return None
    x, states, weights = given
    rows, rounded = Rows(x, layout), dtypes or [x.dtype] * (1 + len(cell.states))
    if asks(*given):
        once = _Once(Call(plan, rows, batch_sizes, states is not None, [w.form for w in weights]))
        call = Widened(once, rounded) if x.dtype in HALF_NAMES else once
        made = apply(call, *Call.join(*given))
    else:
        if not reads(plan, x.dtype):
            given = _cast(torch.float32, *given)
        out, ends, _ = _forward(plan, rows, *given, keep=False)
        made = out, *ends
    out, *finals = map(Tensor.to, made, rounded)
    return out, tuple(finals)


def autocast_tensors(
    cell: Cell,
    given: Tensors,
    layout: Layout,
    hidden_size: int,
    lowered: torch.dtype | None,
) -> tuple[Tensors, Sequence[torch.dtype]] | None:
    """Return a call's tensors as kernels take them under autocast, and the dtypes of its results.

    They have one dtype: float32 or float64; but half precision to which all results are rounded,
    if all tensors are of it, or if kernels multiply its numbers in pairs. None where some of
    them alone are float64, which autocast leaves as it is. ``lowered``: the dtype of all results
    where autocast lowers the call as a whole.
    """
    own = {t.dtype for t in Call.join(*given)}
    if torch.float64 in own:
        return None if len(own) > 1 else (given, [torch.float64] * (1 + len(cell.states)))
    results = result_dtypes(cell, *given, layout.steps)
    if lowered is not None:
        results = (lowered,) * len(results)
    lower = results[0]
    rounds = {*results} == {lower} and lower in HALF_NAMES
    if rounds and own == {lower}:
        return given, results
    taken = _cast(torch.float32, *given)
    if rounds and not asks(*given):
        plan = plan_for(cell, *taken, hidden_size, layout.batch)
        if plan is not None and takes_pairs(plan, layout, HALF_NAMES[lower]):
            return _cast(lower, *given), results
    return taken, results


def plan_for(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    hidden_size: int,
    batch: int,
) -> Plan | None:
    """Return the plan of a layer, or None if its parameters or states do not fit the input.

    For half precision it is the one of float32. A kernel reads memory by address, so nothing that
    does not fit may ever reach it.
    """
    dtype, first = x.dtype, weights[0]
    if dtype in HALF_NAMES:
        name = "float32"
    elif dtype in DTYPE_NAMES:
        name = DTYPE_NAMES[dtype]
    else:
        return None
    outputs = first.output_size(hidden_size)
    biased = bool(first.form.biases)
    plan = plan_of(cell, x.shape[-1], hidden_size, outputs, name, biased)
    shapes = plan.shapes
    for w in weights:
        if len(w.tensors) != len(shapes):
            return None
        for t, shape in zip(w.tensors, shapes):  # noqa: B905  # lengths are equal by now
            if t.shape != shape or t.dtype is not dtype or not t.is_cpu:
                return None
    if states is not None:
        ends = [(len(weights), batch, plan.width(state)) for state in plan.cell.states]
        same = all(t.dtype is dtype and t.is_cpu for t in states)
        if not same or [t.shape for t in states] != ends:
            return None
    return plan


def reads(plan: Plan, dtype: torch.dtype) -> bool:
    """Whether kernels read tensors of a dtype as they lie, where no gradients are asked for."""
    return dtype not in HALF_NAMES or HALF_NAMES[dtype] in host().halves(plan.dtype)


def asks(x: Tensor, states: Sequence[Tensor] | None, weights: Sequence[Weights]) -> bool:
    """Whether a call's gradients will be asked for."""
    return torch.is_grad_enabled() and _differentiates(Call.join(x, states, weights))


def _cast(
    dtype: torch.dtype,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
) -> Tensors:
    """Return a call's tensors in a dtype, as autograd records it."""
    own = None if states is None else [state.to(dtype) for state in states]
    return x.to(dtype), own, [w.to(dtype) for w in weights]


def _forward(
    plan: Plan,
    rows: Rows,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
    """Run the forward walks; also return what is kept."""
    tensors = without_gaps(rows, Call.join(x, states, weights))
    run = forward_of(plan, rows, len(weights), keep, x.dtype)
    return run(tensors, states is not None, rows)


def forward_of(plan: Plan, rows: Rows, directions: int, keep: bool, dtype: torch.dtype) -> Forward:
    """Return the prepared call of tensors of a dtype."""
    if dtype in HALF_NAMES:
        return half_call(plan, rows, directions, HALF_NAMES[dtype])
    return forward_call(plan, rows, directions, keep)


def _layout(x: Tensor, batch_sizes: list[int] | None) -> Layout:
    if batch_sizes is None:
        return dense(x.shape[0], x.shape[1])
    layout = packed(tuple(batch_sizes))
    if layout is None or layout.rows != x.shape[0]:  # a kernel would read what is not there
        raise RuntimeError(
            "expected a packed sequence whose batch_sizes fall, stay above 0 and add up to the "
            f"{x.shape[0]} rows of its data, got {batch_sizes}; pack_padded_sequence makes one"
        )
    return layout


def _differentiates(tensors: Sequence[Tensor]) -> bool:
    """Whether anything that goes in asks for a gradient."""
    for t in tensors:  # noqa: SIM110  # any() would take as long again
        if t.requires_grad:
            return True
    return False


class _Once(NamedTuple):
    """A call that is not like one before it."""

    call: Call
    reads_output: bool = True

    def forward(
        self, tensors: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        return _forward(self.call.plan, self.call.rows, *self.call.split(tensors), keep=keep)

    def differentiate(
        self, needs: Sequence[bool], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        return differentiate(self.call, needs, saved, cotangents)
