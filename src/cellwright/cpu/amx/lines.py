"""Both sides of a panel's product as planes of bfloat16; see ``cellwright.cpu.amx.panel``.

A panel is 32 lines of either side, rows or columns, and up to 128 depths: six tiles for each block
of 32 depths, of two halves of the lines in three planes. A processor takes a load to be of what a
store before it has yet to write where the last twelve bits of their addresses are the same, and
lets it wait. So the tiles of a block lie in the same quarter of six pages of 4 KiB: what is read of
one block does not wait for what is written of another.

Lines and depths are named by their addresses, so they may lie anywhere. What is not finite, or as
good as, makes each result that it is part of nan. Callers take numbers near the smallest ones as 0.

Panels go by faster than processors foresee what they need: of lines 4 KiB apart and more they read
only a few. So a split asks for what the second panel after its own will be made of.
"""

from collections.abc import Sequence

from cellwright.cpu.amx.planes import finite_parts, paired, put_planes
from cellwright.cpu.amx.unit import AMX_DEPTH, AMX_ROWS, PLANE, WEIGHT_PLANES
from cellwright.cpu.vector.pack import transposed
from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value

__all__ = [
    "HALVES",
    "PANEL_DEPTH",
    "PANEL_LINES",
    "PANEL_SIZE",
    "PART",
    "PARTS",
    "TILE_PAGE",
    "emit_lines",
    "emit_rows",
    "emit_turn",
    "whole_block",
]

PANEL_LINES, PANEL_DEPTH = 2 * AMX_ROWS, 128
"""Lines and depths of a panel."""
TILE_PAGE = PANEL_DEPTH // AMX_DEPTH * PLANE
"""Elements from a tile of a block to its next one."""
PANEL_SIZE = 2 * WEIGHT_PLANES * TILE_PAGE
"""Elements of a panel's planes."""

PARTS, HALVES = 16, 2
"""Parts that the split of a block of rows or lines has, and that of turned columns."""
PART = (I64, I64, I64, POINTER, I64, I64, I64, I64, POINTER)
"""Arguments of some parts of a split: the first part, and the one after the last; the block's first
depth; a table of the addresses of depths, how many of them count; the first line, how many there
are, and the distance between rows; the block's planes. Columns have no distance."""


def whole_block(
    s: Simd, parts: Value, j: Value, side: Sequence[Value], planes: Value
) -> list[Value]:
    """Return the arguments of a split of the ``j``-th block of a panel in all its parts.

    ``side``: those from the table on, but for the panel's planes.
    """
    return [s.index(0), s.index(parts), s.mul(j, AMX_DEPTH), *side, s.at(planes, s.mul(j, PLANE))]


def _put(s: Simd, halves: Sequence[Value], place: Value) -> None:
    """Write the planes of two vectors of depths, or of columns at two depths."""
    planes = paired(s, *(finite_parts(s, x) for x in halves))
    put_planes(s, planes, place, s.index(2 * TILE_PAGE))


def emit_lines(s: Simd) -> None:
    """Split columns of depths: a part is two depths. Columns beyond are 0."""
    start, stop, k, table, _, first, columns, _, target = s.function.args
    masks = [s.dynamic_mask(s.sub(columns, n * s.lanes)) for n in range(2)]

    def pair(j: Value, _: list[Value]) -> None:
        depth, place = s.add(k, j), s.at(target, s.mul(j, s.lanes))
        pointers = [s.field(table, s.add(depth, half), POINTER) for half in (0, AMX_ROWS)]
        sources = [s.at(pointer, first) for pointer in pointers]
        for n, mask in enumerate(masks):
            halves = [s.load(x, n * s.lanes, mask) for x in sources]
            _put(s, halves, s.at(place, n * TILE_PAGE))
        for source in sources:
            for half in range(2):
                s.prefetch(source, 2 * PANEL_LINES + half * s.lanes)

    s.loop(start, stop, 1, pair)
    s.finish()


def emit_rows(s: Simd) -> None:
    """Split rows, whose depths lie in one run: a part is two rows.

    Depths that do not count are 0, and the last row is repeated.
    """
    start, stop, k, table, depth, first, count, apart, target = s.function.args
    masks = [s.dynamic_mask(s.sub(s.sub(depth, k), half)) for half in (0, s.lanes)]
    base, last = s.at(s.field(table, 0, POINTER), k), s.sub(count, 1)

    def pair(j: Value, _: list[Value]) -> None:
        for n in range(2):
            place = s.mul(s.add(first, s.min(s.add(j, n * AMX_ROWS), last)), apart)
            row = s.at(base, place)
            halves = [s.load(row, half * s.lanes, mask) for half, mask in enumerate(masks)]
            _put(s, halves, s.at(target, s.add(s.mul(j, s.lanes), n * TILE_PAGE)))
            for half in range(2):
                s.prefetch(row, s.add(s.mul(apart, 2 * PANEL_LINES), half * s.lanes))

    s.loop(start, stop, 1, pair)
    s.finish()


def emit_turn(s: Simd) -> None:
    """Split columns of depths as rows: a part is 16. What does not count is 0."""
    start, stop, k, table, depth, first, columns, _, target = s.function.args
    size = s.lanes * s.lanes
    squares = s.reserve(s.scalar, 2 * size)
    masks = [s.dynamic_mask(s.sub(s.sub(depth, k), half)) for half in (0, s.lanes)]

    def square(half: Value, group: Value) -> None:
        """Turn half of the depths, into memory: registers hold no more."""
        order, beyond = s.add(k, s.mul(half, s.lanes)), s.mul(group, AMX_ROWS)
        lines = [s.field(table, s.add(order, n), POINTER) for n in range(s.lanes)]
        place, some = s.add(first, beyond), s.dynamic_mask(s.sub(columns, beyond))
        vectors = transposed(s, [s.load(line, place, some) for line in lines])
        for n, vector in enumerate(vectors):
            s.store(vector, s.at(squares, s.mul(half, size)), n * s.lanes)

    def row(r: Value, group: Value) -> None:
        at = s.mul(r, s.lanes)
        halves = [
            s.builder.select(m, s.load(squares, s.add(at, n * size)), s.constant(0.0))
            for n, m in enumerate(masks)
        ]
        _put(s, halves, s.at(target, s.add(at, s.mul(group, TILE_PAGE))))

    def part(group: Value, _: list[Value]) -> None:
        s.loop(0, 2, 1, lambda half, _: square(half, group))
        s.loop(0, s.lanes, 1, lambda r, _: row(r, group))

    s.loop(start, stop, 1, part)
    s.finish()
