"""What `cellwright.app` offers: one function for each verb of the command line."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl
import torch

from cellwright.app.data import Options, bundled, read_problem
from cellwright.app.errors import InputError
from cellwright.app.model.choice import choose_design
from cellwright.app.model.design import Design
from cellwright.app.model.folder import DESCRIPTION, Model, load_model, save_model
from cellwright.app.problem import Problem
from cellwright.app.report import write_report
from cellwright.app.running import Stream
from cellwright.app.running import generate as write
from cellwright.app.running import predict as predict_with
from cellwright.app.schema import Task
from cellwright.app.training import comparison, session
from cellwright.app.training.checkpoint import checkpoint_path, remove_checkpoint
from cellwright.app.training.comparison import Watch
from cellwright.app.training.recipe import Recipe
from cellwright.app.training.results import METRICS, Comparison
from cellwright.app.training.session import Progress, Trained
from cellwright.graph.cell import Cell

__all__ = [
    "compare",
    "generate",
    "load",
    "predict",
    "read",
    "recipe_for",
    "stream",
    "train",
    "write_report",
]

Data = Problem | pl.DataFrame | Path | str
BUNDLED = {
    "vowels": "japanese_vowels",
    "weather": "seattle_weather",
    "topics": "python_topics",
}
"""Short names of the bundled data."""
CELLS: dict[Task, tuple[str, ...]] = {
    Task.CLASSIFY: ("rnn", "gru", "lstm", "bi-gru", "bi-lstm"),
    Task.FORECAST: ("rnn", "gru", "lstm"),
    Task.TEXT: ("rnn", "gru", "lstm"),
}
"""What is compared where nothing is named."""
TABLES, SERIES, TEXTS = (Task.CLASSIFY, Task.FORECAST), (Task.FORECAST,), (Task.TEXT,)
MEANT_FOR: dict[str, tuple[Task, ...]] = {
    **dict.fromkeys(("targets", "features", "exclude", "series", "time", "split"), TABLES),
    **dict.fromkeys(("frequency", "calendar", "horizon", "season"), SERIES),
    "unit": TEXTS,
}
"""Options that only some tasks have; for another task they are refused, not ignored."""


def read(
    data: Data, options: Options | None = None, *, test: pl.DataFrame | Path | str | None = None
) -> Problem:
    """The data as a problem: task, types and frequency inferred, split, scaled, encoded.

    Args:
        data: a path, a data frame, a bundled name (vowels, weather, topics), or a problem, which
            comes back as it is. For a text itself take `cellwright.app.data.read_problem`.
        options: what is not to be inferred.
        test: what to test on, a path or a data frame. Default: a share of `data`

    Raises:
        InputError: the data cannot be used; the message names file, row, column and remedy.
    """
    if isinstance(data, Problem):
        if options not in (None, Options()) or test is not None:
            raise InputError("expected no options, for the data is a problem already; leave it out")
        return data
    name = "" if isinstance(data, pl.DataFrame) else BUNDLED.get(str(data), str(data))
    if name in BUNDLED.values() and not Path(str(data)).exists():
        if test is not None:
            raise InputError(
                f"expected no test file, for {data} has its own test part; leave --test out"
            )
        return _heeding(options, bundled(name, options))
    if not isinstance(data, pl.DataFrame) and not Path(data).exists():
        near = get_close_matches(str(data), BUNDLED, n=1)
        raise InputError(
            f"expected a file or one of the bundled {', '.join(BUNDLED)}, but there is none of "
            "that name; " + (f"did you mean {near[0]}?" if near else "check the path"),
            file=str(data),
        )
    source = Path(data) if isinstance(data, str) else data
    problem = read_problem(
        source, test=Path(test) if isinstance(test, str) else test, options=options
    )
    return _heeding(options, problem)


def _heeding(options: Options | None, problem: Problem) -> Problem:
    """`problem`, if every option was of use for its task."""
    task = problem.schema.task
    for name, tasks in MEANT_FOR.items():
        if task not in tasks and options and getattr(options, name) != getattr(Options(), name):
            raise InputError(
                f"expected no {name}, for {problem.name} is read for the task {task}; leave it "
                "out, or name another task"
            )
    return problem


def recipe_for(problem: Problem, **changes: Any) -> Recipe:
    """The recipe of the problem's task; what is given and not None takes its place.

    Raises:
        InputError: there is no such name, or a value makes no sense.
    """
    names = [one.name for one in fields(Recipe)]
    unknown = next((name for name in changes if name not in names), None)
    if unknown is not None:
        raise InputError(f"expected one of {', '.join(names)}, but got {unknown!r}; name one")
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(Recipe.for_problem(problem), **given)


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
    problem = read(data, options, test=test)
    if report is not None:
        _check_folder(Path(report))
    wanted = CELLS[problem.schema.task] if cells is None else cells
    made = comparison.compare(
        problem,
        [_design(one, hidden_size, num_layers, dropout) for one in wanted],
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
        Interrupted: Ctrl-C. The best epoch so far is saved in `out`, with a checkpoint beside it.
    """
    problem = read(data, options, test=test)
    design = _design(cell, hidden_size, num_layers, dropout)
    used = recipe or recipe_for(problem)
    if out is not None:
        _check_free(Path(out), resume=resume)
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
            if interrupt.trained.best_epoch:
                model = _as_model(problem, interrupt.trained, used, command, finished=False)
                save_model(model, out)
            interrupt.add_note(_kept(interrupt, Path(out)))
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


