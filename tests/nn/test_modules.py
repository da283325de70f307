"""What else a module of torch.nn does: parameters, copies, files, text, names."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from tests.nn.agreement import KINDS, classes, normal, packed
from tests.tolerance import assert_close

import cellwright as cw
import cellwright.nn as nn

FORMS = [
    ((10, 20), {}),
    ((10, 20, 2), {}),
    ((10, 20, 3), {"bias": False}),
    ((10, 20), {"batch_first": True, "bidirectional": True}),
    ((), {"input_size": 10, "hidden_size": 20, "num_layers": 2, "dropout": 0.5}),
    ((10, 20, 2), {"dtype": torch.float64, "device": "cpu", "dropout": 1}),
    ((10, 20), {"bidirectional": 1}),
]
POSITIONAL = {
    "RNN": (10, 20, 2, "relu", False, True, 0.25, True, 0, "cpu", torch.float64),
    "LSTM": (10, 20, 2, False, True, 0.25, True, 7, "cpu", torch.float64),
    "GRU": (10, 20, 2, False, True, 0.25, True, 0, "cpu", torch.float64),
}
ATTRIBUTES = ["mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"]
ATTRIBUTES += ["bidirectional", "proj_size", "training"]


def same_state(a, b):
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[k], second[k]) for k in first)


def check_made_alike(ours, theirs, args, options):
    """Check that a seed gives the same parameters, and that all else can be read alike."""
    torch.manual_seed(7)
    module = ours(*args, **options)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    reference = theirs(*args, **options)
    assert torch.equal(drawn, torch.rand(1))
    assert same_state(module, reference)
    assert repr(module) == repr(reference)
    for name in ATTRIBUTES:
        assert getattr(module, name) == getattr(reference, name), name
    assert [[tuple(p.shape) for p in row] for row in module.all_weights] == [
        [tuple(p.shape) for p in row] for row in reference.all_weights
    ]
    flat = [p for row in module.all_weights for p in row]
    assert all(p is q for p, q in zip(flat, module.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("args", "options"), FORMS)
def test_same_seed_same_parameters(kind, args, options):
    check_made_alike(*classes(kind), args, options)


@pytest.mark.parametrize("name", POSITIONAL)
def test_positional_arguments(name):
    for count in range(2, len(POSITIONAL[name]) + 1):
        check_made_alike(getattr(nn, name), getattr(torch.nn, name), POSITIONAL[name][:count], {})
    with pytest.raises(TypeError):
        getattr(nn, name)(*POSITIONAL[name], 1)


def test_projection():
    check_made_alike(nn.LSTM, torch.nn.LSTM, (10, 20, 2), {"proj_size": 5, "bidirectional": True})


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_nonlinearity(nonlinearity):
    assert nn.RNN(3, 5, nonlinearity=nonlinearity).nonlinearity == nonlinearity
    check_made_alike(nn.RNN, torch.nn.RNN, (3, 5), {"nonlinearity": nonlinearity})


def test_reset_parameters_draws_anew():
    module, reference = nn.GRU(3, 5, 2), torch.nn.GRU(3, 5, 2)
    for m in (module, reference):
        torch.manual_seed(1)
        m.reset_parameters()
    assert same_state(module, reference)


def test_flatten_parameters_changes_nothing():
    module = nn.LSTM(3, 5)
    before = copy.deepcopy(module.state_dict())
    assert module.flatten_parameters() is None
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_moves_both_ways(kind):
    ours, theirs = (make(3, 5, 2, bidirectional=True) for make in classes(kind))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert same_state(ours, theirs)
    other = classes(kind)[1](3, 5, 2, bidirectional=True)
    ours.load_state_dict(other.state_dict(), strict=True)
    assert same_state(ours, other)
    x = torch.randn(4, 2, 3)
    assert_close(ours(x)[0], other.double()(x.double())[0])
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours.load_state_dict(classes(kind)[1](3, 6, 2, bidirectional=True).state_dict())


def _saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": _saved,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", COPIES)
def test_copies(kind, way):
    module = classes(kind)[0](3, 5, 2, bidirectional=True, dropout=0.25)
    x = torch.randn(4, 2, 3)
    module.eval()
    expected = module(x)[0]
    twin = COPIES[way](module)
    assert type(twin) is type(module)
    assert repr(twin) == repr(module)
    assert same_state(twin, module)
    assert torch.equal(twin(x)[0], expected)
    if way != "copy":
        with torch.no_grad():
            for p in twin.parameters():
                p.zero_()
        assert torch.equal(module(x)[0], expected)
        assert not torch.equal(twin(x)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_parameters_are_seen(kind):
    ours, theirs = (make(3, 5, 2) for make in classes(kind))
    x = torch.randn(4, 2, 3)
    ours(x)
    for _ in range(2):
        torch.optim.SGD(ours.parameters(), lr=1.0).step()
        with torch.no_grad():
            for p in ours.parameters():
                p.add_(torch.randn_like(p))
        theirs.load_state_dict(ours.state_dict())
        assert_close(ours(x)[0], copy.deepcopy(theirs).double()(x.double())[0])
    ours.weight_hh_l0 = torch.nn.Parameter(torch.randn_like(ours.weight_hh_l0))
    ours.bias_ih_l1.data = torch.randn_like(ours.bias_ih_l1)
    theirs.load_state_dict(ours.state_dict())
    assert_close(ours(x)[0], theirs.double()(x.double())[0])


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_of_dtype(kind):
    ours, theirs = (make(3, 5, 2) for make in classes(kind))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 2, 3)
    for convert in ("double", "float", "double"):
        getattr(ours, convert)()
        getattr(theirs, convert)()
        value = x.to(ours.weight_ih_l0.dtype)
        found = ours(value)[0]
        assert found.dtype == value.dtype
        assert_close(found, copy.deepcopy(theirs).double()(x.double())[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(kind, dtype):
    ours, theirs = (make(3, 5, 2) for make in classes(kind))
    theirs.load_state_dict(ours.to(dtype).state_dict())
    theirs.double()
    values, cotangent = torch.randn(4, 2, 3, dtype=dtype), torch.randn(4, 2, 5, dtype=dtype)
    # torch's own kernels round elsewhere, and not alike on every machine: float64 is the judge
    eps = torch.finfo(dtype).eps
    for _ in range(3):  # a third call could take another way
        found = []
        for module, number in ((ours, dtype), (theirs, torch.float64)):
            module.zero_grad()
            x = values.to(number, copy=True).requires_grad_()
            out, final = module(x)
            finals = final if isinstance(final, tuple) else (final,)
            out.backward(cotangent.to(number))
            gradients = [x.grad, *(p.grad for p in module.parameters())]
            assert {t.dtype for t in (out, *finals, *gradients)} == {number}
            found.append([out, *finals, *gradients])
        for mine, exact in zip(*found, strict=True):
            size = max(1.0, exact.abs().max().item())
            torch.testing.assert_close(mine.double(), exact, rtol=0, atol=2 * eps * size)


@pytest.mark.parametrize("form", ["states", "packed", "projected", "both ways"])
def test_forms_of_half_precision(form):
    """All of them, as float32 rounded."""
    options = {"projected": {"proj_size": 2}, "both ways": {"bidirectional": True}}.get(form, {})
    half = nn.LSTM(3, 5, dtype=torch.bfloat16, **options)
    single = copy.deepcopy(half).float()
    x, hx = torch.randn(4, 2, 3, dtype=torch.bfloat16), None
    if form == "states":
        hx = tuple(torch.randn(1, 2, 5, dtype=torch.bfloat16) for _ in range(2))
    found = []
    for module, dtype in ((half, torch.bfloat16), (single, torch.float32)):
        given = x.to(dtype)
        if form == "packed":
            given = torch.nn.utils.rnn.pack_padded_sequence(given, torch.tensor([4, 2]))
        out, finals = module(given, None if hx is None else tuple(t.to(dtype) for t in hx))
        found.append([out.data if form == "packed" else out, *finals])
    for ours, right in zip(*found, strict=True):
        assert torch.equal(ours, right.bfloat16())


@pytest.mark.filterwarnings("ignore::cellwright.errors.InterpreterWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_meta_device(kind):
    module = classes(kind)[0](3, 5, 2, bidirectional=True, device="meta")
    out, _ = module(torch.empty(4, 2, 3, device="meta"))
    assert out.shape == (4, 2, 10)
    assert out.is_meta
    assert not any(p.is_meta for p in module.to_empty(device="cpu").parameters())


def test_hooks_run():
    module, seen = nn.GRU(3, 5), []
    module.register_forward_hook(lambda m, args, out: seen.append(tuple(out[0].shape)))
    module.register_forward_pre_hook(lambda m, args: seen.append("before"))
    module(torch.randn(4, 2, 3))
    assert seen == ["before", (4, 2, 5)]


def test_keywords_of_forward():
    module, x, hx = nn.GRU(3, 5), torch.randn(4, 2, 3), torch.randn(1, 2, 5)
    assert torch.equal(module(input=x, hx=hx)[0], module(x, hx)[0])


def test_packed_states_come_back_in_the_order_of_the_user():
    module = nn.LSTM(3, 5)
    x, hx = packed((2, 4, 1), 3, dtype=torch.float32), (torch.randn(1, 3, 5), torch.randn(1, 3, 5))
    out, (h, _) = module(x, hx)
    padded, lengths = torch.nn.utils.rnn.pad_packed_sequence(out)
    for k, length in enumerate(lengths):
        assert torch.equal(h[0, k], padded[length - 1, k])
        one = [s[:, k : k + 1] for s in hx]
        alone = torch.nn.utils.rnn.unpack_sequence(x)[k]
        assert_close(h[:, k], module(alone, tuple(s[:, 0] for s in one))[1][0])


def test_the_rest_of_torch_nn_is_here():
    for name in ("Linear", "Module", "LSTMCell", "functional", "utils", "Parameter", "init"):
        assert getattr(nn, name) is getattr(torch.nn, name)
    assert issubclass(nn.LSTM, nn.Module)
    assert set(nn.__all__) <= set(dir(nn))
    assert {"Linear", "functional", "LSTM", "SequenceModel"} <= set(dir(nn))
    assert nn.__all__ == sorted(nn.__all__)
    assert nn.LSTM is not torch.nn.LSTM
    with pytest.raises(AttributeError, match=r"'cellwright\.nn' has no attribute 'Lstm'"):
        nn.Lstm  # noqa: B018


def test_every_public_name_is_described():
    for name in nn.__all__:
        thing = getattr(nn, name)
        assert inspect.getdoc(thing)
        for shape in ("H_in", "L", "D ·"):
            assert shape in thing.__doc__, (name, shape)


def test_a_network_written_for_torch():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 4)
            self.lstm = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True)
            self.out = nn.Linear(12, 3)

        def forward(self, words):
            return self.out(self.lstm(self.embed(words))[0])

    torch.manual_seed(3)
    model = Tagger()
    torch.manual_seed(3)
    original, nn.LSTM = nn.LSTM, torch.nn.LSTM
    try:
        reference = Tagger().double()
    finally:
        nn.LSTM = original
    words = torch.randint(11, (2, 5))
    assert_close(model(words), reference(words))


def test_a_cell_without_parameters():
    @cw.cell
    def leak(x, h):
        return 0.5 * h + x

    module = nn.Recurrent(leak, 3, 3)
    x = normal(4, 2, 3, dtype=torch.float64)
    h = torch.zeros(2, 3, dtype=torch.float64)
    for t in range(4):
        h = 0.5 * h + x[t]
    assert_close(module(x)[1][0], h)
