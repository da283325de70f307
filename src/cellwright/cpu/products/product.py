"""Matrix products over all steps at once: what a backward walk leaves to do, in one call.

C[m, n] (+)= Σ_k A[m, k] B[k, n]. The columns of B and C lie one after another. Of A either the
depths do (a gradient of rows: the gates' gradients times weights), or the rows (a gradient of
weights: the gates' gradients, turned, times rows).

Large products of float32 go to AMX where there is one (``cellwright.cpu.products.amx_product``),
the others to vector instructions (``cellwright.cpu.products.chunks``). The loops over chunks follow
Goto & van de Geijn (2008).

A list of products is a struct of 8-byte fields: how many there are, how many threads take part, the
table of the library's functions, memory of ``scratch_size`` elements for each thread, a table of
addresses, then for each product

======  =====================================================================
0, 1    A: which of the addresses, how far from there
2, 3    distance between rows m, distance between depths k; one of the two is 1
4, 5    B: which of the addresses, how far from there
6       distance between depths k
7, 8    C: which of the addresses, how far from there
9       distance between rows m
10, 11  numbers of rows and columns
12      1 to add to C, 0 to start from 0
13      address of the depths to sum over: a table, see ``product_job``
14, 15  0, or addresses of tables if AMX takes it together with the next one
16, 17  then a row of zeros: which of the addresses, how far from there
======  =====================================================================

Distances count elements. Each thread takes a share of the rows of C.

What AMX takes together are products of the same A, such as the gradients of the input's weights and
of the state's: A is split once for both.
"""

from collections.abc import Callable
from itertools import pairwise

import llvmlite.ir as ir

from cellwright.cpu.machine.target import Target
from cellwright.cpu.products.amx_product import AMX_MEMORY, AmxChunks, Pair, Tables, amx_pays
from cellwright.cpu.products.chunks import CHUNK_MEMORY, Chunks
from cellwright.cpu.products.job import JOB, Job
from cellwright.cpu.vector.functions import Functions
from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value

__all__ = [
    "ADDRESSES",
    "FUNCTIONS",
    "HEADER",
    "MEMORY",
    "emit_products",
    "scratch_size",
    "shares_of",
]

FUNCTIONS, MEMORY, ADDRESSES, HEADER = range(2, 6)


def scratch_size(target: Target, dtype: str) -> int:
    """Return the elements of memory that a thread gathers chunks in and sums them up in."""
    return max(CHUNK_MEMORY, AMX_MEMORY) if target.has_amx(dtype) else CHUNK_MEMORY


