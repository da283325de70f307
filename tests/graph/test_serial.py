"""Cells as JSON: whole round trips, and nothing taken from JSON that no cell could have written."""

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.random_cells import REPRODUCIBLE, cells, random_cell

from cellwright import CellError, cell, sigmoid, tanh
from cellwright.cells import CELLS
from cellwright.graph import serial
from cellwright.graph.accumulate import accumulate
from cellwright.graph.cell import Cell
from cellwright.graph.serial import cell_from_json, cell_to_json


@cell
def peephole(x, h, c, *, p_f=1.0, p_o=-0.25):
    """Reads its cell state in its gates."""
    f = sigmoid(x.f + h.f + p_f * c)
    c = f * c + (1 - f) * tanh(x.g + (f * h).g)
    return sigmoid(x.o + p_o * c) * tanh(c), c


def through_text(one: Cell) -> Cell:
    return cell_from_json(json.loads(json.dumps(cell_to_json(one), allow_nan=False)))


def same(read: Cell, written: Cell) -> None:
    assert read == written
    assert hash(read) == hash(written)
    assert all(a is b for a, b in zip(read.updates, written.updates, strict=True))
    assert list(read.bundles) == list(written.bundles)  # the order of the parameters
    assert list(read.vectors.items()) == list(written.vectors.items())
    assert accumulate(read) == accumulate(written)


@pytest.mark.parametrize("one", [*CELLS.values(), peephole], ids=lambda one: one.name)
def test_cells_come_back_equal(one: Cell) -> None:
    same(through_text(one), one)


@REPRODUCIBLE
@given(cells())
def test_random_cells_come_back_equal(one: Cell) -> None:
    same(through_text(one), one)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2])
def test_numbers_come_back_to_the_last_bit(number: float) -> None:
    made = cell(name="odd")(lambda x, h: tanh(number * x.a) + number * h)
    read = through_text(made)
    same(read, made)
    held = [e.value for e in read.updates[0].args[0].args + read.updates[0].args[1].args]
    assert repr(number) in map(repr, held)


def test_a_traced_lambda_can_be_written() -> None:
    made = cell(lambda x, h: tanh(x.a + h.a))
    assert made.name == "<lambda>"
    same(through_text(made), made)


def test_nodes_stand_once_and_before_their_users() -> None:
    values = cell_to_json(CELLS["lstm"])
    nodes = values["nodes"]
    assert len({json.dumps(one) for one in nodes}) == len(nodes)
    assert all(arg < number for number, one in enumerate(nodes) for arg in one.get("args", ()))
    assert nodes[0] == {"op": "input"}
    assert {"op": "project", "args": [0], "value": ["x", "o"]} in nodes


def tampered(path: str, value: object) -> dict[str, Any]:
    """Return the peephole cell's values with the one at ``path`` replaced; "…/-" deletes."""
    values = copy.deepcopy(cell_to_json(peephole))
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    held: Any = values
    for key in parents:
        held = held[key]
    held[last] = value
    return values


