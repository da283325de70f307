"""A walk's products by AMX: rows as planes, and a block's tiles from them and planes of weights."""

from itertools import accumulate

from cellwright.cpu.amx.planes import SPLIT, weight_size
from cellwright.cpu.amx.unit import AMX_ROWS, MATRIX, ROW_BLOCK
from cellwright.cpu.vector.simd import Value
from cellwright.cpu.vector.tile import put_rows
from cellwright.cpu.walk.amx_arrangement import arrange, group_size, place_table, table_size
from cellwright.cpu.walk.frame import Frame
from cellwright.graph.schedule import Read, Stage

__all__ = ["WalkProducts"]


class WalkProducts:
    """Emits them.

    Args:
        frame: of the walk, at its start.
    """

    def __init__(self, frame: Frame) -> None:
        self.frame, self.functions, s = frame, frame.functions, frame.s
        self.s, stages = s, frame.program.stages
        self.arrangements = {stage: arrange(stage) for stage in stages}
        self.tables, _ = place_table(stages)
        self.memory = frame.split
        # each thread's planes are on their own, behind a table that all fill alike
        before = s.add(s.builder.lshr(frame.low, s.index(4)), frame.thread)
        each = s.add(s.builder.lshr(frame.batch, s.index(4)), 1)
        group = s.builder.select(frame.by_rows, before, s.mul(each, frame.thread))
        at = s.add(s.mul(group, group_size(stages)), table_size(stages))
        self.planes = s.at(self.memory, at)

    def start(self) -> None:
        """Make the unit ready, and the tables of where each tile's blocks are."""
        self.functions.call("setup", (), ())
        for runs, start in self.tables.items():
            ends = accumulate((count for _, count in runs), initial=start)
            for at, (first, count) in zip(ends, runs, strict=False):
                self._put_places(at, first, count)

    def stop(self) -> None:
        """Leave the unit."""
        self.functions.call("release", (), ())

    def _put_places(self, start: int, first: int, count: int) -> None:
        s = self.s

        def put(j: Value, _: list[Value]) -> None:
            place = s.entry(self.memory, s.add(j, start))
            s.builder.store(s.mul(s.add(j, first), ROW_BLOCK), place)

        s.loop(0, count, 1, put)

    def _distance(self, stage: Stage) -> int:
        """Return the elements that the planes of 16 rows take."""
        return self.arrangements[stage].row_blocks * ROW_BLOCK

    def _group(self, stage: Stage, row: Value) -> Value:
        """Return the planes of the 16 rows that start with a row, from this thread's first on."""
        s = self.s
        number = s.builder.lshr(s.sub(row, self.frame.low), s.index(4))
        return s.at(self.planes, s.mul(number, self._distance(stage)))

    def split(self, stage: Stage) -> None:
        """Split all that the stage multiplies, of this thread's rows."""
        for vector in self.arrangements[stage].vectors:
            self._split_vector(stage, vector)

    def _split_vector(self, stage: Stage, vector: tuple[Read, int]) -> None:
        s, frame, table = self.s, self.frame, self.frame.row_table
        first, (read, depth) = self.arrangements[stage].vectors[vector], vector

        def some(row: Value, _: list[Value]) -> None:
            count = s.min(s.sub(frame.end, row), frame.chunk)
            put_rows(s, table, count, lambda j: frame.vector(read, s.add(row, j)))
            target = s.at(self._group(stage, row), first * ROW_BLOCK)
            args = [table, count, s.index(depth), target, s.index(self._distance(stage))]
            self.functions.call("split", SPLIT, args)

        s.loop(frame.low, frame.end, frame.chunk, some)

    def multiply(
        self,
        stage: Stage,
        offset: int,
        block: tuple[Value, int],
        rows: tuple[Value, Value],
        results: tuple[Value, int],
    ) -> None:
        """Compute the tiles of a block of units for the rows of a chunk, those that products fill.

        Args:
            stage: the stage.
            offset: where its planes of weights start.
            block: its first unit, how many vectors it has.
            rows: the first one, how many there are.
            results: the first tile of the first row, the distance between rows.
        """
        s, (u, vectors), (tiles, distance) = self.s, block, results
        arrangement = self.arrangements[stage]
        whole = weight_size(arrangement.weight_blocks, 1) // s.lanes
        weights = s.at(self.frame.packed, s.add(s.mul(u, whole), offset))
        for number, tile in enumerate(arrangement.filled):
            start, _ = arrangement.tiles[tile]
            own = s.at(weights, weight_size(start, vectors))
            out = s.at(tiles, number * vectors * s.lanes), distance
            self._tile(stage, tile, (own, vectors), rows, out)

    def _tile(
        self,
        stage: Stage,
        tile: int,
        weights: tuple[Value, int],
        rows: tuple[Value, Value],
        results: tuple[Value, int],
    ) -> None:
        """Compute a tile for some rows, 32 or the last 16 at a time.

        Args:
            stage: the stage.
            tile: its number.
            weights: planes, how many vectors of units they have.
            rows: the first one, how many there are.
            results: the tile of the first row, the distance between rows.
        """
        s, (planes, vectors), (row, count), (out, stride) = self.s, weights, rows, results
        _, runs = self.arrangements[stage].tiles[tile]
        blocks = s.index(sum(size for _, size in runs))
        place = s.entry(self.memory, self.tables[runs])
        one, two = (self.functions.number(f"matrix_{n}_{vectors}") for n in (1, 2))
        first, size = self._group(stage, row), self._distance(stage)

        def some(r: Value, _: list[Value]) -> None:
            number = s.builder.select(s.less(s.add(r, AMX_ROWS), count), two, one)
            own = s.at(first, s.mul(s.builder.lshr(r, s.index(4)), size))
            args = [s.at(out, s.mul(r, stride)), s.index(stride), own, s.index(size)]
            self.functions.call(number, MATRIX, [*args, place, planes, blocks])

        s.loop(0, count, 2 * AMX_ROWS, some)
