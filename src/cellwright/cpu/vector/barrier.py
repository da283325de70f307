"""A barrier for threads that share the units of a step: each waits until all have come.

It takes well below a microsecond where every thread has a core of its own; where one does not run,
the others soon hand their cores over to it.
"""

import ctypes
from array import array
from functools import lru_cache

import llvmlite.ir as ir

from cellwright.cpu.vector.simd import I32, I64, POINTER, Simd, Value, call_pointer

__all__ = ["barrier_memory", "emit_barrier"]

_COUNT, _ROUND, _YIELD, _SIZE = 0, 8, 16, 24
"""Fields of 8 bytes, each in a cache line of its own: threads that have come, rounds that are over,
and the address of a function that hands the core to another thread, or 0."""
_PATIENCE = 1 << 12
"""How often a thread looks before it hands its core over."""


@lru_cache(maxsize=1)
def _yield_address() -> int:
    try:
        function = ctypes.CDLL(None).sched_yield
    except (AttributeError, OSError, TypeError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def barrier_memory() -> "array[int]":
    """Return memory for the barrier of one call."""
    memory = array("q", bytes(8 * _SIZE))
    memory[_YIELD] = _yield_address()
    return memory


def emit_barrier(s: Simd, memory: Value, threads: Value) -> None:
    """Call the barrier; its function is emitted once in a module."""
    found = s.module.globals.get("barrier") or _emit(s)
    s.builder.call(found, [memory, threads])


def _emit(s: Simd) -> ir.Function:
    kind = ir.FunctionType(ir.VoidType(), [POINTER, I64])
    function = ir.Function(s.module, kind, "barrier")
    function.linkage = "internal"
    memory, threads = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))

    def at(index: int) -> Value:
        return b.gep(memory, [ir.Constant(I64, index)], source_etype=I64)

    count, rounds = at(_COUNT), at(_ROUND)
    before = b.load_atomic(rounds, "acquire", 8, typ=I64)
    earlier = b.atomic_rmw("add", count, ir.Constant(I64, 1), "acq_rel")
    last, wait, look, again, leave = (
        function.append_basic_block(n) for n in ("last", "wait", "look", "again", "leave")
    )
    b.cbranch(b.icmp_signed("==", b.add(earlier, ir.Constant(I64, 1)), threads), last, wait)
    b.position_at_end(last)
    b.atomic_rmw("xchg", count, ir.Constant(I64, 0), "release")
    b.atomic_rmw("xchg", rounds, b.add(before, ir.Constant(I64, 1)), "release")
    b.ret_void()
    b.position_at_end(wait)
    give_way = b.load(at(_YIELD), typ=POINTER)
    b.branch(look)
    b.position_at_end(look)
    looks = b.phi(I64)
    looks.add_incoming(ir.Constant(I64, 1), wait)
    now = b.load_atomic(rounds, "acquire", 8, typ=I64)
    b.cbranch(b.icmp_signed("==", now, before), again, leave)
    b.position_at_end(again)
    _pause(s, b)
    due = b.icmp_signed("==", b.and_(looks, ir.Constant(I64, _PATIENCE - 1)), ir.Constant(I64, 0))
    known = b.icmp_unsigned("!=", give_way, ir.Constant(POINTER, None))
    with b.if_then(b.and_(due, known), likely=False):
        call_pointer(b, give_way, ir.FunctionType(I32, []), [])
    looks.add_incoming(b.add(looks, ir.Constant(I64, 1)), b.block)
    b.branch(look)
    b.position_at_end(leave)
    b.ret_void()
    return function


def _pause(s: Simd, b: ir.IRBuilder) -> None:
    """Tell the core that it only waits."""
    neon = s.target.name == "neon"
    name, kinds = ("llvm.aarch64.hint", [I32]) if neon else ("llvm.x86.sse2.pause", [])
    found = s.module.globals.get(name)
    if found is None:
        found = ir.Function(s.module, ir.FunctionType(ir.VoidType(), kinds), name)
    b.call(found, [ir.Constant(I32, 1)] if neon else [])