FIRST_PROJECT = next(
    k for k, one in enumerate(cell_to_json(peephole)["nodes"]) if one["op"] == "project"
)
FIRST_ADD = next(k for k, one in enumerate(cell_to_json(peephole)["nodes"]) if one["op"] == "add")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "", "the cell's name: expected one printable line"),
        ("name", "two\nlines", "one printable line"),
        ("name", "n" * 201, "at most 200 characters"),
        ("doc", 7, "the cell's doc: expected text"),
        ("states", ["h"], "state of the cell, h, but got 'c'"),
        ("states", ["h", "x"], 'none called "x" or "i"'),
        ("states", [], "updates: expected|at least one"),
        ("states", ["h", "h"], "different names"),
        ("states", ["h", "c.d"], "letters, digits and _"),
        ("states", ["h", "lambda"], "letters, digits and _"),
        ("states", "hc", "states: expected a list"),
        ("gates", ["f", "g"], "gates: expected those that are projected, f, g, o"),
        ("gates", ["f", "g", "o", "k"], "gates: expected those that are projected"),
        ("gates", ["f", "g", "__o"], "do not begin with _"),
        ("gates", ["f", "g", "o "], "letters, digits and _"),
        ("vectors", {"p_f": 1.0}, "a vector of the cell, p_f, but got 'p_o'"),
        ("vectors", {"p_f": 1.0, "p_o": 0.0, "p_n": 0.0}, "vectors that a new state uses"),
        ("vectors", {"p_f": 1.0, "p_o": "0.5"}, "a number, or one of 'nan'"),
        ("vectors", {"p_f": 1.0, "p_o": True}, "a number, or one of 'nan'"),
        ("vectors", {"p_f": 1.0, "p_o": 10**400}, "a finite number"),
        ("vectors", {"p_f": 1.0, "weight_o": 1.0}, "neither states nor weights have"),
        ("vectors", {"p_f": 1.0, "h": 1.0}, "neither states nor weights have"),
        ("vectors", ["p_f", "p_o"], "an object of names and numbers"),
        ("updates", [0], "one for each of the 2 states"),
        ("updates", [0, 1], "an update that needs it"),
        ("updates", [-1, 0], "the number of a node before it"),
        ("updates", [True, 0], "the number of a node before it"),
        ("updates", [10**6, 0], "the number of a node before it"),
        ("nodes", {"0": {}}, "nodes: expected a list"),
        ("nodes", [], "updates: expected none"),
        ("nodes/0", ["input"], r'nodes\[0\]: expected an object with an "op"'),
        ("nodes/0", {"op": "input", "value": 1}, "an object with op, but got"),
        ("nodes/0", {"op": "__import__"}, "op: expected one of const, input"),
        ("nodes/0", {"op": ["add"]}, 'an object with an "op"'),
        ("nodes/0", {"op": "accumulator", "value": 0}, "op: expected one of const, input"),
        ("nodes/0", {"op": "read", "value": "secret"}, "op: expected one of const, input"),
        ("nodes/0", {"op": "const", "value": "1e5"}, "a number, or one of"),
        ("nodes/0", {"op": "const", "value": math.inf}, "a finite number"),
        ("nodes/0", {"op": "state", "value": ["h"]}, "a state of the cell, h, c"),
        ("nodes/0", {"op": "state", "value": "m"}, "a state of the cell, h, c, but got 'm'"),
        ("nodes/0", {"op": "vector", "value": "h"}, "a vector of the cell, p_f, p_o, but got 'h'"),
        ("nodes/0", {"op": "neg", "args": [0]}, "args: expected none"),
        (f"nodes/{FIRST_PROJECT}/value", ["h", "f"], r"expected \['x', the gate's name\]"),
        (f"nodes/{FIRST_PROJECT}/value", ["x", "f", "g"], "a list of at most 2"),
        (f"nodes/{FIRST_PROJECT}/value", ["x"], r"expected \['x', the gate's name\]"),
        (f"nodes/{FIRST_PROJECT}/value", ["x", 3], "text of at most"),
        (f"nodes/{FIRST_PROJECT}/args", [], "args: expected 1 of them"),
        (f"nodes/{FIRST_ADD}/op", "sigmoid", "a list of at most 1"),
        (f"nodes/{FIRST_ADD}/op", "os.system", "op: expected one of const, input"),
        (f"nodes/{FIRST_ADD}/args", [0], "args: expected 2 of them"),
        (f"nodes/{FIRST_ADD}/args", [0, FIRST_ADD], "the number of a node before it"),
        (f"nodes/{FIRST_ADD}/args", [0, FIRST_ADD + 1], "the number of a node before it"),
        (f"nodes/{FIRST_ADD}/args", [0, 1.0], "the number of a node before it"),
        (f"nodes/{FIRST_ADD}/extra", 1, "an object with op, args, but got"),
        ("source", "import os", "an object with name, doc, states"),
    ],
)
def test_tampered_values_are_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(CellError, match=message):
        cell_from_json(tampered(path, value))


def test_an_absurd_size_is_refused_before_it_is_built() -> None:
    values = cell_to_json(peephole)
    values["nodes"] = values["nodes"] * 2_000
    with pytest.raises(CellError, match="a list of at most 10,000"):
        cell_from_json(values)


def test_one_gate_from_two_expressions_is_refused() -> None:
    values = cell_to_json(cell(name="two")(lambda x, h: tanh(h.a) + tanh((h * x.g).b)))
    second = next(one for one in values["nodes"] if one.get("value") == ["h", "b"])
    second["value"] = ["h", "a"]
    values["gates"].remove("b")
    with pytest.raises(CellError, match="one expression for each bundle and gate"):
        cell_from_json(values)


def test_a_cell_that_could_not_be_read_is_not_written() -> None:
    odd = cell(name="odd")(lambda x, h: tanh(getattr(x, "a b")))
    with pytest.raises(CellError, match="letters, digits and _, but got 'a b'"):
        cell_to_json(odd)


@REPRODUCIBLE
@given(
    st.sampled_from([peephole, random_cell(3), CELLS["gru"]]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    ),
    st.data(),
)
def test_any_replaced_part_gives_a_cell_or_a_cell_error(
    one: Cell, part: object, data: st.DataObject
) -> None:
    values = cell_to_json(one)
    held: Any = values
    while True:
        key = data.draw(st.sampled_from(range(len(held)) if isinstance(held, list) else [*held]))
        if not isinstance(held[key], list | dict) or not held[key] or data.draw(st.booleans()):
            break
        held = held[key]
    held[key] = part
    try:
        read = cell_from_json(values)
    except CellError:
        return
    same(through_text(read), read)


def test_reading_needs_no_more_than_the_table_of_operations(monkeypatch) -> None:
    def never(*_: object) -> float:
        raise AssertionError("an operation was evaluated")

    written = cell_to_json(peephole)
    for name, op in serial.ELEMENTWISE.items():
        monkeypatch.setitem(serial.ELEMENTWISE, name, copy.copy(op))
        object.__setattr__(serial.ELEMENTWISE[name], "value", never)
    same(cell_from_json(written), peephole)
