"""Rows that come one by one, as a trained model reads them."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from cellwright.app.data.almanac import calendar_columns, moment
from cellwright.app.data.columns import LARGEST, MISSING_WORDS
from cellwright.app.data.matrix import unknown_category
from cellwright.app.errors import InputError
from cellwright.app.problem import Scaling
from cellwright.app.schema import Feature, Missing, Schema

__all__ = ["RowEncoder"]

Moment = datetime | float


@dataclass(frozen=True)
class _Stream:
    """What is remembered of a stream: its last scaled features, and the time of its last row."""

    last: tuple[float, ...]
    time: Moment | None = None


class RowEncoder:
    """Encodes rows as `encode` does a table, keeping for each stream what missing values need.

    Args:
        schema: of a forecast or a classification.
        scaling: that of the training.
    """

    def __init__(self, schema: Schema, scaling: Scaling) -> None:
        self._schema = schema
        self._mean = scaling.input_mean.tolist()
        self._deviation = scaling.input_deviation.tolist()
        self._width = sum(feature.width for feature in schema.features)
        self._streams: dict[Hashable, _Stream] = {}

    def encode(self, row: Mapping[str, object], key: Hashable = None) -> Tensor:
        """A row by column name as the scaled input (H_in,) of float32.

        Values are numbers or text that reads as one, as JSON and CSV give them. A row that raises
        leaves the stream as it was.

        Args:
            row: the columns; others than the schema's are not read.
            key: which stream the row continues.

        Raises:
            InputError: a column is absent, of another type, missing where that is an error, or an
                unknown category; a time is none, or not later than the last of the stream.
        """
        stream = self._streams.get(key, _Stream((0.0,) * self._width))
        values: list[float] = []
        for feature in self._schema.features:
            values += self._feature(row, feature, len(values))
        marks: list[float] = []
        if self._schema.missing is Missing.MASK:
            place = 0
            for feature in self._schema.features:
                marks.append(float(math.isnan(values[place])))
                place += feature.width
        filled = [
            old if math.isnan(new) else new for new, old in zip(values, stream.last, strict=True)
        ]
        time, calendar = self._time(row, stream)
        self._streams[key] = replace(stream, last=tuple(filled), time=time)
        return torch.tensor(filled + marks + calendar, dtype=torch.float32)

    def reset(self, key: Hashable = None) -> None:
        """Forget a stream."""
        self._streams.pop(key, None)

    def _feature(self, row: Mapping[str, object], feature: Feature, place: int) -> list[float]:
        value = _value(row, feature.name)
        if value is None:
            if self._schema.missing is Missing.ERROR:
                raise InputError(
                    "expected a value, but it is missing; complete it, or train with ffill or "
                    "mask for missing values",
                    column=feature.name,
                )
            return [math.nan] * feature.width
        if feature.categories is not None:
            word = str(value).lower() if isinstance(value, bool) else str(value)
            if word not in feature.categories:
                raise InputError(unknown_category(word, feature.categories), column=feature.name)
            return [float(word == one) for one in feature.categories]
        return [(_number(value, feature.name) - self._mean[place]) / self._deviation[place]]

    def _time(
        self, row: Mapping[str, object], stream: _Stream
    ) -> tuple[Moment | None, list[float]]:
        """The row's time and the calendar's columns; a time that nothing reads may be absent."""
        name = self._schema.time
        if name is None or (not self._schema.calendar and name not in row):
            return None, []
        value = _value(row, name)
        time: Moment | None = moment(value)
        if time is None and not self._schema.calendar and value is not None:
            time = _number(value, name)
        if time is None:
            raise InputError(
                f"expected a time as 2012-01-31 or 2012-01-31 18:30, but got {value!r}; "
                "write it so",
                column=name,
            )
        if stream.time is not None and _not_after(time, stream.time, name):
            raise InputError(
                f"expected a time after {stream.time}, but got {time}; give the rows in order, "
                "and each stream its key",
                column=name,
            )
        return time, self._calendar(time) if isinstance(time, datetime) else []

    def _calendar(self, time: datetime) -> list[float]:
        day = time.replace(hour=0, minute=0, second=0, microsecond=0)
        year = time.year
        columns = calendar_columns(
            np.array([(time - day).total_seconds() / 86400]),
            np.array([float(time.weekday())]),
            np.array([time.timetuple().tm_yday - 1.0]),
            np.array([year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)]),
            self._schema.calendar,
        )
        found: list[float] = columns[0].tolist()
        return found


def _value(row: Mapping[str, object], name: str) -> object:
    """The row's value, None where it is a word for missing."""
    if name not in row:
        near = get_close_matches(name, row, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(row)}"
        raise InputError(
            f"expected a value for {name!r}, but the row has none; {hint}", column=name
        )
    value = row[name]
    if isinstance(value, str):
        value = value.strip()
        return None if value in MISSING_WORDS else value
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _number(value: object, name: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        number = math.nan
    if not abs(number) <= LARGEST:  # nan too
        raise InputError(
            f"expected a finite number, as in training, but got {value!r}; correct it", column=name
        )
    return number


def _not_after(time: Moment, last: Moment, name: str) -> bool:
    try:
        return time <= last  # type: ignore[operator]  # what cannot be compared raises
    except TypeError:
        raise InputError(
            f"expected a time like the one before, {last}, but got {time}; write them alike",
            column=name,
        ) from None
