"""Memory for what a layer makes."""

import ctypes
import sys

from torch import Tensor

__all__ = ["HUGE_FROM", "in_huge_pages", "new_matrix"]

HUGE_FROM = 1 << 23
"""Bytes from which memory is asked for in huge pages.

The C library hands blocks of over 32 MiB back to the system each time, so that every call would
touch them for the first time, page by page.
"""
_PAGE, _HUGE_ADVICE = 4096, 14  # MADV_HUGEPAGE of Linux
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def new_matrix(x: Tensor, rows: int, width: int) -> Tensor:
    """Return an empty matrix of the dtype of ``x``."""
    return in_huge_pages(x.new_empty(rows, width))


def in_huge_pages(fresh: Tensor) -> Tensor:
    """Ask for huge pages below a new, contiguous tensor, if it is large; return it."""
    size = fresh.numel() * fresh.itemsize
    if size >= HUGE_FROM and _libc is not None:
        start = -(-fresh.data_ptr() // _PAGE) * _PAGE
        length = (fresh.data_ptr() + size - start) // _PAGE * _PAGE
        # a hint: where the system knows no huge pages, the call changes nothing
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _HUGE_ADVICE)
    return fresh
