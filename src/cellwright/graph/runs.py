"""Gates that lie side by side, taken together."""

from collections.abc import Hashable, Iterable
from typing import TypeVar

__all__ = ["runs"]

T = TypeVar("T", bound=Hashable)


def runs(keys: Iterable[tuple[int, int, T]]) -> list[tuple[int, int, int, T]]:
    """Merge neighbours: (slot, row, source) in steps of one become (slot, row, count, source)."""
    found: list[tuple[int, int, int, T]] = []
    for slot, row, source in keys:
        if found:
            s, r, n, same = found[-1]
            if (slot, row, source) == (s + n, r + n, same):
                found[-1] = (s, r, n + 1, same)
                continue
        found.append((slot, row, 1, source))
    return found
