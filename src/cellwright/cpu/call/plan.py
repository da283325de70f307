"""What a layer's call is made of: its plan, and the order in which its rows lie."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from cellwright.cpu.call.walks import Layout, Walk
from cellwright.cpu.machine.memory import Strided, contiguous
from cellwright.cpu.machine.target import DTYPES, host
from cellwright.cpu.walk.amx_arrangement import AmxNeed, amx_need
from cellwright.cpu.walk.pairs import paired
from cellwright.graph.accumulate import Step, accumulate
from cellwright.graph.cell import INPUT, PROJECTION, Cell, apart
from cellwright.graph.expr import Expr
from cellwright.graph.runs import runs
from cellwright.graph.schedule import Program, backward, forward

__all__ = [
    "CONSTANTS",
    "ByLengths",
    "Plan",
    "Rows",
    "plan_of",
]


CONSTANTS = ("null", "zeros", "dump", "one")
"""What each call's addresses start with; see ``Plan.constants``."""


class Fed(NamedTuple):
    """``width`` columns of the accumulators from ``column`` on come from rows of ``bundle``."""

    bundle: str
    column: int
    row: int
    width: int


@dataclass(frozen=True, eq=False)
class Plan:
    """What a layer's call needs to know besides its tensors.

    Attributes:
        given: the cell, its first state projected where the layer has a projection.
        inputs, units, outputs: H_in, the units of a gate, H_out.
        dtype: a key of ``target.DTYPES``.
        bias: whether projections have biases.
    """

    given: Cell
    inputs: int
    units: int
    outputs: int
    dtype: str
    bias: bool

    def __post_init__(self) -> None:
        # made before another thread can see the plan: calls have the addresses of these
        for name in ("zeros", "dump", "one", "prepared"):
            getattr(self, name)

    @cached_property
    def cell(self) -> Cell:
        """The cell under names of states that no buffer of a walk has."""
        return apart(self.given)

    @cached_property
    def step(self) -> Step:
        """The cell's step over accumulators."""
        return accumulate(self.cell)

    @cached_property
    def reads_input(self) -> bool:
        """Whether the bare input is used elementwise."""
        return self.cell.reads_input

    @cached_property
    def parameters(self) -> list[tuple[str, str]]:
        """What one direction's parameters are, in their order: kind, and bundle or vector."""
        bundles = [b for b in self.cell.bundles if b != PROJECTION]
        biases = [("bias", b) for b in bundles if self.bias]
        vectors = [("vector", v) for v in self.cell.vectors]
        last = [("weight", PROJECTION)] if self.step.narrow else []
        return [*(("weight", b) for b in bundles), *biases, *vectors, *last]

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of one direction's parameters."""
        found: list[tuple[int, ...]] = []
        for kind, name in self.parameters:
            gates = len(self.cell.bundles.get(name, ""))
            rows = self.outputs if name == PROJECTION else gates * self.units
            shape = {"weight": (rows, self.width(name)), "bias": (rows,), "vector": (self.units,)}
            found.append(shape[kind])
        return found

    def width(self, name: str) -> int:
        """Return the elements of a row of the input, of a state, or of what is projected."""
        if name == INPUT:
            return self.inputs
        return self.outputs if name == self.cell.states[0] else self.units

    @cached_property
    def accumulators(self) -> int:
        """The elements of a row of all accumulators, side by side."""
        narrow = int(self.step.narrow)
        return (len(self.step.accumulators) - narrow) * self.units + narrow * self.outputs

    @cached_property
    def ends(self) -> list[tuple[str, str, str]]:
        """The buffers of each state: its values, the initial and the final one."""
        return [(s, f"{s}.start", f"{s}.final") for s in self.cell.states]

    @cached_property
    def streamed(self) -> list[str]:
        """The states besides the first that are read across units, so kept at each step."""
        return [s for s in self.cell.states[1:] if s in self.step.projected]

    @cached_property
    def fed(self) -> dict[Expr, list[Fed]]:
        """What each source is multiplied with: the input, the states, the projected expressions."""
        terms = {t.source for a in self.step.accumulators for t in a.terms}
        return {source: self._fed(source) for source in terms}

    def _fed(self, source: Expr) -> list[Fed]:
        H, found = self.units, []
        for bundle, gates in self.cell.bundles.items():
            keys = [
                (slot, row, bundle)
                for row, (slot, gate) in enumerate(zip(self.step.slots(bundle), gates, strict=True))
                if any(
                    t.source is source and (t.bundle, t.gate) == (bundle, gate)
                    for t in self.step.accumulators[slot].terms
                )
            ]
            for slot, row, count, _ in runs(keys):
                width = self.outputs if bundle == PROJECTION else count * H
                found.append(Fed(bundle, slot * H, row * H, width))
        return found

    @cached_property
    def bias_slices(self) -> dict[str, list[slice]]:
        """For each bias, the columns of the accumulators' gradients that make its own."""
        H = self.units
        found: dict[str, list[slice]] = {}
        for bundle in (name for kind, name in self.parameters if kind == "bias"):
            keys = [(slot, row, bundle) for row, slot in enumerate(self.step.slots(bundle))]
            found[bundle] = [slice(slot * H, (slot + n) * H) for slot, _, n, _ in runs(keys)]
        return found

    @cached_property
    def forward_program(self) -> Program:
        """The schedule of the forward walk."""
        return forward(self.cell, self.inputs, self.units, self.outputs, self.bias)

    @cached_property
    def backward_program(self) -> Program:
        """The schedule of the backward walk."""
        return backward(self.cell, self.units, self.outputs)

    @cached_property
    def amx_need(self) -> dict[str, AmxNeed]:
        """What a walk forward or back needs of AMX."""
        lanes = host().lanes(self.dtype)
        programs = {"forward": self.forward_program, "backward": self.backward_program}
        return {way: amx_need(p, lanes) for way, p in programs.items()}

    @cached_property
    def forward_walk(self) -> Walk:
        """The compiled forward walk.

        Raises:
            CompileError: it cannot be compiled on this machine.
        """
        return Walk(self.forward_program, self.dtype)

    @cached_property
    def paired_program(self) -> Program | None:
        """The schedule of the forward walk over pairs of bfloat16, where there is one."""
        return None if self.step.narrow else paired(self.forward_program, self.cell.states[0])

    @cached_property
    def paired_walk(self) -> Walk:
        """The compiled forward walk over pairs.

        Raises:
            CompileError: it cannot be compiled on this machine.
        """
        assert self.paired_program is not None, "this layer has none"
        return Walk(self.paired_program, self.dtype)

    @cached_property
    def backward_walk(self) -> Walk:
        """The compiled backward walk.

        Raises:
            CompileError: it cannot be compiled on this machine.
        """
        return Walk(self.backward_program, self.dtype)

    @cached_property
    def prepared(self) -> dict[tuple[object, ...], Any]:
        """Calls that were made before; see ``cellwright.cpu.call.forward``."""
        return {}

    @cached_property
    def dump(self) -> Tensor:
        """A row that a walk writes its accumulators to where nobody will read them."""
        return torch.empty_like(self.zeros)

    @cached_property
    def item(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype]

    @cached_property
    def work(self) -> int:
        """Multiply-adds of one row at one step."""
        return sum(prod(shape) for shape in self.shapes if len(shape) == 2)

    @cached_property
    def input_work(self) -> int:
        """The part of it that the input's weights take."""
        return self.units * self.inputs * len(self.cell.bundles.get(INPUT, ()))

    @cached_property
    def state_weights(self) -> list[int]:
        """Which of a direction's parameters are weights, but for the input's."""
        named = enumerate(self.parameters)
        return [k for k, (kind, name) in named if kind == "weight" and name != INPUT]

    @cached_property
    def state_rows(self) -> list[int]:
        """Bytes of a row of each of them."""
        return [self.width(self.parameters[k][1]) * self.item for k in self.state_weights]

    @cached_property
    def zeros(self) -> Tensor:
        """As many zeros as a row of any buffer of a walk has."""
        size = max(self.inputs, self.accumulators, self.units, self.outputs)
        return torch.zeros(size, dtype=getattr(torch, self.dtype), device="cpu")

    @cached_property
    def one(self) -> Tensor:
        """The number 1: what a sum over rows is multiplied with."""
        return self.zeros.new_ones(1)

    @cached_property
    def constants(self) -> tuple[int, ...]:
        """The addresses that each call has first, ``CONSTANTS``: null is where nothing lies."""
        return (0, *(t.data_ptr() for t in (self.zeros, self.dump, self.one)))

    def matrix_widths(self, bundles: Iterable[str]) -> dict[str, int]:
        """Return the elements of a row of weights."""
        return {b: self.width(b) for b in bundles}

    @cached_property
    def products_first(self) -> int:
        """Bytes that a row's products with the bare input take."""
        return self.step.input_width * self.units * self.item


