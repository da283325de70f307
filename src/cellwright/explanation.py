"""Tell beforehand how a call will run: which kernel, tile, threads, and how fast it can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from cellwright.autograd.autocast import autocasts
from cellwright.autograd.obstacle import HALF_NAMES, obstacle
from cellwright.autograd.operation import asks, autocast_tensors, plan_for, reads
from cellwright.cpu.amx.unit import AMX_ROWS
from cellwright.cpu.call.choice import ForwardWay, forward_way, share_of, takes_pairs
from cellwright.cpu.call.halves import reads_stored
from cellwright.cpu.call.rates import amx_rate, matrix_rate, read_rate
from cellwright.cpu.call.walks import Layout
from cellwright.cpu.machine.target import host
from cellwright.errors import CompileError
from cellwright.graph.interpret import Weights
from cellwright.nn import Recurrent, checks
from cellwright.nn.packed import is_dense
from cellwright.nn.sequence import SequenceModel

if TYPE_CHECKING:
    from cellwright.cpu.call.plan import Plan

__all__ = ["Explanation", "LayerExplanation", "explain"]

_SMALLEST = 1 << 18
"""Bytes below which weights stay in a core's own caches, where reading is hard to time."""


@dataclass(frozen=True)
class LayerExplanation:
    """How one layer of a module runs.

    Attributes:
        layer: its number, from 0.
        kernel: the kernel's name, or ``interpreter``.
        cause: why the interpreter does the work; empty for a kernel.
        tile: batch rows and units of a tile; (0, 0) for the interpreter.
        threads: how many threads share the work.
        by_units: whether each has a share of the units, not of the batch rows.
        weights: how the kernel reads the weights.
        input: where the input is multiplied by its weights.
        operations: floating-point operations of the forward pass, 2 a multiply-add.
        bytes: bytes of weights that the forward pass reads, step by step.
        floor: seconds that the forward pass cannot be faster than on this machine.
    """

    layer: int
    kernel: str
    cause: str
    tile: tuple[int, int]
    threads: int
    by_units: bool
    weights: str
    input: str
    operations: int
    bytes: int
    floor: float

    def __str__(self) -> str:
        if self.cause:
            return f"layer {self.layer}: interpreter, because {self.cause}"
        rows, units = self.tile
        return (
            f"layer {self.layer}: kernel {self.kernel}, tiles of {rows} rows × {units} units, "
            f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            f"{' that share the units' if self.by_units else ''}; {self.weights}; "
            f"{self.input}; "
            f"{self.operations / 1e6:.3g} MFLOP and {self.bytes / 1e6:.3g} MB of weights: "
            f"forward floor {self.floor * 1e6:.3g} µs"
        )


@dataclass(frozen=True)
class Explanation:
    """How a call of a module runs, layer by layer, and its backward pass."""

    module: str
    layers: tuple[LayerExplanation, ...]
    backward: str

    def __str__(self) -> str:
        return "\n".join([self.module, *map(str, self.layers), f"backward: {self.backward}"])


def explain(module: torch.nn.Module, input: Tensor | PackedSequence) -> Explanation:  # noqa: A002
    """Tell which kernel, tile, threads and floor a call ``module(input)`` gets. Runs no layer.

    The floor is the larger of two times: the operations at the measured rate of this machine's
    tiles or its AMX, and the weights read at its measured bandwidth, times the number of steps.

    Args:
        module: a module of ``cellwright.nn``.
        input: what it would be called with: (L, N, H_in), (N, L, H_in) if batch first, (L, H_in),
            or a PackedSequence.

    Raises:
        TypeError: the module has no recurrent layers of Cellwright's.
        AttributeError, RuntimeError, ValueError: the input does not fit, as the call would say.
    """
    recurrent = module.recurrent if isinstance(module, SequenceModel) else module
    if not isinstance(recurrent, Recurrent):
        raise TypeError(
            "explain takes a module of cellwright.nn (RNN, LSTM, GRU, Recurrent, SequenceModel), "
            f"not {type(module).__module__}.{type(module).__name__}"
        )
    x, layout = _sequence(recurrent, input)
    layers = _layers(recurrent, x, layout)
    compiled = all(not layer.cause for layer in layers)
    backward = (
        "derived kernel, then a matrix product for each weight and the input over all steps; a "
        "second derivative (create_graph=True) takes the interpreter"
        if compiled
        else "torch's autograd through the interpreter"
    )
    return Explanation(repr(recurrent), tuple(layers), backward)


def _layers(recurrent: Recurrent, x: Tensor, layout: Layout) -> list[LayerExplanation]:
    """Explain each layer."""
    lowered = recurrent._lowered(x, None, packed=layout.counts is not None)
    width = (recurrent.proj_size or recurrent.hidden_size) * (1 + recurrent.bidirectional)
    found = []
    for number in range(recurrent.num_layers):
        weights = recurrent._weights(number)
        layer, dtype = _layer(recurrent, number, x, weights, layout, lowered)
        found.append(layer)
        output = x.new_empty(1, dtype=dtype).requires_grad_(asks(x, None, weights))
        x = output.expand(*x.shape[:-1], width)
    return found


