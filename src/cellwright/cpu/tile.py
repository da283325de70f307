"""Matrix products in registers: the functions that every kernel of a target and dtype shares.

A tile is R batch rows × V vectors of units, its accumulators in registers for the whole sum over
k; the results go to a small buffer, where a cell's equations pick them up while it is still in a
core's caches. All matrices here are addressed in elements.
"""

from collections.abc import Callable, Sequence
from functools import partial

import llvmlite.ir as ir

from cellwright.cpu.simd import I64, POINTER, Simd, Value

__all__ = ["DOT", "FEW_ROWS", "TILE", "emit_dot", "emit_tile", "groups", "put_rows"]

FEW_ROWS = 2
"""Up to so many rows, reading the weights is what a step waits for. A tile alone then has too few
sums to keep a core busy, so several are taken side by side."""

TILE = (POINTER, I64, POINTER, I64, POINTER, I64, I64, I64, I64, I64, POINTER, I64)
"""Arguments of a tile: results, row stride of the results; pointers to the rows, the distance
between their depths; weights, the distance between their depths and between tiles; depth, number of
tiles, whether to start from 0 (1) or to add (0); what to prefetch, and how many elements of it at
each k."""
DOT = (POINTER, I64, POINTER, POINTER, I64, I64, I64, I64)
"""Arguments of a dot: results, their row stride; pointers to the rows; weights as they lie, their
row stride, depth, number of units, whether to start from 0."""


