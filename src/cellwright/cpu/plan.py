"""What a layer's call is made of: its plan, its memory, and the choice of how to run it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cellwright.cpu.target import DTYPES
from cellwright.cpu.team import Team
from cellwright.cpu.walks import Field, Layout
from cellwright.graph.accumulate import Step, accumulate
from cellwright.graph.trace import INPUT, Cell

__all__ = ["RAW_ROWS", "Kept", "Plan", "empty_like", "field", "flat", "projects_first", "threads_for", "zero_row"]

RAW_ROWS = 2
"""Up to so many rows in all, packing costs more than reading the weights as they lie."""
_TEAM_WORK = 200_000
"""Multiply-adds from which a call is shared out over the team."""
_PROJECTED_BYTES = 1 << 26
"""The product of the whole input with its weights is stored only up to this size."""


@dataclass(frozen=True)
class Plan:
    """What a layer's call needs to know besides its tensors."""

    cell: Cell
    inputs: int
    units: int
    dtype: str
    bias: bool

    @property
    def step(self) -> Step:
        """The cell's step over accumulators."""
        return accumulate(self.cell)


@dataclass
class Kept:
    """What one direction's forward walk leaves for the backward walk."""

    accumulators: Tensor
    states: list[Tensor]
    expressions: list[Tensor]


def threads_for(plan: Plan, layout: Layout) -> int:
    """Return how many threads share the rows of a call."""
    width = sum(len(g) for g in plan.cell.bundles.values()) * plan.units
    work = layout.rows * width * (plan.inputs + plan.units) // 2
    return 1 if work < _TEAM_WORK else max(1, min(Team.threads(), layout.batch))


def projects_first(plan: Plan, layout: Layout) -> bool:
    """Whether the whole input is multiplied by its weights ahead of the walk.

    With few rows a step reads all weights for little work, and one large product reads the
    input's only once. With more rows the tiles do the same work without the detour over memory.
    """
    terms = [t for a in plan.step.accumulators for t in a.terms if t.bundle == INPUT]
    if not terms or any(t.is_expression for t in terms):
        return False
    size = layout.rows * len(terms) * plan.units * DTYPES[plan.dtype]
    return layout.rows > RAW_ROWS and layout.batch < 3 and size <= _PROJECTED_BYTES


def field(t: Tensor, packed: bool, item: int = 0) -> Field:
    """Address a sequence: (L, N, ·) dense, or (rows, ·) packed."""
    return (t.data_ptr(), t.stride(0), t.stride(0) if packed else t.stride(1))


def empty_like(x: Tensor, width: int, packed: bool) -> Tensor:
    """Return an empty sequence whose rows lie in the order of those of ``x``."""
    if packed:
        return x.new_empty(x.shape[0], width)
    if x.stride(0) < x.stride(1) and x.shape[0] > 1:
        return x.new_empty(x.shape[1], x.shape[0], width).transpose(0, 1)
    return x.new_empty(x.shape[0], x.shape[1], width)


def flat(t: Tensor) -> Tensor:
    """Return a sequence as a matrix of its rows in the order in which they lie."""
    if t.dim() == 2:
        return t
    if t.stride(0) < t.stride(1) and t.shape[0] > 1:
        t = t.transpose(0, 1)
    return t.reshape(-1, t.shape[-1])


_zeros: dict[tuple[str, int], Tensor] = {}


def zero_row(plan: Plan) -> int:
    """Return the address of enough zeros for a row of any width in a walk."""
    width = len(plan.step.accumulators) * plan.units
    key = (plan.dtype, width)
    if key not in _zeros:
        _zeros[key] = torch.zeros(width, dtype=getattr(torch, plan.dtype))
    return _zeros[key].data_ptr()
