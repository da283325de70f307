"""The walk over time around a program: one function for every cell, direction and layout.

The struct that a walk reads (8-byte fields):

====  =====================================================================================
0     number of steps
1, 2  the first step and the distance to the next (1 or -1)
3     batch rows
4     where each step's rows start, or null: step t starts at t
5     how many rows each step has, or null: all of them
6     which rows each thread takes: thread i has rows bounds[i] … bounds[i + 1] - 1
7     table of the library's functions
8     packed weights, or null: the weights are read as they lie
9     1 if the products with the input were computed ahead of the walk, else 0
10 …  for each buffer: address, distance between steps, distance between rows, in elements
…     for each weight matrix: address, distance between rows, in elements
====  =====================================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby

import llvmlite.ir as ir

from cellwright.cpu.simd import I64, POINTER, Simd, Value
from cellwright.cpu.target import Target
from cellwright.cpu.tile import DOT, TILE, library_names
from cellwright.cpu.vecmath import EMITTERS
from cellwright.graph.expr import Expr, topological
from cellwright.graph.schedule import Product, Program, Read, Stage

__all__ = ["HEADER", "depths", "emit_walk", "matrices", "packed_size", "split"]

HEADER = 10
_TILE_BYTES = 16384  # the tiles of a chunk of rows stay in half of a first-level cache


def depths(program: Program) -> list[int]:
    """Return how deep each stage's packed weights are, over all its tiles."""
    return [sum(p.depth * p.count for p in stage.products) for stage in program.stages]


