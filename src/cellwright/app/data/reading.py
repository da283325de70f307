"""What a user names as data, read as a problem: a file, a data frame, a bundled name."""

from difflib import get_close_matches
from pathlib import Path

import polars as pl

from cellwright.app.data.bundled import bundled
from cellwright.app.data.options import Options
from cellwright.app.data.problems import is_text, read_problem
from cellwright.app.errors import InputError
from cellwright.app.problem import Problem
from cellwright.app.schema import Task

__all__ = ["Data", "read"]

Data = Problem | pl.DataFrame | Path | str
SHORT = {
    "vowels": "japanese_vowels",
    "weather": "seattle_weather",
    "topics": "python_topics",
}
"""Short names of the bundled data."""
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
    options = options or Options()
    name = "data frame" if isinstance(data, pl.DataFrame) else str(data)
    _check_heeded(options, name, _known_task(data, options))
    problem = _problem(data, options, test)
    _check_heeded(options, problem.name, problem.schema.task)
    return problem


def _problem(
    data: pl.DataFrame | Path | str, options: Options, test: pl.DataFrame | Path | str | None
) -> Problem:
    name = "" if isinstance(data, pl.DataFrame) else SHORT.get(str(data), str(data))
    if name in SHORT.values() and not Path(str(data)).exists():
        if test is not None:
            raise InputError(
                f"expected no test file, for {data} has its own test part; leave --test out"
            )
        return bundled(name, options)
    if not isinstance(data, pl.DataFrame) and not Path(data).exists():
        near = get_close_matches(str(data), SHORT, n=1)
        raise InputError(
            f"expected a file or one of the bundled {', '.join(SHORT)}, but there is none of "
            "that name; " + (f"did you mean {near[0]}?" if near else "check the path"),
            file=str(data),
        )
    source = Path(data) if isinstance(data, str) else data
    return read_problem(source, test=Path(test) if isinstance(test, str) else test, options=options)


def _known_task(data: pl.DataFrame | Path | str, options: Options) -> Task | None:
    """The task, where it can be told before anything is read."""
    if isinstance(data, pl.DataFrame):
        return options.task
    text = data == "topics" or is_text(Path(data), options)
    return Task.TEXT if text else options.task


def _check_heeded(options: Options, name: str, task: Task | None) -> None:
    """Raise if an option is of no use for the task."""
    for option, tasks in MEANT_FOR.items():
        given = getattr(options, option) != getattr(Options(), option)
        if given and task is not None and task not in tasks:
            raise InputError(
                f"expected no {option}, for {name} is read for the task {task}; leave it out, or "
                "name another task"
            )
