"""The walk over time around a program: one function for every cell, direction and layout."""

import llvmlite.ir as ir

from cellwright.cpu.machine.target import Target
from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value
from cellwright.cpu.vector.tile import FEW_ROWS
from cellwright.cpu.walk.amx_arrangement import stage_size
from cellwright.cpu.walk.amx_block import WalkProducts
from cellwright.cpu.walk.amx_projection import emit_amx_projection
from cellwright.cpu.walk.block import Block, emit_sweeps
from cellwright.cpu.walk.equations import Equations
from cellwright.cpu.walk.frame import REFUSED, SPLIT, Frame
from cellwright.cpu.walk.parts import depths, padded
from cellwright.cpu.walk.prelude import emit_prelude
from cellwright.cpu.walk.projection import emit_projection
from cellwright.graph.schedule import Program, Read, Stage

__all__ = ["emit_walk"]


def emit_walk(program: Program, target: Target, dtype: str) -> ir.Module:
    """Emit ``prelude(struct, thread)``, ``walk(struct, thread)``, and ``both`` for one thread."""
    module = ir.Module(program.name)
    kinds = (POINTER, I64)
    prelude = Simd(module, "prelude", kinds, target, dtype, reduces=False)
    emit_prelude(Frame(prelude, program))
    walk = Simd(module, "walk", kinds, target, dtype, reduces=False)
    _Walk(Frame(walk, program)).emit()
    both = Simd(module, "both", kinds, target, dtype, reduces=False)
    both.builder.call(prelude.function, both.function.args)
    if target.has_amx(dtype):
        _emit_retry(both, prelude.function)
    both.builder.call(walk.function, both.function.args)
    both.finish()
    return module


def _emit_retry(s: Simd, prelude: ir.Function) -> None:
    """Pack again without AMX where a weight has no planes."""
    struct, _ = s.function.args

    def retry() -> None:
        s.builder.store(s.index(0), s.entry(struct, SPLIT))
        s.builder.call(prelude, s.function.args)

    s.when(s.less(0, s.field(struct, REFUSED)), retry)


class _Walk:
    def __init__(self, frame: Frame) -> None:
        self.frame, self.s, self.program = frame, frame.s, frame.program
        self.amx = WalkProducts(frame)

    def emit(self) -> None:
        """Emit the products ahead of it, and the loop over time."""
        if any(p.given for stage in self.program.stages for p in stage.products):
            self.s.when(self.s.less(0, self.frame.ahead), self._project)
        self.frame.if_amx(self.amx.start)
        self.s.loop(0, self.frame.steps, 1, lambda i, _: self._step(i))
        self.frame.if_amx(self.amx.stop)
        self.s.finish()

    def _project(self) -> None:
        """Take the products with the input ahead of the steps."""
        frame = self.frame
        frame.by_amx(lambda: emit_amx_projection(frame), lambda: emit_projection(frame), ahead=True)

    def _step(self, i: Value) -> None:
        frame, s = self.frame, self.s
        t = s.add(frame.first, s.mul(i, frame.delta))
        last = s.sub(frame.steps, 1)
        frame.places = {
            "now": frame.place(t, s.less(-1, i)),
            "before": frame.place(s.sub(t, frame.delta), s.less(0, i)),
            "after": frame.place(s.add(t, frame.delta), s.less(i, last)),
        }
        frame.end = s.min(frame.places["now"].rows, frame.high)
        odd = s.builder.trunc(s.add(i, frame.turn), ir.IntType(1))
        frame.set_run(frame.places["now"].rows)
        # every other step goes through the weights backwards: it finds what the last one read last
        frame.few = s.less(frame.batch, FEW_ROWS + 1)
        frame.downwards = s.builder.and_(odd, s.builder.or_(frame.few, frame.unpacked))
        packed = planes = 0
        for stage, depth in zip(self.program.stages, depths(self.program), strict=True):
            self._stage(stage, packed, planes)
            packed += depth * padded(stage.units, s.lanes)
            planes += stage_size(stage, s.lanes)
        once = s.builder.icmp_signed("==", frame.thread, s.index(0))
        with s.builder.if_then(s.builder.or_(frame.by_rows, once)):
            for source, target, width in self.program.finals:
                self._final(source, target, width)

    def _stage(self, stage: Stage, packed: int, planes: int) -> None:
        """Walk over blocks of units, and within a block over chunks of rows.

        The stage's packed weights start at ``packed``; where they are planes, at ``planes``.
        """
        frame, s, amx = self.frame, self.s, self.amx
        frame.if_amx(lambda: amx.split(stage))
        if any(p.transposed for p in stage.products):
            s.when(frame.raw_walk, lambda: emit_sweeps(frame, stage))

        def chunks(u: Value, vectors: int, valid: int) -> None:
            def chunk(row: Value, _: list[Value]) -> None:
                count = s.min(s.sub(frame.end, row), frame.chunk)
                block = Block(frame, stage, u, vectors, valid)

                def by_amx() -> None:
                    results = frame.tiles, block.row_size
                    amx.multiply(stage, planes, (u, vectors), (row, count), results)

                frame.by_amx(by_amx, lambda: block.multiply(packed, row, count))
                Equations(frame, stage, u, vectors, valid).emit(row, count)

            s.loop(frame.low, frame.end, frame.chunk, chunk)

        frame.blocks(stage.units, chunks)
        frame.wait()

    def _final(self, source: str, target: str, units: int) -> None:
        """Copy the rows whose sequence ends at this step."""
        frame, s = self.frame, self.s
        ending = frame.places["after"].rows
        start = s.builder.select(s.less(ending, frame.low), frame.low, ending)

        def row(r: Value, _: list[Value]) -> None:
            here, there = frame.row(Read(source), r), frame.row(Read(target), r)
            whole = units // s.lanes * s.lanes
            s.loop(0, whole, s.lanes, lambda u, _: s.store(s.load(here, u), there, u))
            if units > whole:
                mask = s.mask(units - whole)
                s.store(s.load(here, whole, mask), there, whole, mask)

        s.loop(start, frame.end, 1, row)
