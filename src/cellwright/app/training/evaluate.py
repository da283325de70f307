"""What a network is worth on a part, and what it predicts there, in bounded memory.

Shapes: N sequences, S steps of all sequences together, K targets, P steps ahead.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cellwright.app.model.network import QUANTILES, Network, first_sequences
from cellwright.app.problem import Part, Scaling
from cellwright.app.schema import Schema, Task
from cellwright.app.training.batches import Batch, Cut, make, passes

__all__ = ["Assessment", "assess", "evaluate", "which_unknown"]

ROWS = 1 << 14
"""Steps that go through a network at once: enough to keep kernels busy, little memory."""


class Assessment(NamedTuple):
    """Loss, score and predictions, of one reading of a part."""

    loss: float
    score: float
    predictions: Tensor | None


def evaluate(
    network: Network, part: Part, schema: Schema, scaling: Scaling | None
) -> tuple[float, Tensor | None]:
    """The score of `network` on `part`, and its predictions there.

    Each sequence is read from its first step on, the state carried to its last, no window cut.

    Args:
        network: trained; its mode is left as it is.
        part: any part of the network's problem.
        schema: the network's.
        scaling: the network's; None for text.

    Returns:
        As of METRICS: classify accuracy; forecast the mean absolute error of the median over the
        part's origins, in the targets' own unit; text bits a character (nan if it has only one).
        Predictions as of results.Entry: classify (N, classes) probabilities; forecast
        (S, K, P, 3) quantiles after each step in the targets' own unit; text None.
    """
    found = assess(network, part, schema, scaling)
    return found.score, found.predictions


def assess(
    network: Network,
    part: Part,
    schema: Schema,
    scaling: Scaling | None,
    *,
    keep: bool = True,
) -> Assessment:
    """As `evaluate`, with the mean loss too; without `keep`, no forecast is kept."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            match schema.task:
                case Task.CLASSIFY:
                    return _classify(network, part, schema)
                case Task.FORECAST:
                    assert scaling is not None
                    return _forecast(network, part, schema, scaling, keep=keep)
                case Task.TEXT:
                    return _text(network, part, schema)
    finally:
        network.train(training)


def _read(network: Network, part: Part, schema: Schema) -> Iterator[tuple[Cut, Batch, Tensor]]:
    """Each cut of `part` with its values and the network's outputs, as float32."""
    dtype = next(network.parameters()).dtype
    states: Any = None
    for cut in passes(part, schema, ROWS, whole=network.design.bidirectional):
        batch = make(part, schema, cut)
        inputs = batch.inputs if schema.task is Task.TEXT else batch.inputs.to(dtype)
        states = None if cut.fresh else first_sequences(states, len(cut.sequences))
        outputs, states = network(inputs, states)
        yield cut, batch, (outputs if isinstance(outputs, Tensor) else outputs.data).float()


def _classify(network: Network, part: Part, schema: Schema) -> Assessment:
    logits = torch.empty(len(part), len(schema.classes))
    for cut, _, outputs in _read(network, part, schema):
        logits[cut.sequences] = outputs  # a later cut of a sequence has read more of it
    loss = F.cross_entropy(logits, part.targets)
    score = (logits.argmax(-1) == part.targets).double().mean()
    return Assessment(float(loss), float(score), logits.softmax(-1))


def _forecast(
    network: Network, part: Part, schema: Schema, scaling: Scaling, *, keep: bool
) -> Assessment:
    mean, deviation = scaling.target_mean.float(), scaling.target_deviation.float()
    size = (len(part.inputs.values), len(schema.targets), schema.horizon, len(QUANTILES))
    predictions = torch.empty(size) if keep else None
    loss = error = 0.0
    count = 0
    for cut, batch, outputs in _read(network, part, schema):
        if predictions is not None:
            steps = torch.arange(int(cut.lengths[0]))[:, None]
            rows = (cut.starts + steps)[steps < cut.lengths]
            predictions[rows] = outputs * deviation[:, None, None] + mean[:, None, None]
        if batch.count:
            chosen = outputs[batch.rows]
            loss += float(network.loss(chosen, batch.targets)) * batch.count
            off = (chosen[..., 1] - batch.targets).abs() * deviation[:, None]
            error += float(off.double().mean(dim=(1, 2)).sum())
            count += batch.count
    return Assessment(_ratio(loss, count), _ratio(error, count), predictions)


def _text(network: Network, part: Part, schema: Schema) -> Assessment:
    nats = 0.0
    count = 0
    for _, batch, outputs in _read(network, part, schema):
        nats += float(F.cross_entropy(outputs, batch.targets, reduction="sum"))
        nats += float(which_unknown(schema, batch.targets).sum()) * math.log(2)
        count += batch.count
    loss = _ratio(nats, count)
    return Assessment(loss, loss / math.log(2), None)


def which_unknown(schema: Schema, symbols: Tensor) -> Tensor:
    """The bits that tell, of each symbol of a text that is unknown, which character it is."""
    if schema.unknown is None:
        return torch.zeros(symbols.shape)
    return torch.where(symbols == schema.unknown, schema.unknown_bits, 0.0)


def _ratio(total: float, count: int) -> float:
    return total / count if count else math.nan
