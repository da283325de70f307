"""Memory for what a layer makes."""

import ctypes
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate, starmap
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from cellwright.cpu.machine.target import DTYPES

__all__ = [
    "Blanks",
    "Block",
    "Shelf",
    "Spares",
    "Strided",
    "contiguous",
    "lacks_memory",
    "release_memory",
    "spares",
]

_HUGE_FROM = 1 << 23
"""Bytes from which memory is asked for in huge pages.

The C library hands blocks of over 32 MiB back to the system each time, so that every call would
touch them for the first time, page by page.
"""
_MAPPED_FROM, _MOST_MAPPED = 1 << 17, 1 << 25
"""From how many bytes on the GNU C library maps a block by itself at first, and up to how many the
size of a freed one makes it take smaller ones from its heap."""
_SHELVES = ((1 << 21, 4), (1 << 26, 1))
"""Up to how many bytes blocks are kept from call to call, and at most how many of a dtype: small
ones, then large ones."""
_MOST_LENT = 1 << 28
"""Up to how many bytes are lent again and again of a dtype."""
_PAGE, _HUGE_ADVICE = 4096, 14  # MADV_HUGEPAGE of Linux
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_Sizes = tuple[int, ...]
Strided = tuple[_Sizes, _Sizes]
"""The shape and the strides of a tensor."""


