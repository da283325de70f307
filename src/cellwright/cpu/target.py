"""What this machine's instruction set offers, and how kernels are tiled for it."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm

from cellwright.errors import CompileError

__all__ = ["DTYPES", "Target", "host", "shared_cache"]

DTYPES: dict[str, int] = {"float32": 4, "float64": 8}
"""Element types that kernels exist for, with their size in bytes."""

# vector bits, vector registers, LLVM features that must be there
_LEVELS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "avx512": (512, 32, ("avx512f", "avx512vl", "avx512dq", "avx512bw", "fma")),
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
    if asked and asked not in present:
        raise CompileError(
            f"CELLWRIGHT_ISA={asked}: expected one of {', '.join(present) or 'none'}, the vector "
            "instructions of this machine; unset it to take the best"
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


_THIRD_LEVEL = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
_COMMON_SIZE = 1 << 25


@lru_cache(maxsize=1)
def shared_cache() -> int:
    """Return the bytes of the cache that cores share, or 32 MiB where the system does not say."""
    try:
        text = _THIRD_LEVEL.read_text().strip()
        return int(text.removesuffix("K")) << (10 if text.endswith("K") else 0)
    except (OSError, ValueError):
        return _COMMON_SIZE
