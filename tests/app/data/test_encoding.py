"""New data is read as the training was: whole, or row by row."""

import json

import polars as pl
import pytest
import torch
from tests.app.data.tables import daily, hourly, labelled

from cellwright.app import data
from cellwright.app.data import Options, RowEncoder
from cellwright.app.schema import Missing, Schema

LABEL = Options(targets=("label",))


def with_gaps(table, columns, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for column in columns:
        gone = pl.Series(torch.rand(table.height, generator=generator).numpy() < 0.3)
        table = table.with_columns(pl.when(~gone).then(column).alias(column))
    return table


def skies(table):
    return table.with_columns(
        sky=pl.when(pl.col("wind") > 0).then(pl.lit("blue")).otherwise(pl.lit("grey"))
    )


def test_the_training_file_encodes_as_in_training(write):
    table = labelled()
    problem = data.read_problem(table, options=LABEL)
    schema = Schema.from_json(json.loads(json.dumps(problem.schema.to_json())))
    part = data.encode(schema, problem.scaling, write("t.csv", table.write_csv()))
    assert part.ids.to_list() == table["series"].unique(maintain_order=True).to_list()
    for n, name in enumerate(problem.test.ids):
        place = part.ids.to_list().index(name)
        assert part.targets[place] == problem.test.targets[n]
        torch.testing.assert_close(part.inputs[place], problem.test.inputs[n])


def test_labels_may_be_absent_but_not_unknown(refused):
    problem = data.read_problem(labelled(), options=LABEL)
    new = labelled((1, 2, 1), seed=9)
    part = data.encode(problem.schema, problem.scaling, new.drop("label"))
    assert part.targets.tolist() == [-1] * 4
    strange = new.with_columns(label=pl.lit("4"))
    refused(
        lambda: data.encode(problem.schema, problem.scaling, strange),
        "'4'",
        place="row 1, column 'label'",
    )


@pytest.mark.parametrize("names", [None, ["u", "v"]])
def test_a_forecast_reads_a_new_file_with_the_training_scale(names):
    table = daily(60, series=names)
    problem = data.read_problem(table, options=Options(targets=("load",), horizon=2))
    part = data.encode(problem.schema, problem.scaling, table)
    torch.testing.assert_close(part.inputs.values, problem.test.inputs.values)
    torch.testing.assert_close(part.targets, problem.test.targets)
    origins = [part.origins[begin : begin + 60] for begin in part.inputs.starts[:-1].tolist()]
    assert all(one.tolist() == [True] * 58 + [False] * 2 for one in origins)


def test_columns_missing_or_of_another_type(refused, write):
    problem = data.read_problem(skies(daily()), options=Options(targets=("load",)))

    def check(table, *words, place=""):
        path = write("new.csv", table.write_csv())
        refused(
            lambda: data.encode(problem.schema, problem.scaling, path),
            *words,
            place=place or "new.csv",
        )

    table = skies(daily())
    check(table.drop("wind"), "'wind'", "as in the training data")
    check(table.rename({"wind": "winds"}), "did you mean 'winds'?")
    check(table.with_columns(wind=pl.lit("strong")), "a number", place="column 'wind'")
    check(table.with_columns(sky=pl.lit("red")), "'red'", place="row 2, column 'sky'")
    check(table.with_columns(day=pl.int_range(60)), "dates", place="column 'day'")
    check(table.with_columns(day=pl.lit("x")), "times as 2012-01-31", place="column 'day'")
    listed = table.with_columns(wind=pl.concat_list("wind"))
    refused(lambda: data.encode(problem.schema, problem.scaling, listed), place="'wind'")


@pytest.mark.parametrize("missing", [Missing.FFILL, Missing.MASK])
def test_missing_values_are_carried_on_within_a_series(missing):
    table = with_gaps(skies(daily(60, series=["u", "v"])), ["wind", "sky"])
    table = table.with_columns(wind=pl.when(pl.int_range(pl.len()).over("site") > 1).then("wind"))
    problem = data.read_problem(table, options=Options(targets=("load",), missing=missing))
    names = problem.schema.input_names
    wind = problem.test.inputs.values[:, names.index("wind")] * problem.scaling.input_deviation[1]
    wind = wind + problem.scaling.input_mean[1]
    observed = table.group_by("site", maintain_order=True).head(41)["wind"].drop_nulls()
    mean = problem.scaling.input_mean[1].item()
    assert observed.mean() == pytest.approx(mean, rel=1e-5)
    expected = table.select(pl.col("wind").forward_fill().over("site").fill_null(mean))["wind"]
    torch.testing.assert_close(wind, torch.tensor(expected.to_numpy()).float(), atol=1e-5, rtol=0)
    colours = problem.test.inputs.values[:, names.index("sky=blue")]
    carried = table.select(
        (pl.col("sky").forward_fill().over("site") == "blue").fill_null(value=False)
    )
    assert colours.tolist() == carried["sky"].cast(pl.Float64).to_list()
    if missing is Missing.MASK:
        for column in ("load", "wind", "sky"):
            marks = problem.test.inputs.values[:, names.index(f"{column} missing")]
            assert marks.tolist() == table[column].is_null().cast(pl.Float64).to_list()


def test_a_missing_target_is_never_asked_for():
    table = daily(50).with_columns(
        load=pl.when(~pl.int_range(pl.len()).is_in([20, 45])).then("load")
    )
    options = Options(targets=("load",), missing=Missing.FFILL, horizon=3, validation_share=0.0)
    problem = data.read_problem(table, options=options)
    assert torch.nonzero(~problem.train.origins).flatten().tolist() == [17, 18, 19, 37, 38, 39]
    assert torch.nonzero(problem.test.origins).flatten().tolist() == [39, 40, 41, 45, 46]


@pytest.mark.parametrize("missing", list(Missing))
@pytest.mark.parametrize("ending", ["csv", "json", "frame"])
def test_rows_one_by_one_are_the_tables_rows(missing, ending):
    table = skies(hourly(24 * 800).with_columns(wind=pl.col("load").shift(5).fill_null(0.3)))
    if missing is not Missing.ERROR:
        table = with_gaps(table, ["wind", "sky", "load"])
    calendar = ("hour", "weekday", "year")
    options = Options(targets=("load",), missing=missing, calendar=calendar)
    problem = data.read_problem(table, options=options)
    rows = table.tail(300)
    expected = data.encode(problem.schema, problem.scaling, rows).inputs.values
    encoder = RowEncoder(problem.schema, problem.scaling)
    forms = {
        "csv": lambda row: {name: "" if one is None else str(one) for name, one in row.items()},
        "json": lambda row: json.loads(json.dumps(row, default=str)),
        "frame": lambda row: row,
    }
    for n, row in enumerate(rows.iter_rows(named=True)):
        found = encoder.encode(forms[ending](row))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected[n], atol=1e-6, rtol=1e-6)


