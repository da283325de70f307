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
7, 8  numbers of rows and columns
9     1 to add to C, 0 to start from 0
10    address of the depths to sum over: a table, see ``depth_table``
====  =====================================================================

Distances count elements. Each thread takes a share of the rows.
"""

from array import array
from collections.abc import Callable, Iterable

import llvmlite.ir as ir

from cellwright.cpu.simd import I64, POINTER, Simd, Value
from cellwright.cpu.target import Target

__all__ = ["JOB", "PRODUCTS_HEADER", "depth_table", "emit_products"]

PRODUCTS_HEADER, JOB = 2, 11
_STRIP = (POINTER, I64, I64, POINTER, I64, POINTER, I64, POINTER, I64, I64, I64)
"""Arguments of a strip: A, its row and depth distances, B, its depth distance, C, its row distance,
runs and their number, whether to start from 0, and how many columns there are."""
_ROWS = (6, 1)
"""Rows of a strip: most products have many. Each kind takes time to compile, so there are two."""
_DEPTH = 64
"""Depths that are summed up at once: strips of A and B then stay in the first-level cache, and a
long sum is taken part by part, which loses fewer digits."""


def depth_table(runs: Iterable[tuple[int, int, int]]) -> "array[int]":
    """Return the depths that a product sums over, as machine code reads them.

    Runs of depths are cut and gathered into groups of up to 64, which are summed up at once. The
    table has the number of groups, then for each group the number of its runs, then each run.

    Args:
        runs: (first depth in A, first depth in B, how many) of successive depths.
    """
    groups: list[list[int]] = [[]]
    room = _DEPTH
    for from_a, from_b, count in runs:
        done = 0
        while done < count:
            if room == 0:
                groups.append([])
                room = _DEPTH
            size = min(count - done, room)
            groups[-1] += (from_a + done, from_b + done, size)
            done += size
            room -= size
    table = array("q", (len(groups),))
    for group in groups:
        table.append(len(group) // 3)
        table.extend(group)
    return table


def emit_products(target: Target, dtype: str) -> ir.Module:
    """Emit ``products(struct, thread)`` and the strips that it is made of."""
    module = ir.Module(f"products_{target.name}_{dtype}")
    whole, rest = (
        {r: _emit_strip(module, target, dtype, r, masked) for r in _ROWS}
        for masked in (False, True)
    )
    s = Simd(module, "products", (POINTER, I64), target, dtype)
    struct, thread = s.function.args
    threads = s.field(struct, 1)

    def job(j: Value, _: list[Value]) -> None:
        place = s.add(s.mul(j, JOB), PRODUCTS_HEADER)
        kinds = dict.fromkeys((0, 3, 5, 10), POINTER)
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
    """Emit the sum over all groups of depths."""
    a, a_row, a_depth, b, b_depth, c, c_row, rows, columns, adds, table = fields
    low, high = (s.builder.sdiv(s.mul(rows, s.add(share[0], j)), share[1]) for j in range(2))
    block = s.target.vectors * s.lanes
    full = s.mul(s.builder.sdiv(columns, s.index(block)), block)

    def group(j: Value, carried: list[Value]) -> list[Value]:
        (place,) = carried
        count = s.field(table, place)
        runs = s.builder.gep(table, [s.add(place, 1)], source_etype=I64)
        more = s.builder.or_(s.less(0, j), s.less(0, adds))
        first = s.builder.select(more, s.index(0), s.index(1))

        def strips(strip: dict[int, Value]) -> Callable[[Value, list[Value]], None]:
            def column(n: Value, _: list[Value]) -> None:
                def row(m: Value, r: int) -> None:
                    source = s.at(a, s.mul(m, a_row))
                    target = s.at(c, s.add(s.mul(m, c_row), n))
                    args = [source, a_row, a_depth, s.at(b, n), b_depth, target, c_row]
                    s.builder.call(strip[r], [*args, runs, count, first, s.sub(columns, n)])

                _rows(s, low, high, tuple(strip), row)

            return column

        s.loop(0, full, block, strips(whole))
        s.loop(full, columns, block, strips(rest))
        return [s.add(s.add(place, 1), s.mul(count, 3))]

    s.loop(0, s.field(table, 0), 1, group, [s.index(1)])


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
    module: ir.Module, target: Target, dtype: str, rows: int, masked: bool
) -> ir.Function:
    """Emit a strip of ``rows`` times the vectors of a tile; a mask may cut it short."""
    name = f"strip_{rows}" + ("_masked" if masked else "")
    s = Simd(module, name, _STRIP, target, dtype)
    s.function.linkage = "internal"
    a, a_row, a_depth, b, b_depth, c, c_row, runs, count, first, columns = s.function.args
    width = target.vectors
    masks = [s.dynamic_mask(s.sub(columns, v * s.lanes)) if masked else None for v in range(width)]
    pointers = [s.at(a, s.mul(a_row, r)) for r in range(rows)]

    def run(j: Value, carried: list[Value]) -> list[Value]:
        from_a, from_b, depth = (s.field(runs, s.add(s.mul(j, 3), k)) for k in range(3))

        def step(k: Value, sums: list[Value]) -> list[Value]:
            line = s.at(b, s.mul(s.add(from_b, k), b_depth))
            offset = s.mul(s.add(from_a, k), a_depth)
            found = list(sums)
            lanes = [s.load(line, v * s.lanes, masks[v]) for v in range(width)]
            for r in range(rows):
                one = s.splat(pointers[r], offset)
                for v in range(width):
                    found[r * width + v] = s.fma(one, lanes[v], found[r * width + v])
            return found

        return s.loop(0, depth, 1, step, carried)

    sums = s.loop(0, count, 1, run, [s.constant(0.0)] * (rows * width))
    fresh = s.less(0, first)
    for r in range(rows):
        for v in range(width):
            at = s.add(s.mul(c_row, r), v * s.lanes)
            value = sums[r * width + v]
            with s.builder.if_else(fresh) as (then, otherwise):
                with then:
                    s.store(value, c, at, masks[v])
                with otherwise:
                    s.store(s.builder.fadd(s.load(c, at, masks[v]), value), c, at, masks[v])
    s.finish()
    return s.function
