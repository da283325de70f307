"""What a recurrent module refuses, with torch's exception types and messages that help."""

import numbers
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from cellwright.graph.cell import Cell
from cellwright.nn.layout import can_project

__all__ = [
    "check_order",
    "check_sizes",
    "reject_form",
    "reject_input",
    "reject_states",
    "several_states",
]


def check_sizes(
    cell: Cell,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
    bidirectional: bool,
    proj_size: int,
) -> None:
    """Refuse the arguments of a constructor that make no sense."""
    _check_dropout(dropout, num_layers)
    for name, flag in (("bias", bias), ("batch_first", batch_first)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, not {flag!r} ({_kind(flag)})")
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for name, size in sizes.items():
        # torch takes NumPy's integers for the layers alone
        if not isinstance(size, numbers.Integral if name == "num_layers" else int):
            raise TypeError(f"{name} must be a whole number (int), not {size!r} ({_kind(size)})")
        if size <= 0:
            raise ValueError(f"{name} must be at least 1, not {size}")
    if not isinstance(proj_size, int):
        raise TypeError(f"proj_size must be a whole number (int), not {proj_size!r}")
    if not 0 <= proj_size < hidden_size:
        raise ValueError(
            f"proj_size must be smaller than hidden_size ({hidden_size}), or 0 for no projection, "
            f"not {proj_size}"
        )
    directions = 2 if bidirectional else 1
    above = [directions * (proj_size or hidden_size)] if num_layers > 1 else []
    _check_cell(cell, [input_size, *above], hidden_size, proj_size)


def _check_dropout(dropout: float, num_layers: int) -> None:
    float(dropout)  # None is a TypeError, text a ValueError, as in torch
    if (
        isinstance(dropout, bool)
        or not isinstance(dropout, numbers.Number)
        or not 0 <= dropout <= 1
    ):
        raise ValueError(
            f"dropout must be a number from 0 to 1, the probability that an element is zeroed, "
            f"not {dropout!r}"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            f"dropout acts between layers, so dropout={dropout} has no effect with num_layers=1; "
            "stack at least two layers, or leave dropout at 0",
            stacklevel=5,  # the line that makes an RNN, LSTM or GRU
        )


def _check_cell(cell: Cell, widths: list[int], hidden_size: int, proj_size: int) -> None:
    """Refuse sizes that the cell's equations cannot join; ``widths``: of each layer's input."""
    for layer, width in enumerate(widths if cell.reads_input else []):
        if width != hidden_size:
            name = "D · H_out of the layer below" if layer else "input_size"
            raise ValueError(
                f"cell {cell.name} uses its input elementwise, beside the hidden units, so {name} "
                f"({width}) must equal hidden_size ({hidden_size})"
            )
    if proj_size and not can_project(cell):
        raise ValueError(
            f"cell {cell.name} uses {cell.states[0]} elementwise, beside the hidden units, so it "
            "cannot be narrower than they are: leave proj_size at 0"
        )


def reject_input(x: Any, weight: Tensor, input_size: int, packed_states: int = 0) -> None:
    """Refuse an input (L, N, H_in), or packed (sum, H_in), that does not fit; else return.

    Args:
        x: the input.
        weight: a parameter of the module.
        input_size: H_in.
        packed_states: of packed data, how many states the cell has; 0 of a dense tensor.
    """
    if x.dtype != weight.dtype and not _autocast():
        # torch finds this one late for a packed sequence and an LSTM, by another exception
        kind = RuntimeError if packed_states > 1 else ValueError
        module = f", or the module, module.to({x.dtype})" if x.is_floating_point() else ""
        raise kind(
            f"input is {x.dtype} and the weights are {weight.dtype}: convert the input, "
            f"input.to({weight.dtype}){module}"
        )
    if packed_states and x.dim() != 2:
        raise RuntimeError(
            f"the data of a PackedSequence must be (sum of lengths, H_in), not {tuple(x.shape)}; "
            "make it with torch.nn.utils.rnn.pack_sequence or pack_padded_sequence"
        )
    if x.shape[-1] != input_size:
        raise RuntimeError(
            f"the last dimension of input must be input_size, {input_size}, and is {x.shape[-1]}: "
            f"input has shape {tuple(x.shape)}; is batch_first as you mean it?"
        )
    if x.shape[0] == 0:
        raise RuntimeError(
            f"input has no steps: its shape, time first, is {tuple(x.shape)}; a sequence needs at "
            "least one"
        )
    if x.device != weight.device:
        raise RuntimeError(
            f"input is on {x.device} and the weights are on {weight.device}: move one of them, "
            f"input.to('{weight.device}') or module.to('{x.device}')"
        )


def reject_form(name: str, input_: Any) -> NoReturn:
    """Refuse an input that is neither 2-D, 3-D nor packed."""
    if not isinstance(input_, Tensor):
        raise AttributeError(
            f"{name} takes a tensor (L, N, H_in), or (L, H_in), or a PackedSequence as its input, "
            f"not {_kind(input_)}"
        )
    raise ValueError(
        f"{name} takes an input of 2 dimensions (L, H_in) or 3, (L, N, H_in) or with "
        f"batch_first=True (N, L, H_in), not {input_.dim()}: its shape is {tuple(input_.shape)}"
    )


def check_order(sorted_indices: Tensor, batch: int) -> None:
    """Refuse an order of a PackedSequence that does not name each of N sequences."""
    if sorted_indices.shape != (batch,):
        raise RuntimeError(
            f"expected sorted_indices of a PackedSequence to have shape ({batch},), one for each "
            f"sequence of its first step, got {tuple(sorted_indices.shape)}; "
            "pack_padded_sequence(…, enforce_sorted=False) makes them"
        )


def several_states(cell: Cell, hx: Any, *, batched: bool, packed: bool) -> Sequence[Tensor]:
    """Return the initial states of a cell that has several, given in another form than a tuple."""
    names = ", ".join(f"{state}_0" for state in cell.states)
    expected = f"cell {cell.name} takes its initial states as one tuple, ({names})"
    if isinstance(hx, Tensor):
        if packed:
            raise TypeError(f"{expected}, not as one tensor")
        few = hx.dim() == 0 or len(hx) < len(cell.states)
        if batched or few or len(hx) > len(cell.states):
            kind = IndexError if few else RuntimeError  # as it happens to torch
            raise kind(f"{expected}, not as one tensor of shape {tuple(hx.shape)}")
        return hx.unbind(0)
    if not isinstance(hx, tuple | list):
        raise TypeError(f"{expected}, not as {_kind(hx)}")
    if len(hx) < len(cell.states):
        raise IndexError(f"{expected}; the tuple given has {len(hx)} in it")
    if len(hx) > len(cell.states):
        raise RuntimeError(f"{expected}; the tuple given has {len(hx)} in it")
    return hx


def reject_states(
    cell: Cell, hx: Sequence[Any], lead: tuple[int, ...], sizes: Sequence[int], x: Tensor
) -> None:
    """Refuse initial states that do not fit; else return.

    Args:
        cell: the cell.
        hx: what was given, one for each state of the cell.
        lead: the shape that each must have, but for the last dimension.
        sizes: the last dimension of each.
        x: the input.
    """
    for name, state, size in zip(cell.states, hx, sizes, strict=True):
        if not isinstance(state, Tensor):
            hint = "; give a tensor, not a tuple" if len(sizes) == 1 else ""
            raise AttributeError(
                f"the initial state {name} must be a tensor of shape {(*lead, size)}, "
                f"not {_kind(state)}{hint}"
            )
        _reject_state(name, state, (*lead, size), x)


def _reject_state(name: str, state: Tensor, expected: tuple[int, ...], x: Tensor) -> None:
    form = "(D · num_layers, N, H_out)" if len(expected) == 3 else "(D · num_layers, H_out)"
    if state.shape != expected:
        dims = "batched 3-D" if len(expected) == 3 else "unbatched 2-D"
        raise RuntimeError(
            f"for this {dims} input the initial state {name} must be {form} = {expected}, and has "
            f"shape {tuple(state.shape)}; states are never batch first"
        )
    if state.dtype != x.dtype and not _autocast():
        raise RuntimeError(
            f"the initial state {name} is {state.dtype} and the input is {x.dtype}: "
            f"convert it with .to({x.dtype})"
        )
    if state.device != x.device:
        raise RuntimeError(
            f"the initial state {name} is on {state.device} and the input is on {x.device}: "
            f"move it with .to('{x.device}')"
        )


def _autocast() -> bool:
    return any(map(torch.is_autocast_enabled, ("cpu", "cuda")))


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
