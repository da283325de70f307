"""The cells: one file each, its equations and their source."""

from difflib import get_close_matches

from cellwright.cells.gru import gru
from cellwright.cells.lstm import lstm
from cellwright.cells.rnn import rnn_relu, rnn_tanh
from cellwright.graph.cell import Cell

__all__ = ["CELLS", "find_cell", "gru", "lstm", "rnn_relu", "rnn_tanh"]

CELLS: dict[str, Cell] = {cell.name: cell for cell in (rnn_tanh, rnn_relu, lstm, gru)}
"""The bundled cells by name."""


def find_cell(cell: object) -> Cell:
    """Return a cell, given itself or the name of a bundled one.

    Raises:
        ValueError: there is no bundled cell of that name.
        TypeError: it is neither a cell nor a name.
    """
    if isinstance(cell, Cell):
        return cell
    if not isinstance(cell, str):
        raise TypeError(
            f"expected a cell or the name of a bundled one, got {cell!r}; @cellwright.cell makes a "
            "cell of a function that states its equations"
        )
    if cell not in CELLS:
        near = get_close_matches(cell.lower(), CELLS, n=1, cutoff=0.4)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"there is no bundled cell {cell!r}{meant}; there are {', '.join(CELLS)}")
    return CELLS[cell]
