"""The product of a panel of 32 rows with all columns of a chunk, by AMX.

It works as ``cellwright.cpu.amx.unit`` does, on planes that ``cellwright.cpu.amx.lines`` makes: of
rows, which stay in the first-level cache, and of two vectors of columns after the other, which come
from the second. The rows of the next panel are split in between: while the unit multiplies, vector
instructions and memory have time.
"""

from collections.abc import Callable

from cellwright.cpu.amx.lines import HALF, PANEL_BLOCK, PANEL_ROWS, ROWS, split_rows, turn
from cellwright.cpu.amx.unit import AMX_DEPTH, AMX_ROWS, PLANE, WEIGHT_PLANES, Unit
from cellwright.cpu.simd import I64, POINTER, Simd, Value

__all__ = ["PAIR_SUMS", "PANEL", "emit_panel"]

PAIR_SUMS = PANEL_ROWS * 2 * AMX_ROWS
"""The size of a panel's sums for two vectors of columns."""
PANEL = (POINTER, POINTER, POINTER, I64, I64, I64, POINTER, I64, *ROWS)
"""Arguments of a panel: sums, planes of rows and of columns, pairs of vectors of columns, blocks of
depths, whether to start from 0 (1) or to add (0), memory for two pairs; whether to split the next
panel's rows (1 or 0), and those of ``ROWS`` for them."""

_COLUMNS, _ROWS = (4, 5), (6, 7)
"""Tiles of operands."""
_A, _B, _C = range(WEIGHT_PLANES)


def emit_panel(s: Simd) -> None:
    """C[r, u] (+)= Σ_k A[r, k] W[k, u]: the sums of each pair of vectors lie together."""
    _Panel(s).emit()
    s.finish()


class _Panel:
    def __init__(self, s: Simd) -> None:
        self.s, self.unit = s, Unit(s)
        self.sums, self.rows, self.columns, self.pairs, self.blocks, *more = s.function.args
        self.fresh, self.tiles, self.coming = s.less(0, more[0]), more[1], more[2:]

    def emit(self) -> None:
        """Emit the loop over pairs; the products of each are added after those of the next.

        What was just stored would have to be waited for.
        """
        s, b = self.s, self.s.builder

        def pair(p: Value, _: list[Value]) -> None:
            out = b.select(self.fresh, s.at(self.sums, s.mul(p, PAIR_SUMS)), self._tiles(p))
            self._multiply(p, out)
            due = b.and_(b.not_(self.fresh), s.less(0, p))
            s.when(due, lambda: self._add(s.sub(p, 1)))

        s.loop(0, self.pairs, 1, pair)
        s.when(b.not_(self.fresh), lambda: self._add(s.sub(self.pairs, 1)))

    def _tiles(self, p: Value) -> Value:
        """Return where the products of a pair go first."""
        s = self.s
        return s.at(self.tiles, s.mul(s.builder.and_(p, s.index(1)), PAIR_SUMS))

    def _multiply(self, p: Value, out: Value) -> None:
        s = self.s
        start = s.mul(p, self.blocks)
        for total in range(4):
            self.unit.zero(total)

        split = self._splitter(p)

        def small(j: Value, _: list[Value]) -> None:
            split(s.mul(j, AMX_DEPTH))
            weights = self._weights(s.add(start, j))
            self._small(s.at(self.rows, s.mul(j, PANEL_BLOCK)), weights)

        def large(j: Value, _: list[Value]) -> None:
            self._load(s.at(self.rows, s.mul(j, PANEL_BLOCK)), _A, _ROWS)
            self._load_columns(self._weights(s.add(start, j)), _A)
            self._products()

        s.loop(0, self.blocks, 1, small)
        s.loop(0, self.blocks, 1, large)
        for g in range(2):
            for n in range(2):
                place = s.at(out, g * AMX_ROWS * 2 * AMX_ROWS + n * AMX_ROWS)
                self.unit.store(2 * g + n, place, s.index(2 * AMX_ROWS))

    def _splitter(self, p: Value) -> Callable[[Value], None]:
        """Return what emits this pair's share of splitting: of the block that starts at a depth."""
        s, b = self.s, self.s.builder
        due, table, depth, first, columns, target = self.coming
        turns = s.less(0, columns)

        def share(all_of_them: int, here: Value) -> tuple[Value, Value]:
            count = b.select(here, s.mul(due, all_of_them), s.index(0))
            each = b.sdiv(s.add(count, s.sub(self.pairs, 1)), self.pairs)
            return s.min(count, s.mul(p, each)), s.min(count, s.mul(s.add(p, 1), each))

        halves, rows = share(2, turns), share(PANEL_ROWS, b.not_(turns))

        def split(k: Value) -> None:
            side = table, depth, first, columns
            s.loop(*halves, 1, lambda g, _: turn(s, g, k, side, target))
            split_rows(s, rows, (k, depth), table, target)

        return split

    def _weights(self, number: Value) -> Value:
        return self.s.at(self.columns, self.s.mul(number, 2 * PANEL_BLOCK))

    def _load(self, rows: Value, plane: int, tiles: tuple[int, int]) -> None:
        for g, tile in enumerate(tiles):
            self.unit.load(tile, self.s.at(rows, g * HALF + plane * PLANE))

    def _load_columns(self, weights: Value, plane: int) -> None:
        for n, tile in enumerate(_COLUMNS):
            self.unit.load(tile, self.s.at(weights, (2 * plane + n) * PLANE))

    def _products(self) -> None:
        for g, rows in enumerate(_ROWS):
            for n, columns in enumerate(_COLUMNS):
                self.unit.multiply(2 * g + n, rows, columns)

    def _small(self, rows: Value, weights: Value) -> None:
        """Emit the small terms of a block; each loads what the one before it does not have."""
        for of_columns, of_rows in ((_B, _A), (None, _B), (_A, None), (None, _C), (_C, _A)):
            if of_columns is not None:
                self._load_columns(weights, of_columns)
            if of_rows is not None:
                self._load(rows, of_rows, _ROWS)
            self._products()

    def _add(self, p: Value) -> None:
        s, each = self.s, 4
        tiles, sums = self._tiles(p), s.at(self.sums, s.mul(p, PAIR_SUMS))

        def some(k: Value, _: list[Value]) -> None:
            for j in range(each):
                at = s.add(k, j * s.lanes)
                s.store(s.builder.fadd(s.load(sums, at), s.load(tiles, at)), sums, at)

        s.loop(0, PAIR_SUMS, each * s.lanes, some)