def padded(units: int, lanes: int) -> int:
    """Round units up to whole vectors."""
    return -(-units // lanes) * lanes


def packed_size(program: Program, lanes: int) -> int:
    """Return the number of elements of a program's packed weights."""
    return sum(depths(program)) * padded(program.units, lanes)


def matrices(program: Program) -> list[str]:
    """Return the weight matrices of a program in the order of the struct."""
    return list(dict.fromkeys(p.matrix for stage in program.stages for p in stage.products))


def emit_walk(program: Program, target: Target, dtype: str) -> ir.Module:
    """Emit ``walk(struct, thread)``."""
    module = ir.Module(program.name)
    _Walk(Simd(module, "walk", (POINTER, I64), target, dtype), program).emit()
    return module


@dataclass(frozen=True)
class Part:
    """A product or some of its tiles; ``first``: it comes first in them, so nothing is added to.

    ``first_ahead`` is the same where the products with the input are left out.
    """

    product: Product
    first: bool
    first_ahead: bool


def split(stage: Stage, units: int) -> list[Part]:
    """Cut a stage's products where some tiles are filled for the first time and others added to."""
    filled: set[int] = set()
    filled_ahead: set[int] = set()
    parts: list[Part] = []
    for p in stage.products:
        tiles = range(p.tile, p.tile + p.count)
        firsts = [(t not in filled, t not in filled_ahead) for t in tiles]
        for (first, ahead), run in groupby(range(p.count), key=lambda j: firsts[j]):
            chosen = list(run)
            moved = p.row + chosen[0] * units
            cut = replace(p, tile=p.tile + chosen[0], count=len(chosen), row=moved)
            parts.append(Part(cut, first, ahead))
        filled.update(tiles)
        filled_ahead.update(() if p.given else tiles)
    return parts


@dataclass
class _Place:
    """A step that reads may look at: where its rows start and how many it has."""

    position: Value
    rows: Value


class _Walk:
    def __init__(self, s: Simd, program: Program) -> None:
        self.s, self.program = s, program
        self.struct, self.thread = s.function.args
        self.block = s.target.block(s.dtype)
        self.buffers: dict[str, tuple[Value, Value, Value]] = {}
        self.spaces = {b.name: b for b in program.buffers}
        self.matrices: dict[str, tuple[Value, Value]] = {}
        tiles = max(1, *(stage.tiles for stage in program.stages))
        per_row = tiles * self.block * s.scalar_bytes
        rows = s.target.rows
        self.chunk = max(1, _TILE_BYTES // (per_row * rows)) * rows

    def emit(self) -> None:
        s = self.s
        self._fields()
        tiles = max(1, *(stage.tiles for stage in self.program.stages))
        self.tiles = s.reserve(s.scalar, self.chunk * tiles * self.block)
        self.row_table = s.reserve(POINTER, s.target.rows)
        s.loop(0, self.steps, 1, lambda i, _: self._step(i))
        s.finish()

    def _fields(self) -> None:
        s, struct = self.s, self.struct
        self.steps, self.first, self.delta, self.batch = (s.field(struct, j) for j in range(4))
        self.starts, self.counts = (s.field(struct, j, POINTER) for j in (4, 5))
        bounds = s.field(struct, 6, POINTER)
        self.low, self.high = s.field(bounds, self.thread), s.field(bounds, s.add(self.thread, 1))
        self.table = s.field(struct, 7, POINTER)
        self.packed = s.field(struct, 8, POINTER)
        self.ahead = s.field(struct, 9)
        index = HEADER
        for buffer in self.program.buffers:
            base = s.field(struct, index, POINTER)
            self.buffers[buffer.name] = (base, s.field(struct, index + 1), s.field(struct, index + 2))
            index += 3
        for name in matrices(self.program):
            self.matrices[name] = (s.field(struct, index, POINTER), s.field(struct, index + 1))
            index += 2

    # one step

    def _step(self, i: Value) -> None:
        s = self.s
        t = s.add(self.first, s.mul(i, self.delta))
        last = s.sub(self.steps, 1)
        self.places = {
            "now": self._place(t, s.less(-1, i)),
            "before": self._place(s.sub(t, self.delta), s.less(0, i)),
            "after": self._place(s.add(t, self.delta), s.less(i, last)),
        }
        self.end = s.min(self.places["now"].rows, self.high)
        offset = 0
        lanes = s.lanes
        for stage, depth in zip(self.program.stages, depths(self.program), strict=True):
            self._stage(stage, offset)
            offset += depth * padded(self.program.units, lanes)
        for source, target in self.program.finals:
            self._final(source, target)

    def _place(self, t: Value, exists: Value) -> _Place:
        """Read a step's start and row count; a step outside of the walk has no rows."""
        s, b = self.s, self.s.builder
        safe = b.select(exists, t, self.first)

        def lookup(table: Value, default: Value) -> Value:
            here = b.block
            with b.if_then(b.not_(s.is_null(table))):
                found = s.field(table, safe)
                there = b.block
            phi = b.phi(I64)
            phi.add_incoming(default, here)
            phi.add_incoming(found, there)
            return phi

        position = lookup(self.starts, safe)
        rows = lookup(self.counts, self.batch)
        return _Place(position, b.select(exists, rows, s.int(0)))

    def _stage(self, stage: Stage, offset: int) -> None:
        """Walk over blocks of units: whole ones, then what is left, narrower and masked."""
        s, units = self.s, self.program.units
        whole = units // self.block * self.block
        if whole:
            full = s.target.vectors

            def each(u: Value, _: list[Value]) -> None:
                self._chunks(stage, offset, u, full, self.block)

            s.loop(0, whole, self.block, each)
        if units > whole:
            left = units - whole
            self._chunks(stage, offset, s.int(whole), -(-left // s.lanes), left)

    def _chunks(self, stage: Stage, offset: int, u: Value, vectors: int, valid: int) -> None:
        s = self.s

        def chunk(row: Value, _: list[Value]) -> None:
            count = s.min(s.sub(self.end, row), self.chunk)
            block = _Block(self, stage, u, vectors, valid)
            block.multiply(offset, row, count)
            s.loop(0, count, 1, lambda i, _: block.equations(row, i))

        s.loop(self.low, self.end, self.chunk, chunk)

    def _final(self, source: str, target: str) -> None:
        """Copy the rows whose sequence ends at this step."""
        s = self.s
        ending = self.places["after"].rows
        start = s.builder.select(s.less(ending, self.low), self.low, ending)

        def row(r: Value, _: list[Value]) -> None:
            here, there = self.row(Read(source), r), self.row(Read(target), r)
            units = self.program.units
            whole = units // s.lanes * s.lanes
            s.loop(0, whole, s.lanes, lambda u, _: s.store(s.load(here, u), there, u))
            if units > whole:
                mask = s.mask(units - whole)
                s.store(s.load(here, whole, mask), there, whole, mask)

        s.loop(start, self.end, 1, row)

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


class _Block:
    """A stage's work on one block of units: products into tiles, then the equations."""

    def __init__(self, walk: _Walk, stage: Stage, u: Value, vectors: int, valid: int) -> None:
        self.walk, self.s, self.stage = walk, walk.s, stage
        self.u, self.vectors, self.valid = u, vectors, valid
        self.width = vectors * walk.s.lanes
        self.parts = split(stage, walk.program.units)

    def multiply(self, offset: int, row: Value, count: Value) -> None:
        """Compute the tiles of ``count`` rows."""
        s, walk = self.s, self.walk
        given = {p.tile + j for p in self.stage.products if p.given for j in range(p.count)}
        others = {p.tile + j for p in self.stage.products if not p.given for j in range(p.count)}
        alone = sorted(given - others)
        if alone:
            s.when(s.less(0, walk.ahead), lambda: self._clear(alone, count))
        if any(p.transposed for p in self.stage.products):
            self._tiles(offset, row, count)
            return
        with s.builder.if_else(s.is_null(walk.packed)) as (raw, packed):
            with raw:
                s.loop(0, count, 1, lambda i, _: self._dots(row, i))
            with packed:
                self._tiles(offset, row, count)

    def _clear(self, tiles: list[int], count: Value) -> None:
        """Set tiles to 0 that only the input's products would fill."""
        s, zero = self.s, self.s.constant(0.0)

        def row(i: Value, _: list[Value]) -> None:
            for tile in tiles:
                for v in range(self.vectors):
                    at = s.add(s.mul(i, self.stage.tiles * self.width), tile * self.width)
                    s.store(zero, self.walk.tiles, s.add(at, v * s.lanes))

        s.loop(0, count, 1, row)

    def _part(self, part: Part, body: Callable[[Value], None]) -> None:
        """Emit a product, with whether it is the first into its tiles."""
        s, ahead = self.s, self.walk.ahead
        if part.product.given:
            s.when(s.less(ahead, 1), lambda: body(s.int(int(part.first))))
        elif part.first == part.first_ahead:
            body(s.int(int(part.first)))
        else:
            body(ahead)

    def _tiles(self, offset: int, row: Value, count: Value) -> None:
        """Multiply packed weights by several rows at a time."""
        s, whole = self.s, sum(p.depth * p.count for p in self.stage.products)
        base = s.at(self.walk.packed, s.add(s.mul(self.u, whole), offset))
        start = 0
        for part in self.parts:
            p, weights = part.product, s.at(base, start * self.width)
            start += p.depth * p.count

            def groups(first: Value, p: Product = p, weights: Value = weights) -> None:
                def group(i: Value, size: Value) -> None:
                    self._rows(p, s.add(row, i), size)
                    self._tile(p, weights, first, i, size)

                self._groups(count, group)

            self._part(part, groups)

    def _groups(self, count: Value, body: Callable[[Value, Value], None]) -> None:
        """Part rows into tiles: full ones, and the last two alike so that neither is small."""
        s, b, full = self.s, self.s.builder, self.s.target.rows
        head, inner, done = (b.append_basic_block(n) for n in ("groups", "group", "grouped"))
        before = b.block
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(s.int(0), before)
        b.cbranch(s.less(i, count), inner, done)
        b.position_at_end(inner)
        left = s.sub(count, i)
        half = b.lshr(s.add(left, 1), s.int(1))
        small = b.select(s.less(full, left), half, left)
        size = b.select(s.less(2 * full - 1, left), s.int(full), small)
        body(i, size)
        i.add_incoming(s.add(i, size), b.block)
        b.branch(head)
        b.position_at_end(done)

    def _rows(self, product: Product, row: Value, size: Value) -> None:
        """Put the addresses of a tile's rows into the row table."""
        s, walk = self.s, self.walk

        def put(j: Value, _: list[Value]) -> None:
            address = s.at(walk.row(product.source, s.add(row, j)), product.source.column)
            s.builder.store(address, s.builder.gep(walk.row_table, [j], source_etype=POINTER))

        s.loop(0, size, 1, put)

    def _tile(self, p: Product, weights: Value, first: Value, i: Value, size: Value) -> None:
        s, walk = self.s, self.walk
        stride = self.stage.tiles * self.width
        index = s.add(size, (self.vectors - 1) * s.target.rows - 1)
        function = s.field(walk.table, index, POINTER)
        results = s.at(walk.tiles, s.add(s.mul(i, stride), p.tile * self.width))
        args = [results, s.int(stride), walk.row_table, weights, s.int(p.depth), s.int(p.count)]
        s.call_pointer(function, TILE, [*args, first])

    def _dots(self, row: Value, i: Value) -> None:
        """Multiply weights as they lie by one row."""
        s, walk = self.s, self.walk
        function = s.field(walk.table, library_names(s.target).index("dot"), POINTER)
        place = s.mul(i, self.stage.tiles * self.width)
        for part in self.parts:
            p = part.product
            vector = s.at(walk.row(p.source, s.add(row, i)), p.source.column)
            base, stride = walk.matrices[p.matrix]

            def tiles(first: Value, p: Product = p, vector: Value = vector) -> None:
                def tile(j: Value, _: list[Value]) -> None:
                    top = s.add(s.add(self.u, p.row), s.mul(j, walk.program.units))
                    results = s.at(walk.tiles, s.add(place, s.mul(s.add(j, p.tile), self.width)))
                    args = [results, vector, s.at(base, s.mul(top, stride)), stride]
                    s.call_pointer(function, DOT, [*args, s.int(p.depth), s.int(self.valid), first])

                s.loop(0, p.count, 1, tile)

            self._part(part, tiles)

    def equations(self, row: Value, i: Value) -> None:
        """Evaluate the stage's equations for one row, a vector of units at a time."""
        s, walk = self.s, self.walk
        r = s.add(row, i)
        tiles = s.at(walk.tiles, s.mul(i, self.stage.tiles * self.width))
        places: dict[Read, Value] = {}
        for v in range(self.vectors):
            mask = s.mask(self.valid - v * s.lanes)
            self._vector(tiles, places, r, v * s.lanes, mask)

    def _vector(
        self, tiles: Value, places: dict[Read, Value], r: Value, lane: int, mask: Value
    ) -> None:
        s = self.s
        unit = s.add(self.u, lane)

        def place(read: Read) -> Value:
            key = Read(read.buffer, 0, read.when)
            if key not in places:
                places[key] = self.walk.row(key, r)
            return s.at(places[key], s.add(unit, read.column))

        values: dict[Expr, Value] = {}
        for e in topological(w.value for w in self.stage.writes):
            if e.op == "const":
                values[e] = s.constant(e.value)  # type: ignore[arg-type]
            elif e.op == "read":
                assert isinstance(e.value, Read)
                values[e] = s.load(place(e.value), 0, mask)
            elif e.op == "tile":
                values[e] = s.load(tiles, int(str(e.value)) * self.width + lane)
            else:
                values[e] = EMITTERS[e.op](s, *(values[arg] for arg in e.args))
        for write in self.stage.writes:
            target = place(Read(write.buffer, write.column))
            value = values[write.value]
            if self.walk.spaces[write.buffer].space == "sum":
                value = s.builder.fadd(s.load(target, 0, mask), value)
            s.store(value, target, 0, mask)
