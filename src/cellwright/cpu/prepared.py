"""The short way of a layer's forward call: one direction, dense, everything contiguous.

Most of what a call of a small model costs is Python. A call of a given (L, N) differs from the last
one in addresses alone, so its struct is prepared once, and only addresses are filled in.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, empty_like

from cellwright.cpu.frame import PACKED
from cellwright.cpu.memory import in_huge_pages
from cellwright.cpu.plan import Plan, projects_first, share_of
from cellwright.cpu.walks import Field, Layout, Walk

if TYPE_CHECKING:
    from array import array

__all__ = ["MISSING", "Prepared", "matrix_fields", "plain", "prepare", "reads_raw", "remember"]

_RAW_BATCH = 2
"""A single step of up to so many rows reads the weights as they lie: packing would cost more."""
_MOST_PREPARED = 256
"""How many calls a plan remembers; lengths beyond count anew."""


MISSING: Any = object()
"""Stands for a call that was not prepared yet; None for one that cannot be."""


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
    """A forward call with x (L, N, H_in) whose struct lacks nothing but addresses."""

    def __init__(self, plan: Plan, layout: Layout, keep: bool) -> None:
        self.layout = layout  # the struct has the address of its bounds
        walk = self.walk = plan.forward_walk
        H, N, T = plan.units, layout.batch, layout.steps
        self.keep, self.raw = keep, not keep and reads_raw(layout)
        self.share = share_of(plan, layout)
        self.ahead = not self.raw and projects_first(plan, layout, self.share)
        self.struct = self._struct(plan)
        # what is made anew on each call; like these, which hold no memory
        self.like_out, self.like_final = plan.like(T, N, H), plan.like(1, N, H)
        self.like_stream = plan.like(T * N, H)
        self.like_a = plan.like(T * N, len(plan.step.accumulators) * H)
        self.like_packed = plan.like(walk.packed_size)
        at, bundles = walk.position, plan.cell.bundles
        self.x_place, self.a_place, self.gx_place = at["x"], at["a"], at["gx"]
        self.state_places = [(at[s], at[start], at[final]) for s, start, final in plan.ends]
        self.parameter_places = [
            *(walk.matrix_position[b] for b in bundles),
            *(at[f"bias.{b}"] for b in bundles if plan.bias),
            *(at[f"vector.{v}"] for v in plan.cell.vectors),
        ]
        self.row = H

    def _struct(self, plan: Plan) -> "array[int]":
        walk, layout = self.walk, self.layout
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
            fields[start] = plan.zero_row
            if k == 0 or self.keep:
                fields[state] = sequence
        matrices = matrix_fields(plan, walk)
        packed = int(not self.raw)
        return walk.struct(layout, False, self.share.threads, fields, matrices, packed, self.ahead)

    def __call__(
        self, x: Tensor, states: Sequence[Tensor] | None, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]] | None:
        """Return the output, the final states and what is kept; None if a tensor has gaps."""
        if not x.is_contiguous():
            return None
        struct = self.struct[:]
        struct[self.x_place] = x.data_ptr()
        for place, t in zip(self.parameter_places, parameters):  # noqa: B905  # checked before
            if not t.is_contiguous():
                return None
            struct[place] = t.data_ptr()
        for s in states or ():
            if not s.is_contiguous():
                return None
        out = empty_like(self.like_out)
        kept: list[Tensor] = []
        a = None
        if self.keep or self.ahead:
            a = in_huge_pages(empty_like(self.like_a))
            struct[self.a_place] = a.data_ptr()
            if self.ahead:
                struct[self.gx_place] = a.data_ptr()
            if self.keep:
                kept.append(a)
        finals = self._states(out, states, struct, kept)
        packed = None
        if not self.raw:
            packed = in_huge_pages(empty_like(self.like_packed))
            struct[PACKED] = packed.data_ptr()
        self.walk.run(struct, self.share)
        del a, packed
        return out, tuple(finals), kept

    def _states(
        self,
        out: Tensor,
        states: Sequence[Tensor] | None,
        struct: "array[int]",
        kept: list[Tensor],
    ) -> list[Tensor]:
        """Make and address the final states, and where they are kept, the states of all steps."""
        finals: list[Tensor] = []
        for k, (place, start, end) in enumerate(self.state_places):
            final = empty_like(self.like_final)
            finals.append(final)
            struct[end] = final.data_ptr()
            if k == 0:
                struct[place] = out.data_ptr()
            elif self.keep:
                stream = in_huge_pages(empty_like(self.like_stream))
                kept.append(stream)
                struct[place] = stream.data_ptr()
            else:
                struct[place] = struct[end]  # carried along in place
            if states is not None:
                struct[start] = states[k].data_ptr()
                struct[start + 2] = self.row
        return finals


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
