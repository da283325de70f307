"""What trains: the functions of `cellwright.app` that the verbs compare and train are thin over."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl
import torch

from cellwright.app.data.atomic import require_place
from cellwright.app.data.options import Options
from cellwright.app.data.reading import Data, read
from cellwright.app.errors import InputError
from cellwright.app.model.choice import choose_design
from cellwright.app.model.design import Design
from cellwright.app.model.folder import Model, holds_finished, save_model
from cellwright.app.problem import Problem
from cellwright.app.report import write_report
from cellwright.app.schema import Task
from cellwright.app.training import comparison, session
from cellwright.app.training.checkpoint import remove_checkpoint, require_free
from cellwright.app.training.comparison import Watch
from cellwright.app.training.metrics import METRICS
from cellwright.app.training.recipe import Recipe, recipe_for
from cellwright.app.training.results import Comparison
from cellwright.app.training.session import Progress, Trained
from cellwright.graph.cell import Cell

__all__ = ["compare", "train"]

CELLS: dict[Task, tuple[str, ...]] = {
    Task.CLASSIFY: ("rnn", "gru", "lstm", "bi-gru", "bi-lstm"),
    Task.FORECAST: ("rnn", "gru", "lstm"),
    Task.TEXT: ("rnn", "gru", "lstm"),
}
"""What is compared where nothing is named."""


def compare(
    data: Data = "vowels",
    options: Options | None = None,
    *,
    test: pl.DataFrame | Path | str | None = None,
    cells: Sequence[Cell | str | Design] | None = None,
    hidden_size: int = 64,
    num_layers: int = 1,
    dropout: float = 0.0,
    recipe: Recipe | None = None,
    seeds: int = 3,
    torch_seeds: int = 1,
    report: Path | str | None = None,
    command: str = "cellwright.app.compare(…)",
    progress: Watch | None = None,
) -> Comparison:
    """Train several cells with several seeds under one budget, beside torch.nn and plain methods.

    Args:
        data: as of `read`. Default: Japanese Vowels
        options: what is not to be inferred.
        test: what to test on. Default: a share of `data`
        cells: names as of `choose_design`, cells, or designs. Default: RNN, GRU and LSTM; to
            classify, GRU and LSTM in two directions as well
        hidden_size: units of a layer and direction.
        num_layers: stacked layers.
        dropout: probability, between layers and before the readout.
        recipe: how each is trained. Default: that of the task, `recipe_for(problem)`
        seeds: trainings of each cell, from seed 0 on.
        torch_seeds: how many of these are repeated on torch.nn.
        report: where to write the report, one HTML file. Default: nowhere
        command: what the report says made it.
        progress: told of each training and of each step of it.

    Raises:
        InputError: the data, a cell or a number cannot be used as it is.
        CellwrightError: torch.nn's outputs differ from ours.
    """

    def designs(wanted: Sequence[Cell | str | Design]) -> list[Design]:
        return [_design(one, hidden_size, num_layers, dropout) for one in wanted]

    # What can be judged without the data is judged before it is read.
    if report is not None:
        require_place(Path(report))
    chosen = designs(CELLS[Task.TEXT] if cells is None else cells)
    problem = read(data, options, test=test)
    if cells is None:
        chosen = designs(CELLS[problem.schema.task])
    made = comparison.compare(
        problem,
        chosen,
        recipe or recipe_for(problem),
        seeds=seeds,
        torch_seeds=torch_seeds,
        command=command,
        progress=progress,
    )
    if report is not None:
        write_report(report, made)
    return made


def train(
    data: Data,
    options: Options | None = None,
    *,
    test: pl.DataFrame | Path | str | None = None,
    cell: Cell | str | Design = "gru",
    hidden_size: int = 64,
    num_layers: int = 1,
    dropout: float = 0.0,
    recipe: Recipe | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    devices: int = 1,
    command: str = "cellwright.app.train(…)",
    progress: Progress | None = None,
) -> Model:
    """Train a network and keep its best epoch; with `out`, as a folder that `load` reads.

    Args:
        data: as of `read`.
        options: what is not to be inferred.
        test: what to test on. Default: a share of `data`
        cell: a name as of `choose_design`, a cell, or a design.
        hidden_size: units of a layer and direction.
        num_layers: stacked layers.
        dropout: probability, between layers and before the readout.
        recipe: how it is trained. Default: that of the task, `recipe_for(problem)`
        seed: of the initial weights, the batches' order and the noise.
        out: the model's folder. Checkpoints lie in it until the training is finished.
        resume: go on from the checkpoint in `out`.
        devices: processes that share each batch.
        command: what the model says made it.
        progress: called after each step and each epoch.

    Returns:
        The model; `about` holds what is known of its training, its "metrics" among it.

    Raises:
        InputError: the data, the cell or a number cannot be used as it is.
        Interrupted: Ctrl-C. The best epoch so far is saved in `out`, unless a finished model is
            there, with a checkpoint beside it.
    """
    design = _design(cell, hidden_size, num_layers, dropout)
    if not 0 <= seed < 2**63:
        raise InputError(f"expected a seed from 0 to below 2⁶³, but got {seed}")
    if out is not None:
        require_free(Path(out), resume=resume)
    problem = read(data, options, test=test)
    used = recipe or recipe_for(problem)
    try:
        trained = session.train(
            problem,
            design,
            used,
            seed=seed,
            folder=out,
            resume=resume,
            devices=devices,
            progress=progress,
        )
    except session.Interrupted as interrupt:
        if out is not None and _is_first_process():
            older = holds_finished(out)
            if interrupt.trained.best_epoch and not older:
                model = _as_model(problem, interrupt.trained, used, command, finished=False)
                save_model(model, out)
            interrupt.add_note(_kept(interrupt, Path(out), older=older))
        raise
    model = _as_model(problem, trained, used, command, finished=True)
    if out is not None and _is_first_process():
        save_model(model, out)
        remove_checkpoint(out)
    return model


def _design(cell: Cell | str | Design, hidden: int, layers: int, dropout: float) -> Design:
    if isinstance(cell, Design):
        return cell
    return choose_design(cell, hidden_size=hidden, num_layers=layers, dropout=dropout)


def _as_model(
    problem: Problem, trained: Trained, recipe: Recipe, command: str, *, finished: bool
) -> Model:
    run, best = trained.run, trained.best_epoch
    metric = METRICS[problem.schema.task]
    validation = run.history[best - 1].validation_score if best else None
    about = {
        "command": command,
        "data": {"name": problem.name, "summary": problem.summary},
        "metrics": {"name": metric.name, "validation": validation, "test": run.score},
        "training": {
            "finished": finished,
            "seed": run.seed,
            "epochs": len(run.history),
            "best_epoch": best,
            "seconds": run.seconds,
            "recipe": recipe.to_json(),
            "history": [asdict(epoch) for epoch in run.history],
        },
    }
    return Model(trained.network, problem.schema, problem.scaling, about)


def _is_first_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _kept(interrupt: session.Interrupted, out: Path, *, older: bool) -> str:
    best, epochs = interrupt.trained.best_epoch, len(interrupt.trained.run.history)
    model = "no epoch was finished, so there is no model yet"
    if older:
        model = f"the model in {out} is still the one of an earlier training"
    elif best:
        model = f"the best epoch so far, {best} of {epochs}, is the model in {out}"
    return f"{model}; go on from {interrupt.checkpoint} with the same command and --resume"
