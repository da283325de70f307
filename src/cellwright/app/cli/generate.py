"""`cellwright generate`: text from a language model."""

from pathlib import Path
from typing import Annotated

import typer

from cellwright import app
from cellwright.app.cli.checks import at_least

__all__ = ["add_to"]


def verb(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a trained model.")],
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    length: Annotated[
        int, typer.Option(callback=at_least(0), help="Characters to write, or bytes.")
    ] = 200,
    temperature: Annotated[
        float,
        typer.Option(
            callback=at_least(0),
            help="1: as learned; less is more cautious; 0: always the likeliest.",
        ),
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(callback=at_least(0), help="The same seed writes the same text.")
    ] = 0,
) -> None:
    """Write text after a prompt, character by character."""
    written = app.generate(model, prompt, length=length, temperature=temperature, seed=seed)
    typer.echo(prompt, nl=False)
    for text in written:
        typer.echo(text, nl=False)
    typer.echo()


def add_to(program: typer.Typer) -> None:
    """Add the verb."""
    program.command(
        "generate", epilog='Example: cellwright generate model/ --prompt "The " --length 300'
    )(verb)
