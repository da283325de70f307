"""The functions that every kernel of a target and dtype shares, and their table."""

import llvmlite.ir as ir

from cellwright.cpu.pack import PACK, TRANSPOSE, emit_pack, emit_transpose
from cellwright.cpu.simd import Simd
from cellwright.cpu.target import Target
from cellwright.cpu.tile import DOT, TILE, emit_dot, emit_tile

__all__ = ["emit_library", "library_names"]


def library_names(target: Target) -> list[str]:
    """Return the functions of the library in the order of its table."""
    shapes = [(r, v) for v in range(1, target.vectors + 1) for r in range(1, target.rows + 1)]
    tiles = [f"tile_{r}_{v}" for r, v in shapes]
    dots = [f"dot_{r}" for r in range(1, target.dot_rows + 1)]
    return [*tiles, *dots, "transpose", "pack_units", "pack_depth"]


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
    return module
