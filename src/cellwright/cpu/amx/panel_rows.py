"""Rows that lie anywhere, turned into a panel's depths, and a panel's results, turned into rows.

A panel has up to 32 rows; see ``cellwright.cpu.walk.amx_projection``.
"""

from cellwright.cpu.amx.lines import PANEL_LINES
from cellwright.cpu.vector.pack import transposed
from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value

__all__ = ["GATHER", "SCATTER", "emit_gather", "emit_scatter"]

GATHER = (POINTER, I64, I64, POINTER)
"""Arguments of a gathering: a table of the addresses of rows, how many, their length; the turned
rows, 32 side by side at each depth, of which those beyond repeat the last one."""
SCATTER = (POINTER, POINTER, I64, I64, I64, POINTER)
"""Arguments of a scattering: sums of lines with 32 rows; a table of the addresses of rows, how
many; how many lines, and the column that the first one goes to; biases, by column."""


def emit_gather(s: Simd) -> None:
    """target[k, n] = rows[n][k], for whole vectors of depths: there is room beyond the last one."""
    table, count, depth, target = s.function.args
    last = s.sub(count, 1)

    def rows(n: Value, _: list[Value]) -> None:
        numbers = [s.min(s.add(n, j), last) for j in range(s.lanes)]
        sources = [s.field(table, number, POINTER) for number in numbers]

        def square(k: Value, _: list[Value]) -> None:
            mask, out = s.dynamic_mask(s.sub(depth, k)), s.at(target, s.mul(k, PANEL_LINES))
            for j, value in enumerate(transposed(s, [s.load(x, k, mask) for x in sources])):
                s.store(value, s.at(out, n), j * PANEL_LINES)

        s.loop(0, depth, s.lanes, square)

    s.loop(0, count, s.lanes, rows)
    s.finish()


def emit_scatter(s: Simd) -> None:
    """rows[n][column + u] = sums[u, n] + biases[column + u]."""
    sums, table, count, lines, column, biases = s.function.args

    def square(n: Value, u: Value, _: list[Value]) -> None:
        source = s.at(sums, s.add(s.mul(u, PANEL_LINES), n))
        vectors = [s.load(source, j * PANEL_LINES) for j in range(s.lanes)]
        mask, at = s.dynamic_mask(s.sub(lines, u)), s.add(column, u)
        before = s.load(s.at(biases, at), 0, mask)
        for j, value in enumerate(transposed(s, vectors)):
            number = s.add(n, j)
            with s.builder.if_then(s.less(number, count)):
                row = s.field(table, number, POINTER)
                s.store(s.builder.fadd(before, value), s.at(row, at), 0, mask)

    def some(n: Value, _: list[Value]) -> None:
        s.loop(0, lines, s.lanes, lambda u, _: square(n, u, []))

    s.loop(0, count, s.lanes, some)
    s.finish()
