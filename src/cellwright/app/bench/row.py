"""What is timed: a cell, a piece of work, its sizes and how it departs from a plain layer."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CELLS", "WORK_NAMES", "Cell", "Row", "Shape", "Variant", "Work"]

Cell = Literal["LSTM", "GRU", "RNN"]
CELLS: tuple[Cell, ...] = ("LSTM", "GRU", "RNN")
ROWS_PER_UNIT: dict[Cell, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}

Work = Literal["call", "forward", "train"]
WORK_NAMES: dict[Work, str] = {
    "call": "module call, no grad",
    "forward": "forward",
    "train": "training step",
}


@dataclass(frozen=True)
class Shape:
    """Sizes in the order of the tables: input, hidden, batch, steps."""

    input_size: int
    hidden_size: int
    batch: int
    steps: int

    def __str__(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, {self.batch}, {self.steps}"


@dataclass(frozen=True)
class Variant:
    """How a row departs from one time-first, one-way float32 layer.

    ``autocast``: called within autocast to bfloat16.
    """

    name: str = "plain"
    num_layers: int = 1
    bidirectional: bool = False
    batch_first: bool = False
    packed: bool = False
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = "float32"
    relu: bool = False
    proj_size: int = 0
    autocast: bool = False


@dataclass(frozen=True)
class Row:
    """One measurement: a cell, a piece of work, its sizes, the threads, and the ratio to reach."""

    grid: Literal["targets", "wide", "halves", "own"]
    cell: Cell
    work: Work
    shape: Shape
    threads: int
    target: float
    variant: Variant = field(default_factory=Variant)

    @property
    def name(self) -> str:
        """All of it in one line."""
        return (
            f"{self.grid} {self.cell} {self.work} {self.shape} {self.variant.name} "
            f"threads={self.threads}"
        )

    @property
    def lengths(self) -> list[int]:
        """The valid steps of each sequence: mixed, unsorted and from 1 to T where packed."""
        batch, steps = self.shape.batch, self.shape.steps
        if not self.variant.packed:
            return [steps] * batch
        return [1 + (7 * row + steps - 1) % steps for row in range(batch)]

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products; a backward pass is two more."""
        directions = 2 if self.variant.bidirectional else 1
        hidden, width, weights = self.shape.hidden_size, self.shape.input_size, 0
        projected = self.variant.proj_size
        for _ in range(self.variant.num_layers):
            columns = width + self.output_size
            weights += directions * hidden * (ROWS_PER_UNIT[self.cell] * columns + projected)
            width = directions * self.output_size
        forward = 2 * weights * sum(self.lengths)
        return forward * (3 if self.work == "train" else 1)

    @property
    def output_size(self) -> int:
        """H_out of one direction."""
        return self.variant.proj_size or self.shape.hidden_size
