"""The gradients of a large layer: torch's matrix products over all steps at once."""

import torch
from torch import Tensor

from cellwright.cpu.direction import INPUT, Direction, columns, weight_rows
from cellwright.cpu.plan import Fed
from cellwright.cpu.shifts import shifts
from cellwright.graph.expr import leaf
from cellwright.graph.interpret import Weights

__all__ = ["LargeProducts"]


class LargeProducts:
    """The products of one direction, whose walk is done."""

    def __init__(self, one: Direction) -> None:
        self.one = one

    def gradients(self, dx: Tensor | None, want_x: bool) -> tuple[Weights, Tensor | None]:
        """Return the gradients of all parameters and of the input.

        Args:
            dx: the input's gradient through the other direction, or None.
            want_x: whether the input's gradient is wanted.
        """
        if want_x:
            dx = self.input(dx)
        return self.parameters(), dx

    def input(self, dx: Tensor | None) -> Tensor:
        """Return the gradient of the input, added to that of the other direction."""
        for f in self.one.plan.fed.get(INPUT, ()):
            left, right = columns(self.one.da, f), weight_rows(self.one.held.bundles[f.bundle], f)
            dx = torch.mm(left, right) if dx is None else dx.addmm_(left, right)
        if self.one.dx is not None:
            dx = self.one.dx if dx is None else dx.add_(self.one.dx)
        return torch.zeros_like(self.one.inputs) if dx is None else dx

    def parameters(self) -> Weights:
        """Return the gradients of weights, biases and per-unit vectors."""
        bundles: dict[str, Tensor] = {}
        for source, value in self.one.sources():
            for f in self.one.plan.fed.get(source, ()):
                self._put(bundles, f, columns(self.one.da, f).t(), value)
        self._state_products(bundles)
        total = self.one.db.sum(0) if self.one.db.shape[0] > 1 else self.one.db[0]
        biases: dict[str, Tensor] = {}
        for bundle in self.one.held.biases:
            pieces = [total[part] for part in self.one.plan.bias_slices[bundle]]
            # each bias has memory of its own: no two gradients may change together
            alone = len(pieces) == 1 and not biases
            biases[bundle] = pieces[0] if alone else torch.cat(pieces)
        vectors = {v: g.sum(0) for v, g in self.one.dvectors.items()}
        ordered = {b: bundles[b] for b in self.one.held.bundles}
        return Weights.of(ordered, biases, vectors)

    def _put(self, bundles: dict[str, Tensor], f: Fed, left: Tensor, right: Tensor) -> None:
        """Set the rows that ``f`` names of a weight's gradient to left · right."""
        whole = self.one.held.bundles[f.bundle]
        if f.width == whole.shape[0]:
            bundles[f.bundle] = torch.mm(left, right)
            return
        if f.bundle not in bundles:
            bundles[f.bundle] = torch.empty_like(whole)
        torch.mm(left, right, out=weight_rows(bundles[f.bundle], f))

    def _state_products(self, bundles: dict[str, Tensor]) -> None:
        """Multiply the gates' gradients by the states of the step before, in all sequences."""
        single = self.one.layout.rows == self.one.layout.batch  # nothing comes before the only step
        work = [
            (k, f)
            for k, state in enumerate(self.one.plan.cell.states)
            for f in self.one.plan.fed.get(leaf("state", state), ())
        ]
        starts: list[Tensor] = []  # taken first: what follows may clear the rows they read
        if self.one.initial is not None:
            edge = self.one.edge()
            starts = [torch.mm(columns(edge, f).t(), self.one.initial[k]) for k, f in work]
        pairs: dict[int, tuple[Tensor, Tensor]] = {}
        for k, f in work:
            if single:
                self._zero(bundles, f)
                continue
            if k not in pairs:
                pairs[k] = self._shifted(self.one.streams[k])
            da, before = pairs[k]
            self._put(bundles, f, columns(da, f).t(), before)
        for (_, f), start in zip(work, starts, strict=False):
            weight_rows(bundles[f.bundle], f).add_(start)

    def _zero(self, bundles: dict[str, Tensor], f: Fed) -> None:
        if f.bundle not in bundles:
            bundles[f.bundle] = torch.zeros_like(self.one.held.bundles[f.bundle])
        else:
            weight_rows(bundles[f.bundle], f).zero_()

    def _shifted(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of ``da`` and, beside them, the states of the step before.

        Rows at the start of a sequence are left out, or are 0 by the time this returns.
        """
        da = self.one.da
        if self.one.layout.counts is not None:
            later, earlier = self._neighbours()
            return da[later], stream[earlier]
        shift = self.one.layout.batch
        if self.one.rows.batch_first:
            # the row above is the step before, but for each sequence's first step
            self.one.edge().zero_()
            shift = 1
        if self.one.reverse:
            return da[:-shift], stream[shift:]
        return da[shift:], stream[:-shift]

    def _neighbours(self) -> tuple[Tensor, Tensor]:
        """Return the packed positions of all steps but the first, and of the steps before them."""
        runs = shifts(self.one.rows, self.one.reverse)
        later, earlier = (
            torch.cat([torch.arange(run[k], run[k] + run[2], device="cpu") for run in runs])
            for k in range(2)
        )
        return later, earlier
