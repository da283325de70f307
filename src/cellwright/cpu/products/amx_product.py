"""Chunks of a matrix product by AMX; see ``cellwright.cpu.products.product``.

A chunk of C is summed up in memory that stays in the second-level cache, a group of depths at a
time. Of each group the columns of B are split into planes first. Then the rows of A are, 32 at a
time, while those before them are multiplied with all columns: A are the gates' gradients, the
larger side by far.

Where rows of A lie side by side the unit takes them as columns, as their depths would have to be
turned, and those of B, which are, as rows. So C is turned as it is written.

Infinity, nan, and what overflows, make a sum that is not finite, but not all that they should be:
splitting has no eye for them. Such a chunk is left to ``Chunks``, and C is not touched before.
"""

from dataclasses import dataclass
from functools import partial

import llvmlite.ir as ir

from cellwright.cpu.amx.lines import (
    HALVES,
    PANEL_DEPTH,
    PANEL_LINES,
    PANEL_SIZE,
    PART,
    PARTS,
    whole_block,
)
from cellwright.cpu.amx.panel import PANEL, PANEL_SUMS, all_finite, ends_half, panels_of
from cellwright.cpu.amx.planes import flushing
from cellwright.cpu.amx.unit import AMX_DEPTH
from cellwright.cpu.products.job import FIRST_GROUP, Job
from cellwright.cpu.vector.functions import Functions
from cellwright.cpu.vector.pack import TRANSPOSE
from cellwright.cpu.vector.simd import I32, POINTER, Simd, Value

__all__ = ["AMX_MEMORY", "AmxChunks", "Pair", "Tables", "amx_pays", "pair_pays"]

