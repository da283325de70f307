"""`cellwright compare`: the same budget for every cell, beside torch.nn and plain methods."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from cellwright import app
from cellwright.app.cli import late
from cellwright.app.cli.checks import at_least
from cellwright.app.cli.command import command_line
from cellwright.app.cli.groups import gathered
from cellwright.app.cli.options import DataOptions, NetworkOptions, TrainingOptions
from cellwright.app.cli.progress import Bars
from cellwright.app.training.metrics import METRICS

if TYPE_CHECKING:  # what trains is imported when it is needed
    from cellwright.app.training.session import Update

__all__ = ["add_to"]


@gathered
def verb(
    means: DataOptions,
    network: NetworkOptions,
    training: TrainingOptions,
    data: Annotated[
        str,
        typer.Argument(
            metavar="[DATA]", help="A file, or one of the bundled vowels, weather and topics."
        ),
    ] = "vowels",
    cell: Annotated[
        list[str] | None,
        typer.Option(
            "--cell",
            metavar="CELL",
            help="rnn, gru, lstm, rnn_relu; bi-gru for two directions; file.py:name for your own. "
            "May be repeated. Default: RNN, GRU, LSTM, and to classify both in two directions",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(callback=at_least(1), help="Trainings of each cell, from seed 0 on.")
    ] = 3,
    torch_seeds: Annotated[
        int | None,
        typer.Option(
            callback=at_least(0), help="How many of them to repeat on torch.nn. Default: 1"
        ),
    ] = None,
    report: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the report is written.")
    ] = Path("report.html"),
) -> None:
    """Train several cells with several seeds and judge them on the test part.

    Without DATA: RNN, GRU, LSTM and the latter two in two directions, on Japanese Vowels.
    """
    if torch_seeds is not None and torch_seeds > seeds:
        raise typer.BadParameter(
            f"expected at most as many as --seeds, {seeds}, but got {torch_seeds}; "
            "raise --seeds or lower --torch-seeds",
            param_hint="'--torch-seeds'",
        )
    designs = [network.design(one) for one in cell] if cell else None
    options, changes = means.options, training.changes
    late.require_place(report)
    problem = app.read(data, options, test=means.test)
    typer.echo(f"{problem.name}: {problem.summary}", err=True)
    with Bars(METRICS[problem.schema.task]) as bars:

        def watch(description: str, update: "Update | None") -> None:
            if update is None:
                bars.begin(description)
            else:
                bars.tell(update)

        made = app.compare(
            problem,
            cells=designs,
            recipe=app.recipe_for(problem, **changes),
            seeds=seeds,
            torch_seeds=min(1, seeds) if torch_seeds is None else torch_seeds,
            report=report,
            command=command_line(),
            progress=watch,
            **network.sizes,
        )
    Console().print(late.table(made))
    Console().print(Text(f"{late.verdict(made)}\nReport: {report}"))


def add_to(program: typer.Typer) -> None:
    """Add the verb."""
    program.command(
        "compare", epilog="Example: cellwright compare readings.csv --target state --seeds 5"
    )(verb)
