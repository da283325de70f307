"""Large arrays: in memory, or mapped from a scratch file that has no name any more."""

import tempfile
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from cellwright.app.data.files import scratch_folder
from cellwright.app.data.table import BATCH_ROWS

__all__ = ["Ranges", "allocate", "gather"]

Ranges = list[tuple[int, int]]
"""Rows of a matrix, one range a sequence."""


def allocate(shape: tuple[int, ...], dtype: type[np.generic], *, mapped: bool) -> Tensor:
    """A tensor of zeros. A mapped one takes disk, not memory, until the last view of it goes."""
    if not mapped or 0 in shape:
        return torch.from_numpy(np.zeros(shape, dtype))
    with tempfile.TemporaryFile(prefix="cellwright-", dir=scratch_folder()) as scratch:
        array = np.memmap(scratch, dtype, "w+", shape=shape)
    return torch.from_numpy(array)


def gather(matrix: Tensor, ranges: Ranges, *, mapped: bool) -> tuple[Tensor, Tensor]:
    """The rows of `ranges` one after another, and their starts (N + 1,); a view where it can be."""
    lengths = torch.tensor([stop - start for start, stop in ranges], dtype=torch.int64)
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)))
    adjacent = all(one[1] == two[0] for one, two in pairwise(ranges))
    if adjacent and ranges:
        return matrix[ranges[0][0] : ranges[-1][1]], starts
    shape = (int(starts[-1]), *matrix.shape[1:])
    copy = allocate(shape, matrix.numpy().dtype.type, mapped=mapped)
    for (start, stop), begin in zip(ranges, starts[:-1].tolist(), strict=True):
        for row in range(start, stop, BATCH_ROWS):
            end = min(row + BATCH_ROWS, stop)
            copy[begin + row - start : begin + end - start] = matrix[row:end]
    return copy, starts
