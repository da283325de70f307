"""The scores on one line each: a dot a seed, in percent of a common axis."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cellwright.app.report.verdict import best, mean
from cellwright.app.schema import Task
from cellwright.app.training.results import Comparison, Entry

__all__ = ["Axis", "Strip", "Tick", "draw"]

INKS = 7
"""Colours that a network may have, told apart by the colour-blind too."""

PAD = 0.06
"""Empty part of the axis at either end."""


@dataclass(frozen=True)
class Strip:
    """One entry.

    Attributes:
        ink: the name of its colour.
        baseline: whether it is no network.
        points: the scores of its seeds, in percent of the axis.
        mean: likewise.
        outside: "left" or "right" where its mean lies off the axis, else "".
    """

    ink: str
    baseline: bool
    points: tuple[float, ...]
    mean: float
    outside: str


@dataclass(frozen=True)
class Tick:
    """A number of the axis, and where it stands in percent."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """The common axis; `base` is where the best baseline stands, "" without one."""

    title: str
    more_is_better: bool
    ticks: tuple[Tick, ...]
    base: str


def draw(comparison: Comparison) -> tuple[tuple[Strip, ...], Axis]:
    """Place every entry's scores.

    The axis spans the networks and the best baseline: a hopeless baseline would press the networks
    into one spot, so it may lie off the axis.
    """
    networks = [entry for entry in comparison.entries if entry.design is not None]
    champion = best(comparison, [entry for entry in comparison.entries if entry.design is None])
    spanning = [run.score for entry in networks for run in entry.runs]
    spanning += [] if champion is None else [mean(champion)]
    low, high = _span([value for value in spanning if math.isfinite(value)])

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    inks = iter(range(len(comparison.entries)))
    worst = -math.inf if comparison.metric.more_is_better else math.inf
    strips = tuple(
        _strip(entry, place, "base" if entry.design is None else str(next(inks) % INKS), worst)
        for entry in comparison.entries
    )
    percent = comparison.problem.schema.task is Task.CLASSIFY
    ticks = tuple(
        Tick(place(value), _label(value, step, percent)) for value, step in _ticks(low, high)
    )
    name = comparison.metric.name
    if comparison.problem.schema.task is Task.TEXT:
        name = f"bits per {comparison.problem.schema.unit}"
    base = "" if champion is None else f"{place(mean(champion))}%"
    title = name[0].upper() + name[1:]
    return strips, Axis(title, comparison.metric.more_is_better, ticks, base)


def _strip(entry: Entry, place: Callable[[float], float], ink: str, worst: float) -> Strip:
    """Place one entry; a score that is not a number lies off the `worst` end."""
    middle = place(mean(entry)) if math.isfinite(mean(entry)) else worst
    if not 0 <= middle <= 100:
        return Strip(ink, entry.design is None, (), 0.0, "left" if middle < 0 else "right")
    points = tuple(place(run.score) for run in entry.runs if math.isfinite(run.score))
    return Strip(ink, entry.design is None, points, middle, "")


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = PAD * (high - low) or abs(high) * PAD or 1.0
    return low - pad, high + pad


def _ticks(low: float, high: float) -> Iterator[tuple[float, float]]:
    """Two to five round numbers between `low` and `high`, and the step between them."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    for count in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield count * step, step


def _label(value: float, step: float, percent: bool) -> str:
    if percent:
        value, step = 100 * value, 100 * step
    text = f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", "−")
    return f"{text} %" if percent else text
