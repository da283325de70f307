"""Cells that torch has not, against hand-written loops."""

import copy
import pickle
import types

import pytest
import torch
from tests.nn.agreement import compare, normal, packed
from tests.nn.loops import LOOPS, Loop, coupled, crossed, minimal, peephole
from tests.tolerance import assert_close

import cellwright as cw
import cellwright.nn as nn

each_cell = pytest.mark.parametrize("name", LOOPS)


def made(name, *sizes, dtype, **options):
    """Return a Recurrent whose parameters are all random, and the loop beside it."""
    cell, step = LOOPS[name]
    module = nn.Recurrent(cell, *sizes, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(normal(*parameter.shape, dtype=dtype) * 0.5)
    return module, Loop(module, step)


def states_for(module, batch):
    dtype = next(module.parameters()).dtype
    rows = module.num_layers * (2 if module.bidirectional else 1)
    states = [normal(rows, batch, module.hidden_size, dtype=dtype) for _ in module.cell.states]
    return tuple(states) if len(states) > 1 else states[0]


@each_cell
@pytest.mark.parametrize(("hidden", "batch"), [(1, 1), (3, 5), (17, 1), (65, 3)])
def test_sizes(name, hidden, batch, dtype):
    module, loop = made(name, hidden, hidden, dtype=dtype)
    x = normal(3, batch, hidden, dtype=dtype)
    compare(module, loop, x, states_for(module, batch))
    compare(module, loop, x)


@pytest.mark.parametrize("name", ["coupled", "minimal", "peephole"])
@pytest.mark.parametrize("lengths", [None, (4, 4, 2), (1, 5, 3)], ids=["dense", "sorted", "mixed"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_forms(name, lengths, batch_first, dtype):
    module, loop = made(name, 3, 5, 2, batch_first=batch_first, bidirectional=True, dtype=dtype)
    x = packed(lengths, 3, dtype=dtype) if lengths else normal(3, 3, 3, dtype=dtype)
    compare(module, loop, x, states_for(module, 3))


def test_names_and_shapes():
    module = nn.Recurrent(crossed, 5, 5)
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {
        "weight_ih_l0": (10, 5),
        "weight_hh_l0": (10, 5),
        "weight_ch_l0": (15, 5),
        "weight_sh_l0": (5, 5),
        "bias_ih_l0": (10,),
        "bias_hh_l0": (10,),
        "bias_ch_l0": (15,),
        "bias_sh_l0": (5,),
    }
    names = list(nn.Recurrent(peephole, 3, 5, 2, bias=False, bidirectional=True).state_dict())
    assert names[:5] == ["weight_ih_l0", "weight_hh_l0", "p_i_l0", "p_f_l0", "p_o_l0"]
    assert names[5:10] == [f"{n}_reverse" for n in names[:5]]
    assert names[10:12] == ["weight_ih_l1", "weight_hh_l1"]


def test_vectors_start_at_their_defaults_and_draw_nothing():
    torch.manual_seed(5)
    module = nn.Recurrent(peephole, 3, 4, 2)
    torch.manual_seed(5)
    plain = torch.nn.LSTM(3, 4, 2)
    for name, parameter in plain.named_parameters():
        assert torch.equal(getattr(module, name), parameter), name
    for layer in range(2):
        values = [getattr(module, f"{v}_l{layer}").tolist() for v in ("p_i", "p_f", "p_o")]
        assert values == [[0.5] * 4, [1.0] * 4, [0.0] * 4]


def test_a_bundled_cell_lifted_is_the_bundled_module():
    torch.manual_seed(1)
    lifted = nn.Recurrent(cw.cells.lstm, 3, 5, 2, bidirectional=True)
    torch.manual_seed(1)
    bundled = nn.LSTM(3, 5, 2, bidirectional=True)
    x = torch.randn(4, 2, 3)
    assert torch.equal(lifted(x)[0], bundled(x)[0])
    assert repr(lifted) == "Recurrent(lstm, 3, 5, num_layers=2, bidirectional=True)"


@each_cell
def test_copies(name):
    module, _ = made(name, 5, 5, dtype=torch.float32)
    x = torch.randn(4, 2, 5)
    expected = module(x)[0]
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x)[0], expected)
        assert twin.cell == module.cell


def called(name):
    """Return a cell whose second state has this name."""

    def step(x, h, second):
        r = cw.sigmoid(x.r + h.r)
        new = 0.5 * second + cw.tanh(x.g + (r * second).g)
        return cw.sigmoid(x.o + second.o) * cw.tanh(new), new

    code = step.__code__
    names = tuple(name if n == "second" else n for n in code.co_varnames)
    return cw.cell(types.FunctionType(code.replace(co_varnames=names), {"cw": cw}, "step"))


NAMES = ["a", "gx", "da", "db", "dy", "dx", "dh", "gh", "one", "packed", "e0", "v0", "scratch"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"proj_size": 2, "bidirectional": True}], ids=str)
def test_a_state_may_be_called_as_what_kernels_keep_beside_it(name, options):
    ours, plain = (nn.Recurrent(called(n), 3, 5, **options) for n in (name, "c"))
    renamed = {k.replace("_ch_", f"_{name}h_"): v for k, v in plain.state_dict().items()}
    ours.load_state_dict(renamed)
    for steps in (4, 1):
        x = normal(steps, 2, 3, dtype=torch.float32)
        pairs = []
        for module in (ours, plain):
            out, states = module(x)
            loss = out.square().sum() + states[1].sum()
            pairs.append([out, *torch.autograd.grad(loss, list(module.parameters()))])
        assert all(torch.equal(left, right) for left, right in zip(*pairs, strict=True))


