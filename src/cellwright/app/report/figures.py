"""What the report's plots are drawn from, as plain JSON values.

Shapes: N sequences, S steps of all sequences together, K targets, P steps ahead.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
import torch
from torch import Tensor

from cellwright.app.problem import Part
from cellwright.app.training.results import Comparison, Entry, Run

__all__ = ["confusion", "curves", "forecasts", "rounded"]

DIGITS = 5
"""Significant digits of a plotted number."""

FORECAST_NUMBERS = 60_000
"""At most so many numbers of forecasts are in a report, so that it stays small."""

MAX_AHEAD = 3
"""Of a longer horizon, so many steps ahead are shown: the first, the middle and the last."""

MAX_SERIES = 6


def rounded(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, which has no nan and no infinity: those are None."""
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values]


def curves(comparison: Comparison) -> list[dict[str, Any]]:
    """One chart for the training loss, and one each for validation loss and score if there are.

    A chart: title, epochs, and series of entry index, seed and values, one an epoch.
    """
    titles = {
        "train_loss": "Training loss",
        "validation_loss": "Validation loss",
        "validation_score": f"Validation {comparison.metric.name}",
    }
    last = max((len(run.history) for entry in comparison.entries for run in entry.runs), default=0)
    charts = []
    for name, title in titles.items():
        series = [
            {"entry": index, "seed": run.seed, "values": values}
            for index, entry in enumerate(comparison.entries)
            for run in entry.runs
            for values in [_curve(run, name, last)]
            if any(value is not None for value in values)
        ]
        if series:
            charts.append({"title": title, "epochs": list(range(1, last + 1)), "series": series})
    return charts


def _curve(run: Run, name: str, length: int) -> list[float | None]:
    found = {epoch.number: getattr(epoch, name) for epoch in run.history}
    first = min(found, default=1)
    held = [found.get(first + step) for step in range(length)]
    return rounded(math.nan if value is None else value for value in held)


def confusion(comparison: Comparison) -> dict[str, Any]:
    """Counts of (true class, predicted class) of each entry that has probabilities."""
    classes = comparison.problem.schema.classes
    truth = comparison.problem.test.targets
    entries = []
    for index, entry in enumerate(comparison.entries):
        if entry.predictions is not None:
            pairs = truth * len(classes) + entry.predictions.argmax(-1)
            counts = torch.bincount(pairs, minlength=len(classes) ** 2)
            entries.append({"entry": index, "counts": counts.reshape(len(classes), -1).tolist()})
    return {"classes": list(classes), "entries": entries}


def forecasts(comparison: Comparison) -> dict[str, Any]:
    """The truth of the test part and each entry's forecasts of it, in the targets' units.

    Each view is one series and one target. Its forecasts are given at the step that they are for,
    for each number of steps ahead that is shown, as rows of 10, 50 and 90 % quantiles.
    """
    problem = comparison.problem
    horizon = problem.schema.horizon
    ahead = sorted(
        {1, (horizon + 1) // 2, horizon} if horizon > MAX_AHEAD else {*range(1, horizon + 1)}
    )
    shown = [
        (index, entry)
        for index, entry in enumerate(comparison.entries)
        if entry.predictions is not None
    ]
    series = list(range(min(MAX_SERIES, len(problem.test))))
    views = len(series) * len(problem.schema.targets)
    points = FORECAST_NUMBERS // max(1, 3 * len(ahead) * len(shown) * views)
    made = [
        _view(comparison, shown, one, target, ahead, points)
        for one in series
        for target in range(len(problem.schema.targets))
    ]
    return {"ahead": ahead, "views": made, "series": len(problem.test)}


def _view(
    comparison: Comparison,
    shown: Sequence[tuple[int, Entry]],
    series: int,
    target: int,
    ahead: Sequence[int],
    points: int,
) -> dict[str, Any]:
    problem, part = comparison.problem, comparison.problem.test
    scaling = problem.scaling
    if scaling is None:
        raise ValueError("a forecast needs the scaling of its training part")
    start, end = (int(part.inputs.starts[series + k]) for k in (0, 1))
    forecast_from = start + _first_forecast(part, start, end)
    first = max(forecast_from, end - points)
    scaled = part.targets[first:end, target].double()
    truth = scaled * scaling.target_deviation[target] + scaling.target_mean[target]
    dated, positions = _positions(part, start, first, end)
    name = problem.schema.targets[target]
    if len(part) > 1:
        label = str(series) if part.ids is None else str(part.ids[series])
        name = f"{label}: {name}"
    return {
        "name": name,
        "cut": first - forecast_from,
        "time": dated,
        "x": positions,
        "truth": rounded(truth.tolist()),
        "entries": [
            {
                "entry": index,
                "ahead": [
                    _aligned(entry.predictions, part, target, step, (start, first, end))
                    for step in ahead
                ],
            }
            for index, entry in shown
            if entry.predictions is not None
        ],
    }


def _first_forecast(part: Part, start: int, end: int) -> int:
    """How many steps of context stand before the first value that is forecast."""
    if part.origins is None:
        return 0
    counted = part.origins[start:end].nonzero()
    return int(counted[0]) + 1 if len(counted) else 0


def _positions(part: Part, start: int, first: int, end: int) -> tuple[bool, list[float]]:
    """Whether steps have dates, and where they stand: seconds since 1970, a number, or a count."""
    if part.times is not None:
        times = part.times[first:end]
        if times.dtype in (pl.Date, pl.Datetime):
            return True, [value / 1e6 for value in times.cast(pl.Datetime("us")).to_physical()]
        if times.dtype.is_numeric():
            return False, [float(value) for value in times]
    return False, [float(step - start) for step in range(first, end)]


def _aligned(
    predictions: Tensor, part: Part, target: int, ahead: int, bounds: tuple[int, int, int]
) -> list[list[float | None]]:
    """The three quantiles of the values from `first` on, made `ahead` steps before."""
    start, first, end = bounds
    rows = torch.full((end - first, 3), math.nan, dtype=torch.float64)
    made = torch.arange(max(start, first - ahead), end - ahead)
    if part.origins is not None:
        made = made[part.origins[made]]
    rows[made + ahead - first] = predictions[made, target, ahead - 1].double()
    return [rounded(quantile) for quantile in rows.T.tolist()]
