"""Columns of a table as the input's columns: measured on the training rows, scaled, filled.

Shapes: S rows, F features, H_in input columns.
"""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellwright.app.data.almanac import phases
from cellwright.app.data.columns import numbers, texts
from cellwright.app.data.index import Ints
from cellwright.app.data.storage import allocate
from cellwright.app.data.table import BATCH_ROWS, Stack, Table, fail
from cellwright.app.errors import InputError
from cellwright.app.problem import Scaling
from cellwright.app.schema import Feature, Missing, Schema

__all__ = ["Floats", "Measured", "fill_matrix", "measure", "scaling_of"]

Floats = NDArray[np.float64]


@dataclass
class Moments:
    """Count, mean, squared distance from it, least and most of numbers that come in parts."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = np.inf
    most: float = -np.inf

    def add(self, values: Floats) -> None:
        """Take in more numbers (Chan, Golub and LeVeque's update)."""
        if not len(values):
            return
        count = self.count + len(values)
        mean = float(values.mean())
        apart = mean - self.mean
        self.squares += float(((values - mean) ** 2).sum())
        self.squares += apart**2 * self.count * len(values) / count
        self.mean += apart * len(values) / count
        self.count = count
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))


@dataclass
class Measured:
    """What the training rows say of one column: its moments, or its categories."""

    moments: Moments = field(default_factory=Moments)
    categories: set[str] = field(default_factory=set)


def measure(
    stack: Stack,
    features: tuple[tuple[str, bool], ...],
    training: NDArray[np.bool_],
    missing: Missing,
    targets: tuple[str, ...] = (),
) -> tuple[tuple[Feature, ...], list[Measured]]:
    """The features with their categories, and their moments, over the rows where `training`.

    `targets` are those of a forecast, which are features too.

    Raises:
        InputError: a value that is no number, is missing or infinite; a column that is constant.
    """
    found = [Measured() for _ in features]
    for table, start, offset, batch in stack.batches([name for name, _ in features]):
        rows = training[offset : offset + batch.height]
        for (name, category), measured in zip(features, found, strict=True):
            column = batch[name]
            if category:
                words = _words(table, column, start, missing)
                chosen = words.filter(pl.Series(rows)).drop_nulls().unique()
                measured.categories.update(chosen.to_list())
            else:
                values = _numbers(table, column, start, missing)[rows]
                measured.moments.add(values[~np.isnan(values)])
    for (name, category), measured in zip(features, found, strict=True):
        _check_varies(stack.tables[0], name, measured, category=category, target=name in targets)
    made = tuple(
        Feature(name, tuple(sorted(measured.categories)) if category else None)
        for (name, category), measured in zip(features, found, strict=True)
    )
    return made, found


def scaling_of(schema: Schema, measured: list[Measured]) -> Scaling:
    """Means and deviations of the input's columns and of a forecast's targets."""
    names = schema.input_names
    mean, deviation = np.zeros(len(names)), np.ones(len(names))
    place = 0
    for feature, one in zip(schema.features, measured, strict=True):
        if feature.categories is None:
            mean[place] = one.moments.mean
            deviation[place] = np.sqrt(one.moments.squares / one.moments.count)
        place += feature.width
    aims = target_places(schema)
    return Scaling(
        *(torch.tensor(one, dtype=torch.float32) for one in (mean, deviation)),
        *(torch.tensor(one[aims], dtype=torch.float32) for one in (mean, deviation)),
    )


def target_places(schema: Schema) -> list[int]:
    """The input's columns of a forecast's targets."""
    names = schema.input_names
    return [names.index(name) for name in schema.targets if name in names]


def fill_matrix(
    stack: Stack,
    schema: Schema,
    scaling: Scaling,
    order: Ints,
    starts: Ints,
    moments: pl.Series | None,
) -> tuple[Tensor, NDArray[np.bool_]]:
    """The scaled input (S, H_in) in the order `order`, and the rows (S,) that miss no target.

    Args:
        stack: the rows.
        schema: what to read of them.
        scaling: how to scale it.
        order: (S,) the number of the row that stands at each place.
        starts: (N + 1,) where the sequences begin.
        moments: (S,) the rows' times, as they stand in the files.

    Raises:
        InputError: as `measure`; and a category that is not in the schema.
    """
    width = len(schema.input_names)
    matrix = allocate((len(order), width), np.float32, mapped=stack.streamed)
    values = matrix.numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    for table, start, offset, batch in stack.batches([one.name for one in schema.features]):
        rows = slice(offset, offset + batch.height)
        block = _encode(table, start, batch, schema, scaling)
        if schema.calendar and moments is not None:
            block[:, -2 * len(schema.calendar) :] = phases(moments[rows], schema.calendar)
        values[place[rows]] = block
    known = np.ones(len(order), np.bool_)
    if schema.missing is not Missing.ERROR:
        feature_width = sum(feature.width for feature in schema.features)
        for column in target_places(schema):
            known &= ~np.isnan(values[:, column])
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            _carry_forward(values[begin:end, :feature_width])
    return matrix, known


