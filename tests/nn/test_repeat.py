"""Calls that repeat the last one's form take a shorter way: it must notice all that differs."""

import copy
import gc
import pickle
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from tests.cpu.cells import CELLS, NARROW
from tests.nn.repeated import KINDS, assert_same, flat, gradients, warmed
from tests.tolerance import assert_close
from torch.nn.functional import dropout

import cellwright.nn as nn
from cellwright.autograd import guard, operation
from cellwright.cpu.call import forward


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_values_are_never_those_of_the_last_call(kind: str, bias: bool) -> None:
    ours, theirs, x = warmed(kind, bias=bias)
    x = torch.randn_like(x)
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.copy_(q.normal_())
        first = flat(ours(x))
        assert_same(ours(x), theirs(x))
        assert_same((first[0], tuple(first[1:])), theirs(x))
        states = tuple(torch.randn_like(s) for s in first[1:])
        hx = states if kind == "LSTM" else states[0]
        for _ in range(3):
            assert_same(ours(x, hx), theirs(x, hx))
        assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("kind", KINDS)
def test_single_steps_read_the_weights_both_ways(kind: str) -> None:
    ours, theirs = getattr(nn, kind)(5, 150), getattr(torch.nn, kind)(5, 150)
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        x, hx, other = torch.randn(1, 1, 5), None, None
        for _ in range(5):
            found, expected = ours(x, hx), theirs(x, other)
            assert_same(found, expected)
            hx, other = found[1], expected[1]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str) -> None:
    ours, theirs, x = warmed(kind, grad=True)
    for _ in range(2):
        found, expected = ours(x), theirs(x)
        assert_same(found, expected)
        cotangents = [torch.randn_like(t) for t in flat(found)]
        left = torch.autograd.grad(flat(found), list(ours.parameters()), cotangents)
        right = torch.autograd.grad(flat(expected), list(theirs.parameters()), cotangents)
        for a, b in zip(left, right, strict=True):
            assert_close(a, b)


