"""What was inferred, in one line."""

import polars as pl

from cellwright.app.problem import Part, Problem
from cellwright.app.schema import Missing, Schema, Task

__all__ = ["summarise"]

FREQUENCIES = {"1d": "daily", "1h": "hourly", "1w": "weekly", "1mo": "monthly", "1y": "yearly"}


def summarise(problem: Problem, left_out: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> str:
    """Task, inputs, sequences, lengths, frequency, splits, the columns not read, and `notes`."""
    schema = problem.schema
    if schema.task is Task.TEXT:
        parts = [_text(problem)]
    elif schema.task is Task.CLASSIFY:
        parts = [_classify(problem)]
    else:
        parts = [_forecast(problem)]
    if schema.missing is not Missing.ERROR and schema.task is not Task.TEXT:
        parts.append(f"missing values: {schema.missing.value}")
    if left_out:
        parts.append(f"not read: {', '.join(left_out)}")
    return "; ".join([*parts, *filter(None, notes)])


def _classify(problem: Problem) -> str:
    schema = problem.schema
    parts = _parts(problem)
    count = sum(len(part) for part in parts.values())
    lengths = [part.inputs.lengths for part in parts.values()]
    least, most = min(int(one.min()) for one in lengths), max(int(one.max()) for one in lengths)
    span = f"{least}" if least == most else f"{least} to {most}"
    sizes = ", ".join(f"{len(part)} to {name}" for name, part in parts.items())
    return (
        f"classify {schema.targets[0]} ({len(schema.classes)} classes) from {_inputs(schema)}; "
        f"{count:,} sequences of {span} steps by {schema.series}"
        f"{f', ordered by {schema.time}' if schema.time else ''}; {sizes}"
    )


def _forecast(problem: Problem) -> str:
    schema = problem.schema
    ahead = "1 step" if schema.horizon == 1 else f"1 to {schema.horizon} steps"
    sizes = ", ".join(
        f"{int(part.origins.sum()):,} to {name}"
        for name, part in _parts(problem).items()
        if part.origins is not None
    )
    whole = problem.test
    several = f" in {len(whole)} series by {schema.series}" if schema.series else ""
    return (
        f"forecast {', '.join(schema.targets)} {ahead} ahead from {_inputs(schema)}; "
        f"{len(whole.inputs.values):,} steps{several}{_when(schema, whole.times)}; "
        f"forecasts by time: {sizes}"
    )


def _text(problem: Problem) -> str:
    schema = problem.schema
    sizes = ", ".join(
        f"{len(part.inputs.values):,} to {name}" for name, part in _parts(problem).items()
    )
    return f"text by {schema.unit}, {schema.known} different ones; by position {sizes}"


def _parts(problem: Problem) -> dict[str, Part]:
    named = {"train": problem.train, "validate": problem.validation, "test": problem.test}
    return {name: part for name, part in named.items() if part is not None}


def _inputs(schema: Schema) -> str:
    figures = sum(feature.categories is None for feature in schema.features)
    categories = [f"{one.name} ({one.width})" for one in schema.features if one.categories]
    words = [f"{figures} {'number' if figures == 1 else 'numbers'}"] if figures else []
    if categories:
        words.append(f"categories {', '.join(categories)}")
    if schema.calendar:
        words.append(f"the calendar's {', '.join(schema.calendar)}")
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _when(schema: Schema, times: pl.Series | None) -> str:
    if times is None or not len(times):
        return ", in the order of the rows"
    frequency = schema.frequency
    steps = FREQUENCIES.get(frequency, f"every {frequency}") if frequency else ""
    if not steps and times.dtype.is_temporal():
        steps = "at varying intervals"
    season = f", season {schema.season}" if schema.season > 1 else ""
    ordered = times.sort()
    words = [word for word in (steps, f"{ordered[0]} to {ordered[-1]}") if word]
    return f", {' '.join(words)}{season}"
