"""Predictions for tables: the same as of each sequence alone, in the order of the input."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from tests.app.model.makers import SCHEMAS, make_model
from tests.app.running.tables import LENGTHS, make_table
from torch import Tensor

from cellwright.app.data import encode
from cellwright.app.errors import InputError
from cellwright.app.model.folder import Model, load_model, save_model
from cellwright.app.running import Stream, predict
from cellwright.app.running import prediction as module
from cellwright.app.schema import Feature, Task


def alone(model: Model, table: pl.DataFrame) -> Iterator[Tensor]:
    """The network's outputs for each sequence, without packing."""
    inputs = encode(model.schema, model.scaling, table).inputs
    model.network.eval()
    with torch.no_grad():
        for index in range(len(inputs)):
            yield model.network(inputs[index][:, None])[0]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_classes_are_those_of_each_sequence_alone(bidirectional: bool) -> None:
    model = make_model(Task.CLASSIFY, bidirectional=bidirectional)
    table = make_table(model.schema)
    found = predict(model, table)
    assert found.columns == [
        "id",
        "predicted kind",
        "probability none",
        "probability some",
        "probability ÿ many",
    ]
    assert found["id"].to_list() == table["id"].unique(maintain_order=True).to_list()
    expected = torch.cat([logits.softmax(-1) for logits in alone(model, table)])
    torch.testing.assert_close(found[:, 2:].to_torch(), expected)
    best = [model.schema.classes[k] for k in expected.argmax(-1)]
    assert found["predicted kind"].to_list() == best
    assert expected.std(0).max() > 1e-3  # or the order would not show


@pytest.mark.parametrize("every_origin", [False, True])
def test_forecasts_are_those_of_each_series_alone(every_origin: bool) -> None:
    model = make_model(Task.FORECAST)
    table = make_table(model.schema)
    found = predict(model, table, every_origin=every_origin)
    assert model.scaling is not None
    mean, deviation = model.scaling.target_mean, model.scaling.target_deviation
    place = 0
    series = table.partition_by("station", maintain_order=True)
    for one, scaled in zip(series, alone(model, table), strict=True):
        for step in range(0 if every_origin else len(one) - 1, len(one)):
            values = scaled[step, 0] * deviation[:, None, None] + mean[:, None, None]
            for ahead in (1, 2, 3):
                row = found.row(place, named=True)
                origin = one["date"][step]
                assert row.pop("station") == one["station"][0]
                assert row.pop("origin") == origin
                assert row.pop("steps ahead") == ahead
                assert row.pop("date") == origin + timedelta(days=ahead)
                assert list(row) == ["b p10", "b p50", "b p90", "a p10", "a p50", "a p90"]
                expected = values[:, ahead - 1].flatten()
                torch.testing.assert_close(torch.tensor(list(row.values())), expected)
                place += 1
    assert place == len(found) == 3 * (len(table) if every_origin else len(LENGTHS))


def test_a_series_without_name_and_time() -> None:
    schema = replace(SCHEMAS[Task.FORECAST], series=None, time=None, frequency=None, horizon=2)
    model = make_model(schema=schema)
    found = predict(model, make_table(schema, (6,)))
    assert found.columns[:3] == ["origin", "steps ahead", "b p10"]
    assert found.rows()[0][:2] == (6, 1)
    assert found.rows()[1][:2] == (6, 2)
    every = predict(model, make_table(schema, (4,)), every_origin=True)
    assert every["origin"].to_list() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_months_are_counted_by_the_calendar() -> None:
    schema = replace(SCHEMAS[Task.FORECAST], series=None, frequency="1mo")
    table = make_table(schema, (2,)).with_columns(
        date=pl.Series([date(2023, 11, 30), date(2023, 12, 31)])
    )
    found = predict(make_model(schema=schema), table)
    assert found["date"].to_list() == [date(2024, 1, 31), date(2024, 2, 29), date(2024, 3, 31)]


