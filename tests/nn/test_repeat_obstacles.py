"""What a repeated call, or its backward pass, must leave to the interpreter or refuse."""

import warnings

import pytest
import torch
from tests.nn.repeated import assert_same, gradients, warmed
from tests.tolerance import assert_close
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call

from cellwright import InterpreterWarning


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


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("which", ["input", "weight"])
def test_freed_storage_is_refused(which: str, warm: bool) -> None:
    ours, _, x = warmed("GRU")
    if not warm:
        ours._forget()
    (x if which == "input" else ours.weight_hh_l0).untyped_storage().resize_(0)
    with torch.no_grad(), pytest.raises(RuntimeError):
        ours(x)


@pytest.mark.parametrize("cotangents", ["of the output", "of the final state"])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("which", ["input", "weight", "output", "cotangent"])
def test_storage_freed_before_the_backward_pass_is_refused(
    which: str, warm: bool, cotangents: str
) -> None:
    ours, _, x = warmed("GRU", grad=True)
    output, h_n = ours(x)
    result = output if cotangents == "of the output" else h_n
    cotangent, parameters = torch.ones_like(result), [*ours.parameters()]
    for _ in range(3 if warm else 0):
        torch.autograd.grad(result, parameters, cotangent, retain_graph=True)
    freed = {"input": x, "weight": ours.weight_hh_l0, "output": output, "cotangent": cotangent}
    freed[which].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="memory"):
        torch.autograd.grad(result, parameters, cotangent)


@pytest.mark.filterwarnings("ignore::cellwright.errors.InterpreterWarning")
def test_plain_gradients_do_not_hide_those_of_a_graph() -> None:
    ours, theirs, x = warmed("GRU", grad=True)
    for _ in range(3):
        torch.autograd.grad(ours(x)[0].sum(), [*ours.parameters()])
    for _ in range(2):
        found, expected = (
            torch.autograd.grad(m(x)[0].sum(), [*m.parameters()], create_graph=True)
            for m in (ours, theirs)
        )
        for left, right in zip(found, expected, strict=True):
            assert left.requires_grad
            assert_close(left, right)


@pytest.mark.filterwarnings("ignore::cellwright.errors.InterpreterWarning")
def test_several_cotangents_at_once_again_and_again() -> None:
    ours, theirs, x = warmed("GRU", grad=True)
    cotangents = torch.randn(5, 4, 2, 3)
    for batched in (False, True, True, False, True):
        given = cotangents if batched else cotangents[0]
        found, expected = (
            torch.autograd.grad(
                m(x)[0], [*m.parameters()], given, is_grads_batched=batched and m is ours
            )
            if m is ours or not batched
            else [torch.stack(each) for each in zip(*_one_by_one(m, x, given), strict=True)]
            for m in (ours, theirs)
        )
        for left, right in zip(found, expected, strict=True):
            assert_close(left, right)


def _one_by_one(module: torch.nn.Module, x: Tensor, given: Tensor) -> list[tuple[Tensor, ...]]:
    return [torch.autograd.grad(module(x)[0], [*module.parameters()], g) for g in given]


def test_cotangents_of_two_strides_in_turns_are_both_known() -> None:
    ours, theirs, x = warmed("GRU", grad=True)
    again = ours._repeats[0][0]
    known = []
    for _ in range(3):
        for cotangent in (torch.randn(4, 2, 3), torch.ones(1).expand(4, 2, 3)):
            found, expected = (
                torch.autograd.grad(m(x)[0], [*m.parameters()], cotangent) for m in (ours, theirs)
            )
            for left, right in zip(found, expected, strict=True):
                assert_close(left, right)
        known.append(*again._derivatives.values())
    assert len(known[0]) == 2
    assert known[0] is known[1] is known[2]


def test_zeros_without_memory() -> None:
    ours, theirs, x = warmed("GRU")
    zeros = torch._efficientzerotensor(x.shape)
    with torch.no_grad(), pytest.warns(InterpreterWarning, match="no memory"):
        assert_same(ours(zeros), theirs(zeros))


