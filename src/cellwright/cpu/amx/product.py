"""Chunks of a matrix product by AMX; see ``cellwright.cpu.product``.

A chunk of C is summed up in memory that stays in the second-level cache, a group of depths at a
time. Of each group one side is split into planes once, as columns; then the other is, 32 rows at a
time, which stay in the first-level cache while the columns go by. Columns are those of B where the
depths of A lie one after another. Otherwise A and B change places, for the gates are the wider
side, whose lines are long, and C is turned as it is written.

Infinity, nan, and what overflows, make a sum that is not finite, but not all that they should be:
splitting has no eye for them. Such a chunk is left to ``Chunks``, and C is not touched before.
"""

from dataclasses import dataclass

import llvmlite.ir as ir

from cellwright.cpu.amx.lines import LINES, PAIR, PANEL_BLOCK, PANEL_DEPTH, PANEL_ROWS, ROWS
from cellwright.cpu.amx.panel import PAIR_SUMS, PANEL
from cellwright.cpu.amx.planes import flushing
from cellwright.cpu.amx.unit import AMX_DEPTH, AMX_ROWS
from cellwright.cpu.functions import Functions
from cellwright.cpu.pack import TRANSPOSE
from cellwright.cpu.product_job import FIRST_GROUP, Job
from cellwright.cpu.simd import I32, I64, POINTER, Simd, Value

__all__ = ["AMX_MEMORY", "AmxChunks", "Tables", "amx_pays"]

