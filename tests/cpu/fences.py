"""Memory that tells of every write outside of it: tensors in the middle of larger ones.

All of the larger one holds one pattern of bits, a nan, so that what is read outside of a tensor, or
inside of it before it was written, shows up in the results.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cellwright.cpu.machine import memory as package

__all__ = ["Fences", "bits", "extent"]

_PATTERN = {2: 0x7FC5, 4: 0x7FC5_EA1D, 8: 0x7FF8_5EA1_ED00_5EA1}
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_ROOM = 128  # elements on either side; whole cache lines, so that alignment stays as it was


def bits(t: Tensor) -> Tensor:
    """Return the bits of a tensor, in which every nan equals itself."""
    return t.view(_INTEGER[t.itemsize])


def extent(t: Tensor) -> Tensor:
    """Return all memory from the first to the last element of a tensor."""
    sizes = zip(t.shape, t.stride(), strict=True)
    size = 1 + sum((n - 1) * stride for n, stride in sizes) if t.numel() else 0
    return t.as_strided((size,), (1,))


class Fences:
    """Makes fenced tensors; ``check`` then looks at all of them."""

    def __init__(self) -> None:
        self._made: list[tuple[Tensor, int, int]] = []
        self._given: list[tuple[Tensor, Tensor]] = []
        self._empty, self._empty_like = torch.empty, torch.empty_like
        self.count = 0

    def _fenced(self, size: int, dtype: torch.dtype, room: int) -> Tensor:
        memory = self._empty(size + 2 * room, dtype=dtype)
        bits(memory).fill_(_PATTERN[memory.itemsize])
        return memory

    def make(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a new poisoned tensor in the middle of a larger one."""
        size = torch.Size(shape).numel()
        memory = self._fenced(size, dtype, _ROOM)
        self._made.append((memory, _ROOM, _ROOM + size))
        self.count += 1
        return memory[_ROOM : _ROOM + size].view(shape)

    def copy(self, t: Tensor, *, aligned: bool = False) -> Tensor:
        """Return a copy, strided alike, in a larger tensor that may not change.

        It lies at an odd place, or, if ``aligned``, at the start of a cache line.
        """
        room = _ROOM if aligned else _ROOM + 1
        span = extent(t)  # elements of t may share memory, so it is copied as it lies
        memory = self._fenced(span.numel(), t.dtype, room)
        memory[room : room + span.numel()] = span
        inner = memory.as_strided(t.shape, t.stride(), room)
        self._given.append((memory, bits(memory).clone()))
        return inner

    def check(self) -> None:
        """Assert that nothing was written outside of a tensor, nor to one that was given."""
        for memory, start, stop in self._made:
            pattern = _PATTERN[memory.itemsize]
            for side in (bits(memory)[:start], bits(memory)[stop:]):
                assert (side == pattern).all(), "a kernel wrote outside of its memory"
        for memory, before in self._given:
            assert torch.equal(bits(memory), before), "a kernel wrote to what it was given"

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Let torch make every empty floating point CPU tensor here."""

        def new_empty(self_: Tensor, *size: Any, dtype: torch.dtype | None = None) -> Tensor:
            return self._new(_shape(size), dtype or self_.dtype, self._empty)

        def empty(*size: Any, dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
            return self._new(_shape(size), dtype or torch.get_default_dtype(), self._empty, **rest)

        def empty_like(t: Tensor, **rest: Any) -> Tensor:
            if rest or not t.is_floating_point():
                return self._empty_like(t, **rest)
            twin = self._empty_like(t)
            return self.make((twin.numel(),), t.dtype).as_strided(twin.shape, twin.stride())

        def empty_strided(
            shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype
        ) -> Tensor:
            return self.make((torch.Size(shape).numel(),), dtype).as_strided(shape, strides)

        patch.setattr(torch.Tensor, "new_empty", new_empty)
        patch.setattr(torch, "empty", empty)
        patch.setattr(torch, "empty_like", empty_like)
        patch.setattr(package, "_empty", empty_strided)
        patch.setattr(package.Shelf, "take", package.Shelf._new)
        patch.setattr(package.Shelf, "put_back", lambda self_, block: None)

    def _new(
        self, shape: tuple[int, ...], dtype: torch.dtype, make: Callable[..., Tensor], **rest: Any
    ) -> Tensor:
        if rest.get("device") == "cpu":
            del rest["device"]
        plain = dtype.is_floating_point and not any(rest.values())
        return self.make(shape, dtype) if plain else make(shape, dtype=dtype, **rest)


def _shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(size) if not size or isinstance(size[0], int) else tuple(size[0])