def emit_tile(s: Simd, rows: int, vectors: int) -> None:
    """C[r, u] (+)= Σ_k A[r, k] W[k, u] for `count` tiles that share the rows A."""
    c, stride, row_table, along, weights, *more = s.function.args
    pitch, jump, depth, count, first, coming, pace = more
    pointers = [s.field(row_table, r, POINTER) for r in range(rows)]

    def tiles(t: Value, together: int) -> None:
        firsts = [s.at(weights, s.mul(s.add(t, j), jump)) for j in range(together)]
        soon = s.at(coming, s.mul(s.mul(t, depth), pace))
        out = s.at(c, s.mul(t, vectors * s.lanes))

        def step(k: Value, sums: list[Value]) -> list[Value]:
            if rows > FEW_ROWS:  # fewer rows only wait for memory as it is
                s.prefetch(soon, s.mul(k, pace))
            lines = [s.at(w, s.mul(k, pitch)) for w in firsts]
            columns = [s.load(line, v * s.lanes) for line in lines for v in range(vectors)]
            at = s.mul(k, along)
            for r in range(rows):
                a = s.splat(pointers[r], at)
                for v, column in enumerate(columns):
                    place = r * len(columns) + v
                    sums[place] = s.fma(column, a, sums[place])
            return sums

        width = together * vectors
        sums = _sum_depths(s, depth, rows * width, step)
        places = [
            s.at(out, s.add(s.mul(stride, r), v * s.lanes))
            for r in range(rows)
            for v in range(width)
        ]
        _accumulate(s, sums, places, first)

    def each(t: Value, _: list[Value], together: int) -> None:
        tiles(t, together)

    done = s.index(0)
    # one load of A for several tiles, and sums enough that none waits
    some = [n for n in (4, 2) if rows <= FEW_ROWS and n * rows * vectors <= s.target.registers // 2]
    if some:
        with s.builder.if_then(s.less(1, count)):
            start = s.index(0)
            for together in some:
                stop = s.builder.and_(count, s.index(-together))
                s.loop(start, stop, together, partial(each, together=together))
                start = stop
        done = s.builder.and_(count, s.index(-some[-1]))
    s.loop(done, count, 1, partial(each, together=1))
    s.finish()


_LATENCY, _MANY_SUMS = 8, 16
"""Two fused multiply-adds a cycle, four cycles each: fewer sums than the first number would wait.
From the second on, a loop counts two depths at once: some processors count where they would
multiply."""


def _sum_depths(
    s: Simd, depth: Value, size: int, step: Callable[[Value, list[Value]], list[Value]]
) -> list[Value]:
    """Return ``size`` sums over all depths, to which ``step`` adds those of one."""
    sets = max(1, -(-_LATENCY // size))
    each = 2 if size >= _MANY_SUMS else sets
    whole = s.mul(s.builder.sdiv(depth, s.index(each)), each)

    def steps(k: Value, carried: list[Value]) -> list[Value]:
        parts = [list(carried[j * size : (j + 1) * size]) for j in range(sets)]
        for j in range(each):
            parts[j % sets] = step(s.add(k, j), parts[j % sets])
        return [value for part in parts for value in part]

    merged = _merge(s, s.loop(0, whole, each, steps, [s.constant(0.0)] * (size * sets)), sets)
    if each > 1:
        merged = s.loop(whole, depth, 1, lambda k, carried: step(k, list(carried)), merged)
    return merged


def groups(s: Simd, count: Value, full: int, body: Callable[[Value, Value], None]) -> None:
    """Part rows into groups: ``body(first row, rows)`` for ``full`` ones, the last two alike.

    So neither of the last two is small.
    """
    b = s.builder
    head, inner, done = (b.append_basic_block(n) for n in ("groups", "group", "grouped"))
    before = b.block
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(s.index(0), before)
    b.cbranch(s.less(i, count), inner, done)
    b.position_at_end(inner)
    left = s.sub(count, i)
    half = b.lshr(s.add(left, 1), s.index(1))
    small = b.select(s.less(full, left), half, left)
    size = b.select(s.less(2 * full - 1, left), s.index(full), small)
    body(i, size)
    i.add_incoming(s.add(i, size), b.block)
    b.branch(head)
    b.position_at_end(done)


def put_rows(s: Simd, row_table: Value, size: Value, address: Callable[[Value], Value]) -> None:
    """Put the addresses of ``size`` rows into a table."""

    def put(j: Value, _: list[Value]) -> None:
        place = s.builder.gep(row_table, [j], source_etype=POINTER)
        s.builder.store(address(j), place)

    s.loop(0, size, 1, put)


def _merge(s: Simd, sums: Sequence[Value], sets: int) -> list[Value]:
    n = len(sums) // sets
    merged = list(sums[:n])
    for j in range(1, sets):
        merged = [
            s.builder.fadd(a, b) for a, b in zip(merged, sums[j * n : (j + 1) * n], strict=True)
        ]
    return merged


def _accumulate(s: Simd, values: list[Value], places: list[Value], first: Value) -> None:
    """Write vectors, or add them to what is there unless this is the first product."""
    fresh = s.builder.icmp_signed("!=", first, s.index(0))
    with s.builder.if_else(fresh) as (then, otherwise):
        with then:
            for value, place in zip(values, places, strict=True):
                s.store(value, place)
        with otherwise:
            for value, place in zip(values, places, strict=True):
                s.store(s.builder.fadd(s.load(place), value), place)


_STREAMS = 4
"""Rows that a dot reads at once: few enough for a processor to foresee each."""


def emit_dot(s: Simd, rows: int) -> None:
    """C[r, u] (+)= Σ_k W[u, k] A[r, k], weights as torch has them, a vector of units at a time."""
    c, c_stride, row_table, weights, stride, depth, units, first = s.function.args
    inputs = [s.field(row_table, r, POINTER) for r in range(rows)]
    streams = min(_STREAMS, s.lanes)
    ahead = s.target.dot_rows // rows  # vectors of each row at once
    tail = s.dynamic_mask(s.builder.srem(depth, s.index(s.lanes)))
    steps = [ahead * s.lanes, s.lanes]
    whole = [s.mul(s.builder.sdiv(depth, s.index(step)), step) for step in steps]

    def sums_from(u: Value) -> list[Value]:
        """Return vectors to add up: of each unit for all rows, one unit after the other."""
        last = s.sub(units, 1)  # units past the end repeat the last one; their sums are not used
        numbers = [s.min(s.add(u, j), last) for j in range(streams)]
        lines = [s.at(weights, s.mul(n, stride)) for n in numbers]

        def step(k: Value, sums: Sequence[Value], count: int, mask: Value = None) -> list[Value]:
            found = list(sums)
            for v in range(count):
                at = s.add(k, v * s.lanes)
                columns = [s.load(a, at, mask) for a in inputs]
                for j, line in enumerate(lines):
                    w = s.load(line, at, mask)
                    for r, x in enumerate(columns):
                        n = (v * streams + j) * rows + r
                        found[n] = s.fma(w, x, found[n])
            return found

        sums = [s.constant(0.0)] * (ahead * streams * rows)
        sums = s.loop(0, whole[0], steps[0], lambda k, found: step(k, found, ahead), sums)
        sums = _merge(s, sums, ahead)
        sums = s.loop(whole[0], whole[1], s.lanes, lambda k, found: step(k, found, 1), sums)
        return s.loop(whole[1], depth, s.lanes, lambda k, found: step(k, found, 1, tail), sums)

    width = rows * s.lanes  # of the sums of one unit
    memory = s.reserve(s.scalar, s.lanes * width)

    def group(u: Value, _: list[Value]) -> None:
        """Leave the sums of all units in memory, as they outnumber registers; add each one up."""

        def some(j: Value, _: list[Value]) -> None:
            for n, value in enumerate(sums_from(s.add(u, j))):
                s.store(value, s.at(memory, s.mul(j, width)), n * s.lanes)

        def row(r: Value, _: list[Value]) -> None:
            own = s.at(memory, s.mul(r, s.lanes))
            result = _transposed_sum(s, [s.load(own, j * width) for j in range(s.lanes)])
            _accumulate(s, [result], [s.at(c, s.add(u, s.mul(c_stride, r)))], first)

        s.loop(0, s.lanes, streams, some)
        s.loop(0, rows, 1, row)

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
