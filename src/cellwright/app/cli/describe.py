"""`cellwright describe`: a cell's equations, or what a trained model is."""

from pathlib import Path
from typing import Annotated

import typer

from cellwright import app
from cellwright.app.cli import late
from cellwright.app.model.choice import NAMES, choose_design
from cellwright.describe import describe

__all__ = ["add_to"]


def verb(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CELL | MODEL",
            help=f"One of {', '.join(NAMES)}, a cell of your own as file.py:name, or the folder "
            "of a trained model.",
        ),
    ],
) -> None:
    """Print a cell's equations, gates and number of parameters, all read off its graph."""
    if Path(what).is_dir():
        typer.echo(late.summarise(app.load(what)))
    else:
        typer.echo(str(describe(choose_design(what).cell)))


def add_to(program: typer.Typer) -> None:
    """Add the verb."""
    program.command("describe", epilog="Example: cellwright describe gru")(verb)
