"""A model's predictions for a file or a table, as a table.

Shapes: L steps of a sequence, N sequences, K targets, P steps ahead (the horizon).
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from cellwright.app.data import encode
from cellwright.app.errors import InputError
from cellwright.app.model.folder import Model
from cellwright.app.model.network import Network
from cellwright.app.problem import Part, Ragged
from cellwright.app.running.columns import class_columns, quantile_columns, unscaled
from cellwright.app.schema import Schema, Task

__all__ = ["predict", "predict_part"]

BATCH_STEPS, BATCH_NUMBERS = 2**14, 2**22
"""The most steps of a batch, of all its sequences together, and the most numbers that it gives out:
what bounds the memory, whatever the size of the file and however far the horizon."""


def predict(
    model: Model, source: Path | str | pl.DataFrame, *, every_origin: bool = False
) -> pl.DataFrame:
    """What `model` says of the sequences in `source`, in their order there.

    Args:
        model: as `load_model` returns it.
        source: a file or a table with the columns that the model reads; those that it was trained
            to tell may be absent.
        every_origin: of a forecast: whether to forecast from every step. Default: only from the
            last of each series, what comes after the data.

    Returns:
        classify: a row for each sequence: its name, "predicted <target>", and "probability <class>"
        for each class. forecast: a row for each series, origin and step ahead: the series' name,
        "origin" (the time of the last step that was read, or its number from 1 on), "steps ahead",
        the time that is forecast where the frequency is known, and for each target, in its unit,
        "<target> p10", "<target> p50" and "<target> p90".

    Raises:
        InputError: the data cannot be used as it is; the model writes text, or classifies and is
            asked for every origin.
    """
    if model.schema.task is Task.TEXT:
        raise InputError(
            "expected a model that classifies or forecasts, but this one writes text; use "
            "`cellwright generate` for its text, `cellwright stream` for the next character"
        )
    if every_origin and model.schema.task is Task.CLASSIFY:
        raise InputError(
            "expected a model that forecasts, to do so from every step (--every-step), but this "
            "one classifies whole sequences; leave it out, or use `cellwright stream` for what it "
            "says after each step"
        )
    part = encode(model.schema, model.scaling, source)
    return predict_part(model, part, every_origin=every_origin)


def predict_part(model: Model, part: Part, *, every_origin: bool = False) -> pl.DataFrame:
    """The same for data that is encoded already."""
    with _evaluating(model.network), torch.inference_mode():
        if model.schema.task is Task.CLASSIFY:
            return _classes(model, part)
        return _forecasts(model, part, every_origin)


def _classes(model: Model, part: Part) -> pl.DataFrame:
    reading = _Pass(model.network, part.inputs)
    probabilities = torch.empty(len(part), len(model.schema.classes), dtype=reading.dtype)
    for group in reading.groups():
        probabilities[group] = reading.logits(group).softmax(-1)
    columns = class_columns(model.schema)
    best = probabilities.argmax(-1).tolist()
    return pl.DataFrame(
        [
            _ids(model.schema, part),
            pl.Series(columns[0], [model.schema.classes[k] for k in best], dtype=pl.String),
            *map(pl.Series, columns[1:], probabilities.T.numpy()),
        ]
    )


def _forecasts(model: Model, part: Part, every_origin: bool) -> pl.DataFrame:
    schema = model.schema
    found: list[Tensor] = [torch.empty(0)] * len(part)
    reading = _Pass(model.network, part.inputs)
    for group in reading.groups():
        for index, quantiles in reading.quantiles(group, every_origin):
            found[index] = quantiles
    assert model.scaling is not None  # a forecast has one
    values = unscaled(torch.cat(found), model.scaling)  # (origins, K, P, 3)
    names = quantile_columns(schema)
    flat = values.permute(1, 3, 0, 2).reshape(len(names), -1)
    series = [*_origins(schema, part, every_origin), *map(pl.Series, names, flat.numpy())]
    return pl.DataFrame(series)


def _origins(schema: Schema, part: Part, every_origin: bool) -> Iterator[pl.Series]:
    """The columns that tell which series, origin and step ahead a row is of."""
    lengths, starts = part.inputs.lengths, part.inputs.starts
    if every_origin:
        sequence = torch.arange(len(part)).repeat_interleave(lengths)
        step = torch.arange(int(starts[0]), int(starts[-1]))
    else:
        sequence = torch.arange(len(part))
        step = starts[1:] - 1
    sequence = sequence.repeat_interleave(schema.horizon)
    step = step.repeat_interleave(schema.horizon)
    ahead = torch.arange(1, schema.horizon + 1).repeat(len(step) // schema.horizon)
    if part.ids is not None:
        yield part.ids.gather(sequence.numpy()).alias(schema.series or "series")
    times = None if part.times is None else part.times.gather(step.numpy()).alias("origin")
    yield pl.Series("origin", (step - starts[sequence] + 1).numpy()) if times is None else times
    yield pl.Series("steps ahead", ahead.numpy())
    if times is not None and times.dtype.is_temporal() and schema.frequency is not None:
        offsets = pl.Series([schema.frequency * k for k in range(1, schema.horizon + 1)])
        yield times.dt.offset_by(offsets.gather((ahead - 1).numpy())).alias(schema.time or "time")


def _ids(schema: Schema, part: Part) -> pl.Series:
    ids = pl.Series(range(1, len(part) + 1)) if part.ids is None else part.ids
    return ids.alias(schema.series or "series")


class _Pass:
    """One way through sequences in batches of neighbouring lengths, packed, without padding.

    A sequence that is longer than a batch may be is read in parts, with the state carried over,
    unless the network reads backwards too.
    """

    def __init__(self, network: Network, inputs: Ragged) -> None:
        self.network = network
        self.inputs = inputs
        self.dtype = network.readout.weight.dtype
        self.lengths: list[int] = inputs.lengths.tolist()
        numbers = BATCH_NUMBERS // network.readout.out_features
        self.limit = max(1, min(BATCH_STEPS, numbers))

    def groups(self) -> Iterator[list[int]]:
        """Indices of sequences, longest first, of at most `limit` steps together, or one."""
        group: list[int] = []
        steps = 0
        for index in sorted(range(len(self.lengths)), key=lambda n: -self.lengths[n]):
            if group and steps + self.lengths[index] > self.limit:
                yield group
                group, steps = [], 0
            group.append(index)
            steps += self.lengths[index]
        if group:
            yield group

    def logits(self, group: list[int]) -> Tensor:
        """(sequences of the group, classes)."""
        parts = iter([self._packed(group)]) if self._fits(group) else self._parts(group[0])
        states = None
        for part in parts:
            logits, states = self.network(part, states)
        found: Tensor = logits
        return found

    def quantiles(self, group: list[int], every_origin: bool) -> Iterator[tuple[int, Tensor]]:
        """(index, quantiles (origins, K, P, 3)) of each sequence of the group, scaled."""
        if not self._fits(group):
            yield group[0], self._quantiles_in_parts(group[0], every_origin)
            return
        outputs, _ = self.network(self._packed(group))
        starts = outputs.batch_sizes.cumsum(0) - outputs.batch_sizes  # of each step's rows
        for place, index in enumerate(group):
            rows = starts[: self.lengths[index]] + place
            yield index, outputs.data[rows if every_origin else rows[-1:]]

    def _quantiles_in_parts(self, index: int, every_origin: bool) -> Tensor:
        found: deque[Tensor] = deque(maxlen=None if every_origin else 1)
        states = None
        for part in self._parts(index):
            outputs, states = self.network(part, states)
            found.append(outputs[:, 0])
        return torch.cat(tuple(found)) if every_origin else found[0][-1:].clone()

    def _fits(self, group: list[int]) -> bool:
        """Whether the group is read in one go."""
        return self.network.design.bidirectional or self.lengths[group[0]] <= self.limit

    def _packed(self, group: list[int]) -> PackedSequence:
        return pack_sequence([self.inputs[index].to(self.dtype) for index in group])

    def _parts(self, index: int) -> Iterator[Tensor]:
        for part in self.inputs[index].split(self.limit):
            yield part.unsqueeze(1).to(self.dtype)


@contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    """Without dropout; afterwards the network is in the mode in which it was."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
