"""What is inferred of a table, said in one line, and what overrides it."""

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from tests.app.data.tables import daily, hourly, labelled

from cellwright.app import data
from cellwright.app.data import Options
from cellwright.app.errors import InputError
from cellwright.app.schema import Schema, Task


def schema_of(table, **options):
    return data.read_problem(table, options=Options(**options)).schema


def test_labelled_sequences_need_nothing_said():
    schema = schema_of(labelled())
    assert schema.task is Task.CLASSIFY
    assert (schema.targets, schema.series, schema.time) == (("label",), "series", "step")
    assert schema.classes == ("1", "2", "3")
    assert schema.input_names == ("a", "b", "mood=calm", "mood=odd", "mood=wild")
    assert schema.calendar == ()


def test_a_series_with_one_number_needs_nothing_said():
    schema = schema_of(hourly())
    assert schema.task is Task.FORECAST
    assert (schema.targets, schema.series, schema.time) == (("load",), None, "when")
    assert (schema.frequency, schema.season) == ("1h", 24)
    assert schema.calendar == ("hour", "weekday")


def test_series_are_told_apart_by_where_time_begins_again():
    table = daily(40, series=["x", "y"]).rename({"site": "place"})
    assert schema_of(table, targets=("load",)).series == "place"
    assert schema_of(daily(40), targets=("load",)).series is None
    numbered = table.with_columns(place=pl.col("place").replace_strict({"x": 4, "y": 7}))
    assert schema_of(numbered, targets=("load",)).series == "place"


def test_a_number_of_the_row_is_no_feature():
    table = daily(40).with_row_index("id")
    problem = data.read_problem(table, options=Options(targets=("load",)))
    assert problem.schema.input_names[:2] == ("load", "wind")
    assert problem.schema.series is None
    assert "not read: id (a number of the row)" in problem.summary


def test_what_pandas_writes_without_a_name_is_no_feature(write):
    lines = daily(40).drop("wind").write_csv().splitlines()
    text = "\n".join(f"{n - 1 if n else ''},{line}" for n, line in enumerate(lines))
    problem = data.read_problem(write("t.csv", text))
    assert problem.schema.targets == ("load",)
    assert problem.schema.input_names[0] == "load"
    assert "not read: index (a number of the row)" in problem.summary


def test_columns_that_cannot_be_read_are_left_out_and_told():
    table = daily(60).with_columns(
        note=pl.int_range(pl.len()).cast(pl.String) + " o'clock",
        later=pl.col("day") + pl.duration(days=1),
        nothing=pl.lit(None),
        pair=pl.concat_list("load", "wind"),
    )
    problem = data.read_problem(table, options=Options(targets=("load",)))
    told = "note (over 20 different texts), later (a second time), nothing (no values)"
    assert f"not read: {told}, pair (neither numbers nor text)" in problem.summary
    assert "\n" not in problem.summary


def test_what_is_the_same_everywhere_is_no_label():
    table = daily(40, series=["x", "y"]).drop("wind").with_columns(currency=pl.lit("EUR"))
    problem = data.read_problem(table)
    assert (problem.schema.task, problem.schema.targets) == (Task.FORECAST, ("load",))
    assert "not read: currency (always EUR)" in problem.summary


def test_overrides():
    table = labelled(shortest=6).with_columns(other=pl.col("label") % 2)
    assert schema_of(table, targets=("other",)).classes == ("0", "1")
    assert schema_of(table, targets=("label",), exclude=("mood", "other")).input_names == ("a", "b")
    assert schema_of(table, targets=("label",), features=("b",)).input_names == ("b",)
    forecast = schema_of(table, task=Task.FORECAST, targets=("a",), features=("b",))
    assert forecast.task is Task.FORECAST
    assert forecast.input_names == ("a", "b")
    assert schema_of(daily(60), targets=("load",), calendar=()).calendar == ()
    chosen = schema_of(daily(60), targets=("load",), frequency="2d", season=9, horizon=4)
    assert (chosen.frequency, chosen.season, chosen.horizon) == ("2d", 9, 4)
    assert schema_of(daily(60), targets=("wind", "load")).targets == ("wind", "load")