@pytest.mark.parametrize("limits", [(1, 2**22), (5, 2**22), (12, 2**22), (2**14, 40)])
@pytest.mark.parametrize("task", [Task.CLASSIFY, Task.FORECAST])
def test_memory_is_bounded_and_changes_nothing(
    task: Task, limits: tuple[int, int], monkeypatch
) -> None:
    model = make_model(task)
    table = make_table(model.schema)
    options: dict[str, Any] = {} if task is Task.CLASSIFY else {"every_origin": True}
    whole = predict(model, table, **options)
    last = predict(model, table)
    monkeypatch.setattr(module, "BATCH_STEPS", limits[0])
    monkeypatch.setattr(module, "BATCH_NUMBERS", limits[1])
    steps: list[int] = []

    def watch(_: object, args: tuple[Any, ...]) -> None:
        data = args[0].data if hasattr(args[0], "batch_sizes") else args[0]
        steps.append(data.numel() // data.shape[-1])

    model.network.register_forward_pre_hook(watch)
    assert_frame_equal(predict(model, table, **options), whole, abs_tol=1e-5)
    bound = max(1, min(limits[0], limits[1] // model.network.readout.out_features))
    assert max(steps) <= bound
    assert sum(steps) == len(table)
    assert_frame_equal(predict(model, table), last, abs_tol=1e-5)


def test_batches_are_of_neighbours_in_length(monkeypatch) -> None:
    model = make_model(Task.CLASSIFY, bidirectional=True)
    table = make_table(model.schema, (9, 1, 8, 2, 9, 1))
    whole = predict(model, table)
    monkeypatch.setattr(module, "BATCH_STEPS", 17)
    sizes: list[list[int]] = []
    model.network.register_forward_pre_hook(
        lambda _, args: sizes.append(args[0].batch_sizes.tolist())
    )
    assert_frame_equal(predict(model, table), whole, abs_tol=1e-5)
    assert sizes == [[1] * 9, [2] * 8 + [1], [3, 1]]


def test_dropout_is_off_and_the_mode_comes_back() -> None:
    model = make_model(Task.CLASSIFY)
    table = make_table(model.schema)
    model.network.train()
    assert_frame_equal(predict(model, table), predict(model, table))
    assert model.network.training
    assert all(p.requires_grad for p in model.network.parameters())


def test_a_loaded_model_predicts_the_same(tmp_path) -> None:
    model = make_model(Task.FORECAST)
    table = make_table(model.schema)
    save_model(model, tmp_path)
    assert_frame_equal(predict(load_model(tmp_path), table), predict(model, table))


@pytest.mark.parametrize("limit", [2**14, 4])
@pytest.mark.parametrize("task", [Task.CLASSIFY, Task.FORECAST])
def test_a_model_of_float64(task: Task, limit: int, monkeypatch) -> None:
    model = make_model(task)
    table = make_table(model.schema)
    single = predict(model, table)
    model.network.double()
    monkeypatch.setattr(module, "BATCH_STEPS", limit)
    double = predict(model, table)
    assert pl.Float64 in double.dtypes
    assert_frame_equal(double, single, check_dtypes=False, abs_tol=1e-5)
    stream = Stream(model)
    first = table.partition_by(model.schema.series or "", maintain_order=True)[0]
    for row in first.iter_rows(named=True):
        said = stream.step(row)
    rows = double.filter(pl.col(model.schema.series or "") == first[model.schema.series or ""][0])
    for name, value in said.items():
        if not name.startswith("predicted"):
            wanted = rows[name].to_list()
            assert value == pytest.approx(wanted if len(wanted) > 1 else wanted[0], rel=1e-12)


def test_a_missing_column_is_named() -> None:
    model = make_model(Task.CLASSIFY)
    with pytest.raises(InputError, match=r"column .*b'|'b'"):
        predict(model, make_table(model.schema).drop("b"))


def test_text_is_not_predicted() -> None:
    with pytest.raises(InputError, match="this one writes text; use `cellwright generate`"):
        predict(make_model(Task.TEXT), "abc")


def test_every_step_is_for_forecasts() -> None:
    model = make_model(Task.CLASSIFY)
    with pytest.raises(
        InputError, match=r"--every-step.* classifies whole sequences; leave it out"
    ):
        predict(model, make_table(model.schema), every_origin=True)


def test_a_column_of_categories_alone() -> None:
    schema = replace(SCHEMAS[Task.CLASSIFY], features=(Feature("colour", ("blue", "red")),))
    model = make_model(schema=schema)
    assert len(predict(model, make_table(schema))) == len(LENGTHS)