def _encode(
    table: Table, start: int, batch: pl.DataFrame, schema: Schema, scaling: Scaling
) -> Floats:
    """The rows as input columns, nan where missing; the calendar's stay 0."""
    mean, deviation = scaling.input_mean.double().numpy(), scaling.input_deviation.double().numpy()
    block = np.zeros((batch.height, len(schema.input_names)))
    marks = sum(feature.width for feature in schema.features)
    place = 0
    for number, feature in enumerate(schema.features):
        columns = slice(place, place + feature.width)
        if feature.categories is None:
            found = _numbers(table, batch[feature.name], start, schema.missing)
            block[:, place] = (found - mean[place]) / deviation[place]
        else:
            block[:, columns] = _one_hot(table, batch[feature.name], start, feature, schema.missing)
        if schema.missing is Missing.MASK:
            block[:, marks + number] = np.isnan(block[:, place])
        place += feature.width
    return block


def _numbers(table: Table, column: pl.Series, start: int, missing: Missing) -> Floats:
    values = numbers(table, column, start)
    if missing is Missing.ERROR:
        _check_there(table, np.isnan(values), start, column.name)
    return values


def _words(table: Table, column: pl.Series, start: int, missing: Missing) -> pl.Series:
    words = texts(column)
    if missing is Missing.ERROR:
        _check_there(table, words.is_null().to_numpy(), start, column.name)
    return words


def _one_hot(
    table: Table, column: pl.Series, start: int, feature: Feature, missing: Missing
) -> Floats:
    categories = feature.categories or ()
    words = _words(table, column, start, missing)
    codes = words.replace_strict(
        list(categories), list(range(len(categories))), default=-1, return_dtype=pl.Int64
    ).to_numpy()
    absent = words.is_null().to_numpy()
    unknown = np.flatnonzero((codes < 0) & ~absent)
    if len(unknown):
        row = int(unknown[0])
        raise fail(table, unknown_category(words[row], categories), start + row, column.name)
    made: Floats = (codes[:, None] == np.arange(len(categories))).astype(np.float64)
    made[absent] = np.nan
    return made


def unknown_category(word: object, categories: tuple[str, ...]) -> str:
    """What to say of a category that the training part has not."""
    return (
        f"expected one of the training part's values, {', '.join(categories)}, but got {word!r}; "
        "correct it, or train without this column"
    )


def _check_there(table: Table, absent: NDArray[np.bool_], start: int, name: str) -> None:
    rows = np.flatnonzero(absent)
    if len(rows):
        raise fail(
            table,
            "expected a value, but it is missing; complete it, or train with ffill or mask for "
            "missing values (--missing)",
            start + int(rows[0]),
            name,
        )


def _check_varies(
    table: Table, name: str, measured: Measured, *, category: bool, target: bool
) -> None:
    moments = measured.moments
    if category:
        there, constant = bool(measured.categories), len(measured.categories) == 1
        value: object = next(iter(measured.categories), None)
    else:
        there, constant, value = moments.count > 0, moments.least == moments.most, moments.mean
    if not there or constant:
        what = f"it is always {value!r}" if there else "it has no value"
        column, remedy = "column", "leave it out (--exclude)"
        if target:
            column = "target"
            remedy = "name another target (--target), or train on data where it changes"
        raise InputError(
            f"expected a {column} that varies, but {what} in the training part; {remedy}",
            file=table.file,
            column=name,
        )


def _carry_forward(values: NDArray[np.float32]) -> None:
    """Replace nan by the value before it in its column, before the first by 0, the scaled mean."""
    last = np.zeros(values.shape[1], np.float32)
    for start in range(0, len(values), BATCH_ROWS):
        part = np.concatenate((last[None], values[start : start + BATCH_ROWS]))
        there = np.where(np.isnan(part), 0, np.arange(len(part))[:, None])
        part = np.take_along_axis(part, np.maximum.accumulate(there, axis=0), axis=0)
        values[start : start + BATCH_ROWS] = part[1:]
        last = part[-1]
