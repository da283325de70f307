"""The products with the input of all steps, ahead of a walk, by AMX.

Beyond speed, that leaves the walk a faster clock: with many float32 multiply-adds at once Intel's
processors run slower, and for a millisecond after them.

They go panel by panel, as products after a walk do (``cellwright.cpu.amx.panel``). Weights are the
larger side, so the unit takes them as rows, which are split on the way: once for as many rows of
the input as have their planes, as columns, in a core's own cache. Results are turned as they are
written. Where some are not finite, vectors take the place of the unit, as splitting has no eye for
infinity and nan.
"""

from functools import partial

import llvmlite.ir as ir

from cellwright.cpu.amx.lines import PANEL_LINES, PANEL_SIZE, PART, PARTS, whole_block
from cellwright.cpu.amx.panel import PANEL, PANEL_SUMS, all_finite, ends_half, panels_of
from cellwright.cpu.amx.panel_rows import GATHER, SCATTER
from cellwright.cpu.amx.planes import flushing
from cellwright.cpu.vector.pack import TRANSPOSE
from cellwright.cpu.vector.simd import I32, I64, POINTER, Value
from cellwright.cpu.walk.amx_panels import Room, WeightPanels
from cellwright.cpu.walk.frame import Frame

__all__ = ["emit_amx_projection"]


def emit_amx_projection(frame: Frame) -> None:
    """Emit the products with the input of this thread's rows, or units, into ``gx``."""
    frame.functions.call("setup", (), ())
    _Projection(frame).emit()
    frame.functions.call("release", (), ())


