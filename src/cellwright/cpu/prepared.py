"""The short way of a layer's call: one direction, dense, everything contiguous.

Most of what a call of a small model costs is Python. A call of a given (L, N) differs from the last
one in addresses alone, so its struct is prepared once, and only addresses are filled in.
"""

from collections.abc import Sequence

from torch import Tensor

from cellwright.cpu.memory import new_matrix
from cellwright.cpu.plan import Kept, Plan, projects_first, threads_for
from cellwright.cpu.walks import Field, Layout, Walk
from cellwright.graph.interpret import Weights

__all__ = ["Prepared", "prepare", "prepare_backward", "reads_raw", "set_packed"]

_RAW_BATCH = 2
"""A single step of up to so many rows reads the weights as they lie: packing would cost more."""
_MOST_PREPARED = 256
"""How many calls a plan remembers; lengths beyond count anew."""
_PACKED = 8
"""Where the struct has the address of the packed weights; see ``cellwright.cpu.frame``."""


def reads_raw(layout: Layout) -> bool:
    """Whether a call that keeps nothing reads its weights as they lie."""
    return layout.steps == 1 and layout.batch <= _RAW_BATCH


def _matrices(plan: Plan, walk: Walk) -> dict[str, Field]:
    return {b: (0, plan.inputs if b == "x" else plan.units, 1) for b in walk.matrices}


class Prepared:
    """A forward call with x (L, N, H_in) whose struct lacks nothing but addresses."""

    def __init__(self, plan: Plan, layout: Layout, keep: bool) -> None:
        self.layout = layout  # the struct has the address of its bounds
        walk = self.walk = plan.forward_walk
        H, N, T = plan.units, layout.batch, layout.steps
        self.keep, self.raw = keep, not keep and reads_raw(layout)
        self.threads = threads_for(plan, layout)
        self.ahead = not self.raw and self.threads == 1 and projects_first(plan, layout)
        width = len(plan.step.accumulators) * H
        sequence = (0, N * H, H)
        fields: dict[str, Field] = dict.fromkeys(walk.names, (0, 0, H))
        fields["x"] = (0, N * plan.inputs, plan.inputs)
        fields["a"] = (plan.dump.data_ptr(), 0, 0)
        fields["gx"] = plan.zero_row
        if keep or self.ahead:
            fields["a"] = (0, N * width, width)
        if self.ahead:
            fields["gx"] = fields["a"]
        for k, (state, start, _) in enumerate(plan.ends):
            fields[start] = plan.zero_row
            if k == 0 or keep:
                fields[state] = sequence
        packed = int(not self.raw)
        matrices = _matrices(plan, walk)
        self.struct = walk.struct(layout, False, self.threads, fields, matrices, packed, self.ahead)
        self.out_shape, self.final_shape = (T, N, H), (1, N, H)
        self.stream_shape, self.a_shape = (T * N, H), (T * N, width)
        at = walk.position
        self.x_place, self.a_place, self.gx_place = at["x"], at["a"], at["gx"]
        self.state_places = [(at[s], at[start], at[final]) for s, start, final in plan.ends]
        bundles = plan.cell.bundles
        self.parameter_places = [walk.matrix_position[b] for b in bundles]
        self.parameter_places += [at[f"bias.{b}"] for b in bundles if plan.bias]
        self.parameter_places += [at[f"vector.{v}"] for v in plan.cell.vectors]
        self.row = H

    def __call__(
        self, x: Tensor, states: Sequence[Tensor] | None, held: Weights
    ) -> tuple[Tensor, tuple[Tensor, ...], Kept] | None:
        """Return the output, the final states and what is kept; None if a tensor has gaps."""
        if not x.is_contiguous():
            return None
        struct = self.struct.copy()
        struct[self.x_place] = x.data_ptr()
        for place, t in zip(self.parameter_places, held.tensors(), strict=True):
            if not t.is_contiguous():
                return None
            struct[place] = t.data_ptr()
        for s in states or ():
            if not s.is_contiguous():
                return None
        out = x.new_empty(self.out_shape)
        finals, streams = self._states(x, out, states, struct)
        a = None
        if self.keep or self.ahead:
            a = new_matrix(x, *self.a_shape)
            struct[self.a_place] = a.data_ptr()
            if self.ahead:
                struct[self.gx_place] = a.data_ptr()
        packed = None
        if not self.raw:
            packed = self.walk.pack_memory()
            set_packed(struct, packed)
        self.walk.run(struct, self.threads)
        del packed
        return out, tuple(finals), Kept(a, streams, [])

    def _states(
        self, x: Tensor, out: Tensor, states: Sequence[Tensor] | None, struct: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Make and address the final states, and where they are kept, the states of all steps."""
        finals: list[Tensor] = []
        streams: list[Tensor] = []
        for k, (place, start, end) in enumerate(self.state_places):
            final = x.new_empty(self.final_shape)
            finals.append(final)
            struct[end] = final.data_ptr()
            if k == 0:
                struct[place] = out.data_ptr()
            elif self.keep:
                stream = new_matrix(x, *self.stream_shape)
                streams.append(stream)
                struct[place] = stream.data_ptr()
            else:
                struct[place] = struct[end]  # carried along in place
            if states is not None:
                struct[start] = states[k].data_ptr()
                struct[start + 2] = self.row
        return finals, streams


def prepare(plan: Plan, layout: Layout, threads: int, keep: bool) -> Prepared | None:
    """Return the prepared call, or None if the cell needs more memory than it has room for."""
    key = (layout.steps, layout.batch, threads, keep)
    if key not in plan.prepared:
        if len(plan.prepared) >= _MOST_PREPARED:
            plan.prepared.clear()
        plain = plan.step.stages == 1 and not plan.streamed
        plan.prepared[key] = Prepared(plan, layout, keep) if plain else None
    found: Prepared | None = plan.prepared[key]
    return found


def prepare_backward(plan: Plan, layout: Layout, threads: int) -> list[int]:
    """Return the struct of a backward walk over contiguous dense sequences, without addresses."""
    key = (layout.steps, layout.batch, threads)
    found: tuple[list[int], Layout] | None = plan.prepared.get(key)
    if found is None:
        walk, H, N = plan.backward_walk, plan.units, layout.batch
        width = len(plan.step.accumulators) * H
        fields: dict[str, Field] = dict.fromkeys(walk.names, (0, 0, H))
        fields["a"] = fields["da"] = (0, N * width, width)
        fields["da.start"] = plan.zero_row
        fields["dy"] = fields["dx"] = (0, N * H, H)
        fields["x"] = (0, N * plan.inputs, plan.inputs)
        fields["db"] = (0, 0, width)
        for state, start, _ in plan.ends:
            fields[state] = (0, N * H, H)
            fields[start] = plan.zero_row
        struct = walk.struct(layout, True, threads, fields, _matrices(plan, walk), 1, False)
        found = plan.prepared[key] = (struct, layout)  # which keeps the bounds that it points to
    return found[0].copy()


def set_packed(struct: list[int], memory: Tensor) -> None:
    """Fill in where the packed weights go."""
    struct[_PACKED] = memory.data_ptr()
