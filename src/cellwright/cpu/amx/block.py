"""Products by AMX: rows as planes, and a block's tiles from them and from planes of weights."""

from collections.abc import Callable, Sequence
from itertools import accumulate

from cellwright.cpu.amx.arrangement import Runs, arrange, group_size, place_table, table_size
from cellwright.cpu.amx.planes import SPLIT, weight_size
from cellwright.cpu.amx.unit import AMX_ROWS, MATRIX, ROW_BLOCK
from cellwright.cpu.frame import Frame
from cellwright.cpu.simd import I64, Value
from cellwright.cpu.tile import put_rows
from cellwright.graph.schedule import Read, Stage

__all__ = ["AmxProducts", "WalkProducts"]


class AmxProducts:
    """Emits them for stages of a walk.

    Args:
        frame: of the walk, at its start.
        stages: the stages, or parts of them.
        memory: where the table of each tile's blocks goes; ``table_size`` elements.
        planes: where this thread's rows go as planes.
    """

    def __init__(self, frame: Frame, stages: Sequence[Stage], memory: Value, planes: Value) -> None:
        self.frame, self.s = frame, frame.s
        self.memory, self.planes = memory, planes
        self.functions = frame.functions
        self.arrangements = {stage: arrange(stage) for stage in stages}
        self.tables, _ = place_table(stages)

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
            place = s.builder.gep(self.memory, [s.add(j, start)], source_etype=I64)
            s.builder.store(s.mul(s.add(j, first), ROW_BLOCK), place)

        s.loop(0, count, 1, put)

    def _distance(self, stage: Stage) -> int:
        """Return the elements that the planes of 16 rows take."""
        return self.arrangements[stage].row_blocks * ROW_BLOCK

    def _group(self, stage: Stage, row: Value) -> Value:
        """Return the planes of the 16 rows that start with this thread's ``row``-th."""
        s = self.s
        return s.at(self.planes, s.mul(s.builder.lshr(row, s.index(4)), self._distance(stage)))

    def split_rows(
        self,
        stage: Stage,
        vector: tuple[Read, int],
        rows: tuple[Value, Value],
        address: Callable[[Value], Value],
    ) -> None:
        """Split what a stage multiplies, of a chunk of rows: this thread's first, how many.

        ``address``: of a row, counted from the first.
        """
        s, (row, count), table = self.s, rows, self.frame.row_table
        put_rows(s, table, count, address)
        first = self.arrangements[stage].vectors[vector]
        target = s.at(self._group(stage, row), first * ROW_BLOCK)
        args = [table, count, s.index(vector[1]), target, s.index(self._distance(stage))]
        self.functions.call("split", SPLIT, args)

    def multiply_rows(
        self,
        stage: Stage,
        weights: Value,
        vectors: int,
        rows: tuple[Value, Value],
        results: tuple[Value, int],
    ) -> None:
        """Compute the tiles of a block of units for a chunk of rows, those that products fill.

        Args:
            stage: the stage.
            weights: the block's planes of weights.
            vectors: how many vectors of units it has.
            rows: this thread's first, how many.
            results: the first tile of the first row, the distance between rows.
        """
        s, (row, count), (tiles, distance) = self.s, rows, results
        first = self._group(stage, row)
        arrangement = self.arrangements[stage]
        for number, tile in enumerate(arrangement.filled):
            start, runs = arrangement.tiles[tile]
            product = vectors, runs, s.at(weights, weight_size(start, vectors))
            out = s.at(tiles, number * vectors * s.lanes), distance
            self._tile(product, (first, self._distance(stage)), count, out)

    def _tile(
        self,
        product: tuple[int, Runs, Value],
        planes: tuple[Value, int],
        count: Value,
        results: tuple[Value, int],
    ) -> None:
        """Compute a tile for ``count`` rows, 32 or the last 16 at a time.

        Args:
            product: vectors of units, blocks of depths, weights.
            planes: of the first rows, the distance to those of the next 16.
            count: the number of rows.
            results: the tile of the first row, the distance between rows.
        """
        s, (vectors, runs, weights), (out, stride) = self.s, product, results
        place = s.builder.gep(self.memory, [s.index(self.tables[runs])], source_etype=I64)
        blocks = s.index(sum(size for _, size in runs))
        one, two = (self.functions.number(f"matrix_{n}_{vectors}") for n in (1, 2))
        first, size = planes

        def some(r: Value, _: list[Value]) -> None:
            number = s.builder.select(s.less(s.add(r, AMX_ROWS), count), two, one)
            rows = s.at(first, s.mul(s.builder.lshr(r, s.index(4)), size))
            args = [s.at(out, s.mul(r, stride)), s.index(stride), rows, s.index(size)]
            self.functions.call(number, MATRIX, [*args, place, weights, blocks])

        s.loop(0, count, 2 * AMX_ROWS, some)


class WalkProducts(AmxProducts):
    """Emits the products of a walk's steps.

    Args:
        frame: of the walk, at its start.
    """

    def __init__(self, frame: Frame) -> None:
        stages, s = frame.program.stages, frame.s
        # each thread's planes are on their own, behind a table that all fill alike
        before = s.add(s.builder.lshr(frame.low, s.index(4)), frame.thread)
        each = s.add(s.builder.lshr(frame.batch, s.index(4)), 1)
        group = s.builder.select(frame.by_rows, before, s.mul(each, frame.thread))
        planes = s.at(frame.split, s.add(s.mul(group, group_size(stages)), table_size(stages)))
        super().__init__(frame, stages, frame.split, planes)

    def split(self, stage: Stage) -> None:
        """Split all that the stage multiplies, of this thread's rows."""
        for vector in self.arrangements[stage].vectors:
            self._split_vector(stage, vector)

    def _split_vector(self, stage: Stage, vector: tuple[Read, int]) -> None:
        s, frame = self.s, self.frame

        def some(row: Value, _: list[Value]) -> None:
            count = s.min(s.sub(frame.end, row), frame.chunk)
            chunk = s.sub(row, frame.low), count
            self.split_rows(stage, vector, chunk, lambda j: frame.vector(vector[0], s.add(row, j)))

        s.loop(frame.low, frame.end, frame.chunk, some)

    def multiply(
        self,
        stage: Stage,
        offset: int,
        block: tuple[Value, int],
        rows: tuple[Value, Value],
        results: tuple[Value, int],
    ) -> None:
        """Compute the tiles of a block of units for the rows of a chunk.

        Args:
            stage: the stage.
            offset: where its planes of weights start.
            block: its first unit, how many vectors it has.
            rows: the first one, how many there are.
            results: the first tile of the first row, the distance between rows.
        """
        s, (u, vectors), (row, count) = self.s, block, rows
        whole = weight_size(self.arrangements[stage].weight_blocks, 1) // s.lanes
        weights = s.at(self.frame.packed, s.add(s.mul(u, whole), offset))
        chunk = s.sub(row, self.frame.low), count
        self.multiply_rows(stage, weights, vectors, chunk, results)
