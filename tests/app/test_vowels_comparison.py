"""A tiny comparison: what it counts, that it repeats, that a wrong result stops it."""

import dataclasses

import pytest
import torch

from cellwright.app import vowels_comparison as comparison
from cellwright.app import vowels_table as report
from cellwright.app.vowels_comparison import CANDIDATES, Candidate, Plan, compare
from cellwright.app.vowels_data import load_japanese_vowels
from cellwright.app.vowels_training import Recipe
from cellwright.errors import CellwrightError

SMALL = Plan(Recipe(epochs=2), hidden_size=5, seeds=2, torch_seeds=1, candidates=CANDIDATES[1:4:2])


@pytest.fixture(scope="module")
def vowels():
    return load_japanese_vowels()


@pytest.fixture(scope="module")
def outcomes(vowels):
    return compare(vowels, SMALL, lambda _: None)


def test_outcomes_count_gates_and_parameters(outcomes):
    one_way, both_ways = outcomes
    weights = 3 * 5 * (12 + 5 + 2)
    assert (one_way.gates, one_way.parameters) == (2, weights + 9 * 5)
    assert (both_ways.gates, both_ways.parameters) == (2, 2 * weights + 9 * 10)


def test_only_one_way_models_are_streamed(outcomes):
    one_way, both_ways = outcomes
    assert one_way.step_microseconds > 0
    assert both_ways.step_microseconds is None


def test_seeds_pair_with_torch_and_repeat(vowels, outcomes):
    again = compare(vowels, SMALL, lambda _: None)
    for first, second in zip(outcomes, again, strict=True):
        assert len(first.seconds) == len(first.accuracies) == 2
        assert len(first.torch_seconds) == 1
        assert first.accuracies == second.accuracies
        # The same weights and batches: rounding may move a few of the 370 over the border.
        assert abs(first.accuracies[0] - first.torch_accuracies[0]) < 0.02
    assert len(set(outcomes[0].accuracies + outcomes[1].accuracies)) > 1


def test_progress_is_told_of_each_training(vowels):
    lines = []
    plan = dataclasses.replace(SMALL, candidates=(Candidate("GRU", "gru"),))
    compare(vowels, plan, lines.append)
    assert lines == ["GRU, seed 0, torch.nn", "GRU, seed 0", "GRU, seed 1"]
    assert len(lines) == plan.trainings


def test_the_global_generator_is_left_alone(vowels):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    comparison._model(CANDIDATES[0], vowels, SMALL, seed=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("wrong", [1e-2, float("nan")])
def test_no_time_is_reported_for_a_wrong_result(vowels, wrong):
    model = comparison._model(CANDIDATES[0], vowels, SMALL, seed=0)
    twin = comparison._torch_twin(model, CANDIDATES[0])
    comparison._check_agreement(CANDIDATES[0], model, twin, vowels.test)
    with torch.no_grad():
        twin.recurrent.weight_hh_l0[0, 1] += wrong
    with pytest.raises(CellwrightError, match=r"expected RNN and torch\.nn .* differ by .* report"):
        comparison._check_agreement(CANDIDATES[0], model, twin, vowels.test)


def test_rows_show_what_was_measured_and_dash_what_was_not(outcomes):
    both_ways = dataclasses.replace(
        outcomes[1], accuracies=(0.9, 0.96), seconds=(1.0, 2.0), torch_seconds=()
    )
    expected = ("Bi-GRU", "2", "660", "0.930 ± 0.042", "1.50 s", "–", "–")
    assert report.row(both_ways) == expected


def test_caption_says_how_torch_was_timed(outcomes):
    assert "the same training of seed 0, with the same initial" in report.caption(outcomes, SMALL)
    untimed = [dataclasses.replace(one, torch_accuracies=()) for one in outcomes]
    assert "Nothing was trained on torch.nn" in report.caption(untimed, SMALL)
