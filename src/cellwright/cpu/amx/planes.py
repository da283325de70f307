"""Rows and weights as planes of bfloat16, laid out as ``cellwright.cpu.amx.unit`` multiplies them.

Each part is rounded, so what is left for the next one is half as large as if it were cut off. What
is left of numbers near the smallest ones is taken as 0, as AMX takes it.
"""

from collections.abc import Callable, Sequence

import llvmlite.ir as ir

from cellwright.cpu.amx.unit import AMX_DEPTH, AMX_ROWS, PLANE, ROW_BLOCK, WEIGHT_PLANES, emit_busy
from cellwright.cpu.vector.pack import TRANSPOSE
from cellwright.cpu.vector.simd import I32, I64, POINTER, Simd, Value

__all__ = [
    "PLANES",
    "SPLIT",
    "emit_planes",
    "emit_split",
    "finite_parts",
    "flushing",
    "paired",
    "put_planes",
    "weight_size",
]

SPLIT = (POINTER, I64, I64, POINTER, I64)
"""Arguments of a split of rows: a table of their addresses, rows, depth; planes, the distance
between those of 16 rows and of the next 16."""
PLANES = (POINTER, I64, I64, I64, POINTER, I64, I64, I64, I64, POINTER)
"""Arguments of a split of weights: weights as they lie, their row stride, units, depth; planes,
where these start within a block of units, and the blocks of depths that it has in all; the thread,
the number of threads; where to say (1) that a weight is infinite, nan or too large."""

_HALF, _HIGH = 0x8000, 0xFFFF0000
_MAGNITUDE, _QUIET = 0x7FFFFFFF, 0x00400000
_LARGE_ROW, _LARGE_WEIGHT = (127 + 90) << 23, (127 + 28) << 23
"""The bits of 2⁹⁰ and 2²⁸. Small terms of a product could overflow beyond them, with another sign
than the large one, which makes nan of infinity. So much larger numbers of rows have no planes but
the first, and such weights are refused."""


def weight_size(blocks: int, vectors: int) -> int:
    """Return the elements of the planes of so many blocks of depths and vectors of units."""
    return blocks * vectors * WEIGHT_PLANES * PLANE


def _rounded(s: Simd, x: Value) -> Value:
    """Return the bits of x to the nearest bfloat16; of the largest numbers, those of infinity."""
    bits = s.builder.bitcast(x, s.integers)
    return s.builder.and_(s.builder.add(bits, s.integer(_HALF)), s.integer(_HIGH))


def _rest(s: Simd, x: Value, bits: Value) -> Value:
    return s.builder.fsub(x, s.builder.bitcast(bits, s.vector))


def _pair(s: Simd, low: Value, high: Value) -> Value:
    """Return the bfloat16 of two depths side by side."""
    joined = s.builder.or_(s.builder.lshr(low, s.integer(16)), high)
    return s.builder.bitcast(joined, s.vector)


def _size(s: Simd, x: Value) -> Value:
    """Return the bits of |x|, which are in the order of the numbers; nan is larger than all."""
    return s.builder.and_(s.builder.bitcast(x, s.integers), s.integer(_MAGNITUDE))


def _larger(s: Simd, a: Value, b: Value) -> Value:
    """Return the larger of two vectors of integers, which are not negative."""
    return s.builder.select(s.builder.icmp_signed("<", a, b), b, a)


def _row_parts(s: Simd, x: Value) -> list[Value]:
    """Return the bits of a, of a with 0 for what is large or not finite, of b, of c."""
    b, zero = s.builder, s.integer(0)
    bits = b.bitcast(x, s.integers)
    usual = b.icmp_signed("<", _size(s, x), s.integer(_LARGE_ROW))
    quiet = b.select(b.fcmp_unordered("uno", x, x), s.integer(_QUIET), zero)
    cut = b.or_(b.and_(bits, s.integer(_HIGH)), quiet)  # rounding could make infinity
    first = b.select(usual, _rounded(s, x), cut)
    rest = b.select(usual, _rest(s, x, first), s.constant(0.0))
    second = _rounded(s, rest)
    third = b.bitcast(_rest(s, rest, second), s.integers)
    return [first, b.select(usual, first, zero), second, third]


