"""The functions that every kernel of a target and dtype shares, and their table."""

import llvmlite.ir as ir

from cellwright.cpu.amx import MATRIX, emit_matrix, emit_release, emit_setup
from cellwright.cpu.pack import PACK, TRANSPOSE, emit_pack, emit_transpose
from cellwright.cpu.planes import PLANES, SPLIT, emit_planes, emit_split
from cellwright.cpu.simd import Simd
from cellwright.cpu.target import Target
from cellwright.cpu.tile import DOT, TILE, emit_dot, emit_tile

__all__ = ["emit_library", "library_names"]


_AMX = [(groups, v) for groups in (1, 2) for v in range(1, 5)]


def library_names(target: Target, dtype: str) -> list[str]:
    """Return the functions of the library in the order of its table."""
    shapes = [(r, v) for v in range(1, target.vectors + 1) for r in range(1, target.rows + 1)]
    tiles = [f"tile_{r}_{v}" for r, v in shapes]
    dots = [f"dot_{r}" for r in range(1, target.dot_rows + 1)]
    amx = [f"matrix_{groups}_{v}" for groups, v in _AMX]
    amx += ["split", "planes_units", "planes_depth", "setup", "release"]
    others = amx if target.has_amx(dtype) else []
    return [*tiles, *dots, "transpose", "pack_units", "pack_depth", *others]


def emit_library(target: Target, dtype: str) -> ir.Module:
    """Emit all tiles, the dot products, the transposition and the two ways of packing."""
    module = ir.Module(f"library_{target.name}_{dtype}")
    for v in range(1, target.vectors + 1):
        for r in range(1, target.rows + 1):
            emit_tile(Simd(module, f"tile_{r}_{v}", TILE, target, dtype), r, v)
    for r in range(1, target.dot_rows + 1):
        emit_dot(Simd(module, f"dot_{r}", DOT, target, dtype), r)
    emit_transpose(Simd(module, "transpose", TRANSPOSE, target, dtype))
    emit_pack(Simd(module, "pack_units", PACK, target, dtype), transposed=False)
    emit_pack(Simd(module, "pack_depth", PACK, target, dtype), transposed=True)
    if target.has_amx(dtype):
        for groups, v in _AMX:
            emit_matrix(Simd(module, f"matrix_{groups}_{v}", MATRIX, target, dtype), groups, v)
        emit_split(Simd(module, "split", SPLIT, target, dtype))
        emit_planes(Simd(module, "planes_units", PLANES, target, dtype), transposed=False)
        emit_planes(Simd(module, "planes_depth", PLANES, target, dtype), transposed=True)
        for name, emit in (("setup", emit_setup), ("release", emit_release)):
            own = Simd(module, name, (), target, dtype)
            emit(own)
            own.finish()
    return module
