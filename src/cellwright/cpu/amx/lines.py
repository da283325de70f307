"""Both sides of a panel's product as planes of bfloat16; see ``cellwright.cpu.amx.panel``.

Lines are named by their addresses, so they may lie anywhere. What is not finite, or as good as,
makes each result that it is part of nan. Callers take numbers near the smallest ones as 0.
"""

from collections.abc import Sequence

import llvmlite.ir as ir

from cellwright.cpu.amx.planes import finite_parts, paired, put_planes
from cellwright.cpu.amx.unit import AMX_DEPTH, AMX_ROWS, PLANE, WEIGHT_PLANES
from cellwright.cpu.pack import transposed
from cellwright.cpu.simd import I64, POINTER, Simd, Value

__all__ = [
    "HALF",
    "LINES",
    "PAIR",
    "PANEL_BLOCK",
    "PANEL_DEPTH",
    "PANEL_ROWS",
    "ROWS",
    "TURN",
    "emit_lines",
    "emit_rows",
    "emit_turn",
    "split_rows",
    "turn",
]

PANEL_ROWS, PANEL_DEPTH = 2 * AMX_ROWS, 128
"""Rows and depths of a panel."""
PANEL_BLOCK = WEIGHT_PLANES * PLANE
"""The size of the planes of 16 rows, or of a vector of columns, and a block of depths."""
HALF = PANEL_DEPTH // AMX_DEPTH * PANEL_BLOCK
"""Elements between the planes of 16 rows and of the next 16."""
LINES = (POINTER, I64, I64, I64, POINTER)
"""Arguments of a split of columns: a table of the addresses of whole blocks of depths, how many
blocks; the first column, how many; planes."""
TURN = (POINTER, I64, I64, I64, POINTER)
"""Arguments of a split that turns columns into 16 rows: a table of the addresses of a block of
depths, how many of them count; the first column, how many; planes."""
ROWS = (POINTER, I64, I64, I64, POINTER)
"""Arguments of a split of a panel's rows: a table of their addresses, how many depths, 0, 0; or of
those of whole blocks of depths, how many count, the first column, how many; planes."""

PAIR = 2 * AMX_ROWS
"""Columns of a pair of vectors."""


def _put(s: Simd, halves: Sequence[Value], place: Value, pitch: Value) -> None:
    """Write the planes of two vectors of depths, or of rows at two depths."""
    put_planes(s, paired(s, *(finite_parts(s, x) for x in halves)), place, pitch)


