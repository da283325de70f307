"""The cells: one file each, its equations and their source."""

from cellwright.cells.gru import gru
from cellwright.cells.lstm import lstm
from cellwright.cells.rnn import rnn_relu, rnn_tanh
from cellwright.graph.cell import Cell

__all__ = ["CELLS", "gru", "lstm", "rnn_relu", "rnn_tanh"]

CELLS: dict[str, Cell] = {cell.name: cell for cell in (rnn_tanh, rnn_relu, lstm, gru)}
"""The bundled cells by name."""