def finite_parts(s: Simd, x: Value) -> list[Value]:
    """Return the bits of a, b and c; c is nan where x is not finite or rounds to infinity."""
    first = _rounded(s, x)
    rest = _rest(s, x, first)
    second = _rounded(s, rest)
    return [first, second, s.builder.bitcast(_rest(s, rest, second), s.integers)]


def paired(s: Simd, low: list[Value], high: list[Value]) -> list[Value]:
    """Return the planes of two vectors of depths, given their parts."""
    return [_pair(s, x, y) for x, y in zip(low, high, strict=True)]


def put_planes(s: Simd, planes: Sequence[Value], place: Value, pitch: Value) -> None:
    """Write a vector of each plane, so far apart."""
    for n, plane in enumerate(planes):
        s.store(plane, place, s.mul(pitch, n))


def flushing(s: Simd, body: Callable[[], object], memory: Value = None) -> None:
    """Take numbers near the smallest ones as 0 meanwhile: processors are slow with them.

    A loop brings two I32 of memory along, which it has reserved outside.
    """
    memory = s.reserve(I32, 2) if memory is None else memory
    changed = s.builder.gep(memory, [s.index(1)], source_etype=I32)
    flush = ir.Constant(I32, 0x8040)  # denormals are zero, flush to zero

    def control(name: str, place: Value) -> None:
        s.call(f"llvm.x86.sse.{name}", ir.VoidType(), [POINTER], [place])

    control("stmxcsr", memory)
    s.builder.store(s.builder.or_(s.builder.load(memory, typ=I32), flush), changed)
    control("ldmxcsr", changed)
    body()
    control("ldmxcsr", memory)


def _split_block(s: Simd, halves: Sequence[Value], place: Value) -> None:
    """Write the planes of a row's block of depths."""
    pitch = s.index(PLANE)
    first, *others = paired(s, *(finite_parts(s, x) for x in halves))
    put_planes(s, [first, first, *others], place, pitch)

    def again() -> None:
        put_planes(s, paired(s, *(_row_parts(s, x) for x in halves)), place, pitch)

    s.when(_reaches(s, _larger(s, *(_size(s, x) for x in halves)), _LARGE_ROW), again)


def _reaches(s: Simd, sizes: Value, limit: int) -> Value:
    """Return whether any of the integers is as large as ``limit``."""
    found = s.builder.icmp_signed(">=", sizes, s.integer(limit))
    some = s.builder.bitcast(found, ir.IntType(s.lanes))
    return s.builder.icmp_unsigned("!=", some, ir.Constant(some.type, 0))


