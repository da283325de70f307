"""A readout on a recurrent stack."""

from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.nn.utils.rnn import PackedSequence

from cellwright.graph.cell import Cell
from cellwright.nn.recurrent import Recurrent, States
from cellwright.nn.rnn import GRU, LSTM, RNN, Device

__all__ = ["READOUTS", "Readout", "SequenceModel", "sum_steps"]

Readout = Literal["each", "last", "mean"]
READOUTS: tuple[Readout, ...] = ("each", "last", "mean")


class SequenceModel(Module):
    r"""The recurrent network of the textbook, with its output: y_t = W_hy h_t.

    .. math::
        h_t &= \tanh(W_{xh} x_t + W_{hh} h_{t-1} + b) \\
        y_t &= W_{hy} h_t

    for the cell "rnn_tanh", and with any other cell's h_t in its place.

    Args:
        cell: a bundled cell's name, "rnn_tanh", "rnn_relu", "lstm" or "gru", or any cell.
        input_size: H_in, the features of a step of the input.
        hidden_size: H_out, the units of a state.
        output_size: the features of y.
        num_layers: how many layers are stacked. Default: 1
        bidirectional: whether a second direction runs backwards in time, D = 2. Default: False
        dropout: probability that an element is zeroed between layers, in training. Default: 0
        readout: what W_hy is applied to. Default: "each"

            * "each": h_t of each step.
            * "last": h after the last valid step of each sequence. Each direction is read where it
              ends, the second one therefore at the first step.
            * "mean": the mean of h_t over the valid steps of each sequence.
        readout_bias: whether the readout adds a bias. Default: False
        batch_first: whether a batch is (N, L, features), not (L, N, features). Default: False
        device: where the parameters are made.
        dtype: the parameters' type.

    Inputs: input, hx
        As of :class:`Recurrent`: (L, N, H_in), (N, L, H_in), (L, H_in) or packed.

    Outputs: output, h_n
        * **output**: for "each" (L, N, output_size) in the form of the input, packed if that is;
          for "last" and "mean" (N, output_size), unbatched (output_size), the sequences of a packed
          input in the user's order.
        * **h_n**: the final states of the recurrent stack.

    Attributes:
        recurrent: the recurrent stack: an RNN, LSTM or GRU for a bundled name, else a Recurrent.
        readout: W_hy, a Linear from D · H_out to output_size.
        reads: "each", "last" or "mean".

    Raises:
        ValueError: an unknown cell name or readout, or a size that is not above 0.
        TypeError: the cell is neither a name nor a cell.
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        readout: Readout = "each",
        readout_bias: bool = False,
        batch_first: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise ValueError(f"readout must be one of {', '.join(READOUTS)}, not {readout!r}")
        if not isinstance(output_size, int):
            raise TypeError(f"output_size must be a whole number (int), not {output_size!r}")
        if output_size <= 0:
            raise ValueError(f"output_size must be at least 1, not {output_size}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.recurrent = _stack(
            cell,
            input_size,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            batch_first=batch_first,
            **factory,
        )
        self.reads = readout
        self._directions = 2 if bidirectional else 1
        features = self._directions * hidden_size
        self.readout = Linear(features, output_size, bias=readout_bias, **factory)

    def extra_repr(self) -> str:
        """Return what is read."""
        return f"readout={self.reads!r}"

    @overload
    def forward(self, input: Tensor, hx: States | None = None) -> tuple[Tensor, Any]: ...
    @overload
    def forward(
        self, input: PackedSequence, hx: States | None = None
    ) -> tuple[Tensor | PackedSequence, Any]: ...
    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002  # torch's name of it
        hx: States | None = None,
    ) -> tuple[Tensor | PackedSequence, Any]:
        """Return the output and the final states; shapes are in the class's description."""
        h: Tensor | PackedSequence
        h, final = self.recurrent(input, hx)
        if self.reads == "last":
            return self.readout(self._last(final)), final
        if self.reads == "mean":
            return self.readout(self._mean(h)), final
        if isinstance(h, PackedSequence):
            return h._replace(data=self.readout(h.data)), final
        return self.readout(h), final

    def _last(self, final: States) -> Tensor:
        """Return the final h of the top layer's directions, (N, D · H_out) or (D · H_out)."""
        h = final[0] if isinstance(final, tuple) else final
        return h[-1] if self._directions == 1 else torch.cat((h[-2], h[-1]), -1)

    def _mean(self, h: Tensor | PackedSequence) -> Tensor:
        """Return the mean of h over the valid steps, (N, D · H_out) or (D · H_out)."""
        if isinstance(h, PackedSequence):
            total, steps = sum_steps(h)
            return (total / steps[:, None]).to(h.data.dtype)
        return h.mean(1 if self.recurrent.batch_first and h.dim() == 3 else 0)


def sum_steps(h: PackedSequence) -> tuple[Tensor, Tensor]:
    """Return the sum of h over the steps of each sequence (N, …), and how many they are (N,).

    Both in the user's order, of the dtype of h, or float32 where that is shorter: a float16 ends at
    65,504. Nothing is padded: with its gradient it takes a third to a tenth of the time.
    """
    order = torch.arange(int(h.batch_sizes[0]), device=h.batch_sizes.device)
    runs = order < h.batch_sizes[:, None]  # (L, N)
    data = h.data.float() if h.data.dtype.itemsize < torch.float32.itemsize else h.data
    total = data.new_zeros(len(order), data.shape[-1])
    total = total.index_add(0, order.expand_as(runs)[runs].to(total.device), data)
    steps = runs.sum(0).to(total)
    if h.unsorted_indices is not None:
        return total[h.unsorted_indices], steps[h.unsorted_indices]
    return total, steps


def _stack(cell: Cell | str, input_size: int, hidden_size: int, **options: Any) -> Recurrent:
    """Make the recurrent module of a cell or of a bundled cell's name."""
    match cell:
        case "lstm":
            return LSTM(input_size, hidden_size, **options)
        case "gru":
            return GRU(input_size, hidden_size, **options)
        case "rnn_tanh" | "rnn_relu":
            return RNN(input_size, hidden_size, nonlinearity=cell[4:], **options)
    return Recurrent(cell, input_size, hidden_size, **options)
