"""What a walk reads: the struct that it is called with, and where in memory its rows lie.

The struct (8-byte fields):

====  =====================================================================================
0     number of steps
1, 2  the first step and the distance to the next (1 or -1)
3     batch rows
4     where each step's rows start, or null: step t starts at t
5     how many rows each step has, or null: all of them
6     which rows each thread takes: thread i has rows bounds[i] … bounds[i + 1] - 1
7     table of the library's functions
8     1 if the products with the input were computed ahead of the walk, else 0
9     number of threads
10    memory of a barrier, or null: threads share out the rows; else every thread takes all rows
      and a share of the units, and they wait for each other after each stage
11    1 if the first step goes through its weights backwards, where every other one does, else 0
12    packed weights, or null: the weights are read as they lie; a walk back then has no products,
      since all of them would be with a step before the first one
13    memory for a table and planes of rows, or null; where it is there, the packed weights are
      planes too
14    1 once a weight was found that has no planes
15    memory for planes of the input and more, or null; where it is there, AMX multiplies the input
      by its weights ahead of the walk
16    1 if weights are read as they lie though there is memory for packed ones; those of the input,
      multiplied ahead of the walk, are packed, but for AMX
17    which of the library's functions multiplies one row by weights as they lie
18    which one does so with two rows; those for more follow
19    which one packs weights of units
20    bytes of an element of the weights
21    table of the call's addresses
22 …  for each buffer, then for each weight matrix: which of the addresses, how many elements on
…     for each buffer: distance between steps, distance between rows, in elements
…     for each weight matrix: distance between rows, in elements
====  =====================================================================================
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from cellwright.cpu.amx.unit import AMX_ROWS
from cellwright.cpu.vector.barrier import emit_barrier
from cellwright.cpu.vector.functions import Functions
from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value
from cellwright.cpu.vector.tile import TILE
from cellwright.cpu.walk.levels import levels
from cellwright.cpu.walk.pairs import over_pairs
from cellwright.cpu.walk.parts import split
from cellwright.graph.schedule import Program, Read

__all__ = [
    "ADDRESSES",
    "BARRIER",
    "INPUT_PLANES",
    "LAYOUT",
    "PACKED",
    "PACKING",
    "RAW",
    "REFUSED",
    "ROWS_DOT",
    "ROW_DOT",
    "SPLIT",
    "SUM_ROWS",
    "THREADS",
    "TURN",
    "WEIGHT_BYTES",
    "Fields",
    "Frame",
    "Place",
    "matrices",
]

FUNCTIONS, AHEAD, THREADS, BARRIER, TURN = range(7, 12)
LAYOUT = FUNCTIONS  # so many fields the layout decides
PACKED, SPLIT, REFUSED, INPUT_PLANES, RAW = range(12, 17)
ROW_DOT, ROWS_DOT, PACKING, WEIGHT_BYTES, ADDRESSES, PLACES = range(17, 23)
SUM_ROWS = 2
"""Rows of a sum for each thread: the sum, and what rounding took from it. The result is all of them
added up."""
_FEWER_ROWS, _SHORT_RUN, _LONG_RUN = 16, 32, 256
"""Products of fewer rows are summed up in short runs of depths, others in long ones. Sums of short
sums are rounded less, but take longer: some percent with 3 to 15 rows. torch's own products of few
rows are rounded as little, and those of more rows as much as a long sum."""
_TILE_BYTES = 49152
"""Bytes that the tiles of a chunk of rows may take: as much as a large first-level cache. What they
lose to the second level is less than what another chunk loses, which needs all weights again."""


def matrices(program: Program) -> list[str]:
    """Return the weight matrices of a program in the order of the struct."""
    return list(dict.fromkeys(p.matrix for stage in program.stages for p in stage.products))


class Fields:
    """Which fields of the struct a walk's buffers and matrices have.

    Attributes:
        buffers, matrices: the first of the two fields of each one's place.
        strides: the first of the two fields of each buffer's distances.
        matrix_strides: the field of each matrix's distance.
    """

    def __init__(self, buffers: Sequence[str], matrices: Sequence[str]) -> None:
        top = PLACES + 2 * len(buffers)
        end = top + 2 * len(matrices)
        after = end + 2 * len(buffers)
        self.buffers = {name: PLACES + 2 * k for k, name in enumerate(buffers)}
        self.matrices = {name: top + 2 * k for k, name in enumerate(matrices)}
        self.strides = {name: end + 2 * k for k, name in enumerate(buffers)}
        self.matrix_strides = {name: after + k for k, name in enumerate(matrices)}


@dataclass
class Place:
    """A step that reads may look at: where its rows start and how many it has."""

    position: Value
    rows: Value


class Frame:
    """Emits what all parts of a walk share: the struct's fields, addresses, groups of rows."""

    def __init__(self, s: Simd, program: Program) -> None:
        self.s, self.program = s, program
        struct, self.thread = s.function.args
        self.struct = struct
        self.block = s.target.block(s.dtype)
        self.spaces = {b.name: b for b in program.buffers}
        self.places: dict[str, Place] = {}
        self.end: Value = None  # one past this thread's last row at the present step
        self.few: Value = None  # whether there are so few rows that steps wait for their weights
        self.run: Value = None  # how many depths a tile sums up before it adds that to others
        self.downwards: Value = None  # whether the present step goes through its weights backwards
        tiles = max(1, *(levels(stage).slots for stage in program.stages))
        per_row = tiles * self.block * s.scalar_bytes
        self.pairs = over_pairs(program)
        self.has_amx = s.target.has_amx(s.dtype) and not self.pairs
        unit = 2 * AMX_ROWS if self.has_amx else s.target.rows
        self.chunk = max(1, _TILE_BYTES // (per_row * unit)) * unit
        self.tiles = s.reserve(s.scalar, self.chunk * tiles * self.block)
        vectors = max(1, *(len({part.vector for part in split(stage)}) for stage in program.stages))
        self.row_table = s.reserve(POINTER, vectors * self.chunk)
        sums = [sum(self.is_sum(w.buffer) for w in stage.writes) for stage in program.stages]
        self.sums = s.reserve(s.scalar, max(1, *sums) * self.block)
        self.steps, self.first, self.delta, self.batch = (s.field(struct, j) for j in range(4))
        self.starts, self.counts = (s.field(struct, j, POINTER) for j in (4, 5))
        bounds = s.field(struct, 6, POINTER)
        self.barrier = s.field(struct, BARRIER, POINTER)
        self.by_rows = s.is_null(self.barrier)
        choose = s.builder.select
        self.low = choose(self.by_rows, s.field(bounds, self.thread), s.index(0))
        self.high = choose(self.by_rows, s.field(bounds, s.add(self.thread, 1)), self.batch)
        self.functions = Functions(s, s.field(struct, FUNCTIONS, POINTER))
        self.packed = s.field(struct, PACKED, POINTER)
        self.ahead, self.threads = s.field(struct, AHEAD), s.field(struct, THREADS)
        self.turn = s.field(struct, TURN)
        self.split = s.field(struct, SPLIT, POINTER)
        self.amx = s.builder.not_(s.is_null(self.split))
        self.input_planes = s.field(struct, INPUT_PLANES, POINTER)
        self.amx_ahead = s.builder.not_(s.is_null(self.input_planes))
        self.constants = {write.column: write.value for write in program.constants}
        self.buffers: dict[str, tuple[Value, Value, Value]] = {}
        self.matrices: dict[str, tuple[Value, Value]] = {}
        addresses = s.field(struct, ADDRESSES, POINTER)
        names = [buffer.name for buffer in program.buffers]
        fields = Fields(names, matrices(program))

        def start(field: int) -> Value:
            address = s.field(addresses, s.field(struct, field), POINTER)
            return s.at(address, s.field(struct, field + 1))

        for name in names:
            steps, rows = (s.field(struct, fields.strides[name] + j) for j in (0, 1))
            self.buffers[name] = (start(fields.buffers[name]), steps, rows)
        for name, stride in fields.matrix_strides.items():
            self.matrices[name] = (start(fields.matrices[name]), s.field(struct, stride))
        # whether to read as they lie what could be packed; whether any weights are read so
        self.raw_walk = s.less(0, s.field(struct, RAW))
        self.unpacked = s.builder.or_(self.raw_walk, s.is_null(self.packed))

    def by_amx(
        self, planes: Callable[[], None], vectors: Callable[[], None], *, ahead: bool = False
    ) -> None:
        """Emit ``planes`` for calls whose products AMX takes, ``vectors`` for all others.

        ``ahead``: it is those with the input, ahead of the walk.
        """
        if not self.has_amx:
            vectors()
            return
        with self.s.builder.if_else(self.amx_ahead if ahead else self.amx) as (then, otherwise):
            with then:
                planes()
            with otherwise:
                vectors()

    def if_amx(self, body: Callable[[], None]) -> None:
        """Emit ``body`` for calls whose products AMX takes."""
        if self.has_amx:
            self.s.when(self.amx, body)

    def weights(self, matrix: str, row: Value, column: int) -> tuple[Value, Value]:
        """Return where an element of a matrix is stored, and the distance between its rows."""
        s, (base, stride) = self.s, self.matrices[matrix]
        offset = s.mul(s.add(s.mul(stride, row), column), s.field(self.struct, WEIGHT_BYTES))
        return s.builder.gep(base, [offset], source_etype=ir.IntType(8)), stride

    def _lookup(self, table: Value, t: Value, default: Value) -> Value:
        """Return what a table that may be null holds for step ``t``."""
        s, b, here = self.s, self.s.builder, self.s.builder.block
        with b.if_then(b.not_(s.is_null(table))):
            found = s.field(table, t)
            there = b.block
        phi = b.phi(I64)
        phi.add_incoming(default, here)
        phi.add_incoming(found, there)
        return phi

    def place(self, t: Value, exists: Value) -> Place:
        """Read a step's start and row count; a step outside of the walk has no rows."""
        s, b = self.s, self.s.builder
        safe = b.select(exists, t, self.first)
        position = self._lookup(self.starts, safe, safe)
        rows = self._lookup(self.counts, safe, self.batch)
        return Place(position, b.select(exists, rows, s.index(0)))

    def ahead_of_steps(self) -> tuple[Value, Value, Value]:
        """Return this thread's first row, one past its last, and how many steps each has.

        For what needs no order in time: there, all rows of a packed sequence are steps of one.
        """
        s, b = self.s, self.s.builder
        last, dense = s.sub(self.steps, 1), s.is_null(self.counts)
        packed = s.add(
            self._lookup(self.starts, last, s.index(0)), self._lookup(self.counts, last, s.index(0))
        )
        low, high = b.select(dense, self.low, s.index(0)), b.select(dense, self.high, s.index(1))
        return low, high, b.select(dense, self.steps, packed)

    def row(self, read: Read, r: Value) -> Value:
        """Return the address of row ``r`` of what is read, before its column."""
        s, buffer = self.s, self.spaces[read.buffer]
        base, step_stride, row_stride = self.buffers[read.buffer]
        match buffer.space:
            case "unit":
                return base
            case "sum":
                return s.at(base, s.mul(self.thread, row_stride))
            case "row":
                return s.at(base, s.mul(r, row_stride))
        place = self.places[read.when]
        offset = s.add(s.mul(place.position, step_stride), s.mul(r, row_stride))
        inside = s.at(base, offset)
        if read.when == "now" or buffer.start is None:
            return inside
        outside = self.row(Read(buffer.start), r)
        return s.builder.select(s.less(r, place.rows), inside, outside)

    def is_sum(self, buffer: str) -> bool:
        """Whether what is written to a buffer is added to it."""
        return self.spaces[buffer].space == "sum"

    def vector(self, read: Read, r: Value) -> Value:
        """Return the address of row ``r`` of what is read."""
        return self.s.at(self.row(read, r), read.column)

    def set_run(self, rows: Value) -> None:
        """Choose how many depths tiles sum up at once in products of so many rows in all."""
        s = self.s
        self.run = s.builder.select(
            s.less(rows, _FEWER_ROWS), s.index(_SHORT_RUN), s.index(_LONG_RUN)
        )

    def blocks(self, units: int, body: Callable[[Value, int, int], None]) -> None:
        """Call ``body(first unit, vectors, units)``: for whole blocks, then for what is left.

        Where threads share the units, each has its whole blocks, and the last has what is left.
        Whole blocks come in falling order where ``downwards`` was set and holds.
        """
        s, count = self.s, units // self.block
        start, stop = self._whole_blocks(count)

        def each(u: Value, _: list[Value]) -> None:
            if self.downwards is not None:
                u = s.builder.select(
                    self.downwards, s.sub(s.sub(s.add(start, stop), self.block), u), u
                )
            body(u, s.target.vectors, self.block)

        if count:
            s.loop(start, stop, self.block, each)
        if left := units - count * self.block:
            first, vectors = s.index(count * self.block), -(-left // s.lanes)
            s.when(self._takes_rest(), lambda: body(first, vectors, left))

    def share(self, units: int) -> tuple[Value, Value]:
        """Return the first of the units that this thread's blocks have, and one past the last."""
        start, stop = self._whole_blocks(units // self.block)
        return start, self.s.builder.select(self._takes_rest(), self.s.index(units), stop)

    def _whole_blocks(self, count: int) -> tuple[Value, Value]:
        """Return where the first of this thread's whole blocks starts, and where the last ends."""
        s, choose = self.s, self.s.builder.select
        start, stop = (
            s.mul(choose(self.by_rows, s.index(all_), self._share(count, t)), self.block)
            for all_, t in ((0, self.thread), (count, s.add(self.thread, 1)))
        )
        return start, stop

    def _takes_rest(self) -> Value:
        """Return whether units that fill no block are this thread's."""
        b = self.s.builder
        mine = b.icmp_signed("==", self.s.add(self.thread, 1), self.threads)
        return b.or_(self.by_rows, mine)

    def _share(self, count: int, thread: Value) -> Value:
        """Return where the share of a thread starts."""
        return self.s.builder.sdiv(self.s.mul(thread, count), self.threads)

    def wait(self) -> None:
        """Wait for the other threads, where they share the units."""
        s = self.s
        s.when(s.builder.not_(self.by_rows), lambda: emit_barrier(s, self.barrier, self.threads))

    def tile_call(
        self,
        vectors: int,
        results: Value,
        stride: Value,
        product: tuple[Value, int, int],
        first: Value,
        rows: tuple[Value, Value],
        share: tuple[Value, Value],
    ) -> None:
        """Multiply rows by packed weights.

        Args:
            vectors: how many vectors of units a tile has.
            results: where the first tile goes.
            stride: from row to row of the results.
            product: weights, depth, tiles.
            first: whether the tiles start from 0.
            rows: the table of their addresses, and how many there are.
            share: (i, n): these are the rows from i on of n that use these weights. While they
                do, that share of the weights that follow is prefetched.

        Where ``downwards`` was set and holds, the table has the rows' last depths, and depths
        are gone through from the last to the first.
        """
        s, width = self.s, vectors * self.s.lanes
        table, size = rows
        first_one = f"{'pairs' if self.pairs else 'tile'}_1_{vectors}"
        number = self.functions.number(first_one, s.sub(size, 1))
        weights, depth, count = product
        along, pitch, start = s.index(1), s.index(width), weights
        if self.downwards is not None:
            turned = s.at(weights, (depth - 1) * width)
            pairs = (s.index(-1), along), (s.index(-width), pitch), (turned, start)
            along, pitch, start = (s.builder.select(self.downwards, a, b) for a, b in pairs)
        args = [results, s.index(stride), table, along, start, pitch]
        args += [s.index(depth * width), s.index(depth), self.run, s.index(count)]
        done, total = share
        whole = depth * count * width
        passed = s.builder.sdiv(s.mul(done, whole), s.index(total))
        coming = s.at(weights, s.add(passed, whole))
        pace = s.builder.sdiv(s.mul(size, width), s.index(total))
        self.functions.call(number, TILE, [*args, first, coming, pace])
