"""Very long sequences, empty ones, graphs used twice, and results changed in place."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.cpu.agreement import apply, compare, flatten, make, results
from tests.cpu.cells import BUNDLED, CELLS
from tests.tolerance import assert_close

from cellwright.autograd import operation
from cellwright.autograd.operation import run_layer
from cellwright.cells import gru, lstm, rnn_tanh
from cellwright.graph.interpret import interpret_layer

each_bundled = pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
STEPS, PART = 100_000, 500


@each_bundled
@pytest.mark.parametrize("batch", [1, 3])
def test_a_hundred_thousand_steps(cell, batch):
    case = make(cell, 8, 3, steps=STEPS, batch=batch)
    with torch.no_grad():
        found = results(case)
        first = results(replace(case, x=case.x[:PART]), interpret_layer)
        before = results(replace(case, x=case.x[:-PART]))
        states = [before[f"{name}.final"] for name in cell.states]
        last = results(replace(case, x=case.x[-PART:], states=states), interpret_layer)
    assert_close(found["output"][:PART], first["output"])
    assert_close(found["output"][-PART:], last["output"])
    assert torch.equal(before["output"], found["output"][:-PART])
    for name in cell.states:
        assert_close(found[f"{name}.final"], last[f"{name}.final"])


@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
def test_gradients_over_a_hundred_thousand_steps(cell):
    """The gradient of the last steps alone: that of all of them ends in the first one's."""
    case = make(cell, 8, 3, steps=STEPS, batch=1)
    case.x.requires_grad_()
    results(case)["output"][-1].sum().backward()
    with torch.no_grad():
        states = [results(replace(case, x=case.x[:-PART]))[f"{n}.final"] for n in cell.states]
    tail = replace(case, x=case.x[-PART:].detach().requires_grad_(), states=states)
    results(tail, interpret_layer)["output"][-1].sum().backward()
    assert_close(case.x.grad[-PART:], tail.x.grad)
    assert case.x.grad.isfinite().all()


@pytest.mark.parametrize("form", [{"batch": 5}, {"batch": 1}, {"batch": 3}], ids=str)
def test_weights_of_many_megabytes(form):
    """Packed, and read as they lie."""
    compare(make(lstm, 730, 3, **form))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("form", [{"batch": 0}, {"batch": 0, "directions": 2, "given": False}])
@pytest.mark.parametrize("batch_first", [False, True])
def test_empty_batches(name, form, batch_first):
    compare(make(CELLS[name], batch_first=batch_first, **form))


@each_bundled
def test_backward_twice(cell):
    case = make(cell, directions=2)
    for tensor in flatten(case).values():
        tensor.requires_grad_()
    loss = sum(r.square().sum() for r in results(case).values())
    leaves = list(flatten(case).values())
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(loss, leaves)
    assert all(map(torch.equal, first, second))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves)


@each_bundled
def test_changing_what_backward_needs_raises(cell):
    for name in ("x", "h.start", "bundles.x.0", "bundles.h.0"):
        case = make(cell)
        for tensor in flatten(case).values():
            tensor.requires_grad_()
        found = results(case)
        loss = sum(r.sum() for r in found.values())
        with torch.no_grad():
            (found | flatten(case))[name].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@each_bundled
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [None, [5, 3, 2]])
def test_outputs_may_be_changed_in_place(cell, directions, lengths):
    """As torch.nn allows it, though the backward pass reads the output."""
    case = make(cell, directions=directions, lengths=lengths)
    leaves = list(flatten(case).values())
    for tensor in leaves:
        tensor.requires_grad_()
    found, copied = results(case), results(case)
    weights = torch.randn_like(found["output"])
    changed, expected = found["output"].mul_(weights).relu_(), copied["output"].mul(weights).relu()
    assert torch.equal(changed, expected)
    finals = [f"{name}.final" for name in cell.states]
    loss, right = (sum(r[name].square().sum() for name in finals) for r in (found, copied))
    for again in (True, False):
        left = torch.autograd.grad(loss + changed.sum(), leaves, retain_graph=again)
        others = torch.autograd.grad(right + expected.sum(), leaves, retain_graph=again)
        assert all(map(torch.equal, left, others))


