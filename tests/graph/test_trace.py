"""What a cell's function is read as, and what is refused with which words."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import cellwright as cw
from cellwright import Cell, CellError, CellwrightError, cell
from cellwright.cells import CELLS, gru, lstm, rnn_relu, rnn_tanh
from cellwright.graph.cell import projection
from cellwright.graph.expr import const, leaf, node
from cellwright.graph.trace import Symbol


def test_gates_come_in_the_order_of_torchs_rows() -> None:
    assert lstm.gates == ("i", "f", "g", "o")
    assert gru.gates == ("r", "z", "n")
    assert dict(lstm.bundles) == {"x": ("i", "f", "g", "o"), "h": ("i", "f", "g", "o")}
    assert dict(gru.bundles) == {"x": ("r", "z", "n"), "h": ("r", "z", "n")}
    assert lstm.states == ("h", "c")
    assert list(CELLS) == ["rnn_tanh", "rnn_relu", "lstm", "gru"]


def test_the_bundled_cells_compute_these_equations() -> None:
    def gate(name: str) -> Any:
        return project("x", name) + project("h", name)

    def project(source: str, name: str) -> Any:
        return node("project", (x if source == "x" else h,), (source, name))

    def sigmoid(a: Any) -> Any:
        return node("sigmoid", (a,))

    def tanh(a: Any) -> Any:
        return node("tanh", (a,))

    x, h, c = leaf("input"), leaf("state", "h"), leaf("state", "c")
    assert rnn_tanh.updates == (tanh(gate("h")),)
    assert rnn_relu.updates == (node("relu", (gate("h"),)),)
    new = sigmoid(gate("f")) * c + sigmoid(gate("i")) * tanh(gate("g"))
    assert lstm.updates == (sigmoid(gate("o")) * tanh(new), new)
    n = tanh(project("x", "n") + sigmoid(gate("r")) * project("h", "n"))
    assert gru.updates == (n + sigmoid(gate("z")) * (h - n),)


def test_gate_order_is_that_of_first_appearance_over_all_sources() -> None:
    @cell
    def mixed(x, h, c):
        b = cw.sigmoid(c.b)
        a = cw.sigmoid(x.a + h.b)
        return a * b, cw.tanh(x.z + c.a)

    assert mixed.gates == ("b", "a", "z")
    assert dict(mixed.bundles) == {"x": ("a", "z"), "h": ("b",), "c": ("b", "a")}


def test_projections_that_reach_no_new_state_are_dropped() -> None:
    @cell
    def dead(x, h):
        cw.sigmoid(x.unused + h.unused)
        return cw.tanh(x.h + h.h)

    assert dead.gates == ("h",)
    assert dict(dead.bundles) == {"x": ("h",), "h": ("h",)}


def test_vectors_keep_their_names_order_and_initial_values() -> None:
    @cell
    def peephole(x, h, c, *, p_i=0.25, p_f=1):
        return cw.tanh(x.h + h.h + p_f * c), p_i * c

    assert dict(peephole.vectors) == {"p_i": 0.25, "p_f": 1.0}
    assert peephole.updates[1] is leaf("vector", "p_i") * leaf("state", "c")


def test_a_projected_expression_takes_the_weights_of_its_state() -> None:
    @cell
    def reset(x, h, c, *, p=0.1):
        r = cw.sigmoid(x.r + h.r + p * h)
        return cw.tanh(x.n + (r * c).n), (p * 2 + r).k

    assert dict(reset.bundles) == {"x": ("r", "n"), "h": ("r", "k"), "c": ("n",)}
    assert [projection(e) for e in reset.updates[0].args[0].args] == [("x", "n"), ("c", "n")]


def test_an_expression_of_the_input_takes_the_weights_of_the_input() -> None:
    @cell
    def gated(x, h):
        return cw.tanh((cw.sigmoid(h.g) * x).n)

    assert dict(gated.bundles) == {"x": ("n",), "h": ("g",)}
    assert gated.reads_input


def test_reading_the_bare_input_is_seen() -> None:
    @cell
    def skip(x, h):
        return cw.tanh(x.h + h.h) + x

    @cell
    def delay(x, h):
        return x

    assert skip.reads_input
    assert delay.reads_input
    assert not any(c.reads_input for c in CELLS.values())


def test_numbers_of_every_kind_become_constants() -> None:
    @cell
    def numbers(x, h):
        return np.float32(2) * h + np.float64(3) - 1 / (h * np.int64(5))

    h = leaf("state", "h")
    assert numbers.updates == (const(2) * h + const(3) - const(1) / (h * const(5)),)


def test_a_power_is_a_product() -> None:
    @cell
    def cube(x, h):
        return h**3

    h = leaf("state", "h")
    assert cube.updates == (h * h * h,)


@pytest.mark.parametrize("given", [3, "gru", object()], ids=["int", "str", "object"])
def test_what_is_no_function_is_refused(given: Any) -> None:
    for make in (cell, cell(name="other")):
        with pytest.raises(cw.CellError, match=r"expected a function .* put @cell above one"):
            make(given)


def test_a_name_may_be_given() -> None:
    @cell(name="other")
    def named(x, h):
        """Its text."""
        return cw.tanh(x.h + h.h)

    assert (named.name, named.doc) == ("other", "Its text.")
    assert named.updates == rnn_tanh.updates
    assert repr(named) == "<cell other: states h; gates h>"


@pytest.mark.parametrize("subject", CELLS.values(), ids=CELLS)
def test_a_copied_cell_is_equal_and_has_the_same_nodes(subject: Cell) -> None:
    for copied in (pickle.loads(pickle.dumps(subject)), copy.copy(subject), copy.deepcopy(subject)):
        assert copied == subject
        assert hash(copied) == hash(subject)
        assert all(a is b for a, b in zip(copied.updates, subject.updates, strict=True))
        with pytest.raises(TypeError):
            copied.bundles["x"] = ()


def branch(x, h):
    return x.a if x.a > h.a else h.a  # noqa: FURB136


def truth(x, h):
    return x.a and h.a


def loop(x, h):
    return sum(part for part in h)


def unpack(x, h):
    a, b = x.a
    return a * b


def number(x, h):
    return math.tanh(x.a)


def index(x, h):
    return x.a[0]


def method(x, h):
    return x.a.tanh(h)


def product(x, h):
    return np.eye(3) @ h


def exponent(x, h):
    return 2**h


def power(x, h):
    return h**0.5


def text(x, h):
    return h + "a"


def boolean(x, h):
    return h * True


def plain(x, h):
    return cw.sigmoid(0.5)


def assigned(x, h):
    h.n = 3
    return h


def torchs(x, h):
    return torch.tanh(x.a + h.a)


def raised(x, h):
    return h**x


def again(x, h):
    return (x.a * h).n + (x.b * h).n


REFUSED = {
    branch: ("steer `if`", "return x.a if x.a > h.a else h.a  # noqa: FURB136"),
    truth: ("steer `if`", "return x.a and h.a"),
    loop: ("iterated", "return sum(part for part in h)"),
    unpack: ("unpacked", "a, b = x.a"),
    number: ("in place of math", "return math.tanh(x.a)"),
    index: ("knows + - * /", "return x.a[0]"),
    method: ("knows + - * /", "return x.a.tanh(h)"),
    product: ("is a projection", "return np.eye(3) @ h"),
    exponent: ("whole powers", "return 2**h"),
    power: ("whole exponent from 1 to 8, not 0.5", "return h**0.5"),
    text: ("add takes symbols and numbers, not str", 'return h + "a"'),
    boolean: ("not bool", "return h * True"),
    plain: ("called with float", "return cw.sigmoid(0.5)"),
    assigned: ("give the result a name, as in `n = …`", "h.n = 3"),
    torchs: ("torch's tanh takes tensors", "return torch.tanh(x.a + h.a)"),
    raised: ("from 1 to 8, not a symbol", "return h**x"),
    again: ("gate 'n' is projected from 'h' twice", "return (x.a * h).n + (x.b * h).n"),
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda f: f.__name__)
def test_what_cannot_be_traced_is_quoted(function: Any) -> None:
    reason, line = REFUSED[function]
    with pytest.raises(CellError) as caught:
        cell(function)
    message = str(caught.value)
    assert reason in message
    assert message.endswith(f": {line}")
    assert f"{__file__}:{function.__code__.co_firstlineno + 1}" in message
    assert isinstance(caught.value, CellwrightError)
    assert isinstance(caught.value, TypeError)


def nothing(x, h):
    x.a + h.a


def too_few(x, h, c):
    return x.a + h.a


def a_number(x, h):
    return 1.0


def a_list(x, h, c):
    return [h, c]


def no_state(x):
    return x.a


def stars(x, *states):
    return x.a


def forgotten_star(x, h, p=0.0):
    return h * p


def no_initial(x, h, *, p):
    return h * p


def idle_vector(x, h, *, p=0.0):
    return h + 0 * x.a


def weights(x, h, *, weight_ih=0.0):
    return h * weight_ih


def state_x(u, x):
    return u.a + x.a


MALFORMED = {
    nothing: "a cell returns its new states (h), in the order of its arguments, and this one "
    "returned (NoneType); end it with `return h`",
    too_few: "new states (h, c), in the order of its arguments, and this one returned (Symbol)",
    a_number: "this one returned (float)",
    a_list: "this one returned (list)",
    no_state: "a cell takes the input and at least one state, as in `def cell(x, h)`",
    stars: "a cell takes no *args, **kwargs or `/`, and this has `*states`",
    forgotten_star: "put it behind a star: `*, p=0.0`",
    no_initial: "the per-unit vector 'p' needs a number as its default",
    idle_vector: "the vector 'p' is in the signature and no new state uses it",
    weights: "the vector 'weight_ih' is named like the weights; rename it",
    state_x: "a state cannot be called 'x', which stands for the input",
}


@pytest.mark.parametrize("function", MALFORMED, ids=lambda f: f.__name__)
def test_a_malformed_cell_is_quoted(function: Any) -> None:
    with pytest.raises(CellError) as caught:
        cell(function)
    message = str(caught.value)
    assert MALFORMED[function] in message
    assert f"{__file__}:{function.__code__.co_firstlineno}: def {function.__name__}(" in message


def test_the_quoted_line_of_a_decorated_cell_is_its_def() -> None:
    with pytest.raises(CellError, match=r"def wrong\(x, h, c\):$"):

        @cell
        def wrong(x, h, c):
            return h


def test_symbols_of_two_cells_do_not_mix() -> None:
    kept: list[Symbol] = []

    @cell
    def first(x, h):
        kept.append(h)
        return x.a + h.a

    with pytest.raises(CellError, match="another cell"):

        @cell
        def second(x, h):
            return kept[0] + h


def test_private_attributes_are_no_gates() -> None:
    with pytest.raises(AttributeError, match="_hidden"):

        @cell
        def private(x, h):
            return x._hidden


def test_a_users_own_exception_comes_through_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):

        @cell
        def broken(x, h):
            return h * (1 / 0)
