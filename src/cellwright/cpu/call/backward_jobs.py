"""The products after a backward walk, before they are listed: matrices, rows and depths."""

from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from cellwright.cpu.call.plan import Rows
from cellwright.cpu.call.shifts import Run, edges, shifts
from cellwright.cpu.products.job import NONE, depth_table

__all__ = ["Depths", "Job", "Matrix", "all_depths", "cut", "paired", "runs_of", "table_of"]


@lru_cache(maxsize=1024)
def all_depths(count: int) -> "array[int]":
    """Return the table of a product over the first ``count`` depths."""
    return depth_table([(0, 0, count)])


class Matrix(NamedTuple):
    """A matrix: its name, its first element, the distance between rows."""

    name: str
    first: int
    distance: int


Depths = Literal["all", "before", "first", "all, in runs", "before, or none"]
"""Depths that are rows of the sequence: each one; each with the row of the step before it; those of
the first steps, each with its sequence. Of a pair: each one, in the runs that the second job has;
each with the row of the step before it, or with none."""
_ROWWISE: tuple[Depths, ...] = ("all", "before")
"""Those of a job of which there are about as many as rows."""
_PAIR: tuple[Depths, Depths] = ("all, in runs", "before, or none")
"""Those of the first job of a pair and of the second, for AMX."""


class Job(NamedTuple):
    """A product to list; see ``cellwright.cpu.products.product``.

    Attributes:
        depth_of_a: distance between depths of A; 0: the first one meets all depths of B.
        rows: of C; None for those of the sequence.
        depths: the table of its depths, or which table of the sequence.
        pair: the same for it and the job that follows, if AMX takes these together.
    """

    a: Matrix
    depth_of_a: int
    b: Matrix
    c: Matrix
    rows: int | None
    columns: int
    depths: "array[int] | Depths"
    pair: "tuple[array[int] | Depths, array[int] | Depths] | None" = None

    @property
    def over_rows(self) -> bool:
        """Whether it goes through the rows of the sequence, by all of which its work grows."""
        return self.rows is None or self.depths in _ROWWISE

    def from_row(self, start: int, rows: int) -> "Job":
        """Return the same for so many rows of A and C, from one on."""
        a, c = (m._replace(first=m.first + start * m.distance) for m in (self.a, self.c))
        return self._replace(a=a, c=c, rows=rows)

    @property
    def kinds(self) -> list[Depths]:
        """Which tables of the sequence it has."""
        tables = (self.depths, *(self.pair or ()))
        return [table for table in tables if not isinstance(table, array)]


def runs_of(depths: Depths, rows: Rows, d: int) -> list[Run]:
    """Return the runs of a sequence's depths; ``d``: 1 for the direction backwards in time."""
    match depths:
        case "all":
            return [(0, 0, rows.layout.rows)]
        case "before":
            return shifts(rows, d == 1)
        case "first":
            return edges(rows, d == 1)
        case "all, in runs":
            return [(row, row, size) for row, _, size in _or_none(rows, d)]
        case "before, or none":
            return _or_none(rows, d)


def _or_none(rows: Rows, d: int) -> list[Run]:
    """Return runs of all rows of a dense batch, each with that of the step before it or none."""
    found: list[Run] = []
    done = 0
    for row, before, size in [*shifts(rows, d == 1), (rows.layout.rows, 0, 0)]:
        found += [(done, NONE, row - done)] if row > done else []
        found += [(row, before, size)] if size else []
        done = row + size
    return found


def cut(runs: Sequence[Run], each: int) -> dict[int, list[Run]]:
    """Return the runs of each piece of so many rows of A, by its first row."""
    pieces: dict[int, list[Run]] = {}
    for from_a, from_b, size in runs:
        done = 0
        while done < size:
            start = (from_a + done) // each * each
            count = min(size - done, start + each - from_a - done)
            pieces.setdefault(start, []).append((from_a + done, from_b + done, count))
            done += count
    return pieces


def table_of(depths: Depths, rows: Rows, d: int) -> "array[int]":
    """Return the table of a sequence's depths."""
    if depths == "all":
        return all_depths(rows.layout.rows)
    return depth_table(runs_of(depths, rows, d))


def paired(jobs: Sequence[Job], pays: Callable[[int, int, tuple[int, int]], bool]) -> list[Job]:
    """Put jobs of the same A one behind the other where AMX takes them together.

    Rows of A that only the first has make a job of their own. The second is never cut: others may
    add to its C, and threads share out the rows of all that do alike, as none waits for another.

    Args:
        jobs: those of a direction, in an order in which what adds to a C may follow what fills it.
        pays: whether it is faster with so many rows of both, more of the first, columns of each.
    """
    found = [*jobs]
    for second in [job for job in jobs if job.depths == "before"]:
        rows, earlier = second.rows or 0, found[: found.index(second)]
        for first in [job for job in earlier if job.depths == "all" and job.a == second.a]:
            more, columns = (first.rows or 0) - rows, (first.columns, second.columns)
            if first.pair or more < 0 or not pays(rows, more, columns):
                continue
            others = [first.from_row(rows, more)] if more else []
            found.remove(second)
            place = found.index(first)
            found[place : place + 1] = [first._replace(rows=rows, pair=_PAIR), second, *others]
            break
    return found