_COLUMNS, _SUMS = 256, 1 << 17
"""The most columns of a chunk, and its most sums."""
_SIDE = PANEL_SIZE * (_COLUMNS // PANEL_LINES)
AMX_MEMORY = _SUMS + _SIDE + 2 * PANEL_SIZE + 2 * PANEL_SUMS
"""Elements of memory that a thread needs."""
_LEAST_ROWS, _LEAST_COLUMNS, _LEAST_DEPTH, _LEAST = 96, 32, 96, 1 << 22
"""Rows, columns, depths and multiply-adds from which AMX is faster: it gains less than splitting
costs where what was split is used for few others, and takes some microseconds to wake up."""
_MANY = 128
"""Of fewer rows or depths, it takes twice as many multiply-adds."""


def amx_pays(s: Simd, job: Job, rows: Value) -> Value:
    """Return whether AMX is faster for so many rows, and A lies as it has to."""
    b, columns = s.builder, job.columns
    # depths of rows must lie in one run
    one_run = s.less(s.field(job.depths, 2), 2)
    straight = b.and_(b.icmp_signed("==", job.a_depth, s.index(1)), one_run)
    found = b.or_(job.crosswise(s), straight)
    depth = s.field(job.depths, 1)
    few = s.less(s.min(rows, depth), _MANY)
    limits = (
        (rows, _LEAST_ROWS),
        (columns, _LEAST_COLUMNS),
        (depth, _LEAST_DEPTH),
        (s.mul(s.mul(rows, columns), depth), b.select(few, s.index(2 * _LEAST), s.index(_LEAST))),
    )
    for size, least in limits:
        found = b.and_(found, b.not_(s.less(size, least)))
    # a quarter of the panels' columns, or more, would be for nothing
    panels = s.mul(_up(s, columns, PANEL_LINES), 3)
    return b.and_(found, s.less(panels, s.mul(columns, 4)))


def pair_pays(rows: int, more: int, columns: tuple[int, int], depth: int) -> bool:
    """Return whether AMX is faster for two products of so many rows of the same A together.

    All columns then have to be in one chunk. What has ``more`` rows becomes another product, which
    costs more than is gained if AMX has to split its B again. Machine code trusts this: it has no
    limits of its own for a pair, of which one side may be narrower than a product's least columns.
    """
    panels = sum(-(-n // PANEL_LINES) for n in columns)
    enough = min(rows, depth) >= _MANY and rows * sum(columns) * depth >= _LEAST
    filled = 3 * panels * PANEL_LINES < 4 * sum(columns)
    return enough and filled and panels * PANEL_LINES <= _COLUMNS and more < _MANY


class Tables:
    """Room on the stack, to be made once: for the addresses of all sides' depths; for flags."""

    def __init__(self, s: Simd) -> None:
        tables = (s.reserve(POINTER, PANEL_DEPTH) for _ in range(3))
        self.of_rows, self.of_columns, self.of_others = tables
        self.control = s.reserve(I32, 2)


@dataclass
class Pair:
    """A product, and if ``joined``, another one of the same A, whose B comes behind its columns."""

    job: Job
    other: Job
    joined: Value


def _up(s: Simd, size: Value, unit: int) -> Value:
    """Return the next multiple of a power of two."""
    return s.builder.and_(s.add(size, unit - 1), s.index(-unit))


@dataclass
class _Chunk:
    """Rows and columns: the first of each, how many; panels of columns, of the other B, of both.

    ``half``: whether half of the last panel is empty, and the unit takes them as columns.
    """

    row: Value
    rows: Value
    column: Value
    columns: Value
    own: Value
    others: Value
    panels: Value
    half: Value


class AmxChunks:
    """Emits the sums of a product, or of a pair of them, chunk by chunk.

    Args:
        s: where to. pair: the products. functions: the library's. memory: ``AMX_MEMORY``
            elements. tables: room for addresses.
    """

    def __init__(
        self, s: Simd, pair: Pair, functions: Functions, memory: Value, tables: Tables
    ) -> None:
        self.s, self.functions, self.tables = s, functions, tables
        self.job, self.other, self.joined = pair.job, pair.other, pair.joined
        job, choose = pair.job, s.builder.select
        self.depths = choose(self.joined, job.joint, job.depths)
        self.others = choose(self.joined, job.others, job.depths)
        self.sums, self.columns = memory, s.at(memory, _SUMS)
        self.rows = s.at(memory, _SUMS + _SIDE)
        self.tiles = s.at(memory, _SUMS + _SIDE + 2 * PANEL_SIZE)
        self.crosswise = job.crosswise(s)
        self.row_split = self._swap(*map(functions.number, ("rows", "lines")))

    def sizes(self, rows: Value) -> tuple[Value, Value]:
        """Return rows and columns of C in a chunk: parts of so many rows, all about alike.

        A pair has all its columns in each chunk.
        """
        s, b, block = self.s, self.s.builder, self.s.target.block(self.s.dtype)

        def share(size: Value, most: Value) -> Value:
            size = b.select(s.less(0, size), size, s.index(1))
            parts = b.sdiv(s.sub(s.add(size, most), 1), most)
            return _up(s, b.sdiv(s.sub(s.add(size, parts), 1), parts), block)

        own, others = (_up(s, job.columns, PANEL_LINES) for job in (self.job, self.other))
        part = share(self.job.columns, s.index(_COLUMNS))
        width = b.select(self.joined, own, part)
        both = b.select(self.joined, s.add(own, others), part)
        height = share(rows, s.whole(b.sdiv(s.index(_SUMS), both), block))
        return height, width

    def emit(self, rows: tuple[Value, Value], columns: tuple[Value, Value]) -> Value:
        """Emit a chunk between bounds; return whether its sums are finite, and so were written."""
        s, (row, row_stop), (column, stop) = self.s, rows, columns
        width = s.sub(stop, column)
        own, others = (panels_of(s, columns) for columns in (width, self.other.columns))
        others = s.builder.select(self.joined, others, s.index(0))
        bounds = row, s.sub(row_stop, row), column, width
        half = self._swap(ends_half(s, width), s.index(0))  # as in pairs, which all go crosswise
        self.chunk = _Chunk(*bounds, own, others, s.add(own, others), half)
        flushing(s, self._sum, self.tables.control)
        finite = self._finite()
        s.when(finite, self._write)
        return finite

    def _sum(self) -> None:
        """Sum a chunk up over all depths."""
        s, b = self.s, self.s.builder
        table = self.depths
        count = s.field(table, 0)

        def group(j: Value, carried: list[Value]) -> list[Value]:
            """Do what was gathered if this group does not fit behind it; gather this one."""
            place, filled, fresh = carried
            more = s.less(j, count)
            start = b.select(more, place, s.index(0))
            zero = s.index(0)
            depth = b.select(more, s.field(table, start), zero)
            runs = b.select(more, s.field(table, s.add(start, 1)), zero)
            # depths of rows are one run
            room = b.select(self.crosswise, s.index(PANEL_DEPTH), zero)
            fits = b.and_(more, s.less(s.add(filled, depth), s.add(room, 1)))
            due = b.and_(s.less(0, filled), b.not_(fits))
            s.when(due, lambda: self._group(filled, fresh))
            filled, fresh = b.select(due, zero, filled), b.select(due, zero, fresh)
            filled = self._gather(s.add(place, 2), runs, filled)
            return [s.add(place, s.add(s.mul(runs, 3), 2)), filled, fresh]

        start = [s.index(FIRST_GROUP), s.index(0), s.index(1)]
        s.loop(0, s.add(count, 1), 1, group, start)

    def _gather(self, place: Value, runs: Value, filled: Value) -> Value:
        """Put down where the depths of runs are, behind those that are there."""
        s, job, other, tables = self.s, self.job, self.other, self.tables
        sides = (job.a, job.a_depth, tables.of_rows), (job.b, job.b_depth, tables.of_columns)

        def run(r: Value, carried: list[Value]) -> list[Value]:
            (done,) = carried
            entry = s.add(place, s.mul(r, 3))
            numbers = s.entry(self.depths, entry)
            from_others = s.field(s.entry(self.others, entry), 1)
            size = s.field(numbers, 2)

            def depth(k: Value, _: list[Value]) -> None:
                to = s.add(done, k)
                for number, (base, apart, table) in enumerate(sides):
                    at = s.mul(s.add(s.field(numbers, number), k), apart)
                    s.builder.store(s.at(base, at), s.entry(table, to))
                at = s.mul(s.add(from_others, k), other.b_depth)
                found = s.builder.select(s.less(from_others, 0), job.blank, s.at(other.b, at))
                s.builder.store(found, s.entry(tables.of_others, to))

            s.loop(0, size, 1, depth)
            return [s.add(done, size)]

        return s.loop(0, runs, 1, run, [filled])[0]

    def _group(self, depth: Value, fresh: Value) -> None:
        """Add the depths that were gathered to the sums; ``fresh``: nothing is there yet."""
        s, chunk, tables = self.s, self.chunk, self.tables
        whole = _up(s, depth, AMX_DEPTH)
        blocks = s.builder.sdiv(whole, s.index(AMX_DEPTH))

        def fill(k: Value, _: list[Value]) -> None:
            """Repeat a depth that does not count: what the unit takes as rows has 0 there."""
            for table in (tables.of_rows, tables.of_columns, tables.of_others):
                s.builder.store(s.field(table, 0, POINTER), s.entry(table, k))

        s.loop(depth, whole, 1, fill)
        self._split_columns(depth, blocks)
        self._split_first(depth, blocks)
        s.loop(0, chunk.rows, PANEL_LINES, lambda r, _: self._panel(r, depth, blocks, fresh))

    def _panel(self, r: Value, depth: Value, blocks: Value, fresh: Value) -> None:
        """Multiply a panel's rows with all columns, and split the next one's."""
        s, b, chunk, swap = self.s, self.s.builder, self.chunk, self._swap
        odd, following = b.and_(r, s.index(PANEL_LINES)), s.add(r, PANEL_LINES)
        now, then = (
            s.at(self.rows, s.mul(x, PANEL_SIZE // PANEL_LINES))
            for x in (odd, s.sub(PANEL_LINES, odd))
        )
        none = ir.Constant(POINTER, None)
        due = s.less(following, chunk.rows)
        split = b.select(due, self.functions.pointer(self.row_split), none)
        sides = (now, s.index(0)), (self.columns, s.index(PANEL_SIZE))
        rows = [swap(x, y) for x, y in zip(*sides, strict=True)]
        columns = [swap(y, x) for x, y in zip(*sides, strict=True)]
        sums = s.at(self.sums, self._before(r)), fresh, self.tiles
        args = [*sums, *rows, *columns, chunk.panels, chunk.half, blocks]
        args += [split, *self._rows_side(following, depth), then]
        self.functions.call("panel", PANEL, args)

    def _swap(self, x: Value, y: Value) -> Value:
        """Return the first, or where the unit takes rows as columns, the second."""
        return self.s.builder.select(self.crosswise, y, x)

    def _before(self, r: Value) -> Value:
        """Return the number of sums before those of a row's panel."""
        return self.s.mul(self.s.mul(r, self.chunk.panels), PANEL_SUMS // PANEL_LINES)

    def _split(self, which: Value, parts: Value, j: Value, side: list[Value], to: Value) -> None:
        """Split a block of a panel, in all its parts; ``side``: arguments from the table on."""
        self.functions.call(which, PART, whole_block(self.s, parts, j, side, to))

    def _split_columns(self, depth: Value, blocks: Value) -> None:
        """Split all columns of B, and of the other B."""
        s, chunk, tables = self.s, self.chunk, self.tables
        which = self._swap(*map(self.functions.number, ("lines", "turn")))
        parts = self._swap(s.index(PARTS), s.index(HALVES))
        sides = (
            (tables.of_columns, chunk.column, chunk.columns, s.index(0), chunk.own),
            (tables.of_others, s.index(0), self.other.columns, chunk.own, chunk.others),
        )

        def panel(side: tuple[Value, ...], j: Value, p: Value, _: list[Value]) -> None:
            table, first, columns, before = side
            done = s.mul(p, PANEL_LINES)
            args = [table, depth, s.add(first, done), s.sub(columns, done), s.index(1)]
            to = s.at(self.columns, s.mul(s.add(before, p), PANEL_SIZE))
            self._split(which, parts, j, args, to)

        def block(j: Value, _: list[Value]) -> None:
            for *side, count in sides:
                s.loop(0, count, 1, partial(panel, tuple(side), j))

        s.loop(0, blocks, 1, block)

    def _rows_side(self, first: Value, depth: Value) -> list[Value]:
        """Return what a split of a panel's rows is told of them."""
        s, chunk = self.s, self.chunk
        rows = s.add(chunk.row, first), s.sub(chunk.rows, first), self.job.a_line
        return [self.tables.of_rows, depth, *rows]

    def _split_first(self, depth: Value, blocks: Value) -> None:
        """Split the first panel's rows."""
        s = self.s
        side = self._rows_side(s.index(0), depth)

        def block(j: Value, _: list[Value]) -> None:
            self._split(self.row_split, s.index(PARTS), j, side, self.rows)

        s.loop(0, blocks, 1, block)

    def _finite(self) -> Value:
        """Return whether all sums are finite."""
        size = self._before(_up(self.s, self.chunk.rows, PANEL_LINES))
        return all_finite(self.s, self.sums, size)

    def _write(self) -> None:
        """Write the sums, turned where the unit took rows as columns."""
        s, chunk = self.s, self.chunk
        parts = (
            (self.job, chunk.column, chunk.columns, s.index(0), chunk.own),
            (self.other, s.index(0), self.other.columns, chunk.own, chunk.others),
        )

        def panel(r: Value, _: list[Value]) -> None:
            source = s.at(self.sums, self._before(r))
            for job, first, columns, before, count in parts:
                s.loop(0, count, 1, partial(self._square, (job, first, columns, before), source, r))

        s.loop(0, chunk.rows, PANEL_LINES, panel)

    def _square(
        self,
        part: tuple[Job, Value, Value, Value],
        source: Value,
        r: Value,
        p: Value,
        _: list[Value],
    ) -> None:
        """Write the sums of a panel's rows from ``r`` on with a panel of columns of a part.

        ``part``: the product, its first column in the chunk, how many, panels before them.
        """
        s, chunk, (job, first, width, before) = self.s, self.chunk, part
        done = s.mul(p, PANEL_LINES)
        rows = s.add(chunk.row, r), s.min(s.sub(chunk.rows, r), PANEL_LINES)
        columns = s.add(first, done), s.min(s.sub(width, done), PANEL_LINES)
        block, stride = s.at(source, s.mul(s.add(before, p), PANEL_SUMS)), s.index(PANEL_LINES)
        args = [block, stride, stride, stride, self.tiles, stride]
        s.when(self.crosswise, lambda: self.functions.call("transpose", TRANSPOSE, args))
        job.write(s, (self._swap(block, self.tiles), stride), rows, columns)