@each_bundled
def test_a_changed_output_does_not_hide_what_else_changed(cell, monkeypatch):
    """Nothing is computed again of a tensor that has become shorter: memory is read by address."""
    case = make(cell)
    for tensor in flatten(case).values():
        tensor.requires_grad_()
    out = results(case)["output"].mul_(2)
    case.x.data = case.x.detach()[:1].clone()
    monkeypatch.setattr(operation, "_forward", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(RuntimeError, match="changed since"):
        out.sum().backward()


@each_bundled
@pytest.mark.parametrize("again", [False, True])
def test_the_output_is_let_go_with_the_graph(cell, again):
    case = make(cell)
    case.x.requires_grad_()
    out = results(case)["output"]
    node = out.grad_fn
    out.sum().backward(retain_graph=again)
    assert (node.output is not None) is again


@each_bundled
def test_what_a_hook_keeps_is_not_kept_beside_it(cell):
    """Under hooks on saved tensors, such as a checkpoint's, all goes through them."""
    case, kept = make(cell), []
    case.x.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.clone()), lambda _: 0):
        out = results(case)["output"]
    assert any(t.shape == out.shape and torch.equal(t, out) for t in kept)


@each_bundled
def test_changing_final_states_is_allowed_or_raises(cell):
    """Gradients are right, or torch tells that they cannot be."""
    case = make(cell)
    case.x.requires_grad_()
    expected = torch.autograd.grad(results(case)["output"].sum(), case.x)[0]
    found = results(case)
    with torch.no_grad():
        found["h.final"].mul_(3)
    try:
        (gradient,) = torch.autograd.grad(found["output"].sum(), case.x)
    except RuntimeError:
        return
    assert torch.equal(gradient, expected)


def _memory(t):
    return t.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", CELLS)
def test_gradients_and_results_share_no_memory(name):
    case = make(CELLS[name], directions=2)
    leaves = flatten(case)
    for tensor in leaves.values():
        tensor.requires_grad_()
    found = results(case)
    cotangents = [torch.ones_like(t) for t in found.values()]
    gradients = torch.autograd.grad(list(found.values()), list(leaves.values()), cotangents)
    tensors = [*found.values(), *leaves.values(), *cotangents, *gradients]
    assert len({_memory(t) for t in tensors}) == len(tensors)


def test_gradients_add_up():
    case = make(lstm, directions=2)
    leaves = flatten(case)
    for tensor in leaves.values():
        tensor.requires_grad_()
    results(case)["output"].sum().backward()
    once = {n: t.grad.clone() for n, t in leaves.items()}
    results(case)["output"].sum().backward()
    for name, tensor in leaves.items():
        assert_close(tensor.grad, 2 * once[name], name)


def test_a_call_changes_nothing_it_is_given():
    case = make(lstm, directions=2)
    before = {n: t.clone() for n, t in flatten(case).items()}
    compare(case)
    assert all(torch.equal(t, before[n]) for n, t in flatten(case).items())


def test_inference_mode_and_no_grad_give_the_same():
    case = make(gru, directions=2)
    with torch.no_grad():
        expected = results(case)["output"]
    with torch.inference_mode():
        assert torch.equal(results(case)["output"], expected)
    assert torch.equal(results(case)["output"], expected)


def test_weights_that_change_between_calls():
    case = make(lstm, batch=1, steps=1)
    for _ in range(3):
        compare(case)
        with torch.no_grad():
            for tensor in flatten(case).values():
                tensor.add_(0.1)
    compare(apply(case, copy.deepcopy))


def test_an_input_of_a_hundred_thousand():
    compare(make(rnn_tanh, 3, 100_000, steps=2, batch=5))


def test_a_cell_without_parameters():
    import cellwright as cw

    @cw.cell
    def leaky(x, h):
        return 0.5 * h + cw.tanh(x)

    compare(make(leaky, 3, 3, directions=2))


def test_the_seam_returns_a_tuple_of_states():
    out, finals = run_layer(*make(lstm).arguments)
    assert isinstance(finals, tuple)
    assert [tuple(f.shape) for f in finals] == [(1, 5, 17)] * 2
    assert out.shape == (4, 5, 17)
