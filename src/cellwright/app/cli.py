"""The command line: `cellwright compare` and `cellwright describe`."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cellwright.app import vowels_table as report
from cellwright.app.vowels_comparison import Outcome, Plan, compare
from cellwright.app.vowels_data import Dataset, load_japanese_vowels
from cellwright.app.vowels_training import Recipe
from cellwright.cells import CELLS
from cellwright.describe import describe

app = typer.Typer(
    help="Recurrent cells, compiled from their equations.",
    epilog="Example: cellwright describe lstm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULTS = Plan()


def _at_least(least: int) -> Callable[[int], int]:
    """A check of an option that says what came; Typer's own `min` does not."""

    def check(value: int) -> int:
        if value < least:
            raise typer.BadParameter(f"expected at least {least}, but got {value}")
        return value

    return check


@app.command("compare", epilog="Example: cellwright compare --epochs 20 --seeds 1")
def compare_command(
    epochs: Annotated[
        int, typer.Option(callback=_at_least(1), help="Passes over the training split.")
    ] = DEFAULTS.recipe.epochs,
    seeds: Annotated[
        int, typer.Option(callback=_at_least(1), help="Trainings of each model, from seed 0 on.")
    ] = DEFAULTS.seeds,
    torch_seeds: Annotated[
        int, typer.Option(callback=_at_least(0), help="How many of them to repeat on torch.nn.")
    ] = DEFAULTS.torch_seeds,
    hidden_size: Annotated[
        int, typer.Option(callback=_at_least(1), help="Hidden units of a layer and direction.")
    ] = DEFAULTS.hidden_size,
) -> None:
    """Train RNN, GRU, LSTM and the two-way GRU and LSTM on Japanese Vowels, beside torch.nn."""
    if torch_seeds > seeds:
        raise typer.BadParameter(
            f"expected at most as many as --seeds, {seeds}, but got {torch_seeds}; "
            "raise --seeds or lower --torch-seeds",
            param_hint="'--torch-seeds'",
        )
    plan = Plan(
        Recipe(epochs=epochs), hidden_size=hidden_size, seeds=seeds, torch_seeds=torch_seeds
    )
    dataset = load_japanese_vowels()
    outcomes = _with_progress(dataset, plan)
    Console().print(report.table(outcomes, dataset, plan))


@app.command("describe", epilog="Example: cellwright describe gru")
def describe_command(
    cell: Annotated[str, typer.Argument(help=f"One of {', '.join(CELLS)}.")],
) -> None:
    """Print a cell's equations, gates and number of parameters, all read off its graph."""
    if cell not in CELLS:
        near = get_close_matches(cell, CELLS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise typer.BadParameter(
            f"expected one of {', '.join(CELLS)}, but got {cell!r}{hint}", param_hint="'CELL'"
        )
    typer.echo(str(describe(CELLS[cell])))


def main() -> None:
    """Entry point of the `cellwright` command."""
    app()


def _with_progress(dataset: Dataset, plan: Plan) -> list[Outcome]:
    """Run the comparison behind a bar on standard error, so that output can be piped."""
    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Two refreshes a second: the bar's thread must not take time from what is being timed.
    with Progress(
        *columns, console=Console(stderr=True), refresh_per_second=2, transient=True
    ) as bar:
        task = bar.add_task("compiling kernels", total=plan.trainings)
        started = 0

        def next_training(description: str) -> None:
            nonlocal started
            bar.update(task, description=description, completed=started)
            started += 1

        return compare(dataset, plan, next_training)
