"""A cell as plain JSON values and back: data alone, in which nothing can be run.

What is read is held to the closed set of operations, and to every rule that tracing keeps, so that
a cell from a file is no more able to surprise a kernel than one from a function.
"""

import math
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from reprlib import Repr
from typing import Any, NoReturn

from cellwright.errors import CellError
from cellwright.graph.cell import INPUT, Cell, bundle_of, projection
from cellwright.graph.expr import Expr, const, leaf, node, topological
from cellwright.graph.ops import ELEMENTWISE

__all__ = ["cell_from_json", "cell_to_json"]

MAX_NODES = 10_000
MAX_NAMES = 1_000
MAX_NAME = 200
MAX_DOC = 100_000
"""Far above any cell that can be run, and far below what would exhaust a reader."""

UNBOUNDED = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""Numbers that JSON has no way to write, by the text that stands for them."""

CELL_LEAVES = ("const", "input", "state", "vector", "project")
"""The operations of a cell that are not elementwise; others only come up on the way to a kernel."""


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def cell_to_json(cell: Cell) -> dict[str, Any]:
    """Return ``cell`` as dicts, lists, strings and numbers, for :func:`cell_from_json`.

    ``nodes`` are in topological order, each once; ``args`` and ``updates`` are indices of them.
    Nan and infinities are the strings "nan", "inf" and "-inf", for JSON has no numbers for them.

    Raises:
        CellError: ``cell_from_json`` would refuse it; a traced cell with ordinary names is not.
    """
    index: dict[Expr, int] = {}
    nodes: list[dict[str, Any]] = []
    for e in topological(cell.updates):
        index[e] = len(nodes)
        nodes.append(_node_to_json(e, index))
    values = {
        "name": cell.name,
        "doc": cell.doc,
        "states": list(cell.states),
        "gates": list(cell.gates),
        "vectors": {name: _number_to_json(value) for name, value in cell.vectors.items()},
        "nodes": nodes,
        "updates": [index[update] for update in cell.updates],
    }
    cell_from_json(values)
    return values


def cell_from_json(values: Mapping[str, Any]) -> Cell:
    """Return the cell that ``cell_to_json`` wrote: equal to it, and of the same shared nodes.

    Raises:
        CellError: the values are not those of a cell; says which, and what was expected.
    """
    keys = ("name", "doc", "states", "gates", "vectors", "nodes", "updates")
    fields = _fields(values, "a cell", keys)
    name = _text(fields["name"], "the cell's name", MAX_NAME)
    if not name or not name.isprintable():
        _refuse("the cell's name", "one printable line", name)
    doc = _text(fields["doc"], "the cell's doc", MAX_DOC)
    states, gates = _names(fields["states"], "states"), _names(fields["gates"], "gates")
    vectors = _vectors(fields["vectors"], states)
    _check_names(states, gates)
    nodes = _nodes(fields["nodes"], states, vectors)
    updates = _list(fields["updates"], "updates", MAX_NAMES)
    if len(updates) != len(states):
        _refuse("updates", f"one for each of the {len(states)} states", updates)
    roots = tuple(nodes[_index(one, "updates", len(nodes))] for one in updates)
    reached = list(topological(roots))
    if len(reached) != len(nodes):
        _refuse("nodes", "each node once, and an update that needs it", f"{len(nodes)} nodes")
    return Cell(name, doc, states, roots, gates, _bundles(reached, states, gates, vectors), vectors)


def _node_to_json(e: Expr, index: Mapping[Expr, int]) -> dict[str, Any]:
    values: dict[str, Any] = {"op": e.op}
    if e.args:
        values["args"] = [index[arg] for arg in e.args]
    if isinstance(e.value, float):
        values["value"] = _number_to_json(e.value)
    elif e.op == "project":
        values["value"] = list(projection(e))
    elif e.value is not None:
        values["value"] = e.value
    return values


def _nodes(values: object, states: Sequence[str], vectors: Mapping[str, float]) -> list[Expr]:
    """Make the nodes in their order; each reads only those before it."""
    made: list[Expr] = []
    for number, one in enumerate(_list(values, "nodes", MAX_NODES)):
        where = f"nodes[{number}]"
        if not isinstance(one, Mapping) or not isinstance(one.get("op"), str):
            _refuse(where, 'an object with an "op"', one)
        op = one["op"]
        if op in ELEMENTWISE:
            made.append(_elementwise(one, where, made))
        elif op == "project":
            made.append(_project(one, where, made, states))
        else:
            made.append(_leaf(one, where, states, vectors))
    return made


def _elementwise(values: Mapping[str, Any], where: str, made: Sequence[Expr]) -> Expr:
    op = values["op"]
    fields = _fields(values, where, ("op", "args"))
    return node(op, _args(fields["args"], where, made, ELEMENTWISE[op].arity))


def _project(
    values: Mapping[str, Any], where: str, made: Sequence[Expr], states: Sequence[str]
) -> Expr:
    fields = _fields(values, where, ("op", "args", "value"))
    args = _args(fields["args"], where, made, 1)
    value = _list(fields["value"], f"{where} value", 2)
    bundle = bundle_of(args[0], states)
    if len(value) != 2 or value[0] != bundle:  # its width is that of what is projected
        _refuse(f"{where} value", f"[{bundle!r}, the gate's name]", value)
    return node("project", args, (bundle, _identifier(value[1], f"{where} value")))


def _leaf(
    values: Mapping[str, Any], where: str, states: Sequence[str], vectors: Mapping[str, float]
) -> Expr:
    match values["op"]:
        case "const":
            return const(_number(_fields(values, where, ("op", "value"))["value"], where))
        case "input":
            _fields(values, where, ("op",))
            return leaf("input")
        case "state" | "vector" as op:
            known = states if op == "state" else tuple(vectors)
            name = _fields(values, where, ("op", "value"))["value"]
            if name not in known:
                _refuse(f"{where} value", f"a {op} of the cell, {', '.join(known) or 'none'}", name)
            return leaf(op, name)
        case op:
            return _refuse(f"{where} op", f"one of {', '.join((*CELL_LEAVES, *ELEMENTWISE))}", op)


def _bundles(
    nodes: Sequence[Expr],
    states: Sequence[str],
    gates: Sequence[str],
    vectors: Mapping[str, float],
) -> dict[str, tuple[str, ...]]:
    """Return which gates are projected from what, after a look that the names are those in use."""
    sources: dict[tuple[str, str], Expr] = {}
    for e in nodes:
        if e.op == "project" and sources.setdefault(projection(e), e.args[0]) is not e.args[0]:
            _refuse("nodes", "one expression for each bundle and gate", projection(e))
    found = {gate for _, gate in sources}
    if found != set(gates):
        _refuse("gates", f"those that are projected, {', '.join(sorted(found)) or 'none'}", gates)
    used = {e.value for e in nodes if e.op == "vector"}
    if used != set(vectors):
        _refuse("vectors", "vectors that a new state uses", sorted(vectors))
    bundles = {b: tuple(g for g in gates if (b, g) in sources) for b in (INPUT, *states)}
    return {bundle: held for bundle, held in bundles.items() if held}


def _check_names(states: Sequence[str], gates: Sequence[str]) -> None:
    if not states or {INPUT, "i"} & set(states):  # x is the input's bundle, weight_ih its matrix
        _refuse("states", 'at least one, and none called "x" or "i"', states)
    for gate in gates:
        if gate.startswith("_"):
            _refuse("gates", "names that do not begin with _", gate)


def _vectors(values: object, states: Sequence[str]) -> dict[str, float]:
    if not isinstance(values, Mapping):
        _refuse("vectors", "an object of names and numbers", values)
    for name in _names(list(values), "vectors"):
        if name in states or name.startswith(("weight_", "bias_")):
            _refuse("vectors", "names that neither states nor weights have", name)
    return {name: _number(value, f"vectors {name!r}") for name, value in values.items()}


def _fields(values: object, where: str, keys: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        _refuse(where, "an object", values)
    if set(values) != set(keys):
        _refuse(where, f"an object with {', '.join(keys)}", sorted(map(str, values)))
    return values


def _names(values: object, where: str) -> tuple[str, ...]:
    names = tuple(_identifier(one, where) for one in _list(values, where, MAX_NAMES))
    if len(set(names)) < len(names):
        _refuse(where, "different names", names)
    return names


def _identifier(value: object, where: str) -> str:
    name = _text(value, where, MAX_NAME)
    if not name.isidentifier() or iskeyword(name):
        _refuse(where, "names as Python has them, letters, digits and _", name)
    return name


def _text(value: object, where: str, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        _refuse(where, f"text of at most {limit:,} characters", value)
    return value


def _list(value: object, where: str, limit: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > limit:
        _refuse(where, f"a list of at most {limit:,}", value)
    return value


def _args(values: object, where: str, made: Sequence[Expr], arity: int) -> tuple[Expr, ...]:
    indices = _list(values, f"{where} args", arity)
    if len(indices) != arity:
        _refuse(f"{where} args", f"{arity} of them", indices)
    return tuple(made[_index(one, f"{where} args", len(made))] for one in indices)


def _index(value: object, where: str, end: int) -> int:
    if type(value) is not int or not 0 <= value < end:
        _refuse(where, f"the number of a node before it, 0 to {end - 1}" if end else "none", value)
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, str) and value in UNBOUNDED:
        return UNBOUNDED[value]
    if type(value) not in (int, float):
        _refuse(where, "a number, or one of " + ", ".join(map(repr, UNBOUNDED)), value)
    assert isinstance(value, int | float)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse(where, "a finite number, or one of " + ", ".join(map(repr, UNBOUNDED)), value)
    return number


def _number_to_json(value: float) -> float | str:
    return value if math.isfinite(value) else repr(float(value))


def _refuse(where: str, expected: str, got: object) -> NoReturn:
    raise CellError(f"no graph of a cell: {where}: expected {expected}, but got {_SHORT.repr(got)}")
