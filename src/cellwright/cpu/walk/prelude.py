"""What happens ahead of a walk: weights are laid out as it reads them, biases are summed up."""

from functools import partial

from cellwright.cpu.amx.planes import PLANES
from cellwright.cpu.vector.pack import PACK
from cellwright.cpu.vector.simd import Value
from cellwright.cpu.walk.amx_arrangement import arrange, stage_size
from cellwright.cpu.walk.constants import emit_constants
from cellwright.cpu.walk.frame import PACKING, REFUSED, Frame
from cellwright.cpu.walk.parts import depths, padded, split
from cellwright.graph.schedule import Product, Stage

__all__ = ["emit_prelude"]


def emit_prelude(frame: Frame) -> None:
    """Emit the packing of this thread's blocks of units and the constants, as a function.

    A walk reads what all threads have packed, so all of them end this function before it starts.
    """
    s, program = frame.s, frame.program

    def vectors() -> None:
        offset = 0
        for stage, depth in zip(program.stages, depths(program), strict=True):
            _pack(frame, stage, offset, depth)
            offset += depth * padded(stage.units, s.lanes)

    with s.builder.if_then(s.builder.not_(s.is_null(frame.packed))):
        frame.by_amx(lambda: _pack_planes(frame), vectors)
        once = s.builder.icmp_signed("==", frame.thread, s.index(0))
        s.when(once, lambda: emit_constants(frame))
    s.finish()


def _pack_planes(frame: Frame) -> None:
    """Lay the weights out as planes, for AMX."""
    target = frame.packed
    for stage in frame.program.stages:
        _pack_stage_planes(frame, stage, target)
        target = frame.s.at(target, stage_size(stage, frame.s.lanes))


def _pack_stage_planes(frame: Frame, stage: Stage, packed: Value) -> None:
    s, arrangement = frame.s, arrange(stage)
    refused = s.entry(frame.struct, REFUSED)
    for (p, tile), start in arrangement.starts.items():
        name = "planes_depth" if p.transposed else "planes_units"
        weights, stride = frame.weights(p.matrix, s.index(p.row + tile * stage.units), p.column)
        args = [weights, stride, s.index(stage.units), s.index(p.depth), packed, s.index(start)]
        args += [s.index(arrangement.weight_blocks), frame.thread, frame.threads, refused]
        frame.functions.call(name, PLANES, args)


def _pack(frame: Frame, stage: Stage, offset: int, whole: int) -> None:
    """Lay a stage's weights out in the order in which tiles read them.

    Those are left out that AMX takes, or that are read as they lie.
    """
    start = 0
    for part in split(stage):
        pack = partial(_pack_part, frame, stage, part.product, (offset, start, whole))
        if part.product.given:
            frame.by_amx(lambda: None, pack, ahead=True)
        else:
            frame.s.when(frame.s.builder.not_(frame.unpacked), pack)
        start += part.product.depth * part.product.count


def _pack_part(frame: Frame, stage: Stage, p: Product, place: tuple[int, int, int]) -> None:
    """Do so for a product; ``place``: of the stage, of the product in a block, a block's depth."""
    s = frame.s
    number = s.field(frame.struct, PACKING)
    if p.transposed:
        number = frame.functions.number("pack_depth")
    weights, stride = frame.weights(p.matrix, s.index(p.row), p.column)
    offset, start, whole = place
    args = [weights, stride]
    args += [s.index(n) for n in (stage.units, p.depth, p.count)]
    args += [s.at(frame.packed, offset), s.index(start), s.index(whole)]
    frame.functions.call(number, PACK, [*args, frame.thread, frame.threads])
