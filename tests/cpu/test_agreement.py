"""Compiled layers against the interpreter, in every form of a call."""

import pytest
import torch
from tests.cpu.agreement import FORMS, apply, compare, flatten, make, run
from tests.cpu.cells import BUNDLED, CELLS, COPYING, WRITTEN

from cellwright.autograd.operation import run_layer
from cellwright.cells import gru, lstm

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_cell = pytest.mark.parametrize("name", CELLS)


@DTYPES
@each_cell
@pytest.mark.parametrize("form", FORMS)
def test_forms(name, form, dtype):
    compare(make(CELLS[name], dtype=dtype, **FORMS[form]))


@DTYPES
@pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
@pytest.mark.parametrize(("hidden", "inputs"), [(1, 1), (3, 17), (17, 65), (65, 1)])
def test_sizes(cell, hidden, inputs, dtype):
    for form in ("one row, zeros", "two rows, both ways", "packed, both ways"):
        compare(make(cell, hidden, inputs, dtype=dtype, **FORMS[form]))
    compare(make(cell, hidden, inputs, dtype=dtype, batch=17, steps=3))


@DTYPES
@pytest.mark.parametrize("name", ["rnn_tanh", "lstm", "gru", "two_stages"])
@pytest.mark.parametrize("hidden", [1, 2, 4, 7, 8, 11])
def test_few_units_of_a_wide_input(name, hidden, dtype):
    for form in ("time first", "one row", "many rows", "batch first, both ways", "packed"):
        compare(make(CELLS[name], hidden, 110, dtype=dtype, **FORMS[form]))


@pytest.mark.parametrize("cell", WRITTEN, ids=lambda c: c.name)
@pytest.mark.parametrize("hidden", [1, 65])
def test_sizes_of_written_cells(cell, hidden):
    compare(make(cell, hidden, **FORMS["two rows, both ways"]))
    compare(make(cell, hidden, **FORMS["packed, both ways"]))


@pytest.mark.parametrize(
    ("cell", "hidden", "inputs"), [(lstm, 40, 100), (gru, 100, 40), (lstm, 300, 7)]
)
def test_sizes_of_several_blocks(cell, hidden, inputs):
    compare(make(cell, hidden, inputs, batch=7, steps=5, directions=2))
    compare(make(cell, hidden, inputs, batch=7, steps=1, directions=2))
    compare(make(cell, hidden, inputs, **FORMS["one row"]))


@DTYPES
@pytest.mark.parametrize("cell", COPYING, ids=lambda c: c.name)
@pytest.mark.parametrize(
    "form", ["time first", "one row, zeros", "batch first, both ways", "packed"]
)
def test_states_that_are_copies(cell, form, dtype):
    compare(make(cell, 20, 3, dtype=dtype, **FORMS[form]))


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole"])
@pytest.mark.parametrize(
    "form",
    ["time first", "one row", "one step of one row", "batch first, both ways", "packed, both ways"],
)
def test_products_of_several_chunks(name, form):
    hidden = 200
    compare(make(CELLS[name], hidden, 17, **FORMS[form]))
    compare(make(CELLS[name], hidden, 17, given=False), frozen=["x"])


@each_cell
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_products_of_any_depth(name, steps):
    compare(make(CELLS[name], 19, steps=steps, batch=9))
    compare(make(CELLS[name], 19, steps=steps, batch=2, given=False))


@each_cell
@pytest.mark.parametrize("of", ["output", "final", ".final"])
@pytest.mark.parametrize(
    "form", ["time first", "one row, zeros", "zeros, both ways", "batch first", "packed, both ways"]
)
def test_cotangents_of_some_results(name, of, form):
    if of == ".final":  # of the last state alone
        of = f"{CELLS[name].states[-1]}.final"
    compare(make(CELLS[name], **FORMS[form]), of)


FROZEN = {
    "input": ["x"],
    "states": ["start"],
    "matrices": ["bundles"],
    "biases": ["biases"],
    "input's weights": ["bundles.x"],
    "state's weights": ["bundles.h"],
    "second direction": [".1"],
    "all but the input": ["start", "bundles", "biases", "vectors"],
    "all but the states": ["x", "bundles", "biases", "vectors"],
    "all but the biases": ["x", "start", "bundles", "vectors"],
}


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "two_stages"])
@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("directions", [1, 2])
def test_frozen(name, frozen, directions):
    compare(make(CELLS[name], directions=directions), frozen=FROZEN[frozen])


def test_frozen_tensors_get_no_gradient():
    case = make(lstm)
    case.weights[0].bundles["h"].requires_grad_()
    out, _ = run_layer(*case.arguments)
    out.sum().backward()
    assert [n for n, t in flatten(case).items() if t.grad is not None] == ["bundles.h.0"]


def _inside(t, *, every=1):
    """Return t as a part of a larger tensor: rows further apart, and an odd start."""
    wide = torch.full([*(s + 2 for s in t.shape[:-1]), t.shape[-1] * every + 3], torch.nan)
    part = wide.to(t.dtype)
    for dim, size in enumerate(t.shape[:-1]):
        part = part.narrow(dim, 1, size)
    part = part[..., 1 : 1 + t.shape[-1] * every : every]
    return part.copy_(t)


VIEWS = {
    "sliced": _inside,
    "every second element": lambda t: _inside(t, every=2),
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "middle first": lambda t: (
        t.transpose(0, -2).contiguous().transpose(0, -2) if t.dim() > 1 else t
    ),
    "expanded first": lambda t: t[:1].expand(t.shape),
    "expanded middle": lambda t: t[..., :1, :].expand(t.shape) if t.dim() > 1 else t,
    "expanded last": lambda t: t[..., :1].expand(t.shape),
    "one number": lambda t: t.flatten()[0].expand(t.shape),
}


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "reset_before", "highway"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("form", ["zeros, both ways", "two rows, both ways", "packed, both ways"])
def test_views(name, view, form):
    options = {**FORMS[form], "given": True}
    compare(apply(make(CELLS[name], **options), VIEWS[view]))


@pytest.mark.parametrize("which", ["x", "states", "weights"])
@pytest.mark.parametrize("view", VIEWS)
def test_views_of_one_argument(which, view):
    case = make(lstm, batch=1, steps=1)
    viewed = apply(case, VIEWS[view])
    setattr(case, which, getattr(viewed, which))
    compare(case)


def test_overlapping_windows():
    series = torch.randn(9, 3)
    case = make(lstm, steps=4, batch=6)
    case.x = series.unfold(0, 4, 1).permute(2, 0, 1)
    compare(case)
    case.x = series.unfold(0, 6, 1).permute(0, 2, 1)
    compare(case)


@pytest.mark.parametrize("view", VIEWS)
def test_views_as_cotangents(view):
    case = make(lstm, directions=2)
    shapes = {"output": (4, 5, 34), "h.final": (2, 5, 17), "c.final": (2, 5, 17)}
    cotangents = {n: VIEWS[view](torch.randn(s)) for n, s in shapes.items()}
    found = run(case, cotangents)[1]
    copied = run(case, {n: t.contiguous() for n, t in cotangents.items()})[1]
    for name, gradient in copied.items():
        assert torch.equal(found[name], gradient), name
