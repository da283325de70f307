"""What a column holds, and its values: numbers, times, categories."""

from enum import Enum, auto

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cellwright.app.data.table import Table, fail

__all__ = [
    "LARGEST",
    "MISSING_WORDS",
    "Kind",
    "clean",
    "kind_of",
    "numbers",
    "texts",
    "time_format",
    "times",
    "typed",
]

Floats = NDArray[np.float64]

MISSING_WORDS = (
    *("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "null", "NULL", "None", "?"),
    "-",
)
LARGEST = 1e30
"""Larger numbers are refused: scaled, they would come near what float32 can hold."""

SAMPLE = 1000
"""Values that a column of text is judged by; one that fits them less is an error where it is."""

DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%Y-%m")
CLOCKS = ("%H:%M:%S%.f", "%H:%M", "%H:%M:%S%.f%#z", "%H:%M%#z")
TIME_FORMATS = tuple(
    f"{date}{between}{clock}"
    for clock in CLOCKS
    for date in DATE_FORMATS[:3]
    for between in (" ", "T")
)


FIRST_DAY, LAST_DAY = -719162, 2932896  # of the years 1 and 9999, from 1970 on


class Kind(Enum):
    """What the values of a column are; EMPTY has none, OTHER holds lists and the like."""

    NUMBER = auto()
    TIME = auto()
    CATEGORY = auto()
    EMPTY = auto()
    OTHER = auto()


def clean(column: pl.Series) -> pl.Series:
    """A column of text without surrounding blanks; words that mean "missing" are null."""
    return column.to_frame().select(_cleaned(column.name)).to_series()


def kind_of(table: Table, name: str) -> Kind:
    """What the column holds; a column of text by the larger part of its first values."""
    dtype = table.schema[name]
    if dtype.is_numeric() or dtype == pl.Boolean:
        return Kind.NUMBER
    if dtype == pl.Null:
        return Kind.EMPTY
    if isinstance(dtype, pl.Date | pl.Datetime):
        return Kind.TIME
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return Kind.CATEGORY
    if dtype != pl.String:
        return Kind.OTHER
    sample = _sample(table, name)
    if not len(sample):
        return Kind.EMPTY
    if _floats(sample, table).null_count() <= len(sample) / 2:
        return Kind.NUMBER
    return Kind.CATEGORY if time_format(sample) is None else Kind.TIME


def numbers(table: Table, column: pl.Series, start: int) -> Floats:
    """The column's numbers as float64, nan where missing.

    Args:
        table: where the column comes from, for the error.
        column: some of its rows.
        start: the number of the first of them.

    Raises:
        InputError: a value that is no number, or too large for float32.
    """
    if column.dtype == pl.String:
        column = clean(column)
        values = _floats(column, table)
        bad = (values.is_null() & column.is_not_null()).arg_true()
    elif column.dtype.is_numeric() or column.dtype in {pl.Boolean, pl.Null}:
        values = column.cast(pl.Float64)
        bad = pl.Series([], dtype=pl.UInt32)
    else:
        values = pl.Series(column.name, [None] * len(column), pl.Float64)
        bad = column.is_not_null().arg_true()
    if len(bad):
        row = int(bad[0])
        raise fail(
            table,
            f"expected a number, but got {column[row]!r}; correct it, or train without the "
            "column (--exclude)",
            start + row,
            column.name,
        )
    found: Floats = values.cast(pl.Float64).to_numpy()
    infinite = np.flatnonzero(np.abs(found) > LARGEST)
    if len(infinite):
        raise fail(
            table,
            f"expected a finite number up to {LARGEST:g}, but got {found[infinite[0]]:g}; "
            "correct it",
            start + int(infinite[0]),
            column.name,
        )
    return found


def texts(column: pl.Series) -> pl.Series:
    """The column's values as text, as they were written; null where missing."""
    if column.dtype == pl.String:
        return clean(column)
    return column.cast(pl.String)


def times(table: Table, name: str) -> pl.Series:
    """The column's times: dates, datetimes (in UTC if they have a zone) or numbers.

    Raises:
        InputError: a value that is missing, or none of these.
    """
    column = table.column(name)
    kind = kind_of(table, name)
    if kind is Kind.NUMBER:
        parsed = pl.Series(name, numbers(table, column, 0)).fill_nan(None)
        whole = parsed.cast(pl.Int64, strict=False)
        parsed = whole if (whole == parsed).all() else parsed
    elif kind is Kind.TIME:
        parsed = _times(table, column)
    else:
        raise fail(
            table,
            f"expected times as 2012-01-31, 2012-01-31 18:30 or numbers, but got {column[0]!r}; "
            "write them so, or name another column",
            0,
            name,
        )
    bad = (parsed.is_null() | _beyond(parsed)).arg_true()
    if len(bad):
        row = int(bad[0])
        raise fail(
            table,
            f"expected a time like the others, but got {_shown(column, row)}; correct it",
            row,
            name,
        )
    return parsed


def time_format(sample: pl.Series) -> str | None:
    """The format that fits more than half of the values; None where none does."""
    for text in (*DATE_FORMATS, *TIME_FORMATS):
        if _parse(sample, text).null_count() < len(sample) / 2:
            return text
    return None


def typed(table: Table) -> pl.DataFrame:
    """The table in memory, with columns of text made numbers and times where all values are."""
    frame = table.lazy.collect()
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    return frame.with_columns([_typed(table, frame[name]) for name in texts])


def _typed(table: Table, raw: pl.Series) -> pl.Series:
    column = clean(raw)
    missing = column.null_count()
    values = _floats(column, table)
    if missing == len(column):
        return column
    if values.null_count() == missing:
        whole = column.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == missing else values
    pattern = time_format(column.drop_nulls().head(SAMPLE))
    parsed = None if pattern is None else _parse(column, pattern)
    return column if parsed is None or parsed.null_count() > missing else parsed


def _sample(table: Table, name: str) -> pl.Series:
    """The first values that are there."""
    there = table.lazy.select(_cleaned(name)).drop_nulls()
    return there.head(SAMPLE).collect().to_series()


def _cleaned(name: str) -> pl.Expr:
    stripped = pl.col(name).str.strip_chars()
    return pl.when(~stripped.is_in(MISSING_WORDS)).then(stripped).alias(name)


def _floats(column: pl.Series, table: Table) -> pl.Series:
    if table.decimal_comma:
        column = column.str.replace(",", ".", literal=True)
    return column.cast(pl.Float64, strict=False)


def _times(table: Table, column: pl.Series) -> pl.Series:
    if column.dtype == pl.String:
        pattern = time_format(_sample(table, column.name))
        column = clean(column)
        if pattern is None:  # excluded by the column's kind
            raise AssertionError(column.name)
        column = _parse(column, pattern)
    zone = getattr(column.dtype, "time_zone", None)
    return column.dt.convert_time_zone("UTC") if zone else column


def _shown(column: pl.Series, row: int) -> str:
    """A value for a message; a date that Python has not, by its number."""
    return repr(column[row] if column.dtype == pl.String else column.to_physical()[row])


def _beyond(moments: pl.Series) -> pl.Series:
    """Which dates are not of the years 1 to 9999, which no text can be written of."""
    if not moments.dtype.is_temporal():
        return moments.is_null()
    unit = getattr(moments.dtype, "time_unit", None)
    days = moments.to_physical() // {None: 1, "ms": 86400 * 10**3, "us": 86400 * 10**6}.get(
        unit, 86400 * 10**9
    )
    return ~days.is_between(FIRST_DAY, LAST_DAY)


def _parse(column: pl.Series, pattern: str) -> pl.Series:
    if pattern == "%Y-%m":
        return (column + "-01").str.to_date("%Y-%m-%d", strict=False)
    if pattern in DATE_FORMATS:
        return column.str.to_date(pattern, strict=False)
    zone = "UTC" if pattern.endswith("z") else None
    return column.str.to_datetime(pattern, strict=False, time_unit="us", time_zone=zone)
