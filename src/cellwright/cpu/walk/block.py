"""A stage's products on one block of units, into tiles; ``equations`` reads them there."""

from collections.abc import Callable
from functools import partial

from cellwright.cpu.vector.dot import DOT, SWEEP
from cellwright.cpu.vector.simd import I64, POINTER, Value
from cellwright.cpu.vector.tile import groups, put_rows
from cellwright.cpu.walk.constants import emit_constant
from cellwright.cpu.walk.frame import ROW_DOT, ROWS_DOT, Frame
from cellwright.cpu.walk.levels import levels
from cellwright.cpu.walk.parts import Part, Vector, padded, split
from cellwright.graph.schedule import Product, Read, Stage

__all__ = ["Block", "emit_sweeps"]


_TOGETHER = 1 << 14
"""Bytes of weights up to which the tiles of a product take turns with the same rows, as they always
do with few rows. Else rows take turns with the same tile, whose weights are still in the cache."""


class Block:
    """Emits them for ``vectors`` vectors from unit ``u`` on, ``valid`` units of which exist."""

    def __init__(self, frame: Frame, stage: Stage, u: Value, vectors: int, valid: int) -> None:
        self.frame, self.s, self.stage = frame, frame.s, stage
        self.u, self.vectors, self.valid = u, vectors, valid
        self.width = vectors * frame.s.lanes
        self.parts = split(stage)
        self.row_size = levels(stage).slots * self.width
        constants = frame.constants
        # all tiles of a stage have biases, or none has
        self.constants = [constants[column] for column in stage.columns if column in constants]

    def multiply(self, offset: int, row: Value, count: Value) -> None:
        """Compute the tiles of ``count`` rows without AMX.

        The stage's packed weights start at ``offset``.
        """
        s, frame = self.s, self.frame
        given = {p.tile + j for p in self.stage.products if p.given for j in range(p.count)}
        others = {p.tile + j for p in self.stage.products if not p.given for j in range(p.count)}
        alone = sorted(given - others)
        if alone:
            s.when(s.less(0, frame.ahead), lambda: self._clear(alone, count))
        if frame.pairs:
            self._tiles(offset, row, count)
            return
        with s.builder.if_else(frame.unpacked) as (raw, packed):
            with raw:
                if any(p.transposed for p in self.stage.products):
                    self._swept(count)
                else:
                    s.when(s.less(frame.ahead, 1), lambda: self._start(count))
                    groups(s, count, s.target.dot_rows, partial(self._dots, row))
            with packed:
                self._tiles(offset, row, count)

    def _place(self, i: Value, tile: Value) -> Value:
        """Return the address of a tile in row ``i`` of the chunk."""
        s = self.s
        at = s.add(s.mul(i, self.row_size), s.mul(tile, self.width))
        return s.at(self.frame.tiles, at)

    def _clear(self, tiles: list[int], count: Value) -> None:
        """Set tiles to 0 that nothing else fills."""
        s, zero = self.s, self.s.constant(0.0)

        def row(i: Value, _: list[Value]) -> None:
            for tile in tiles:
                for v in range(self.vectors):
                    s.store(zero, self._place(i, tile), v * s.lanes)

        s.loop(0, count, 1, row)

    def _swept(self, count: Value) -> None:
        """Take over what sweeps have summed up; without them, there is nothing to multiply."""
        s, frame = self.s, self.frame
        self._clear([*range(self.stage.tiles)], count)
        with s.builder.if_then(frame.raw_walk):
            for p, offset in _sweeps(self.stage, s.lanes):
                sums = s.at(frame.packed, s.add(self.u, offset))
                tile = self._place(s.index(0), s.index(p.tile))
                for start in range(0, self.width, s.lanes):  # several products may share a tile
                    both = s.builder.fadd(s.load(tile, start), s.load(sums, start))
                    s.store(both, tile, start)

    def _start(self, count: Value) -> None:
        """Start from the biases, which nothing else adds to weights as they lie."""
        s = self.s

        def row(i: Value, _: list[Value]) -> None:
            for tile, constant in enumerate(self.constants):
                for v in range(self.vectors):
                    start = v * s.lanes
                    u, mask = s.add(self.u, start), s.mask(self.valid - start)
                    s.store(
                        emit_constant(self.frame, constant, u, mask), self._place(i, tile), start
                    )

        s.loop(0, count, 1, row)

    def _part(self, part: Part, body: Callable[[Value], None]) -> None:
        """Emit a product, with whether it is the first into its tiles."""
        s, ahead = self.s, self.frame.ahead
        if part.product.given:
            s.when(s.less(ahead, 1), lambda: body(s.index(int(part.first))))
        elif part.first == part.first_ahead:
            body(s.index(int(part.first)))
        else:
            body(ahead)

    def _tiles(self, offset: int, row: Value, count: Value) -> None:
        """Multiply packed weights by several rows at a time."""
        s, frame = self.s, self.frame
        whole = sum(p.depth * p.count for p in self.stage.products)
        base = s.at(frame.packed, s.add(s.mul(self.u, whole), offset))
        tables = self._put_vectors(row, count)
        start = 0
        for part in self.parts:
            p, weights = part.product, s.at(base, start * self.width)
            start += p.depth * p.count
            self._part(part, partial(self._turns, p, weights, (tables[part.vector], count)))

    def _put_vectors(self, row: Value, count: Value) -> dict[Vector, Value]:
        """Return tables of the addresses of what is multiplied, for all rows of a chunk."""
        s, frame = self.s, self.frame
        tables: dict[Vector, Value] = {}
        for n, vector in enumerate(dict.fromkeys(part.vector for part in self.parts)):
            table = s.builder.gep(frame.row_table, [s.index(n * frame.chunk)], source_etype=POINTER)
            source, depth, given = vector
            put = partial(self._put_vector, table, source, depth, row, count)
            if given:
                s.when(s.less(frame.ahead, 1), put)
            else:
                put()
            tables[vector] = table
        return tables

    def _put_vector(self, table: Value, source: Read, depth: int, row: Value, count: Value) -> None:
        """Put down where a vector's first depth of each row is, or its last one."""
        s, frame = self.s, self.frame
        end = s.builder.select(frame.downwards, s.index(depth - 1), s.index(0))
        put_rows(s, table, count, lambda j: s.at(frame.vector(source, s.add(row, j)), end))

    def _turns(self, p: Product, weights: Value, table: tuple[Value, Value], first: Value) -> None:
        """Let a product's tiles take turns with the same rows, or rows with the same tile.

        ``table``: of the rows' addresses, and how many there are.
        """
        s = self.s
        size = p.depth * self.width

        def together() -> None:
            self._groups(p, p.count, weights, s.index(p.tile), table, first)

        def tile(j: Value, _: list[Value]) -> None:
            own = s.at(weights, s.mul(j, size))
            self._groups(p, 1, own, s.add(j, p.tile), table, first)

        if p.count == 1 or p.count * size * s.scalar_bytes <= _TOGETHER:
            together()
            return
        with s.builder.if_else(self.frame.few) as (few, many):
            with few:
                together()
            with many:
                s.loop(0, p.count, 1, tile)

    def _groups(
        self,
        p: Product,
        tiles: int,
        weights: Value,
        tile: Value,
        table: tuple[Value, Value],
        first: Value,
    ) -> None:
        """Multiply all rows of a chunk, a tile's worth at a time, for ``tiles`` tiles."""
        s, (addresses, count) = self.s, table

        def group(i: Value, size: Value) -> None:
            own = s.builder.gep(addresses, [i], source_etype=POINTER), size
            product, share = (weights, p.depth, tiles), (i, count)
            place = self._place(i, tile), self.row_size
            self.frame.tile_call(self.vectors, *place, product, first, own, share)

        groups(s, count, s.target.rows, group)

    def _dots(self, row: Value, i: Value, size: Value) -> None:
        """Multiply weights as they lie by ``size`` rows from row ``i`` of a chunk on."""
        s, frame = self.s, self.frame
        several = s.add(s.field(frame.struct, ROWS_DOT), s.sub(size, 2))
        number = s.builder.select(s.less(size, 2), s.field(frame.struct, ROW_DOT), several)
        top, falling = s.add(row, i), s.builder.zext(frame.downwards, I64)

        def tiles(p: Product, first: Value) -> None:
            if self.constants:  # from which tiles start, but where the input was multiplied ahead
                first = s.builder.select(s.less(0, frame.ahead), first, s.index(0))
            put_rows(s, frame.row_table, size, lambda r: frame.vector(p.source, s.add(top, r)))
            weights, stride = frame.weights(p.matrix, s.add(self.u, p.row), p.column)
            args = [self._place(i, s.index(p.tile)), s.index(self.row_size), s.index(self.width)]
            args += [frame.row_table, weights, stride, s.mul(stride, self.stage.units)]
            args += [s.index(n) for n in (p.depth, self.valid, p.count)]
            frame.functions.call(number, DOT, [*args, first, falling])

        for part in split(self.stage, whole=True):
            self._part(part, partial(tiles, part.product))


def _sweeps(stage: Stage, lanes: int) -> list[tuple[Product, int]]:
    """Return a stage's products, and where in the memory for packed weights each one's sums go.

    No weights are packed there, as a walk back multiplies no input. Stages use it in turns: threads
    that share the units wait for each other in between, and read no sums but their own.
    """
    return [(p, j * padded(stage.units, lanes)) for j, p in enumerate(stage.products)]


def emit_sweeps(frame: Frame, stage: Stage) -> None:
    """Emit a stage's products with the only row, over this thread's units, by sweeps."""
    s = frame.s
    start, stop = frame.share(stage.units)
    for p, offset in _sweeps(stage, s.lanes):
        weights, stride = frame.weights(p.matrix, s.index(p.row), p.column)
        args = [s.at(frame.packed, offset), frame.vector(p.source, s.index(0)), weights, stride]
        args += [s.index(p.depth), start, stop, s.builder.zext(frame.downwards, I64)]
        frame.functions.call("sweep", SWEEP, args)
