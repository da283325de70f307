"""`cellwright bench`: layers of the user's own sizes, timed against torch.nn's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

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
from cellwright.app.cli.checks import at_least
from cellwright.app.errors import InputError
from cellwright.app.model.choice import choose_design
from cellwright.cells import CELLS

__all__ = ["add_to"]

TORCH_CELLS: dict[str, Cell] = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru": "GRU"}
UNITS = (("s", 1.0), ("ms", 1e3), ("µs", 1e6))
WHAT: dict[Work, str] = {
    "call": "streamed step",
    "forward": "forward",
    "train": "training step",
}


def verb(
    cell: Annotated[
        list[str], typer.Option(help="rnn, rnn_relu, gru or lstm; bi-gru for two directions.")
    ] = ["lstm", "gru", "rnn"],  # noqa: B006  # Typer copies it
    input_size: Annotated[int, typer.Option(callback=at_least(1), help="Features of a step.")] = 32,
    hidden_size: Annotated[int, typer.Option(callback=at_least(1), help="Units of a layer.")] = 64,
    batch: Annotated[int, typer.Option(callback=at_least(1), help="Sequences of a batch.")] = 16,
    steps: Annotated[int, typer.Option(callback=at_least(1), help="Steps of a sequence.")] = 100,
    layers: Annotated[int, typer.Option(callback=at_least(1), help="Stacked layers.")] = 1,
    threads: Annotated[
        int | None, typer.Option(callback=at_least(1), help="Default: as many as torch takes.")
    ] = None,
    double: Annotated[bool, typer.Option("--double", help="float64 in place of float32.")] = False,
    seconds: Annotated[float, typer.Option(help="Time spent on a row, at least.")] = 0.4,
) -> None:
    """Time a streamed step, a forward pass and a training step beside torch.nn's.

    First both must give the same results and gradients from the same weights; then they take turns
    call by call. The ratio is torch.nn's median time over Cellwright's.
    """
    count = torch.get_num_threads() if threads is None else threads
    shape = Shape(input_size, hidden_size, batch, steps)
    rows = [row for name in cell for row in _rows(name, shape, count, layers, double)]
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


def add_to(program: typer.Typer) -> None:
    """Add the verb."""
    program.command("bench", epilog="Example: cellwright bench --cell gru --hidden-size 128")(verb)


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
