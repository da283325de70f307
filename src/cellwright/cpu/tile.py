"""Matrix products in registers: the functions that every kernel of a target and dtype shares.

A tile is R batch rows × V vectors of units, its accumulators in registers for the whole sum over
k; the results go to a small buffer that stays in the first-level cache, where a cell's equations
pick them up. All matrices here are addressed in elements.
"""

from collections.abc import Sequence

import llvmlite.ir as ir

from cellwright.cpu.simd import I64, POINTER, Simd, Value

__all__ = ["DOT", "TILE", "emit_dot", "emit_tile"]

TILE = (POINTER, I64, POINTER, POINTER, I64, I64, I64, POINTER, I64)
"""Arguments of a tile: results, row stride of the results, pointers to the rows, packed weights,
depth, number of tiles, whether to start from 0 (1) or to add (0); what to prefetch, and how many
elements of it at each k."""
DOT = (POINTER, POINTER, POINTER, I64, I64, I64, I64)
"""Arguments of a dot: results, the row, weights as they lie, their row stride, depth, number of
units, whether to start from 0."""


def emit_tile(s: Simd, rows: int, vectors: int) -> None:
    """C[r, u] (+)= Σ_k A[r, k] W[k, u] for `count` tiles that share the rows A."""
    c, stride, row_table, weights, depth, count, first, coming, pace = s.function.args
    width = vectors * s.lanes
    pointers = [s.field(row_table, r, POINTER) for r in range(rows)]
    # two fused multiply-adds a cycle, four cycles each: fewer than 8 accumulators would wait
    sets = max(1, -(-8 // (rows * vectors)))
    unroll = max(sets, 2)
    whole = s.mul(s.builder.sdiv(depth, s.index(unroll)), unroll)

    def tile(t: Value, _: list[Value]) -> None:
        w = s.at(weights, s.mul(s.mul(t, depth), width))
        soon = s.at(coming, s.mul(s.mul(t, depth), pace))
        out = s.at(c, s.mul(t, width))

        def step(k: Value, sums: list[Value]) -> list[Value]:
            line = s.at(w, s.mul(k, width))
            if rows > 2:  # fewer rows only wait for memory as it is
                s.prefetch(soon, s.mul(k, pace))
            columns = [s.load(line, v * s.lanes) for v in range(vectors)]
            for r in range(rows):
                a = s.splat(pointers[r], k)
                for v in range(vectors):
                    sums[r * vectors + v] = s.fma(columns[v], a, sums[r * vectors + v])
            return sums

        def steps(k: Value, carried: list[Value]) -> list[Value]:
            n = rows * vectors
            parts = [list(carried[j * n : (j + 1) * n]) for j in range(sets)]
            for j in range(unroll):
                parts[j % sets] = step(s.add(k, j), parts[j % sets])
            return [value for part in parts for value in part]

        sums = s.loop(0, whole, unroll, steps, [s.constant(0.0)] * (rows * vectors * sets))
        merged = _merge(s, sums, sets)
        merged = s.loop(whole, depth, 1, lambda k, carried: step(k, list(carried)), merged)
        for r in range(rows):
            for v in range(vectors):
                place = s.add(s.mul(stride, r), v * s.lanes)
                _accumulate(s, merged[r * vectors + v], out, place, first)

    s.loop(0, count, 1, tile)
    s.finish()


def _merge(s: Simd, sums: Sequence[Value], sets: int) -> list[Value]:
    n = len(sums) // sets
    merged = list(sums[:n])
    for j in range(1, sets):
        merged = [
            s.builder.fadd(a, b) for a, b in zip(merged, sums[j * n : (j + 1) * n], strict=True)
        ]
    return merged


def _accumulate(s: Simd, value: Value, c: Value, place: Value, first: Value) -> None:
    """Write ``value``, or add it to what is there unless this is the first product."""
    fresh = s.builder.icmp_signed("!=", first, s.index(0))
    with s.builder.if_else(fresh) as (then, otherwise):
        with then:
            s.store(value, c, place)
        with otherwise:
            s.store(s.builder.fadd(s.load(c, place), value), c, place)


def emit_dot(s: Simd) -> None:
    """C[u] (+)= Σ_k W[u, k] a[k], the weights as torch has them, a vector of units at a time."""
    c, a, weights, stride, depth, units, first = s.function.args
    whole = s.mul(s.builder.sdiv(depth, s.index(s.lanes)), s.lanes)
    tail = s.dynamic_mask(s.sub(depth, whole))

    def group(u: Value, _: list[Value]) -> None:
        last = s.sub(units, 1)  # rows past the end repeat the last one; their sums are not used
        rows = [s.at(weights, s.mul(s.min(s.add(u, j), last), stride)) for j in range(s.lanes)]

        def step(k: Value, sums: list[Value]) -> list[Value]:
            x = s.load(a, k)
            return [s.fma(s.load(row, k), x, total) for row, total in zip(rows, sums, strict=True)]

        sums = s.loop(0, whole, s.lanes, step, [s.constant(0.0)] * s.lanes)

        def rest(k: Value, carried: list[Value]) -> list[Value]:
            x = s.load(a, k, tail)
            pairs = zip(rows, carried, strict=True)
            return [s.fma(s.load(row, k, tail), x, total) for row, total in pairs]

        sums = s.loop(whole, depth, s.lanes, rest, sums)
        _accumulate(s, _transposed_sum(s, sums), c, u, first)

    s.loop(0, units, s.lanes, group)
    s.finish()


def _exchange(s: Simd, a: Value, b: Value, distance: int) -> tuple[Value, Value]:
    """Return (lanes of a where the bit is clear, of b where set) and the same of their partners."""
    lanes = range(s.lanes)
    kind = ir.VectorType(ir.IntType(32), s.lanes)
    own = [lane if not lane & distance else s.lanes + lane for lane in lanes]
    other = [index ^ distance for index in own]
    pick = s.builder.shuffle_vector
    return pick(a, b, ir.Constant(kind, own)), pick(a, b, ir.Constant(kind, other))


def _transposed_sum(s: Simd, vectors: Sequence[Value]) -> Value:
    """Return the vector whose lane j is the sum over the lanes of ``vectors[j]``."""
    current = list(vectors)
    distance = s.lanes // 2
    while distance:
        pairs = [_exchange(s, current[j], current[j + distance], distance) for j in range(distance)]
        current = [s.builder.fadd(own, other) for own, other in pairs]
        distance //= 2
    return current[0]
