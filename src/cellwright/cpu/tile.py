"""Matrix products in registers: the functions that every kernel of a target and dtype shares.

A tile is R batch rows × V vectors of units, its accumulators in registers for the whole sum over
k; the results go to a small buffer that stays in the first-level cache, where a cell's equations
pick them up. All matrices here are addressed in elements.
"""

from collections.abc import Sequence

import llvmlite.ir as ir

from cellwright.cpu.simd import I64, POINTER, Simd, Value
from cellwright.cpu.target import Target

__all__ = ["DOT", "PACK", "TILE", "emit_library", "library_names"]

TILE = (POINTER, I64, POINTER, POINTER, I64, I64, I64)
"""Arguments of a tile: results, row stride of the results, pointers to the rows, packed weights,
depth, number of tiles, whether to start from 0 (1) or to add (0)."""
DOT = (POINTER, POINTER, POINTER, I64, I64, I64, I64)
"""Arguments of a dot: results, the row, weights as they lie, their row stride, depth, number of
units, whether to start from 0."""
PACK = (POINTER, I64, I64, I64, I64, POINTER, I64, I64, I64, I64)
"""Arguments of a pack: weights as they lie, their row stride, units, depth, number of tiles, packed
weights, where these tiles start within a block's depth, the block's whole depth, the thread, the
number of threads."""


def library_names(target: Target) -> list[str]:
    """Return the functions of the library in the order of its table."""
    shapes = [(r, v) for v in range(1, target.vectors + 1) for r in range(1, target.rows + 1)]
    return [*(f"tile_{r}_{v}" for r, v in shapes), "dot", "pack_units", "pack_depth"]


def emit_library(target: Target, dtype: str) -> ir.Module:
    """Emit all tiles, the dot product and the two ways of packing."""
    module = ir.Module(f"library_{target.name}_{dtype}")
    for v in range(1, target.vectors + 1):
        for r in range(1, target.rows + 1):
            _emit_tile(Simd(module, f"tile_{r}_{v}", TILE, target, dtype), r, v)
    _emit_dot(Simd(module, "dot", DOT, target, dtype))
    _emit_pack(Simd(module, "pack_units", PACK, target, dtype), _pack_units)
    _emit_pack(Simd(module, "pack_depth", PACK, target, dtype), _pack_depth)
    return module


