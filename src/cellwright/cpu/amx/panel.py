"""The products of a panel of 32 lines of one side with panels of the other, by AMX.

It works as ``cellwright.cpu.amx.unit`` does, on planes that ``cellwright.cpu.amx.lines`` makes: of
the panel, which stay in the first-level cache, and of one panel of the other side after the other,
which come from the second. Between its products the panel that follows is split, a few lines at a
time: while the unit multiplies, vector instructions and memory have time.

All six terms of a product are summed up in the same tiles, block by block, which spares loads of
planes. The unit adds up the products of a block of depths before it adds them to a tile, so a
tile is rounded 24 times for a panel's 128 depths. A walk's, which sums up all depths, would be
rounded too often so.
"""

from functools import partial
from itertools import pairwise

import llvmlite.ir as ir

from cellwright.cpu.amx.lines import PANEL_LINES, PART, PARTS, TILE_PAGE
from cellwright.cpu.amx.unit import AMX_DEPTH, AMX_ROWS, PLANE, WEIGHT_PLANES, Unit
from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value

__all__ = ["PANEL", "PANEL_SUMS", "all_finite", "emit_panel", "ends_half", "panels_of"]

PANEL_SUMS = PANEL_LINES * PANEL_LINES
"""The sums of two panels."""
_COMING = PART[3:]
PANEL = (POINTER, I64, POINTER, POINTER, I64, POINTER, I64, I64, I64, I64, POINTER, *_COMING)
"""Arguments of a panel: sums, whether to start from 0 (1) or to add (0), memory for
``2 * PANEL_SUMS``; planes of rows, the distance to the next panel's; planes of columns, the
distance to the next panel's: one of the two is 0; how many panels that other side has; 1 to leave
out the second half of the last one, only where they are columns; how many blocks of depths all
have. The function that splits the panel that follows, or null, and its arguments from the table
on."""