def _sequence(recurrent: Recurrent, given: Tensor | PackedSequence) -> tuple[Tensor, Layout]:
    """Return the input as layers see it, and its layout; refuse what the call would."""
    if isinstance(given, PackedSequence):
        weight, states = recurrent._first_weight(given.data), len(recurrent.cell.states)
        checks.reject_input(given.data, weight, recurrent.input_size, states)
        sizes = given.batch_sizes.tolist()
        if not is_dense(sizes, given.data):
            return given.data, Layout(len(sizes), sizes[0], sizes)
        x = given.data.unflatten(0, (len(sizes), sizes[0]))
        return x, Layout(len(sizes), sizes[0], None)
    if not isinstance(given, Tensor) or given.dim() not in (2, 3):
        checks.reject_form(type(recurrent).__name__, given)
    x = given.unsqueeze(1) if given.dim() == 2 else given
    if recurrent.batch_first and given.dim() == 3:
        x = x.transpose(0, 1)
    checks.reject_input(x, recurrent._first_weight(x), recurrent.input_size)
    return x, Layout(x.shape[0], x.shape[1], None)


def _layer(
    recurrent: Recurrent,
    number: int,
    x: Tensor,
    weights: Sequence[Weights],
    layout: Layout,
    lowered: torch.dtype | None,
) -> tuple[LayerExplanation, torch.dtype]:
    """Explain a layer; also return the dtype of its output."""
    cause, misfit = obstacle(x, weights) or "", "the parameters do not fit the input"
    cell, units, dtype = recurrent._whole_cell, recurrent.hidden_size, x.dtype
    if not cause and autocasts():
        taken = autocast_tensors(cell, (x, None, weights), layout, units, lowered)
        if taken is None:
            cause = misfit
        else:
            (x, _, weights), (dtype, *_) = taken
    if not cause:
        try:
            host()
            plan = plan_for(cell, x, None, weights, units, layout.batch)
        except CompileError as error:
            cause = str(error)
        else:
            if plan is not None:
                return _kernel(plan, number, layout, x, weights), dtype
    cause = cause or misfit
    return LayerExplanation(
        number, "interpreter", cause, (0, 0), 1, False, "", "", 0, 0, 0.0
    ), dtype


def _kernel(
    plan: "Plan", number: int, layout: Layout, x: Tensor, parameters: Sequence[Weights]
) -> LayerExplanation:
    target, share, directions = host(), share_of(plan, layout), len(parameters)
    way, half = forward_way(plan, layout), HALF_NAMES.get(x.dtype, "")
    stored = reads(plan, x.dtype) and not asks(x, None, parameters)
    pairs = stored and takes_pairs(plan, layout, half)
    if pairs:
        way = way._replace(raw=False, raw_walk=False)
    level = "amx" if way.amx else target.vector_name
    numbers = f"{plan.dtype} for {half}" if half else plan.dtype
    # weights that are read as they lie are read as they are stored, and so are those of pairs
    lies = (way.raw or way.raw_walk) and reads_stored(way)
    item = x.itemsize if pairs or (lies and stored) else plan.item
    once = plan.input_work * item if way.ahead else 0
    weights = plan.amx_need["forward"].planes if way.amx else plan.work * item
    operations = 2 * layout.rows * plan.work * directions
    by_amx = 0
    if way.amx:
        by_amx = operations
    elif way.amx_ahead:
        by_amx = operations * plan.input_work // plan.work
    seconds = by_amx / amx_rate() if by_amx else 0.0
    seconds += (operations - by_amx) / (matrix_rate(plan.dtype) * (1 + pairs))
    read = ((weights - once) * layout.steps + once) * directions
    # over and over again it reads those alone that are not multiplied ahead
    rate = read_rate(max(_SMALLEST, weights - once)) * (share.threads if share.by_units else 1)
    return LayerExplanation(
        layer=number,
        kernel=f"{plan.cell.name}_forward ({level}, {f'{half} in pairs' if pairs else numbers})",
        cause="",
        tile=(2 * AMX_ROWS, 2 * AMX_ROWS) if way.amx else (target.rows, target.block(plan.dtype)),
        threads=share.threads,
        by_units=share.by_units,
        weights=f"weights {_weights(way)}",
        input=f"input multiplied {'ahead of the walk' if way.ahead else 'within each step'}"
        f"{' by AMX' if way.amx_ahead else ''}",
        operations=operations,
        bytes=read,
        floor=max(seconds / share.threads, read / rate),
    )


def _weights(way: ForwardWay) -> str:
    """Say how the weights are read."""
    if way.raw_walk:
        return "read as they lie, but for the input's"
    if way.raw:
        return "read as they lie"
    return "packed as three bfloat16 planes" if way.amx else "packed"
