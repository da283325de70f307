"""Products with weights as they lie, which spare a call the time that packing takes.

A dot multiplies each unit's row of weights by rows and adds it up. A sweep, for one row, adds up
rows of weights themselves.
"""

from collections.abc import Callable, Sequence
from functools import partial

import llvmlite.ir as ir

from cellwright.cpu.vector.simd import I32, I64, POINTER, Simd, Value
from cellwright.cpu.vector.stored import Stored
from cellwright.cpu.vector.tile import accumulate

__all__ = ["DOT", "SWEEP", "emit_dot", "emit_sweep", "held_vectors"]

DOT = (POINTER, I64, I64, POINTER, POINTER, I64, I64, I64, I64, I64, I64, I64)
"""Arguments of a dot: results, their row stride, the distance between tiles; pointers to the rows;
weights, their row stride, the distance between tiles; depth, number of units, number of tiles;
whether to start from 0; whether the last ones come first."""
SWEEP = (POINTER, POINTER, POINTER, I64, I64, I64, I64, I64)
"""Arguments of a sweep: results; a row; weights, their row stride; depth; the first unit and one
past the last; whether the last ones come first. Units fill whole vectors, as rows of weights fill
whole cache lines."""
_TOGETHER = 4
"""Rows of weights that a dot reads at once, neighbours in memory: few enough for a processor to
foresee each, and with one row as many sums as let it keep pace with a second-level cache. A
processor foresees one straight stream further, so weights from beyond that cache are read one row
after the other, with as many sums along it."""


def held_vectors(registers: int) -> tuple[int, int]:
    """Return how many vectors of a single row a dot holds in registers while it meets all units.

    As often as the row is long enough for the first number, then for the second; what is left of it
    is read again and again.
    """
    return registers // 2, registers // 4


def emit_dot(s: Simd, rows: int, half: str = "", *, far: bool = False) -> None:
    """C[r, u] (+)= Σ_k W[u, k] A[r, k], weights as torch has them, a vector of units at a time.

    ``half``: what the weights are stored as, if not as the function's numbers. ``far``: whether
    they are read in one straight stream; one row in half precision has no other way.
    """
    _Dot(s, rows, Stored(s, half), far).emit()


