"""The products with the input of all steps, ahead of a walk, in tiles of vectors.

With few rows a step reads all weights for little work. The products with the input do not wait for
the step before, so they are taken ahead, several steps at a time, and read their weights once.
"""

from cellwright.cpu.vector.simd import Value
from cellwright.cpu.vector.tile import groups, put_rows
from cellwright.cpu.walk.frame import Frame
from cellwright.cpu.walk.parts import Part, depths, padded, split
from cellwright.graph.schedule import Stage

__all__ = ["emit_projection"]

_UnitBlock = tuple[Value, int, int]
"""A block of units: the first, how many vectors, how many units exist."""


def emit_projection(frame: Frame) -> None:
    """Emit the products with the input of this thread's rows, into ``gx``."""
    offset = 0
    for stage, whole in zip(frame.program.stages, depths(frame.program), strict=True):
        if any(p.given for p in stage.products):
            _project_stage(frame, stage, offset, whole)
        offset += whole * padded(stage.units, frame.s.lanes)


def _project_stage(frame: Frame, stage: Stage, offset: int, whole: int) -> None:
    """Emit a stage's, whose packed weights start at ``offset`` and are ``whole`` deep."""
    s = frame.s

    def block(u: Value, vectors: int, valid: int) -> None:
        base = s.at(frame.packed, s.add(s.mul(u, whole), offset))
        start = 0
        for part in split(stage):
            p, width = part.product, vectors * s.lanes
            weights = s.at(base, start * width)
            start += p.depth * p.count
            if p.given:
                columns = stage.columns[p.tile : p.tile + p.count]
                _project_rows(frame, part, columns, weights, (u, vectors, valid))

    frame.blocks(stage.units, block)


def _project_rows(
    frame: Frame, part: Part, columns: tuple[int, ...], weights: Value, block: _UnitBlock
) -> None:
    """Multiply the rows of successive steps, for one batch row after the other."""
    s, p = frame.s, part.product
    low, high, steps = frame.ahead_of_steps()
    _, vectors, _ = block
    stride = p.count * vectors * s.lanes
    frame.set_run(s.mul(frame.batch, steps))
    x, x_step, x_row = frame.buffers["x"]

    def row(r: Value, _: list[Value]) -> None:
        source = s.at(x, s.add(s.mul(r, x_row), p.source.column))

        def group(t: Value, size: Value) -> None:
            put_rows(s, frame.row_table, size, lambda j: s.at(source, s.mul(s.add(t, j), x_step)))
            product, rows = (weights, p.depth, p.count), (frame.row_table, size)
            share = t, steps
            frame.tile_call(vectors, frame.tiles, stride, product, s.index(1), rows, share)
            _put_products(frame, columns, block, (r, t, size), stride, first=part.first)

        groups(s, steps, s.target.rows, group)

    s.loop(low, high, 1, row)


def _put_products(
    frame: Frame,
    columns: tuple[int, ...],
    block: _UnitBlock,
    steps: tuple[Value, Value, Value],
    stride: int,
    *,
    first: bool,
) -> None:
    """Write tiles, rows ``stride`` apart, to ``gx``: with the biases if ``first``, or added to it.

    ``columns``: of each tile. ``steps``: of a batch row from a step on, so many.
    """
    s, (u, vectors, valid), (r, t, size) = frame.s, block, steps
    gx, gx_step, gx_row = frame.buffers["gx"]
    biases, _, _ = frame.buffers["b"]
    target = s.at(gx, s.mul(r, gx_row))

    def step(j: Value, _: list[Value]) -> None:
        out = s.at(target, s.mul(s.add(t, j), gx_step))
        line = s.at(frame.tiles, s.mul(j, stride))
        for tile, column in enumerate(columns):
            for v in range(vectors):
                value = s.load(line, (tile * vectors + v) * s.lanes)
                place = s.add(s.add(u, column), v * s.lanes)
                mask = s.mask(valid - v * s.lanes)
                if column in frame.constants or not first:
                    before = biases if first else out
                    value = s.builder.fadd(s.load(before, place, mask), value)
                s.store(value, out, place, mask)

    s.loop(0, size, 1, step)
