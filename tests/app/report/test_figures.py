"""What the plots are drawn from."""

import json
import math

import pytest
import torch
from tests.app.report.comparisons import classify, forecast, runs

from cellwright.app.report import figures
from cellwright.app.training.results import Comparison, Entry


def test_curves_of_unequal_length_and_with_nan() -> None:
    made = classify()
    entry = made.entries[0]
    short, long = runs([0.5], epochs=3)[0], runs([0.5], epochs=5)[0]
    broken = type(long)(
        1, (*long.history[:4], type(long.history[4])(5, math.nan, None, None, 1.0)), 0.5, 1.0
    )
    one = Entry("x", entry.design, 0, 1, (short, broken))
    charts = figures.curves(Comparison(made.problem, (one,), "", "", 1.0))
    assert [chart["title"] for chart in charts] == [
        "Training loss",
        "Validation loss",
        "Validation accuracy",
    ]
    assert charts[0]["epochs"] == [1, 2, 3, 4, 5]
    assert charts[0]["series"][0]["values"] == [2.0, 1.0, 0.66667, None, None]
    assert charts[0]["series"][1]["values"] == [2.0, 1.0, 0.66667, 0.5, None]
    json.dumps(charts, allow_nan=False)


def test_no_validation_no_chart_of_it() -> None:
    made = classify()
    entry = Entry("x", made.entries[0].design, 0, 1, runs([0.5], validation=False))
    charts = figures.curves(Comparison(made.problem, (entry,), "", "", 1.0))
    assert [chart["title"] for chart in charts] == ["Training loss"]


def test_confusion_counts_pairs() -> None:
    made = classify()
    found = figures.confusion(made)
    truth = made.problem.test.targets.tolist()
    for one in found["entries"]:
        expected = [[0] * 3 for _ in range(3)]
        given = made.entries[one["entry"]].predictions
        assert given is not None
        for true, label in zip(truth, given.argmax(1).tolist(), strict=True):
            expected[true][label] += 1
        assert one["counts"] == expected
    assert [one["entry"] for one in found["entries"]] == list(range(7))


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_forecasts_stand_where_they_are_for(horizon: int) -> None:
    made = forecast(horizon=horizon)
    part, scaling = made.problem.test, made.problem.scaling
    assert part.origins is not None
    assert scaling is not None
    found = figures.forecasts(made)
    assert found["ahead"] == {1: [1], 2: [1, 2], 5: [1, 3, 5]}[horizon]
    assert len(found["views"]) == 4
    for number, view in enumerate(found["views"]):
        series, target = divmod(number, 2)
        start, end = part.inputs.starts[series : series + 2].tolist()
        first = start + (10, 7)[series]  # the step after the first origin
        assert view["cut"] == 0
        assert len(view["x"]) == len(view["truth"]) == end - first
        for row, step in enumerate(range(first, end)):
            truth = part.targets[step, target] * scaling.target_deviation[target]
            assert view["truth"][row] == pytest.approx(
                float(truth + scaling.target_mean[target]), rel=1e-4, abs=1e-6
            )
            for one in view["entries"]:
                held = made.entries[one["entry"]].predictions
                assert held is not None
                for ahead, quantiles in zip(found["ahead"], one["ahead"], strict=True):
                    made_at = step - ahead
                    counts = made_at >= start and bool(part.origins[made_at])
                    for q in range(3):
                        value = float(held[made_at, target, ahead - 1, q]) if counts else math.nan
                        if math.isnan(value):
                            assert quantiles[q][row] is None
                        else:
                            assert quantiles[q][row] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_positions_are_dates_or_counts() -> None:
    dated = figures.forecasts(forecast())["views"][0]
    assert dated["time"]
    assert dated["x"][0] == 1577836800 + 10 * 86400
    counted = figures.forecasts(forecast(dated=False))["views"][0]
    assert not counted["time"]
    assert counted["x"][0] == 10


def test_long_forecasts_are_cut_at_their_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = figures.forecasts(forecast())["views"][0]
    monkeypatch.setattr(figures, "FORECAST_NUMBERS", 12 * 3 * 2 * 3 * 4)
    cut = figures.forecasts(forecast())["views"][0]
    assert cut["x"] == whole["x"][-12:]
    assert cut["entries"][0]["ahead"][1][2] == whole["entries"][0]["ahead"][1][2][-12:]
    assert cut["cut"] == len(whole["x"]) - 12


def test_rounding_keeps_five_digits_and_no_nan() -> None:
    assert figures.rounded([1.2345678, math.nan, math.inf, -1e-9, 123456.0]) == [
        *(1.2346, None, None, -1e-09, 123460.0)
    ]
    assert torch.equal(torch.tensor(figures.rounded([0.5])), torch.tensor([0.5]))
