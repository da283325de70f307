"""The plain methods: each against what can be worked out by hand, or must be found in the data."""

import math

import polars as pl
import pytest
import torch

from cellwright.app.problem import Part, Problem, Ragged, Scaling
from cellwright.app.schema import Feature, Schema, Task
from cellwright.app.training.baselines import baselines


def starts_of(lengths):
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])


def problem_of(schema, train, test, scaling=None):
    return Problem("made up", "", schema, scaling, train, None, test)


def labelled(lengths, labels, make):
    inputs = torch.cat([make(n, length, label) for n, (length, label) in enumerate(
        zip(lengths, labels, strict=True))])  # fmt: skip
    return Part(Ragged(inputs, starts_of(lengths)), torch.tensor(labels))


def classify(make, train_labels, test_labels, seed=0):
    torch.manual_seed(seed)
    schema = Schema(Task.CLASSIFY, features=(Feature("a"), Feature("b")), classes=("x", "y", "z"))
    parts = [
        labelled([3 + n % 5 for n in range(len(labels))], labels, make)
        for labels in (train_labels, test_labels)
    ]
    return problem_of(schema, *parts)


def test_majority_is_the_training_parts_and_is_judged_on_the_test_part():
    made = classify(lambda n, length, label: torch.randn(length, 2), [1, 1, 2, 0], [1, 0, 2, 2, 1])
    majority, logistic = baselines(made)
    assert majority.runs[0].score == 2 / 5
    assert majority.predictions.tolist() == [[0.25, 0.5, 0.25]] * 5
    assert (majority.parameters, logistic.parameters) == (None, 3 * (6 * 2 + 1) + 3)
    torch.testing.assert_close(logistic.predictions.sum(1), torch.ones(5))


def test_a_class_that_training_lacks_gets_probability_zero():
    made = classify(lambda n, length, label: torch.randn(length, 2), [0, 2, 0, 2], [1, 0, 2])
    for entry in baselines(made):
        assert entry.predictions.shape == (3, 3)
        assert entry.predictions[:, 1].tolist() == [0.0] * 3


@pytest.mark.parametrize("place", [0, -1])
def test_logistic_regression_sees_ends_levels_and_lengths(place):
    def make(n, length, label):
        x = torch.randn(length, 2)
        x[place, 1] += 3.0 * (label - 1)
        return x

    labels = torch.arange(240).remainder(3).tolist()
    majority, logistic = baselines(classify(make, labels, labels[:90]))
    assert majority.runs[0].score == pytest.approx(1 / 3)
    assert logistic.runs[0].score > 0.85


def forecast_problem(values, horizon, season, cut, lengths=None, times=None):
    """Two targets in units of their own; origins as a split by time makes them."""
    lengths = lengths or [len(values)]
    mean, deviation = torch.tensor([5.0, -2.0]), torch.tensor([10.0, 0.5])
    schema = Schema(
        Task.FORECAST, ("a", "b"), (Feature("a"), Feature("b")), season=season, horizon=horizon
    )
    first, step = starts_of(lengths)[:-1], torch.arange(len(values))
    place = step - first.repeat_interleave(torch.tensor(lengths))
    remaining = torch.tensor(lengths).repeat_interleave(torch.tensor(lengths)) - place - 1
    parts = [
        Part(Ragged(values, starts_of(lengths)), values, origins=origins, times=times)
        for origins in (
            (place + horizon < cut) & (remaining >= horizon),
            (place >= cut - 1) & (remaining >= horizon),
        )
    ]
    return problem_of(schema, *parts, Scaling(mean, deviation, mean, deviation))


def test_last_value_and_season_are_what_they_say():
    values = torch.randn(40, 2)
    made = forecast_problem(values, horizon=5, season=3, cut=30)
    last, seasonal, ridge = baselines(made)
    assert [last.label, seasonal.label, ridge.label] == [
        "last value", "seasonal naive (3)", "ridge on lags",
    ]  # fmt: skip
    units = values * torch.tensor([10.0, 0.5]) + torch.tensor([5.0, -2.0])
    errors = {"last": [], "seasonal": []}
    for origin in range(29, 35):
        for ahead in range(1, 6):
            truth = units[origin + ahead]
            source = origin + ahead - 3 * math.ceil(ahead / 3)
            assert source <= origin
            errors["last"].append((units[origin] - truth).abs().mean())
            errors["seasonal"].append((units[source] - truth).abs().mean())
            torch.testing.assert_close(
                seasonal.predictions[origin, :, ahead - 1, 1], units[source], msg=str(ahead)
            )
    for entry, name in ((last, "last"), (seasonal, "seasonal")):
        assert entry.runs[0].score == pytest.approx(float(torch.stack(errors[name]).mean()), 1e-5)
        assert entry.predictions.shape == (40, 2, 5, 3)
        assert entry.predictions[..., (0, 2)].isnan().all()


