"""functional_call, vmap, higher derivatives, forward mode, compile, parametrizations."""

import pytest
import torch
from tests.nn.agreement import KINDS, classes, normal, pair, states_for
from tests.tolerance import assert_close
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import cellwright.nn as nn
from cellwright import InterpreterWarning
from cellwright.autograd import operation

pytestmark = [
    pytest.mark.filterwarnings("ignore::cellwright.errors.InterpreterWarning"),
    # torch's own forward mode asks for it
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]
DOUBLE = torch.float64


def final(result):
    """Return the last state of a module's result."""
    return result[1][-1] if isinstance(result[1], tuple) else result[1]


@pytest.fixture(params=KINDS)
def modules(request):
    return pair(request.param, 3, 4, 2, bidirectional=True, dtype=DOUBLE)


@pytest.fixture
def x():
    return normal(3, 2, 3, dtype=DOUBLE)


def test_functional_call_uses_the_parameters_given(modules, x):
    ours, theirs = modules
    before = ours(x)[0]
    for keep in (0, 1):  # all of them, then all but the first
        given = {n: torch.randn_like(p) for n, p in list(ours.named_parameters())[keep:]}
        found = functional_call(ours, given, (x,))[0]
        assert_close(found, functional_call(theirs, given, (x,))[0])
        assert not torch.allclose(found, before)
    assert torch.equal(ours(x)[0], before)


def test_gradient_of_functional_call(modules, x):
    results = []
    for module in modules:
        held = dict(module.named_parameters())

        def loss(parameters, m=module):
            result = functional_call(m, parameters, (x,))
            return result[0].square().sum() + final(result).sin().sum()

        results.append(grad(loss)({n: p.detach() for n, p in held.items()}))
    for name, gradient in results[1].items():
        assert_close(results[0][name], gradient, name)


def test_vmap_over_input(modules):
    ours, theirs = modules
    xs = normal(5, 3, 2, 3, dtype=DOUBLE)
    assert_close(vmap(lambda v: ours(v)[0])(xs), torch.stack([theirs(v)[0] for v in xs]))
    hx = states_for(ours, 2)
    one = vmap(lambda v: final(ours(v, hx)))(xs)
    assert_close(one, torch.stack([final(theirs(v, hx)) for v in xs]))


def test_vmap_over_an_ensemble(modules, x):
    ours, theirs = modules
    stacked = {n: torch.randn(3, *p.shape, dtype=DOUBLE) for n, p in ours.named_parameters()}
    found = vmap(lambda p: functional_call(ours, p, (x,))[0])(stacked)
    each = [{n: p[k] for n, p in stacked.items()} for k in range(3)]
    assert_close(found, torch.stack([functional_call(theirs, p, (x,))[0] for p in each]))


def test_jacobians_agree(modules, x):
    ours, theirs = modules
    expected = torch.autograd.functional.jacobian(lambda v: theirs(v)[0], x)
    assert_close(jacrev(lambda v: ours(v)[0])(x), expected)
    assert_close(jacfwd(lambda v: ours(v)[0])(x), expected)
    assert_close(torch.autograd.functional.jacobian(lambda v: ours(v)[0], x), expected)


def test_hessian(modules):
    ours, theirs = modules
    x = normal(2, 1, 3, dtype=DOUBLE)
    expected = torch.autograd.functional.hessian(lambda v: theirs(v)[0].square().sum(), x)
    assert_close(hessian(lambda v: ours(v)[0].square().sum())(x), expected)


def test_jvp(modules, x):
    ours, theirs = modules
    tangent = torch.randn_like(x)
    jacobian = torch.autograd.functional.jacobian(lambda v: theirs(v)[0], x)
    expected = torch.einsum("abcxyz,xyz->abc", jacobian, tangent)
    assert_close(jvp(lambda v: ours(v)[0], (x,), (tangent,))[1], expected)
    with forward_ad.dual_level():
        dual = ours(forward_ad.make_dual(x, tangent))[0]
        assert_close(forward_ad.unpack_dual(dual).tangent, expected)


def test_forward_mode_through_the_weights(modules, x):
    ours, theirs = modules
    held = {n: p.detach() for n, p in ours.named_parameters()}
    tangents = {n: torch.randn_like(p) for n, p in held.items()}
    found = jvp(lambda p: functional_call(ours, p, (x,))[0], (held,), (tangents,))[1]
    step = 1e-6
    moved = [
        functional_call(theirs, {n: p + s * tangents[n] for n, p in held.items()}, (x,))[0]
        for s in (step, -step)
    ]
    torch.testing.assert_close(found, (moved[0] - moved[1]) / (2 * step), rtol=1e-6, atol=1e-7)


