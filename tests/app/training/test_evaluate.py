"""Scores and predictions: what they say by hand, in cuts of any size, with no look ahead."""

import math
from dataclasses import replace

import pytest
import torch
from tests.app.training.problems import PROBLEMS, classify_problem, forecast_problem, text_problem

from cellwright.app.model.design import Design
from cellwright.app.model.network import Network
from cellwright.app.problem import Ragged
from cellwright.app.schema import UNKNOWN
from cellwright.app.training import evaluate as module
from cellwright.app.training.baselines import baselines
from cellwright.app.training.evaluate import assess, evaluate
from cellwright.cells import CELLS

DESIGN = Design(CELLS["lstm"], 6)


def judged(problem, network, part=None):
    return evaluate(network, part or problem.test, problem.schema, problem.scaling)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_size_of_a_cut_changes_nothing(name, monkeypatch):
    problem = PROBLEMS[name]()
    network = Network(problem.schema, DESIGN, problem.scaling).train()
    found = {}
    for rows in (3, 10_000):
        monkeypatch.setattr(module, "ROWS", rows)
        found[rows] = assess(network, problem.test, problem.schema, problem.scaling)
    assert network.training
    assert found[3].score == pytest.approx(found[10_000].score, rel=1e-5)
    assert found[3].loss == pytest.approx(found[10_000].loss, rel=1e-5)
    if name != "text":
        torch.testing.assert_close(found[3].predictions, found[10_000].predictions)


def test_accuracy_counts_the_sequences_labelled_right():
    problem = classify_problem()
    network = Network(problem.schema, DESIGN, problem.scaling)
    with torch.no_grad():
        network.readout.weight.zero_()
        network.readout.bias.copy_(torch.tensor([0.0, 1.0]))
    score, probabilities = judged(problem, network)
    assert score == pytest.approx(problem.test.targets.double().mean().item())
    expected = torch.tensor([0.0, 1.0]).softmax(-1).expand(len(problem.test), 2)
    torch.testing.assert_close(probabilities, expected)


def test_predictions_stand_in_the_order_of_the_part():
    problem = classify_problem()
    network = Network(problem.schema, DESIGN, problem.scaling)
    _, probabilities = judged(problem, network)
    for index in range(len(problem.test)):
        logits, _ = network(problem.test.inputs[index][:, None])
        torch.testing.assert_close(probabilities[index], logits.softmax(-1)[0])


def test_the_error_of_the_last_value_in_the_targets_own_unit():
    problem = forecast_problem()
    network = Network(problem.schema, DESIGN, problem.scaling)
    with torch.no_grad():
        network.readout.weight.zero_()
        network.readout.bias.zero_()
    score, predictions = judged(problem, network)
    own = problem.test.targets[:, 0] * 3 + 9
    origins = problem.test.origins.nonzero()[:, 0]
    errors = [(own[origins + ahead] - own[origins]).abs().mean().item() for ahead in (1, 2)]
    assert score == pytest.approx(sum(errors) / 2, rel=1e-5)
    assert predictions.shape == (len(own), 1, 2, 3)
    torch.testing.assert_close(predictions[:, 0, 1, 1], own)


def test_a_forecast_sees_no_step_after_its_own():
    problem = forecast_problem()
    network = Network(problem.schema, DESIGN, problem.scaling)
    _, before = judged(problem, network)
    values = problem.test.inputs.values.clone()
    row = 30
    values[row:] += 5.0
    changed = replace(problem.test, inputs=Ragged(values, problem.test.inputs.starts))
    _, after = judged(problem, network, changed)
    assert torch.equal(before[:row], after[:row])
    assert not torch.equal(before[row], after[row])


def test_a_network_that_knows_nothing_takes_the_bits_of_the_alphabet():
    problem = text_problem()
    network = Network(problem.schema, DESIGN, None)
    with torch.no_grad():
        network.readout.weight.zero_()
        network.readout.bias.zero_()
    score, predictions = judged(problem, network)
    assert score == pytest.approx(math.log2(7), rel=1e-5)
    assert predictions is None


def test_an_unknown_character_costs_the_bits_that_tell_which_it_is():
    known = text_problem()
    letters = known.test.inputs.values
    schema = replace(known.schema, vocabulary=(*"abcdef", UNKNOWN))
    problem = replace(known, schema=schema)  # what was g is unknown
    network = Network(schema, DESIGN, None)
    with torch.no_grad():
        network.readout.weight.zero_()
        network.readout.bias.zero_()
    share = float((letters[1:] == 6).double().mean())
    assert share > 0.1
    expected = math.log2(7) + share * math.log2(1_112_064 - 6)
    assert judged(problem, network)[0] == pytest.approx(expected, rel=1e-5)
    for plain, before in zip(baselines(problem), baselines(known), strict=True):
        assert plain.runs[0].score == pytest.approx(
            before.runs[0].score + share * math.log2(1_112_064 - 6), rel=1e-6
        )
