"""Small matrix products: all that a backward walk leaves to do, in one call.

C[m, n] (+)= Σ_k A[m, k] B[k, n], where A may lie in any order and the columns of B and C lie one
after another. Nothing is packed: this is for matrices that stay in a core's caches, where calling
a library for each product would take longer than the work.

A list of products is a struct of 8-byte fields: how many there are, how many threads take part,
then for each product

====  =====================================================================
0–2   A: address, distance between rows m, distance between depths k
3, 4  B: address, distance between depths k
5, 6  C: address, distance between rows m
7–9   numbers of rows, columns and depths
10    1 to add to C, 0 to start from 0
====  =====================================================================

Distances count elements. Each thread takes a share of the rows.
"""

from collections.abc import Callable

import llvmlite.ir as ir

from cellwright.cpu.simd import I64, POINTER, Simd, Value
from cellwright.cpu.target import Target

__all__ = ["JOB", "PRODUCTS_HEADER", "emit_products"]

PRODUCTS_HEADER, JOB = 2, 11
_STRIP = (POINTER, I64, I64, POINTER, I64, POINTER, I64, I64, I64, I64)
"""Arguments of a strip: A, its row and depth distances, B, its depth distance, C, its row distance,
depth, whether to start from 0, and how many columns there are."""
_ROWS = (6, 3, 1)
"""Rows of a strip: most products have more, and what is left over takes the smaller ones. Strips
that a mask cuts short do without the largest: they are few, and each takes time to compile."""
_DEPTH = 64
"""Depths that are summed up at once: strips of A and B then stay in the first-level cache, and a
long sum is taken part by part, which loses fewer digits."""


def emit_products(target: Target, dtype: str) -> ir.Module:
    """Emit ``products(struct, thread)`` and the strips that it is made of."""
    module = ir.Module(f"products_{target.name}_{dtype}")
    whole = {r: _emit_strip(module, target, dtype, r, target.vectors) for r in _ROWS}
    rest = {r: _emit_strip(module, target, dtype, r, 0) for r in _ROWS[1:]}
    s = Simd(module, "products", (POINTER, I64), target, dtype)
    struct, thread = s.function.args
    threads = s.field(struct, 1)

    def job(j: Value, _: list[Value]) -> None:
        place = s.add(s.mul(j, JOB), PRODUCTS_HEADER)
        kinds = {0: POINTER, 3: POINTER, 5: POINTER}
        fields = [s.field(struct, s.add(place, k), kinds.get(k, I64)) for k in range(JOB)]
        _emit_job(s, fields, (thread, threads), whole, rest)

    s.loop(0, s.field(struct, 0), 1, job)
    s.finish()
    return module


def _emit_job(
    s: Simd,
    fields: list[Value],
    share: tuple[Value, Value],
    whole: dict[int, Value],
    rest: dict[int, Value],
) -> None:
    a, a_row, a_depth, b, b_depth, c, c_row, rows, columns, depth, adds = fields
    low, high = (s.builder.sdiv(s.mul(rows, s.add(share[0], j)), share[1]) for j in range(2))
    block = s.target.vectors * s.lanes
    full = s.mul(s.builder.sdiv(columns, s.index(block)), block)
    once = s.builder.select(s.less(0, depth), depth, s.index(1))  # no depth: C is set to 0

    def part(k: Value, _: list[Value]) -> None:
        size = s.min(s.sub(depth, k), _DEPTH)
        more = s.builder.or_(s.less(0, k), s.less(0, adds))
        first = s.builder.select(more, s.index(0), s.index(1))
        left, right = s.at(a, s.mul(k, a_depth)), s.at(b, s.mul(k, b_depth))

        def strips(strip: dict[int, Value]) -> Callable[[Value, list[Value]], None]:
            def column(n: Value, _: list[Value]) -> None:
                def row(m: Value, r: int) -> None:
                    source = s.at(left, s.mul(m, a_row))
                    target = s.at(c, s.add(s.mul(m, c_row), n))
                    args = [source, a_row, a_depth, s.at(right, n), b_depth, target, c_row]
                    s.builder.call(strip[r], [*args, size, first, s.sub(columns, n)])

                _rows(s, low, high, tuple(strip), row)

            return column

        s.loop(0, full, block, strips(whole))
        s.loop(full, columns, s.lanes, strips(rest))

    s.loop(0, once, _DEPTH, part)


def _rows(
    s: Simd, low: Value, high: Value, counts: tuple[int, ...], body: Callable[[Value, int], None]
) -> None:
    """Call ``body(row, count)`` for rows from ``low`` to ``high``, most of them first."""
    start = low
    for r in counts:
        stop = s.add(start, s.mul(s.builder.sdiv(s.sub(high, start), s.index(r)), r))
        s.loop(start, stop, r, lambda m, _, r=r: body(m, r))  # type: ignore[misc]
        start = stop


def _emit_strip(
    module: ir.Module, target: Target, dtype: str, rows: int, vectors: int
) -> ir.Function:
    """Emit a strip of ``rows`` × ``vectors``; 0 vectors: one that may be cut short by a mask."""
    s = Simd(module, f"strip_{rows}_{vectors}", _STRIP, target, dtype)
    s.function.linkage = "internal"
    a, a_row, a_depth, b, b_depth, c, c_row, depth, first, columns = s.function.args
    mask = None if vectors else s.dynamic_mask(columns)
    width = max(vectors, 1)
    pointers = [s.at(a, s.mul(a_row, r)) for r in range(rows)]

    def step(k: Value, sums: list[Value]) -> list[Value]:
        line, offset = s.at(b, s.mul(k, b_depth)), s.mul(k, a_depth)
        found = list(sums)
        lanes = [s.load(line, v * s.lanes, mask) for v in range(width)]
        for r in range(rows):
            one = s.splat(pointers[r], offset)
            for v in range(width):
                found[r * width + v] = s.fma(one, lanes[v], found[r * width + v])
        return found

    sums = s.loop(0, depth, 1, step, [s.constant(0.0)] * (rows * width))
    fresh = s.less(0, first)
    for r in range(rows):
        for v in range(width):
            at = s.add(s.mul(c_row, r), v * s.lanes)
            value = sums[r * width + v]
            with s.builder.if_else(fresh) as (then, otherwise):
                with then:
                    s.store(value, c, at, mask)
                with otherwise:
                    s.store(s.builder.fadd(s.load(c, at, mask), value), c, at, mask)
    s.finish()
    return s.function
