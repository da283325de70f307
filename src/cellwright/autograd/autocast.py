"""What torch's autocast makes of a call on the CPU.

It may lower products, and need not: kernels go on in float32, and what they return takes on the
dtypes that torch's operations would return.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cellwright.cpu.call.plan import plan_of
from cellwright.graph.cell import Cell
from cellwright.graph.interpret import Form, Weights, interpret_layer

__all__ = ["autocasts", "result_dtypes"]

_Dtypes = tuple[torch.dtype, ...]


def autocasts() -> bool:
    """Whether autocast is on for the CPU."""
    return torch.is_autocast_enabled("cpu")


def result_dtypes(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    steps: int,
) -> _Dtypes:
    """Return the dtypes of the output and the final states of a call under this autocast."""
    own = None if states is None else _dtypes(states)
    all_weights = tuple(_dtypes(w.tensors) for w in weights)
    enough = min(steps, 1 + len(cell.states))  # after which no state's dtype changes any more
    lower = torch.get_autocast_dtype("cpu")
    return _result_dtypes(cell, weights[0].form, x.dtype, own, all_weights, enough, lower)


def _dtypes(tensors: Sequence[Tensor]) -> _Dtypes:
    return tuple(t.dtype for t in tensors)


@lru_cache(maxsize=1024)
def _result_dtypes(
    cell: Cell,
    form: Form,
    x: torch.dtype,
    states: _Dtypes | None,
    weights: Sequence[_Dtypes],
    steps: int,
    lower: torch.dtype,
) -> _Dtypes:
    """Run a layer of one unit as torch does where autocast lowers to ``lower``."""
    shapes = plan_of(cell, 1, 1, 1, "float32", bool(form.biases)).shapes
    with torch.no_grad(), torch.autocast("cpu", lower):
        out, finals = interpret_layer(
            cell,
            torch.zeros(steps, 1, 1, dtype=x),
            None if states is None else [torch.zeros(len(weights), 1, 1, dtype=d) for d in states],
            [Weights(form, list(map(_zeros, shapes, own))) for own in weights],
            None,
            1,
        )
    return out.dtype, *_dtypes(finals)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="cpu")
