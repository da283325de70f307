"""The node that a layer's call is in autograd's graph."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from cellwright.autograd.gradient import Call, check_saved, keeps_graph

__all__ = ["Differentiable", "Widened", "apply"]


class Differentiable(Protocol):
    """A call that the operation runs, and whose gradients it asks for."""

    @property
    def call(self) -> Call:
        """What it is besides its tensors."""

    @property
    def reads_output(self) -> bool:
        """Whether its gradients follow from the output that it returned."""

    def forward(
        self, tensors: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Return the output, the final states and what is kept for the backward pass."""

    def differentiate(
        self, needs: Sequence[bool], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the gradients of the call's tensors; see ``gradient.differentiate``."""


class Widened:
    """A call of float32 that takes tensors of half precision, in one node of autograd's graph.

    Args:
        inner: the call. results: the dtypes of its output and its final states.
    """

    reads_output = False  # which was rounded

    def __init__(self, inner: Differentiable, results: Sequence[torch.dtype]) -> None:
        self.inner, self.results = inner, results

    @property
    def call(self) -> Call:
        """What it is besides its tensors."""
        return self.inner.call

    def forward(
        self, tensors: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Return results, rounded; what is kept starts with the output as it was."""
        out, finals, kept = self.inner.forward([*map(Tensor.float, tensors)], keep)
        rounded, *ends = map(Tensor.to, (out, *finals), self.results)
        return rounded, tuple(ends), [out, *kept]

    def differentiate(
        self, needs: Sequence[bool], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """Return the gradients of the call's tensors in their dtypes.

        These are widened anew: graphs of many calls would hold a copy of the weights for each.
        """
        count = self.call.arity
        given, inner = saved[:count], [*map(Tensor.float, saved[:count]), *saved[count + 1 :]]
        wide = [None if g is None else g.float() for g in cotangents]
        found = self.inner.differentiate(needs, inner, wide)
        pairs = zip(found, given, strict=True)
        return [None if g is None else g.to(t.dtype) for g, t in pairs]


_hooks: Callable[[bool], object] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None
)
"""Whether hooks take over what is saved: offloading, checkpoints."""


class _Layer(torch.autograd.Function):
    """A layer whose backward pass is the derived walk.

    The output is the caller's, who may change it in place, as torch.nn allows for most layers. So
    it is kept beside what autograd saves, which would refuse it then, with the version it has. What
    hooks take over has no version: they get a copy.
    """

    @staticmethod
    def forward(ctx: Any, call: Differentiable, *tensors: Tensor) -> tuple[Tensor, ...]:
        out, finals, inner = call.forward(tensors, keep=True)
        ctx.call = call
        if _hooks(True) is None:
            ctx.output = out.detach() if call.reads_output else out.new_empty(0), out._version
            ctx.save_for_backward(*tensors, *inner)
        else:
            ctx.output = None
            ctx.save_for_backward(*tensors, out.clone(), *inner)
        ctx.set_materialize_grads(False)
        return out, *finals

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        needs, saved, call = ctx.needs_input_grad[1:], ctx.saved_tensors, ctx.call
        if ctx.output is not None:
            count, (out, version) = len(needs), ctx.output
            changed = call.reads_output and out._version != version
            saved = (*saved[:count], out, *saved[count:])
            if changed:
                saved = _made_again(call, saved)
            if not keeps_graph():
                ctx.output = None
        return None, *call.differentiate(needs, saved, cotangents)


def _made_again(call: Differentiable, saved: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return what was saved, the output and all behind it as another forward pass makes them."""
    check_saved(call.call, saved)
    tensors = saved[: call.call.arity]
    out, _, inner = call.forward(tensors, keep=True)
    return *tensors, out, *inner


_parent: Any = super(torch.autograd.Function, _Layer)
apply: Callable[..., tuple[Tensor, ...]] = _parent.apply
"""Run a ``Differentiable`` call with its tensors.

This is what ``_Layer.apply`` calls in the end; what comes before is for functions that torch.func
transforms, and here that is an obstacle.
"""
