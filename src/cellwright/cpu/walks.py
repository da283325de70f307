"""Compiled walks: looked up by cell, sizes and dtype, called with addresses."""

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

from torch import Tensor

from cellwright.cpu import jit
from cellwright.cpu.pack import Packer
from cellwright.cpu.target import host
from cellwright.cpu.team import WALK, Team, team
from cellwright.cpu.tile import emit_library, library_names
from cellwright.cpu.walk import emit_walk, matrices, packed_size
from cellwright.graph.schedule import ForwardOptions, Program, backward, forward
from cellwright.graph.trace import Cell

__all__ = ["Field", "Layout", "Walk", "backward_walk", "forward_walk"]

Field = tuple[int, int, int]
"""A buffer as a walk sees it: address, distance between steps and between rows in elements."""


class Layout:
    """How the rows of a sequence lie: dense (every step has all rows) or packed.

    Attributes:
        steps: L. batch: N. rows: rows over all steps.
        counts: rows of each step, where packed. starts: where each step's rows start.
    """

    __slots__ = ("batch", "counts", "rows", "starts", "steps")

    def __init__(self, steps: int, batch: int, batch_sizes: list[int] | None) -> None:
        self.steps, self.batch = steps, batch
        self.counts: array[int] | None = None
        self.starts: array[int] | None = None
        self.rows = steps * batch
        if batch_sizes is not None:
            self.counts = array("q", batch_sizes)
            self.starts = array("q", accumulate(batch_sizes[:-1], initial=0))
            self.rows = sum(batch_sizes)

    def bounds(self, threads: int) -> "array[int]":
        """Share the rows out so that each thread has about the same number of steps."""
        if self.counts is None:
            return array("q", [self.batch * i // threads for i in range(threads + 1)])
        # a row's length is the number of steps that have it: the first rows are the longest
        lengths = [sum(count > row for count in self.counts) for row in range(self.batch)]
        sums = list(accumulate(lengths, initial=0))
        cuts = [bisect_left(sums, self.rows * i / threads) for i in range(threads)]
        return array("q", [*cuts, self.batch])


@lru_cache(maxsize=4)
def _library(dtype: str) -> "tuple[jit.Code, array[int]]":
    target = host()
    names = library_names(target)
    code = jit.load(target, f"library {dtype}", names, lambda: emit_library(target, dtype))
    return code, array("q", [code.address[name] for name in names])


class Walk:
    """A program's machine code.

    Args:
        program: what to compile.
        dtype: a key of ``target.DTYPES``.
        raw: read the weights as they lie instead of packing them.

    Raises:
        CompileError: it cannot be compiled on this machine.
    """

    def __init__(self, program: Program, dtype: str, raw: bool) -> None:
        target = host()
        self.program, self.raw = program, raw
        key = repr((program, dtype, raw))
        self.code = jit.load(target, key, ["walk"], lambda: emit_walk(program, target, dtype, raw))
        self.address = self.code.address["walk"]
        self._call = WALK(self.address)
        self.library, self._table = _library(dtype)
        self.names = [b.name for b in program.buffers]
        self.matrices = matrices(program)
        self.packer = Packer(program, target, dtype, self.library)
        self.packed_size = packed_size(program, target.lanes(dtype))
        self._team: Team = team(target)

    def __call__(
        self,
        layout: Layout,
        reverse: bool,
        threads: int,
        fields: Mapping[str, Field],
        weights: Mapping[str, Tensor],
    ) -> None:
        """Walk over all steps; backwards in time if ``reverse``."""
        packed = 0
        if not self.raw:
            buffer = self.packer(weights, threads)
            packed = buffer.data_ptr()
        bounds = layout.bounds(threads)
        struct = [layout.steps, layout.steps - 1 if reverse else 0, -1 if reverse else 1, layout.batch]
        struct += (_address(layout.starts), _address(layout.counts), _address(bounds))
        struct += (_address(self._table), packed)
        for name in self.names:
            struct += fields[name]
        if self.raw:
            for name in self.matrices:
                struct += (weights[name].data_ptr(), weights[name].stride(0))
        memory = array("q", struct)
        if threads == 1:
            self._call(memory.buffer_info()[0], 0)
        else:
            self._team(self.address, memory.buffer_info()[0], threads)


def _address(values: "array[int] | None") -> int:
    return 0 if values is None else values.buffer_info()[0]


@lru_cache(maxsize=512)
def forward_walk(
    cell: Cell, inputs: int, units: int, dtype: str, options: ForwardOptions, raw: bool
) -> Walk:
    """Return the compiled forward walk of a layer."""
    return Walk(forward(cell, inputs, units, options), dtype, raw)


@lru_cache(maxsize=512)
def backward_walk(cell: Cell, units: int, dtype: str) -> Walk:
    """Return the compiled backward walk of a layer."""
    return Walk(backward(cell, units), dtype, False)
