"""Calls that repeat the last one's form take a shorter way: it must notice all that differs."""

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from tests.tolerance import assert_close
from torch import Tensor
from torch.autograd import forward_ad

import cellwright.nn as nn
from cellwright import InterpreterWarning
from cellwright.autograd import guard

KINDS = ("RNN", "LSTM", "GRU")


def warmed(
    kind: str, *, grad: bool = False, shape: tuple[int, ...] = (4, 2, 3), **options
) -> tuple[nn.Recurrent, torch.nn.Module, Tensor]:
    """A module that is ready for a repeated call, torch's with the same weights, and an input."""
    ours, theirs = getattr(nn, kind)(3, 3, **options), getattr(torch.nn, kind)(3, 3, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape)
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            ours(x)
    assert ours._repeats[0] is not None
    return ours, theirs, x


def flat(result) -> list[Tensor]:
    output, finals = result
    return [output, *(finals if isinstance(finals, tuple) else (finals,))]


def assert_same(found, expected) -> None:
    for left, right in zip(flat(found), flat(expected), strict=True):
        assert_close(left, right)


def gradients(module: torch.nn.Module, x: Tensor, hx=None, mode: str = "") -> list[Tensor]:
    """Results and gradients of a step, of everything that asks for one."""
    found = flat(module(x, hx))
    wanted = [t for t in (x, *module.parameters()) if t.requires_grad]
    loss = sum(t.square().sum() for t in found)
    if mode == "twice":
        loss.backward(retain_graph=True, inputs=wanted)
        for t in wanted:
            t.grad = None
    loss.backward(inputs=wanted)
    made = [t.grad for t in wanted]
    for t in wanted:
        t.grad = None
    return [*found, *made]


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
        assert copied._repeats == [None]
        with torch.no_grad():
            for _ in range(3):
                assert_same(copied(x), theirs(x))


@pytest.mark.parametrize("repeated", [False, True])
def test_negated_views_are_resolved(repeated: bool) -> None:
    ours, theirs, x = warmed("GRU")
    if not repeated:
        ours._forget()
    negated = torch.complex(torch.randn(4, 2, 3), x).conj().imag
    assert negated.is_neg()
    with torch.no_grad(), pytest.warns(InterpreterWarning, match="resolve_neg"):
        assert_same(ours(negated), theirs(negated.resolve_neg()))


def test_tensors_without_memory_take_the_interpreter() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    ours, _, _ = warmed("GRU")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output, h_n = ours(mode.from_tensor(torch.randn(4, 2, 3)))
    assert (tuple(output.shape), tuple(h_n.shape)) == ((4, 2, 3), (1, 2, 3))


def test_another_number_of_threads_is_seen() -> None:
    ours, theirs, _ = warmed("LSTM")
    x, before = torch.randn(60, 64, 3), torch.get_num_threads()
    try:
        with torch.no_grad():
            for threads in (1, 2, 1):
                torch.set_num_threads(threads)
                for _ in range(3):
                    assert_same(ours(x), theirs(x))
                assert ours._repeats[0] is not None
                assert ours._repeats[0].keeping.share.threads == threads
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


def test_what_changes_before_the_backward_pass_is_refused() -> None:
    ours, _, x = warmed("GRU", grad=True)
    for _ in range(2):
        gradients(ours, x)
    output, _ = ours(x)
    ours.double()
    with pytest.raises(RuntimeError, match="saved for the gradient"):
        output.sum().backward()


def test_saved_tensors_may_be_laid_out_anew() -> None:
    ours, theirs, x = warmed("LSTM", grad=True)
    for module in (ours, theirs):
        gradients(module, x)

    def pack(t: Tensor) -> Tensor:
        return t.t().contiguous().t() if t.dim() == 2 else t

    for _ in range(3):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            found = gradients(ours, x)
        for left, right in zip(found, gradients(theirs, x), strict=True):
            assert_close(left, right)


def test_autocast_is_seen() -> None:
    ours, _, x = warmed("GRU")
    with pytest.warns(InterpreterWarning, match="autocast"), torch.autocast("cpu"):
        ours(x)


def test_torch_func_is_seen() -> None:
    ours, theirs, x = warmed("GRU", shape=(4, 1, 3))
    xs = torch.randn(5, *x.shape)
    with pytest.warns(InterpreterWarning, match=r"torch\.func"):
        found = torch.func.vmap(lambda one: ours(one)[0])(xs)
    assert_close(found, torch.stack([theirs(x)[0] for x in xs]))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_forward_derivatives_are_seen() -> None:
    ours, _, x = warmed("GRU")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.warns(InterpreterWarning, match="forward-mode"):
            found = ours(dual)[0]
        assert forward_ad.unpack_dual(found).tangent.abs().max() > 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_is_seen() -> None:
    ours, theirs, x = warmed("GRU")
    with pytest.warns(InterpreterWarning, match="trace"):
        traced = torch.jit.trace(ours, (x,), check_trace=False)
    assert_same(traced(x + 1), theirs(x + 1))


def test_inference_mode_is_seen() -> None:
    ours, theirs, x = warmed("GRU")
    with torch.inference_mode():
        for _ in range(4):
            found = ours(x)
            assert found[0].is_inference()
            assert_same(found, theirs(x))
    with torch.no_grad():
        assert not ours(x)[0].is_inference()
    assert ours(x)[0].requires_grad


def test_without_torchs_check_calls_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_Guards", None)
    ours, theirs = nn.LSTM(3, 3), torch.nn.LSTM(3, 3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 2, 3)
    for _ in range(4):
        for left, right in zip(gradients(ours, x), gradients(theirs, x), strict=True):
            assert_close(left, right)
    assert ours._repeats == [None]


def test_what_is_ready_keeps_no_tensor_alive() -> None:
    ours, _, _ = warmed("LSTM", grad=True)
    x = torch.randn(4, 2, 3)
    for _ in range(4):
        gradients(ours, x)
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None
