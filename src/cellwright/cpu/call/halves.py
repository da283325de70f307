"""A forward call in half precision, for no gradient.

Kernels work in float32. Weights are by far the most that a short call reads, so it reads them as
they are stored: half as many bytes as in float32, and no copy. The input, biases and states are
widened ahead of the walk, and what it makes is rounded after it. Where products are of pairs, the
input is read and the output written as stored, too.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from math import prod
from typing import NamedTuple

from torch import Tensor

from cellwright.cpu.call.choice import ForwardWay, forward_way, takes_pairs
from cellwright.cpu.call.forward import ForwardCall, check_memory, prepared, shared_kind
from cellwright.cpu.call.library import library
from cellwright.cpu.call.pairs import PairedCall
from cellwright.cpu.call.plan import ByLengths, Plan, Rows
from cellwright.cpu.call.team import WALK
from cellwright.cpu.machine.memory import Blanks, Shelf, contiguous
from cellwright.cpu.machine.target import LINE

__all__ = ["HalfCall", "half_call", "reads_stored"]

_address = Tensor.data_ptr
_Conversion = Callable[[int, int], object]


def reads_stored(way: ForwardWay) -> bool:
    """Whether a call reads weights as they are stored; AMX takes those of float32 alone."""
    return not (way.amx or way.amx_ahead)


class _Copies(NamedTuple):
    """What has a copy in float32: some tensors that are given, then what is made.

    Where numbers are multiplied in pairs, that leaves the output out, which comes first.
    """

    given: list[int]  # which
    sizes: list[int]  # their elements
    made_sizes: list[int]
    starts: list[int]  # where each copy starts in the call's memory, in bytes; then the walks' own
    room: int  # elements of that memory
    shelf: Shelf  # where it is to be had


class HalfCall:
    """A forward call that lacks nothing but the table of addresses.

    Args:
        plan: the layer, whose kernels are of float32.
        rows: its rows; those of a packed call may differ in their lengths.
        directions: D.
        half: what all tensors are stored as.
        pairs: whether their numbers are multiplied in pairs.
    """

    def __init__(self, plan: Plan, rows: Rows, directions: int, half: str, pairs: bool) -> None:
        self.plan, self.directions, self.half = plan, directions, half
        self.pairs = pairs
        self.stored = self.pairs or reads_stored(forward_way(plan, rows.layout))
        self.inner = self._inner(rows)
        functions = library(plan.dtype)
        functions.need_half(half)
        self.widen = WALK(functions.address(f"widen_{half}"))
        self.narrow = WALK(functions.address(f"narrow_{half}"))
        self.by_lengths = ByLengths(self._with_lengths)
        self.made = self.by_lengths(rows)

    def _inner(self, rows: Rows) -> ForwardCall:
        """Return the call that this one makes copies for."""
        if self.pairs:
            return PairedCall(self.plan, rows, self.directions, False)
        half = self.half if self.stored else ""
        return ForwardCall(self.plan, rows, self.directions, False, half)

    def _with_lengths(self, rows: Rows) -> tuple[Blanks, list[_Copies]]:
        """Return what makes the results, and what has copies, without initial states and with."""
        plan, D, N = self.plan, self.directions, rows.layout.batch
        states = [contiguous(D, N, plan.width(state)) for state in plan.cell.states]
        results = [rows.form(D * plan.outputs), *states]
        copies = [self._copies(rows, [prod(s) for s, _ in results], stated) for stated in (0, 1)]
        return Blanks(self.half, *results), copies

    def _copies(self, rows: Rows, made_sizes: list[int], stated: int) -> _Copies:
        plan = self.plan
        parameters = zip(plan.parameters, plan.shapes, strict=True)
        each = [
            prod(shape) * (kind != "weight" or not self.stored) for (kind, _), shape in parameters
        ]
        sizes = [rows.layout.rows * plan.inputs * (not self.pairs), *each * self.directions]
        sizes += made_sizes[1:] * stated
        made_sizes = made_sizes[self.pairs :]
        given = [k for k, size in enumerate(sizes) if size]
        sizes = [sizes[k] for k in given]
        line = LINE // plan.item
        *starts, end = accumulate((-(-n // line) * line for n in (*sizes, *made_sizes)), initial=0)
        room = end + self.inner.room_of(rows)
        shelf = self.inner.walk.spares.shelf(room, large=True)
        bounds = [n * plan.item for n in (*starts, end)]
        return _Copies(given, sizes, made_sizes, bounds, room, shelf)

    def __call__(
        self, given: Sequence[Tensor], stated: bool, rows: Rows
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Return the output, the final states, and nothing else; see ``ForwardCall``."""
        blanks, both = self.by_lengths(rows) if self.inner.packed else self.made
        copies, made = both[stated], blanks()
        addresses = [*map(_address, given)]
        if 0 in addresses:
            check_memory(given)
        memory = copies.shelf.take(copies.room)
        wide = [memory.address + start for start in copies.starts]
        _convert(self.widen, [addresses[k] for k in copies.given], wide, copies.sizes)
        for k, address in zip(copies.given, wide, strict=False):
            addresses[k] = address
        *rounded, own = wide[len(copies.given) :]
        results = [*map(_address, made)]
        addresses += [*results[: self.pairs], *rounded]
        if self.pairs and stated:
            addresses.append(_address(given[-len(self.plan.ends)]))
        self.inner.run(addresses, stated, rows, own)
        _convert(self.narrow, rounded, results[self.pairs :], copies.made_sizes)
        copies.shelf.put_back(memory)
        return made[0], tuple(made[1:]), []


def _convert(
    function: _Conversion, sources: Iterable[int], targets: Iterable[int], sizes: Sequence[int]
) -> None:
    """Copy arrays of so many elements."""
    triples = zip(sources, targets, sizes)  # noqa: B905  # there may be further targets
    table = array("q", chain.from_iterable(triples))
    address, _ = table.buffer_info()
    function(address, len(sizes))


def half_call(plan: Plan, rows: Rows, directions: int, half: str) -> HalfCall:
    """Return the prepared call."""
    pairs = takes_pairs(plan, rows.layout, half)  # by lengths, too
    key = (*shared_kind(plan, rows, "forward"), directions, half, pairs)
    return prepared(plan, key, lambda: HalfCall(plan, rows, directions, half, pairs))
