"""`cellwright bench`: layers of the user's own sizes, timed against torch.nn's."""

from typing import Annotated

import typer

from cellwright.app.cli import late
from cellwright.app.cli.checks import at_least

__all__ = ["add_to"]


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
    seconds: Annotated[
        float, typer.Option(callback=at_least(0), help="Time spent on a row, at least.")
    ] = 0.4,
) -> None:
    """Time a streamed step, a forward pass and a training step beside torch.nn's.

    First both must give the same results and gradients from the same weights; then they take turns
    of five calls or a millisecond. The ratio is torch.nn's median time over Cellwright's.
    """
    late.timed(
        cell,
        (input_size, hidden_size, batch, steps),
        layers=layers,
        threads=threads,
        double=double,
        seconds=seconds,
    )


def add_to(program: typer.Typer) -> None:
    """Add the verb."""
    program.command("bench", epilog="Example: cellwright bench --cell gru --hidden-size 128")(verb)
