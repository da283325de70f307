"""A stage's products by AMX: rows as planes, once a step, and a block's tiles from them."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from cellwright.cpu.amx.arrangement import Runs, arrange, group_size, place_table, table_size
from cellwright.cpu.amx.planes import SPLIT, weight_size
from cellwright.cpu.amx.unit import AMX_ROWS, MATRIX, ROW_BLOCK
from cellwright.cpu.frame import Frame
from cellwright.cpu.library import library_names
from cellwright.cpu.simd import I64, POINTER, Value
from cellwright.cpu.tile import put_rows
from cellwright.graph.schedule import Read, Stage

__all__ = ["AmxProducts"]


class AmxProducts:
    """Emits them for the stages of a walk.

    Args:
        frame: of the walk, at its start.
    """

    def __init__(self, frame: Frame) -> None:
        self.frame, self.s = frame, frame.s
        self.names = library_names(self.s.target, self.s.dtype)
        stages = frame.program.stages
        self.arrangements = {stage: arrange(stage) for stage in stages}
        self.tables, _ = place_table(stages)
        self.memory = frame.split  # whose start all threads fill alike
        self.planes = self._own(table_size(stages), group_size(stages))

    def _own(self, start: int, size: int) -> Value:
        """Return where this thread's planes of rows are; ``size``: of those of 16 rows."""
        s, frame = self.s, self.frame
        before = s.add(s.builder.lshr(frame.low, s.index(4)), frame.thread)
        each = s.add(s.builder.lshr(frame.batch, s.index(4)), 1)
        group = s.builder.select(frame.by_rows, before, s.mul(each, frame.thread))
        return s.at(frame.split, s.add(s.mul(group, size), start))

    def _call(self, name: str, kinds: Sequence[Any] = (), args: Sequence[Value] = ()) -> None:
        s = self.s
        s.call_pointer(s.field(self.frame.table, self.names.index(name), POINTER), kinds, args)

    def start(self) -> None:
        """Make the unit ready, and the tables of where each tile's blocks are."""
        self._call("setup")
        for runs, start in self.tables.items():
            ends = accumulate((count for _, count in runs), initial=start)
            for at, (first, count) in zip(ends, runs, strict=False):
                self._put_places(at, first, count)

    def stop(self) -> None:
        """Leave the unit."""
        self._call("release")

    def _put_places(self, start: int, first: int, count: int) -> None:
        s = self.s

        def put(j: Value, _: list[Value]) -> None:
            place = s.builder.gep(self.memory, [s.add(j, start)], source_etype=I64)
            s.builder.store(s.mul(s.add(j, first), ROW_BLOCK), place)

        s.loop(0, count, 1, put)

    def split(self, stage: Stage) -> None:
        """Split all that the stage multiplies, of this thread's rows."""
        for (source, depth), first in self.arrangements[stage].vectors.items():
            self._split_vector(stage, source, depth, first)

    def _split_vector(self, stage: Stage, source: Read, depth: int, first: int) -> None:
        s, frame = self.s, self.frame
        distance = self.arrangements[stage].row_blocks * ROW_BLOCK

        def some(row: Value, _: list[Value]) -> None:
            count = s.min(s.sub(frame.end, row), frame.chunk)
            table = frame.row_table
            put_rows(s, table, count, lambda j: frame.vector(source, s.add(row, j)))
            target = s.at(self._rows(stage, row), first * ROW_BLOCK)
            args = [table, count, s.index(depth), target, s.index(distance)]
            self._call("split", SPLIT, args)

        s.loop(frame.low, frame.end, frame.chunk, some)

    def _rows(self, stage: Stage, row: Value) -> Value:
        """Return the planes of the group of rows that starts with ``row``."""
        s = self.s
        group = s.builder.lshr(s.sub(row, self.frame.low), s.index(4))
        size = self.arrangements[stage].row_blocks * ROW_BLOCK
        return s.at(self.planes, s.mul(group, size))

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
        s, arrangement = self.s, self.arrangements[stage]
        (u, vectors), (row, count), (tiles, distance) = block, rows, results
        whole = weight_size(arrangement.weight_blocks, 1) // s.lanes
        base = s.at(self.frame.packed, s.add(s.mul(u, whole), offset))
        first = self._rows(stage, row)
        for number, (start, runs) in enumerate(arrangement.tiles):
            product = vectors, runs, s.at(base, weight_size(start, vectors))
            out = s.at(tiles, number * vectors * s.lanes), distance
            self._tile(product, (first, arrangement.row_blocks * ROW_BLOCK), count, out)

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
        one, two = (s.index(self.names.index(f"matrix_{n}_{vectors}")) for n in (1, 2))
        first, size = planes

        def some(r: Value, _: list[Value]) -> None:
            number = s.builder.select(s.less(s.add(r, AMX_ROWS), count), two, one)
            rows = s.at(first, s.mul(s.builder.lshr(r, s.index(4)), size))
            args = [s.at(out, s.mul(r, stride)), s.index(stride), rows, s.index(size)]
            function = s.field(self.frame.table, number, POINTER)
            s.call_pointer(function, MATRIX, [*args, place, weights, blocks])

        s.loop(0, count, 2 * AMX_ROWS, some)
