"""torch.nn's layers with the arguments of ``run_layer``, so that each can stand for the other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cellwright.graph.cell import Cell
from cellwright.graph.interpret import Weights

__all__ = ["torch_layer"]

_LAYERS = {"rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu, "gru": torch.gru}
_LAYERS["lstm"] = torch.lstm


def torch_layer(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    batch_sizes: list[int] | None,
    hidden_size: int,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a bundled cell by the function that torch.nn's module calls."""
    if states is None:
        batch = x.shape[1] if batch_sizes is None else batch_sizes[0]
        states = [x.new_zeros(len(weights), batch, hidden_size) for _ in cell.states]
    hx = list(states) if cell.name == "lstm" else states[0]
    bias, both = bool(weights[0].biases), len(weights) == 2
    flat = [t for w in weights for part in (w.bundles, w.biases) for t in _in_order(part)]
    options = (flat, bias, 1, 0.0, True, both)
    if batch_sizes is None:
        out, *finals = _LAYERS[cell.name](x, hx, *options, False)
    else:
        out, *finals = _LAYERS[cell.name](x, torch.tensor(batch_sizes), hx, *options)
    return out, tuple(finals)


def _in_order(part: dict[str, Tensor]) -> list[Tensor]:
    return [part[bundle] for bundle in ("x", "h") if bundle in part]
