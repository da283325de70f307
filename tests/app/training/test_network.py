"""One network for three tasks: parts of a sequence make the whole, quantiles never cross."""

import math

import pytest
import torch
from tests.app.training.problems import PROBLEMS, classify_problem, forecast_problem, generator
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.app.model.network import Network, first_sequences, flat_states, map_states
from cellwright.app.schema import Task
from cellwright.cells import CELLS

LSTM = Design(CELLS["lstm"], 5, num_layers=2, dropout=0.4)


def network_of(name, design=LSTM):
    problem = PROBLEMS[name]()
    network = Network(problem.schema, design, problem.scaling)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network.eval(), problem


def inputs_of(problem, length, batch):
    g = generator(3)
    if problem.schema.task is Task.TEXT:
        return torch.randint(7, (length, batch), generator=g)
    return torch.randn(length, batch, len(problem.schema.input_names), generator=g)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_sequence_in_parts_is_the_whole(name, cell):
    network, problem = network_of(name, Design(CELLS[cell], 5, num_layers=2))
    x = inputs_of(problem, 9, 3)
    whole, end = network(x)
    head, states = network(x[:4])
    tail, states = network(x[4:], states)
    if problem.schema.task is Task.CLASSIFY:
        torch.testing.assert_close(tail, whole)
    else:
        torch.testing.assert_close(torch.cat((head, tail)), whole)
    for got, expected in zip(flat_states(states), flat_states(end), strict=True):
        torch.testing.assert_close(got, expected)
    zeros = network.initial(3)
    assert [s.shape for s in flat_states(zeros)] == [s.shape for s in flat_states(end)]
    if problem.schema.task is not Task.CLASSIFY:
        torch.testing.assert_close(network(x, zeros)[0], whole)


@pytest.mark.parametrize("name", PROBLEMS)
def test_packed_sequences_are_each_on_its_own(name):
    network, problem = network_of(name)
    x = inputs_of(problem, 9, 3)
    pieces = [x[:4, 0], x[:9, 1], x[:2, 2]]
    outputs, _ = network(pack_sequence(pieces, enforce_sorted=False))
    alone = [network(piece[:, None])[0] for piece in pieces]
    if isinstance(outputs, PackedSequence):
        for got, expected in zip(unpack_sequence(outputs), alone, strict=True):
            torch.testing.assert_close(got, expected[:, 0])
    else:
        torch.testing.assert_close(outputs, torch.cat(alone))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_states_of_the_first_sequences(name):
    network, problem = network_of(name)
    x = inputs_of(problem, 6, 4)
    _, states = network(x[:3])
    outputs, _ = network(x[3:, :2], first_sequences(states, 2))
    whole, _ = network(x[3:], states)
    expected = whole[:2] if problem.schema.task is Task.CLASSIFY else whole[:, :2]
    torch.testing.assert_close(outputs, expected)
    doubled = map_states(states, lambda state: 2 * state)
    assert type(doubled) is type(states)
    for got, state in zip(flat_states(doubled), flat_states(states), strict=True):
        assert torch.equal(got, 2 * state)


def test_quantiles_never_cross_and_begin_at_the_last_value():
    network, problem = network_of("forecast")
    x = inputs_of(problem, 9, 3)
    low, middle, high = network(x)[0].unbind(-1)
    assert (low < middle).all()
    assert (middle < high).all()
    with torch.no_grad():
        network.readout.weight.zero_()
        network.readout.bias.zero_()
    outputs = network(x)[0]
    assert outputs.shape == (9, 3, 1, 2, 3)
    last = (x[..., 1] * 4 + 10 - 9) / 3  # the input's scale undone, the target's put on
    torch.testing.assert_close(outputs[..., 1], last[..., None, None].expand(9, 3, 1, 2))
    torch.testing.assert_close(outputs[..., 2], outputs[..., 1] + math.log(2))


def test_losses_are_their_formulas():
    network, _ = network_of("forecast")
    outputs = torch.tensor([[[[0.0, 1.0, 4.0]]]])
    # above: q · (y - ŷ); below: (1 - q) · (ŷ - y)
    assert network.loss(outputs, torch.tensor([[[2.0]]])).item() == pytest.approx(
        0.1 * 2 + 0.5 * 1 + 0.1 * 2
    )
    assert network.loss(outputs, torch.tensor([[[-1.0]]])).item() == pytest.approx(
        0.9 * 1 + 0.5 * 2 + 0.1 * 5
    )
    network, _ = network_of("text")
    logits = torch.randn(4, 3, 7)
    letters = torch.randint(7, (4, 3))
    expected = -logits.log_softmax(-1).gather(-1, letters[..., None]).mean()
    torch.testing.assert_close(network.loss(logits, letters), expected)


def test_dropout_stands_before_the_readout_in_training_alone():
    network, problem = network_of("classify", Design(CELLS["gru"], 5, dropout=0.5))
    x = inputs_of(problem, 6, 2)
    assert torch.equal(network(x)[0], network(x)[0])
    network.train()
    assert not torch.equal(network(x)[0], network(x)[0])


def test_two_directions_do_not_see_what_they_forecast():
    problem = forecast_problem()
    both = Design(CELLS["gru"], 5, bidirectional=True)
    with pytest.raises(InputError, match="Bi-GRU: to forecast its second direction"):
        Network(problem.schema, both, problem.scaling)
    problem = classify_problem()
    network = Network(problem.schema, both, problem.scaling)
    x = inputs_of(problem, 6, 2)
    _, states = network(x)
    with pytest.raises(InputError, match="expected whole sequences"):
        network(x, states)
