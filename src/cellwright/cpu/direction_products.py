"""The gradients of a layer: all products after a walk in one call into machine code."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cellwright.cpu.direction import INPUT, Direction
from cellwright.cpu.memory import new_matrix
from cellwright.cpu.product import depth_table
from cellwright.cpu.products import ProductList, all_depths, one_depth
from cellwright.cpu.shifts import edges, shifts
from cellwright.graph.expr import Expr, leaf
from cellwright.graph.interpret import Weights

if TYPE_CHECKING:
    from array import array

__all__ = ["DirectionProducts"]


class DirectionProducts:
    """The products of one direction, whose walk is done."""

    def __init__(self, one: Direction) -> None:
        self.one, self.jobs = one, ProductList(one.plan.dtype, one.share.threads)

    def gradients(self, dx: Tensor | None, want_x: bool) -> tuple[Weights, Tensor | None]:
        """Return the gradients of all parameters and of the input, in one call into machine code.

        Args:
            dx: the input's gradient through the other direction, or None.
            want_x: whether the input's gradient is wanted.
        """
        one = self.one
        gradients = [t.new_empty(t.shape) for t in one.held.tensors]
        made = Weights(one.held.form, gradients)
        for source, value in one.sources():
            self._weights(made, source, value, all_depths(one.layout.rows))
        before = depth_table(shifts(one.rows, one.reverse))
        for state, stream in zip(one.plan.cell.states, one.streams, strict=True):
            self._weights(made, leaf("state", state), stream, before)
        if one.initial is not None:
            first = depth_table(edges(one.rows, one.reverse))
            for state, start in zip(one.plan.cell.states, one.initial, strict=True):
                self._weights(made, leaf("state", state), start, first, adds=True)
        self._sums(made)
        if want_x:
            dx = self._input(dx)
        self.jobs.run()
        return made, dx

    def _weights(
        self,
        made: Weights,
        source: Expr,
        value: Tensor,
        depths: "array[int]",
        *,
        adds: bool = False,
    ) -> None:
        """List the gradients of all weights that are multiplied with a matrix of rows."""
        item, da, bundles = self.one.plan.item, self.one.da.data_ptr(), made.bundles
        for f in self.one.plan.fed.get(source, ()):
            weights = bundles[f.bundle]
            width = weights.shape[1]
            left = (da + f.column * item, 1, self.one.width)
            result = (weights.data_ptr() + f.row * width * item, width)
            right = (value.data_ptr(), value.stride(0))
            self.jobs.add(left, right, result, (f.width, width), depths, adds=adds)

    def _sums(self, made: Weights) -> None:
        """List the gradients of biases and vectors: what the threads have summed up, added."""
        item, unit = self.one.plan.item, (self.one.plan.one.data_ptr(), 0, 0)
        depths = one_depth(len(self.one.db))
        for bundle, bias in made.biases.items():
            target = bias.data_ptr()
            for part in self.one.plan.bias_slices[bundle]:
                count = part.stop - part.start
                sums = (self.one.db.data_ptr() + part.start * item, self.one.width)
                self.jobs.add(unit, sums, (target, 0), (1, count), depths)
                target += count * item
        for name, vector in made.vectors.items():
            sums = (self.one.dvectors[name].data_ptr(), self.one.units)
            self.jobs.add(unit, sums, (vector.data_ptr(), 0), (1, self.one.units), depths)

    def _input(self, dx: Tensor | None) -> Tensor:
        """List the gradient of the input, added to that of the other direction."""
        fed, item = self.one.plan.fed.get(INPUT, ()), self.one.plan.item
        if self.one.dx is not None:
            dx = self.one.dx if dx is None else dx.add_(self.one.dx)
        if dx is None and not fed:
            return torch.zeros_like(self.one.inputs)
        adds = dx is not None
        if dx is None:
            dx = new_matrix(self.one.x, self.one.layout.rows, self.one.plan.inputs)
        bundles = self.one.held.bundles
        for f in fed:
            weights = bundles[f.bundle]
            step = weights.stride(0)
            left = (self.one.da.data_ptr() + f.column * item, self.one.width, 1)
            right = (weights.data_ptr() + f.row * step * item, step)
            result = (dx.data_ptr(), dx.stride(0))
            self.jobs.add(
                left, right, result, (len(dx), dx.shape[1]), all_depths(f.width), adds=adds
            )
            adds = True
        return dx
