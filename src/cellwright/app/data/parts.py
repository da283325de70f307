"""Parts of a problem, cut from the matrix of all steps.

Shapes: S steps, N sequences, K targets, P the horizon.
"""

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellwright.app.data.index import Index, Ints
from cellwright.app.data.matrix import target_places
from cellwright.app.data.storage import Ranges, gather
from cellwright.app.problem import Part, Ragged
from cellwright.app.schema import Schema

__all__ = ["forecast_part", "label_part"]

Bools = NDArray[np.bool_]


def label_part(
    matrix: Tensor, index: Index, order: Ints, series: Ints, first: int, targets: Tensor
) -> Part:
    """The sequences `series`, whose rows stand one after another in `matrix` from row `first` on.

    Args:
        matrix: (S, H_in) of all parts.
        index: the rows as they stand in the files.
        order: (S,) the row of the files that stands at each row of the matrix.
        series: (N,) the numbers of the sequences, in the matrix' order.
        first: the row of the matrix where they begin.
        targets: (N,) their classes.
    """
    lengths = np.diff(index.starts)[series]
    starts = np.concatenate(([0], np.cumsum(lengths)))
    rows = slice(first, first + int(starts[-1]))
    ids = None if index.ids is None else index.ids[series]
    times = None if index.times is None else index.times[order[rows]]
    return Part(Ragged(matrix[rows], torch.from_numpy(starts)), targets, None, ids, times)


def forecast_part(
    matrix: Tensor,
    known: Bools,
    index: Index,
    schema: Schema,
    spans: Ints,
    *,
    mapped: bool,
) -> Part:
    """A part of a forecast: of each series the steps up to the part's end.

    Args:
        matrix: (S, H_in), series by series.
        known: (S,) the steps that miss no target.
        index: the rows as they stand in the files.
        schema: targets and horizon.
        spans: (N, 2): where the part's own steps begin and end in each series, counted from the
            series' begin; a series with none is left out.
        mapped: whether a copy, where one is needed, is mapped.
    """
    chosen = np.flatnonzero(spans[:, 1] > spans[:, 0])
    begins = index.starts[chosen]
    ranges: Ranges = [
        (int(begin), int(begin + end)) for begin, end in zip(begins, spans[chosen, 1], strict=True)
    ]
    values, starts = gather(matrix, ranges, mapped=mapped)
    answerable = _answerable(known, schema.horizon)
    origins = np.concatenate(
        [
            _origins(answerable[begin:end], int(own), schema.horizon)
            for (begin, end), own in zip(ranges, spans[chosen, 0], strict=True)
        ]
        or [np.zeros(0, np.bool_)]
    )
    ids = None if index.ids is None else index.ids[chosen]
    return Part(
        Ragged(values, starts),
        _targets(values, target_places(schema)),
        torch.from_numpy(origins),
        ids,
        _times(index, ranges),
    )


def _targets(values: Tensor, places: list[int]) -> Tensor:
    """The targets' columns, a view where they are neighbours."""
    first, last = places[0], places[-1]
    if places == list(range(first, last + 1)):
        return values[:, first : last + 1]
    return values[:, places]


def _answerable(known: Bools, horizon: int) -> Bools:
    """Whether the steps 1 to `horizon` after each are known; steps beyond the end count as such."""
    gaps = np.concatenate(([0], np.cumsum(~known), np.zeros(horizon, np.int64)))
    gaps[len(known) + 1 :] = gaps[len(known)]
    after = np.arange(len(known)) + 1
    answerable: Bools = gaps[after + horizon] == gaps[after]
    return answerable


def _origins(answerable: Bools, own: int, horizon: int) -> Bools:
    """The steps that ask for nothing before step `own` or after the end."""
    steps = np.arange(len(answerable))
    origins: Bools = answerable & (steps >= own - 1) & (steps + horizon < len(answerable))
    return origins


def _times(index: Index, ranges: Ranges) -> pl.Series | None:
    if index.times is None:
        return None
    rows = [index.order[begin:end] for begin, end in ranges]
    return index.times[np.concatenate(rows)] if rows else index.times[:0]
