"""Threads: the OpenMP team that torch already runs.

torch ships an OpenMP library whose threads are awake whenever torch has just worked. Kernels enter
``GOMP_parallel`` of that very library, so they run on those threads and no second pool contends
with them.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import llvmlite.ir as ir
import torch

from cellwright.cpu.machine import jit
from cellwright.cpu.machine.target import Target
from cellwright.cpu.vector.simd import I32, I64, POINTER, call_pointer, reserve

__all__ = ["WALK", "Team", "team"]

WALK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
"""The type of a function that a team runs: (struct, thread)."""
_OPENMP = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


class _Process:
    """Whether this process was forked: the team's threads did not come along, and waiting hangs."""

    forked = False

    @classmethod
    def mark(cls) -> None:
        """Note the fork."""
        cls.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Process.mark)


class Team:
    """Runs a kernel once for each thread number."""

    def __init__(self, target: Target) -> None:
        entered = self._openmp(target)
        self._run = entered or self._pool
        self.at_once = entered is not None
        """Whether all threads run at the same time, so that they may wait for each other."""

    @staticmethod
    def threads() -> int:
        """Return how many threads a kernel may use: torch's setting, or 1 in a forked child."""
        return 1 if _Process.forked else torch.get_num_threads()

    def __call__(self, address: int, struct: int, threads: int, place: int = 0) -> None:
        """Run the function at ``address`` for thread numbers 0 … threads - 1.

        Args:
            address: a function (struct, thread).
            struct: what it is called with.
            threads: how many thread numbers.
            place: 0; or, for threads that wait for each other, the address of their number. A team
                that comes out smaller becomes that number: all that run then run at once.
        """
        self._run(address, struct, threads, place)

    @staticmethod
    def _openmp(target: Target) -> Callable[[int, int, int, int], None] | None:
        found = _find_openmp()
        if found is None:
            return None
        code = jit.load(target, "team", ["launch"], _emit_launch)
        kinds = [ctypes.c_void_p] * 5 + [ctypes.c_int64, ctypes.c_void_p]
        launch = ctypes.CFUNCTYPE(None, *kinds)(code.address["launch"])

        def run(address: int, struct: int, threads: int, place: int) -> None:
            launch(*found, address, struct, threads, place)

        run.code = code  # type: ignore[attr-defined]  # keeps the machine code alive
        return run

    @staticmethod
    def _pool(address: int, struct: int, threads: int, place: int) -> None:
        assert place == 0, "the pool's threads need not run at once"
        function = WALK(address)  # ctypes lets go of the interpreter's lock during the call
        jobs = [_executor(threads).submit(function, struct, i) for i in range(1, threads)]
        function(struct, 0)
        for job in jobs:
            job.result()


@lru_cache(maxsize=4)
def _executor(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="cellwright")


def _find_openmp() -> tuple[int, ...] | None:
    """Return the addresses of the OpenMP entries in the library that torch has loaded."""
    folder = Path(torch.__file__).parent / "lib"
    candidates = [
        str(p) for pattern in ("libgomp*.so*", "libiomp5*.so*") for p in folder.glob(pattern)
    ]
    maps = Path("/proc/self/maps")
    if maps.exists():
        loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "omp" in line}
        candidates = [c for c in candidates if c in loaded] + sorted(
            path for path in loaded if "libgomp" in path or "libiomp5" in path
        )
    for path in candidates:
        try:
            library = ctypes.CDLL(path)
            entries = [
                ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _OPENMP
            ]
        except (OSError, AttributeError):
            continue
        if all(entries):
            return tuple(entry for entry in entries if entry)
    return None


def _emit_launch() -> ir.Module:
    """Emit ``launch``, which enters the team, and ``member``, which each of its threads runs."""
    module = ir.Module("team")
    walk = ir.FunctionType(ir.VoidType(), [POINTER, I64])
    member = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), "member")
    b = ir.IRBuilder(member.append_basic_block("entry"))
    (shared,) = member.args

    def field(index: int, kind: ir.Type) -> ir.Value:
        place = b.gep(shared, [ir.Constant(I64, index)], source_etype=I64)
        return b.load(place, typ=kind)

    number = ir.FunctionType(I32, [])
    mine = b.sext(call_pointer(b, field(0, POINTER), number, []), I64)
    size = b.sext(call_pointer(b, field(1, POINTER), number, []), I64)
    function, struct, threads = field(2, POINTER), field(3, POINTER), field(4, I64)
    place = field(5, POINTER)
    together = b.icmp_unsigned("!=", place, ir.Constant(POINTER, None))
    fewer = b.and_(together, b.icmp_signed("<", size, threads))
    with b.if_then(fewer):
        b.store(size, place)  # each member stores the same
    threads = b.select(fewer, size, threads)
    start, head, body, done = (
        b.block,
        *(member.append_basic_block(n) for n in ("head", "body", "done")),
    )
    b.branch(head)
    b.position_at_end(head)
    thread = b.phi(I64)  # the team may come out smaller than asked for
    thread.add_incoming(mine, start)
    b.cbranch(b.icmp_signed("<", thread, threads), body, done)
    b.position_at_end(body)
    call_pointer(b, function, walk, [struct, thread])
    thread.add_incoming(b.add(thread, size), body)
    b.branch(head)
    b.position_at_end(done)
    b.ret_void()
    _emit_entry(module, member)
    return module


def _emit_entry(module: ir.Module, member: ir.Function) -> None:
    kinds = [POINTER] * 5 + [I64, POINTER]
    launch = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "launch")
    b = ir.IRBuilder(launch.append_basic_block("entry"))
    parallel, *entries = launch.args
    shared = reserve(b, I64, 6)
    for index, value in enumerate(entries):
        b.store(value, b.gep(shared, [ir.Constant(I64, index)], source_etype=I64))
    enter = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I32, I32])
    threads = b.trunc(entries[-2], I32)
    call_pointer(b, parallel, enter, [member, shared, threads, ir.Constant(I32, 0)])
    b.ret_void()


@lru_cache(maxsize=1)
def team(target: Target) -> Team:
    """Return the team of this process."""
    return Team(target)
