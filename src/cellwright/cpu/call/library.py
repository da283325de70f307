"""The functions that every kernel of a target and dtype shares, and their table."""

from array import array
from collections.abc import Callable, Collection
from functools import lru_cache, partial

import llvmlite.ir as ir

from cellwright.cpu.amx.lines import PART, emit_lines, emit_rows, emit_turn
from cellwright.cpu.amx.panel import PANEL, emit_panel
from cellwright.cpu.amx.panel_rows import GATHER, SCATTER, emit_gather, emit_scatter
from cellwright.cpu.amx.planes import PLANES, SPLIT, emit_planes, emit_split
from cellwright.cpu.amx.unit import MATRIX, emit_matrix, emit_release, emit_setup
from cellwright.cpu.machine import jit
from cellwright.cpu.machine.target import Target, host
from cellwright.cpu.vector.dot import DOT, SWEEP, emit_dot, emit_sweep
from cellwright.cpu.vector.functions import (
    PANEL_NAMES,
    common_names,
    dot_names,
    half_names,
    library_names,
    pair_names,
    tile_names,
)
from cellwright.cpu.vector.pack import PACK, TRANSPOSE, emit_pack, emit_transpose
from cellwright.cpu.vector.simd import Simd
from cellwright.cpu.vector.stored import CONVERSION, emit_narrow, emit_widen
from cellwright.cpu.vector.tile import TILE, emit_tile

__all__ = ["Library", "library"]


def _emit_common(target: Target, dtype: str) -> ir.Module:
    """Emit the dots and the sweep, the transposition, all ways of packing, and what AMX needs."""
    module = ir.Module(f"library_{target.name}_{dtype}")
    for r in range(1, target.dot_rows + 1):
        emit_dot(Simd(module, f"dot_{r}", DOT, target, dtype), r)
    emit_sweep(Simd(module, "sweep", SWEEP, target, dtype))
    emit_transpose(Simd(module, "transpose", TRANSPOSE, target, dtype))
    emit_pack(Simd(module, "pack_units", PACK, target, dtype), transposed=False)
    emit_pack(Simd(module, "pack_depth", PACK, target, dtype), transposed=True)
    if target.has_amx(dtype):
        emit_split(Simd(module, "split", SPLIT, target, dtype))
        emit_planes(Simd(module, "planes_units", PLANES, target, dtype), transposed=False)
        emit_planes(Simd(module, "planes_depth", PLANES, target, dtype), transposed=True)
        for name, emit in (("setup", emit_setup), ("release", emit_release)):
            own = Simd(module, name, (), target, dtype)
            emit(own)
            own.finish()
    return module


def _emit_tiles(target: Target, dtype: str, vectors: int) -> ir.Module:
    """Emit the tiles of so many vectors of units."""
    module = ir.Module(f"tiles_{target.name}_{dtype}_{vectors}")
    for r in range(1, target.rows + 1):
        emit_tile(Simd(module, f"tile_{r}_{vectors}", TILE, target, dtype), r, vectors)
    for groups in (1, 2) if target.has_amx(dtype) else ():
        name = f"matrix_{groups}_{vectors}"
        emit_matrix(Simd(module, name, MATRIX, target, dtype), groups, vectors)
    return module


def _emit_pair_tiles(target: Target, dtype: str, vectors: int) -> ir.Module:
    """Emit the tiles of pairs of so many vectors of units."""
    module = ir.Module(f"pairs_{target.name}_{dtype}_{vectors}")
    for r, name in enumerate(pair_names(target, vectors), 1):
        emit_tile(Simd(module, name, TILE, target, dtype), r, vectors, pairs=True)
    return module


def _emit_panels(target: Target, dtype: str) -> ir.Module:
    """Emit what products of many steps at once need of AMX."""
    module = ir.Module(f"panels_by_amx_{dtype}")
    for name, emit in (("lines", emit_lines), ("rows", emit_rows), ("turn", emit_turn)):
        emit(Simd(module, name, PART, target, dtype))
    emit_panel(Simd(module, "panel", PANEL, target, dtype))
    emit_gather(Simd(module, "gather", GATHER, target, dtype))
    emit_scatter(Simd(module, "scatter", SCATTER, target, dtype))
    return module