def test_states_come_back_in_the_form_they_were_given():
    out, h = nn.Recurrent(minimal, 3, 5)(torch.randn(4, 2, 3))
    assert torch.equal(out[-1], h[0])
    out, states = nn.Recurrent(crossed, 5, 5)(torch.randn(4, 2, 5))
    assert [tuple(s.shape) for s in states] == [(1, 2, 5)] * 3
    assert torch.equal(out[-1], states[0][0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_projection_of_a_cell_of_ones_own(bidirectional):
    module = nn.Recurrent(coupled, 3, 5, bidirectional=bidirectional, proj_size=2).double()
    x = normal(4, 2, 3, dtype=torch.float64)
    out, (h, c) = module(x)
    rows = 2 if bidirectional else 1
    assert (h.shape, c.shape) == ((rows, 2, 2), (rows, 2, 5))
    p = {n.removesuffix("_l0"): w for n, w in module.named_parameters()}
    states = (x.new_zeros(2, 2), x.new_zeros(2, 5))
    for t in range(4):
        h, c = LOOPS["coupled"][1](x[t], states, p)
        states = (h @ p["weight_hr"].T, c)
        assert_close(out[t, :, :2], states[0])


def test_a_state_of_numbers_and_of_vectors_alone_is_full():
    @cw.cell
    def constant(x, h, c, *, v=0.25):
        return cw.tanh(x.a + c.a), v

    module = nn.Recurrent(constant, 3, 5)
    _, (h, c) = module(torch.randn(4, 2, 3))
    assert h.shape == c.shape == (1, 2, 5)
    assert torch.equal(c, torch.full((1, 2, 5), 0.25))


@cw.cell
def leaky(x, h, *, a=0.5):
    """A cell without weights, which has no accumulators."""
    return cw.tanh(a * h + 0.1)


@pytest.mark.parametrize("hidden", [1, 2000])
def test_states_that_are_not_given_are_zeros_in_cells_without_products(hidden):
    module, x = nn.Recurrent(leaky, 1, hidden), torch.randn(3, 2, 1)
    with torch.no_grad():
        output, h_n = module(x)
        expected, last = module(x, torch.zeros(1, 2, hidden))
    assert torch.equal(output, expected)
    assert torch.equal(h_n, last)
    assert_close(output[0], torch.full((2, hidden), 0.1, dtype=torch.float64).tanh())