def _emit_tile(s: Simd, rows: int, vectors: int) -> None:
    """C[r, u] (+)= Σ_k A[r, k] W[k, u] for `count` tiles that share the rows A."""
    c, stride, row_table, weights, depth, count, first = s.function.args
    width = vectors * s.lanes
    pointers = [s.field(row_table, r, POINTER) for r in range(rows)]
    # two fused multiply-adds a cycle, four cycles each: fewer than 8 accumulators would wait
    sets = max(1, -(-8 // (rows * vectors)))
    unroll = max(sets, 2)
    whole = s.mul(s.builder.sdiv(depth, s.int(unroll)), unroll)

    def tile(t: Value, _: list[Value]) -> None:
        w = s.at(weights, s.mul(s.mul(t, depth), width))
        out = s.at(c, s.mul(t, width))

        def step(k: Value, sums: list[Value]) -> list[Value]:
            line = s.at(w, s.mul(k, width))
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
        merged = [s.builder.fadd(a, b) for a, b in zip(merged, sums[j * n : (j + 1) * n], strict=True)]
    return merged


def _accumulate(s: Simd, value: Value, c: Value, place: Value, first: Value) -> None:
    """Write ``value``, or add it to what is there unless this is the first product."""
    fresh = s.builder.icmp_signed("!=", first, s.int(0))
    with s.builder.if_else(fresh) as (then, otherwise):
        with then:
            s.store(value, c, place)
        with otherwise:
            s.store(s.builder.fadd(s.load(c, place), value), c, place)


def _emit_dot(s: Simd) -> None:
    """C[u] (+)= Σ_k W[u, k] a[k] with the weights as torch has them: one vector of units at a time."""
    c, a, weights, stride, depth, units, first = s.function.args
    whole = s.mul(s.builder.sdiv(depth, s.int(s.lanes)), s.lanes)
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
        _accumulate(s, transposed_sum(s, sums), c, u, first)

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


def transposed_sum(s: Simd, vectors: Sequence[Value]) -> Value:
    """Return the vector whose lane j is the sum over the lanes of ``vectors[j]``."""
    current = list(vectors)
    distance = s.lanes // 2
    while distance:
        pairs = [_exchange(s, current[j], current[j + distance], distance) for j in range(distance)]
        current = [s.builder.fadd(own, other) for own, other in pairs]
        distance //= 2
    return current[0]


def transpose(s: Simd, vectors: Sequence[Value]) -> list[Value]:
    """Return the transpose of a square of vectors."""
    current = list(vectors)
    distance = s.lanes // 2
    kind = ir.VectorType(ir.IntType(32), s.lanes)
    while distance:
        following = list(current)
        low = [lane if not lane & distance else s.lanes + (lane ^ distance) for lane in range(s.lanes)]
        high = [(lane | distance) if not lane & distance else s.lanes + lane for lane in range(s.lanes)]
        for i in range(s.lanes):
            if not i & distance:
                a, b = current[i], current[i | distance]
                following[i] = s.builder.shuffle_vector(a, b, ir.Constant(kind, low))
                following[i | distance] = s.builder.shuffle_vector(a, b, ir.Constant(kind, high))
        current = following
        distance //= 2
    return current


def _emit_pack(s: Simd, pack_tile) -> None:  # type: ignore[no-untyped-def]
    """Lay weights out in the order in which tiles read them: [unit block][tile][k][unit]."""
    weights, stride, units, depth, tiles, packed, offset, whole, thread, threads = s.function.args
    block = s.target.block(s.dtype)
    blocks = s.builder.sdiv(s.add(units, block - 1), s.int(block))
    start = s.builder.sdiv(s.mul(blocks, thread), threads)
    stop = s.builder.sdiv(s.mul(blocks, s.add(thread, 1)), threads)

    def each(number: Value, _: list[Value]) -> None:
        u = s.mul(number, block)
        valid = s.min(s.sub(units, u), block)
        lanes = s.int(s.lanes)
        width = s.mul(s.builder.sdiv(s.add(valid, s.lanes - 1), lanes), lanes)
        base = s.at(packed, s.add(s.mul(u, whole), s.mul(offset, width)))

        def tile(t: Value, _: list[Value]) -> None:
            target = s.at(base, s.mul(s.mul(t, depth), width))
            pack_tile(s, weights, stride, units, depth, (t, u, valid, width), target)

        s.loop(0, tiles, 1, tile)

    s.loop(start, stop, 1, each)
    s.finish()


def _pack_units(
    s: Simd,
    weights: Value,
    stride: Value,
    units: Value,
    depth: Value,
    place: tuple[Value, Value, Value, Value],
    target: Value,
) -> None:
    """packed[k, u] = W[tile·H + u, k]: squares of lanes × lanes are transposed in registers."""
    t, u, valid, width = place
    base = s.at(weights, s.mul(s.add(s.mul(t, units), u), stride))
    last = s.sub(valid, 1)
    whole = s.mul(s.builder.sdiv(depth, s.int(s.lanes)), s.lanes)
    tail = s.dynamic_mask(s.sub(depth, whole))

    def group(lane: Value, _: list[Value]) -> None:
        rows = [s.at(base, s.mul(s.min(s.add(lane, j), last), stride)) for j in range(s.lanes)]
        out = s.at(target, lane)

        def square(k: Value, _: list[Value]) -> None:
            columns = transpose(s, [s.load(row, k) for row in rows])
            for j, column in enumerate(columns):
                s.store(column, out, s.mul(s.add(k, j), width))

        s.loop(0, whole, s.lanes, square)

        def rest(k: Value, _: list[Value]) -> None:
            columns = transpose(s, [s.load(row, k, tail) for row in rows])
            for j, column in enumerate(columns):
                at = s.add(k, j)
                s.when(s.less(at, depth), lambda c=column, at=at: s.store(c, out, s.mul(at, width)))  # type: ignore[misc]

        s.loop(whole, depth, s.lanes, rest)

    s.loop(0, valid, s.lanes, group)


def _pack_depth(
    s: Simd,
    weights: Value,
    stride: Value,
    units: Value,
    depth: Value,
    place: tuple[Value, Value, Value, Value],
    target: Value,
) -> None:
    """packed[k, u] = W[k, u]: pieces of rows, copied."""
    _, u, valid, width = place

    def row(k: Value, _: list[Value]) -> None:
        source = s.at(weights, s.add(s.mul(k, stride), u))
        out = s.at(target, s.mul(k, width))
        whole = s.mul(s.builder.sdiv(valid, s.int(s.lanes)), s.lanes)
        s.loop(0, whole, s.lanes, lambda j, _: s.store(s.load(source, j), out, j))
        tail = s.dynamic_mask(s.sub(valid, whole))
        s.loop(whole, valid, s.lanes, lambda j, _: s.store(s.load(source, j, tail), out, j))

    s.loop(0, depth, 1, row)