@lru_cache(maxsize=1024)
def plan_of(cell: Cell, inputs: int, units: int, outputs: int, dtype: str, bias: bool) -> Plan:
    """Return the plan of a layer; equal layers share one."""
    return Plan(cell, inputs, units, outputs, dtype, bias)


class Rows:
    """The order in which a sequence's rows lie, (step, batch row) to row of a matrix.

    Everything that a layer makes is a matrix (rows, width) in the order of its input, so that large
    products can take all steps at once without copies.
    """

    __slots__ = ("batch_first", "layout", "row_factor", "step_factor")

    def __init__(self, x: Tensor, layout: Layout) -> None:
        self.layout = layout
        packed = layout.counts is not None
        falls = layout.steps > 1 and x.stride(-1) == 1  # else it is copied, time first
        self.batch_first = not packed and falls and x.stride(0) < x.stride(1)
        self.step_factor = 1 if packed or self.batch_first else layout.batch
        self.row_factor = layout.steps if self.batch_first else 1

    def distances(self, width: int) -> tuple[int, int]:
        """Return the distances between steps and between rows of a matrix of rows."""
        return self.step_factor * width, self.row_factor * width

    def form(self, width: int) -> Strided:
        """Return the form of a sequence (L, N, width) or (rows, width) that lies in this order."""
        if self.layout.counts is not None:
            return contiguous(self.layout.rows, width)
        shape = (self.layout.steps, self.layout.batch, width)
        return shape, (*self.distances(width), 1)

    def in_order(self, t: Tensor) -> bool:
        """Whether a sequence lies in this order, without gaps."""
        return (t.transpose(0, 1) if self.batch_first else t).is_contiguous()

    def put_in_order(self, t: Tensor) -> Tensor:
        """Copy a sequence into this order."""
        if self.batch_first:
            return t.transpose(0, 1).contiguous().transpose(0, 1)
        return t.contiguous()


T = TypeVar("T")


class ByLengths(Generic[T]):
    """What depends on the lengths of packed sequences; that of the last call stays.

    Who uses it keeps it: another thread's call may have other lengths.

    Args:
        make: makes it for the rows of a call.
    """

    def __init__(self, make: Callable[[Rows], T]) -> None:
        self._make = make
        self._latest: tuple[Layout, T] | None = None

    def __call__(self, rows: Rows) -> T:
        """Return what was made for these lengths."""
        latest = self._latest
        if latest is None or latest[0] is not rows.layout:
            latest = self._latest = rows.layout, self._make(rows)
        return latest[1]