CHANGES: dict[str, Callable[[torch.nn.Module], None]] = {
    "other data": lambda m: setattr(m.weight_hh_l0, "data", m.weight_hh_l0.data.flip(0)),
    "another tensor": lambda m: setattr(m, "weight_hh_l0", torch.nn.Parameter(m.weight_hh_l0 * 2)),
    "double": lambda m: m.double(),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_parameters_are_seen(change: str, grad: bool) -> None:
    ours, theirs, x = warmed("GRU", grad=grad)
    with torch.no_grad():
        for module in (ours, theirs):
            CHANGES[change](module)
    with torch.set_grad_enabled(grad):
        x = x.to(ours.weight_hh_l0.dtype)
        assert_same(ours(x), theirs(x))


def test_a_transposed_view_of_the_same_memory_is_seen() -> None:
    ours, theirs, x = warmed("RNN")
    with torch.no_grad():
        for module in (ours, theirs):
            module.weight_hh_l0.data = module.weight_hh_l0.data.t()
        assert_same(ours(x), theirs(x))


@pytest.mark.parametrize("grad", [False, True])
def test_what_does_not_fit_is_refused_as_at_first(grad: bool) -> None:
    ours, _, x = warmed("LSTM", grad=grad)
    with torch.set_grad_enabled(grad):
        state = torch.zeros(1, 2, 3)
        with pytest.raises(ValueError, match="float64"):
            ours(x.double())
        with pytest.raises(RuntimeError, match="input"):
            ours(torch.randn(4, 2, 7))
        with pytest.raises(RuntimeError, match="initial state c"):
            ours(x, (state, torch.zeros(1, 5, 3)))
        with pytest.raises(AttributeError):
            ours(x, (state, 3))
        assert ours(torch.randn(6, 1, 3))[0].shape == (6, 1, 3)


OPTIONS = {
    "batch first": {"batch_first": True},
    "both ways": {"bidirectional": True},
    "stacked": {"num_layers": 3},
    "all of it": {"batch_first": True, "bidirectional": True, "num_layers": 2},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_forms_of_modules(kind: str, given: bool, options: dict) -> None:
    ours, theirs, _ = warmed(kind, grad=True, **options)
    rows = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    for _ in range(4):
        x = torch.randn(4, 2, 3, requires_grad=True)
        states = [torch.randn(rows, 4 if ours.batch_first else 2, 3) for _ in range(2)]
        hx = None if not given else tuple(states) if kind == "LSTM" else states[0]
        for left, right in zip(gradients(ours, x, hx), gradients(theirs, x, hx), strict=True):
            assert_close(left, right)
        with torch.no_grad():
            assert_same(ours(x, hx), theirs(x, hx))
    assert all(ours._repeats)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning")  # torch's
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_narrow_outputs(options: dict) -> None:
    ours = nn.LSTM(3, 5, proj_size=2, **options)
    theirs = torch.nn.LSTM(3, 5, proj_size=2, **options)
    theirs.load_state_dict(ours.state_dict())
    rows = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    for steps in (3, 3, 3, 1, 1, 1):
        shape = (1, steps, 3) if ours.batch_first else (steps, 1, 3)
        x = torch.randn(shape, requires_grad=True)
        hx = torch.randn(rows, 1, 2), torch.randn(rows, 1, 5)
        for mode in ("", "twice"):
            found, expected = (gradients(m, x, hx, mode) for m in (ours, theirs))
            for left, right in zip(found, expected, strict=True):
                assert_close(left, right)
        with torch.no_grad():
            assert_same(ours(x, hx), theirs(x, hx))
    assert all(ours._repeats)


@pytest.mark.parametrize("name", ["two_stages", "projects_c", "late"])
def test_cells_of_several_rounds(name: str) -> None:
    module = nn.Recurrent({**CELLS, **NARROW}[name], 3, 5)
    for steps in (4, 1):
        x = torch.randn(steps, 2, 3, requires_grad=True)
        module._forget()
        first = gradients(module, x)
        for mode in ("", "", "", "twice"):
            for left, right in zip(gradients(module, x, mode=mode), first, strict=True):
                assert torch.equal(left, right)
        assert module._repeats[0]


def test_unbatched_input() -> None:
    ours, theirs = nn.LSTM(3, 5, 2), torch.nn.LSTM(3, 5, 2)
    theirs.load_state_dict(ours.state_dict())
    for _ in range(4):
        x = torch.randn(7, 3)
        for left, right in zip(gradients(ours, x), gradients(theirs, x), strict=True):
            assert_close(left, right)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_the_input(kind: str) -> None:
    ours, theirs, x = warmed(kind, batch_first=True, shape=(1, 5, 3))
    spread, batch = torch.randn(1, 5, 6)[..., ::2], torch.randn(4, 5, 3)
    with torch.no_grad():
        for given in (x, x.transpose(0, 1).contiguous().transpose(0, 1), spread, *[batch] * 4):
            assert_same(ours(given), theirs(given))


def test_copies_do_not_share_what_is_ready() -> None:
    ours, theirs, x = warmed("LSTM")
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), copy.copy(ours)):
        assert copied._repeats == [()]
        with torch.no_grad():
            for _ in range(3):
                assert_same(copied(x), theirs(x))


@pytest.mark.parametrize("kind", KINDS)
def test_parametrized_modules_are_copied_with_all_that_is_ready(kind: str) -> None:
    """What torch makes of their class copies their attributes, and asks for no state."""
    ours, theirs, x = warmed(kind, grad=True, num_layers=2)
    for module in (ours, theirs):
        torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    for _ in range(3):
        ours(x)
    copied = copy.deepcopy(ours)
    with torch.no_grad():
        for module in (copied, theirs):
            for parameter in module.parameters():
                parameter.mul_(0.5)
    for _ in range(3):
        assert_same(copied(x), theirs(x))
    assert not torch.equal(copied(x)[0], ours(x)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [torch.relu_, lambda t: dropout(t, 0.5, inplace=True)])
@pytest.mark.parametrize("hooks", [nullcontext, torch.autograd.graph.save_on_cpu])
def test_outputs_changed_in_place(
    kind: str,
    change: Callable[[torch.Tensor], object],
    hooks: Callable[[], AbstractContextManager[object]],
) -> None:
    ours, _, x = warmed(kind, grad=True)
    found: list[list[torch.Tensor]] = []
    for way in (lambda t: t, torch.clone):
        torch.manual_seed(1)
        with hooks():
            out = way(ours(x)[0])
        change(out)
        found.append([*torch.autograd.grad(out.square().sum(), list(ours.parameters()))])
    assert all(map(torch.equal, *found))