def _empty_strided(sizes: _Sizes, strides: _Sizes, dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(sizes, strides, dtype=dtype, device="cpu")


# what torch's compiler makes memory with takes half the time: no dispatcher, no arguments by name
_empty: Callable[[_Sizes, _Sizes, torch.dtype], Tensor] = getattr(
    torch._C._dynamo.guards, "_empty_strided_cpu", _empty_strided
)


class Blanks:
    """Makes empty CPU tensors of the same forms, which leave no gaps, again and again.

    Args:
        dtype: a key of ``target.DTYPES``. forms: of the tensors.
        kept: how many of them, the last ones, are for autograd alone to keep.
    """

    def __init__(self, dtype: str, *forms: Strided, kept: int = 0) -> None:
        kind: torch.dtype = getattr(torch, dtype)
        self._forms = [(*form, kind) for form in forms]
        largest = max((prod(shape) for shape, _ in forms), default=0) * kind.itemsize
        self._large = largest >= _HUGE_FROM
        if largest >= _MAPPED_FROM:
            _keep_heap()
        self._loans, self._others = loans(dtype), len(forms) - kept
        self._kept = forms[self._others :]

    def __call__(self) -> list[Tensor]:
        """Return the tensors, the large ones in huge pages."""
        if not self._large:
            return [*starmap(_empty, self._forms)]
        made = [*starmap(_empty, self._forms[: self._others])]
        for t in made:
            _in_huge_pages(t)
        return [*made, *starmap(self._loans.make, self._kept)]


@lru_cache(maxsize=1)
def _keep_heap() -> None:
    """Have the GNU C library keep up to 64 MiB of freed memory, once for the process.

    It hands back the end of its heap whenever more is free there than twice the largest block that
    it has mapped and freed so far. A training step that frees some MiB would touch them anew each
    time, page by page: up to a fifth of it, in one process and not in the next. A block that nobody
    touches costs nothing; other C libraries have rules of their own.
    """
    if _libc is not None:
        _libc.malloc.restype = ctypes.c_void_p
        size = ctypes.c_size_t(_MOST_MAPPED - 2 * _PAGE)
        _libc.free(ctypes.c_void_p(_libc.malloc(size)))


class Loans:
    """Large blocks of memory that autograd keeps until a backward pass ends, lent again and again.

    Like ``Spares``, but nobody says when a block is free: it is once nobody else holds its storage.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._blocks: list[Tensor] = []

    def make(self, shape: _Sizes, strides: _Sizes) -> Tensor:
        """Return an empty tensor; a large one, in memory that was lent before."""
        size, dtype = prod(shape), self._dtype
        if size * dtype.itemsize < _HUGE_FROM or _alone() is None:
            return _empty(shape, strides, dtype)
        block = self._idle(size)
        if block is None:
            block = _in_huge_pages(torch.empty(size, dtype=dtype, device="cpu"))
        made = block.as_strided(shape, strides)
        if sum(one.nbytes for one in [*self._blocks, block]) <= _MOST_LENT:
            self._blocks.append(block)
        return made

    def _idle(self, size: int) -> Tensor | None:
        """Take out the smallest block that will do and nobody holds.

        Where there is none, those that nobody holds are let go: a new one takes their place.
        """
        blocks, self._blocks = self._blocks, []  # no other thread takes one of them meanwhile
        held, idle = list[Tensor](), list[Tensor]()
        for block in blocks:
            (idle if _holders(block) == _alone() else held).append(block)
        best = min((b for b in idle if b.numel() >= size), key=Tensor.numel, default=None)
        self._blocks += held if best is None else held + [b for b in idle if b is not best]
        return best

    def clear(self) -> None:
        """Lend none of the blocks again."""
        self._blocks.clear()


@lru_cache(maxsize=4)
def loans(dtype: str) -> Loans:
    """Return the blocks of a dtype that are lent."""
    return Loans(dtype)


def _holders(block: Tensor) -> int | None:
    """Return how many hold a block's storage, this function among them; None: torch tells not."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    storage = block.untyped_storage()
    return None if count is None else int(count(storage._cdata))


@lru_cache(maxsize=1)
def _alone() -> int | None:
    """Return the number of holders that says that nobody else has a block; None: there is none."""
    block = torch.empty(1, device="cpu")
    alone = _holders(block)
    view = block.view(1)
    shared = _holders(block)
    del view
    return None if alone is None or shared is None or shared <= alone else alone


class Block(NamedTuple):
    """Memory that only machine code sees: its elements, the first one's address, their number."""

    elements: Tensor
    address: int
    size: int


class Shelf:
    """Where blocks of about a size wait for the next call.

    Args:
        dtype: of their elements. blocks: those that wait. most: how many may.
    """

    __slots__ = ("_blocks", "_dtype", "_most")

    def __init__(self, dtype: torch.dtype, blocks: list[Block], most: int) -> None:
        self._dtype, self._blocks, self._most = dtype, blocks, most

    def take(self, size: int) -> Block:
        """Return a block of at least ``size`` elements, which nobody else has."""
        try:
            block = self._blocks.pop()
        except IndexError:
            return self._new(size)
        return block if block.size >= size else self._new(size)

    def put_back(self, block: Block) -> None:
        """Keep a block for others; one that is not put back is freed with its last reference."""
        if len(self._blocks) < self._most:
            self._blocks.append(block)

    def _new(self, size: int) -> Block:
        elements = _in_huge_pages(torch.empty(size, dtype=self._dtype, device="cpu"))
        return Block(elements, elements.data_ptr(), size)


class Spares:
    """Blocks of memory that only machine code sees, kept from call to call.

    The C library hands the end of its heap back to the system whenever much of it is free, as after
    the backward pass of any model, and each large block at once. A call would then touch the memory
    of its packed weights for the first time, page by page, which takes as long as packing them, and
    longer where the system has to look for huge pages. And what the call before used, be it another
    layer's, is still in the caches.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._waiting: list[list[Block]] = [[] for _ in _SHELVES]

    def shelf(self, size: int, *, large: bool = False) -> Shelf:
        """Return where blocks of ``size`` elements are to be had.

        Large ones are kept only if ``large``: not in training, whose backward pass needs the most
        memory when that of the forward pass lies idle.
        """
        for waiting, (largest, most) in zip(self._waiting, _SHELVES, strict=True):
            if size * self._dtype.itemsize <= largest:
                kept = most if large or waiting is self._waiting[0] else 0
                return Shelf(self._dtype, waiting, kept)
        return Shelf(self._dtype, [], 0)

    def clear(self) -> None:
        """Free all that is kept."""
        for waiting in self._waiting:
            waiting.clear()


@lru_cache(maxsize=4)
def spares(dtype: str) -> Spares:
    """Return the spare blocks of a dtype."""
    return Spares(dtype)


def release_memory() -> None:
    """Free the memory that layers keep from call to call.

    That is room for packed weights and the like: for each dtype up to four blocks of 2 MiB and,
    after calls without gradients, one of 64 MiB. And what training keeps for the backward pass, in
    blocks of over 8 MiB: up to 256 MiB. The next calls take new memory.
    """
    for dtype in DTYPES:
        spares(dtype).clear()
        loans(dtype).clear()


def contiguous(*shape: int) -> Strided:
    """Return the form of a contiguous tensor with at least one dimension."""
    falling = accumulate(shape[:0:-1], lambda stride, n: stride * max(n, 1), initial=1)
    return shape, tuple(falling)[::-1]


def lacks_memory(t: Tensor) -> bool:
    """Whether a tensor has elements but nowhere to read them."""
    return t.data_ptr() == 0 and t.numel() > 0


def _in_huge_pages(fresh: Tensor) -> Tensor:
    """Ask for huge pages below a new, contiguous tensor, if it is large; return it."""
    size = fresh.numel() * fresh.itemsize
    if size >= _HUGE_FROM and _libc is not None:
        start = -(-fresh.data_ptr() // _PAGE) * _PAGE
        length = (fresh.data_ptr() + size - start) // _PAGE * _PAGE
        # a hint: where the system knows no huge pages, the call changes nothing
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _HUGE_ADVICE)
    return fresh
