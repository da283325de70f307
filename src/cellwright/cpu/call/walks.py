"""Compiled walks: looked up by cell, sizes and dtype, called with addresses."""

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from cellwright.cpu.amx.unit import AMX_ROWS
from cellwright.cpu.call.library import library
from cellwright.cpu.call.team import WALK, Team, team
from cellwright.cpu.machine import jit
from cellwright.cpu.machine.memory import Shelf, spares
from cellwright.cpu.machine.target import DTYPES, host
from cellwright.cpu.products.product import (
    ADDRESSES,
    FUNCTIONS,
    MEMORY,
    emit_products,
    scratch_size,
    shares_of,
)
from cellwright.cpu.vector.barrier import barrier_memory
from cellwright.cpu.vector.functions import dot_names, stored_name
from cellwright.cpu.vector.stored import HALF_BYTES
from cellwright.cpu.walk.amx_arrangement import group_size, plane_size, table_size
from cellwright.cpu.walk.amx_panels import Room
from cellwright.cpu.walk.frame import (
    BARRIER,
    PACKED,
    PACKING,
    PLACES,
    RAW,
    REFUSED,
    ROW_DOT,
    ROWS_DOT,
    SPLIT,
    THREADS,
    WEIGHT_BYTES,
    matrices,
)
from cellwright.cpu.walk.pairs import over_pairs
from cellwright.cpu.walk.parts import packed_size
from cellwright.cpu.walk.walk import emit_walk
from cellwright.graph.schedule import Program

__all__ = [
    "Distances",
    "Layout",
    "Places",
    "Products",
    "Share",
    "Walk",
    "dense",
    "packed",
    "products",
]

Places = dict[tuple[str, int], tuple[int, int]]
"""For each name and direction, which of a call's addresses it is at, and how many elements on."""
Distances = tuple[int, int]
"""Of a buffer's elements, from step to step and from row to row."""


class Share(NamedTuple):
    """How a call is shared out: over so many threads, by its rows or by the units of each step."""

    threads: int
    by_units: bool