def test_negated_weights_take_the_interpreter() -> None:
    ours, theirs, x = warmed("GRU")
    weight = torch.randn(9, 3)
    with torch.no_grad(), pytest.warns(InterpreterWarning, match="sign"):
        found = functional_call(ours, {"weight_hh_l0": torch._neg_view(weight)}, (x,))
    assert_same(found, functional_call(theirs, {"weight_hh_l0": -weight}, (x,)))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_negated_cotangents(bidirectional: bool) -> None:
    ours, theirs, x = warmed("GRU", grad=True, bidirectional=bidirectional)
    for _ in range(4):
        found = []
        g = torch.randn(4, 2, 3 * (1 + bidirectional), generator=torch.manual_seed(3))
        for module in (ours, theirs):
            output = module(x)[0]
            found.append(torch.autograd.grad(output, list(module.parameters()), torch._neg_view(g)))
        for left, right in zip(*found, strict=True):
            assert_close(left, right)


def test_states_that_shrank_before_the_backward_pass_are_refused() -> None:
    ours, _, x = warmed("GRU", grad=True)
    state = torch.randn(1, 2, 3, requires_grad=True)
    for _ in range(4):
        output = ours(x, state)[0]
        state.data = torch.randn(1, 1, 3)
        with pytest.raises(RuntimeError, match="saved for the gradient"):
            output.sum().backward()
        state.data = torch.randn(1, 2, 3)


def test_outputs_that_a_hook_cuts_are_refused() -> None:
    ours, _, x = warmed("GRU", grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t[:1]):
        output = ours(x)[0]
        with pytest.raises(RuntimeError, match="saved for the gradient"):
            output.sum().backward()


def test_vmap_over_gradients() -> None:
    ours, theirs, x = warmed("GRU", grad=True)
    x = torch.randn(4, 2, 3, requires_grad=True)
    cotangents = torch.randn(5, 4, 2, 3)

    def taken(module: torch.nn.Module) -> Tensor:
        output = module(x)[0]
        return torch.func.vmap(lambda g: torch.autograd.grad(output, x, g, retain_graph=True)[0])(
            cotangents
        )

    with pytest.warns(InterpreterWarning, match=r"torch\.func"):
        found = taken(ours)
    assert_close(found, taken(theirs))


@pytest.mark.parametrize("grows", [False, True])
def test_vmap_over_gradients_of_gradients(grows: bool) -> None:
    ours, theirs, _ = warmed("GRU", grad=True)
    x = torch.randn(4, 2, 3, requires_grad=True)
    cotangents = torch.randn(5, 4, 2, 3, requires_grad=grows)
    output, expected = ours(x)[0], theirs(x)[0]

    def one(g: Tensor) -> Tensor:
        return torch.autograd.grad(output, x, g, create_graph=True)[0]

    with pytest.warns(InterpreterWarning, match="."):
        found = torch.func.vmap(one)(cotangents)
    rows = [torch.autograd.grad(expected, x, g, create_graph=True)[0] for g in cotangents]
    wanted = [x, cotangents] if grows else [x]
    left = torch.autograd.grad(found.square().sum(), wanted)
    right = torch.autograd.grad(torch.stack(rows).square().sum(), wanted)
    for a, b in zip(left, right, strict=True):
        assert_close(a, b)


class Marked(Tensor):
    """A tensor whose memory a kernel must not count on."""


@pytest.mark.parametrize("warm", [False, True])
def test_cotangents_of_a_subclass_take_the_interpreter(warm: bool) -> None:
    ours, theirs, x = warmed("GRU", grad=True)
    for _ in range(3 if warm else 0):
        torch.autograd.grad(ours(x)[0], [*ours.parameters()], torch.randn(4, 2, 3))
    cotangent = torch.randn(4, 2, 3).as_subclass(Marked)
    expected = torch.autograd.grad(theirs(x)[0], [*theirs.parameters()], cotangent)
    for _ in range(2):
        with pytest.warns(InterpreterWarning, match="subclass"):
            found = torch.autograd.grad(ours(x)[0], [*ours.parameters()], cotangent)
        for left, right in zip(found, expected, strict=True):
            assert_close(left.as_subclass(Tensor), right.as_subclass(Tensor))
