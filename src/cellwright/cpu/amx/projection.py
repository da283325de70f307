"""The products with the input of all steps, ahead of a walk, by AMX.

Steps take the place of rows. Beyond speed, that leaves the walk a faster clock: with many float32
multiply-adds at once Intel's processors run slower, and for a millisecond after them.
"""

from collections.abc import Sequence
from dataclasses import replace

from cellwright.cpu.amx.arrangement import group_size, plane_size, stage_size, table_size
from cellwright.cpu.amx.block import AmxProducts
from cellwright.cpu.amx.planes import weight_size
from cellwright.cpu.amx.unit import AMX_ROWS, ROW_PLANES
from cellwright.cpu.frame import Frame
from cellwright.cpu.projection import put_products
from cellwright.cpu.simd import Value
from cellwright.graph.schedule import Program, Stage

__all__ = ["emit_amx_projection", "input_program", "projection_room"]

_TWO = 2 * AMX_ROWS
_BYTES = 1 << 18
"""Bytes of planes of rows that are made at once: each block of weights is read for all of them."""


def input_program(program: Program) -> Program:
    """Return a program that has its products with the input alone."""
    parts = ((stage, tuple(p for p in stage.products if p.given)) for stage in program.stages)
    return replace(program, stages=tuple(replace(stage, products=part) for stage, part in parts))


def _steps(stage: Stage) -> int:
    """Return how many steps are split at once."""
    depth = max((p.depth for p in stage.products), default=1)
    return max(1, _BYTES // (2 * ROW_PLANES * depth * _TWO)) * _TWO


def _thread_size(stages: Sequence[Stage]) -> int:
    """Return the elements of a thread's table, and of the planes of the steps split at once."""
    rows = (_steps(stage) // AMX_ROWS * group_size([stage]) for stage in stages)
    return table_size(stages) + max(rows, default=0)


def projection_room(program: Program, lanes: int, threads: int) -> int:
    """Return the elements of the planes of the input's weights, and of each thread's rows."""
    part = input_program(program)
    return plane_size(part, lanes) + threads * _thread_size(part.stages)


def emit_amx_projection(frame: Frame) -> None:
    """Emit the products with the input of this thread's rows, into ``gx``."""
    _Projection(frame).emit()


class _Projection(AmxProducts):
    def __init__(self, frame: Frame) -> None:
        s, part = frame.s, input_program(frame.program)
        before = s.add(s.mul(frame.thread, _thread_size(part.stages)), plane_size(part, s.lanes))
        memory = s.at(frame.input_planes, before)
        planes = s.at(memory, table_size(part.stages))
        super().__init__(frame, part.stages, memory, planes)

    def emit(self) -> None:
        self.start()
        offset = 0
        for stage in self.arrangements:
            if stage.products:
                self._stage(stage, offset)
            offset += stage_size(stage, self.s.lanes)
        self.stop()

    def _stage(self, stage: Stage, offset: int) -> None:
        """Emit a stage's, whose planes of weights start at ``offset``."""
        s, frame = self.s, self.frame

        def row(r: Value, _: list[Value]) -> None:
            s.loop(0, frame.steps, _steps(stage), lambda t, _: self._chunk(stage, offset, r, t))

        s.loop(frame.low, frame.high, 1, row)

    def _chunk(self, stage: Stage, offset: int, r: Value, t: Value) -> None:
        """Multiply the input of a batch row, from step ``t`` on."""
        s, frame = self.s, self.frame
        x, x_step, x_row = frame.buffers["x"]
        source = s.at(x, s.mul(r, x_row))
        size = s.min(s.sub(frame.steps, t), _steps(stage))
        (vector,) = self.arrangements[stage].vectors

        def some(k: Value, _: list[Value]) -> None:
            first = s.add(t, k)
            count = s.min(s.sub(size, k), _TWO)
            rows = k, count
            self.split_rows(
                stage, vector, rows, lambda j: s.at(source, s.mul(s.add(first, j), x_step))
            )

        s.loop(0, size, _TWO, some)
        whole = weight_size(self.arrangements[stage].weight_blocks, 1) // s.lanes
        columns = tuple(stage.columns[k] for k in self.arrangements[stage].filled)

        def block(u: Value, vectors: int, valid: int) -> None:
            weights = s.at(frame.input_planes, s.add(s.mul(u, whole), offset))
            stride = len(columns) * vectors * s.lanes

            def multiply(k: Value, _: list[Value]) -> None:
                count = s.min(s.sub(size, k), _TWO)
                results = frame.tiles, stride
                self.multiply_rows(stage, weights, vectors, (k, count), results)
                steps = r, s.add(t, k), count
                put_products(frame, columns, (u, vectors, valid), steps, stride, first=True)

            s.loop(0, size, _TWO, multiply)

        frame.blocks(stage.units, block)
