"""A trained layer seen from inside: each gate and state of its cell at each step of a sequence.

Shapes: L steps, H_in features of a step, H units.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from cellwright.graph.cell import Cell
from cellwright.graph.interpret import Weights, interpret_layer, interpret_step
from cellwright.nn import Recurrent
from cellwright.nn.layout import name_parameters
from cellwright.printing.mathml import MATHML
from cellwright.printing.naming import Equation, Name, Reading
from cellwright.printing.notation import UNICODE

__all__ = ["Kind", "Trace", "look_inside"]


class Kind(StrEnum):
    """What a named value is to its cell."""

    GATE = "gate"
    STATE = "state"
    VALUE = "value"


@dataclass(frozen=True)
class Trace:
    """One named value of a cell over time.

    Attributes:
        name: as the equations call it, "f_t".
        mathml: the same in MathML.
        kind: a gate is the result of a sigmoid that is no state.
        unit_interval: whether it lies between 0 and 1 by its equation.
        values: (L, H), in the order of the input's steps.
    """

    name: str
    mathml: str
    kind: Kind
    unit_interval: bool
    values: Tensor


def look_inside(
    recurrent: Recurrent, inputs: Tensor, layer: int = 0
) -> tuple[tuple[Trace, ...], ...]:
    """Follow the equations of one layer over one sequence, from states of 0.

    Args:
        recurrent: the stack, without projected states.
        inputs: (L, H_in), what the stack reads.
        layer: which layer, from 0, the first.

    Returns:
        For each direction, a trace for each equation of the cell, in their order.
    """
    directions = range(1 + recurrent.bidirectional)
    with torch.no_grad():
        for below in range(layer):
            weights = [_weights(recurrent, below, direction) for direction in directions]
            rows, _ = interpret_layer(
                recurrent.cell, inputs[:, None], None, weights, None, recurrent.hidden_size
            )
            inputs = rows[:, 0]
        return tuple(
            tuple(_traces(recurrent, inputs, layer, direction)) for direction in directions
        )


def _traces(recurrent: Recurrent, inputs: Tensor, layer: int, direction: int) -> Iterator[Trace]:
    reading = Reading(recurrent.cell)
    watched = _watched(recurrent.cell, reading.equations)
    weights = _weights(recurrent, layer, direction)
    states = [inputs.new_zeros(1, recurrent.hidden_size) for _ in watched.states]
    seen: list[Tensor] = []
    for x in inputs.flip(0) if direction else inputs:
        states = interpret_step(
            watched, x[None], states, weights.bundles, weights.biases, weights.vectors
        )
        seen.append(torch.cat(states[len(recurrent.cell.states) :]))
    over_time = torch.stack(seen[::-1] if direction else seen, dim=1)
    for equation, values in zip(reading.equations, over_time, strict=True):
        sigmoid = equation.value.op == "sigmoid"
        state = equation.name in map(Name, recurrent.cell.states)
        yield Trace(
            UNICODE.at(equation.name),
            MATHML.at(equation.name),
            Kind.STATE if state else Kind.GATE if sigmoid else Kind.VALUE,
            sigmoid,
            values,
        )


def _watched(cell: Cell, equations: tuple[Equation, ...]) -> Cell:
    """The same cell with a state more for each equation, which nothing reads."""
    extra = tuple(f"{equation.name.base}{equation.name.mark} seen" for equation in equations)
    values = tuple(equation.value for equation in equations)
    return replace(cell, states=cell.states + extra, updates=cell.updates + values)


def _weights(recurrent: Recurrent, layer: int, direction: int) -> Weights:
    names = name_parameters(recurrent.cell, layer, direction, bias=recurrent.bias, project=False)
    bundles, biases, vectors = (
        {key: recurrent.get_parameter(name).detach() for key, name in pairs}
        for pairs in (names.bundles, names.biases, names.vectors)
    )
    return Weights.of(bundles, biases, vectors)