def test_several_targets_keep_their_order():
    problem = data.read_problem(daily(60), options=Options(targets=("wind", "load")))
    names = problem.schema.input_names
    places = [names.index("wind"), names.index("load")]
    assert (problem.test.targets == problem.test.inputs.values[:, places]).all()
    assert (problem.scaling.target_mean == problem.scaling.input_mean[places]).all()


def test_a_target_that_varies_within_series_is_forecast():
    table = daily(40, series=["x", "y"])
    assert schema_of(table, targets=("wind",)).task is Task.FORECAST
    several = daily(40, series=list("stuvwxyz"))
    each = several.with_columns(kind=(pl.col("site") > "v").cast(pl.Int64))
    assert schema_of(each, targets=("kind",)).task is Task.CLASSIFY


BEGIN = datetime(2019, 1, 31)


def months(n):
    return [date(2010 + m // 12, m % 12 + 1, 1) for m in range(n)]


@pytest.mark.parametrize(
    ("times", "frequency", "seasons"),
    [
        ([BEGIN + timedelta(days=n) for n in range(50)], "1d", {7}),
        ([BEGIN + timedelta(days=7 * n) for n in range(50)], "1w", {1}),
        ([BEGIN + timedelta(minutes=15 * n) for n in range(400)], "15m", {96}),
        ([BEGIN + timedelta(seconds=n) for n in range(400)], "1s", {60}),
        ([BEGIN + timedelta(milliseconds=20 * n) for n in range(50)], "20000us", {1}),
        ([BEGIN + timedelta(days=n + (n > 33)) for n in range(50)], "1d", {7}),
        ([BEGIN + timedelta(days=n * n) for n in range(50)], None, {1}),
        (months(50), "1mo", {12}),
        (months(150)[::3], "1q", {4}),
        ([date(1900 + n, 1, 1) for n in range(50)], "1y", {1}),
        (list(range(50)), None, {1}),
    ],
)
def test_frequency_and_season(times, frequency, seasons):
    values = np.random.default_rng(3).normal(size=len(times))
    schema = schema_of(pl.DataFrame({"time": times, "x": values}))
    assert schema.frequency == frequency
    assert schema.season in seasons


def test_the_season_is_the_one_that_fits():
    hours = np.arange(24 * 7 * 6)
    begin = datetime(2022, 3, 1)
    times = [begin + timedelta(hours=int(hour)) for hour in hours]
    noise = np.random.default_rng(0).normal(0, 0.05, len(hours))
    daily_wave = np.sin(hours * 2 * np.pi / 24) + noise
    weekly_wave = np.sin(hours * 2 * np.pi / 168) + noise
    for wave, season in ((daily_wave, 24), (weekly_wave, 168)):
        assert schema_of(pl.DataFrame({"time": times, "x": wave})).season == season


def test_a_week_must_be_held_three_times():
    def season(weeks):
        steps = round(weeks * 168 / (0.8 * 0.85)) + 2  # of them the training part
        values = np.sin(np.arange(steps) * 2 * np.pi / 168)
        when = [BEGIN + timedelta(hours=n) for n in range(steps)]
        return schema_of(pl.DataFrame({"time": when, "x": values})).season

    assert [season(weeks) for weeks in (0.2, 2.5, 2.9, 3.1)] == [1, 24, 24, 168]


def test_a_longer_season_must_be_clearly_better():
    steps = np.arange(24 * 60)
    noise = np.random.default_rng(1).normal(0, 0.3, (9, len(steps)))
    when = [BEGIN + timedelta(hours=int(n)) for n in steps]
    for one in noise:
        wave = np.sin(steps * 2 * np.pi / 24) + one
        assert schema_of(pl.DataFrame({"time": when, "x": wave})).season == 24


def test_gaps_in_time_are_told():
    def note(times, names=None):
        values = np.random.default_rng(3).normal(size=len(times))
        table = pl.DataFrame({"time": times, "x": values})
        if names is not None:
            table = table.with_columns(site=pl.Series(names))
        options = Options(targets=("x",))
        return data.read_problem(table, options=options).summary.partition(" to test")[2]

    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(100)]
    assert note(days) == note(months(60)) == note(months(60)[::3]) == note(range(60)) == ""
    assert note(days[:40] + days[45:70] + days[71:]) == (
        "; 2 gaps in time (6 steps missing), the first after 2024-02-09, read as if all were of "
        "one length"
    )
    assert "1 gap in time (1 step missing), the first after 2024-03-10" in note(
        days + days[:70] + days[71:], ["a"] * 100 + ["b"] * 99
    )
    assert note(days + days[:70] + days[71:], ["a"] * 100 + ["b"] * 99).count("in series 'b'") == 1
    assert "2 steps missing), the first after 2013-04-01" in note(months(40) + months(60)[42:])
    assert "after 29, read" in note([n + (n > 29) for n in range(60)])
    early = [datetime(2024, 1, 1) + timedelta(hours=n) for n in range(60)]
    early.insert(7, early[6] + timedelta(minutes=10))
    assert note(early) == ("; 1 step shorter than the others, read as if all were of one length")
    varied = [BEGIN + timedelta(days=n * n) for n in range(50)]
    assert note(varied) == "; the time between steps varies, and each is read as one step"


def test_summaries():
    def summary(table, **options):
        return data.read_problem(table, options=Options(**options)).summary

    assert summary(labelled((10, 10, 10), shortest=3, longest=3)) == (
        "classify label (3 classes) from 2 numbers and categories mood (3); 30 sequences of 3 "
        "steps by series, ordered by step; 21 to train, 3 to validate, 6 to test"
    )
    assert summary(daily(50, series=["x", "y"]), targets=("load",), horizon=2, calendar=()) == (
        "forecast load 1 to 2 steps ahead from 2 numbers; 100 steps in 2 series by site, daily "
        "2020-02-20 to 2020-04-09, season 7; forecasts by time: 64 to train, 10 to validate, 18 to "
        "test"
    )
    assert data.read_problem("some text " * 100).summary == (
        "text by character, 7 different ones; by position 810 to train, 90 to validate, 100 to test"
    )


def test_classes_with_too_few_sequences_are_told():
    def note(*counts, **options):
        options = Options(targets=("label",), **options)
        return data.read_problem(labelled(counts), options=options).summary.partition(" to test")[2]

    alone = "1 (1 sequence in all)"  # the second of labelled's classes
    assert note(9, 3, 9) == ""
    assert note(9, 1, 9) == f"; none to validate on of {alone}; none to test on of {alone}"
    assert note(9, 1, 9, validation_share=0.0) == f"; none to test on of {alone}"
    assert note(9, 2, 9) == "; none to validate on of 1 (2 sequences in all)"


def test_schemas_survive_json():
    for table in (labelled(), hourly()):
        schema = schema_of(table)
        assert Schema.from_json(schema.to_json()) == schema


def test_blocks_of_one_label_are_sequences_whatever_their_column_is_called():
    table = labelled().rename({"series": "machine"})
    when = [datetime(2024, 3, 1) + timedelta(seconds=n) for n in range(table.height)]
    table = table.drop("step").with_columns(when=pl.Series(when))  # nowhere does time begin again
    schema = schema_of(table, targets=("label",))
    assert (schema.task, schema.series, schema.time) == (Task.CLASSIFY, "machine", "when")
    mixed = table.with_columns(machine=pl.col("machine").reverse())
    assert schema_of(mixed, targets=("a",)).series != "machine"


def test_a_column_of_parts_is_the_split_whatever_it_is_called():
    table = labelled(counts=(9, 9, 9))
    order = pl.col("series").str.slice(1).cast(pl.Int64) % 3
    table = table.with_columns(
        part=pl.when(order == 0).then(pl.lit("test")).otherwise(pl.lit("train"))
    )
    assert schema_of(table, targets=("label",)).split == "part"


def test_a_frequency_is_a_number_and_a_unit():
    for wrong in ("banana", "d", "0d", "1 d"):
        with pytest.raises(InputError, match="--frequency"):
            Options(frequency=wrong)
    assert Options(frequency="3mo").frequency == "3mo"
