"""The short way of a forward pass that keeps nothing: one direction, dense, everything contiguous.

Most of what a single step of a small model costs is Python. A call of a given (L, N) differs from
the last one in addresses alone, so the struct is prepared once and only they are filled in.
"""

from collections.abc import Sequence

from torch import Tensor

from cellwright.cpu.plan import Plan, projects_first, threads_for
from cellwright.cpu.walks import Field, Layout, dense
from cellwright.graph.interpret import Weights

__all__ = ["Prepared", "prepare", "reads_raw"]

_RAW_BATCH = 2
"""A single step of up to so many rows reads the weights as they lie: packing would cost more."""


def reads_raw(layout: Layout) -> bool:
    """Whether a call reads its weights as they lie."""
    return layout.steps == 1 and layout.batch <= _RAW_BATCH


class Prepared:
    """A call with x (L, N, H_in) whose struct lacks nothing but addresses."""

    def __init__(self, plan: Plan, layout: Layout) -> None:
        walk = plan.forward_walk
        H, N, self.states = plan.units, layout.batch, plan.cell.states
        self.walk = walk
        self.raw = reads_raw(layout)
        self.threads = threads_for(plan, layout)
        self.ahead = not self.raw and self.threads == 1 and projects_first(plan, layout)
        width = len(plan.step.accumulators) * H
        fields: dict[str, Field] = dict.fromkeys(walk.names, (0, 0, H))
        fields["x"] = (0, N * plan.inputs, plan.inputs)
        fields[self.states[0]] = (0, N * H, H)
        fields["a"] = (plan.dump.data_ptr(), 0, 0)
        fields["gx"] = plan.zero_row
        if self.ahead:
            fields["a"] = fields["gx"] = (0, N * width, width)
        for state in self.states:
            fields[f"{state}.start"] = plan.zero_row
        matrices = {b: (0, plan.inputs if b == "x" else H, 1) for b in walk.matrices}
        packed = 0 if self.raw else 1
        self.template = walk.struct(
            layout, False, self.threads, fields, matrices, packed, self.ahead
        )
        self.out_shape, self.final_shape = (layout.steps, N, H), (1, N, H)
        self.a_shape = (layout.steps, N, width)
        self.x_place, self.out_place = walk.position["x"], walk.position[self.states[0]]
        self.state_places = [
            tuple(walk.position[n] for n in (s, f"{s}.start", f"{s}.final")) for s in self.states
        ]
        self.gx_places = walk.position["gx"], walk.position["a"]
        self.matrix_places = [walk.matrix_position[b] for b in plan.cell.bundles]
        self.bias_places = [walk.position[f"bias.{b}"] for b in plan.cell.bundles if plan.bias]
        self.vector_places = [walk.position[f"vector.{v}"] for v in plan.cell.vectors]
        self.row = H

    def __call__(
        self, x: Tensor, states: Sequence[Tensor] | None, held: Weights
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Return the output and the final states, or None where a tensor is not contiguous."""
        if not x.is_contiguous():
            return None
        struct = self.template.copy()
        struct[self.x_place] = x.data_ptr()
        for place, w in zip(self.matrix_places, held.bundles.values(), strict=True):
            if not w.is_contiguous():
                return None
            struct[place] = w.data_ptr()
        for place, b in zip(self.bias_places, held.biases.values(), strict=True):
            struct[place] = b.data_ptr()
        for place, v in zip(self.vector_places, held.vectors.values(), strict=True):
            struct[place] = v.data_ptr()
        finals: list[Tensor] = []
        for k, (place, start, end) in enumerate(self.state_places):
            final = x.new_empty(self.final_shape)
            struct[place] = struct[end] = final.data_ptr()
            finals.append(final)
            if states is not None:
                if not states[k].is_contiguous():
                    return None
                struct[start] = states[k].data_ptr()
                struct[start + 2] = self.row
        out = x.new_empty(self.out_shape)
        struct[self.out_place] = out.data_ptr()
        self._run(x, struct)
        return out, tuple(finals)

    def _run(self, x: Tensor, struct: list[int]) -> None:
        if self.raw:
            self.walk.run(struct, 1)
            return
        packed = self.walk.pack_memory()
        struct[_PACKED] = packed.data_ptr()
        if self.ahead:
            a = x.new_empty(self.a_shape)
            for place in self.gx_places:
                struct[place] = a.data_ptr()
            self.walk.run(struct, self.threads)
            del a
        else:
            self.walk.run(struct, self.threads)


_PACKED = 8
"""Where the struct has the address of the packed weights; see ``cellwright.cpu.frame``."""


def prepare(plan: Plan, steps: int, batch: int, threads: int) -> Prepared | None:
    """Return the prepared call, or None if the cell needs more memory than it has room for."""
    key = (steps, batch, threads)
    if key not in plan.prepared:
        plain = plan.step.stages == 1 and not plan.streamed
        plan.prepared[key] = Prepared(plan, dense(steps, batch)) if plain else None
    found: Prepared | None = plan.prepared[key]
    return found