def _kept(interrupt: session.Interrupted, out: Path) -> str:
    best, epochs = interrupt.trained.best_epoch, len(interrupt.trained.run.history)
    model = (
        f"the best epoch so far, {best} of {epochs}, is the model in {out}"
        if best
        else "no epoch was finished, so there is no model yet"
    )
    return f"{model}; go on from {interrupt.checkpoint} with the same command and --resume"


def _check_free(out: Path, *, resume: bool) -> None:
    """Refuse to write a model over something else, or over a training that can be resumed."""
    if out.is_file():
        raise InputError("expected a folder to write, but it is a file; name another", file=out)
    if not out.is_dir() or resume:
        return
    if checkpoint_path(out).exists():
        raise InputError(
            "expected a new folder, but it holds a training that was interrupted; go on with "
            "--resume, name another folder, or remove this one",
            file=out,
        )
    if any(out.iterdir()) and not (out / DESCRIPTION).exists():
        raise InputError(
            "expected a new folder or an older model's, but it holds other files; name another",
            file=out,
        )


def _check_folder(path: Path) -> None:
    """See beforehand that a file can be written: a comparison takes its time."""
    if path.is_dir():
        raise InputError("expected a file to write, but it is a folder; name a file", file=path)
    if not path.resolve().parent.is_dir():
        raise InputError("expected a folder to write into, but got none; make it", file=path.parent)


def load(folder: Path | str) -> Model:
    """The trained model in `folder`. No code of it is run.

    Raises:
        InputError: the folder is no model, or a file of it was truncated or altered.
    """
    return load_model(Path(folder))


def predict(
    model: Model | Path | str, data: pl.DataFrame | Path | str, *, every_step: bool = False
) -> pl.DataFrame:
    """What a model says of data: classes with probabilities, or quantiles of what comes next.

    Args:
        model: a model or its folder.
        data: a path or a data frame with the columns that the model reads.
        every_step: forecasts from each step, not from the last of each series alone.

    Raises:
        InputError: the model or the data cannot be used as it is.
    """
    source = Path(data) if isinstance(data, str) else data
    return predict_with(_model(model), source, every_origin=every_step)


def stream(model: Model | Path | str) -> Stream:
    """A model that reads one step at a time: `.step(row, key=…)`, the state carried on.

    Raises:
        InputError: the model cannot be loaded, or reads in two directions.
    """
    return Stream(_model(model))


def generate(
    model: Model | Path | str,
    prompt: str,
    *,
    length: int = 200,
    temperature: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """The text that a language model writes after `prompt`, piece by piece.

    Raises:
        InputError: the model writes no text, or a value makes no sense to it.
    """
    return write(_model(model), prompt, length, temperature, seed)


def _model(model: Model | Path | str) -> Model:
    return model if isinstance(model, Model) else load(model)
