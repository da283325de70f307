"""A cell in words: its equations, its gates and its parameters, all read off the graph."""

from collections.abc import Iterable
from dataclasses import dataclass

from cellwright.cells import find_cell
from cellwright.graph.cell import INPUT, Cell
from cellwright.printing.mathml import MATHML, aligned
from cellwright.printing.naming import Equation, Reading
from cellwright.printing.notation import LATEX, UNICODE, Notation, Printer

__all__ = ["Description", "describe"]

INPUT_SIZE, HIDDEN_SIZE = 128, 256
"""The sizes at which parameters are counted where none are given."""


@dataclass(frozen=True)
class Description:
    """What can be said of a cell. ``str()`` prints all of it.

    Attributes:
        cell: the cell.
        input_size: I.
        hidden_size: H.
        bias: whether each projection has a bias.
        gates: the number of sigmoid gates.
        equations: one step, a line an equation, in Unicode.
        latex: the same as an ``align*`` environment (package amsmath).
        mathml: the same as a ``<math display="block">`` element, for a web page.
        parameters: the number of parameters of one layer in one direction, as a formula in I and H.
    """

    cell: Cell
    input_size: int
    hidden_size: int
    bias: bool
    gates: int
    equations: tuple[str, ...]
    latex: str
    mathml: str
    parameters: str

    def count(self, input_size: int, hidden_size: int, bias: bool = True) -> int:
        """Return the number of parameters of one layer in one direction."""
        _check(self.cell, input_size, hidden_size)
        widths = {INPUT: input_size}
        rows = {bundle: len(gates) * hidden_size for bundle, gates in self.cell.bundles.items()}
        weights = sum(rows[bundle] * (widths.get(bundle, hidden_size) + bias) for bundle in rows)
        return weights + len(self.cell.vectors) * hidden_size

    def __str__(self) -> str:
        total = self.count(self.input_size, self.hidden_size, self.bias)
        sizes = f"I = {self.input_size}, H = {self.hidden_size}"
        parts = [
            self.cell.name,
            self.cell.doc,
            "Equations\n" + _indented(self.equations),
            "LaTeX\n" + _indented(self.latex.splitlines()),
            f"Gates       {self.gates}\nParameters  {self.parameters} = {total:,} at {sizes}",
        ]
        return "\n\n".join(part for part in parts if part)


def describe(
    cell: Cell | str,
    input_size: int | None = None,
    hidden_size: int | None = None,
    bias: bool = True,
) -> Description:
    """Describe a cell: its equations, gates and parameters.

    Args:
        cell: a cell or the name of a bundled one.
        input_size: I, for the count of parameters.
        hidden_size: H, for the count of parameters.
        bias: whether each projection has a bias.

    Raises:
        ValueError: there is no cell of that name, or no layer of these sizes.
        TypeError: it is neither a cell nor a name; of a module, describe its ``cell``.
    """
    found = find_cell(cell)
    hidden = HIDDEN_SIZE if hidden_size is None else hidden_size
    default = hidden if found.reads_input else INPUT_SIZE
    width = default if input_size is None else input_size
    _check(found, width, hidden)
    reading = Reading(found)
    lines = [_line(equation, reading, UNICODE, bias) for equation in reading.equations]
    latex = [_line(equation, reading, LATEX, bias) for equation in reading.equations]
    mathml = [_line(equation, reading, MATHML, bias) for equation in reading.equations]
    return Description(
        cell=found,
        input_size=width,
        hidden_size=hidden,
        bias=bias,
        gates=reading.gates,
        equations=tuple(f"{left} = {right}" for left, right in lines),
        latex="\\begin{align*}\n"
        + " \\\\\n".join(f"{left} &= {right}" for left, right in latex)
        + "\n\\end{align*}",
        mathml=aligned(mathml),
        parameters=_formula(found, bias),
    )


def _check(cell: Cell, input_size: int, hidden_size: int) -> None:
    for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
        if size < 1:
            raise ValueError(f"{name} must be 1 or more, and is {size}")
    if cell.reads_input and input_size != hidden_size:
        raise ValueError(
            f"{cell.name} uses its input elementwise, so input_size must equal hidden_size, and "
            f"{input_size} is not {hidden_size}"
        )


def _line(equation: Equation, reading: Reading, notation: Notation, bias: bool) -> tuple[str, str]:
    printer = Printer(notation, reading.names, bias=bias)
    own = reading.names.get(equation.value) == equation.name
    right = printer.defining(equation.value) if own else printer(equation.value)
    return notation.at(equation.name), right


def _formula(cell: Cell, bias: bool) -> str:
    """Sum the weights, bundles of as many gates together, then the vectors."""
    by_gates: dict[int, list[str]] = {}
    for bundle, gates in cell.bundles.items():
        by_gates.setdefault(len(gates), []).append(bundle)
    terms: list[str] = []
    for count, bundles in by_gates.items():
        inner = ["H·I"] if INPUT in bundles else []
        inner += _times(sum(b != INPUT for b in bundles), "H·H")
        inner += _times(len(bundles) if bias else 0, "H")
        joined = " + ".join(inner)
        terms += _times(count, joined if count == 1 or len(inner) == 1 else f"({joined})")
    return " + ".join([*terms, *_times(len(cell.vectors), "H")]) or "0"


def _times(count: int, term: str) -> list[str]:
    return [term if count == 1 else f"{count}·{term}"] if count else []


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