def test_another_number_of_threads_is_seen() -> None:
    ours, theirs, _ = warmed("LSTM")
    x, before = torch.randn(60, 64, 3), torch.get_num_threads()
    try:
        with torch.no_grad():
            for threads in (1, 2, 1):
                torch.set_num_threads(threads)
                for _ in range(3):
                    assert_same(ours(x), theirs(x))
                assert threads in [ready.threads for ready in ours._repeats[0]]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["", "twice"])
def test_gradients_of_repeated_steps(kind: str, mode: str) -> None:
    ours, theirs, _ = warmed(kind, grad=True)
    for k in range(8):
        x = torch.randn(4, 2, 3, requires_grad=k < 4)
        for left, right in zip(gradients(ours, x, mode=mode), gradients(theirs, x), strict=True):
            assert_close(left, right)


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_steps_with_states_and_without_some_cotangents(kind: str) -> None:
    ours, theirs, x = warmed(kind, grad=True)
    for k in range(5):
        states = [torch.randn(1, 2, 3, requires_grad=True) for _ in range(1 + (kind == "LSTM"))]
        hx = tuple(states) if kind == "LSTM" else states[0]
        found = []
        for module in (ours, theirs):
            result = flat(module(x, hx))[k % 2 :: 2]
            total = sum(t.sum() for t in result)
            found.append(torch.autograd.grad(total, [*states, *module.parameters()]))
        for left, right in zip(*found, strict=True):
            assert_close(left, right)


def test_one_tensor_as_both_states() -> None:
    ours, theirs, x = warmed("LSTM")
    with torch.no_grad():
        for _ in range(4):
            state = torch.randn(1, 2, 3)
            assert_same(ours(x, (state, state)), theirs(x, (state, state)))


def test_without_torchs_check_calls_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_Guards", None)
    ours, theirs = nn.LSTM(3, 3), torch.nn.LSTM(3, 3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 2, 3)
    for _ in range(4):
        for left, right in zip(gradients(ours, x), gradients(theirs, x), strict=True):
            assert_close(left, right)
    assert ours._repeats == [()]


def test_what_is_ready_keeps_no_tensor_alive() -> None:
    ours, _, _ = warmed("LSTM", grad=True)
    x = torch.randn(4, 2, 3)
    for _ in range(4):
        gradients(ours, x)
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None


def test_one_tensor_as_both_states_is_ready_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs, x = warmed("LSTM", grad=True)
    state = torch.randn(1, 2, 3, requires_grad=True)
    for k in range(5):
        found = gradients(ours, x, (state, state))
        for left, right in zip(found, gradients(theirs, x, (state, state)), strict=True):
            assert_close(left, right)
        if k == 2:
            monkeypatch.setattr(operation, "run_layer", None)  # from here on the short way


@pytest.mark.parametrize("change", ["states", "gradient", "inference"])
def test_two_kinds_of_calls_are_ready_in_turns(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, x = warmed("GRU", grad=True)
    for k in range(10):
        odd = k % 2 == 1
        x = torch.randn(4, 2, 3, requires_grad=odd and change == "gradient")
        hx = torch.randn(1, 2, 3) if odd and change == "states" else None
        with torch.inference_mode(odd and change == "inference"):
            assert_same(ours(x, hx), theirs(x, hx))
        if k == 5:
            monkeypatch.setattr(operation, "run_layer", None)


def test_threads_of_python_may_bring_different_kinds() -> None:
    ours, theirs, x = warmed("LSTM")
    ours._forget()  # as another thread may between two reads
    spread = torch.randn(4, 2, 6)[..., ::2]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with torch.no_grad(), ThreadPoolExecutor(4) as pool:
            expected = [theirs(v)[0] for v in (x, spread)] * 100
            found = list(pool.map(lambda v: ours(v)[0].detach(), [x, spread] * 100))
    finally:
        sys.setswitchinterval(interval)
    for left, right in zip(found, expected, strict=True):
        assert_close(left, right)


def test_more_lengths_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_MOST_PREPARED", 3)
    ours, theirs, _ = warmed("GRU", grad=True)
    for length in (1, 2, 3, 4, 5, 1, 2):
        x = torch.randn(length, 2, 3)
        for left, right in zip(gradients(ours, x), gradients(theirs, x), strict=True):
            assert_close(left, right)
