"""The backward pass of a layer: a walk for each direction, then large matrix products.

The walk leaves the gradient of every accumulator at every step. What needs no order in time
follows from it in a few products over all steps at once: the gradients of weights and input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellwright.cpu.memory import new_matrix
from cellwright.cpu.plan import Fed, Kept, Plan, Rows, field, share_of, small
from cellwright.cpu.product import depth_table
from cellwright.cpu.products import ProductList, all_depths
from cellwright.cpu.shifts import edges, shifts
from cellwright.cpu.walks import Field, Layout, Walk
from cellwright.graph.expr import Expr, leaf
from cellwright.graph.interpret import Weights

if TYPE_CHECKING:
    from array import array

__all__ = ["Gradients", "backward_layer"]


@dataclass
class Gradients:
    """Gradients of one layer; None where not wanted."""

    x: Tensor | None
    states: list[Tensor]
    weights: list[Weights]


def backward_layer(
    plan: Plan,
    layout: Layout,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    out: Tensor,
    kept: Sequence[Kept],
    dy: Tensor | None,
    dfinals: Sequence[Tensor | None],
    want_x: bool,
    last: bool,
) -> Gradients:
    """Return the gradients of everything that went into ``forward_layer``.

    Args:
        plan: the layer.
        layout: how the rows of ``x`` lie.
        x: the input.
        states: the initial states, or None.
        weights: the parameters of each direction.
        out: the output of the forward pass.
        kept: what the forward pass kept of each direction.
        dy: cotangent of the output, or None for 0.
        dfinals: cotangent of each final state (D, N, H), or None for 0.
        want_x: whether the input's gradient is wanted.
        last: whether ``kept`` is not needed again, so that its memory may be written over.
    """
    D, H, N = len(weights), plan.units, layout.batch
    rows = Rows(x, layout)
    dstates = [x.new_zeros(D, N, H) if g is None else _copy(g) for g in dfinals]
    if dy is not None and dy.stride(-1) != 1:
        dy = dy.contiguous()
    outputs = rows.matrix(out)
    dx: Tensor | None = None
    found: list[Weights] = []
    for d, held in enumerate(weights):
        one = _Direction(plan, rows, x, held, d == 1, kept[d], last)
        own = dstates if D == 1 else [g[d] for g in dstates]
        if states is not None:
            one.initial = [s[d] for s in states]
        one.walk(_half(outputs, d, D, H), None if dy is None else _half(dy, d, D, H), own)
        if states is not None:
            one.add_state_gradients([g[d] for g in dstates])
        if small(plan, layout):
            gradients, dx = one.small_products(dx, want_x)
            found.append(gradients)
            continue
        if want_x:
            dx = one.input_gradient(dx)
        found.append(one.weight_gradients())
    return Gradients(None if dx is None else rows.sequence(dx), dstates, found)


_INPUT = leaf("input")


def _half(t: Tensor, d: int, directions: int, units: int) -> Tensor:
    """Return the part of an output that belongs to direction ``d``."""
    return t if directions == 1 else t.narrow(-1, d * units, units)


def _columns(da: Tensor, f: Fed) -> Tensor:
    return da if f.width == da.shape[1] else da.narrow(1, f.column, f.width)


def _rows(weights: Tensor, f: Fed) -> Tensor:
    return weights if f.width == weights.shape[0] else weights.narrow(0, f.row, f.width)


def _copy(t: Tensor) -> Tensor:
    return t.clone(memory_format=torch.contiguous_format)


class _Direction:
    """One direction's backward pass."""

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
        self.width = len(self.step.accumulators) * plan.units
        self.inputs = rows.matrix(x)
        assert kept.accumulators is not None
        if last and self.step.stages == 1:  # each accumulator is read just before it is written
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
        self.db = x.new_zeros(share.threads, self.width)
        self.dvectors = {v: x.new_zeros(share.threads, self.units) for v in plan.cell.vectors}
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
        fields["db"] = (self.db.data_ptr(), 0, self.width)
        fields["x"] = field(self.x)
        fields["dx"] = zero if self.dx is None else rows.field(self.dx)
        for name, vector in self.held.vectors.items():
            fields[f"vector.{name}"] = (vector.data_ptr(), 0, 0)
            fields[f"dvector.{name}"] = (self.dvectors[name].data_ptr(), 0, H)
        for k, (state, start, _) in enumerate(self.plan.ends):
            fields[state] = rows.field(self.streams[k])
            fields[start] = zero
            if self.initial is not None:
                fields[start] = (self.initial[k].data_ptr(), 0, self.initial[k].stride(0))
            fields[f"d{state}"] = (dstates[k].data_ptr(), 0, H)
        missing = [name for name in walk.names if name not in fields]
        scratch = self.x.new_empty(len(missing), self.layout.batch, H) if missing else self.x
        for name, rows in zip(missing, scratch, strict=False):
            fields[name] = (rows.data_ptr(), 0, H)
        return fields, [scratch]

    def input_gradient(self, dx: Tensor | None) -> Tensor:
        """Return the gradient of the input, added to that of the other direction."""
        for f in self.plan.fed.get(_INPUT, ()):
            left, right = _columns(self.da, f), _rows(self.held.bundles[f.bundle], f)
            dx = torch.mm(left, right) if dx is None else dx.addmm_(left, right)
        if self.dx is not None:
            dx = self.dx if dx is None else dx.add_(self.dx)
        return torch.zeros_like(self.inputs) if dx is None else dx

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
        return self.da[torch.tensor(index)]

    def add_state_gradients(self, dstates: list[Tensor]) -> None:
        """Add what reaches the initial states through their products with weights."""
        edge = self.edge()
        for state, gradient in zip(self.plan.cell.states, dstates, strict=True):
            for f in self.plan.fed.get(leaf("state", state), ()):
                product = (_columns(edge, f), _rows(self.held.bundles[f.bundle], f))
                gradient.add_(torch.mm(*product))  # addmm would round every term to the sum's size

    def small_products(self, dx: Tensor | None, want_x: bool) -> tuple[Weights, Tensor | None]:
        """Return the gradients of all parameters and of the input, in one call into machine code.

        Args:
            dx: the input's gradient through the other direction, or None.
            want_x: whether the input's gradient is wanted.
        """
        jobs = ProductList(self.plan.dtype, self.share.threads)
        gradients = [t.new_empty(t.shape) for t in self.held.tensors]
        made = Weights(self.held.form, gradients)
        whole = all_depths(self.layout.rows)
        sources = [(_INPUT, self.inputs)]
        sources += zip(self.step.expressions, self.kept.expressions, strict=True)
        for source, value in sources:
            self._list_weights(jobs, made, source, value, whole)
        before = depth_table(shifts(self.rows, self.reverse))
        for k, state in enumerate(self.plan.cell.states):
            source = leaf("state", state)
            self._list_weights(jobs, made, source, self.streams[k], before)
            if self.initial is not None:
                first = depth_table(edges(self.rows, self.reverse))
                self._list_weights(jobs, made, source, self.initial[k], first, adds=True)
        self._list_sums(jobs, made)
        if want_x:
            dx = self._list_input_gradient(jobs, dx)
        jobs.run()
        return made, dx

    def _list_weights(
        self,
        jobs: ProductList,
        made: Weights,
        source: Expr,
        value: Tensor,
        depths: "array[int]",
        *,
        adds: bool = False,
    ) -> None:
        """List the gradients of all weights that are multiplied with a matrix of rows."""
        item, da, bundles = self.plan.item, self.da.data_ptr(), made.bundles
        for f in self.plan.fed.get(source, ()):
            weights = bundles[f.bundle]
            width = weights.shape[1]
            left = (da + f.column * item, 1, self.width)
            result = (weights.data_ptr() + f.row * width * item, width)
            right = (value.data_ptr(), value.stride(0))
            jobs.add(left, right, result, (f.width, width), depths, adds=adds)

    def _list_sums(self, jobs: ProductList, made: Weights) -> None:
        """List the gradients of biases and vectors: what the threads have summed up, added."""
        item, one = self.plan.item, (self.plan.one.data_ptr(), 0, 0)
        depths = all_depths(self.share.threads)
        for bundle, bias in made.biases.items():
            target = bias.data_ptr()
            for columns in self.plan.bias_slices[bundle]:
                count = columns.stop - columns.start
                sums = (self.db.data_ptr() + columns.start * item, self.width)
                jobs.add(one, sums, (target, 0), (1, count), depths)
                target += count * item
        for name, vector in made.vectors.items():
            sums = (self.dvectors[name].data_ptr(), self.units)
            jobs.add(one, sums, (vector.data_ptr(), 0), (1, self.units), depths)

    def _list_input_gradient(self, jobs: ProductList, dx: Tensor | None) -> Tensor:
        fed, item = self.plan.fed.get(_INPUT, ()), self.plan.item
        if self.dx is not None:
            dx = self.dx if dx is None else dx.add_(self.dx)
        if dx is None and not fed:
            return torch.zeros_like(self.inputs)
        adds = dx is not None
        if dx is None:
            dx = new_matrix(self.x, self.layout.rows, self.plan.inputs)
        bundles = self.held.bundles
        for f in fed:
            weights = bundles[f.bundle]
            step = weights.stride(0)
            left = (self.da.data_ptr() + f.column * item, self.width, 1)
            right = (weights.data_ptr() + f.row * step * item, step)
            result = (dx.data_ptr(), dx.stride(0))
            jobs.add(left, right, result, (len(dx), dx.shape[1]), all_depths(f.width), adds=adds)
            adds = True
        return dx

    def weight_gradients(self) -> Weights:
        """Return the gradients of weights, biases and per-unit vectors."""
        bundles: dict[str, Tensor] = {}
        sources = [
            (_INPUT, self.inputs),
            *zip(self.step.expressions, self.kept.expressions, strict=True),
        ]
        for source, value in sources:
            for f in self.plan.fed.get(source, ()):
                self._put(bundles, f, _columns(self.da, f).t(), value)
        self._state_products(bundles)
        total = self.db.sum(0) if self.db.shape[0] > 1 else self.db[0]
        biases: dict[str, Tensor] = {}
        for bundle in self.held.biases:
            pieces = [total[columns] for columns in self.plan.bias_slices[bundle]]
            # each bias has memory of its own: no two gradients may change together
            alone = len(pieces) == 1 and not biases
            biases[bundle] = pieces[0] if alone else torch.cat(pieces)
        vectors = {v: g.sum(0) for v, g in self.dvectors.items()}
        ordered = {b: bundles[b] for b in self.held.bundles}
        return Weights.of(ordered, biases, vectors)

    def _put(self, bundles: dict[str, Tensor], f: Fed, left: Tensor, right: Tensor) -> None:
        """Set the rows that ``f`` names of a weight's gradient to left · right."""
        whole = self.held.bundles[f.bundle]
        if f.width == whole.shape[0]:
            bundles[f.bundle] = torch.mm(left, right)
            return
        if f.bundle not in bundles:
            bundles[f.bundle] = torch.empty_like(whole)
        torch.mm(left, right, out=_rows(bundles[f.bundle], f))

    def _state_products(self, bundles: dict[str, Tensor]) -> None:
        """Multiply the gates' gradients by the states of the step before, in all sequences."""
        single = self.layout.rows == self.layout.batch  # nothing comes before the only step
        work = [
            (k, f)
            for k, state in enumerate(self.plan.cell.states)
            for f in self.plan.fed.get(leaf("state", state), ())
        ]
        starts: list[Tensor] = []  # taken first: what follows may clear the rows they read
        if self.initial is not None:
            edge = self.edge()
            starts = [torch.mm(_columns(edge, f).t(), self.initial[k]) for k, f in work]
        pairs: dict[int, tuple[Tensor, Tensor]] = {}
        for k, f in work:
            if single:
                self._zero(bundles, f)
                continue
            if k not in pairs:
                pairs[k] = self._shifted(self.streams[k])
            da, before = pairs[k]
            self._put(bundles, f, _columns(da, f).t(), before)
        for (_, f), start in zip(work, starts, strict=False):
            _rows(bundles[f.bundle], f).add_(start)

    def _zero(self, bundles: dict[str, Tensor], f: Fed) -> None:
        if f.bundle not in bundles:
            bundles[f.bundle] = torch.zeros_like(self.held.bundles[f.bundle])
        else:
            _rows(bundles[f.bundle], f).zero_()

    def _shifted(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of ``da`` and, beside them, the states of the step before.

        Rows at the start of a sequence are left out, or are 0 by the time this returns.
        """
        da = self.da
        if self.layout.counts is not None:
            later, earlier = self._neighbours()
            return da[later], stream[earlier]
        shift = self.layout.batch
        if self.rows.batch_first:
            # the row above is the step before, but for each sequence's first step
            self.edge().zero_()
            shift = 1
        if self.reverse:
            return da[:-shift], stream[shift:]
        return da[shift:], stream[:-shift]

    def _neighbours(self) -> tuple[Tensor, Tensor]:
        """Return the packed positions of all steps but the first, and of the steps before them."""
        counts, starts = self.layout.counts, self.layout.starts
        assert counts is not None
        assert starts is not None
        later, earlier = [], []
        for t in range(1, len(counts)):
            rows = torch.arange(counts[t])
            later.append(rows + starts[t])
            earlier.append(rows + starts[t - 1])
        ahead, behind = torch.cat(later), torch.cat(earlier)
        return (behind, ahead) if self.reverse else (ahead, behind)
