"""A small vector language over llvmlite's builder: loads, fused multiply-add, loops, lanes."""

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.ir as ir

from cellwright.cpu.machine.target import Target

__all__ = ["I32", "I64", "POINTER", "Simd", "Value", "call_pointer", "reserve"]

Value = Any  # llvmlite is untyped
I32 = ir.IntType(32)
I64 = ir.IntType(64)
POINTER = ir.PointerType()


class _BFloat(ir.types.Type):  # type: ignore[misc]  # llvmlite is untyped
    """LLVM's bfloat, which llvmlite lacks."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


class _Callee:
    """A loaded address with the function type that llvmlite asks of what it calls."""

    def __init__(self, pointer: Value, kind: Any) -> None:
        self.type, self.function_type = pointer.type, kind
        self.get_reference = pointer.get_reference


def call_pointer(builder: ir.IRBuilder, pointer: Value, kind: Any, args: Sequence[Value]) -> Value:
    """Call the function of type ``kind`` at a loaded address."""
    return builder.call(_Callee(pointer, kind), args)


def reserve(builder: ir.IRBuilder, kind: Any, count: int) -> Value:
    """Return the address of ``count`` elements of stack, aligned to a cache line."""
    memory = builder.alloca(ir.ArrayType(kind, count))
    memory.align = 64
    memory.type = POINTER  # llvmlite still gives allocations a typed pointer
    return memory


class Simd:
    """Emits one function over elements of ``dtype`` in vectors of ``target``'s width.

    Sizes and offsets are i64 and count elements, not bytes. No fast-math flag is ever set, so nan
    and infinity come through as IEEE 754 has them.

    ``reduces``: whether LLVM may look for cheaper addresses in all loops (strength reduction). The
    innermost ones gain by it; in a walk, around them, it takes up to a third of the time that LLVM
    needs, for nothing.
    """

    def __init__(
        self,
        module: ir.Module,
        name: str,
        arguments: Sequence[Any],
        target: Target,
        dtype: str,
        *,
        reduces: bool = True,
    ) -> None:
        self.module, self.target, self.dtype, self.reduces = module, target, dtype, reduces
        self.scalar = ir.FloatType() if dtype == "float32" else ir.DoubleType()
        self.bits = ir.IntType(32 if dtype == "float32" else 64)
        self.lanes = target.lanes(dtype)
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.integers = ir.VectorType(self.bits, self.lanes)
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self._constants: dict[str, Value] = {}

    # integers and control flow

    def index(self, value: Value) -> Value:
        """Return ``value`` as an i64."""
        return ir.Constant(I64, value) if isinstance(value, int) else value

    def add(self, a: Value, b: Value) -> Value:
        """Return a + b."""
        if isinstance(b, int) and b == 0:
            return self.index(a)
        return self.builder.add(self.index(a), self.index(b))

    def sub(self, a: Value, b: Value) -> Value:
        """Return a - b."""
        return self.builder.sub(self.index(a), self.index(b))

    def mul(self, a: Value, b: Value) -> Value:
        """Return a · b."""
        return self.builder.mul(self.index(a), self.index(b))

    def min(self, a: Value, b: Value) -> Value:
        """Return the smaller of two integers."""
        a, b = self.index(a), self.index(b)
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def whole(self, count: Value, size: int | None = None) -> Value:
        """Return how many of ``count`` elements fill whole groups of ``size``, or whole vectors."""
        each = self.index(self.lanes if size is None else size)
        return self.mul(self.builder.sdiv(self.index(count), each), each)

    def less(self, a: Value, b: Value) -> Value:
        """Return a < b as an i1."""
        return self.builder.icmp_signed("<", self.index(a), self.index(b))

    def is_null(self, pointer: Value) -> Value:
        """Return whether a pointer is null."""
        return self.builder.icmp_unsigned("==", pointer, ir.Constant(POINTER, None))

    def loop(
        self,
        start: Value,
        stop: Value,
        step: Value,
        body: Callable[[Value, list[Value]], Sequence[Value] | None],
        carry: Sequence[Value] = (),
        *,
        hot: bool = False,
    ) -> list[Value]:
        """Emit ``for i in range(start, stop, step)``; ``body(i, carried)`` returns what follows.

        ``hot``: whether LLVM may look for cheaper addresses whatever it may do in other loops.
        """
        b = self.builder
        head, inner, done = (b.append_basic_block(n) for n in ("head", "body", "done"))
        before = b.block
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(self.index(start), before)
        carried = [b.phi(v.type) for v in carry]
        for phi, value in zip(carried, carry, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(self.less(i, stop), inner, done)
        b.position_at_end(inner)
        following = body(i, carried) or ()
        i.add_incoming(self._next(i, step, self.reduces or hot), b.block)
        for phi, value in zip(carried, following, strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(done)
        return carried

    def _next(self, i: Value, step: Value, reduces: bool) -> Value:
        """Return i + step; where a loop stays as it is, as if it were anything to LLVM."""
        following = self.add(i, step)
        if reduces:
            return following
        return self.builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [following], False)

    def when(self, condition: Value, body: Callable[[], None]) -> None:
        """Emit ``if condition: body()``."""
        with self.builder.if_then(condition):
            body()

    # memory

    def at(self, pointer: Value, offset: Value) -> Value:
        """Return ``pointer`` moved by ``offset`` elements."""
        if isinstance(offset, int) and offset == 0:
            return pointer
        return self.builder.gep(pointer, [self.index(offset)], source_etype=self.scalar)

    def entry(self, pointer: Value, index: Value) -> Value:
        """Return the address of the ``index``-th 8-byte field of a struct or table of them."""
        return self.builder.gep(pointer, [self.index(index)], source_etype=I64)

    def field(self, pointer: Value, index: Value, kind: Any = I64) -> Value:
        """Load the ``index``-th 8-byte field of a struct or table of them."""
        return self.builder.load(self.entry(pointer, index), typ=kind)

    def reserve(self, kind: Any, count: int) -> Value:
        """Return ``count`` elements of stack, aligned to a cache line."""
        return reserve(self.builder, kind, count)

    def load(self, pointer: Value, offset: Value = 0, mask: Value = None) -> Value:
        """Load a vector; lanes outside ``mask`` are 0 and their memory is not touched."""
        return self.load_as(self.vector, self.scalar_bytes, self.at(pointer, offset), mask)

    def store(self, value: Value, pointer: Value, offset: Value = 0, mask: Value = None) -> None:
        """Store a vector; memory of the lanes outside ``mask`` is not touched."""
        self.store_at(value, self.scalar_bytes, self.at(pointer, offset), mask)

    def load_as(self, kind: Any, size: int, place: Value, mask: Value = None) -> Value:
        """Load a vector of another kind, whose elements have ``size`` bytes; see ``load``."""
        if mask is None:
            value = self.builder.load(place, typ=kind)
            value.align = size
            return value
        name = f"llvm.masked.load.v{self.lanes}{kind.element.intrinsic_name}.p0"
        args = [place, ir.Constant(I32, size), mask, ir.Constant(kind, None)]
        return self.call(name, kind, [POINTER, I32, mask.type, kind], args)

    def store_at(self, value: Value, size: int, place: Value, mask: Value = None) -> None:
        """Store a vector of any kind, whose elements have ``size`` bytes; see ``store``."""
        if mask is None:
            self.builder.store(value, place).align = size
            return
        name = f"llvm.masked.store.v{self.lanes}{value.type.element.intrinsic_name}.p0"
        kinds = [value.type, POINTER, I32, mask.type]
        self.call(name, ir.VoidType(), kinds, [value, place, ir.Constant(I32, size), mask])

    def prefetch(self, pointer: Value, offset: Value) -> None:
        """Ask for a cache line that will be read soon; where no memory is, nothing happens."""
        kinds = [POINTER, I32, I32, I32]
        hints = [ir.Constant(I32, n) for n in (0, 2, 1)]  # a read, to the second level, of data
        self.call("llvm.prefetch.p0", ir.VoidType(), kinds, [self.at(pointer, offset), *hints])

    def splat(self, pointer: Value, offset: Value) -> Value:
        """Load one element into every lane."""
        one = self.builder.load(self.at(pointer, offset), typ=self.scalar)
        one.align = self.scalar_bytes
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, one, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), None)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def mask(self, valid: int) -> Value:
        """Return the constant mask of the first ``valid`` lanes; None for a full vector."""
        if valid >= self.lanes:
            return None
        kind = ir.VectorType(ir.IntType(1), self.lanes)
        return ir.Constant(kind, [int(lane < valid) for lane in range(self.lanes)])

    def dynamic_mask(self, valid: Value) -> Value:
        """Return the mask of the first ``valid`` lanes, known as the kernel runs."""
        kind = ir.VectorType(I64, self.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, self.index(valid), ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), None)
        limit = self.builder.shuffle_vector(first, undefined, zeros)
        return self.builder.icmp_signed("<", ir.Constant(kind, list(range(self.lanes))), limit)

    def vectors(self, count: Value, body: Callable[[Value, Value], None]) -> None:
        """Call ``body(first, mask)`` for the vectors of ``count`` elements, the last one cut."""
        whole = self.whole(count)
        self.loop(0, whole, self.lanes, lambda k, _: body(k, None))
        tail = self.dynamic_mask(self.sub(count, whole))
        self.loop(whole, count, self.lanes, lambda k, _: body(k, tail))

    # arithmetic on vectors

    @property
    def scalar_bytes(self) -> int:
        """Size of an element in bytes."""
        return 4 if self.dtype == "float32" else 8

    @property
    def _suffix(self) -> str:
        return f"v{self.lanes}f{8 * self.scalar_bytes}"

    def constant(self, value: float) -> Value:
        """Return a vector of one number."""
        found = self._constants.get(repr(value))  # told from one another by sign too; and nan
        if found is None:
            lanes = [ir.Constant(self.scalar, float(value))] * self.lanes
            zero = repr(float(value)) == "0.0"  # which is shorter to write down, and to read
            found = ir.Constant(self.vector, None if zero else lanes)
            self._constants[repr(value)] = found
        return found

    def integer(self, value: int) -> Value:
        """Return a vector of one integer as wide as an element."""
        return ir.Constant(self.integers, [value] * self.lanes)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return a · b + c, rounded once where the machine can."""
        return self.call(f"llvm.fmuladd.{self._suffix}", self.vector, [self.vector] * 3, [a, b, c])

    def pair_fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return a · b + c where each element of a and b is a pair of bfloat16, both multiplied.

        Numbers below 1.2e-38 count as 0. See ``Target.pairs``.
        """
        pairs = ir.VectorType(_BFloat(), 2 * self.lanes)
        name = f"llvm.x86.avx512bf16.dpbf16ps.{self.target.bits}"
        factors = [self.builder.bitcast(factor, pairs) for factor in (a, b)]
        return self.call(name, self.vector, [self.vector, pairs, pairs], [c, *factors])

    def unary(self, name: str, a: Value) -> Value:
        """Call an LLVM intrinsic of one vector: sqrt, fabs, log, …."""
        return self.call(f"llvm.{name}.{self._suffix}", self.vector, [self.vector], [a])

    @property
    def estimates(self) -> bool:
        """Whether the machine has ``near_reciprocal`` for this dtype."""
        return self.target.bits == 512 and self.dtype == "float32"

    def near_reciprocal(self, a: Value) -> Value:
        """Return 1 / a to 14 bits; 0 for infinity."""
        every = ir.Constant(ir.IntType(self.lanes), -1)
        kinds = [self.vector, self.vector, every.type]
        name = f"llvm.x86.avx512.rcp14.ps.{self.target.bits}"
        return self.call(name, self.vector, kinds, [a, self.constant(0.0), every])

    @property
    def picks(self) -> bool:
        """Whether the machine has ``pick`` for this dtype."""
        return self.target.bits == 512 and self.dtype == "float32"

    def pick(self, table: Sequence[int], index: Value) -> Value:
        """Return the integers of a table of sixteen at an index, of which four bits count."""
        kind = self.integers
        numbers = ir.Constant(kind, [ir.Constant(kind.element, n) for n in table])
        name = f"llvm.x86.avx512.permvar.si.{self.target.bits}"
        return self.call(name, kind, [kind, kind], [numbers, index])

    def choose(self, comparison: str, a: Value, b: Value, yes: Value, no: Value) -> Value:
        """Return ``yes`` where a ``comparison`` b holds, else (also for nan) ``no``."""
        return self.builder.select(self.builder.fcmp_ordered(comparison, a, b), yes, no)

    def call(self, name: str, result: Any, kinds: Sequence[Any], args: Sequence[Value]) -> Value:
        """Call a function by name, declaring it once in the module."""
        found = self.module.globals.get(name)
        if found is None:
            found = ir.Function(self.module, ir.FunctionType(result, kinds), name)
        return self.builder.call(found, args)

    def call_pointer(self, pointer: Value, kinds: Sequence[Any], args: Sequence[Value]) -> None:
        """Call the void function at a loaded address."""
        call_pointer(self.builder, pointer, ir.FunctionType(ir.VoidType(), kinds), args)

    def finish(self) -> None:
        """End the function."""
        self.builder.ret_void()