class _Projection:
    def __init__(self, frame: Frame) -> None:
        s = self.s = frame.s
        self.frame, self.functions = frame, frame.functions
        room = self.room = Room.of(frame.program)
        self.low, high, steps = frame.ahead_of_steps()
        self.rows = s.sub(high, self.low)
        self.count = s.mul(steps, self.rows)  # all rows of all steps
        every = s.builder.select(s.is_null(frame.counts), frame.batch, s.index(1))
        # as much room for each thread as if all rows were its own
        most = s.min(panels_of(s, s.mul(steps, every)), room.at_once)
        fixed, each = (sum(room.parts(n)) for n in (0, 1))
        at = s.at(frame.input_planes, s.mul(frame.thread, s.add(s.mul(most, each - fixed), fixed)))
        places = []
        for size, more in zip(room.parts(0), room.parts(1), strict=True):
            places.append(at)
            at = s.at(at, s.add(s.mul(most, more - size), size))
        self.planes, self.split, self.sums, self.tiles, self.turned, *tables = places
        self.x_rows, self.gx_rows, self.depths, self.told, table = tables
        self.weights = WeightPanels(frame, table)
        self.control = s.reserve(I32, 2)

    def emit(self) -> None:
        """Emit the table of depths, then the products of some rows after others."""
        s, size = self.s, self.room.at_once * PANEL_LINES

        def depth(k: Value, _: list[Value]) -> None:
            """List where a depth is, once it is turned; the last stands for those in excess."""
            line = s.mul(s.min(k, self.room.depth - 1), PANEL_LINES)
            s.builder.store(s.at(self.turned, line), s.entry(self.depths, k))

        s.loop(0, self.room.lines, 1, depth)
        s.loop(0, self.count, size, lambda n, _: self._some(n, s.min(s.sub(self.count, n), size)))

    def _list_rows(self, first: Value, count: Value) -> None:
        """List where rows of x and of ``gx`` are: those of a step, then those of the next one."""
        s, b = self.s, self.s.builder
        tables = {"x": self.x_rows, "gx": self.gx_rows}
        sides = [(*self.frame.buffers[name], table) for name, table in tables.items()]

        def row(n: Value, _: list[Value]) -> None:
            number = s.add(first, n)
            t, r = b.udiv(number, self.rows), s.add(self.low, b.urem(number, self.rows))
            for base, step, apart, table in sides:
                place = s.at(base, s.add(s.mul(t, step), s.mul(r, apart)))
                s.builder.store(place, s.entry(table, n))

        s.loop(0, count, 1, row)

    def _some(self, first: Value, count: Value) -> None:
        """Multiply some rows with all weights."""
        s, panels = self.s, panels_of(self.s, count)
        self._list_rows(first, count)

        def splits() -> None:
            s.loop(0, panels, 1, lambda p, _: self._split_rows(p, count, panels))
            self._split_all("rows", self._told(s.index(0), s.index(0)), self.split)

        def lines(e: Value, _: list[Value]) -> None:
            products = partial(self._products, e, count, panels)
            flushing(s, lambda: s.loop(0, self.room.groups, 1, products), self.control)
            infinite = s.builder.not_(all_finite(s, self.sums, s.mul(panels, PANEL_SUMS)))
            s.when(infinite, lambda: self._by_vectors(e, count))
            self._write(e, count)

        flushing(s, splits, self.control)
        s.loop(0, self.weights.count, 1, lines)

    def _split_rows(self, p: Value, count: Value, panels: Value) -> None:
        """Turn a panel of rows, and split it."""
        s, room, done = self.s, self.room, self.s.mul(p, PANEL_LINES)
        rows = s.min(s.sub(count, done), PANEL_LINES)
        args = [s.entry(self.x_rows, done), rows, s.index(room.depth), self.turned]
        self.functions.call("gather", GATHER, args)

        def group(g: Value, _: list[Value]) -> None:
            planes = s.at(self.planes, s.mul(s.add(s.mul(g, panels), p), PANEL_SIZE))
            depths = s.entry(self.depths, s.mul(g, room.group))
            self._split_all("lines", [depths, *map(s.index, (0, 0)), rows, s.index(1)], planes)

        s.loop(0, room.groups, 1, group)

    def _split_all(self, name: str, side: list[Value], planes: Value) -> None:
        """Split all blocks of a panel; ``side``: arguments from the table on."""

        def block(j: Value, _: list[Value]) -> None:
            self.functions.call(name, PART, whole_block(self.s, PARTS, j, side, planes))

        self.s.loop(0, self.room.blocks, 1, block)

    def _told(self, e: Value, g: Value) -> list[Value]:
        """Write down where a group of depths of a panel of weights is; return what a split needs.

        The next split is told at the same place.
        """
        s, weights, done = self.s, self.weights, self.s.mul(g, self.room.group)
        s.builder.store(s.at(weights.address(e), done), self.told)
        depth = s.min(s.sub(self.room.depth, done), self.room.group)
        return [self.told, depth, s.index(0), weights.lines(e), weights.stride(e)]

    def _products(self, e: Value, count: Value, panels: Value, g: Value, _: list[Value]) -> None:
        """Multiply a group of depths of a panel of weights with some rows, and split the next."""
        s, b, room = self.s, self.s.builder, self.room
        odd = b.and_(s.add(s.mul(e, room.groups), g), s.index(1))
        now, then = (s.at(self.split, s.mul(x, PANEL_SIZE)) for x in (odd, s.sub(1, odd)))
        again = s.less(s.add(g, 1), room.groups)
        next_e, next_g = b.select(again, e, s.add(e, 1)), b.select(again, s.add(g, 1), s.index(0))
        due = s.less(next_e, self.weights.count)
        split = b.select(due, self.functions.pointer("rows"), ir.Constant(POINTER, None))
        side = self._told(b.select(due, next_e, e), next_g)
        rows = s.at(self.planes, s.mul(s.mul(g, panels), PANEL_SIZE))
        fresh = b.zext(s.less(g, 1), I64)
        args = [self.sums, fresh, self.tiles, now, s.index(0), rows, s.index(PANEL_SIZE)]
        args += [panels, ends_half(s, count), s.index(room.blocks), split, *side, then]
        self.functions.call("panel", PANEL, args)

    def _by_vectors(self, e: Value, count: Value) -> None:
        """Multiply all rows with a panel of weights, depth by depth.

        Sums that overflow then stay infinite. Sums in parts could do so in both directions.
        """
        s, weights, width = self.s, self.weights, self.s.index(PANEL_LINES)
        lines, depth = weights.lines(e), s.index(self.room.depth)
        args = [weights.address(e), weights.stride(e), lines, depth, self.turned, width]
        self.functions.call("transpose", TRANSPOSE, args)
        parts = range(0, PANEL_LINES, s.lanes)

        def row(n: Value, j: Value, _: list[Value]) -> None:
            x = s.field(self.x_rows, s.add(n, j), POINTER)

            def step(k: Value, sums: list[Value]) -> list[Value]:
                a, line = s.splat(x, k), s.at(self.turned, s.mul(k, PANEL_LINES))
                return [
                    s.fma(s.load(line, v), a, total) for v, total in zip(parts, sums, strict=True)
                ]

            sums = s.loop(0, depth, 1, step, [s.constant(0.0) for _ in parts])
            for v, total in zip(parts, sums, strict=True):
                s.store(total, self.tiles, s.add(s.mul(j, PANEL_LINES), v))

        def panel(n: Value, _: list[Value]) -> None:
            rows = s.min(s.sub(count, n), PANEL_LINES)
            s.loop(0, rows, 1, partial(row, n))
            sums = s.at(self.sums, s.mul(n, PANEL_SUMS // PANEL_LINES))
            self.functions.call(
                "transpose", TRANSPOSE, [self.tiles, width, rows, lines, sums, width]
            )

        s.loop(0, count, PANEL_LINES, panel)

    def _write(self, e: Value, count: Value) -> None:
        """Write the results of a panel of weights."""
        s, weights = self.s, self.weights
        biases, _, _ = self.frame.buffers["b"]  # zeros, where there are none

        def panel(n: Value, _: list[Value]) -> None:
            sums = s.at(self.sums, s.mul(n, PANEL_SUMS // PANEL_LINES))
            rows = s.entry(self.gx_rows, n), s.min(s.sub(count, n), PANEL_LINES)
            args = [sums, *rows, weights.lines(e), weights.column(e), biases]
            self.functions.call("scatter", SCATTER, args)

        s.loop(0, count, PANEL_LINES, panel)