class Layout:
    """How the rows of a sequence lie: dense (every step has all rows) or packed.

    Attributes:
        steps: L. batch: N. rows: rows over all steps.
        counts: rows of each step, where packed. starts: where each step's rows start.
    """

    __slots__ = ("_bounds", "batch", "counts", "rows", "starts", "steps")

    def __init__(self, steps: int, batch: int, batch_sizes: Sequence[int] | None) -> None:
        self.steps, self.batch = steps, batch
        self.counts: array[int] | None = None
        self.starts: array[int] | None = None
        self.rows = steps * batch
        self._bounds: dict[int, array[int]] = {}
        if batch_sizes is not None:
            self.counts = array("q", batch_sizes)
            self.starts = array("q", accumulate(batch_sizes[:-1], initial=0))
            self.rows = sum(batch_sizes)

    def fields(self, reverse: bool, threads: int) -> tuple[int, ...]:
        """Return the first fields of a walk's struct: all that the layout decides."""
        first, delta = (self.steps - 1, -1) if reverse else (0, 1)
        tables = _address(self.starts), _address(self.counts), _address(self.bounds(threads))
        return (self.steps, first, delta, self.batch, *tables)

    def bounds(self, threads: int) -> "array[int]":
        """Return the first row of each thread; all have about the same number of steps to do."""
        found = self._bounds.get(threads)
        if found is None:  # of two threads that get here, both return the same: it is kept alive
            found = self._bounds.setdefault(threads, self._share(threads))
        return found

    def _share(self, threads: int) -> "array[int]":
        if self.counts is None or threads == 1:
            return array("q", [self.batch * i // threads for i in range(threads + 1)])
        # the rows that a step has and the next one lacks end there; the first rows are the longest
        after = [*self.counts[1:], 0]
        ending = zip(range(self.steps, 0, -1), self.counts[::-1], after[::-1], strict=True)
        lengths = (step for step, now, then in ending for _ in range(now - then))
        sums = list(accumulate(lengths, initial=0))
        cuts = [bisect_left(sums, self.rows * i / threads) for i in range(threads)]
        return array("q", [*cuts, self.batch])


@lru_cache(maxsize=1024)
def dense(steps: int, batch: int) -> Layout:
    """Return the layout of a sequence (L, N)."""
    return Layout(steps, batch, None)


@lru_cache(maxsize=16)
def packed(batch_sizes: tuple[int, ...]) -> Layout | None:
    """Return the layout of packed sequences; None if sizes rise, or reach 0, or there are none."""
    falls = all(a >= b for a, b in pairwise(batch_sizes))
    if not batch_sizes or not falls or batch_sizes[-1] <= 0:
        return None
    return Layout(len(batch_sizes), batch_sizes[0], batch_sizes)


class Products:
    """The machine code of matrix products; see ``cellwright.cpu.products.product``."""

    def __init__(self, dtype: str) -> None:
        target = host()
        names = ["products"]
        code = jit.load(target, f"products {dtype}", names, lambda: emit_products(target, dtype))
        self._code, self._address = code, code.address["products"]
        self._call = WALK(self._address)
        self._team: Team = team(target)
        self._library = library(dtype)
        self._library.need_panels()
        self._dtype, self._lanes = dtype, target.lanes(dtype)
        self._scratch, self._rooms = scratch_size(target, dtype), dict[int, tuple[Shelf, int]]()

    def need(self, rows: int | None, columns: int, threads: int, *, crosswise: bool) -> None:
        """Load the tiles that a product needs: for its columns or its threads' shares of rows.

        ``rows`` is None where each call has others.
        """
        shares: Sequence[int] = ()
        if crosswise and rows is None:
            shares = range(host().block(self._dtype))
        elif crosswise and rows is not None:
            shares = shares_of(rows, threads, self._lanes)
        self._library.need([columns, *shares])

    def run(self, struct: "array[int]", addresses: "array[int]", threads: int) -> None:
        """Compute the products that the struct lists, shared out over the threads it names.

        Args:
            struct: the list.
            addresses: what its matrices are counted from.
            threads: how many.
        """
        shelf, size = self._rooms.get(threads) or self._room(threads)
        scratch = shelf.take(size)
        struct[FUNCTIONS], struct[MEMORY] = self._library.table, scratch.address
        struct[ADDRESSES], _ = addresses.buffer_info()
        address, _ = struct.buffer_info()
        if threads == 1:
            self._call(address, 0)
        else:
            self._team(self._address, address, threads)
        shelf.put_back(scratch)

    def _room(self, threads: int) -> tuple[Shelf, int]:
        """Return where the memory that threads need is to be had, and how many elements it has."""
        size = threads * self._scratch
        found = self._rooms[threads] = spares(self._dtype).shelf(size), size
        return found


@lru_cache(maxsize=4)
def products(dtype: str) -> Products:
    """Return the matrix products of a dtype.

    Raises:
        CompileError: they cannot be compiled on this machine.
    """
    return Products(dtype)


class Walk:
    """A program's machine code.

    Args:
        program: what to compile.
        dtype: a key of ``target.DTYPES``.

    Raises:
        CompileError: it cannot be compiled on this machine.
    """

    def __init__(self, program: Program, dtype: str) -> None:
        target = host()
        self.program, self._dtype = program, dtype
        key = repr((program, dtype))
        names = ["prelude", "walk", "both"]
        self.code = jit.load(target, key, names, lambda: emit_walk(program, target, dtype))
        self._prelude, self._walk, both = (self.code.address[name] for name in names)
        self._call = WALK(both)
        self._library = library(dtype)
        stages = program.stages
        self._library.need([stage.units for stage in stages], pairs=over_pairs(program))
        self.names = [b.name for b in program.buffers]
        self.matrices = matrices(program)
        lanes = target.lanes(dtype)
        self._packed_size = packed_size(program, lanes)
        self._plane_size = plane_size(program, lanes)
        given = any(p.given for stage in stages for p in stage.products)
        self._prelude_does_more = given or bool(program.constants)  # than pack what may lie
        self._group_size, self._table_size = group_size(stages), table_size(stages)
        self.spares = spares(dtype)
        self._team: Team = team(target)

    def room(self, batch: int, share: Share, *, amx: bool) -> tuple[int, int]:
        """Return the elements of packed weights, and of the planes of rows if AMX takes them.

        Each thread's planes are on their own, behind a table.
        """
        if not amx:
            return self._packed_size, 0
        groups = batch // AMX_ROWS + 1
        more = share.threads - 1
        all_groups = groups + more * (groups if share.by_units else 1)
        return self._plane_size, self._table_size + all_groups * self._group_size

    def need_projection(self) -> None:
        """Load what AMX needs to multiply the input ahead of the walk."""
        self._library.need_panels()

    def projection_room(self, layout: Layout, share: Share) -> int:
        """Return the elements of what AMX needs to multiply the input ahead of the walk."""
        rows = layout.rows if layout.counts is None else None  # other calls have others
        return Room.of(self.program).size(rows, share.threads)

    def struct(
        self,
        layout: Layout,
        reverse: bool,
        threads: int,
        places: Places,
        direction: int,
        distances: Mapping[str, Distances],
        widths: Mapping[str, int],
        *,
        ahead: bool,
        far: bool = False,
        half: str = "",
    ) -> "array[int]":
        """Return what the machine code reads; what differs from call to call is 0.

        Args:
            layout: how the rows lie.
            reverse: walk backwards in time.
            threads: over how many threads the rows are shared out.
            places: where each buffer and each matrix, as ``weight.``, lies.
            direction: of which direction.
            distances: of each buffer.
            widths: the elements of a row of each matrix.
            ahead: take the products with the input ahead of the walk, into the buffer ``gx``.
            far: read weights as they lie in one straight stream.
            half: what weights are stored as, if not as the kernel's numbers.
        """
        struct = [*layout.fields(reverse, threads), self._library.table]
        struct += (int(ahead), threads, *[0] * (PLACES - BARRIER))
        for name in (*self.names, *(f"weight.{b}" for b in self.matrices)):
            struct += places[name, direction]
        for name in self.names:
            struct += distances[name]
        struct += [widths[name] for name in self.matrices]
        functions, packing = self._library, stored_name("pack_units", half)
        if far and not half:
            functions.need_far()
        one, two, *_ = dot_names(host(), half, far=far)
        for field, name in ((ROW_DOT, one), (ROWS_DOT, two), (PACKING, packing)):
            struct[field] = functions.number(name)
        struct[WEIGHT_BYTES] = HALF_BYTES if half else DTYPES[self._dtype]
        return array("q", struct)

    def run(self, struct: "array[int]", share: Share) -> None:
        """Run the machine code; what the struct points to must be alive."""
        threads, by_units = share
        address, _ = struct.buffer_info()
        if threads == 1:
            self._call(address, 0)
            return
        place = 0
        if by_units:
            barrier = barrier_memory()
            struct[BARRIER], _ = barrier.buffer_info()
            place = address + 8 * THREADS
        if struct[PACKED] and (self._prelude_does_more or not struct[RAW]):
            self._team(self._prelude, address, threads, place)
            struct[THREADS] = threads  # the next team may come out larger
            if struct[REFUSED]:
                struct[SPLIT] = 0
                self._team(self._prelude, address, threads, place)
                struct[THREADS] = threads
        self._team(self._walk, address, threads, place)


def _address(values: "array[int] | None") -> int:
    return 0 if values is None else values.buffer_info()[0]