def shares_of(rows: int, threads: int, unit: int) -> list[int]:
    """Return how many rows each thread takes, in whole units, as machine code shares them out."""
    parts = -(-rows // unit)
    bounds = [min(rows, unit * (parts * j // threads)) for j in range(threads + 1)]
    return [high - low for low, high in pairwise(bounds)]


def emit_products(target: Target, dtype: str) -> ir.Module:
    """Emit ``products(struct, thread)``."""
    module = ir.Module(f"products_{target.name}_{dtype}")
    vectors = _emit_vectors(module, target, dtype)
    s = Simd(module, "products", (POINTER, I64), target, dtype, reduces=False)
    emitter = _Products(s, vectors)
    s.loop(0, s.field(emitter.struct, 0), 1, lambda j, _: emitter.step(j))
    emitter.finish()
    return module


_VECTORS = (POINTER, I64, I64, I64, I64, I64, I64)
"""Arguments of a product by vectors: the struct, the thread, the product's first field; bounds of
rows and of columns."""


def _emit_vectors(module: ir.Module, target: Target, dtype: str) -> ir.Function:
    """Emit a product by vector instructions."""
    s = Simd(module, "vectors", _VECTORS, target, dtype, reduces=False)
    s.function.linkage = "internal"
    struct, thread, place, *bounds = s.function.args
    parts = _Parts(s, struct, thread)
    job = Job.load(s, struct, place, parts.addresses)
    row_table = s.reserve(POINTER, target.rows)
    chunks = Chunks(s, job, parts.functions, parts.memory, row_table)
    chunks.emit((bounds[0], bounds[1]), (bounds[2], bounds[3]))
    s.finish()
    return s.function


class _Parts:
    """What a list has for a thread: the library's functions, memory, addresses."""

    def __init__(self, s: Simd, struct: Value, thread: Value) -> None:
        self.functions = Functions(s, s.field(struct, FUNCTIONS, POINTER))
        offset = s.mul(thread, scratch_size(s.target, s.dtype))
        self.memory = s.at(s.field(struct, MEMORY, POINTER), offset)
        self.addresses = s.field(struct, ADDRESSES, POINTER)


class _Products:
    """Emits what a thread does of each product."""

    def __init__(self, s: Simd, vectors: ir.Function) -> None:
        self.s, self._vectors = s, vectors
        self.struct, self.thread = s.function.args
        self.threads = s.field(self.struct, 1)
        self.parts = _Parts(s, self.struct, self.thread)
        self.has_amx = s.target.has_amx(s.dtype)
        if self.has_amx:
            self.tables, self.ready = Tables(s), s.reserve(I64, 1)
            self.following = s.reserve(I64, 1)  # the next product that is not done yet
            for memory in (self.ready, self.following):
                s.builder.store(s.index(0), memory)

    def step(self, j: Value) -> None:
        """Emit the ``j``-th product, unless it was taken together with the one before."""
        s, place = self.s, self.s.add(self.s.mul(j, JOB), HEADER)
        if self.has_amx:
            due = s.less(s.field(self.following, 0), s.add(j, 1))
            s.when(due, lambda: self._with_amx(j, place))
        else:
            job = Job.load(s, self.struct, place, self.parts.addresses)
            self._by_vectors(place, self._share(job), (s.index(0), job.columns))

    def _by_vectors(
        self, place: Value, rows: tuple[Value, Value], columns: tuple[Value, Value]
    ) -> None:
        self.s.builder.call(self._vectors, [self.struct, self.thread, place, *rows, *columns])

    def _share(self, job: Job) -> tuple[Value, Value]:
        """Return the first of this thread's rows, and the one after the last.

        Rows that lie side by side are shared out in whole vectors; products that add up in one C
        are shared alike.
        """
        s, b = self.s, self.s.builder
        unit = b.select(job.crosswise(s), s.index(s.lanes), s.index(1))
        parts = b.sdiv(s.add(job.rows, s.sub(unit, 1)), unit)
        low, high = (
            s.min(job.rows, s.mul(unit, b.sdiv(s.mul(parts, s.add(self.thread, j)), self.threads)))
            for j in range(2)
        )
        return low, high

    def _with_amx(self, j: Value, place: Value) -> None:
        """Emit the loops over chunks of AMX; a product that it does not take is one chunk."""
        s, choose, addresses = self.s, self.s.builder.select, self.parts.addresses
        job = Job.load(s, self.struct, place, addresses)
        low, high = self._share(job)
        joined = s.builder.not_(s.is_null(job.joint))
        # where there is no other product, nothing is read of it
        next_place = choose(joined, s.add(place, JOB), place)
        other = Job.load(s, self.struct, next_place, addresses)
        s.builder.store(s.add(s.add(j, 1), s.builder.zext(joined, I64)), self.following)
        pays = s.builder.or_(joined, amx_pays(s, job, s.sub(high, low)))
        s.when(pays, self._set_up)
        pair = Pair(job, other, joined)
        amx = AmxChunks(s, pair, self.parts.functions, self.parts.memory, self.tables)
        sizes = zip(amx.sizes(s.sub(high, low)), (s.sub(high, low), job.columns), strict=True)
        height, width = (choose(pays, part, whole) for part, whole in sizes)

        def chunk(m: Value, n: Value) -> None:
            rows = m, s.min(high, s.add(m, height))
            columns = n, s.min(job.columns, s.add(n, width))
            left = s.builder.not_(self._if(pays, lambda: amx.emit(rows, columns)))
            s.when(left, lambda: self._by_vectors(place, rows, columns))
            every = s.index(0), other.columns
            both = s.builder.and_(left, joined)
            s.when(both, lambda: self._by_vectors(next_place, rows, every))

        def columns(n: Value, _: list[Value]) -> None:
            s.loop(low, high, height, lambda m, _: chunk(m, n))

        s.loop(0, job.columns, width, columns)

    def _if(self, condition: Value, body: Callable[[], Value]) -> Value:
        """Emit ``condition and body()``."""
        b, before = self.s.builder, self.s.builder.block
        with b.if_then(condition):
            found, inside = body(), b.block
        result = b.phi(ir.IntType(1))
        result.add_incoming(ir.Constant(ir.IntType(1), 0), before)
        result.add_incoming(found, inside)
        return result

    def _set_up(self) -> None:
        """Set AMX up, once."""
        s = self.s

        def once() -> None:
            self.parts.functions.call("setup", (), ())
            s.builder.store(s.index(1), self.ready)

        s.when(s.less(s.field(self.ready, 0), 1), once)

    def finish(self) -> None:
        """Emit the end of the function."""
        s, functions = self.s, self.parts.functions
        if self.has_amx:
            s.when(s.less(0, s.field(self.ready, 0)), lambda: functions.call("release", (), ()))
        s.finish()
