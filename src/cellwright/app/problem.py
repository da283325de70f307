"""A task ready to be learned: tensors of all steps, split, encoded and scaled.

Shapes: S steps of all sequences together, N sequences, H_in input columns, K targets.
"""

from dataclasses import dataclass

import polars as pl
from torch import Tensor

from cellwright.app.schema import Schema

__all__ = ["Part", "Problem", "Ragged", "Scaling"]


@dataclass(frozen=True)
class Ragged:
    """Sequences of any lengths, one after another without padding.

    Attributes:
        values: (S, …), maybe mapped from a file: only what is indexed is read.
        starts: (N + 1,) of int64: sequence n is values[starts[n] : starts[n + 1]].
    """

    values: Tensor
    starts: Tensor

    def __len__(self) -> int:
        """The number of sequences, N."""
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Tensor:
        """Sequence `index`, (L_n, …), a view."""
        return self.values[int(self.starts[index]) : int(self.starts[index + 1])]

    @property
    def lengths(self) -> Tensor:
        """(N,) of int64."""
        return self.starts.diff()


@dataclass(frozen=True)
class Scaling:
    """Mean and deviation over the training part, of each input column and of each target.

    Columns that are marks (categories, missing marks, calendar) have mean 0 and deviation 1.
    """

    input_mean: Tensor
    input_deviation: Tensor
    target_mean: Tensor
    target_deviation: Tensor


@dataclass(frozen=True)
class Part:
    """One split.

    Attributes:
        inputs: classify and forecast: (S, H_in) of float32, scaled; text: (S,) of int64, indices
            of the vocabulary, one sequence.
        targets: classify: (N,) of int64, indices of the classes; forecast: (S, K) of float32, the
            scaled value of each target at each step itself (the training loop shifts them by 1 to
            horizon); text: the inputs' own values.
        origins: forecast: (S,) of bool, the steps whose forecasts count in this split: all that
            they ask for lies in it. Steps before are context: an earlier split's, so that a
            state is warm when the split begins. None for the other tasks.
        ids: (N,) the sequences' names in the user's data; None where it is one series.
        times: (S,) the steps' times; None where there are none.
    """

    inputs: Ragged
    targets: Tensor
    origins: Tensor | None = None
    ids: pl.Series | None = None
    times: pl.Series | None = None

    def __len__(self) -> int:
        """The number of sequences, N."""
        return len(self.inputs)


@dataclass(frozen=True)
class Problem:
    """A task with its splits. `validation` is None where a training takes no early stop.

    Attributes:
        name: what the data is called in tables and reports.
        summary: one line that says what was inferred: task, sizes, lengths, frequency, splits.
        schema: what the columns mean.
        scaling: None for text.
    """

    name: str
    summary: str
    schema: Schema
    scaling: Scaling | None
    train: Part
    validation: Part | None
    test: Part
