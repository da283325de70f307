"""The short way of a layer's forward call: one direction, dense, everything contiguous.

Most of what a call of a small model costs is Python. A call of a given (L, N) differs from the last
one in addresses alone, so its struct is prepared once, and only addresses are filled in.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from torch import Tensor

from cellwright.cpu.frame import PACKED, TURN
from cellwright.cpu.memory import Blanks
from cellwright.cpu.plan import Plan, projects_first, share_of
from cellwright.cpu.walks import Field, Layout, Walk

__all__ = [
    "MISSING",
    "Prepared",
    "matrix_fields",
    "no_gaps",
    "plain",
    "prepare",
    "reads_raw",
    "remember",
]

_RAW_BATCH = 2
"""A single step of up to so many rows reads the weights as they lie: packing would cost more."""
_MOST_PREPARED = 256
"""How many calls a plan remembers; lengths beyond count anew."""


_address = Tensor.data_ptr
_has_no_gaps = Tensor.is_contiguous
MISSING: Any = object()
"""Stands for a call that was not prepared yet; None for one that cannot be."""


def no_gaps(tensors: Iterable[Tensor]) -> bool:
    """Whether all are contiguous, as a prepared call takes them."""
    return all(map(_has_no_gaps, tensors))


def reads_raw(layout: Layout) -> bool:
    """Whether a call that keeps nothing reads its weights as they lie."""
    return layout.steps == 1 and layout.batch <= _RAW_BATCH


def plain(plan: Plan) -> bool:
    """Whether the cell's walks need no memory but what the short way has room for."""
    return plan.step.stages == 1 and not plan.streamed


def matrix_fields(plan: Plan, walk: Walk) -> dict[str, Field]:
    """Return the distances of contiguous weights, without addresses."""
    return {b: (0, plan.inputs if b == "x" else plan.units, 1) for b in walk.matrices}


class Prepared:
    """A forward call with x (L, N, H_in) whose struct lacks nothing but addresses.

    Args:
        plan: the layer. layout: its rows, dense.
        keep: whether what the backward pass needs is kept.
    """

    def __init__(self, plan: Plan, layout: Layout, keep: bool) -> None:
        self.layout = layout  # the struct has the address of its bounds
        self.plan, self.walk = plan, plan.forward_walk
        self.keep, self.raw = keep, not keep and reads_raw(layout)
        self.share = share_of(plan, layout)
        self.ahead = not self.raw and projects_first(plan, layout, self.share)
        made = self._made()
        self.blanks = Blanks(plan.dtype, *(shape for shape, _ in made))
        self.kept = slice(1 + len(plan.ends), 1 + 2 * len(plan.ends) if keep else 0)
        self.end = self.walk.places.end
        names = [name for _, name in made]
        self.forms = [self._form(names, given) for given in (False, True)]
        self.turn = 0 if self.raw else 1  # what was packed last is in the caches

    def _form(
        self, made: list[str], given: bool
    ) -> "tuple[array[int], Callable[[list[int]], tuple[int, ...]], array[int]]":
        """Return the struct without addresses, and what puts addresses into their order.

        That takes those of x, the parameters, the initial states if ``given``, what is made, then
        those that are the same in each call, which come last.
        """
        plan, places, cell = self.plan, self.walk.places, self.plan.cell
        at, struct = places.buffers | {"packed": PACKED}, self._struct(given)
        known = [at["x"], *(places.matrices[b] for b in cell.bundles)]
        known += [at[f"bias.{b}"] for b in cell.bundles if plan.bias]
        known += [at[f"vector.{v}"] for v in cell.vectors]
        known += [at[start] for _, start, _ in plan.ends] if given else []
        known += [at[name] for name in made]
        number = {place: k for k, place in enumerate(known)}
        if self.ahead:
            number[at["gx"]] = number[at["a"]]
        if not self.keep:  # states are carried along in place
            number |= {at[state]: number[at[final]] for state, _, final in plan.ends[1:]}
        order = [number.get(p, len(known) + p - PACKED) for p in range(PACKED, self.end)]
        return struct, itemgetter(*order), struct[PACKED : self.end]

    def _made(self) -> list[tuple[tuple[int, ...], str]]:
        """Return the shape and the name of what is made anew on each call.

        The output, the final states; what is kept: the accumulators, then the states of all steps
        but the first; what only the walk needs.
        """
        plan, layout = self.plan, self.layout
        H, N, T = plan.units, layout.batch, layout.steps
        rows = T * N
        made: list[tuple[tuple[int, ...], str]] = [((T, N, H), plan.ends[0][0])]
        made += [((1, N, H), end) for _, _, end in plan.ends]
        if self.keep or self.ahead:
            made.append(((rows, len(plan.step.accumulators) * H), "a"))
        made += [((rows, H), state) for state, _, _ in plan.ends[1:]] if self.keep else []
        made += [] if self.raw else [((self.walk.packed_size,), "packed")]
        return made

    def _struct(self, given: bool) -> "array[int]":
        plan, walk, layout = self.plan, self.walk, self.layout
        H, N = plan.units, layout.batch
        width = len(plan.step.accumulators) * H
        sequence = (0, N * H, H)
        fields: dict[str, Field] = dict.fromkeys(walk.names, (0, 0, H))
        fields["x"] = (0, N * plan.inputs, plan.inputs)
        fields["a"] = (plan.dump.data_ptr(), 0, 0)
        fields["gx"] = plan.zero_row
        if self.keep or self.ahead:
            fields["a"] = (0, N * width, width)
        if self.ahead:
            fields["gx"] = fields["a"]
        for k, (state, start, _) in enumerate(plan.ends):
            if not given:
                fields[start] = plan.zero_row
            if k == 0 or self.keep:
                fields[state] = sequence
        matrices = matrix_fields(plan, walk)
        packed = int(not self.raw)
        return walk.struct(layout, False, self.share.threads, fields, matrices, packed, self.ahead)

    def __call__(
        self, given: Sequence[Tensor], stated: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Return the output, the final states and what is kept.

        Args:
            given: x, the parameters, and the initial states if ``stated``; all without gaps.
            stated: whether there are initial states.
        """
        made = self.blanks()
        form, arrange, fixed = self.forms[stated]
        struct = form[:]
        addresses = [*map(_address, given), *map(_address, made), *fixed]
        struct[PACKED : self.end] = array("q", arrange(addresses))
        struct[TURN] = self.turn
        if self.raw:
            self.turn ^= 1
        self.walk.run(struct, self.share)
        return made[0], tuple(made[1 : self.kept.start]), made[self.kept]


def remember(plan: Plan, key: tuple[int, ...], prepared: object) -> None:
    """Keep a prepared call for the next one like it."""
    if len(plan.prepared) >= _MOST_PREPARED:
        plan.prepared.clear()
    plan.prepared[key] = prepared


def prepare(plan: Plan, layout: Layout, threads: int, keep: bool) -> Prepared | None:
    """Return the prepared call, or None if the cell needs more memory than it has room for."""
    key = (layout.steps, layout.batch, threads, keep)
    found: Prepared | None = plan.prepared.get(key, MISSING)
    if found is MISSING:
        found = Prepared(plan, layout, keep) if plain(plan) else None
        remember(plan, key, found)
    return found
