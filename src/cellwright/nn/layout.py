"""The parameters of a recurrent layer: their names, shapes and order, which are torch's."""

from collections.abc import Iterator
from typing import NamedTuple, cast

from cellwright.graph.cell import INPUT, Cell
from cellwright.graph.expr import topological
from cellwright.graph.interpret import Form

__all__ = ["Names", "can_project", "name_parameters", "shapes"]


class Names(NamedTuple):
    """The parameter names of one layer in one direction, by what they are to the cell.

    Attributes:
        bundles: (bundle, name) of each matrix of packed weights.
        biases: (bundle, name) of each vector of packed biases; empty without bias.
        vectors: (vector, name) of each per-unit vector.
        projection: name of the matrix that projects the first state, or None.
    """

    bundles: tuple[tuple[str, str], ...]
    biases: tuple[tuple[str, str], ...]
    vectors: tuple[tuple[str, str], ...]
    projection: str | None

    def ordered(self) -> list[str]:
        """Return all names in the order in which torch registers them."""
        names = [name for _, name in (*self.bundles, *self.biases)]
        names += [self.projection] if self.projection is not None else []
        return names + [name for _, name in self.vectors]

    def called(self) -> tuple[Form, tuple[str, ...]]:
        """Return what the parameters are, and their names in the order of a call."""
        parts = self.bundles, self.biases, self.vectors
        projection = () if self.projection is None else (self.projection,)
        bundles, biases, vectors = (tuple(kind for kind, _ in part) for part in parts)
        form = Form(bundles, biases, vectors, bool(projection))
        return form, (*(name for part in parts for _, name in part), *projection)


def name_parameters(cell: Cell, layer: int, direction: int, *, bias: bool, project: bool) -> Names:
    """Name the parameters of ``layer``: ``weight_ih_l0``, ``bias_hh_l1_reverse``, …"""
    suffix = f"_l{layer}" + ("_reverse" if direction else "")
    letters = {bundle: "i" if bundle == INPUT else bundle for bundle in cell.bundles}
    return Names(
        tuple((b, f"weight_{letter}h{suffix}") for b, letter in letters.items()),
        tuple((b, f"bias_{letter}h{suffix}") for b, letter in letters.items()) if bias else (),
        tuple((v, f"{v}{suffix}") for v in cell.vectors),
        f"weight_hr{suffix}" if project else None,
    )


def shapes(
    cell: Cell, names: Names, input_size: int, hidden_size: int, proj_size: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and the shape of each parameter of a layer whose input has ``input_size``."""
    widths = dict.fromkeys(cell.states, hidden_size) | {INPUT: input_size}
    if proj_size:
        widths[cell.states[0]] = proj_size
    rows = {bundle: len(gates) * hidden_size for bundle, gates in cell.bundles.items()}
    for bundle, name in names.bundles:
        yield name, (rows[bundle], widths[bundle])
    for bundle, name in names.biases:
        yield name, (rows[bundle],)
    if names.projection is not None:
        yield names.projection, (proj_size, hidden_size)
    for _, name in names.vectors:
        yield name, (hidden_size,)


def can_project(cell: Cell) -> bool:
    """Whether the first state may be narrower than the others: nothing but gates reads it."""
    first = cell.states[0]
    for e in topological(cell.updates):
        if e.op == "project":
            bundle, _ = cast("tuple[str, str]", e.value)
            if bundle == first and e.args[0].op != "state":
                return False
        elif any(arg.op == "state" and arg.value == first for arg in e.args):
            return False
    return all(e.op != "state" or e.value != first for e in cell.updates)
