"""From a file, a data frame or a text to a problem: read, infer, split, measure, encode."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from cellwright.app.data.almanac import cycles_of, frequency_of, seasons_of, seconds_of
from cellwright.app.data.files import TEXT_ENDINGS, read_any
from cellwright.app.data.gaps import unequal_steps
from cellwright.app.data.index import Index, Ints, index_of
from cellwright.app.data.matrix import fill_matrix, measure, scaling_of
from cellwright.app.data.options import Options
from cellwright.app.data.parts import forecast_part, label_part
from cellwright.app.data.roles import Roles, roles_of
from cellwright.app.data.sequences import class_codes, classes_of, sequence_labels, unjudged
from cellwright.app.data.splits import split_by_sequence, split_by_time
from cellwright.app.data.summary import summarise
from cellwright.app.data.table import Stack, require_columns
from cellwright.app.data.text import read_text_problem
from cellwright.app.errors import InputError
from cellwright.app.problem import Part, Problem, Scaling
from cellwright.app.schema import Schema, Task

__all__ = ["Source", "is_text", "read_problem"]

Source = Path | pl.DataFrame | str
SEASON_STEPS = 100_000
"""Training steps that a season is told from."""
OFTEN, TWICE = 3, 2
"""How many of a season the training steps hold at least: of the shortest possible one, two."""
BETTER = 0.95
"""Of a shorter season's error, what a longer one may have at most to be preferred."""


def read_problem(
    source: Source, *, test: Source | None = None, options: Options | None = None
) -> Problem:
    """A problem from a file, a data frame, or a text.

    Args:
        source: a path, a data frame, or a text itself.
        test: what to test on, of the same kind. Default: a share of `source`
        options: what is not to be inferred.

    Raises:
        InputError: the input cannot be used; the message names file, row, column and remedy.
    """
    options = options or Options()
    if is_text(source, options):
        return read_text_problem(source, test, options)
    if isinstance(source, str) or isinstance(test, str):
        raise InputError("expected a path or a data frame, but got a text; give Path(…)")
    table = read_any(source, options)
    roles = roles_of(table, options)
    if test is None:
        stack = Stack((table,))
    else:
        roles = replace(roles, split=None)
        stack = Stack((table, read_any(test, options)))
        wanted = [name for name, _ in roles.features] + [*roles.targets]
        wanted += [name for name in (roles.series, roles.time) if name]
        require_columns(stack.tables[1], wanted, "as in the training data")
    label = roles.targets[0] if roles.task is Task.CLASSIFY else None
    index = index_of(
        stack, roles.task, series=roles.series, time=roles.time, split=roles.split, label=label
    )
    schema = Schema(
        roles.task,
        targets=roles.targets,
        series=roles.series,
        time=roles.time,
        split=roles.split,
        horizon=options.horizon or 1,
        missing=options.missing,
    )
    if roles.task is Task.CLASSIFY:
        return _classify(stack, index, roles, schema, options)
    return _forecast(stack, index, roles, schema, options)


def is_text(source: Source, options: Options) -> bool:
    """Whether the source is read as a text: asked for, a text itself, or a file named like one."""
    if options.task is not None:
        return options.task is Task.TEXT
    return isinstance(source, str) or (
        isinstance(source, Path) and source.suffix.lower() in TEXT_ENDINGS
    )


def _classify(
    stack: Stack, index: Index, roles: Roles, schema: Schema, options: Options
) -> Problem:
    if index.ids is None:
        raise InputError(
            "expected several sequences to classify, but no column tells them apart; name the "
            "series column (--series). A row is one step: where each row is a whole sequence, give "
            "every step a row of its own",
            file=stack.tables[0].file,
        )
    labels = sequence_labels(stack, index, schema.targets[0])
    parts = split_by_sequence(stack, index, labels, options)
    classes = classes_of(stack, labels, parts, schema.targets[0])
    codes = class_codes(stack, index, labels, classes, schema.targets[0])
    features, measured = measure(stack, roles.features, (parts == 0)[index.codes], options.missing)
    schema = replace(schema, features=features, classes=classes)
    scaling = scaling_of(schema, measured)
    ranked = np.argsort(parts, kind="stable")
    place = np.empty_like(ranked)
    place[ranked] = np.arange(len(ranked))
    order = np.argsort(place[index.codes], kind="stable")
    lengths = np.diff(index.starts)[ranked]
    starts = np.concatenate(([0], np.cumsum(lengths)))
    matrix, _ = fill_matrix(stack, schema, scaling, order, starts, index.times)

    def cut(code: int) -> Part | None:
        series = np.flatnonzero(parts == code)
        if not len(series):
            return None
        first = int(starts[np.searchsorted(parts[ranked], code)])
        return label_part(matrix, index, order, series, first, torch.from_numpy(codes[series]))

    notes = unjudged(classes, codes, parts)
    return _problem(stack, roles, schema, scaling, (cut(0), cut(1), cut(2)), *notes)


