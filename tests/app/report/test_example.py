"""The example that is seen from inside."""

import base64
import math
from dataclasses import replace

import pytest
import torch
from tests.app.report.comparisons import classify, forecast, text

from cellwright.app.model.network import Network
from cellwright.app.report import example
from cellwright.app.report.inside import look_inside


def decoded(panel: dict[str, object]) -> torch.Tensor:
    data = torch.tensor(list(base64.b64decode(str(panel["data"]))), dtype=torch.float64)
    low, high = (float(panel[key]) for key in ("low", "high"))  # type: ignore[arg-type]
    values = torch.where(data > 0, low + (data - 1) / 254 * (high - low), math.nan)
    return values.reshape(panel["rows"], panel["steps"])  # type: ignore[call-overload]


def test_maps_hold_the_values_in_their_order() -> None:
    made = classify()
    found = example.seen_from_inside(made)
    chosen = example.choose(made.problem)
    for one in found["entries"]:
        entry = made.entries[one["entry"]]
        assert entry.design is not None
        network = Network(made.problem.schema, entry.design, made.problem.scaling)
        network.load_state_dict(entry.weights)
        inside = look_inside(network.recurrent, chosen.inputs)  # type: ignore[arg-type]
        assert len(inside) == len(one["directions"]) == 1 + entry.design.bidirectional
        for traces, direction in zip(inside, one["directions"], strict=True):
            assert sorted(direction["order"]) == list(range(7))
            for trace, panel in zip(traces, direction["panels"], strict=True):
                assert panel["name"] == trace.name
                expected = trace.values[:, direction["order"]].T.double()
                width = panel["high"] - panel["low"]
                torch.testing.assert_close(decoded(panel), expected, rtol=0, atol=width / 500)


def test_the_sequence_of_median_length_is_chosen() -> None:
    problem = classify().problem
    lengths = sorted(problem.test.inputs.lengths.tolist())
    assert example.choose(problem).shown == lengths[5]


def test_what_is_not_finite_is_told_from_what_is() -> None:
    made = classify()
    entry = made.entries[0]
    weights = {name: value.clone() for name, value in entry.weights.items()}
    weights["recurrent.bias_ih_l0"][2] = math.nan
    weights["recurrent.weight_hh_l0"].zero_()
    broken = replace(made, entries=(replace(entry, weights=weights),))
    (one,) = example.seen_from_inside(broken)["entries"]
    (panel,) = one["directions"][0]["panels"]
    missing = decoded(panel).isnan().all(1)
    assert missing.sum() >= 1


def test_a_forecast_is_warm_when_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    made = forecast()
    whole = example.seen_from_inside(made)
    assert whole["marks"][0] == "2020-01-01"
    monkeypatch.setitem(example.STEPS, made.problem.schema.task, 7)
    cut = example.seen_from_inside(made)
    assert cut["marks"] == whole["marks"][-7:]
    late, early = (
        decoded(found["entries"][0]["directions"][0]["panels"][0]) for found in (cut, whole)
    )
    order = cut["entries"][0]["directions"][0]["order"]
    earlier = whole["entries"][0]["directions"][0]["order"]
    rows = [earlier.index(unit) for unit in order]
    torch.testing.assert_close(late, early[rows][:, -7:], rtol=0, atol=1 / 100)


def test_surprise_is_the_cross_entropy_in_bits() -> None:
    made = text()
    found = example.surprises(made)
    symbols = made.problem.test.inputs[0]
    vocabulary = made.problem.schema.vocabulary
    entry = made.entries[0]
    assert entry.design is not None
    network = Network(made.problem.schema, entry.design, None)
    network.load_state_dict(entry.weights)
    with torch.no_grad():
        outputs, _ = network.eval()(symbols[:, None])
    shown = symbols[1 : example.PASSAGE].tolist()  # of the first character there is no forecast
    assert found["characters"] == [vocabulary[symbol] for symbol in shown]
    for step, bits in enumerate(found["entries"][0]["bits"], start=1):
        chances = outputs[step - 1, 0].softmax(-1)
        assert bits == pytest.approx(-math.log2(chances[symbols[step]]), abs=0.06)


def test_alike_units_become_neighbours() -> None:
    angle = torch.linspace(0, 2 * math.pi, 33)[:32].double()
    waves = torch.sin(torch.arange(40)[:, None] / 5 + angle)  # (L, H), each a bit later
    mixed = torch.randperm(32)
    order = torch.tensor(example._neighbours(waves[:, mixed]))
    steps = (angle[mixed][order].diff().abs() / (2 * math.pi / 32)).round() % 32
    assert set(steps.tolist()) <= {1.0, 31.0}


def test_many_units_are_thinned() -> None:
    order = example._neighbours(torch.randn(10, 500))
    assert len(order) == len(set(order)) == example.MAX_UNITS
