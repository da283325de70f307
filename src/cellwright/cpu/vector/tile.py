"""Matrix products in registers: the functions that every kernel of a target and dtype shares.

A tile is R batch rows × V vectors of units, its accumulators in registers for the whole sum over
k; the results go to a small buffer, where a cell's equations pick them up while it is still in a
core's caches. All matrices here are addressed in elements.
"""

from collections.abc import Callable, Sequence
from functools import partial

from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value

__all__ = ["FEW_ROWS", "TILE", "accumulate", "emit_tile", "groups", "put_rows"]

FEW_ROWS = 2
"""Up to so many rows, reading the weights is what a step waits for. A tile alone then has too few
sums to keep a core busy, so several are taken side by side."""

_ASKED = 2
"""Cache lines that a tile asks for at each depth: as many as it has to with eight rows or more,
which take it in two groups or more. Only large weights gain by it, up to a fifth of the time."""

TILE = (POINTER, I64, POINTER, I64, POINTER, I64, I64, I64, I64, I64, I64, POINTER, I64)
"""Arguments of a tile: results, row stride of the results; pointers to the rows, the distance
between their depths; weights, the distance between their depths and between tiles; depth, how many
depths are summed up before that is added to the results, number of tiles, whether to start from 0
(1) or to add (0); what to prefetch, and how many elements of it at each k."""


def emit_tile(s: Simd, rows: int, vectors: int, *, pairs: bool = False) -> None:
    """C[r, u] (+)= Σ_k A[r, k] W[k, u] for `count` tiles that share the rows A.

    ``pairs``: whether each element of A and W is a pair of bfloat16, of two depths.
    """
    multiply = s.pair_fma if pairs else s.fma
    c, stride, row_table, along, weights, *more = s.function.args
    pitch, jump, depth, run, count, first, coming, pace = more
    pointers = [s.field(row_table, r, POINTER) for r in range(rows)]

    def tiles(t: Value, together: int) -> None:
        firsts = [s.at(weights, s.mul(s.add(t, j), jump)) for j in range(together)]
        soon = s.at(coming, s.mul(s.mul(t, depth), pace))
        out = s.at(c, s.mul(t, vectors * s.lanes))

        def step(k: Value, sums: list[Value]) -> list[Value]:
            if rows > FEW_ROWS:  # fewer rows only wait for memory as it is
                _ask(s, s.at(soon, s.mul(k, pace)), pace)
            lines = [s.at(w, s.mul(k, pitch)) for w in firsts]
            columns = [s.load(line, v * s.lanes) for line in lines for v in range(vectors)]
            at = s.mul(k, along)
            for r in range(rows):
                a = s.splat(pointers[r], at)
                for v, column in enumerate(columns):
                    place = r * len(columns) + v
                    sums[place] = multiply(column, a, sums[place])
            return sums

        width = together * vectors
        places = [
            s.at(out, s.add(s.mul(stride, r), v * s.lanes))
            for r in range(rows)
            for v in range(width)
        ]

        def piece(start: Value, _: list[Value]) -> None:
            bounds = start, s.min(depth, s.add(start, run))
            sums = _sum_depths(s, bounds, rows * width, step)
            accumulate(s, sums, places, s.builder.select(s.less(0, start), s.index(0), first))

        once = s.builder.select(s.less(depth, 1), s.index(1), depth)  # no depths: sums are 0
        s.loop(0, once, run, piece)

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


def _ask(s: Simd, start: Value, count: Value) -> None:
    """Prefetch so many elements, as far as a tile asks for cache lines."""
    part = s.builder.sdiv(count, s.index(_ASKED))
    for j in range(_ASKED):
        s.prefetch(start, s.mul(part, j))


_LATENCY, _MANY_SUMS = 8, 16
"""Two fused multiply-adds a cycle, four cycles each: fewer sums than the first number would wait.
From the second on, a loop counts two depths at once: some processors count where they would
multiply."""


def _sum_depths(
    s: Simd,
    bounds: tuple[Value, Value],
    size: int,
    step: Callable[[Value, list[Value]], list[Value]],
) -> list[Value]:
    """Return ``size`` sums over the depths within ``bounds``, to which ``step`` adds one's."""
    sets = max(1, -(-_LATENCY // size))
    each = 2 if size >= _MANY_SUMS else sets
    start, stop = bounds
    whole = s.add(start, s.whole(s.sub(stop, start), each))

    def steps(k: Value, carried: list[Value]) -> list[Value]:
        parts = [list(carried[j * size : (j + 1) * size]) for j in range(sets)]
        for j in range(each):
            parts[j % sets] = step(s.add(k, j), parts[j % sets])
        return [value for part in parts for value in part]

    merged = _merge(s, s.loop(start, whole, each, steps, [s.constant(0.0)] * (size * sets)), sets)
    if each > 1:
        merged = s.loop(whole, stop, 1, lambda k, carried: step(k, list(carried)), merged)
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


def accumulate(s: Simd, values: list[Value], places: list[Value], first: Value) -> None:
    """Write vectors, or add them to what is there unless this is the first product."""
    fresh = s.builder.icmp_signed("!=", first, s.index(0))
    with s.builder.if_else(fresh) as (then, otherwise):
        with then:
            for value, place in zip(values, places, strict=True):
                s.store(value, place)
        with otherwise:
            for value, place in zip(values, places, strict=True):
                s.store(s.builder.fadd(s.load(place), value), place)
