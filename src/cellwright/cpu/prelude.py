"""What happens ahead of a walk's steps: weights are packed, and where told, the input multiplied.

With few rows a step reads all weights for little work. The products with the input do not wait for
the step before, so they are taken ahead, several steps at a time, and read their weights once.
"""

from cellwright.cpu.amx.arrangement import arrange, stage_size
from cellwright.cpu.amx.planes import PLANES
from cellwright.cpu.frame import REFUSED, Frame, Part, depths, padded, split
from cellwright.cpu.library import library_names
from cellwright.cpu.pack import PACK
from cellwright.cpu.simd import I64, POINTER, Value
from cellwright.cpu.tile import groups, put_rows
from cellwright.graph.schedule import Stage

__all__ = ["emit_prelude", "emit_projection"]


def emit_prelude(frame: Frame) -> None:
    """Emit the packing of this thread's blocks of units, as a function of its own.

    A walk reads what all threads have packed, so all of them end this function before it starts.
    """
    s, program = frame.s, frame.program

    def planes() -> None:
        offset = 0
        for stage in program.stages:
            _pack_planes(frame, stage, offset)
            offset += stage_size(stage, s.lanes)

    def vectors() -> None:
        offset = 0
        for stage, depth in zip(program.stages, depths(program), strict=True):
            _pack(frame, stage, offset, depth)
            offset += depth * padded(stage.units, s.lanes)

    with s.builder.if_then(s.builder.not_(s.is_null(frame.packed))):
        frame.by_amx(planes, vectors)
    s.finish()


def _pack_planes(frame: Frame, stage: Stage, offset: int) -> None:
    """Lay a stage's weights out as planes, for AMX."""
    s, names = frame.s, library_names(frame.s.target, frame.s.dtype)
    arrangement = arrange(stage)
    refused = s.builder.gep(frame.struct, [s.index(REFUSED)], source_etype=I64)
    for (p, tile), start in arrangement.starts.items():
        name = "planes_depth" if p.transposed else "planes_units"
        function = s.field(frame.table, names.index(name), POINTER)
        base, stride = frame.matrices[p.matrix]
        row = p.row + tile * stage.units
        args = [s.at(base, s.add(s.mul(stride, row), p.column)), stride, s.index(stage.units)]
        args += [s.index(p.depth), s.at(frame.packed, offset), s.index(start)]
        args += [s.index(arrangement.weight_blocks), frame.thread, frame.threads, refused]
        s.call_pointer(function, PLANES, args)


def _pack(frame: Frame, stage: Stage, offset: int, whole: int) -> None:
    """Lay a stage's weights out in the order in which tiles read them."""
    s, names = frame.s, library_names(frame.s.target, frame.s.dtype)
    start = 0
    for part in split(stage):
        p = part.product
        name = "pack_depth" if p.transposed else "pack_units"
        function = s.field(frame.table, names.index(name), POINTER)
        base, stride = frame.matrices[p.matrix]
        weights = s.at(base, s.add(s.mul(stride, p.row), p.column))
        args = [weights, stride, s.index(stage.units), s.index(p.depth), s.index(p.count)]
        args += [
            s.at(frame.packed, offset),
            s.index(start),
            s.index(whole),
            frame.thread,
            frame.threads,
        ]
        s.call_pointer(function, PACK, args)
        start += p.depth * p.count


def emit_projection(frame: Frame) -> None:
    """Emit the products with the input of all steps of this thread's rows, into ``gx``."""
    s, offset = frame.s, 0
    for stage, whole in zip(frame.program.stages, depths(frame.program), strict=True):
        _project_stage(frame, stage, offset, whole)
        offset += whole * padded(stage.units, s.lanes)


def _project_stage(frame: Frame, stage: Stage, offset: int, whole: int) -> None:
    """Do so for one stage, whose packed weights start at ``offset``."""
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

    if any(p.given for p in stage.products):
        frame.blocks(stage.units, block)


def _project_rows(
    frame: Frame,
    part: Part,
    columns: tuple[int, ...],
    weights: Value,
    block: tuple[Value, int, int],
) -> None:
    """Multiply the rows of successive steps, for one batch row after the other."""
    s, p = frame.s, part.product
    u, vectors, valid = block
    width = vectors * s.lanes
    x, x_step, x_row = frame.buffers["x"]
    gx, gx_step, gx_row = frame.buffers["gx"]

    def row(r: Value, _: list[Value]) -> None:
        source = s.at(x, s.add(s.mul(r, x_row), p.source.column))
        target = s.at(gx, s.mul(r, gx_row))

        def group(t: Value, size: Value) -> None:
            put_rows(s, frame.row_table, size, lambda j: s.at(source, s.mul(s.add(t, j), x_step)))
            stride = p.count * width
            frame.tile_call(
                vectors,
                frame.tiles,
                stride,
                (weights, p.depth, p.count),
                s.index(1),
                (frame.row_table, size),
                (t, frame.steps),
            )

            def copy(j: Value, _: list[Value]) -> None:
                out = s.at(target, s.mul(s.add(t, j), gx_step))
                for tile, column in enumerate(columns):
                    for v in range(vectors):
                        value = s.load(
                            s.at(frame.tiles, s.mul(j, stride)), tile * width + v * s.lanes
                        )
                        place = s.add(s.add(u, column), v * s.lanes)
                        mask = s.mask(valid - v * s.lanes)
                        if not part.first:
                            value = s.builder.fadd(s.load(out, place, mask), value)
                        s.store(value, out, place, mask)

            s.loop(0, size, 1, copy)

        groups(s, frame.steps, s.target.rows, group)

    s.loop(frame.low, frame.high, 1, row)
