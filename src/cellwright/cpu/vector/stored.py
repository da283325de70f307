"""How numbers are stored: as those that a kernel works with, or in half precision.

bfloat16 is the upper half of a float32; IEEE 754's binary16 has instructions of its own. To widen
either is exact. To narrow rounds to the nearest number, and to the even one of two.
"""

from collections.abc import Callable

import llvmlite.ir as ir

from cellwright.cpu.vector.simd import I32, I64, POINTER, Simd, Value

__all__ = ["CONVERSION", "HALF_BYTES", "Stored", "emit_narrow", "emit_widen"]

CONVERSION = (POINTER, I64)
"""Arguments of a conversion: a table of source, target and number of elements of each; how many."""
HALF_BYTES = 2
_I16 = ir.IntType(16)
_UPPER = 16  # bits of a float32 below those that bfloat16 has
_NAN = 0x7FC0  # of bfloat16


class Stored:
    """Emits what reads and writes numbers of ``half``: float16 or bfloat16; "": the function's."""

    def __init__(self, s: Simd, half: str = "") -> None:
        self.s, self.half = s, half
        self._kind = ir.VectorType(_I16, s.lanes)
        self._wide = ir.VectorType(I32, s.lanes)

    def at(self, pointer: Value, offset: Value) -> Value:
        """Return ``pointer`` moved by ``offset`` elements."""
        if not self.half:
            return self.s.at(pointer, offset)
        return self.s.builder.gep(pointer, [self.s.index(offset)], source_etype=_I16)

    def load(self, pointer: Value, offset: Value = 0, mask: Value = None) -> Value:
        """Load a vector of the function's numbers; see ``Simd.load``."""
        if not self.half:
            return self.s.load(pointer, offset, mask)
        b, place = self.s.builder, self.at(pointer, offset)
        bits = self.s.load_as(self._kind, HALF_BYTES, place, mask)
        if self.half == "float16":
            halves = b.bitcast(bits, ir.VectorType(ir.HalfType(), self.s.lanes))
            return b.fpext(halves, self.s.vector)
        return b.bitcast(b.shl(b.zext(bits, self._wide), self._integer(_UPPER)), self.s.vector)

    def store(self, value: Value, pointer: Value, offset: Value = 0, mask: Value = None) -> None:
        """Store a vector of the function's numbers, rounded; see ``Simd.store``."""
        if not self.half:
            self.s.store(value, pointer, offset, mask)
            return
        self.s.store_at(self._rounded(value), HALF_BYTES, self.at(pointer, offset), mask)

    def _rounded(self, value: Value) -> Value:
        b = self.s.builder
        if self.half == "float16":
            halves = b.fptrunc(value, ir.VectorType(ir.HalfType(), self.s.lanes))
            return b.bitcast(halves, self._kind)
        bits, upper = b.bitcast(value, self._wide), self._integer(_UPPER)
        odd = b.and_(b.lshr(bits, upper), self._integer(1))
        nearest = b.add(bits, b.add(odd, self._integer((1 << (_UPPER - 1)) - 1)))
        number = b.trunc(b.lshr(nearest, upper), self._kind)
        nan = ir.Constant(self._kind, [_NAN] * self.s.lanes)
        return b.select(b.fcmp_unordered("uno", value, value), nan, number)

    def _integer(self, value: int) -> Value:
        return ir.Constant(self._wide, [value] * self.s.lanes)


def emit_widen(s: Simd, half: str) -> None:
    """Copy arrays of half precision into arrays of float32."""
    narrow = Stored(s, half)
    _convert(s, lambda a, b, k, mask: s.store(narrow.load(a, k, mask), b, k, mask))


def emit_narrow(s: Simd, half: str) -> None:
    """Copy arrays of float32 into arrays of half precision, rounded."""
    narrow = Stored(s, half)
    _convert(s, lambda a, b, k, mask: narrow.store(s.load(a, k, mask), b, k, mask))


def _convert(s: Simd, copy: Callable[[Value, Value, Value, Value], None]) -> None:
    """Emit a conversion: ``copy(source, target, offset, mask)`` of each vector of each array."""
    table, count = s.function.args

    def array(j: Value, _: list[Value]) -> None:
        place = s.mul(j, 3)
        source, target = (s.field(table, s.add(place, n), POINTER) for n in (0, 1))
        elements = s.field(table, s.add(place, 2))
        s.vectors(elements, lambda k, mask: copy(source, target, k, mask))

    s.loop(0, count, 1, array)
    s.finish()
