"""What a score is called and means, by task."""

from dataclasses import dataclass

from cellwright.app.schema import Task

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A score: its name in tables, its unit, and whether more is better."""

    name: str
    unit: str
    more_is_better: bool


METRICS: dict[Task, Metric] = {
    Task.CLASSIFY: Metric("accuracy", "", more_is_better=True),
    Task.FORECAST: Metric("mean absolute error", "", more_is_better=False),  # in the target's unit
    Task.TEXT: Metric("bits per character", "bit", more_is_better=False),
}
