"""A matrix product of a list, as machine code reads it; see ``cellwright.cpu.products.product``."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, fields

from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value

__all__ = [
    "DEPTHS",
    "FIRST_GROUP",
    "GROUP_DEPTH",
    "JOB",
    "NONE",
    "ROWS",
    "Job",
    "depth_table",
]

GROUP_DEPTH = 128
"""Depths that are summed up at once."""
_ALONE = 8
"""Depths from which a run is summed up by itself: writing its sums costs less than gathering."""
FIRST_GROUP = 3
"""Where a table of depths has its first group."""
NONE = -(1 << 48)
"""The first depth of a run in B that is not there, so that its values are 0; whatever is added."""


def depth_table(runs: Iterable[tuple[int, int, int]]) -> "array[int]":
    """Return the depths that a product sums over, as machine code reads them.

    Runs of depths are cut, and short ones gathered, into groups, which are summed up at once. The
    table has the number of groups, that of all depths, the most runs of a group, then for each
    group its depths, the number of its runs, and each run.

    Args:
        runs: (first depth in A, first depth in B, how many) of successive depths.
    """
    cut: list[list[int]] = [[]]
    room = GROUP_DEPTH
    for from_a, from_b, count in runs:
        done = 0
        while done < count:
            if room == 0 or (cut[-1] and count - done >= _ALONE):
                cut.append([])
                room = GROUP_DEPTH
            size = min(count - done, room)
            cut[-1] += (from_a + done, from_b + done, size)
            done += size
            room -= size
    if not cut[-1]:
        cut[-1] = [0, 0, 0]  # a run of nothing: a group has at least one
    runs_each, depths = [len(group) // 3 for group in cut], [sum(group[2::3]) for group in cut]
    table = array("q", (len(cut), sum(depths), max(runs_each)))
    for depth, count, group in zip(depths, runs_each, cut, strict=True):
        table.extend((depth, count, *group))
    return table


@dataclass
class Job:
    """A product's fields, loaded.

    Attributes:
        a, b, c: addresses. a_line: distance between rows m of A. a_depth: between its depths.
        b_depth: between depths of B. c_line: between rows of C. rows, columns: of C.
        adds: 1 to add to C, 0 to start from 0. depths: the table of depths.
        joint, others: null, or such tables with the same groups and runs, if the unit takes this
            product together with the next one, whose A is the same: of A and this B; of A and the
            other B, where runs may be ``NONE``. blank: a row of zeros for these.
    """

    a: Value
    a_line: Value
    a_depth: Value
    b: Value
    b_depth: Value
    c: Value
    c_line: Value
    rows: Value
    columns: Value
    adds: Value
    depths: Value
    joint: Value
    others: Value
    blank: Value

    @classmethod
    def load(cls, s: Simd, struct: Value, place: Value, addresses: Value) -> "Job":
        """Load the product at the ``place``-th field of a struct."""
        found: list[Value] = []
        for name in (field.name for field in fields(cls)):
            value = s.field(struct, place, POINTER if name in _TABLES else I64)
            if name in MATRICES:
                place = s.add(place, 1)
                value = s.at(s.field(addresses, value, POINTER), s.field(struct, place))
            found.append(value)
            place = s.add(place, 1)
        return cls(*found)

    def crosswise(self, s: Simd) -> Value:
        """Whether rows of A lie side by side, as columns of B always do."""
        return s.builder.icmp_signed("==", self.a_line, s.index(1))

    def write(
        self,
        s: Simd,
        matrix: tuple[Value, Value],
        rows: tuple[Value, Value],
        columns: tuple[Value, Value],
    ) -> None:
        """Write a matrix to C, or add it to what is there; ``rows``, ``columns``: first, number.

        The matrix is an address and the distance between rows.
        """
        source, stride = matrix

        def put(k: Value, mask: Value, line: Value, place: Value) -> None:
            at, values = s.at(place, k), s.load(line, k)
            with s.builder.if_else(s.less(0, self.adds)) as (then, otherwise):
                with then:
                    s.store(s.builder.fadd(s.load(at, 0, mask), values), at, 0, mask)
                with otherwise:
                    s.store(values, at, 0, mask)

        def row(j: Value, _: list[Value]) -> None:
            line = s.at(source, s.mul(j, stride))
            start = s.add(s.mul(s.add(rows[0], j), self.c_line), columns[0])
            place = s.at(self.c, start)
            s.vectors(columns[1], lambda k, mask: put(k, mask, line, place))

        s.loop(0, rows[1], 1, row)


MATRICES = ("a", "b", "c", "blank")
"""What a product has two fields of: which of the addresses, and how far from there."""
_TABLES = ("depths", "joint", "others")
JOB = len(fields(Job)) + len(MATRICES)
"""Fields of a product."""
DEPTHS = JOB - 2 - len(_TABLES)
ROWS = DEPTHS - 3
"""Where a product has the addresses of its depths, and its rows."""