class _Dot:
    def __init__(self, s: Simd, rows: int, stored: Stored, far: bool) -> None:
        self.s, self.rows, self.stored = s, rows, stored
        args = s.function.args
        self.c, self.c_stride, self.pitch, row_table = args[:4]
        self.weights, self.stride, self.jump = args[4:7]
        self.depth, self.units, self.tiles, self.first, falling = args[7:]
        self.falling = s.less(0, falling)
        self.inputs = [s.field(row_table, r, POINTER) for r in range(rows)]
        self.together, self.along = (1, _TOGETHER) if far else (min(_TOGETHER, s.lanes), 1)
        self.holds = rows == 1 and not far
        assert not (self.holds and stored.half), "what is held is read as the function's numbers"
        self.parts = s.lanes // self.together
        self.memory = s.reserve(s.vector, rows * self.parts)
        for n in range(rows * self.parts):  # lanes past the last unit: what lies there may be slow
            s.store(s.constant(0.0), self.memory, n * s.lanes)
        self.whole_depth = s.whole(self.depth)
        self.tail = s.dynamic_mask(s.sub(self.depth, self.whole_depth))

    def emit(self) -> None:
        """Emit the passes over depths that are held, for whole vectors of units, and the rest."""
        s, whole = self.s, self.s.whole(self.units)
        done: Value = s.index(0)
        for held in held_vectors(s.target.registers) if self.holds else ():
            width = held * s.lanes
            end = s.add(done, s.whole(s.sub(self.depth, done), width))
            s.loop(done, end, width, partial(self._hold, held, whole))
            done = end
        done = s.builder.select(s.less(0, whole), done, s.index(0))

        def rest(part: Value, _: list[Value]) -> None:
            """Emit whole vectors of units, then the others, of which no depth is done yet."""
            last = s.less(0, part)
            start, stop = self._choose(last, (whole, self.units), (s.index(0), whole))
            depth, first = self._choose(last, (s.index(0), self.first), (done, self._fresh(done)))
            with s.builder.if_then(s.less(depth, self.depth)):
                self._tiles(start, stop, partial(self._any, depth, first))

        s.loop(0, 2, 1, rest)
        s.finish()

    def _choose(self, condition: Value, yes: Sequence[Value], no: Sequence[Value]) -> list[Value]:
        return [self.s.builder.select(condition, a, b) for a, b in zip(yes, no, strict=True)]

    def _fresh(self, depth: Value) -> Value:
        """Return whether results still start from 0 where that many depths are done."""
        return self.s.builder.select(self.s.less(0, depth), self.s.index(0), self.first)

    def _hold(self, held: int, whole: Value, depth: Value, _: list[Value]) -> None:
        """Emit a pass over so many vectors of the row, from ``depth`` on."""
        row = [
            self.s.load(self.inputs[0], self.s.add(depth, v * self.s.lanes)) for v in range(held)
        ]
        body = partial(self._held, depth, self._fresh(depth), row)
        self._tiles(self.s.index(0), whole, body)

    def _tiles(
        self,
        start: Value,
        stop: Value,
        body: Callable[[Value, Value, Value], None],
    ) -> None:
        """Emit units of all tiles, a vector at a time: ``body(weights, unit, results)``."""
        s, choose = self.s, self.s.builder.select
        both_ends = s.add(start, s.whole(s.sub(stop, 1)))

        def tile(t: Value, _: list[Value]) -> None:
            t = choose(self.falling, s.sub(s.sub(self.tiles, 1), t), t)
            weights = self.stored.at(self.weights, s.mul(t, self.jump))
            results = s.at(self.c, s.mul(t, self.pitch))

            def group(u: Value, _: list[Value]) -> None:
                u = choose(self.falling, s.sub(both_ends, u), u)
                body(weights, u, s.at(results, u))

            s.loop(start, stop, s.lanes, group)

        s.loop(0, self.tiles, 1, tile)

    def _held(
        self,
        depth: Value,
        first: Value,
        row: Sequence[Value],
        weights: Value,
        u: Value,
        out: Value,
    ) -> None:
        """Sum a vector of units up over the depths of the row that are held."""
        s, found = self.s, []
        for j in range(0, s.lanes, self.together):
            top = s.at(weights, s.add(s.mul(s.add(u, j), self.stride), depth))
            lines = [s.at(top, s.mul(self.stride, n)) for n in range(self.together)]
            sums = [s.constant(0.0)] * self.together
            for v, x in enumerate(row):
                columns = [s.load(line, v * s.lanes) for line in lines]
                sums = [s.fma(w, x, before) for w, before in zip(columns, sums, strict=True)]
            found.append(_transposed_sum(s, sums, 1))
        accumulate(s, [_transposed_sum(s, found, self.together)], [out], first)

    def _any(self, depth: Value, first: Value, weights: Value, u: Value, out: Value) -> None:
        """Sum a vector of units up for each row over all depths from ``depth`` on."""
        s, last = self.s, self.s.sub(self.units, 1)

        def some(j: Value, _: list[Value]) -> None:
            # units past the end repeat the last one; their sums are not used
            numbers = [s.min(s.add(s.add(u, j), n), last) for n in range(self.together)]
            lines = [self.stored.at(weights, s.mul(n, self.stride)) for n in numbers]
            part = s.builder.udiv(j, s.index(self.together))
            for r, value in enumerate(self._some(depth, lines)):
                s.store(value, self.memory, s.mul(s.add(part, r * self.parts), s.lanes))

        s.loop(0, s.min(s.sub(self.units, u), s.lanes), self.together, some)

        def row(r: Value, _: list[Value]) -> None:
            sums = s.at(self.memory, s.mul(r, self.parts * s.lanes))
            found = [s.load(sums, n * s.lanes) for n in range(self.parts)]
            value = _transposed_sum(s, found, self.together)
            accumulate(s, [value], [s.at(out, s.mul(r, self.c_stride))], first)

        s.loop(0, self.rows, 1, row)

    def _some(self, depth: Value, lines: Sequence[Value]) -> list[Value]:
        """Multiply some rows of weights; return a vector of sums in parts for each row."""
        s, n = self.s, len(lines)

        def step(k: Value, sums: list[Value], mask: Value = None) -> list[Value]:
            columns = [s.load(a, k, mask) for a in self.inputs]
            weights = [self.stored.load(line, k, mask) for line in lines]
            pairs = [(w, x) for x in columns for w in weights]
            return [s.fma(w, x, before) for (w, x), before in zip(pairs, sums, strict=True)]

        def steps(k: Value, sums: list[Value]) -> list[Value]:
            places = [(s.add(k, j * s.lanes), j * size) for j in range(self.along)]
            return [v for at, j in places for v in step(at, sums[j : j + size])]

        size = n * self.rows
        sums = [s.constant(0.0)] * size
        if self.along > 1:
            width = self.along * s.lanes
            end = s.add(depth, s.whole(s.sub(self.depth, depth), width))
            sums = _folded(s, s.loop(depth, end, width, steps, sums * self.along), size)
            depth = end
        sums = s.loop(depth, self.whole_depth, s.lanes, step, sums)
        sums = s.loop(
            self.whole_depth, self.depth, s.lanes, lambda k, found: step(k, found, self.tail), sums
        )
        return [_transposed_sum(s, sums[r * n : (r + 1) * n], 1) for r in range(self.rows)]


