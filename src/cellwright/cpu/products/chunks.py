"""Chunks of a matrix product by vector instructions; see ``cellwright.cpu.products.product``.

One side of a tile is a vector of columns, the other a few rows: B and A where the depths of A lie
one after another. Otherwise they change places, for the gates are the wider side, and C is turned
as it is written.

Chunks of C are summed up, depths by depths, in memory that stays in the second-level cache. The
tiles of the walks read both sides as they lie where that is no slower: a chunk is used too seldom
to pay for packing. Copied first are depths in short runs, columns that fill no tile, and depths so
far apart that a cache would hold few of them.
"""

from dataclasses import dataclass, replace

from cellwright.cpu.products.job import FIRST_GROUP, GROUP_DEPTH, Job
from cellwright.cpu.vector.functions import Functions
from cellwright.cpu.vector.pack import TRANSPOSE
from cellwright.cpu.vector.simd import I64, Simd, Value
from cellwright.cpu.vector.tile import TILE, groups, put_rows

__all__ = ["CHUNK_MEMORY", "Chunks"]

_WIDE, _ROWS = 256, 192
"""Vector columns and rows of a chunk, whose three matrices take half a megabyte in
float32."""
_FAR_ROWS = 128
"""Elements from which depths of rows are far apart: their lines share few sets of a cache."""
_FAR_COLUMNS, _BROAD_TILE = 4096, 256
"""Bytes from which depths of columns are; twice as many for a tile that takes so much of each, as
it waits less."""
_SLACK = 16
"""A row that is written in whole vectors needs so much room behind it."""
_SIDES = (GROUP_DEPTH * (_WIDE + _SLACK), _ROWS * (GROUP_DEPTH + _SLACK))
assert sum(_SIDES) >= _WIDE * (_ROWS + _SLACK), "there is room to turn a chunk's sums"
CHUNK_MEMORY = sum(_SIDES) + _ROWS * _WIDE
"""Elements of memory that chunks are gathered in and summed up in."""


@dataclass
class _Side:
    """One side of a product: its matrix, and which of its lines this thread takes.

    Attributes:
        base: the matrix. depth: distance between depths. line: distance between lines.
        low, high: the lines.
        run: which number of a run is this side's first depth.
    """

    base: Value
    depth: Value
    line: Value
    low: Value
    high: Value
    run: Value


@dataclass
class _Group:
    """Depths that are summed up at once: how many, in how many runs, the first run."""

    depth: Value
    runs: Value
    first: Value


@dataclass
class _Place:
    """Where tiles find a side of a chunk: its first line, distances between lines and depths."""

    base: Value
    line: Value
    depth: Value


@dataclass
class _Out:
    """Where sums go: the first row, the distance between rows, whether nothing is there yet."""

    base: Value
    stride: Value
    fresh: Value

    def row(self, s: Simd, i: Value) -> "_Out":
        """Return the same from row ``i`` on."""
        return replace(self, base=s.at(self.base, s.mul(i, self.stride)))


