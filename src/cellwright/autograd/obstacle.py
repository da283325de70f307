"""What keeps a call from a kernel."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cellwright.cpu.machine.memory import lacks_memory
from cellwright.cpu.machine.target import DTYPES, HALVES
from cellwright.graph.interpret import Weights

__all__ = [
    "DTYPE_NAMES",
    "HALF_NAMES",
    "backward_obstacle",
    "forward_derivatives",
    "functorch_level",
    "obstacle",
]

DTYPE_NAMES = {getattr(torch, name): name for name in DTYPES}
"""What kernels call a dtype."""
HALF_NAMES = {getattr(torch, name): name for name in HALVES}
"""The same of dtypes whose numbers they take as float32."""
_functorch = torch._C._functorch
_PLAIN = {Tensor, torch.nn.Parameter}
_negated = Tensor.is_neg
_is_compiling, _tracing_state = torch.compiler.is_compiling, torch._C._get_tracing_state
functorch_level: Callable[[], int | None] = _functorch.maybe_current_level
"""How deep torch.func transforms what runs now; None: not at all."""
_is_wrapped: Callable[[Tensor], bool] = _functorch.is_functorch_wrapped_tensor
_is_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
_forward_ad = torch.autograd.forward_ad


def obstacle(x: Tensor, weights: Sequence[Weights], states: Sequence[Tensor] = ()) -> str | None:
    """Return why no kernel can take this call, or None; half precision it takes as float32."""
    if x.dtype not in DTYPE_NAMES and x.dtype not in HALF_NAMES:
        return f"kernels take floating-point numbers, not {x.dtype}".replace("torch.", "")
    if not x.is_cpu:
        return f"kernels run on the CPU, and the input is on {x.device}"
    cause = _transformation(x)
    if cause is not None:
        return cause
    tensors = [x, *states, *(t for w in weights for t in w.tensors)]
    if not _PLAIN.issuperset(map(type, tensors)):
        return "a subclass of Tensor need not have memory that a kernel can read"
    if any(map(_negated, tensors)):
        return "the sign of a tensor is yet to be changed; resolve_neg() makes it a plain one"
    if any(map(lacks_memory, tensors)):
        return "a tensor has no memory: it stands for zeros, or its storage was freed"
    return None


def _transformation(x: Tensor) -> str | None:
    """Return what torch makes of the layer's operations other than to run them, or None."""
    if _is_compiling():
        return "torch.compile traces the layer as torch operations"
    if _tracing_state() is not None:
        return "torch.jit.trace records the layer as torch operations"
    if functorch_level() is not None or _is_wrapped(x):
        return "torch.func transforms the layer"
    if forward_derivatives():
        return "forward-mode derivatives are asked for"
    return None


def forward_derivatives() -> bool:
    """Whether forward-mode derivatives are asked for."""
    return _forward_ad._current_level >= 0


def backward_obstacle(cotangents: Sequence[Tensor | None]) -> str | None:
    """Return why no kernel can take this backward pass, or None."""
    given = [g for g in cotangents if g is not None]
    if torch.is_grad_enabled():
        return "a gradient that can be differentiated again (create_graph=True) is asked for"
    if any(map(_is_batched, given)):
        return "gradients of several cotangents at once (is_grads_batched=True) are asked for"
    if functorch_level() is not None or any(map(_is_wrapped, given)):
        return "torch.func transforms the backward pass"
    if not _PLAIN.issuperset(map(type, given)):
        return "a cotangent's subclass of Tensor need not have memory that a kernel can read"
    return None
