"""What this machine can do, measured: the floors that explanations compare with."""

import ctypes
import time
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cellwright.cpu.amx.unit import AMX_DEPTH, AMX_ROWS, MATRIX, PLANE, ROW_BLOCK, WEIGHT_PLANES
from cellwright.cpu.call.library import library
from cellwright.cpu.machine.target import host
from cellwright.cpu.vector.simd import POINTER
from cellwright.cpu.vector.tile import TILE

__all__ = ["amx_rate", "matrix_rate", "read_rate"]


def _function(kinds: Sequence[Any]) -> Callable[[int], Callable[..., None]]:
    """Return what makes a function of the library from its address."""
    types = [ctypes.c_void_p if kind == POINTER else ctypes.c_int64 for kind in kinds]
    return ctypes.CFUNCTYPE(None, *types)


_TILE, _MATRIX, _NOTHING = _function(TILE), _function(MATRIX), _function(())
_DEPTH, _DEEP, _REPEATS = 64, 1024, 20


def _ones(*shape: int, dtype: str = "float32") -> Tensor:
    """Return memory for machine code, whatever torch's default device is."""
    return torch.ones(shape, dtype=getattr(torch, dtype), device="cpu")


def _fastest(call: Callable[[], None], repeats: int = 7) -> float:
    """Return the least time of a few calls: what the machine can do, not what it mostly does."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _net(call: Callable[[int], None], tiles: int) -> float:
    """Return the least time of a call on so many tiles, less that of one on none."""
    return _fastest(lambda: call(tiles)) - _fastest(lambda: call(0))


@lru_cache(maxsize=2)
def matrix_rate(dtype: str) -> float:
    """Measure floating-point operations a second of a kernel's full tile on one thread.

    Raises:
        CompileError: no machine code can be made here.
    """
    target = host()
    rows, units = target.rows, target.block(dtype)
    functions = library(dtype)
    functions.need([units])
    tile = _TILE(functions.address(f"tile_{rows}_{target.vectors}"))
    inputs, weights = _ones(rows, _DEEP, dtype=dtype), _ones(_DEEP, units, dtype=dtype)
    sums = _ones(rows, units, dtype=dtype)
    table = array("q", [row.data_ptr() for row in inputs])
    places = sums.data_ptr(), units, table.buffer_info()[0], 1, weights.data_ptr()

    def multiply(tiles: int) -> None:
        for _ in range(_REPEATS):
            tile(*places, units, 0, _DEEP, _DEEP, tiles, 1, places[-1], 0)

    return 2 * weights.numel() * rows * _REPEATS / _net(multiply, 1)


@lru_cache(maxsize=1)
def amx_rate() -> float:
    """Measure floating-point operations a second of float32 by AMX on one thread.

    Raises:
        CompileError: no machine code can be made here.
    """
    target, blocks, rows = host(), _DEEP // 8 // AMX_DEPTH, 2 * AMX_ROWS
    units = target.block("float32")
    functions = library("float32")
    functions.need([units])
    product = _MATRIX(functions.address(f"matrix_2_{target.vectors}"))
    planes, weights = (
        _ones(2, blocks, ROW_BLOCK),
        _ones(blocks, WEIGHT_PLANES * PLANE, units // target.lanes("float32")),
    )
    sums = _ones(rows, units)
    places = array("q", range(0, blocks * ROW_BLOCK, ROW_BLOCK))
    arguments = sums.data_ptr(), units, planes.data_ptr(), blocks * ROW_BLOCK
    start, stop = (_NOTHING(functions.address(name)) for name in ("setup", "release"))

    def multiply(count: int) -> None:
        start()
        for _ in range(_REPEATS):
            product(*arguments, places.buffer_info()[0], weights.data_ptr(), count)
        stop()

    return 2 * rows * units * blocks * AMX_DEPTH * _REPEATS / _net(multiply, blocks)


@lru_cache(maxsize=64)
def read_rate(size: int) -> float:
    """Measure bytes a second at which one thread reads ``size`` bytes of weights over and over.

    Raises:
        CompileError: no machine code can be made here.
    """
    target = host()
    units = target.block("float32")
    functions = library("float32")
    functions.need([units])
    tile = _TILE(functions.address(f"tile_1_{target.vectors}"))
    count = max(1, size // (4 * _DEPTH * units))
    weights, row = _ones(count, _DEPTH, units), _ones(_DEPTH)
    sums, table = _ones(count, units), array("q", [row.data_ptr()])
    places = sums.data_ptr(), count * units, table.buffer_info()[0], 1, weights.data_ptr()
    repeats = max(1, (1 << 22) // size)

    def read(tiles: int) -> None:
        for _ in range(repeats):
            tile(*places, units, _DEPTH * units, _DEPTH, _DEPTH, tiles, 1, places[-1], 0)

    return weights.numel() * 4 * repeats / _net(read, count)
