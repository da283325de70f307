"""What this machine can do, measured: the floors that explanations compare with."""

import ctypes
import time
from collections.abc import Callable
from functools import lru_cache

import torch

from cellwright.cpu.walks import library

__all__ = ["matrix_rate", "read_rate"]

_DOT = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 4)
_DEPTH = 256


def _fastest(call: Callable[[], None], repeats: int = 7) -> float:
    """Return the least time of a few calls: what the machine can do, not what it mostly does."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    torch.mm(a, b, out=out)


@lru_cache(maxsize=2)
def matrix_rate(dtype: str) -> float:
    """Measure floating-point operations a second of torch's matrix product 512³ on one thread."""
    n, threads = 512, torch.get_num_threads()
    a, b, out = (torch.ones(n, n, dtype=getattr(torch, dtype)) for _ in range(3))
    try:
        torch.set_num_threads(1)
        return 2 * n**3 / _fastest(lambda: _multiply(a, b, out))
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=64)
def read_rate(size: int) -> float:
    """Measure bytes a second at which one thread reads ``size`` bytes of weights over and over.

    Raises:
        CompileError: no machine code can be made here.
    """
    code, _ = library("float32")
    dot = _DOT(code.address["dot"])
    units = max(1, size // (4 * _DEPTH))
    weights, vector, sums = torch.ones(units, _DEPTH), torch.ones(_DEPTH), torch.empty(units + 16)
    places = [t.data_ptr() for t in (sums, vector, weights)]
    repeats = max(1, (1 << 22) // size)

    def read() -> None:
        for _ in range(repeats):
            dot(*places, _DEPTH, _DEPTH, units, 1)

    return weights.numel() * 4 * repeats / _fastest(read)
