"""A stream says after each step what a prediction of the sequence so far says."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from tests.app.model.makers import SCHEMAS, coupled, make_model
from tests.app.running.tables import make_table, sequences

from cellwright.app.errors import InputError
from cellwright.app.running import Stream, predict
from cellwright.app.schema import UNKNOWN, Missing, Task
from cellwright.cells import CELLS

CELL_KINDS = pytest.mark.parametrize("one", [*CELLS.values(), coupled], ids=lambda one: one.name)


def close(found: dict[str, object], expected: dict[str, object]) -> None:
    assert list(found) == list(expected)
    for name, value in found.items():
        if isinstance(value, str):
            assert value == expected[name]
        else:
            assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


@CELL_KINDS
@pytest.mark.parametrize("num_layers", [1, 2])
def test_classes_after_each_step(one, num_layers: int) -> None:
    model = make_model(Task.CLASSIFY, one, num_layers=num_layers)
    table = make_table(model.schema, (6,))
    stream = Stream(model)
    for length, row in enumerate(table.iter_rows(named=True), 1):
        expected = predict(model, table[:length]).drop("id").row(0, named=True)
        close(stream.step(row), expected)


@CELL_KINDS
@pytest.mark.parametrize("horizon", [1, 3])
def test_forecasts_after_each_step(one, horizon: int) -> None:
    schema = replace(SCHEMAS[Task.FORECAST], horizon=horizon)
    model = make_model(schema=schema, cell=one)
    table = make_table(schema, (5,))
    every = predict(model, table, every_origin=True)
    stream = Stream(model)
    for step, row in enumerate(table.iter_rows(named=True)):
        expected = every[horizon * step : horizon * (step + 1)]
        columns = expected.select(pl.selectors.contains(" p"))
        found = stream.step(row)
        if horizon == 1:
            close(found, columns.row(0, named=True))
        else:
            close(found, columns.to_dict(as_series=False))


def test_each_key_has_a_state_of_its_own() -> None:
    model = make_model(Task.FORECAST)
    table = make_table(model.schema, (5, 3, 4))
    expected = predict(model, table)
    stream = Stream(model)
    last: dict[str, dict[str, object]] = {}
    rows = [list(one.iter_rows(named=True)) for one in sequences(model.schema, table)]
    for step in range(5):
        for one in rows:
            if step < len(one):
                last[one[step]["station"]] = stream.step(one[step], key=one[step]["station"])
    assert set(stream.keys) == set(table["station"])
    for name, found in last.items():
        wanted = expected.filter(pl.col("station") == name).select(pl.selectors.contains(" p"))
        close(found, wanted.to_dict(as_series=False))


def test_reset_begins_anew_for_one_key() -> None:
    model = make_model(Task.CLASSIFY)
    rows = list(make_table(model.schema, (3,)).iter_rows(named=True))
    stream = Stream(model)
    first, other = stream.step(rows[0], "a"), stream.step(rows[1], "b")
    assert stream.step(rows[0], "a") != first
    stream = Stream(model)
    stream.step(rows[1], "a")
    stream.step(rows[2], "b")
    stream.reset("a")
    stream.reset("never seen")
    assert stream.keys == ("b",)
    assert stream.step(rows[0], "a") == first
    assert stream.step(rows[1], "b") != other


def test_reset_forgets_the_last_values_and_the_last_time_too() -> None:
    schema = replace(SCHEMAS[Task.FORECAST], missing=Missing.FFILL)
    rows = list(make_table(schema, (2,)).iter_rows(named=True))
    gap = rows[0] | {"wind": None}
    model = make_model(schema=schema)
    fresh = Stream(model).step(gap)
    stream = Stream(model)
    stream.step(rows[1], "a")
    with pytest.raises(InputError, match="expected a time after"):
        stream.step(gap, "a")
    stream.reset("a")
    assert stream.step(gap, "a") == fresh


def test_a_refused_row_leaves_the_state_as_it_was() -> None:
    model = make_model(Task.FORECAST)
    rows = list(make_table(model.schema, (2,)).iter_rows(named=True))
    stream, untouched = Stream(model), Stream(model)
    stream.step(rows[0])
    untouched.step(rows[0])
    with pytest.raises(InputError, match="wind"):
        stream.step({name: value for name, value in rows[1].items() if name != "wind"})
    with pytest.raises(InputError, match=r'one value a column, {"a": …, "b": …, "wind": …}'):
        stream.step("1,2,3")
    with pytest.raises(InputError):
        stream.step({}, key="new")
    assert stream.keys == (None,)
    assert stream.step(rows[1]) == untouched.step(rows[1])


def test_text_after_each_character() -> None:
    model = make_model(Task.TEXT)
    text = "a bad\ncabé"
    stream = Stream(model)
    indices = torch.tensor([model.schema.vocabulary.index(one) for one in text])
    with torch.no_grad():
        logits = model.network.eval()(indices[:, None])[0][:, 0]
    for character, expected in zip(text, logits.softmax(-1), strict=True):
        found = stream.step(character)
        values, places = expected.sort(descending=True)
        names = [model.schema.vocabulary[place] for place in places[:5]]
        assert found["next"] == names[0]
        assert found["probabilities"] == pytest.approx(
            dict(zip(names, values.tolist(), strict=False)), abs=1e-5
        )
    whole = Stream(model).step(text)
    assert whole["probabilities"] == pytest.approx(found["probabilities"], abs=1e-5)
    for wrong in ("", {"text": "a"}):
        with pytest.raises(InputError, match="expected the next character of a text, but got"):
            stream.step(wrong)
    with pytest.raises(InputError, match="but got 'z'"):
        stream.step("z")


def test_what_is_unknown_is_not_said_to_come() -> None:
    model = make_model(schema=replace(SCHEMAS[Task.TEXT], vocabulary=("a", "b", UNKNOWN)))
    probabilities = Stream(model).step("axé")["probabilities"]
    assert set(probabilities) == {"a", "b"}
    assert sum(probabilities.values()) == pytest.approx(1)


def test_dropout_is_off() -> None:
    model = make_model(Task.CLASSIFY)
    model.network.train()
    row = make_table(model.schema, (1,)).row(0, named=True)
    assert Stream(model).step(row) == Stream(model).step(row)


def test_two_directions_cannot_stream() -> None:
    with pytest.raises(InputError, match=r"Bi-GRU.*begins at the last.*has no `bi-`"):
        Stream(make_model(Task.CLASSIFY, "gru", bidirectional=True, num_layers=1))