class Chunks:
    """Emits the sums of a product, chunk by chunk.

    Args:
        s: where to. job: the product. functions: the library's. memory: ``CHUNK_MEMORY``
            elements. row_table: room for the addresses of a tile's rows.
    """

    def __init__(
        self, s: Simd, job: Job, functions: Functions, memory: Value, row_table: Value
    ) -> None:
        self.s, self.job, self.functions, self.row_table = s, job, functions, row_table
        self.wide_memory = memory
        self.row_memory = s.at(memory, _SIDES[0])
        self.sums = s.at(memory, sum(_SIDES))
        b, groups = s.builder, s.field(job.depths, 0)
        # whether lines of the narrow side lie side by side, as those of B always do
        self.crosswise = job.crosswise(s)
        self.turned = b.and_(self.crosswise, s.less(1, groups))
        # several groups that are added to C one by one would each round to its size
        once = b.or_(s.less(groups, 2), s.less(job.adds, 1))
        self.direct = b.and_(once, b.not_(self.turned))
        self.block = s.target.block(s.dtype)

    def emit(self, rows: tuple[Value, Value], columns: tuple[Value, Value]) -> None:
        """Emit the loops over chunks of both sides between bounds."""
        s, job, choose = self.s, self.job, self.s.builder.select
        own = job.a, job.a_depth, job.a_line, *rows, s.index(0)
        other = job.b, job.b_depth, s.index(1), *columns, s.index(1)
        pairs = list(zip(own, other, strict=True))
        self.wide = _Side(*(choose(self.turned, x, y) for x, y in pairs))
        self.rows = _Side(*(choose(self.turned, y, x) for x, y in pairs))

        def chunk(w: Value, r: Value) -> None:
            self._chunk(w, s.min(_WIDE, s.sub(self.wide.high, w)), r)

        def rows_of(w: Value, _: list[Value]) -> None:
            s.loop(self.rows.low, self.rows.high, _ROWS, lambda r, _: chunk(w, r))

        s.loop(self.wide.low, self.wide.high, _WIDE, rows_of)

    def _chunk(self, w: Value, width: Value, r: Value) -> None:
        """Sum a chunk up over all groups of depths, and write what is not in its place yet."""
        s, table = self.s, self.job.depths
        count = s.min(_ROWS, s.sub(self.rows.high, r))
        self.full = s.builder.sdiv(width, s.index(self.block))
        rest = s.sub(width, s.mul(self.full, self.block))
        self.rest = s.builder.sdiv(s.add(rest, s.lanes - 1), s.index(s.lanes))  # in vectors
        self.stride = s.add(s.mul(self.full, self.block), s.mul(self.rest, s.lanes))

        def group(j: Value, carried: list[Value]) -> list[Value]:
            (place,) = carried
            depth, runs = s.field(table, place), s.field(table, s.add(place, 1))
            at = s.add(place, 2)
            found = _Group(depth, runs, s.entry(table, at))
            self._gather(found, w, width, (r, count))
            self._multiply(found, w, (r, count), s.builder.zext(s.less(j, 1), I64))
            return [s.add(at, s.mul(runs, 3))]

        s.loop(0, s.field(table, 0), 1, group, [s.index(FIRST_GROUP)])
        with s.builder.if_else(self.turned) as (then, otherwise):
            with then:
                self._write_turned(w, width, r, count)
            with otherwise:
                done = s.builder.select(self.direct, s.mul(self.full, self.block), s.index(0))
                columns = s.add(w, done), s.sub(width, done)
                self.job.write(s, (s.at(self.sums, done), self.stride), (r, count), columns)

    def _start(self, side: _Side, line: Value, run: Value) -> Value:
        """Return where a run's first depth of a line is."""
        s = self.s
        depths = s.mul(s.field(run, side.run), side.depth)
        return s.at(side.base, s.add(s.mul(line, side.line), depths))

    def _gather(self, group: _Group, w: Value, width: Value, rows: tuple[Value, Value]) -> None:
        """Copy what tiles cannot read as it lies: several runs, columns that fill no tile."""
        s = self.s
        wide, narrow = self._copied(group)
        start = s.builder.select(wide, s.index(0), s.mul(self.full, self.block))

        def run(k: Value, done: list[Value]) -> list[Value]:
            numbers = s.entry(group.first, s.mul(k, 3))
            size = s.field(numbers, 2)
            self._gather_wide(w, (start, width), numbers, size, done[0])
            s.when(narrow, lambda: self._gather_rows(rows, numbers, size, done[0]))
            return [s.add(done[0], size)]

        needed = s.builder.or_(narrow, s.less(start, width))
        s.loop(0, s.builder.select(needed, group.runs, s.index(0)), 1, run, [s.index(0)])

    def _gather_wide(
        self, w: Value, among: tuple[Value, Value], run: Value, size: Value, done: Value
    ) -> None:
        """Copy the columns ``among`` which a run's depths are needed, in whole vectors."""
        s, (start, width) = self.s, among
        source = self._start(self.wide, w, run)

        def copy(k: Value, _: list[Value]) -> None:
            line = s.at(source, s.add(s.mul(k, self.wide.depth), start))
            out = s.at(self.wide_memory, s.add(s.mul(s.add(done, k), _WIDE + _SLACK), start))
            s.vectors(s.sub(width, start), lambda j, mask: s.store(s.load(line, j, mask), out, j))

        s.loop(0, size, 1, copy)

    def _gather_rows(self, rows: tuple[Value, Value], run: Value, size: Value, done: Value) -> None:
        """Copy a run's depths of the narrow side, lying as before: depth by depth or row by row."""
        s, side, choose, (r, count) = self.s, self.rows, self.s.builder.select, rows
        source, place = self._start(side, r, run), self._gathered_rows()
        outer, inner = choose(self.crosswise, size, count), choose(self.crosswise, count, size)
        apart = choose(self.crosswise, side.depth, side.line)
        out_apart = choose(self.crosswise, place.depth, place.line)
        first = s.at(place.base, s.mul(done, place.depth))

        def copy(j: Value, _: list[Value]) -> None:
            line, out = s.at(source, s.mul(j, apart)), s.at(first, s.mul(j, out_apart))
            s.vectors(inner, lambda k, mask: s.store(s.load(line, k, mask), out, k))

        s.loop(0, outer, 1, copy)

    def _gathered_wide(self) -> _Place:
        return _Place(self.wide_memory, self.s.index(1), self.s.index(_WIDE + _SLACK))

    def _gathered_rows(self) -> _Place:
        s, choose = self.s, self.s.builder.select
        line = choose(self.crosswise, s.index(1), s.index(GROUP_DEPTH + _SLACK))
        return _Place(
            self.row_memory, line, choose(self.crosswise, s.index(_ROWS + _SLACK), s.index(1))
        )

    def _copied(self, group: _Group) -> tuple[Value, Value]:
        """Whether the wide side is copied, and the rows: depths are in several runs, or far apart.

        Of depths that are far apart, a cache holds few.
        """
        s, either = self.s, self.s.builder.or_
        several, tile = s.less(1, group.runs), self.block * s.scalar_bytes
        limit = _FAR_COLUMNS if tile < _BROAD_TILE else 2 * _FAR_COLUMNS
        far = s.less(limit // s.scalar_bytes - 1, self.wide.depth)
        apart = s.builder.and_(self.crosswise, s.less(_FAR_ROWS - 1, self.rows.depth))
        return either(several, far), either(several, apart)

    def _places(self, group: _Group, w: Value, r: Value) -> tuple[_Place, _Place]:
        """Return where the whole blocks of the wide side are, and where the rows."""
        choose = self.s.builder.select

        def place(side: _Side, line: Value, copy: _Place, copied: Value) -> _Place:
            there = self._start(side, line, group.first)
            pairs = (copy.base, there), (copy.line, side.line), (copy.depth, side.depth)
            return _Place(*(choose(copied, x, y) for x, y in pairs))

        wide, narrow = self._copied(group)
        return (
            place(self.wide, w, self._gathered_wide(), wide),
            place(self.rows, r, self._gathered_rows(), narrow),
        )

    def _outs(self, w: Value, r: Value, first: Value) -> tuple[_Out, _Out]:
        """Return where whole blocks are summed up, and where the columns behind them."""
        s, c, c_line, adds = self.s, self.job.c, self.job.c_line, self.job.adds
        direct = s.at(c, s.add(s.mul(r, c_line), w)), c_line, s.mul(first, s.sub(1, adds))
        apart = self.sums, self.stride, first
        main = (s.builder.select(self.direct, x, y) for x, y in zip(direct, apart, strict=True))
        return _Out(*main), _Out(s.at(self.sums, s.mul(self.full, self.block)), self.stride, first)

    def _multiply(self, group: _Group, w: Value, chunk: tuple[Value, Value], first: Value) -> None:
        """Add a group of depths to a chunk's sums; ``first``: nothing is there yet.

        Whole blocks are summed up in C where they can be, what is left in memory of its own.
        """
        s, block, (r, count) = self.s, self.block, chunk
        wide, rows = self._places(group, w, r)
        beyond = s.mul(self.full, block)
        main, rest = self._outs(w, r, first)

        def tiles(vectors: Value, size: Value, out: _Out, columns: _Place, number: Value) -> None:
            further = s.add(s.mul(s.sub(vectors, 1), s.target.rows), s.sub(size, 1))
            weights = columns.base, columns.depth, s.index(block)
            args = [out.base, out.stride, self.row_table, rows.depth, *weights]
            args += [group.depth, s.index(GROUP_DEPTH), number, out.fresh, columns.base, s.index(0)]
            self.functions.call(self.functions.number("tile_1_1", further), TILE, args)

        def some(i: Value, size: Value) -> None:
            line = s.at(rows.base, s.mul(i, rows.line))
            put_rows(s, self.row_table, size, lambda j: s.at(line, s.mul(j, rows.line)))
            gathered, whole = self._gathered_wide(), s.index(s.target.vectors)
            last = replace(gathered, base=s.at(gathered.base, beyond))
            s.when(
                s.less(0, self.full), lambda: tiles(whole, size, main.row(s, i), wide, self.full)
            )
            s.when(
                s.less(0, self.rest),
                lambda: tiles(self.rest, size, rest.row(s, i), last, s.index(1)),
            )

        groups(s, count, s.target.rows, some)

    def _transpose(
        self, source: Value, stride: Value, shape: tuple[Value, Value], target: Value, to: int
    ) -> None:
        """Turn a matrix of ``shape``; rows of the result lie ``to`` elements apart."""
        s = self.s
        args = [source, stride, *shape, target, s.index(to)]
        self.functions.call("transpose", TRANSPOSE, args)

    def _write_turned(self, w: Value, width: Value, r: Value, count: Value) -> None:
        """Write a chunk's columns as rows of C, by way of the memory that was gathered in."""
        turned, stride = self.wide_memory, _ROWS + _SLACK
        self._transpose(self.sums, self.stride, (count, width), turned, stride)
        self.job.write(self.s, (turned, self.s.index(stride)), (w, width), (r, count))
