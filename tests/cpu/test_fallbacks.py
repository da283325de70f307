"""Where no kernel can do the work, the interpreter does, with a warning that names the cause."""

import warnings

import pytest
import torch
from tests.cpu.agreement import apply, compare, flatten, make, results
from tests.cpu.processes import python
from tests.tolerance import assert_close
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

import cellwright.nn as nn
from cellwright import CompileError, InterpreterWarning
from cellwright.autograd.obstacle import obstacle
from cellwright.autograd.operation import run_layer
from cellwright.autograd.repeat import repeat
from cellwright.cells import gru, lstm, rnn_tanh
from cellwright.cpu.call import plan
from cellwright.cpu.machine import jit, target
from cellwright.graph.interpret import interpret_layer

LEVELS = [name for name, (_, _, needs) in target._LEVELS.items() if name != target.host().name]


def interpreted(case, cause):
    """Check that a call warns of ``cause`` once and gives what the interpreter does."""
    with pytest.warns(InterpreterWarning, match=cause) as seen:
        found = results(case)
    assert len(seen) == 1
    assert case.cell.name in str(seen[0].message)
    assert seen[0].filename == __file__.replace("test_fallbacks", "agreement")
    for name, expected in results(case, interpret_layer).items():
        assert torch.equal(found[name], expected), name


def test_other_dtypes():
    case = make(lstm)
    assert "not complex64" in str(obstacle(case.x.to(torch.complex64), case.weights))


