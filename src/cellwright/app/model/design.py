"""Which network a training makes."""

from dataclasses import dataclass

from cellwright.cells import CELLS
from cellwright.graph.cell import Cell

__all__ = ["Design"]


@dataclass(frozen=True)
class Design:
    """A recurrent stack, whatever the task; the task adds what stands before and after it.

    Attributes:
        cell: any cell, a bundled one or a user's own.
        hidden_size: H_out, units of a layer and direction.
        num_layers: stacked layers.
        bidirectional: whether a second direction runs backwards; such a model cannot stream.
        dropout: probability that an element is zeroed, between layers and before the readout.
    """

    cell: Cell
    hidden_size: int = 64
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0

    @property
    def label(self) -> str:
        """What tables call it: "GRU", "Bi-LSTM", a user's own cell by its name."""
        bundled = CELLS.get(self.cell.name) == self.cell
        name = {"rnn_tanh": "RNN", "rnn_relu": "RNN (relu)"}.get(
            self.cell.name, self.cell.name.upper() if bundled else self.cell.name
        )
        layers = f" ×{self.num_layers}" if self.num_layers > 1 else ""
        return f"Bi-{name}{layers}" if self.bidirectional else f"{name}{layers}"
