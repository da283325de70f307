"""`cellwright predict`: a model's predictions for a file."""

from pathlib import Path
from typing import Annotated

import typer

from cellwright import app
from cellwright.app.cli import late

__all__ = ["add_to"]


def verb(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a trained model.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="File with the columns that the model reads.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to: .csv, .parquet or .jsonl. Default: CSV on standard output",
        ),
    ] = None,
    every_step: Annotated[
        bool,
        typer.Option("--every-step", help="Forecast from each step, not from the last alone."),
    ] = False,
) -> None:
    """Predict the classes of sequences with probabilities, or forecast with intervals.

    A forecast's p10, p50 and p90 are quantiles: 80 % of the values are expected between the outer
    two.
    """
    if out is not None:
        late.require_table(out)
    table = app.predict(model, data, every_step=every_step)
    if out is None:
        typer.echo(late.csv_of(table), nl=False)
        return
    late.write_table(table, out)
    typer.echo(f"{out}: {table.height:,} {'row' if table.height == 1 else 'rows'}")


def add_to(program: typer.Typer) -> None:
    """Add the verb."""
    program.command(
        "predict", epilog="Example: cellwright predict model/ new.csv --out predictions.csv"
    )(verb)