def test_half_precision_of_some():
    """Parameters of another dtype are left to torch, which refuses them."""
    case = make(gru, dtype=torch.bfloat16)
    case.x = case.x.half()
    with pytest.raises(RuntimeError, match="dtype"):
        results(case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("other", [torch.float64, torch.float16], ids=str)
def test_states_of_another_dtype(dtype, other):
    """A kernel would read memory that is not theirs; torch refuses them."""
    case = make(gru, dtype=dtype)
    case.states = [state.to(other) for state in case.states]
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        results(case)
    assert repeat(*case.arguments[:4], case.hidden) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", [{}, {"lengths": (4, 2, 2)}], ids=["dense", "packed"])
def test_states_of_fewer_rows(dtype, form):
    case = make(gru, dtype=dtype, **form)
    case.states = [state[:, :1] for state in case.states]
    with torch.no_grad(), pytest.warns(InterpreterWarning, match="states differ"):
        results(case)
    if case.batch_sizes is None:
        assert repeat(*case.arguments[:4], case.hidden) is None


def test_function_transforms():
    case = make(gru, steps=2, batch=2)
    expected = torch.stack([results(case, interpret_layer)["output"]] * 3)

    def run(x):
        return run_layer(case.cell, x, *case.arguments[2:])[0]

    with pytest.warns(InterpreterWarning, match=r"torch\.func"):
        assert_close(torch.func.vmap(run)(torch.stack([case.x] * 3)), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_forward_mode():
    case = make(lstm, steps=2, batch=2, dtype=torch.float64)
    tangent = torch.randn_like(case.x)
    with forward_ad.dual_level():
        case.x = forward_ad.make_dual(case.x, tangent)
        with pytest.warns(InterpreterWarning, match="forward-mode"):
            found = forward_ad.unpack_dual(results(case)["output"])
        expected = forward_ad.unpack_dual(results(case, interpret_layer)["output"])
    assert_close(found.primal, expected.primal)
    assert_close(found.tangent, expected.tangent)


def test_other_devices():
    case = apply(make(lstm), lambda t: t.to("meta"))
    assert "meta" in str(obstacle(case.x, case.weights))
    with pytest.warns(InterpreterWarning, match="CPU"):
        assert results(case)["output"].shape == (4, 5, 17)


def test_code_that_cannot_be_compiled(monkeypatch):
    def refuse(*_):
        raise CompileError("LLVM could not compile this for a test")

    plan.plan_of.cache_clear()
    monkeypatch.setattr(jit, "load", refuse)
    try:
        interpreted(make(lstm), "LLVM could not compile this for a test")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterpreterWarning)
            compare(make(gru, directions=2))
    finally:
        plan.plan_of.cache_clear()


def test_what_kernels_take_has_no_obstacle():
    assert all(obstacle(make(c).x, make(c).weights) is None for c in (lstm, gru, rnn_tanh))


def test_an_unknown_instruction_set():
    code = """
import warnings
from cellwright import InterpreterWarning
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("default")
    for _ in range(3):
        compare(make(lstm))
named = list({str(w.message) for w in seen})
assert {w.category for w in seen} == {InterpreterWarning}, named
print(len(named), "CELLWRIGHT_ISA=nonsense" in named[0], "lstm" in named[0])
"""
    assert python(code, CELLWRIGHT_ISA="nonsense") == "1 True True"


@pytest.mark.parametrize("level", LEVELS)
def test_other_instruction_sets(level):
    code = """
import cellwright.nn as nn
from cellwright import CompileError
from cellwright.cpu.machine.target import host
try:
    print(host().name)
except CompileError:
    print("absent")
else:
    for dtype in (torch.float32, torch.float64):
        for cell in (lstm, gru, rnn_tanh):
            for form in ("two rows, both ways", "packed, both ways", "one step of one row"):
                compare(make(cell, dtype=dtype, **FORMS[form]))
"""
    found = python(code, CELLWRIGHT_ISA=level)
    if found == "absent":
        pytest.skip(f"this machine has no {level}")
    assert found == level


@pytest.mark.filterwarnings("ignore::cellwright.errors.InterpreterWarning")
@pytest.mark.parametrize("name", ["bundles.x.0", "bundles.h.0", "biases.x.0", "biases.h.0"])
@pytest.mark.parametrize("wrong", ["rows", "columns", "dtype"])
def test_parameters_that_do_not_fit_are_never_read(name, wrong):
    case = make(lstm)
    tensor = flatten(case)[name]
    other = {"rows": tensor[:-1], "columns": tensor[..., :-1], "dtype": tensor.double()}[wrong]
    misfit = apply(case, lambda t: other if t is tensor else t)
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        results(misfit)


@pytest.mark.parametrize("wrong", ["dtype", "rows", "columns", "directions"])
def test_states_that_do_not_fit_are_never_read(wrong):
    layer = nn.LSTM(3, 17)
    right = torch.randn(1, 5, 17)
    for number in (0, 1):
        hx = [right, right]
        views = {"rows": right[:, :-1], "columns": right[..., :-1], "directions": right[:0]}
        hx[number] = right.double() if wrong == "dtype" else views[wrong]
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            layer(torch.randn(4, 5, 3), tuple(hx))


@pytest.mark.parametrize("sizes", [[3, 2, 2], [3, 4], [6, 0], [7]])
def test_packed_sequences_that_do_not_add_up_are_never_read(sizes):
    packed = PackedSequence(torch.randn(6, 3), torch.tensor(sizes))
    if sizes == [7]:
        packed = PackedSequence(torch.randn(6, 3)[:5], torch.tensor(sizes))
    with pytest.raises(RuntimeError, match="add up to"):
        nn.LSTM(3, 17)(packed)


def test_no_packed_sequences():
    case = make(gru, lengths=(2, 1))
    with pytest.raises(RuntimeError, match="add up to"):
        run_layer(case.cell, case.x[:0], None, case.weights, [], case.hidden)


@pytest.mark.parametrize(
    ("text", "size"), [("491520K", 491520 << 10), ("4096\n", 4096), ("?", None), (None, None)]
)
def test_the_size_of_the_caches(text, size, tmp_path, monkeypatch):
    for level in (2, 3):
        (tmp_path / f"index{level}").mkdir()
        if text is not None:
            (tmp_path / f"index{level}" / "size").write_text(text)
    monkeypatch.setattr(target, "_CACHES", tmp_path)
    assert target.shared_cache.__wrapped__() == (size or 1 << 25)
    assert target.own_cache.__wrapped__() == (size or 1 << 20)
