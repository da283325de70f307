"""Whether tensors are as others were in all but values, told in one look.

torch's compiler asks this of what its code is called with, so torch answers in C++, in less time
than Python takes to read a single shape.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Guard", "guard"]

Guard = Callable[..., bool]
"""Takes as many tensors as it was made from; anything that is none is not alike."""
_Guards: Any = getattr(torch._C._dynamo.guards, "TensorGuards", None)


def guard(tensors: Sequence[Tensor]) -> Guard | None:
    """Return what tells whether other tensors are like these.

    Alike are class, dtype, device, sizes, strides, sign, whether a gradient is asked for, and what
    torch makes of operations at this moment: autocast, inference mode, dispatch modes, tracing,
    torch.func. Not compared are values, storage, grad mode and levels of forward-mode derivatives.

    None where this torch has no such check, or where a tensor stands twice: torch's check takes
    different tensors only, and answers False to one that is asked about twice.
    """
    if _Guards is None or len({*map(id, tensors)}) != len(tensors):
        return None
    made = _Guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
    found: Guard = made.check
    return found