def test_gradient_of_a_gradient(modules, x):
    results = []
    for module in modules:
        v = x.clone().requires_grad_()
        parameters = list(module.parameters())
        torch.manual_seed(0)
        result = module(v)
        loss = (result[0] * torch.randn_like(result[0])).sum() + final(result).square().sum()
        first = torch.autograd.grad(loss, [v, *parameters], create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        results.append(torch.autograd.grad(penalty, [v, *parameters]))
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    ours, _ = pair(kind, 2, 3, bidirectional=True, dtype=DOUBLE)
    x, hx = normal(3, 1, 2, dtype=DOUBLE), states_for(ours, 1)
    states = hx if isinstance(hx, tuple) else (hx,)
    names = [n for n, _ in ours.named_parameters()]

    def call(v, *rest):
        given = rest[: len(states)]
        parameters = dict(zip(names, rest[len(states) :], strict=True))
        out, end = functional_call(ours, parameters, (v, given if len(given) > 1 else given[0]))
        return (out, *end) if isinstance(end, tuple) else (out, end)

    inputs = [t.detach().requires_grad_() for t in (x, *states, *ours.parameters())]
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_compile(kind):
    ours, theirs = pair(kind, 3, 4, dtype=DOUBLE)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    x, hx = normal(3, 2, 3, dtype=DOUBLE), states_for(ours, 2)
    for value in (x, x * 2):
        found, expected = compiled(value, hx), theirs(value, hx)
        assert_close(found[0], expected[0])
        assert_close(final(found), final(expected))
    compiled(x, hx)[0].square().sum().backward()
    theirs(x, hx)[0].square().sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(p.grad, q.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_norm(kind):
    ours, theirs = pair(kind, 3, 4, 2, dtype=DOUBLE)
    x = normal(3, 2, 3, dtype=DOUBLE)
    for module in (ours, theirs):
        for name in ("weight_hh_l0", "weight_ih_l1"):
            torch.nn.utils.parametrizations.weight_norm(module, name)
            getattr(module.parametrizations, name).original0.data.mul_(1.5)
    result = ours(x)[0]
    assert_close(result, torch.func.functional_call(theirs, {}, (x,))[0])
    result.square().sum().backward()
    assert ours.parametrizations.weight_hh_l0.original0.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_ih_l1_reverse"])
def test_a_parameter_replaced_by_an_attribute(modules, x, name):
    ours, theirs = modules
    drawn = torch.randn_like(getattr(ours, name)).requires_grad_()
    delattr(ours, name)
    setattr(ours, name, drawn * 2)
    found, expected = ours(x)[0], functional_call(theirs, {name: drawn * 2}, (x,))[0]
    assert_close(found, expected)
    rest = [n for n, _ in ours.named_parameters()]
    gradients = [
        torch.autograd.grad(out.square().sum(), [drawn, *map(module.get_parameter, rest)])
        for out, module in ((found, ours), (expected, theirs))
    ]
    for left, right in zip(*gradients, strict=True):
        assert_close(left, right)


def test_every_layer_is_asked_of_the_one_function(monkeypatch):
    calls = []
    run = operation.run_layer

    def recorded(cell, x, states, weights, batch_sizes, hidden_size, lowered):
        calls.append((cell.name, tuple(x.shape), len(weights), hidden_size))
        return run(cell, x, states, weights, batch_sizes, hidden_size, lowered)

    monkeypatch.setattr(operation, "run_layer", recorded)
    nn.GRU(3, 5, 2, bidirectional=True)(torch.randn(4, 2, 3))
    assert calls == [("gru", (4, 2, 3), 2, 5), ("gru", (4, 2, 10), 2, 5)]


def test_threads_of_python_share_a_module():
    from concurrent.futures import ThreadPoolExecutor

    module = classes("LSTM")[0](3, 17)
    xs = torch.randn(16, 5, 2, 3)
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        expected = [module(v)[0] for v in xs]
        found = list(pool.map(lambda v: module(v)[0].detach(), xs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_gradients_of_several_cotangents_at_once(kind: str) -> None:
    ours, theirs = getattr(nn, kind)(3, 4), getattr(torch.nn, kind)(3, 4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 2, 3, requires_grad=True)
    cotangents = torch.randn(6, 5, 2, 4)
    with pytest.warns(InterpreterWarning, match="is_grads_batched"):
        found = torch.autograd.grad(
            ours(x)[0], [x, *ours.parameters()], cotangents, is_grads_batched=True
        )
    for i, cotangent in enumerate(cotangents):
        expected = torch.autograd.grad(theirs(x)[0], [x, *theirs.parameters()], cotangent)
        for several, one in zip(found, expected, strict=True):
            assert_close(several[i], one)


def chained(module, x, other):
    """One module twice, its state carried along."""
    output, hx = module(x)
    return module(output, hx)[0]


def following(module, x, other):
    """An initial state that follows from the input."""
    state = other * x.sum(0, keepdim=True)
    return module(x, (state, state) if module.mode == "LSTM" else state)[0]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("use", [chained, following])
def test_second_derivatives_where_one_input_follows_from_another(kind, use):
    options = {"dtype": torch.float64}
    ours, theirs = getattr(nn, kind)(4, 4, **options), getattr(torch.nn, kind)(4, 4, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    other = torch.randn(4, dtype=torch.float64, requires_grad=True)
    results = []
    for module in (ours, theirs):
        wanted = [x, *module.parameters()]
        first = torch.autograd.grad(use(module, x, other).square().sum(), wanted, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
        results.append([*first, *second])
    for left, right in zip(*results, strict=True):
        assert_close(left, right)


def test_second_derivatives_of_tied_weights():
    gradients = []
    for library in (nn, torch.nn):
        torch.manual_seed(5)
        module = library.GRU(4, 4, 2, dtype=torch.float64)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(module, f"{name}_l1", getattr(module, f"{name}_l0"))
        x, parameters = torch.randn(3, 2, 4, dtype=torch.float64), list(module.parameters())
        loss = module(x)[0].square().sum()
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), parameters)
        gradients.append([*first, *second])
    for left, right in zip(*gradients, strict=True):
        assert_close(left, right)