def test_streams_do_not_mix_and_forget_when_told():
    problem = data.read_problem(
        daily(50), options=Options(targets=("load",), missing=Missing.FFILL)
    )
    mean = problem.scaling.input_mean.tolist()
    encoder = RowEncoder(problem.schema, problem.scaling)

    def load(key, day, value):
        row = {"day": f"2021-01-{day:02}", "load": value, "wind": 1}
        return encoder.encode(row, key)[0].item()

    first = load("a", 1, mean[0] + 3)
    assert first != 0
    assert load("b", 1, None) == 0
    assert load("a", 2, None) == first
    encoder.reset("a")
    assert load("a", 1, None) == 0


def test_rows_that_cannot_be_read_leave_the_stream_as_it_was(refused):
    table = skies(daily(50))
    problem = data.read_problem(table, options=Options(targets=("load",)))
    encoder = RowEncoder(problem.schema, problem.scaling)
    good = {"day": "2021-01-02", "load": 50, "wind": 1.5, "sky": "blue"}
    encoder.encode(good)

    def check(*words, **changes):
        row = {name: value for name, value in {**good, **changes}.items() if value != "absent"}
        refused(lambda: encoder.encode(row), *words)

    check("'wind'", "did you mean 'wnd'?", wind="absent", wnd=1)
    check("a finite number", "'strong'", day="2021-01-03", wind="strong")
    check("a finite number", "inf", day="2021-01-03", wind="inf")
    check("a finite number", "[1]", day="2021-01-03", wind=[1])
    check("missing", day="2021-01-03", wind=None)
    check("missing", day="2021-01-03", wind=float("nan"))
    check("'red'", "blue, grey", day="2021-01-03", sky="red")
    check("a time", "'soon'", day="soon")
    check("after 2021-01-02", day="2021-01-02")
    check("after 2021-01-02", day="2021-01-01")
    check("alike", day="2021-01-03T00:00:00Z")
    again = encoder.encode({**good, "day": "2021-01-03"})
    assert torch.equal(again[:4], RowEncoder(problem.schema, problem.scaling).encode(good)[:4])
