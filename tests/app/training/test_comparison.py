"""A tiny comparison: what it counts, that it repeats, that a wrong result stops it."""

import math
from dataclasses import replace

import polars as pl
import pytest
import torch

import cellwright
from cellwright.app.data import Options, bundled, read_problem
from cellwright.app.errors import InputError
from cellwright.app.model.choice import choose_design
from cellwright.app.schema import Task
from cellwright.app.training import comparison
from cellwright.app.training.comparison import compare, trainings
from cellwright.app.training.recipe import Recipe
from cellwright.app.training.session import initial_network
from cellwright.app.training.twin import (
    AGREEMENT,
    check_agreement,
    has_twin,
    outputs_on_test,
    twin_of,
)
from cellwright.errors import CellwrightError


@cellwright.cell
def leaky(x, h):
    """A cell that torch.nn does not have."""
    f = cellwright.sigmoid(x.f + h.f)
    return f * h + (1 - f) * cellwright.tanh(x.g)


DESIGNS = [choose_design(name, hidden_size=5) for name in ("gru", "bi-gru", leaky)]


@pytest.fixture(scope="module")
def vowels():
    return bundled("japanese_vowels")


@pytest.fixture(scope="module")
def recipe(vowels):
    return replace(Recipe.for_problem(vowels), epochs=2)


@pytest.fixture(scope="module")
def compared(vowels, recipe):
    return compare(vowels, DESIGNS, recipe, seeds=2, torch_seeds=1, command="as typed")


def test_entries_count_gates_and_parameters(compared):
    one_way, both_ways, own, *plain = compared.entries
    weights = 3 * 5 * (12 + 5 + 2)
    assert (one_way.gates, one_way.parameters) == (2, weights + 9 * (5 + 1))
    assert (both_ways.gates, both_ways.parameters) == (2, 2 * weights + 9 * (10 + 1))
    assert (own.label, own.gates) == ("leaky", 1)
    assert [entry.label for entry in plain] == ["majority class", "logistic regression"]
    assert compared.command == "as typed"
    assert compared.seconds > 0


def test_only_one_way_models_are_streamed(compared):
    assert [entry.step_microseconds is None for entry in compared.entries] == [
        False, True, False, True, True,
    ]  # fmt: skip


def test_seeds_pair_with_torch_and_repeat(vowels, recipe, compared):
    again = compare(vowels, DESIGNS, recipe, seeds=2, torch_seeds=1)
    for first, second in zip(compared.entries[:3], again.entries[:3], strict=True):
        assert [run.seed for run in first.runs] == [0, 1]
        assert [run.score for run in first.runs] == [run.score for run in second.runs]
        assert torch.equal(first.predictions, second.predictions)
    for entry in compared.entries[:2]:
        timed, untimed = entry.runs
        # The same weights and batches: rounding may move a few of the 370 over the border.
        assert abs(timed.score - timed.torch_score) < 0.02
        assert timed.torch_seconds > 0
        assert untimed.torch_score is untimed.torch_seconds is None
    assert all(run.torch_score is None for run in compared.entries[2].runs)
    assert len({run.score for entry in compared.entries[:3] for run in entry.runs}) > 3


def test_predictions_and_weights_are_the_first_seeds(vowels, compared):
    for entry in compared.entries[:3]:
        assert entry.predictions.shape == (370, 9)
        score = (entry.predictions.argmax(1) == vowels.test.targets).double().mean().item()
        assert score == entry.runs[0].score
        network = initial_network(vowels, entry.design)
        network.load_state_dict(entry.weights)
        outputs = outputs_on_test(network, vowels).softmax(-1)
        order = vowels.test.inputs.lengths.argsort(descending=True, stable=True)[: len(outputs)]
        torch.testing.assert_close(outputs, entry.predictions[order])