def emit_lines(s: Simd) -> None:
    """Split columns into planes: [pair of vectors][block of depths][plane][vector].

    Two depths are gone through at a time: processors foresee what long lines will need.
    """
    table, blocks, first, columns, target = s.function.args
    pitch = s.index(2 * PLANE)

    def pair(lines: Value, j: Value, k: Value) -> None:
        pointers = [s.field(lines, s.add(k, half), POINTER) for half in (0, s.lanes)]
        sources = [s.at(pointer, first) for pointer in pointers]
        out = s.at(target, s.add(s.mul(j, 2 * PANEL_BLOCK), s.mul(k, s.lanes)))

        def put(v: Value, masks: Sequence[Value]) -> None:
            place = s.at(out, s.mul(s.mul(blocks, v), 2 * PANEL_BLOCK // PAIR))
            for n, mask in enumerate(masks):
                halves = [s.load(source, s.add(v, n * s.lanes), mask) for source in sources]
                _put(s, halves, s.at(place, n * PLANE), pitch)

        whole = s.builder.and_(columns, s.index(-PAIR))
        s.loop(0, whole, PAIR, lambda v, _: put(v, (None, None)))
        left = s.sub(columns, whole)
        tail = [s.dynamic_mask(s.sub(left, n * s.lanes)) for n in range(2)]
        s.when(s.less(0, left), lambda: put(whole, tail))

    def block(j: Value, _: list[Value]) -> None:
        lines = s.builder.gep(table, [s.mul(j, AMX_DEPTH)], source_etype=I64)
        s.loop(0, s.lanes, 1, lambda k, _: pair(lines, j, k))

    s.loop(0, blocks, 1, block)
    s.finish()


def emit_turn(s: Simd) -> None:
    """Split columns into planes of 16 rows; rows beyond are 0, and depths that do not count."""
    lines, depth, first, columns, target = s.function.args
    size = s.lanes * s.lanes
    squares = s.reserve(s.scalar, 2 * size)
    some = s.dynamic_mask(columns)

    def square(half: Value, _: list[Value]) -> None:
        """Turn half of a block of depths, into memory: registers hold no more."""
        order = s.mul(half, s.lanes)
        found = [s.field(lines, s.add(order, n), POINTER) for n in range(s.lanes)]
        vectors = transposed(s, [s.load(line, first, some) for line in found])
        place = s.at(squares, s.mul(half, size))
        for n, vector in enumerate(vectors):
            s.store(vector, place, n * s.lanes)

    s.loop(0, 2, 1, square)
    masks = [s.dynamic_mask(s.sub(depth, half)) for half in (0, s.lanes)]

    def row(r: Value, _: list[Value]) -> None:
        at = s.mul(r, s.lanes)
        halves = [
            s.builder.select(m, s.load(squares, s.add(at, n * size)), s.constant(0.0))
            for n, m in enumerate(masks)
        ]
        _put(s, halves, s.at(target, at), s.index(PLANE))

    s.loop(0, s.lanes, 1, row)
    s.finish()


def emit_rows(s: Simd) -> None:
    """Split a panel's rows into planes; with columns, turn those."""
    table, depth, first, columns, target = s.function.args

    def block(k: Value, _: list[Value]) -> None:
        def turned(g: Value, _: list[Value]) -> None:
            turn(s, g, k, (table, depth, first, columns), target)

        with s.builder.if_else(s.less(0, columns)) as (then, otherwise):
            with then:
                s.loop(0, 2, 1, turned)
            with otherwise:
                split_rows(s, (s.index(0), s.index(PANEL_ROWS)), (k, depth), table, target)

    s.loop(0, depth, AMX_DEPTH, block)
    s.finish()


def split_rows(
    s: Simd, rows: tuple[Value, Value], depths: tuple[Value, Value], table: Value, target: Value
) -> None:
    """Split a block of depths of some rows: from which to which; its first depth, all depths."""
    k, depth = depths
    left = s.sub(depth, k)
    masks = [s.dynamic_mask(s.sub(left, half)) for half in (0, s.lanes)]
    start = s.at(target, s.mul(k, PANEL_BLOCK // AMX_DEPTH))

    def row(r: Value, _: list[Value]) -> None:
        source, b = s.field(table, r, POINTER), s.builder
        group, within = b.lshr(r, s.index(4)), b.and_(r, s.index(AMX_ROWS - 1))
        place = s.at(start, s.add(s.mul(group, HALF), s.mul(within, s.lanes)))
        halves = [s.load(source, s.add(k, n * s.lanes), m) for n, m in enumerate(masks)]
        _put(s, halves, place, s.index(PLANE))

    s.loop(*rows, 1, row)


def turn(
    s: Simd, group: Value, k: Value, side: tuple[Value, Value, Value, Value], target: Value
) -> None:
    """Turn a block of depths of half a panel: by columns, as ``side`` has them.

    Those are a table of depths, their number, the first column, and how many. The module must have
    ``turn``.
    """
    table, depth, first, columns = side
    lines = s.builder.gep(table, [k], source_etype=I64)
    beyond = s.mul(group, AMX_ROWS)
    place = s.add(s.mul(group, HALF), s.mul(k, PANEL_BLOCK // AMX_DEPTH))
    args = [lines, s.sub(depth, k), s.add(first, beyond), s.sub(columns, beyond)]
    s.call("turn", ir.VoidType(), TURN, [*args, s.at(target, place)])
