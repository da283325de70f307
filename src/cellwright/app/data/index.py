"""The order of the rows: which series each belongs to, when it was, what the user splits it as."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cellwright.app.data.columns import texts, times
from cellwright.app.data.roles import SPLIT_WORDS
from cellwright.app.data.table import Stack
from cellwright.app.schema import Task

__all__ = ["Index", "Ints", "index_of"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """Of S rows in the order of the files, N series in the order of their first rows.

    Attributes:
        codes: (S,) the number of each row's series.
        ids: (N,) the series' names; None where it is one series.
        times: (S,) or None.
        splits: (S,) 0, 1, 2 for train, validation, test as the user split; None where not.
        labels: (S,) as text, null where missing; None where there are none.
    """

    codes: Ints
    ids: pl.Series | None
    times: pl.Series | None
    splits: Ints | None
    labels: pl.Series | None

    @cached_property
    def order(self) -> Ints:
        """(S,) the rows sorted by series, each series' rows as they stand in the file."""
        return np.argsort(self.codes, kind="stable")

    @cached_property
    def starts(self) -> Ints:
        """(N + 1,) where each series begins in `order`."""
        return np.concatenate(([0], np.cumsum(np.bincount(self.codes)))).astype(np.int64)

    def name(self, series: int) -> str:
        """What messages call a series."""
        return "the series" if self.ids is None else f"series {self.ids[series]!r}"


def index_of(
    stack: Stack,
    task: Task,
    *,
    series: str | None,
    time: str | None,
    split: str | None,
    label: str | None = None,
) -> Index:
    """Read what orders the rows; it is held in memory, whatever the size of the rest.

    Sequences of two files are different ones to classify, and continue each other to forecast.

    Raises:
        InputError: a series or a time is missing; times repeat or go backward.
    """
    codes, ids = _series(stack, series, apart=task is Task.CLASSIFY)
    moments = None if time is None else _times(stack, time)
    splits = _splits(stack, split)
    labels = (
        None if label is None else pl.concat([texts(one.column(label)) for one in stack.tables])
    )
    index = Index(codes, ids, moments, splits, labels)
    if moments is not None and time is not None:
        _check_times(stack, index, moments, time)
    return index


def _series(stack: Stack, series: str | None, *, apart: bool) -> tuple[Ints, pl.Series | None]:
    if series is None:
        return np.zeros(stack.height, np.int64), None
    parts = [texts(table.column(series)) for table in stack.tables]
    missing = pl.concat(parts).is_null().arg_true()
    if len(missing):
        raise stack.fail(
            "expected the name of a series, but it is missing; complete it", int(missing[0]), series
        )
    codes: list[Ints] = []
    names: list[pl.Series] = []
    known = 0
    for part in parts if apart else [pl.concat(parts)]:
        unique = part.unique(maintain_order=True)
        found = part.cast(pl.Enum(unique)).to_physical().cast(pl.Int64).to_numpy()
        codes.append(found + known)
        names.append(unique)
        known += len(unique)
    return np.concatenate(codes), pl.concat(names)


def _times(stack: Stack, time: str) -> pl.Series:
    parts = [times(table, time) for table in stack.tables]
    dtypes = {part.dtype for part in parts}
    if len(dtypes) > 1:
        if not all(dtype.is_temporal() for dtype in dtypes):
            raise stack.fail(
                f"expected times as in the training data, {parts[0].dtype}, but got "
                f"{parts[1].dtype}; write them alike",
                stack.starts()[1],
                time,
            )
        parts = [part.cast(pl.Datetime("us", "UTC")) for part in parts]
    return pl.concat(parts)


def _splits(stack: Stack, split: str | None) -> Ints | None:
    if len(stack.tables) > 1:
        first, second = (table.height for table in stack.tables)
        return np.repeat(np.array([0, 2], np.int64), (first, second))
    if split is None:
        return None
    words = texts(stack.tables[0].column(split))
    known = words.str.to_lowercase().replace_strict(SPLIT_WORDS, default=None)
    unknown = known.is_null().arg_true()
    if len(unknown):
        row = int(unknown[0])
        raise stack.fail(
            f"expected train, validation or test, but got {words[row]!r}; correct it", row, split
        )
    return known.cast(pl.Int64).to_numpy()


def _check_times(stack: Stack, index: Index, moments: pl.Series, time: str) -> None:
    """Raise if time does not grow within each series."""
    order = index.order
    ticks = moments.to_physical().to_numpy()[order]
    same = np.diff(index.codes[order]) == 0
    bad = np.flatnonzero(same & (np.diff(ticks) <= 0))
    if not len(bad):
        return
    position = int(bad[np.argmin(order[bad + 1])])
    before, row = int(order[position]), int(order[position + 1])
    name = index.name(int(index.codes[row]))
    if len(stack.tables) > 1 and before < stack.starts()[1] <= row:
        raise stack.fail(
            f"expected the test data of {name} to begin after the training data, which ends at "
            f"{moments[before]}, but got {moments[row]}; that would test on what was learned",
            row,
            time,
        )
    again = ticks[position] == ticks[position + 1]
    what = "again after" if again else "which is earlier than"
    remedy = "name the column that tells series apart" if index.ids is None else "correct it"
    raise stack.fail(
        f"expected times of {name} that grow from row to row, but got {moments[row]}, {what} "
        f"{moments[before]}; sort the rows by time, or {remedy}",
        row,
        time,
    )