def test_progress_is_told_of_each_training_and_of_its_epochs(vowels, recipe):
    told = []
    compare(
        vowels,
        [DESIGNS[0], DESIGNS[2]],
        recipe,
        seeds=2,
        torch_seeds=1,
        progress=lambda name, update: told.append((name, update)),
    )
    begun = [name for name, update in told if update is None]
    assert begun == [
        "GRU, seed 0, torch.nn", "GRU, seed 0", "GRU, seed 1", "leaky, seed 0", "leaky, seed 1",
    ]  # fmt: skip
    assert len(begun) == trainings([DESIGNS[0], DESIGNS[2]], seeds=2, torch_seeds=1)
    ends = [(name, update.epoch) for name, update in told if update and update.finished]
    assert ends == [(name, epoch) for name in begun for epoch in (1, 2)]


def test_the_budget_says_how_all_were_trained(compared):
    assert compared.budget == (
        "Hidden size 5, mean readout, 2 epochs in batches of 30 of similar length, AdamW with a "
        "one-cycle learning rate up to 0.006, input noise of 0.6, 2 seeds. Weights after the last "
        "epoch."
    )


def test_the_global_generator_is_left_alone(vowels, recipe):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    compare(vowels, DESIGNS[:1], replace(recipe, epochs=1), seeds=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "name", ["rnn", "rnn_relu", "gru", "lstm", "bi-lstm"], ids=lambda name: name
)
def test_a_twin_is_the_same_network_on_torch(vowels, name):
    network = initial_network(vowels, choose_design(name, hidden_size=7, num_layers=2))
    twin = twin_of(network)
    assert isinstance(twin.recurrent, torch.nn.RNNBase)
    check_agreement(name, outputs_on_test(network, vowels), outputs_on_test(twin, vowels))
    assert not has_twin(leaky)


@pytest.mark.parametrize("wrong", [1e-2, float("nan")])
def test_no_time_is_reported_for_a_wrong_result(vowels, recipe, monkeypatch, wrong):
    def damaged(network):
        twin = twin_of(network)
        with torch.no_grad():
            twin.recurrent.weight_hh_l0[0, 1] += wrong
        return twin

    monkeypatch.setattr(comparison, "twin_of", damaged)
    with pytest.raises(CellwrightError, match=r"expected GRU and torch\.nn .* differ by .* report"):
        compare(vowels, DESIGNS[:1], recipe, seeds=1)
    check_agreement("GRU", torch.zeros(2), torch.full((2,), 0.9 * AGREEMENT))


@pytest.mark.parametrize(
    ("designs", "seeds", "torch_seeds", "message"),
    [
        ([], 1, 0, "expected at least one cell"),
        (DESIGNS[:1], 0, 0, "expected at least one seed"),
        (DESIGNS[:1], 1, 2, "raise --seeds or lower --torch-seeds"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    vowels, recipe, designs, seeds, torch_seeds, message
):
    with pytest.raises(InputError, match=message):
        compare(vowels, designs, recipe, seeds=seeds, torch_seeds=torch_seeds)


def test_forecasts_and_texts_are_compared_too():
    steps = torch.arange(240.0)
    frame = pl.DataFrame({
        "a": (torch.sin(steps / 4) + 0.1 * torch.randn(240)).tolist(),
        "b": torch.randn(240).tolist(),
    })  # fmt: skip
    series = read_problem(frame, options=Options(targets=("a",), horizon=3, season=12))
    text = read_problem("so it goes, and so it went. " * 60, options=Options(task=Task.TEXT))
    for problem, names in (
        (series, ["GRU", "last value", "seasonal naive (12)", "ridge on lags"]),
        (text, ["GRU", "unigram", "bigram"]),
    ):
        recipe = replace(Recipe.for_problem(problem), epochs=2)
        made = compare(problem, DESIGNS[:1], recipe, seeds=1)
        assert [entry.label for entry in made.entries] == names
        assert all(math.isfinite(entry.runs[0].score) for entry in made.entries)
        assert made.entries[0].step_microseconds > 0
        if problem is series:
            size = (len(problem.test.targets), 1, 3, 3)
            assert {tuple(entry.predictions.shape) for entry in made.entries} == {size}


def test_torch_draws_the_same_dropout(vowels, recipe):
    design = choose_design("gru", hidden_size=24, num_layers=2, dropout=0.4)
    (run,) = compare(vowels, [design], recipe, seeds=1).entries[0].runs
    assert abs(run.score - run.torch_score) < 0.02
    assert run.score > 0.2
