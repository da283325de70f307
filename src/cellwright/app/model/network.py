"""The network of every task: a recurrent stack between the task's input and the task's readout.

Shapes: L steps, N sequences, H_in input columns, K targets, P steps ahead (the horizon), V symbols
of the vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.app.problem import Scaling
from cellwright.app.schema import Schema, Task
from cellwright.nn import Recurrent
from cellwright.nn.sequence import sum_steps

__all__ = ["QUANTILES", "Network", "Reading", "first_sequences", "flat_states", "map_states"]

QUANTILES = (0.1, 0.5, 0.9)
"""What a forecast's last axis holds: the middle and an interval that holds 80 % of the values."""


class Reading(NamedTuple):
    """A classifier's states between two parts of the same sequences: it has read `steps` so far.

    Attributes:
        states: of the recurrent stack, each (layers, N, H_out).
        total: (N, D · H_out), the sum of h over all steps read.
        steps: (N,), how many they were.
    """

    states: Any
    total: Tensor
    steps: Tensor


class Network(nn.Module):
    """A recurrent stack with what its task puts before and after it.

    * classify: logits (N, classes) of the mean of h over all steps of each sequence read so far.
    * forecast: quantiles (…, K, P, 3) after each step, in scaled units: the last observed value
      plus a learned change, never crossing because the outer two are the middle one and a positive
      distance.
    * text: logits (…, V) of the next symbol after each step.

    Args:
        schema: the task, the columns, the vocabulary.
        design: the recurrent stack.
        scaling: of the training part; None for text.

    Inputs: inputs, states
        inputs: (L, N, H_in) or packed, for text (L, N) or packed indices of the vocabulary.
        states: what an earlier call on the steps before returned. Default: None, at the beginning.

    Outputs: outputs, states
        outputs: as above, … being (L, N), or packed if the input is. states: hand them to the next
        call unopened; they are the recurrent stack's, for classify a Reading.

    Raises:
        InputError: a design in two directions where a step must not see the steps after it, or of
            sizes that its cell's equations cannot join.
    """

    def __init__(self, schema: Schema, design: Design, scaling: Scaling | None) -> None:
        super().__init__()
        if design.bidirectional and schema.task is not Task.CLASSIFY:
            raise InputError(
                f"expected a network that reads forwards, but got {design.label}: to {schema.task} "
                "its second direction would read the very steps it is asked for; leave "
                "bidirectional out"
            )
        self.schema = schema
        self.design = design
        width, outputs = self._before(schema, design, scaling)
        self.recurrent: nn.Module = _stack(design, width)
        self.dropout = nn.Dropout(design.dropout)
        self.readout = nn.Linear((1 + design.bidirectional) * design.hidden_size, outputs)

    def _before(self, schema: Schema, design: Design, scaling: Scaling | None) -> tuple[int, int]:
        """Make what stands before the stack; the widths of the stack's input and of the readout."""
        if schema.task is Task.TEXT:
            symbols = len(schema.vocabulary)
            width = min(symbols, design.hidden_size)
            weight = torch.empty(symbols, width)
            if not weight.is_meta:  # torch would load its compiler to draw nothing: a second
                weight.normal_()  # as nn.Embedding does
            self.embedding = nn.Embedding.from_pretrained(weight, freeze=False)
            return width, symbols
        names = schema.input_names
        if schema.task is Task.CLASSIFY:
            return len(names), len(schema.classes)
        if scaling is None:
            raise ValueError("a forecast needs the scaling of its training part")
        places = [names.index(target) for target in schema.targets]
        deviation, mean = scaling.input_deviation[places], scaling.input_mean[places]
        # A target is a column of the input too: these make its scaled input its scaled target.
        # They come from the scaling, which travels with a model, and so not with the weights.
        self.register_buffer("columns", torch.tensor(places), persistent=False)
        slope = (deviation / scaling.target_deviation).float()
        shift = ((mean - scaling.target_mean) / scaling.target_deviation).float()
        self.register_buffer("slope", slope, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        return len(names), len(schema.targets) * schema.horizon * len(QUANTILES)

    def forward(
        self, inputs: Tensor | PackedSequence, states: Any = None
    ) -> tuple[Tensor | PackedSequence, Any]:
        """Return outputs and states; shapes are in the class's description."""
        if self.schema.task is Task.CLASSIFY:
            return self._classify(inputs, states)
        data = inputs.data if isinstance(inputs, PackedSequence) else inputs
        read = self.embedding(data) if self.schema.task is Task.TEXT else data
        if isinstance(inputs, PackedSequence):
            h, states = self.recurrent(inputs._replace(data=read), states)
            return inputs._replace(data=self._each(h.data, data)), states
        h, states = self.recurrent(read, states)
        return self._each(h, data), states

    def initial(self, sequences: int = 1) -> Any:
        """The states at the beginning, zeros in the form that `forward` returns."""
        design, parameter = self.design, self.readout.weight
        directions = 1 + design.bidirectional
        shape = (directions * design.num_layers, sequences, design.hidden_size)
        zeros = tuple(parameter.new_zeros(shape) for _ in design.cell.states)
        states = zeros if len(zeros) > 1 else zeros[0]
        if self.schema.task is not Task.CLASSIFY:
            return states
        total = parameter.new_zeros(sequences, directions * design.hidden_size)
        return Reading(states, total, total.new_zeros(sequences))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of steps or sequences, in any number of axes "…".

        Args:
            outputs: what `forward` returned, of a packed input its data, or a choice of its rows.
            targets: classify and text (…) of int64; forecast (…, K, P), scaled.

        Returns:
            Cross-entropy in nats; for a forecast the pinball loss, summed over the quantiles.
        """
        if self.schema.task is not Task.FORECAST:
            return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        error = targets.unsqueeze(-1) - outputs
        quantiles = torch.tensor(QUANTILES, dtype=error.dtype, device=error.device)
        return torch.maximum(quantiles * error, (quantiles - 1) * error).sum(-1).mean()

    def _classify(
        self, inputs: Tensor | PackedSequence, reading: Reading | None
    ) -> tuple[Tensor, Reading]:
        if reading is not None and self.design.bidirectional:
            raise InputError(
                f"expected whole sequences, but {self.design.label} got a sequence in parts: its "
                "second direction begins at the last step; use a design in one direction"
            )
        h, states = self.recurrent(inputs, None if reading is None else reading.states)
        if isinstance(h, PackedSequence):
            total, steps = sum_steps(h)
        else:
            total = h.sum(0)
            steps = total.new_full(total.shape[:1], h.shape[0])
        if reading is not None:
            total, steps = total + reading.total, steps + reading.steps
        logits = self.readout(self.dropout(total / steps[:, None]))
        return logits, Reading(states, total, steps)

    def _each(self, h: Tensor, inputs: Tensor) -> Tensor:
        """The readout of every step."""
        read: Tensor = self.readout(self.dropout(h))
        if self.schema.task is Task.TEXT:
            return read
        last = inputs[..., self.get_buffer("columns")] * self.get_buffer("slope")
        last = last + self.get_buffer("shift")
        shape = (len(self.schema.targets), self.schema.horizon, len(QUANTILES))
        change, below, above = read.unflatten(-1, shape).unbind(-1)
        middle = last.unsqueeze(-1) + change
        return torch.stack((middle - F.softplus(below), middle, middle + F.softplus(above)), dim=-1)


def map_states(states: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The states that a Network returned, in the same form, with `change` made to each tensor."""
    if isinstance(states, Tensor):
        return change(states)
    parts = [map_states(part, change) for part in states]
    return Reading(*parts) if isinstance(states, Reading) else tuple(parts)


def flat_states(states: Any) -> list[Tensor]:
    """The tensors of the states that a Network returned, in the order of `map_states`."""
    if isinstance(states, Tensor):
        return [states]
    return [state for part in states for state in flat_states(part)]


def first_sequences(states: Any, count: int) -> Any:
    """The states of the first `count` sequences alone."""
    if isinstance(states, Reading):
        inner = first_sequences(states.states, count)
        return Reading(inner, states.total[:count], states.steps[:count])
    return map_states(states, lambda state: state[:, :count].contiguous())


def _stack(design: Design, width: int) -> Recurrent:
    """Make the recurrent layers over so many inputs."""
    try:
        return Recurrent(
            design.cell,
            width,
            design.hidden_size,
            num_layers=design.num_layers,
            # between layers: a single one has no such place, and torch warns where it is asked for
            dropout=design.dropout if design.num_layers > 1 else 0.0,
            bidirectional=design.bidirectional,
        )
    except ValueError as error:  # a cell that uses its input elementwise
        raise InputError(f"{error}; choose another hidden size, or another cell") from error
