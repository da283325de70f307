"""A table that was read, with the way back from its rows to the lines of its file."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import polars as pl

from cellwright.app.data.options import Options
from cellwright.app.errors import InputError

__all__ = ["BATCH_ROWS", "Stack", "Table", "fail", "require_columns"]

BATCH_ROWS = 65536
"""Rows that are handled at once: enough to be fast, few enough for any memory."""


def _count_from_one(index: int) -> int:
    return index + 1


@dataclass(frozen=True)
class Table:
    """Rows as they stand in a file: delimited files have columns of text, others their own types.

    Attributes:
        lazy: the rows, in memory or in a scratch file of small row groups.
        height: how many rows there are.
        name: what the data is called.
        file: where it came from; None for a data frame.
        line: the row of the file, counted from 1 with a header as 1, of a row counted from 0.
        hints: what the format itself says of the columns' roles.
        decimal_comma: whether 1,5 is a number.
        streamed: whether the rows are in a scratch file, and tensors shall be.
        scratch: what removes the scratch file when the table goes.
    """

    lazy: pl.LazyFrame
    height: int
    name: str
    file: Path | None = None
    line: Callable[[int], int] = _count_from_one
    hints: Options = field(default_factory=Options)
    decimal_comma: bool = False
    streamed: bool = False
    scratch: object = None

    @cached_property
    def schema(self) -> pl.Schema:
        """The columns and their types."""
        return self.lazy.collect_schema()

    def column(self, name: str) -> pl.Series:
        """A whole column, in memory: for what orders and names the rows."""
        return self.lazy.select(name).collect().to_series()

    def batches(self, columns: list[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """The rows in file order, some at a time, each with the number of its first row."""
        chosen = self.lazy.select(columns)
        for start in range(0, self.height, BATCH_ROWS):
            yield start, chosen.slice(start, BATCH_ROWS).collect()


def fail(
    table: Table, message: str, row: int | None = None, column: str | None = None
) -> InputError:
    """The error to raise about row `row` of the table's frame, counted from 0."""
    line = None if row is None else table.line(row)
    return InputError(message, file=table.file, row=line, column=column)


def require_columns(table: Table, columns: tuple[str, ...] | list[str], why: str) -> None:
    """Raise if one of `columns` is not in the table; `why` says what it is needed for."""
    there = table.schema.names()
    for column in columns:
        if column not in there:
            near = get_close_matches(column, there, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(there)}"
            raise fail(table, f"expected a column {column!r} {why}, but there is none{hint}")


@dataclass(frozen=True)
class Stack:
    """Tables of the same columns, one below the other: training data, and maybe a test file."""

    tables: tuple[Table, ...]

    @property
    def height(self) -> int:
        """The rows of all tables, S."""
        return sum(table.height for table in self.tables)

    @property
    def streamed(self) -> bool:
        """Whether tensors shall be mapped."""
        return any(table.streamed for table in self.tables)

    def starts(self) -> list[int]:
        """The number of each table's first row."""
        return list(accumulate((table.height for table in self.tables[:-1]), initial=0))

    def batches(self, columns: list[str]) -> Iterator[tuple[Table, int, int, pl.DataFrame]]:
        """Some rows at a time: their table, the first one's number in it and in the stack."""
        for table, offset in zip(self.tables, self.starts(), strict=True):
            for start, batch in table.batches(columns):
                yield table, start, offset + start, batch

    def fail(self, message: str, row: int, column: str | None = None) -> InputError:
        """The error to raise about row `row` of the stack."""
        which = bisect_right(self.starts(), row) - 1
        return fail(self.tables[which], message, row - self.starts()[which], column)
