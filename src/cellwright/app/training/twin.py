"""The same network on torch.nn: its weights, its equations, another library's layers."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from cellwright.app.model.network import Network
from cellwright.app.problem import Problem
from cellwright.app.training.batches import make, passes
from cellwright.cells import CELLS
from cellwright.errors import CellwrightError
from cellwright.graph.cell import Cell
from cellwright.nn import Recurrent

__all__ = ["AGREEMENT", "check_agreement", "has_twin", "outputs_on_test", "torch_layers", "twin_of"]

AGREEMENT = 1e-4
"""From the same weights both libraries must give the same outputs, or no time is reported."""

ROWS = 4096
"""Steps of the test part on which they are compared."""

TORCH_LAYERS: dict[str, Callable[..., nn.RNNBase]] = {
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


def has_twin(cell: Cell) -> bool:
    """Whether torch.nn has this cell."""
    return cell.name in TORCH_LAYERS and CELLS[cell.name] == cell


def torch_layers(ours: nn.Module) -> nn.Module:
    """torch.nn's layers with the weights of `ours`, a Recurrent of a cell that torch.nn has."""
    assert isinstance(ours, Recurrent)
    with torch.random.fork_rng(devices=[]):  # so that both draw the same dropout
        theirs = TORCH_LAYERS[ours.cell.name](
            ours.input_size,
            ours.hidden_size,
            num_layers=ours.num_layers,
            dropout=ours.dropout,
            bidirectional=ours.bidirectional,
            dtype=next(ours.parameters()).dtype,
        )
    theirs.load_state_dict(ours.state_dict())
    return theirs


def twin_of(network: Network) -> Network:
    """A copy of `network` on torch.nn's layers."""
    twin = deepcopy(network)
    twin.recurrent = torch_layers(twin.recurrent)
    return twin


def outputs_on_test(network: Network, problem: Problem) -> Tensor:
    """What a network says of the first steps of the test part: logits or quantiles."""
    cut = next(passes(problem.test, problem.schema, ROWS, whole=network.design.bidirectional))
    inputs = make(problem.test, problem.schema, cut).inputs
    network.eval()
    with torch.no_grad():
        outputs, _ = network(inputs)
    return outputs if isinstance(outputs, Tensor) else outputs.data


def check_agreement(label: str, ours: Tensor, theirs: Tensor) -> None:
    """See that both libraries' outputs are the same.

    Raises:
        CellwrightError: they are not.
    """
    difference = float((ours - theirs).abs().max())
    if not difference <= AGREEMENT:  # written so that NaN fails too
        raise CellwrightError(
            f"expected {label} and torch.nn to give the same outputs from the same weights within "
            f"{AGREEMENT:g}, but they differ by {difference:g}; no time is worth reporting for a "
            "wrong result, please report this as a bug"
        )