def test_no_series_lends_its_values_to_another():
    values = torch.cat([torch.randn(20, 2), 100 + torch.randn(24, 2)])
    _, seasonal, ridge = baselines(
        forecast_problem(values, horizon=2, season=6, cut=16, lengths=[20, 24])
    )
    second = (seasonal.predictions[20:, ..., 1] - torch.tensor([5.0, -2.0])[:, None]) / (
        torch.tensor([10.0, 0.5])[:, None]
    )
    assert second.min() > 90
    assert seasonal.predictions[20, 0, 0, 1] == values[20, 0] * 10 + 5  # younger than a season
    assert ridge.predictions[20:, 0, :, 1].min() > 500


def test_ridge_finds_what_the_lags_hold_and_last_value_cannot():
    steps = torch.arange(300.0)
    wave = torch.stack([torch.sin(steps / 3), torch.cos(steps / 5)], 1)
    last, ridge = baselines(forecast_problem(wave, horizon=3, season=1, cut=240))
    assert ridge.runs[0].score < 0.05 * last.runs[0].score
    assert ridge.parameters == 2 * 3 * (14 * 2 + 1)


def test_ridge_of_noise_is_led_back_to_the_last_value():
    walk = torch.randn(400, 2).cumsum(0)
    last, ridge = baselines(forecast_problem(walk, horizon=1, season=1, cut=300))
    assert ridge.runs[0].score < 1.15 * last.runs[0].score


def test_ridge_learns_from_the_training_origins_alone():
    values = torch.randn(120, 2).cumsum(0)
    changed = values.clone()
    changed[80:] += 1000.0
    before = baselines(forecast_problem(values, horizon=2, season=1, cut=80))[-1]
    after = baselines(forecast_problem(changed, horizon=2, season=1, cut=80))[-1]
    torch.testing.assert_close(before.predictions[:80], after.predictions[:80], equal_nan=True)


def test_folds_of_ridge_run_in_time_across_series():
    values = torch.randn(90, 2)
    times = pl.Series([*range(30), *range(100, 130), *range(15, 45)])
    made = forecast_problem(values, 1, 1, cut=25, lengths=[30, 30, 30], times=times)
    from cellwright.app.training.baselines import _in_order_of_time

    order = [times[int(step)] for step in _in_order_of_time(made.train)]
    assert order == sorted(order)
    assert len(order) == int(made.train.origins.sum())


def text_problem(train, test, size):
    schema = Schema(Task.TEXT, vocabulary=tuple("abcdefgh"[:size]))
    parts = [
        Part(Ragged(torch.tensor(one), starts_of([len(one)])), torch.tensor(one))
        for one in (train, test)
    ]
    return problem_of(schema, *parts)


def test_text_models_are_judged_in_bits_of_each_character_after_the_first():
    unigram, bigram = baselines(text_problem([0, 1, 0, 1, 0], [1, 0, 1, 1], 3))
    once = {0: 4 / 8, 1: 3 / 8, 2: 1 / 8}
    expected = -(math.log2(once[0]) + 2 * math.log2(once[1])) / 3
    assert unigram.runs[0].score == pytest.approx(expected)
    # a is followed by b twice, b by a twice: Witten and Bell give 2 of 3 to what was seen.
    pairs = [2 / 3 + once[0] / 3, 2 / 3 + once[1] / 3, once[1] / 3]
    assert bigram.runs[0].score == pytest.approx(-sum(map(math.log2, pairs)) / 3)


def test_bigram_gives_probabilities_after_a_character_never_seen():
    made = text_problem([0, 1, 0, 1, 1, 0], [2, 0, 2, 1], 3)
    unigram, bigram = baselines(made)
    assert math.isfinite(bigram.runs[0].score)
    torch.manual_seed(3)
    chain = [0]
    for draw in torch.rand(3000).tolist():
        chain.append((chain[-1] + 1) % 4 if draw < 0.9 else int(draw * 40) % 4)
    unigram, bigram = baselines(text_problem(chain[:2000], chain[2000:], 4))
    assert bigram.runs[0].score < 0.6 * unigram.runs[0].score
