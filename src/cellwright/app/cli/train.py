"""`cellwright train`: from a file to the folder of a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cellwright import app
from cellwright.app.cli import late
from cellwright.app.cli.checks import at_least, is_seed
from cellwright.app.cli.command import command_line, is_first_process
from cellwright.app.cli.groups import gathered
from cellwright.app.cli.options import DataOptions, NetworkOptions, TrainingOptions
from cellwright.app.cli.progress import Bars
from cellwright.app.training.metrics import METRICS, Metric

if TYPE_CHECKING:  # what trains is imported when it is needed
    from cellwright.app.model.folder import Model

__all__ = ["add_to"]


@gathered
def verb(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A file, or vowels, weather or topics.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Where the model is written; one that is there is replaced when this one is done.",
        ),
    ],
    means: DataOptions,
    network: NetworkOptions,
    training: TrainingOptions,
    cell: Annotated[
        str,
        typer.Option(
            "--cell",
            metavar="CELL",
            help="rnn, gru, lstm, rnn_relu; bi-gru for two directions; file.py:name for your own.",
        ),
    ] = "gru",
    seed: Annotated[int, typer.Option(callback=is_seed, help="Of weights, batches and noise.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was interrupted.")
    ] = False,
    devices: Annotated[
        int, typer.Option(callback=at_least(1), help="Processes that share each batch.")
    ] = 1,
) -> None:
    """Train a network with early stopping on a validation part; keep the best epoch as a folder.

    Ctrl-C ends after the step at hand; the best epoch so far and a checkpoint are kept. An older
    model in the folder then stays until --resume has come to the end.
    """
    design = network.design(cell)
    options, changes = means.options, training.changes
    late.require_free(out, resume=resume)
    problem = app.read(data, options, test=means.test)
    if is_first_process():
        typer.echo(f"{problem.name}: {problem.summary}", err=True)
    metric = METRICS[problem.schema.task]
    with Bars(metric) as bars:
        model = app.train(
            problem,
            cell=design,
            recipe=app.recipe_for(problem, **changes),
            seed=seed,
            out=out,
            resume=resume,
            devices=devices,
            command=command_line(),
            progress=bars.tell,
        )
    if is_first_process():
        typer.echo(f"{out}: {_outcome(model, metric)}")


def add_to(program: typer.Typer) -> None:
    """Add the verb."""
    program.command(
        "train",
        epilog="Example: cellwright train readings.csv --target state --cell gru --out model/",
    )(verb)


def _outcome(model: "Model", metric: Metric) -> str:
    found, done = model.about["metrics"], model.about["training"]
    scores = [
        f"{part} {metric.name} {found[part]:.4f}"
        for part in ("validation", "test")
        if found[part] is not None
    ]
    return (
        f"{model.network.design.label}, best epoch {done['best_epoch']} of {done['epochs']}; "
        f"{', '.join(scores)}"
    )
