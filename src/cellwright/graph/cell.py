"""What a cell is once its equations have been read."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import cast

from cellwright.graph.expr import Expr, leaf, node, topological
from cellwright.graph.ops import ELEMENTWISE

__all__ = [
    "ARITHMETIC",
    "INPUT",
    "PROJECTION",
    "Cell",
    "apart",
    "bundle_of",
    "projected",
    "projection",
]

INPUT = "x"
"""The bundle name of the projections of the input, whatever the function calls its argument."""

PROJECTION = "@"
"""The bundle, and its one gate, of the matrix that makes an output narrower than the units. No
state has this name."""

ARITHMETIC = frozenset({"add", "sub", "mul", "div", "neg"})
"""What joins values without bending them: all other operations are nonlinearities."""


def projection(e: Expr) -> tuple[str, str]:
    """Return the (bundle, gate) of a ``project`` node."""
    return cast("tuple[str, str]", e.value)


def bundle_of(source: Expr, states: Sequence[str]) -> str:
    """Name the weights of a projection after the state that its source reads elementwise.

    In (sigmoid(x.r + p * c) * h).n that is h: what a nonlinearity reads counts only where
    nothing stands outside of one.
    """
    direct = _read(source, ARITHMETIC) or _read(source, ELEMENTWISE)
    named = [state for state in states if leaf("state", state) in direct]
    return named[0] if named else INPUT if direct else states[0]


def _read(source: Expr, within: Container[str]) -> set[Expr]:
    """Return the bare input and states that ``source`` reads through operations ``within``."""
    seen: set[Expr] = set()
    stack = [source]
    while stack:
        e = stack.pop()
        if e not in seen:
            seen.add(e)
            stack.extend(e.args if e.op in within else ())
    return {e for e in seen if e.op in ("input", "state")}


@dataclass(frozen=True)
class Cell:
    """A recurrent cell read from its equations.

    Attributes:
        name: the function's name.
        doc: the function's docstring.
        states: names of the states; the first is the layer's output.
        updates: the new value of each state.
        gates: gate names in the order of their first appearance: the order of the weights' rows.
        bundles: which gates are projected from what: ``x`` is the input, else a state's name.
        vectors: learned per-unit vectors and their initial values.
    """

    name: str
    doc: str
    states: tuple[str, ...]
    updates: tuple[Expr, ...]
    gates: tuple[str, ...]
    bundles: Mapping[str, tuple[str, ...]]
    vectors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("bundles", "vectors"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        object.__setattr__(self, "_hash", hash((self.name, self.states, self.updates)))

    def __repr__(self) -> str:
        return f"<cell {self.name}: states {', '.join(self.states)}; gates {', '.join(self.gates)}>"

    def __reduce__(self) -> tuple[object, ...]:
        bundles, vectors = dict(self.bundles), dict(self.vectors)
        parts = (self.name, self.doc, self.states, self.updates, self.gates, bundles, vectors)
        return Cell, parts

    def __deepcopy__(self, memo: object) -> "Cell":
        return self

    def __hash__(self) -> int:
        return int(self.__dict__["_hash"])

    @property
    def reads_input(self) -> bool:
        """Whether the bare input is used elementwise, so that H_in must equal H_out."""
        x = leaf("input")
        users = (e for e in topological(self.updates) if x in e.args)
        return x in self.updates or any(e.op != "project" for e in users)


@lru_cache(maxsize=256)
def projected(cell: Cell) -> Cell:
    """Return the cell whose first state is multiplied with a matrix after each step.

    LSTM becomes the LSTMP of Sak, Senior & Beaufays 2014: h = W_hr (o · tanh(c)).
    """
    first, *others = cell.updates
    source = first if first.args else first * 1.0  # a bare state or number: the step computes it
    narrow = node("project", (source,), (PROJECTION, PROJECTION))
    return replace(
        cell,
        updates=(narrow, *others),
        gates=(*cell.gates, PROJECTION),
        bundles={**cell.bundles, PROJECTION: (PROJECTION,)},
    )


@lru_cache(maxsize=256)
def apart(cell: Cell) -> Cell:
    """Return the cell with names of states that nothing else has: ``.c`` for ``c``.

    A user may call a state as a schedule calls what it keeps beside the states.
    """
    names = {state: f".{state}" for state in cell.states}
    done: dict[Expr, Expr] = {}
    for e in topological(cell.updates):
        value = e.value
        if e.op == "state":
            value = names[str(value)]
        elif e.op == "project":
            bundle, gate = projection(e)
            value = names.get(bundle, bundle), gate
        done[e] = node(e.op, tuple(done[arg] for arg in e.args), value)
    return replace(
        cell,
        states=tuple(names.values()),
        updates=tuple(done[update] for update in cell.updates),
        bundles={names.get(bundle, bundle): gates for bundle, gates in cell.bundles.items()},
    )