_WIDTH, _SUMS = 512, 1 << 17
"""The most columns and elements of a chunk."""
_BLOCKS = PANEL_DEPTH // AMX_DEPTH
_WEIGHTS, _ROWS = _BLOCKS * PANEL_BLOCK * (_WIDTH // AMX_ROWS), 2 * _BLOCKS * PANEL_BLOCK
AMX_MEMORY = _SUMS + _WEIGHTS + 2 * _ROWS + 2 * PAIR_SUMS
"""Elements of memory that a thread needs."""
_LEAST_ROWS, _LEAST_DEPTH, _LEAST_SIZE = 128, 128, 1 << 14
_LEAST_COLUMNS = 64, 128
"""Rows, depths, elements of C, and columns, crosswise and not, from which AMX is faster: it gains
less than splitting costs where what was split is used for few others."""


def amx_pays(s: Simd, job: Job, rows: Value) -> Value:
    """Return whether AMX is faster for so many rows, and A lies as it has to."""
    b, (across, along) = s.builder, _LEAST_COLUMNS
    crosswise = job.crosswise(s)
    # depths of rows must lie in one run
    one_run = s.less(s.field(job.depths, 2), 2)
    straight = b.and_(b.icmp_signed("==", job.a_depth, s.index(1)), one_run)
    found = b.or_(crosswise, straight)
    limits = (
        (rows, _LEAST_ROWS),
        (job.columns, b.select(crosswise, s.index(across), s.index(along))),
        (s.field(job.depths, 1), _LEAST_DEPTH),
        (s.mul(rows, job.columns), _LEAST_SIZE),
    )
    for size, least in limits:
        found = b.and_(found, b.not_(s.less(size, least)))
    return found


class Tables:
    """Room on the stack for addresses, to be made once: of both sides' depths; of a panel."""

    def __init__(self, s: Simd) -> None:
        self.of_rows, self.of_columns = (s.reserve(POINTER, PANEL_DEPTH) for _ in range(2))
        self.rows = s.reserve(POINTER, PANEL_ROWS)
        self.control = s.reserve(I32, 2)


def _entry(s: Simd, table: Value, index: Value) -> Value:
    return s.builder.gep(table, [s.index(index)], source_etype=I64)


def _up(s: Simd, size: Value, unit: int) -> Value:
    """Return the next multiple of a power of two."""
    return s.builder.and_(s.add(size, unit - 1), s.index(-unit))


@dataclass
class _Chunk:
    """Rows and columns: the first of each, how many; pairs of vectors of columns."""

    row: Value
    rows: Value
    column: Value
    columns: Value
    pairs: Value


class AmxChunks:
    """Emits the sums of a product, chunk by chunk.

    Args:
        s: where to. job: the product. functions: the library's. memory: ``AMX_MEMORY``
            elements. tables: room for addresses.
    """

    def __init__(
        self, s: Simd, job: Job, functions: Functions, memory: Value, tables: Tables
    ) -> None:
        self.s, self.job, self.functions, self.tables = s, job, functions, tables
        self.sums, self.weights = memory, s.at(memory, _SUMS)
        self.rows = s.at(memory, _SUMS + _WEIGHTS)
        self.tiles = s.at(memory, _SUMS + _WEIGHTS + 2 * _ROWS)
        self.crosswise = job.crosswise(s)

    def sizes(self, rows: Value) -> tuple[Value, Value]:
        """Return rows and columns of C in a chunk: parts of so many rows, all about alike."""
        s, b, columns = self.s, self.s.builder, self.job.columns

        def share(size: Value, most: Value) -> Value:
            size = b.select(s.less(0, size), size, s.index(1))
            parts = b.sdiv(s.sub(s.add(size, most), 1), most)
            return _up(s, b.sdiv(s.sub(s.add(size, parts), 1), parts), s.target.block(s.dtype))

        wide, narrow = self._swap(columns, rows), self._swap(rows, columns)
        width = share(wide, s.index(_WIDTH))
        most = s.builder.sdiv(s.index(_SUMS), width)
        height = share(narrow, s.builder.and_(most, s.index(-s.target.block(s.dtype))))
        return self._swap(height, width), self._swap(width, height)

    def _swap(self, x: Value, y: Value) -> Value:
        """Return the first, or where A and B have changed places, the second."""
        return self.s.builder.select(self.crosswise, y, x)

    def emit(self, rows: tuple[Value, Value], columns: tuple[Value, Value]) -> Value:
        """Emit a chunk between bounds; return whether its sums are finite, and so were written."""
        s = self.s
        row, row_stop = (self._swap(x, y) for x, y in zip(rows, columns, strict=True))
        column, stop = (self._swap(y, x) for x, y in zip(rows, columns, strict=True))
        size, width = s.sub(row_stop, row), s.sub(stop, column)
        pairs = s.builder.sdiv(s.add(width, PAIR - 1), s.index(PAIR))
        self.chunk = _Chunk(row, size, column, width, pairs)
        flushing(s, self._sum, self.tables.control)
        finite = self._finite()
        s.when(finite, self._write)
        return finite

    def _sum(self) -> None:
        """Sum a chunk up over all depths."""
        s, b = self.s, self.s.builder
        table = self.job.depths
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
        s, job, swap = self.s, self.job, self._swap
        a = job.a, job.a_depth, self.s.index(0)
        b = job.b, job.b_depth, self.s.index(1)
        sides = [swap(x, y) for x, y in zip(a, b, strict=True)], self.tables.of_rows
        others = [swap(y, x) for x, y in zip(a, b, strict=True)], self.tables.of_columns

        def run(r: Value, carried: list[Value]) -> list[Value]:
            (done,) = carried
            numbers = _entry(s, job.depths, s.add(place, s.mul(r, 3)))
            size = s.field(numbers, 2)

            def depth(k: Value, _: list[Value]) -> None:
                for (base, apart, number), table in (sides, others):
                    at = s.mul(s.add(s.field(numbers, number), k), apart)
                    s.builder.store(s.at(base, at), _entry(s, table, s.add(done, k)))

            s.loop(0, size, 1, depth)
            return [s.add(done, size)]

        return s.loop(0, runs, 1, run, [filled])[0]

    def _group(self, depth: Value, fresh: Value) -> None:
        """Add the depths that were gathered to the sums; ``fresh``: nothing is there yet."""
        s, chunk, tables = self.s, self.chunk, self.tables
        whole = _up(s, depth, AMX_DEPTH)
        blocks = s.builder.sdiv(whole, s.index(AMX_DEPTH))

        def fill(k: Value, _: list[Value]) -> None:
            """Repeat a depth that does not count: rows have 0 there."""
            for table in (tables.of_rows, tables.of_columns):
                s.builder.store(s.field(table, 0, POINTER), _entry(s, table, k))

        s.loop(depth, whole, 1, fill)
        args = [tables.of_columns, blocks, chunk.column, chunk.columns, self.weights]
        self.functions.call("lines", LINES, args)

        def panel(r: Value, _: list[Value]) -> None:
            rows, coming = self._split(r, depth)
            sums = s.at(self.sums, self._before(r))
            args = [sums, rows, self.weights, chunk.pairs, blocks, fresh, self.tiles, *coming]
            self.functions.call("panel", PANEL, args)

        s.loop(0, chunk.rows, PANEL_ROWS, panel)

    def _before(self, r: Value) -> Value:
        """Return the number of sums before a panel's."""
        return self.s.mul(self.s.mul(r, self.chunk.pairs), PAIR_SUMS // PANEL_ROWS)

    def _split(self, r: Value, depth: Value) -> tuple[Value, list[Value]]:
        """Split the first panel's rows; return a panel's planes, and how to split the next."""
        s, b, tables, chunk = self.s, self.s.builder, self.tables, self.chunk
        odd = b.and_(r, s.index(PANEL_ROWS))
        now, then = (
            s.at(self.rows, s.mul(x, _ROWS // PANEL_ROWS)) for x in (odd, s.sub(PANEL_ROWS, odd))
        )
        table, zero = self._swap(tables.rows, tables.of_rows), s.index(0)

        def side(first: Value) -> list[Value]:
            """Return arguments of ``ROWS``: columns are there to be turned."""
            number = s.min(s.sub(chunk.rows, first), PANEL_ROWS)
            columns = s.add(chunk.row, first), number
            return [table, depth, *(self._swap(zero, x) for x in columns)]

        def first() -> None:
            self._put_rows(zero)
            self.functions.call("rows", ROWS, [*side(zero), now])

        s.when(s.less(r, 1), first)
        following = s.add(r, PANEL_ROWS)
        self._put_rows(following)
        due = b.zext(s.less(following, chunk.rows), I64)
        return now, [due, *side(following), then]

    def _put_rows(self, first: Value) -> None:
        """Put down where a panel's rows are; the last one is repeated."""
        s, chunk = self.s, self.chunk
        base, last = s.field(self.tables.of_rows, 0, POINTER), s.sub(chunk.rows, 1)

        def put(j: Value, _: list[Value]) -> None:
            line = s.add(chunk.row, s.min(s.add(first, j), last))
            s.builder.store(
                s.at(base, s.mul(line, self.job.a_line)), _entry(s, self.tables.rows, j)
            )

        s.loop(0, self._swap(s.index(PANEL_ROWS), s.index(0)), 1, put)

    def _finite(self) -> Value:
        """Return whether all sums are finite: 0 times any other is nan."""
        s, each, chunk = self.s, 4, self.chunk
        size = self._before(_up(s, chunk.rows, PANEL_ROWS))

        def some(k: Value, found: list[Value]) -> list[Value]:
            zero = s.constant(0.0)
            sums = (s.load(self.sums, s.add(k, j * s.lanes)) for j in range(each))
            return [s.fma(x, zero, nan) for x, nan in zip(sums, found, strict=True)]

        found = s.loop(0, size, each * s.lanes, some, [s.constant(0.0)] * each)
        total = found[0]
        for other in found[1:]:
            total = s.builder.fadd(total, other)
        ordered = s.builder.fcmp_ordered("ord", total, s.constant(0.0))
        every = ir.IntType(s.lanes)
        bits = s.builder.bitcast(ordered, every)
        return s.builder.icmp_signed("==", bits, ir.Constant(every, -1))

    def _write(self) -> None:
        """Write the sums, turned where A and B have changed places."""
        s, chunk, swap = self.s, self.chunk, self._swap

        def panel(r: Value, _: list[Value]) -> None:
            lines = s.add(chunk.row, r), s.min(s.sub(chunk.rows, r), PANEL_ROWS)
            source = s.at(self.sums, self._before(r))

            def pair(p: Value, _: list[Value]) -> None:
                first = s.mul(p, PAIR)
                columns = s.add(chunk.column, first), s.min(s.sub(chunk.columns, first), PAIR)
                block, stride = s.at(source, s.mul(p, PAIR_SUMS)), s.index(PAIR)
                args = [block, stride, stride, stride, self.tiles, stride]
                s.when(self.crosswise, lambda: self.functions.call("transpose", TRANSPOSE, args))
                bounds = [swap(x, y) for x, y in zip(lines, columns, strict=True)]
                others = [swap(y, x) for x, y in zip(lines, columns, strict=True)]
                place = swap(block, self.tiles)
                self.job.write(s, (place, stride), (bounds[0], bounds[1]), (others[0], others[1]))

            s.loop(0, chunk.pairs, 1, pair)

        s.loop(0, chunk.rows, PANEL_ROWS, panel)