def _forecast(
    stack: Stack, index: Index, roles: Roles, schema: Schema, options: Options
) -> Problem:
    counts = split_by_time(stack, index, schema.horizon, options)
    bounds = np.concatenate((np.zeros_like(counts[:, :1]), counts.cumsum(1)), 1)
    training = np.zeros(stack.height, np.bool_)
    steps = np.arange(stack.height) - np.repeat(index.starts[:-1], np.diff(index.starts))
    training[index.order] = steps < np.repeat(bounds[:, 1], np.diff(index.starts))
    features, measured = measure(stack, roles.features, training, options.missing, schema.targets)
    schema = replace(schema, features=features)
    schema = _with_calendar(schema, index, bounds, options)
    scaling = scaling_of(schema, measured)
    matrix, known = fill_matrix(stack, schema, scaling, index.order, index.starts, index.times)

    def cut(number: int) -> Part | None:
        spans = bounds[:, number : number + 2]
        if not (spans[:, 1] > spans[:, 0]).any():
            return None
        return forecast_part(matrix, known, index, schema, spans, mapped=stack.streamed)

    parts = (cut(0), cut(1), cut(2))
    for part, name in zip(parts, ("train", "validate", "test"), strict=True):
        if part is not None and part.origins is not None and not part.origins.any():
            raise InputError(
                f"expected forecasts to {name} on, but no step has the {schema.horizon} after it "
                "without a missing target; give more data or lower the horizon",
                file=stack.tables[-1].file,
            )
    if parts[0] is not None:
        season = _season(parts[0], schema, options)
        schema = replace(schema, season=season)
    return _problem(stack, roles, schema, scaling, parts, unequal_steps(index, schema.frequency))


def _with_calendar(schema: Schema, index: Index, bounds: Ints, options: Options) -> Schema:
    """The schema with the frequency and the cycles of the training steps."""
    temporal = index.times is not None and index.times.dtype.is_temporal()
    if index.times is None or not temporal:
        if options.calendar:
            raise InputError(
                f"expected dates for the calendar's {', '.join(options.calendar)}, but "
                + ("there is no time column" if index.times is None else "time is a number")
                + "; name a column of dates",
                column=schema.time,
            )
        return replace(schema, frequency=options.frequency)
    seconds = seconds_of(index.times)[index.order]
    own = np.flatnonzero(bounds[:, 1] > 0)
    spans = [
        seconds[start : start + stop]
        for start, stop in zip(index.starts[own], bounds[own, 1], strict=True)
    ]
    steps = np.concatenate([np.diff(span) for span in spans]) if spans else np.empty(0)
    frequency = options.frequency or frequency_of(steps)
    longest = max((float(span[-1] - span[0]) for span in spans), default=0.0)
    calendar = options.calendar
    if calendar is None:
        calendar = cycles_of(frequency, longest)
    return replace(schema, frequency=frequency, calendar=calendar)


def _season(part: Part, schema: Schema, options: Options) -> int:
    """The season that tells most on the training steps; 1 where there is none.

    The longest that is held often enough and whose naive forecast clearly errs less than those of
    the shorter ones.
    """
    if options.season is not None:
        return options.season
    longest = int(part.inputs.lengths.argmax())
    begin, end = part.inputs.starts[longest : longest + 2].tolist()
    targets = part.targets[begin : min(end, begin + SEASON_STEPS)]
    possible = seasons_of(schema.frequency)
    fitting = [
        one for one in possible if len(targets) >= one * (TWICE if one == possible[0] else OFTEN)
    ]
    best, least = 1, math.inf
    for one in fitting:
        same = targets[fitting[-1] :]  # the same steps for each
        error = float((same - targets[fitting[-1] - one : -one]).abs().mean())
        if error < BETTER * least:
            best, least = one, error
    return best


def _problem(
    stack: Stack,
    roles: Roles,
    schema: Schema,
    scaling: Scaling,
    parts: tuple[Part | None, Part | None, Part | None],
    *notes: str,
) -> Problem:
    """The problem; `notes` are said of the data at the end of its summary."""
    train, validation, test = parts
    if train is None or test is None:
        name = "train" if train is None else "test"
        raise InputError(
            f"expected data to {name} on, but the split leaves none; change the split "
            "(--test-share, --validation-share)",
            file=stack.tables[-1].file,
        )
    problem = Problem(stack.tables[0].name, "", schema, scaling, train, validation, test)
    return replace(problem, summary=summarise(problem, roles.left_out, notes))