def emit_split(s: Simd) -> None:
    """Split rows into planes."""
    table, rows, depth, target, distance = s.function.args
    whole = s.builder.and_(depth, s.index(-AMX_DEPTH))
    left = s.sub(depth, whole)
    tail = [s.dynamic_mask(s.sub(left, half)) for half in (0, s.lanes)]

    def row(r: Value, _: list[Value]) -> None:
        source, b = s.field(table, r, POINTER), s.builder
        group, within = b.lshr(r, s.index(4)), b.and_(r, s.index(AMX_ROWS - 1))
        out = s.at(target, s.add(s.mul(group, distance), s.mul(within, s.lanes)))

        def block(k: Value, masks: Sequence[Value]) -> None:
            halves = [s.load(source, s.add(k, j * s.lanes), m) for j, m in enumerate(masks)]
            _split_block(s, halves, s.at(out, s.mul(k, ROW_BLOCK // AMX_DEPTH)))

        s.loop(0, whole, AMX_DEPTH, lambda k, _: block(k, (None, None)))
        s.when(s.less(0, left), lambda: block(whole, tail))
        emit_busy(s)

    flushing(s, lambda: s.loop(0, rows, 1, row))
    s.finish()


def emit_planes(s: Simd, transposed: bool) -> None:
    """Split weights into planes: [unit block][tile][block of depths][plane][vector].

    The weights are W[u, k], or W[k, u] where ``transposed``. Each thread takes a share of the
    blocks of units. The module must have ``transpose``.
    """
    flushing(s, _Planes(s, transposed).emit)
    s.finish()


_SEGMENT = 128
"""Depths that are turned at once, into memory that stays in the first-level cache."""


class _Planes:
    def __init__(self, s: Simd, transposed: bool) -> None:
        self.s, self.transposed, self.block = s, transposed, s.target.block(s.dtype)
        self.weights, self.stride, self.units, self.depth, self.packed, *more = s.function.args
        self.offset, self.whole, self.thread, self.threads, self.refused = more
        # the bits of the largest weights that were met
        self.largest = s.reserve(s.bits, s.lanes)
        if not transposed:
            self.turned = s.reserve(s.scalar, _SEGMENT * self.block)

    def emit(self) -> None:
        """Emit the loop over this thread's blocks of units, and what was found in them."""
        s = self.s
        s.builder.store(s.integer(0), self.largest)
        blocks = s.builder.sdiv(s.add(self.units, self.block - 1), s.index(self.block))
        start, stop = (
            s.builder.sdiv(s.mul(blocks, s.add(self.thread, j)), self.threads) for j in range(2)
        )
        s.loop(start, stop, 1, lambda n, _: self._units(s.mul(n, self.block)))
        largest = s.builder.load(self.largest, typ=s.integers)
        with s.builder.if_then(_reaches(s, largest, _LARGE_WEIGHT)):
            s.builder.store(s.index(1), self.refused)

    def _units(self, u: Value) -> None:
        """Emit a block of units, some depths at a time."""
        s = self.s
        valid = s.min(s.sub(self.units, u), self.block)
        vectors = s.builder.sdiv(s.add(valid, s.lanes - 1), s.index(s.lanes))
        out = s.at(self.packed, s.mul(s.mul(u, self.whole), weight_size(1, 1) // s.lanes))
        out = s.at(out, s.mul(s.mul(self.offset, vectors), weight_size(1, 1)))

        def segment(k: Value, _: list[Value]) -> None:
            size = s.min(s.sub(self.depth, k), _SEGMENT)
            if self.transposed:
                source, stride = s.at(self.weights, s.add(s.mul(k, self.stride), u)), self.stride
            else:
                lines = s.at(self.weights, s.add(s.mul(u, self.stride), k))
                source, stride = self.turned, s.index(self.block)
                args = [lines, self.stride, valid, size, source, stride]
                s.call("transpose", ir.VoidType(), TRANSPOSE, args)
            place = s.at(out, s.mul(s.mul(k, vectors), weight_size(1, 1) // AMX_DEPTH))
            self._segment((source, stride), size, valid, vectors, place)

        s.loop(0, self.depth, _SEGMENT, segment)

    def _segment(
        self, rows: tuple[Value, Value], size: Value, valid: Value, vectors: Value, place: Value
    ) -> None:
        """Emit depths that lie in rows: address and distance."""
        s, pitch = self.s, self.s.mul(vectors, PLANE)
        source, stride = rows

        def vector(v: Value, _: list[Value]) -> None:
            first = s.mul(v, s.lanes)
            mask = s.dynamic_mask(s.sub(valid, first))
            none = ir.Constant(mask.type, [0] * s.lanes)

            def pair(j: Value, k: Value) -> None:
                halves = []
                for half in (0, s.lanes):
                    at = s.add(s.add(k, j), half)
                    own = s.builder.select(s.less(at, size), mask, none)  # beyond them, 0
                    halves.append(s.load(source, s.add(s.mul(at, stride), first), own))
                blocks = s.mul(s.builder.sdiv(k, s.index(AMX_DEPTH)), WEIGHT_PLANES)
                at = s.add(s.mul(pitch, blocks), s.mul(v, PLANE))
                self._put(halves, s.at(place, s.add(at, s.mul(j, s.lanes))), pitch)

            def block(k: Value, _: list[Value]) -> None:
                s.loop(0, s.lanes, 1, lambda j, _: pair(j, k))

            s.loop(0, size, AMX_DEPTH, block)

        s.loop(0, vectors, 1, vector)

    def _put(self, halves: Sequence[Value], place: Value, pitch: Value) -> None:
        """Write the planes of a pair of depths."""
        s = self.s
        put_planes(s, paired(s, *(finite_parts(s, x) for x in halves)), place, pitch)
        here = _larger(s, *(_size(s, x) for x in halves))
        before = s.builder.load(self.largest, typ=s.integers)
        s.builder.store(_larger(s, before, here), self.largest)
