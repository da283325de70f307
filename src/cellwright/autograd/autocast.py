"""What torch's autocast makes of a call on the CPU.

It may lower products, and need not: what kernels return takes on the dtypes that torch's operations
would return, whatever they work in.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import lcm

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
    lower = torch.get_autocast_dtype("cpu")
    few = _few(steps, len(cell.states))
    return _result_dtypes(cell, weights[0].form, x.dtype, own, all_weights, few, lower)


def _few(steps: int, states: int) -> int:
    """Return how many steps give results of the same dtypes.

    After some, no state's dtype changes but where states take turns, and then in a period of at
    most as many steps as there are states.
    """
    period = lcm(*range(1, states + 1))
    limit = 1 + states + period
    return steps if steps <= limit else limit - (limit - steps) % period


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
            _zeros((steps, 1, 1), x),
            None if states is None else [_zeros((len(weights), 1, 1), d) for d in states],
            [Weights(form, list(map(_zeros, shapes, own))) for own in weights],
            None,
            1,
        )
    return out.dtype, *_dtypes(finals)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="cpu")