def _folded(s: Simd, vectors: Sequence[Value], count: int) -> list[Value]:
    """Add the second half of vectors to the first until ``count`` are left."""
    current = list(vectors)
    while len(current) > count:
        half = len(current) // 2
        pairs = zip(current[:half], current[half:], strict=True)
        current = [s.builder.fadd(a, b) for a, b in pairs]
    return current


def _transposed_sum(s: Simd, vectors: Sequence[Value], distance: int) -> Value:
    """Return one vector for several: lanes so far apart or more are added up, each vector's apart.

    With all vectors that a vector has lanes, and 1, lane j of it is the sum of ``vectors[j]``.
    """
    current = list(vectors)
    while len(current) > 1:
        pairs = zip(current[::2], current[1::2], strict=True)
        current = [_exchanged_sum(s, a, b, distance) for a, b in pairs]
        distance *= 2
    return current[0]


def _exchanged_sum(s: Simd, a: Value, b: Value, distance: int) -> Value:
    """Return lanes of a where the bit is clear, of b where it is set, plus their partners."""
    lanes = range(s.lanes)
    bits = ir.Constant(
        ir.VectorType(ir.IntType(1), s.lanes), [int(n & distance > 0) for n in lanes]
    )
    partners = ir.Constant(ir.VectorType(I32, s.lanes), [n ^ distance for n in lanes])
    own, other = s.builder.select(bits, b, a), s.builder.select(bits, a, b)
    return s.builder.fadd(own, s.builder.shuffle_vector(other, other, partners))


def emit_sweep(s: Simd) -> None:
    """C[u] = Σ_k A[k] W[k, u] for one row, over as many units at once as registers hold sums of.

    So the memory of weights is read in its order, or in the opposite one.
    """
    c, row, weights, stride, depth, start, stop, falling = s.function.args
    turned, choose = s.less(0, falling), s.builder.select

    def sweeps(low: Value, high: Value, vectors: int) -> None:
        width = vectors * s.lanes

        def group(u: Value, _: list[Value]) -> None:
            u = choose(turned, s.sub(s.sub(s.add(low, high), width), u), u)
            first = s.at(weights, u)

            def step(k: Value, sums: list[Value]) -> list[Value]:
                k = choose(turned, s.sub(s.sub(depth, 1), k), k)
                line, a = s.at(first, s.mul(k, stride)), s.splat(row, k)
                return [s.fma(s.load(line, v * s.lanes), a, sums[v]) for v in range(vectors)]

            sums = s.loop(0, depth, 1, step, [s.constant(0.0)] * vectors)
            for v, value in enumerate(sums):
                s.store(value, c, s.add(u, v * s.lanes))

        s.loop(low, high, width, group)

    vectors = s.target.registers // 2
    while vectors:
        end = s.add(start, s.whole(s.sub(stop, start), vectors * s.lanes))
        sweeps(start, end, vectors)
        start, vectors = end, vectors // 2
    s.finish()
