"""The rows of `cellwright bench`: which there are, their times, their table."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

import cellwright.nn
from cellwright.app.bench import machine
from cellwright.app.bench.measure import Result, measure_row
from cellwright.app.bench.row import Cell, Row, Shape, Variant, Work
from cellwright.app.bench.timing import Budget, Times
from cellwright.app.errors import InputError
from cellwright.app.model.choice import choose_design
from cellwright.cells import CELLS

__all__ = ["timed"]

TORCH_CELLS: dict[str, Cell] = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru": "GRU"}
UNITS = (("s", 1.0), ("ms", 1e3), ("µs", 1e6))
WHAT: dict[Work, str] = {
    "call": "streamed step",
    "forward": "forward",
    "train": "training step",
}


def timed(
    cells: Sequence[str],
    sizes: tuple[int, int, int, int],
    *,
    layers: int,
    threads: int | None,
    double: bool,
    seconds: float,
) -> None:
    """Print the times of each cell beside torch.nn's.

    Args:
        cells: their names.
        sizes: features, units, sequences of a batch, steps of a sequence.
        layers: stacked layers.
        threads: None for as many as torch takes.
        double: float64 in place of float32.
        seconds: spent on a row, at least.

    Raises:
        typer.Exit: a row whose results are not torch.nn's.
    """
    shape = Shape(*sizes)
    count = torch.get_num_threads() if threads is None else threads
    rows = [row for name in cells for row in _rows(name, shape, count, layers, double)]
    described = machine.describe()  # before our own work adds to the load
    with machine.on_threads(count):
        results = [
            measure_row(row, cellwright.nn, torch.nn, Budget(seconds=seconds)) for row in rows
        ]
    Console().print(_table(results, shape))
    typer.echo(f"{count} thread{'s' if count > 1 else ''}; {machine.line(described)}.")
    failures = [result for result in results if result.failure is not None]
    for result in failures:
        typer.echo(f"error: {result.row.cell} {result.row.work}: {result.failure}", err=True)
    if failures:
        raise typer.Exit(1)


def _rows(name: str, shape: Shape, threads: int, layers: int, double: bool) -> list[Row]:
    design = choose_design(name, hidden_size=shape.hidden_size, num_layers=layers)
    if design.cell not in CELLS.values():
        raise InputError(
            f"expected a cell that torch.nn has, but got {name!r}; give rnn, rnn_relu, gru or lstm"
        )
    variant = Variant(
        design.label,
        num_layers=layers,
        bidirectional=design.bidirectional,
        dtype="float64" if double else "float32",
        relu=design.cell.name == "rnn_relu",
    )
    one_step = replace(shape, batch=1, steps=1)
    return [
        Row("own", TORCH_CELLS[design.cell.name], work, one_step if work == "call" else shape,
            threads, 1.0, variant)
        for work in WHAT
        if not (work == "call" and design.bidirectional)  # two directions cannot stream
    ]  # fmt: skip


def _table(results: Sequence[Result], shape: Shape) -> Table:
    made = Table(
        title=f"input {shape.input_size}, hidden {shape.hidden_size}, batch {shape.batch}, "
        f"{shape.steps} steps",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for header in ("model", "what"):
        made.add_column(header, no_wrap=True)
    for header in ("torch.nn\n(20–80 %)", "Cellwright\n(20–80 %)", "ratio"):
        made.add_column(header, justify="right", no_wrap=True)
    for result in results:
        ours, theirs = result.ours, result.torch
        made.add_row(
            result.row.variant.name,
            WHAT[result.row.work],
            "–" if theirs is None else _spread(theirs),
            "–" if ours is None else _spread(ours),
            "FAILED" if result.ratio is None else f"{result.ratio:.2f}×",
        )
    return made


def _spread(times: Times) -> str:
    """Median and quantiles in the unit that suits the median."""
    unit, scale = next(
        (unit, scale) for unit, scale in UNITS if times.median >= 1 / scale or unit == "µs"
    )
    median, low, high = (_figures(one * scale) for one in (times.median, times.low, times.high))
    return f"{median} {unit} ({low}–{high})"


def _figures(value: float) -> str:
    """Three figures, or the whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
