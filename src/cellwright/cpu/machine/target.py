"""What this machine's instruction set offers, and how kernels are tiled for it."""

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import llvmlite.binding as llvm

from cellwright.errors import CompileError

__all__ = ["DTYPES", "HALVES", "LINE", "Target", "host", "own_cache", "shared_cache"]

DTYPES: dict[str, int] = {"float32": 4, "float64": 8}
"""Element types that kernels exist for, with their size in bytes."""

HALVES = ("float16", "bfloat16")
"""Half precisions, whose numbers kernels read and write as float32."""

LINE = 64
"""Bytes of a cache line."""

# vector bits, vector registers, LLVM features that must be there
_AVX512 = ("avx512f", "avx512vl", "avx512dq", "avx512bw", "fma")
_LEVELS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "amx": (512, 32, (*_AVX512, "amx-tile", "amx-bf16")),
    "avx512": (512, 32, _AVX512),
    "avx2": (256, 16, ("avx2", "fma")),
    "neon": (128, 32, ("neon",)),
    "sse2": (128, 16, ("sse2",)),
}


@dataclass(frozen=True)
class Target:
    """An instruction set. ``name`` is a key of the levels known here."""

    name: str
    cpu: str
    features: str
    bits: int
    registers: int

    def lanes(self, dtype: str) -> int:
        """Return how many elements a vector register holds."""
        return self.bits // (8 * DTYPES[dtype])

    @property
    def rows(self) -> int:
        """Batch rows of a tile. With ``vectors`` it fills the registers with accumulators."""
        return 6

    @property
    def vectors(self) -> int:
        """Vectors of units of a tile: 6 × 2 = 12 accumulators of 16, or 6 × 4 = 24 of 32."""
        return 4 if self.registers == 32 else 2

    @property
    def dot_rows(self) -> int:
        """Rows whose dots with weights are taken at once: their sums fill half of the registers."""
        return self.registers // 8

    @property
    def vector_name(self) -> str:
        """The level of its vectors."""
        return "avx512" if self.name == "amx" else self.name

    def has_amx(self, dtype: str) -> bool:
        """Whether products of many rows go to AMX."""
        return self.name == "amx" and dtype == "float32"

    def halves(self, dtype: str) -> tuple[str, ...]:
        """Return the half precisions that kernels of a dtype take weights of as they lie."""
        return HALVES if self._converts and dtype == "float32" else ()

    def pairs(self, dtype: str) -> str:
        """Return the half precision whose numbers vectors multiply in pairs, or ""."""
        can = self.bits == 512 and "+avx512bf16" in self.features.split(",")
        return "bfloat16" if can and dtype == "float32" else ""

    @cached_property
    def _converts(self) -> bool:
        """Whether vector instructions turn float16 into float32."""
        return self.name == "neon" or "+f16c" in self.features.split(",")

    def block(self, dtype: str) -> int:
        """Return how many units a tile has."""
        return self.vectors * self.lanes(dtype)

    def machine(self) -> llvm.TargetMachine:
        """Return LLVM's view of this target."""
        triple = llvm.Target.from_default_triple()
        return triple.create_target_machine(cpu=self.cpu, features=self.features, opt=3)


@lru_cache(maxsize=1)
def host() -> Target:
    """Return the best level that this machine has, or the one that CELLWRIGHT_ISA names.

    Raises:
        CompileError: LLVM knows no such machine, or the named level is not there.
    """
    try:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        cpu = llvm.get_host_cpu_name()
    except RuntimeError as error:
        raise CompileError(f"LLVM cannot make code for this machine: {error}") from error
    present = [n for n, (_, _, needs) in _LEVELS.items() if all(features.get(f) for f in needs)]
    asked = os.environ.get("CELLWRIGHT_ISA", "")
    other = asked in _LEVELS and asked != "amx"
    if "amx" in present and (other or not _may_use_amx()):
        present.remove("amx")
    if asked and asked not in present:
        raise CompileError(
            f"CELLWRIGHT_ISA={asked}: expected one of {', '.join(present) or 'none'}, which this "
            "machine and its system offer; unset it to take the best"
        )
    if not present:
        raise CompileError("this machine has none of AVX-512, AVX2, NEON and SSE2")
    name = asked or present[0]
    bits, registers, _ = _LEVELS[name]
    if name == "sse2":  # a level below the host's must not use what lies above it
        return Target(name, "x86-64", "", bits, registers)
    if name == "avx2":
        extra = ",".join(f"-{f}" for f in features if f.startswith("avx512"))
        return Target(name, cpu, f"{features.flatten()},{extra}", bits, registers)
    return Target(name, cpu, features.flatten(), bits, registers)


_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64


def _may_use_amx() -> bool:
    """Ask the system for AMX: its registers are large, so a process has to."""
    if not sys.platform.startswith("linux"):
        return False
    arguments = [ctypes.c_long(n) for n in (_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA)]
    return bool(ctypes.CDLL(None).syscall(*arguments) == 0)


_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def _cache_size(level: int, default: int) -> int:
    try:
        text = (_CACHES / f"index{level}" / "size").read_text().strip()
        return int(text.removesuffix("K")) << (10 if text.endswith("K") else 0)
    except (OSError, ValueError):
        return default


@lru_cache(maxsize=1)
def shared_cache() -> int:
    """Return the bytes of the cache that cores share, or 32 MiB where the system does not say."""
    return _cache_size(3, 1 << 25)


@lru_cache(maxsize=1)
def own_cache() -> int:
    """Return the bytes of a core's second-level cache, or 1 MiB where the system does not say."""
    return _cache_size(2, 1 << 20)
