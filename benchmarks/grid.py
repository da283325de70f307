"""The rows with a target ratio, the wider grid that may never fall under 1, half precision."""

from collections.abc import Iterable, Iterator
from itertools import product

from cellwright.app.bench.row import CELLS, Row, Shape, Variant, Work

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
    *((Shape(i, h, b, 1), Variant()) for i, h in ((32, 64), (128, 256)) for b in (1, 16)),
    *((Shape(512, 1024, b, 50), Variant()) for b in (1, 4)),
)  # fmt: skip
_HALVES = (Variant("float16", dtype="float16"), Variant("bfloat16", dtype="bfloat16"))
_HALF_SHAPES = (
    *(Shape(i, h, 1, 1) for i, h in ((32, 64), (128, 256), (512, 1024))),
    *(Shape(i, h, b, 100) for i, h in ((32, 64), (128, 256)) for b in (1, 16)),
    Shape(128, 256, 32, 100),
)

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
    narrow = Variant("proj_size 16", proj_size=16)
    for work in works:
        yield from (Row("wide", "RNN", work, _MEDIUM, n, 1.0, relu) for n in counts)
        for shape in (_MEDIUM, _SINGLE):
            yield from (Row("wide", "LSTM", work, shape, n, 1.0, narrow) for n in counts)


def half_rows() -> Iterator[Row]:
    """Half precision without gradients, and autocast forward and training, on one thread."""
    for shape, variant, cell in product(_HALF_SHAPES, _HALVES, CELLS):
        yield Row("halves", cell, "forward", shape, 1, 1.0, variant)
    works: tuple[Work, ...] = ("forward", "train")
    for work, shape, cell in product(works, _HALF_SHAPES, CELLS):
        yield Row("halves", cell, work, shape, 1, 1.0, Variant("autocast", autocast=True))