def _emit_far(target: Target, dtype: str) -> ir.Module:
    """Emit the dots with weights from far away."""
    module = ir.Module(f"far_{target.name}_{dtype}")
    for r, name in enumerate(dot_names(target, far=True), 1):
        emit_dot(Simd(module, name, DOT, target, dtype), r, far=True)
    return module


def _emit_halves(target: Target, dtype: str, half: str) -> ir.Module:
    """Emit what reads weights in half precision, and the conversions."""
    module = ir.Module(f"library_{target.name}_{half}")
    for r, name in enumerate(dot_names(target, half), 1):
        emit_dot(Simd(module, name, DOT, target, dtype), r, half, far=r == 1)
    for r, name in enumerate(dot_names(target, half, far=True)[1:], 2):
        emit_dot(Simd(module, name, DOT, target, dtype), r, half, far=True)
    emit_transpose(Simd(module, f"transpose_{half}", TRANSPOSE, target, dtype), half)
    pack = Simd(module, f"pack_units_{half}", PACK, target, dtype)
    emit_pack(pack, transposed=False, half=half)
    emit_widen(Simd(module, f"widen_{half}", CONVERSION, target, dtype), half)
    emit_narrow(Simd(module, f"narrow_{half}", CONVERSION, target, dtype), half)
    return module


class Library:
    """The loaded functions of a dtype. Tiles are loaded once a kernel with their widths is.

    Raises:
        CompileError: they cannot be compiled on this machine.
    """

    def __init__(self, dtype: str) -> None:
        target = host()
        self.dtype, self._names = dtype, library_names(target, dtype)
        self._table = array("q", [0] * len(self._names))
        self._code: dict[str, jit.Code] = {}
        self._load("library", common_names(target, dtype), partial(_emit_common, target, dtype))

    def _load(self, part: str, names: list[str], emit: Callable[[], ir.Module]) -> None:
        """Load functions that are not there yet."""
        if part not in self._code:
            code = jit.load(host(), f"{part} {self.dtype}", names, emit)
            for name in names:
                self._table[self._names.index(name)] = code.address[name]
            self._code[part] = code  # which keeps it loaded

    @property
    def table(self) -> int:
        """The address of the table of functions."""
        return self._table.buffer_info()[0]

    def need(self, units: Collection[int], *, pairs: bool = False) -> None:
        """Load the tiles that kernels of so many units have: whole blocks, and what is left.

        ``pairs``: those of pairs of bfloat16.
        """
        target = host()
        block, lanes = target.block(self.dtype), target.lanes(self.dtype)
        widths = {-(-(count % block) // lanes) for count in units}
        widths |= {target.vectors for count in units if count >= block}
        for v in widths - {0}:
            names = pair_names(target, v) if pairs else tile_names(target, self.dtype, v)
            emit = _emit_pair_tiles if pairs else _emit_tiles
            part = f"{'pairs' if pairs else 'tiles'} {v}"
            self._load(part, names, partial(emit, target, self.dtype, v))

    def need_panels(self) -> None:
        """Load what products of many steps at once have for themselves."""
        target = host()
        if target.has_amx(self.dtype):
            self._load("panels by AMX", PANEL_NAMES, partial(_emit_panels, target, self.dtype))

    def need_far(self) -> None:
        """Load what reads weights as they lie from far away."""
        target = host()
        self._load("far", dot_names(target, far=True), partial(_emit_far, target, self.dtype))

    def need_half(self, half: str) -> None:
        """Load what calls with weights in this half precision have for themselves."""
        target = host()
        emit = partial(_emit_halves, target, self.dtype, half)
        self._load(half, half_names(target, half), emit)

    def number(self, name: str) -> int:
        """Return the place of a function in the table."""
        return self._names.index(name)

    def address(self, name: str) -> int:
        """Return where a function is that was needed before."""
        return self._table[self.number(name)]


@lru_cache(maxsize=4)
def library(dtype: str) -> Library:
    """Return the functions that all walks of a dtype share."""
    return Library(dtype)