_COLUMNS, _ROWS = (4, 5), (6, 7)
"""Tiles of operands."""
_A, _B, _C = range(WEIGHT_PLANES)
_TERMS = ((_A, _C), (None, _B), (_B, None), (None, _A), (_C, None), (_A, None))
"""Planes of columns and of rows: each term loads what the one before it does not have."""
_BOUNDS = [-(-PARTS * n // len(_TERMS)) for n in range(len(_TERMS) + 1)]
"""Which parts of a split come before each of the terms."""


def panels_of(s: Simd, lines: Value) -> Value:
    """Return how many panels so many lines fill."""
    return s.builder.sdiv(s.add(lines, PANEL_LINES - 1), s.index(PANEL_LINES))


def ends_half(s: Simd, lines: Value) -> Value:
    """Return 1 if the last panel of so many lines is filled up to its first half, else 0."""
    filled = s.builder.and_(s.sub(lines, 1), s.index(PANEL_LINES - 1))
    return s.builder.zext(s.less(filled, PANEL_LINES // 2), I64)


def all_finite(s: Simd, sums: Value, size: Value) -> Value:
    """Return whether the sums of panels are finite: 0 times any other is nan."""
    each, zero = 4, s.constant(0.0)

    def some(k: Value, found: list[Value]) -> list[Value]:
        values = (s.load(sums, s.add(k, j * s.lanes)) for j in range(each))
        return [s.fma(x, zero, nan) for x, nan in zip(values, found, strict=True)]

    total, *others = s.loop(0, size, each * s.lanes, some, [zero] * each)
    for other in others:
        total = s.builder.fadd(total, other)
    ordered = s.builder.fcmp_ordered("ord", total, zero)
    every = ir.IntType(s.lanes)
    bits = s.builder.bitcast(ordered, every)
    return s.builder.icmp_signed("==", bits, ir.Constant(every, -1))


def emit_panel(s: Simd) -> None:
    """C[r, u] (+)= Σ_k A[r, k] W[k, u]."""
    _Panel(s).emit()
    s.finish()


class _Panel:
    def __init__(self, s: Simd) -> None:
        self.s, self.unit, b = s, Unit(s), s.builder
        self.sums, fresh, self.tiles, *sides, self.count, half, self.blocks = s.function.args[:10]
        self.fresh, self.rows, self.columns = s.less(0, fresh), sides[:2], sides[2:]
        self.half = s.less(0, half)
        self.split, *self.coming = s.function.args[10:]
        # a share of each block's parts for each panel of the other side
        self.parts = b.select(s.is_null(self.split), s.index(0), s.index(PARTS))
        self.share = b.sdiv(s.sub(s.add(self.parts, self.count), 1), self.count)

    def emit(self) -> None:
        """Emit the loop over the other side; products are added after those that follow.

        What was just stored would have to be waited for.
        """
        s, b = self.s, self.s.builder

        def panel(p: Value, _: list[Value]) -> None:
            out = b.select(self.fresh, s.at(self.sums, s.mul(p, PANEL_SUMS)), self._tiles(p))
            self._multiply(p, out)
            due = b.and_(b.not_(self.fresh), s.less(0, p))
            s.when(due, lambda: self._add(s.sub(p, 1)))

        s.loop(0, self.count, 1, panel)
        s.when(b.not_(self.fresh), lambda: self._add(s.sub(self.count, 1)))

    def _tiles(self, p: Value) -> Value:
        """Return where the products of a panel go first."""
        s = self.s
        return s.at(self.tiles, s.mul(s.builder.and_(p, s.index(1)), PANEL_SUMS))

    def _multiply(self, p: Value, out: Value) -> None:
        s = self.s
        rows, columns = (s.at(x, s.mul(p, apart)) for x, apart in (self.rows, self.columns))
        low = s.min(self.parts, s.mul(p, self.share))
        high = s.min(self.parts, s.add(low, self.share))
        for total in range(4):
            self.unit.zero(total)

        def block(tiles: tuple[int, ...], j: Value, _: list[Value]) -> None:
            at = s.mul(j, PLANE)
            for (of_columns, of_rows), bounds in zip(_TERMS, pairwise(_BOUNDS), strict=True):
                start, stop = (s.min(high, s.add(low, n)) for n in bounds)
                s.when(s.less(start, stop), lambda a=start, b=stop: self._split(j, a, b))  # type: ignore[misc]
                self._load(s.at(columns, at), of_columns, tiles)
                self._load(s.at(rows, at), of_rows, _ROWS)
                self._products(tiles)

        half = s.builder.and_(self.half, s.less(self.count, s.add(p, 2)))
        with s.builder.if_else(half) as (then, otherwise):
            for branch, tiles in ((then, _COLUMNS[:1]), (otherwise, _COLUMNS)):
                with branch:
                    s.loop(0, self.blocks, 1, partial(block, tiles))
        for g in range(2):
            for n in range(2):
                place = s.at(out, g * AMX_ROWS * PANEL_LINES + n * AMX_ROWS)
                self.unit.store(2 * g + n, place, s.index(PANEL_LINES))

    def _split(self, j: Value, start: Value, stop: Value) -> None:
        """Split some parts of a block of the panel that follows: not the one that is multiplied."""
        s, b, (*side, target) = self.s, self.s.builder, self.coming
        ahead = s.add(j, b.lshr(self.blocks, s.index(1)))
        block = b.select(s.less(ahead, self.blocks), ahead, s.sub(ahead, self.blocks))
        args = [start, stop, s.mul(block, AMX_DEPTH), *side, s.at(target, s.mul(block, PLANE))]
        s.call_pointer(self.split, PART, args)

    def _load(self, block: Value, plane: int | None, tiles: tuple[int, ...]) -> None:
        if plane is not None:
            for n, tile in enumerate(tiles):
                self.unit.load(tile, self.s.at(block, (2 * plane + n) * TILE_PAGE))

    def _products(self, tiles: tuple[int, ...]) -> None:
        for g, rows in enumerate(_ROWS):
            for n, columns in enumerate(tiles):
                self.unit.multiply(2 * g + n, rows, columns)

    def _add(self, p: Value) -> None:
        s, each = self.s, 4
        tiles, sums = self._tiles(p), s.at(self.sums, s.mul(p, PANEL_SUMS))

        def some(k: Value, _: list[Value]) -> None:
            for j in range(each):
                at = s.add(k, j * s.lanes)
                s.store(s.builder.fadd(s.load(sums, at), s.load(tiles, at)), sums, at)

        s.loop(0, PANEL_SUMS, each * s.lanes, some)
