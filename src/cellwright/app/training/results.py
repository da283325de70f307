"""What trainings and comparisons return: plain values that tables and reports read.

Shapes: N sequences, S steps of all sequences together, K targets, P steps ahead (the horizon).
"""

from dataclasses import dataclass, field

from torch import Tensor

from cellwright.app.model.design import Design
from cellwright.app.problem import Problem
from cellwright.app.training.metrics import METRICS, Metric

__all__ = ["Comparison", "Entry", "Epoch", "Run"]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training part. Validation values are None where nothing was held out."""

    number: int
    train_loss: float
    validation_loss: float | None
    validation_score: float | None
    seconds: float


@dataclass(frozen=True)
class Run:
    """One training: its seed, its learning curve, its score on the test part, its time.

    The torch.nn values are of the same training, same initial weights and batches, on torch.nn;
    None where that was not asked for or torch.nn has no such cell.
    """

    seed: int
    history: tuple[Epoch, ...]
    score: float
    seconds: float
    torch_score: float | None = None
    torch_seconds: float | None = None


@dataclass(frozen=True)
class Entry:
    """A row of a comparison: a network (with a design) or a baseline (without).

    Attributes:
        label: "GRU", "last value".
        design: None for a baseline.
        gates: sigmoid gates of the cell; None for a baseline.
        parameters: learned numbers; None where a baseline has none.
        runs: one for each seed; a baseline has one.
        step_microseconds: median of one streamed step, batch 1; None where it cannot stream.
        predictions: of the first seed on the test part. classify: (N, classes) probabilities;
            forecast: (S, K, P, 3) of the 10, 50 and 90 % quantiles in the target's unit, made at
            each step for the P steps after it, nan where a baseline has no quantile; text: None.
        weights: the first seed's state_dict; empty for a baseline.
    """

    label: str
    design: Design | None
    gates: int | None
    parameters: int | None
    runs: tuple[Run, ...]
    step_microseconds: float | None = None
    predictions: Tensor | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Everything that the table and the report say of one `compare`.

    Attributes:
        problem: the data.
        entries: networks first, then baselines, each in the order they were asked for.
        budget: one paragraph on how each network was trained, the same for all.
        command: the command line or Python call that made it.
        seconds: of the whole comparison.
    """

    problem: Problem
    entries: tuple[Entry, ...]
    budget: str
    command: str
    seconds: float

    @property
    def metric(self) -> Metric:
        """The score's meaning."""
        return METRICS[self.problem.schema.task]
