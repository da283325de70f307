"""Tell beforehand how a call will run: which kernel, tile, threads, and how fast it can be."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from cellwright.autograd.obstacle import obstacle
from cellwright.autograd.operation import plan_for
from cellwright.cpu.forward import reads_raw
from cellwright.cpu.plan import Plan, projects_first, share_of
from cellwright.cpu.rates import matrix_rate, read_rate
from cellwright.cpu.target import Target, host
from cellwright.cpu.walks import Layout
from cellwright.errors import CompileError
from cellwright.nn import Recurrent
from cellwright.nn.recurrent import is_dense
from cellwright.nn.sequence import SequenceModel

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
    """Tell which kernel, tile, threads and floor a call ``module(input)`` gets. Runs nothing.

    The floor is the larger of two times: the operations at the measured rate of this machine's
    matrix product, and the weights read at its measured bandwidth, times the number of steps.

    Args:
        module: a module of ``cellwright.nn``.
        input: what it would be called with: (L, N, H_in), (N, L, H_in) if batch first, (L, H_in),
            or a PackedSequence.

    Raises:
        TypeError: the module has no recurrent layers of Cellwright's.
    """
    recurrent = module.recurrent if isinstance(module, SequenceModel) else module
    if not isinstance(recurrent, Recurrent):
        raise TypeError(
            "explain takes a module of cellwright.nn (RNN, LSTM, GRU, Recurrent, SequenceModel), "
            f"not {type(module).__module__}.{type(module).__name__}"
        )
    x, layout = _sequence(recurrent, input)
    layers = []
    for number in range(recurrent.num_layers):
        layers.append(_layer(recurrent, number, x, layout))
        width = (recurrent.proj_size or recurrent.hidden_size) * (
            2 if recurrent.bidirectional else 1
        )
        x = x.new_empty(1).expand(*x.shape[:-1], width)
    compiled = all(not layer.cause for layer in layers)
    backward = (
        "derived kernel, then a matrix product for each weight and the input over all steps; a "
        "second derivative (create_graph=True) takes the interpreter"
        if compiled
        else "torch's autograd through the interpreter"
    )
    return Explanation(repr(recurrent), tuple(layers), backward)


def _sequence(recurrent: Recurrent, given: Tensor | PackedSequence) -> tuple[Tensor, Layout]:
    """Return the input as layers see it, and its layout."""
    if isinstance(given, PackedSequence):
        sizes = given.batch_sizes.tolist()
        if not is_dense(sizes, given.data):
            return given.data, Layout(len(sizes), sizes[0], sizes)
        x = given.data.unflatten(0, (len(sizes), sizes[0]))
        return x, Layout(len(sizes), sizes[0], None)
    x = given.unsqueeze(1) if given.dim() == 2 else given
    if recurrent.batch_first and given.dim() == 3:
        x = x.transpose(0, 1)
    return x, Layout(x.shape[0], x.shape[1], None)


def _layer(recurrent: Recurrent, number: int, x: Tensor, layout: Layout) -> LayerExplanation:
    weights = recurrent._weights(number)
    cause = obstacle(x, weights)
    plan: Plan | None = None
    target: Target | None = None
    if cause is None:
        try:
            target = host()
            plan = plan_for(recurrent._whole_cell, x, weights, recurrent.hidden_size)
        except CompileError as error:
            cause = str(error)
    if plan is None or target is None:
        cause = cause or "the parameters do not fit the input"
        return LayerExplanation(number, "interpreter", cause, (0, 0), 1, False, "", "", 0, 0, 0.0)
    share = share_of(plan, layout)
    threads = share.threads
    directions = len(weights)
    raw = reads_raw(plan, layout)
    ahead = not raw and projects_first(plan, layout)
    operations = 2 * layout.rows * plan.work * directions
    once = plan.input_work if ahead else 0
    read = ((plan.work - once) * layout.steps + once) * plan.item * directions
    rate = read_rate(max(_SMALLEST, plan.work * plan.item)) * (threads if share.by_units else 1)
    floor = max(operations / (threads * matrix_rate(plan.dtype)), read / rate)
    return LayerExplanation(
        number,
        f"{plan.cell.name}_forward ({target.name}, {plan.dtype})",
        "",
        (target.rows, target.block(plan.dtype)),
        threads,
        share.by_units,
        "weights read as they lie" if raw else "weights packed",
        "input multiplied ahead of the walk" if ahead else "input multiplied within each step",
        operations,
        read,
        floor,
    )
