"""Bars on standard error: epochs, loss, score and sequences per second."""

import math
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cellwright.app.training.metrics import Metric

if TYPE_CHECKING:  # what trains is imported when it is needed
    from cellwright.app.training.loop import Update

__all__ = ["Bars"]


class Bars:
    """A bar for the epochs of the training that runs; with several trainings, one for these too.

    Args:
        metric: names the score.
        trainings: how many there will be.
    """

    def __init__(self, metric: Metric, trainings: int = 1) -> None:
        # Two refreshes a second: the bar's thread must not take time from what is being timed.
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,  # a log wants no bars
            refresh_per_second=2,
            transient=True,
        )
        self._metric = metric
        self._all: TaskID | None = None
        if trainings > 1:
            self._all = self._progress.add_task("trainings", total=trainings, figures="")
        self._one: TaskID | None = None
        self._begun = 0

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def begin(self, description: str) -> None:
        """The next training begins."""
        if self._one is not None:
            self._progress.remove_task(self._one)
        self._one = self._progress.add_task(description, total=None, figures="")
        if self._all is not None:
            self._progress.update(self._all, completed=self._begun)
        self._begun += 1

    def tell(self, update: "Update") -> None:
        """A step or an epoch of it is done."""
        if self._one is None:
            self.begin("training")
        assert self._one is not None
        done = update.epoch if update.finished else update.epoch - 1 + update.step / update.steps
        self._progress.update(self._one, total=update.epochs, completed=int(done))
        if not update.finished:
            self._progress.update(self._one, figures=self._figures(update))

    def _figures(self, update: "Update") -> str:
        score = update.score
        parts = [
            "" if math.isnan(update.loss) else f"loss {update.loss:.4f}",
            "" if score is None else f"{self._metric.name} {score:.4f}",
            f"{update.sequences_per_second:,.0f} sequences/s",
        ]
        return "  ".join(filter(None, parts))
