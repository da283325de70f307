"""One direction's backward walk, and what it leaves for the products after it."""

import torch
from torch import Tensor

from cellwright.cpu.frame import SUM_ROWS
from cellwright.cpu.memory import new_matrix
from cellwright.cpu.plan import Fed, Kept, Plan, Rows, field, share_of
from cellwright.cpu.walks import Field, Walk
from cellwright.graph.expr import Expr, leaf
from cellwright.graph.interpret import Weights

__all__ = ["INPUT", "Direction", "columns", "weight_rows"]

INPUT = leaf("input")


def columns(da: Tensor, f: Fed) -> Tensor:
    """Return the columns of the accumulators' gradients that ``f`` names."""
    return da if f.width == da.shape[1] else da.narrow(1, f.column, f.width)


def weight_rows(weights: Tensor, f: Fed) -> Tensor:
    """Return the rows of a weight, or of its gradient, that ``f`` names."""
    return weights if f.width == weights.shape[0] else weights.narrow(0, f.row, f.width)


class Direction:
    """One direction's backward pass.

    Attributes:
        da: the gradient of every accumulator at every step, a matrix of rows.
        streams: every state at every step, matrices of rows; known once the walk is done.
        initial: the initial states (N, H), or None.
    """

    initial: list[Tensor] | None = None

    def __init__(
        self,
        plan: Plan,
        rows: Rows,
        x: Tensor,
        held: Weights,
        reverse: bool,
        kept: Kept,
        last: bool,
    ) -> None:
        self.plan, self.rows, self.layout, self.x, self.held = plan, rows, rows.layout, x, held
        self.reverse, self.kept = reverse, kept
        self.step, self.units = plan.step, plan.units
        self.width = plan.accumulators
        self.inputs = rows.matrix(x)
        assert kept.accumulators is not None
        if last and self.step.rounds == 1:  # each accumulator is read just before it is written
            self.da = kept.accumulators
        else:
            self.da = new_matrix(x, self.layout.rows, self.width)
        self.dx: Tensor | None = None

    def walk(self, out: Tensor, dy: Tensor | None, dstates: list[Tensor]) -> None:
        """Go through the steps against the forward direction.

        Args:
            out: what this direction put out, a matrix of rows.
            dy: its cotangent, a sequence, or None for 0.
            dstates: the cotangents of the final states, N rows each; they become those of the
                initial states, but for what reaches these through products with weights.
        """
        plan, x = self.plan, self.x
        share = self.share = share_of(plan, self.layout)
        self.streams = [out, *self.kept.states]
        rows = SUM_ROWS * share.threads
        self.db = x.new_zeros(rows, self.width)
        self.dvectors = {v: x.new_zeros(rows, self.units) for v in plan.cell.vectors}
        if plan.reads_input:
            self.dx = new_matrix(x, self.layout.rows, self.units)
        fields, scratch = self._fields(plan.backward_walk, dy, dstates)
        plan.backward_walk(self.layout, not self.reverse, share, fields, self.held.bundles)
        del scratch

    def _fields(
        self, walk: Walk, dy: Tensor | None, dstates: list[Tensor]
    ) -> tuple[dict[str, Field], list[Tensor]]:
        H, zero, rows = self.units, self.plan.zero_row, self.rows
        assert self.kept.accumulators is not None
        fields: dict[str, Field] = {"da": rows.field(self.da), "da.start": zero}
        fields["a"] = rows.field(self.kept.accumulators)
        fields["dy"] = zero if dy is None else field(dy)
        fields["db"] = (self.db.data_ptr(), 0, SUM_ROWS * self.width)
        fields["x"] = field(self.x)
        fields["dx"] = zero if self.dx is None else rows.field(self.dx)
        for name, vector in self.held.vectors.items():
            fields[f"vector.{name}"] = (vector.data_ptr(), 0, 0)
            fields[f"dvector.{name}"] = (self.dvectors[name].data_ptr(), 0, SUM_ROWS * H)
        for k, (state, start, _) in enumerate(self.plan.ends):
            fields[state] = rows.field(self.streams[k])
            fields[start] = zero
            if self.initial is not None:
                fields[start] = (self.initial[k].data_ptr(), 0, self.initial[k].stride(0))
            fields[f"d{state}"] = (dstates[k].data_ptr(), 0, self.plan.width(state))
        missing = [name for name in walk.names if name not in fields]
        scratch = self.x.new_empty(len(missing), self.layout.batch, H) if missing else self.x
        for name, rows in zip(missing, scratch, strict=False):
            fields[name] = (rows.data_ptr(), 0, H)
        return fields, [scratch]

    def edge(self) -> Tensor:
        """Return the rows of ``da`` at the first step of each sequence, (N, width)."""
        layout = self.layout
        if layout.counts is None or layout.starts is None:
            return self.rows.sequence(self.da)[-1 if self.reverse else 0]
        if not self.reverse:
            return self.da[: layout.batch]
        index = [0] * layout.batch
        for start, count in zip(layout.starts, layout.counts, strict=True):
            index[:count] = range(start, start + count)
        return self.da[torch.tensor(index, device="cpu")]

    def add_state_gradients(self, dstates: list[Tensor]) -> None:
        """Add what reaches the initial states through their products with weights."""
        edge = self.edge()
        for state, gradient in zip(self.plan.cell.states, dstates, strict=True):
            for f in self.plan.fed.get(leaf("state", state), ()):
                product = (columns(edge, f), weight_rows(self.held.bundles[f.bundle], f))
                gradient.add_(torch.mm(*product))  # addmm would round every term to the sum's size

    def sources(self) -> list[tuple[Expr, Tensor]]:
        """Return what is multiplied with weights besides the states, with its matrix of rows."""
        expressions = zip(self.step.expressions, self.kept.expressions, strict=True)
        return [(INPUT, self.inputs), *expressions]
