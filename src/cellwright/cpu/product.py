"""Matrix products over all steps at once: what a backward walk leaves to do, in one call.

C[m, n] (+)= Σ_k A[m, k] B[k, n]. The columns of B and C lie one after another. Of A either the
depths do (a gradient of rows: the gates' gradients times weights), or the rows (a gradient of
weights: the gates' gradients, turned, times rows). One side of a tile is a vector of columns, the
other a few rows: B and A in the first case. In the second they change places, for the gates are
the wider side, and C is turned as it is written.

Both sides are packed a chunk at a time into memory that stays in the second-level cache, and the
tiles of the walks multiply them: A and B chunked in three loops, as Goto & van de Geijn (2008)
arrange them.

A list of products is a struct of 8-byte fields: how many there are, how many threads take part, the
table of the library's functions, memory of ``SCRATCH`` elements for each thread, then for each
product

====  =====================================================================
0–2   A: address, distance between rows m, distance between depths k; one of the two is 1
3, 4  B: address, distance between depths k
5, 6  C: address, distance between rows m
7, 8  numbers of rows and columns
9     1 to add to C, 0 to start from 0
10    address of the depths to sum over: a table, see ``depth_table``
====  =====================================================================

Distances count elements. Each thread takes a share of the rows of C.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import llvmlite.ir as ir

from cellwright.cpu.library import library_names
from cellwright.cpu.pack import TRANSPOSE
from cellwright.cpu.simd import I64, POINTER, Simd, Value
from cellwright.cpu.target import Target
from cellwright.cpu.tile import TILE, groups, put_rows

__all__ = ["HEADER", "JOB", "MEMORY", "SCRATCH", "TABLE", "depth_table", "emit_products"]

HEADER, JOB = 4, 11
TABLE, MEMORY = 2, 3
_DEPTH, _WIDE, _ROWS = 128, 256, 192
"""Depths, vector columns and rows of a chunk: all three of its matrices take half a megabyte."""
_SLACK = 16
"""A packed row of depths is so much longer: whole vectors are written, the last one beyond it."""
_SIDES = (_DEPTH * _WIDE, _ROWS * (_DEPTH + _SLACK))
assert sum(_SIDES) >= _WIDE * (_ROWS + _SLACK), "there is room to turn a chunk's sums"
SCRATCH = sum(_SIDES) + _ROWS * _WIDE
"""Elements of memory that a thread packs chunks in and sums them up in."""


def depth_table(runs: Iterable[tuple[int, int, int]]) -> "array[int]":
    """Return the depths that a product sums over, as machine code reads them.

    Runs of depths are cut and gathered into groups, which are summed up at once. The table has the
    number of groups, then for each group its depths, the number of its runs, and each run.

    Args:
        runs: (first depth in A, first depth in B, how many) of successive depths.
    """
    cut: list[list[int]] = [[]]
    room = _DEPTH
    for from_a, from_b, count in runs:
        done = 0
        while done < count:
            if room == 0:
                cut.append([])
                room = _DEPTH
            size = min(count - done, room)
            cut[-1] += (from_a + done, from_b + done, size)
            done += size
            room -= size
    table = array("q", (len(cut),))
    for group in cut:
        table.extend((sum(group[2::3]), len(group) // 3, *group))
    return table


def emit_products(target: Target, dtype: str) -> ir.Module:
    """Emit ``products(struct, thread)``."""
    module = ir.Module(f"products_{target.name}_{dtype}")
    s = Simd(module, "products", (POINTER, I64), target, dtype)
    struct, thread = s.function.args
    threads, table = s.field(struct, 1), s.field(struct, TABLE, POINTER)
    memory = s.at(s.field(struct, MEMORY, POINTER), s.mul(thread, SCRATCH))
    row_table = s.reserve(POINTER, target.rows)

    def job(j: Value, _: list[Value]) -> None:
        place = s.add(s.mul(j, JOB), HEADER)
        kinds = dict.fromkeys((0, 3, 5, 10), POINTER)
        fields = [s.field(struct, s.add(place, k), kinds.get(k, I64)) for k in range(JOB)]
        _Product(s, fields, (table, memory, row_table)).emit(thread, threads)

    s.loop(0, s.field(struct, 0), 1, job)
    s.finish()
    return module


@dataclass
class _Side:
    """One side of a product: its matrix, and which of its lines this thread takes."""

    base: Value
    depth: Value  # distance between depths
    low: Value
    high: Value
    run: Value  # which number of a run is this side's first depth


@dataclass
class _Coming:
    """What is packed next: addresses on both sides; rows of ``length``, so far apart, on one."""

    wide: Value
    rows: Value
    distance: Value
    length: Value


class _Product:
    """Emits one product."""

    def __init__(self, s: Simd, fields: list[Value], places: tuple[Value, Value, Value]) -> None:
        self.s, self.fields = s, fields
        self.table, memory, self.row_table = places
        self.wide_memory = memory
        self.row_memory = s.at(memory, _SIDES[0])
        self.sums = s.at(memory, sum(_SIDES))
        self.turned = s.builder.icmp_signed("==", fields[1], s.index(1))

    def emit(self, thread: Value, threads: Value) -> None:
        """Emit the loops over chunks of both sides."""
        s, choose = self.s, self.s.builder.select
        a, _, a_depth, b, b_depth, _, _, rows, columns, _, _ = self.fields
        # shares of the wide side are whole vectors
        unit = choose(self.turned, s.index(s.lanes), s.index(1))
        parts = s.builder.sdiv(s.add(rows, s.sub(unit, 1)), unit)
        low, high = (
            s.min(rows, s.mul(unit, s.builder.sdiv(s.mul(parts, s.add(thread, j)), threads)))
            for j in range(2)
        )
        zero, one = s.index(0), s.index(1)
        own, other = (a, a_depth, low, high, zero), (b, b_depth, zero, columns, one)
        pairs = list(zip(own, other, strict=True))
        self.wide = _Side(*(choose(self.turned, x, y) for x, y in pairs))
        self.rows = _Side(*(choose(self.turned, y, x) for x, y in pairs))

        def chunk(w: Value, r: Value) -> None:
            self._chunk(w, s.min(_WIDE, s.sub(self.wide.high, w)), r)

        def rows_of(w: Value, _: list[Value]) -> None:
            s.loop(self.rows.low, self.rows.high, _ROWS, lambda r, _: chunk(w, r))

        s.loop(self.wide.low, self.wide.high, _WIDE, rows_of)

    def _chunk(self, w: Value, width: Value, r: Value) -> None:
        """Sum a chunk up over all groups of depths, and write it."""
        s, table = self.s, self.fields[-1]
        count = s.min(_ROWS, s.sub(self.rows.high, r))
        self.block = s.target.block(s.dtype)
        self.full = s.builder.sdiv(width, s.index(self.block))
        rest = s.sub(width, s.mul(self.full, self.block))
        self.rest = s.builder.sdiv(s.add(rest, s.lanes - 1), s.index(s.lanes))  # in vectors
        self.stride = s.add(s.mul(self.full, self.block), s.mul(self.rest, s.lanes))

        def group(j: Value, carried: list[Value]) -> list[Value]:
            (place,) = carried
            depth, runs = s.field(table, place), s.field(table, s.add(place, 1))
            first_run = s.builder.gep(table, [s.add(place, 2)], source_etype=I64)

            def run(k: Value, done: list[Value]) -> list[Value]:
                numbers = s.builder.gep(first_run, [s.mul(k, 3)], source_etype=I64)
                size = s.field(numbers, 2)
                self._pack_wide(w, width, depth, numbers, size, done[0])
                self._pack_rows(r, count, numbers, size, done[0])
                return [s.add(done[0], size)]

            s.loop(0, runs, 1, run, [s.index(0)])
            last = s.builder.gep(first_run, [s.mul(s.sub(runs, 1), 3)], source_etype=I64)
            more = s.less(s.add(j, 1), s.field(table, 0))
            coming = self._coming(w, r, count, last, more)
            self._multiply(count, depth, s.builder.zext(s.less(j, 1), I64), coming)
            return [s.add(s.add(place, 2), s.mul(runs, 3))]

        s.loop(0, s.field(table, 0), 1, group, [s.index(1)])
        with s.builder.if_else(self.turned) as (then, otherwise):
            with then:
                self._write_turned(w, width, r, count)
            with otherwise:
                self._write(self.sums, self.stride, (r, count), (w, width))

    def _pack_wide(
        self, w: Value, width: Value, depth: Value, run: Value, size: Value, done: Value
    ) -> None:
        """Lay a run's depths of the wide side out as tiles read them: [block][depth][column]."""
        s, side, block = self.s, self.wide, self.block
        source = s.at(side.base, s.add(w, s.mul(s.field(run, side.run), side.depth)))
        panel = s.mul(depth, block)
        beyond = s.mul(self.full, block)
        tail = s.mul(self.rest, s.lanes)

        def copy(k: Value, _: list[Value]) -> None:
            line, row = s.at(source, s.mul(k, side.depth)), s.add(done, k)

            def whole(p: Value, _: list[Value]) -> None:
                out = s.at(self.wide_memory, s.add(s.mul(p, panel), s.mul(row, block)))
                start = s.at(line, s.mul(p, block))
                for v in range(s.target.vectors):
                    s.store(s.load(start, v * s.lanes), out, v * s.lanes)

            s.loop(0, self.full, 1, whole)
            out = s.at(self.wide_memory, s.add(s.mul(self.full, panel), s.mul(row, tail)))

            def last(v: Value, _: list[Value]) -> None:
                at = s.add(beyond, v)
                mask = s.dynamic_mask(s.sub(width, at))
                s.store(s.load(line, at, mask), out, v)

            s.loop(0, tail, s.lanes, last)

        s.loop(0, size, 1, copy)

    def _pack_rows(self, r: Value, count: Value, run: Value, size: Value, done: Value) -> None:
        """Lay a run's depths of the narrow side out as rows."""
        s, side, stride = self.s, self.rows, _DEPTH + _SLACK
        first = s.field(run, side.run)
        target = s.at(self.row_memory, done)

        with s.builder.if_else(self.turned) as (then, otherwise):
            with then:
                source = s.at(side.base, s.add(r, s.mul(first, side.depth)))
                self._transpose(source, side.depth, (size, count), target, stride)
            with otherwise:
                distance = self.fields[1]

                def copy(j: Value, _: list[Value]) -> None:
                    line = s.at(side.base, s.add(s.mul(s.add(r, j), distance), first))
                    out = s.at(target, s.mul(j, stride))
                    s.vectors(size, lambda k, mask: s.store(s.load(line, k, mask), out, k))

                s.loop(0, count, 1, copy)

    def _coming(self, w: Value, r: Value, count: Value, run: Value, more: Value) -> _Coming:
        """Say where the depths after a group's last run are; after the last group, other rows."""
        s, choose = self.s, self.s.builder.select
        wide, rows, distance = self.wide, self.rows, self.fields[1]
        after = [s.add(s.field(run, side.run), s.field(run, 2)) for side in (wide, rows)]
        turned = s.add(r, s.mul(after[1], rows.depth))
        row = choose(more, r, s.add(r, count))
        straight = s.add(s.mul(row, distance), choose(more, after[1], s.index(0)))
        return _Coming(
            s.at(wide.base, s.add(w, s.mul(after[0], wide.depth))),
            s.at(rows.base, choose(self.turned, turned, straight)),
            choose(self.turned, rows.depth, distance),
            choose(self.turned, count, s.index(_DEPTH)),
        )

    def _prefetch(self, coming: _Coming, start: Value, stop: Value, count: Value) -> None:
        """Ask for a share of what is packed next: packing would wait for memory."""
        s, choose, element = self.s, self.s.builder.select, 64 // self.s.scalar_bytes
        depths = [s.builder.sdiv(s.mul(i, _DEPTH), count) for i in (start, stop)]
        own = [choose(self.turned, k, i) for k, i in zip(depths, (start, stop), strict=True)]

        def lines(source: Value, distance: Value, length: Value, among: list[Value]) -> None:
            def line(k: Value, _: list[Value]) -> None:
                place = s.at(source, s.mul(k, distance))
                s.loop(0, length, element, lambda j, _: s.prefetch(place, j))

            s.loop(among[0], among[1], 1, line)

        lines(coming.wide, self.wide.depth, self.stride, depths)
        lines(coming.rows, coming.distance, coming.length, own)

    def _multiply(self, count: Value, depth: Value, first: Value, coming: _Coming) -> None:
        """Multiply what is packed."""
        s, block = self.s, self.block
        beyond = s.mul(self.full, block)
        rest = s.at(self.wide_memory, s.mul(beyond, depth))

        def tiles(vectors: Value, size: Value, out: Value, weights: Value, number: Value) -> None:
            index = s.add(s.mul(s.sub(vectors, 1), s.target.rows), s.sub(size, 1))
            function = s.field(self.table, index, POINTER)
            args = [out, self.stride, self.row_table, weights, depth, number, first, weights]
            s.call_pointer(function, TILE, [*args, s.index(0)])

        def group(i: Value, size: Value) -> None:
            self._prefetch(coming, i, s.add(i, size), count)
            rows = s.at(self.row_memory, s.mul(i, _DEPTH + _SLACK))
            put_rows(s, self.row_table, size, lambda j: s.at(rows, s.mul(j, _DEPTH + _SLACK)))
            out = s.at(self.sums, s.mul(i, self.stride))
            whole = s.index(s.target.vectors)
            s.when(
                s.less(0, self.full),
                lambda: tiles(whole, size, out, self.wide_memory, self.full),
            )
            s.when(
                s.less(0, self.rest),
                lambda: tiles(self.rest, size, s.at(out, beyond), rest, s.index(1)),
            )

        groups(s, count, group)

    def _transpose(
        self, source: Value, stride: Value, shape: tuple[Value, Value], target: Value, to: int
    ) -> None:
        """Turn a matrix of ``shape``; rows of the result lie ``to`` elements apart."""
        s = self.s
        index = library_names(s.target).index("transpose")
        args = [source, stride, *shape, target, s.index(to)]
        s.call_pointer(s.field(self.table, index, POINTER), TRANSPOSE, args)

    def _write_turned(self, w: Value, width: Value, r: Value, count: Value) -> None:
        """Write a chunk's columns as rows of C, by way of the memory that was packed in."""
        turned, stride = self.wide_memory, _ROWS + _SLACK
        self._transpose(self.sums, self.stride, (count, width), turned, stride)
        self._write(turned, self.s.index(stride), (w, width), (r, count))

    def _write(
        self, source: Value, stride: Value, rows: tuple[Value, Value], columns: tuple[Value, Value]
    ) -> None:
        """Write a matrix to C, or add it to what is there; ``rows``, ``columns``: first, number."""
        s = self.s

        def put(k: Value, mask: Value, line: Value, place: Value) -> None:
            at, values = s.at(place, k), s.load(line, k)
            with s.builder.if_else(s.less(0, self.fields[9])) as (then, otherwise):
                with then:
                    s.store(s.builder.fadd(s.load(at, 0, mask), values), at, 0, mask)
                with otherwise:
                    s.store(values, at, 0, mask)

        def row(j: Value, _: list[Value]) -> None:
            line = s.at(source, s.mul(j, stride))
            start = s.add(s.mul(s.add(rows[0], j), self.fields[6]), columns[0])
            place = s.at(self.fields[5], start)
            s.vectors(columns[1], lambda k, mask: put(k, mask, line, place))

        s.loop(0, rows[1], 1, row)
