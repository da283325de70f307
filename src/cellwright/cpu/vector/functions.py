"""The functions that kernels share, as a kernel sees them: a table of addresses, in one order."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cellwright.cpu.machine.target import Target
from cellwright.cpu.vector.simd import POINTER, Simd, Value

__all__ = [
    "PANEL_NAMES",
    "Functions",
    "common_names",
    "dot_names",
    "half_names",
    "library_names",
    "pair_names",
    "stored_name",
    "tile_names",
]

PANEL_NAMES = ["lines", "rows", "turn", "panel", "gather", "scatter"]
"""The functions that products of many steps at once have for themselves, by AMX."""


def common_names(target: Target, dtype: str) -> list[str]:
    """Return the functions that every kernel may call."""
    amx = ["split", "planes_units", "planes_depth", "setup", "release"]
    dots = dot_names(target)
    packing = ["transpose", "pack_units", "pack_depth"]
    return [*dots, "sweep", *packing, *(amx if target.has_amx(dtype) else [])]


def tile_names(target: Target, dtype: str, vectors: int) -> list[str]:
    """Return the functions for so many vectors of units."""
    tiles = [f"tile_{r}_{vectors}" for r in range(1, target.rows + 1)]
    products = [f"matrix_{groups}_{vectors}" for groups in (1, 2)]
    return tiles + (products if target.has_amx(dtype) else [])


def pair_names(target: Target, vectors: int) -> list[str]:
    """Return the tiles of pairs for so many vectors of units."""
    return [f"pairs_{r}_{vectors}" for r in range(1, target.rows + 1)]


def stored_name(name: str, half: str) -> str:
    """Return a function's name for numbers stored as ``half``, or as its own where that is ""."""
    return f"{name}_{half}" if half else name


def dot_names(target: Target, half: str = "", *, far: bool = False) -> list[str]:
    """Return the dots of one row, of two, and so on.

    ``half``: what weights are stored as, if not as the functions' numbers. ``far``: those that
    read them in one straight stream, as the one of one row does in half precision anyway.
    """
    rows = range(1, target.dot_rows + 1)
    ends = ["_far" * (far and not (half and r == 1)) for r in rows]
    return [stored_name(f"dot_{r}", half) + end for r, end in zip(rows, ends, strict=True)]


def half_names(target: Target, half: str) -> list[str]:
    """Return the functions for numbers in this half precision."""
    dots = [*dot_names(target, half), *dot_names(target, half, far=True)[1:]]
    kinds = ("transpose", "pack_units", "widen", "narrow")
    return [*dots, *(stored_name(kind, half) for kind in kinds)]


@lru_cache(maxsize=8)
def library_names(target: Target, dtype: str) -> list[str]:
    """Return the functions of the library in the order of its table."""
    shapes = [(r, v) for v in range(1, target.vectors + 1) for r in range(1, target.rows + 1)]
    tiles = [f"tile_{r}_{v}" for r, v in shapes]  # number by number: machine code counts on it
    amx = [f"matrix_{groups}_{v}" for groups in (1, 2) for v in range(1, target.vectors + 1)]
    amx += PANEL_NAMES
    halves = [name for half in target.halves(dtype) for name in half_names(target, half)]
    common = common_names(target, dtype)
    if target.pairs(dtype):
        halves += [name for v in range(1, target.vectors + 1) for name in pair_names(target, v)]
    amx = amx if target.has_amx(dtype) else []
    return [*tiles, *amx, *common, *dot_names(target, far=True), *halves]


class Functions:
    """Emits calls of the library's functions.

    Args:
        s: where to. table: the address of their table.
    """

    def __init__(self, s: Simd, table: Value) -> None:
        self._s, self._table = s, table
        self._names = library_names(s.target, s.dtype)

    def number(self, name: str, further: Value = 0) -> Value:
        """Return the number of the function that comes so many after one."""
        return self._s.add(self._names.index(name), further)

    def pointer(self, which: str | Value) -> Value:
        """Return where a function is, by its name or its number."""
        number = self.number(which) if isinstance(which, str) else which
        return self._s.field(self._table, number, POINTER)

    def call(self, which: str | Value, kinds: Sequence[Any], args: Sequence[Value]) -> None:
        """Emit a call of a function, by its name or its number; ``kinds``: its arguments' types."""
        self._s.call_pointer(self.pointer(which), kinds, args)
