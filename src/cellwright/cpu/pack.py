"""Lay weights out for the tiles."""

from array import array
from collections.abc import Mapping

import torch
from torch import Tensor

from cellwright.cpu import jit
from cellwright.cpu.target import Target
from cellwright.cpu.team import WALK, team
from cellwright.cpu.walk import depths, packed_size, padded, split
from cellwright.graph.schedule import Program

__all__ = ["Packer"]

_SHARED = 1 << 17
"""Elements from which packing is shared out over the team."""


class Packer:
    """Packs the weights of a program: [unit block][product][tile][k][unit] for each stage."""

    def __init__(self, program: Program, target: Target, dtype: str, library: jit.Code) -> None:
        self._units, self._target = program.units, target
        self._size = packed_size(program, target.lanes(dtype))
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._item = self._dtype.itemsize
        names = {False: "pack_units", True: "pack_depth"}
        self._address = {t: library.address[name] for t, name in names.items()}
        self._call = {t: WALK(address) for t, address in self._address.items()}
        self._jobs: list[tuple[bool, str, int, bool, int, int, int, int, int]] = []
        base = 0
        for stage, whole in zip(program.stages, depths(program), strict=True):
            offset = 0
            for part in split(stage, program.units):
                p = part.product
                place = (p.depth, p.count, base, offset, whole)
                self._jobs.append((p.given, p.matrix, p.row, p.transposed, *place))
                offset += p.depth * p.count
            base += whole * padded(program.units, target.lanes(dtype))

    def __call__(self, weights: Mapping[str, Tensor], threads: int, ahead: bool) -> Tensor:
        """Return the packed weights; ``ahead``: those that the input is multiplied with are left out."""
        packed = torch.empty(self._size, dtype=self._dtype)
        start = packed.data_ptr()
        if self._size < _SHARED:
            threads = 1
        for given, name, row, transposed, depth, count, base, offset, whole in self._jobs:
            if given and ahead:
                continue
            matrix = weights[name]
            stride = matrix.stride(0)
            source = matrix.data_ptr() + row * stride * self._item
            fields = (source, stride, self._units, depth, count, start + base * self._item)
            struct = array("q", (*fields, offset, whole, threads))
            if threads == 1:
                self._call[transposed](struct.buffer_info()[0], 0)
            else:
                team(self._target)(self._address[transposed], struct.buffer_info()[0], threads)
        return packed
