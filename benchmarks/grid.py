"""What is timed: the rows with a target ratio, and the wider grid that may never fall under 1."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

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
    """How a row departs from one time-first, one-way float32 layer."""

    name: str = "plain"
    num_layers: int = 1
    bidirectional: bool = False
    batch_first: bool = False
    packed: bool = False
    dtype: Literal["float32", "float64"] = "float32"
    relu: bool = False


@dataclass(frozen=True)
class Row:
    """One measurement: a cell, a piece of work, its sizes, the threads, and the ratio to reach."""

    grid: Literal["targets", "wide"]
    cell: Cell
    work: Work
    shape: Shape
    threads: int
    target: float
    variant: Variant = field(default_factory=Variant)

    @property
    def name(self) -> str:
        """The text that ``--rows`` is matched against."""
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
        hidden, width, columns = self.shape.hidden_size, self.shape.input_size, 0
        for _ in range(self.variant.num_layers):
            columns += directions * (width + hidden)
            width = directions * hidden
        forward = 2 * ROWS_PER_UNIT[self.cell] * hidden * columns * sum(self.lengths)
        return forward * (3 if self.work == "train" else 1)


# sizes, work, ratio to reach for LSTM, GRU, RNN, threads
_TARGETS: tuple[tuple[Shape, Work, tuple[float, float, float], tuple[int, ...]], ...] = (
    (Shape(32, 64, 1, 1), "call", (6, 2.5, 2), (1,)),
    (Shape(128, 256, 1, 1), "call", (9, 2.8, 2), (1,)),
    (Shape(32, 64, 1, 100), "forward", (3.2, 13, 14), (1,)),
    (Shape(32, 64, 16, 128), "forward", (1.7, 4.8, 5), (1,)),
    (Shape(128, 256, 1, 100), "forward", (1.8, 3.2, 3.4), (1,)),
    (Shape(128, 256, 32, 100), "forward", (1.05, 1.75, 1.9), (1, 2)),
    (Shape(512, 1024, 32, 50), "forward", (1.05, 1.75, 1.5), (1, 2)),
    (Shape(32, 64, 1, 100), "train", (2, 35, 25), (1,)),
    (Shape(32, 64, 16, 128), "train", (1.4, 9, 5.5), (1,)),
    (Shape(128, 256, 1, 100), "train", (1.5, 7, 6), (1,)),
    (Shape(64, 128, 256, 64), "train", (1.3, 1.7, 1.5), (1, 2)),
    (Shape(128, 256, 32, 100), "train", (1.2, 1.8, 1.6), (1, 2)),
    (Shape(512, 1024, 32, 50), "train", (1.08, 1.8, 1.6), (1, 2)),
)

_MEDIUM, _SINGLE = Shape(64, 128, 16, 50), Shape(32, 64, 1, 50)
_WIDE: tuple[tuple[Shape, Variant], ...] = (
    (_MEDIUM, Variant("bidirectional", bidirectional=True)),
    (_MEDIUM, Variant("two layers", num_layers=2)),
    (_MEDIUM, Variant("batch first", batch_first=True)),
    (_MEDIUM, Variant("packed", packed=True)),
    (_MEDIUM, Variant("packed bidirectional", packed=True, bidirectional=True)),
    (_MEDIUM, Variant("float64", dtype="float64")),
    (_SINGLE, Variant("bidirectional", bidirectional=True)),
    (_SINGLE, Variant("two layers", num_layers=2)),
    (_SINGLE, Variant("float64", dtype="float64")),
    *((Shape(i, h, b, 50), Variant()) for i, h in ((3, 1), (5, 17), (1, 40), (40, 100), (64, 300))
      for b in (1, 16)),
)  # fmt: skip

MEMORY_SHAPES = (
    Shape(32, 64, 16, 128),
    Shape(64, 128, 256, 64),
    Shape(128, 256, 32, 100),
    Shape(512, 1024, 32, 50),
)


def target_rows() -> Iterator[Row]:
    """The rows with a target of their own, a row at two threads right after its twin at one."""
    for shape, work, targets, thread_counts in _TARGETS:
        for cell, target in zip(CELLS, targets, strict=True):
            for threads in thread_counts:
                yield Row("targets", cell, work, shape, threads, float(target))


def wide_rows(thread_counts: Iterable[int] = (1, 2)) -> Iterator[Row]:
    """The wider grid: every variant and odd size, forward and training step, target 1."""
    works: tuple[Work, ...] = ("forward", "train")
    counts = tuple(thread_counts)
    for shape, variant in _WIDE:
        for cell in CELLS:
            for work in works:
                yield from (Row("wide", cell, work, shape, n, 1.0, variant) for n in counts)
    relu = Variant("relu", relu=True)
    for work in works:
        yield from (Row("wide", "RNN", work, _MEDIUM, n, 1.0, relu) for n in counts)
