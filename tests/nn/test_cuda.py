"""On a GPU, where the interpreter does the work for now: it must be right, and say so."""

import copy

import pytest
import torch
from tests.nn.agreement import KINDS, classes, compare, normal, packed, pair, states_for
from tests.tolerance import assert_close

import cellwright
from cellwright import InterpreterWarning

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
    pytest.mark.filterwarnings("ignore::cellwright.errors.InterpreterWarning"),
]
FORMS = {
    "plain": {},
    "two layers, both ways": {"num_layers": 2, "bidirectional": True},
    "batch first, no bias": {"batch_first": True, "bias": False},
}


def move(value):
    """Move modules, tensors, tuples of them and packed sequences."""
    return tuple(map(move, value)) if type(value) is tuple else value.to("cuda")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dense(kind, form, dtype):
    ours, theirs = map(move, pair(kind, 5, 17, dtype=dtype, **FORMS[form]))
    x = move(normal(4, 3, 5, dtype=dtype))
    compare(ours, theirs, x)
    compare(ours, theirs, x, move(states_for(ours, 4 if ours.batch_first else 3)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[5, 3, 3, 1], [1, 6, 2]], ids=["sorted", "mixed"])
def test_packed(kind, lengths):
    ours, theirs = map(move, pair(kind, 5, 17, bidirectional=True, dtype=torch.float64))
    x = packed(lengths, 5, dtype=torch.float64).to("cuda")
    compare(ours, theirs, x)
    compare(ours, theirs, x, move(states_for(ours, len(lengths))))


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence(kind):
    ours, theirs = map(move, pair(kind, 5, 17, dtype=torch.float64))
    compare(ours, theirs, move(normal(4, 5, dtype=torch.float64)), move(states_for(ours)))


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_parameters(kind):
    made = []
    for make in classes(kind):
        torch.manual_seed(3)
        made.append(make(5, 17, 2, device="cuda").state_dict())
    for name, value in made[1].items():
        assert torch.equal(made[0][name], value)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind):
    ours, theirs = pair(kind, 5, 17, dtype=torch.float64)
    x = normal(4, 3, 5, dtype=torch.float64)
    for _ in range(3):  # from the third call on, a call is taken the short way
        assert_close(ours(x)[0], theirs(x)[0])
    moved = copy.deepcopy(ours).cuda()
    assert_close(moved(x.cuda())[0].cpu(), theirs(x)[0])
    ours.cuda()
    with pytest.raises(RuntimeError, match="move one of them"):
        ours(x)
    assert_close(ours(x.cuda())[0].cpu(), theirs(x)[0])
    assert_close(ours.cpu()(x)[0], theirs(x)[0])


def test_says_who_does_the_work():
    ours, _ = map(move, pair("LSTM", 5, 17, dtype=torch.float32))
    x = move(normal(4, 3, 5, dtype=torch.float32))
    with pytest.warns(InterpreterWarning, match="the input is on cuda"):
        ours(x)
    assert "cuda" in str(cellwright.explain(ours, x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_autocast_gives_the_dtypes_of_torch(kind, dtype):
    ours, theirs = map(move, pair(kind, 5, 17, dtype=torch.float32))
    x = move(normal(4, 3, 5, dtype=dtype))
    with torch.autocast("cuda"):
        found, expected = ours(x), theirs.float()(x)
    assert found[0].dtype == expected[0].dtype
    torch.testing.assert_close(found[0].float(), expected[0].float(), rtol=0.01, atol=0.01)


def test_a_training_step_goes_down():
    module = torch.nn.ModuleList([classes("GRU")[0](5, 17, device="cuda")])
    x = move(normal(6, 3, 5, dtype=torch.float32))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        loss = (module[0](x)[0] - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
