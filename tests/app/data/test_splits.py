"""Splits part the data as they should, and nothing of the test reaches the training."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.app.data.tables import daily, labelled

from cellwright.app import data
from cellwright.app.data import Options
from cellwright.app.schema import Missing

LABEL = Options(targets=("label",))


@given(
    counts=st.tuples(*[st.integers(3, 12)] * 3),
    seed=st.integers(0, 99),
    tested=st.floats(0.1, 0.4),
    held_out=st.floats(0.0, 0.4),
)
@settings(max_examples=25, deadline=None)
def test_sequences_are_split_whole_once_and_by_class(counts, seed, tested, held_out):
    table = labelled(counts, seed)
    options = Options(targets=("label",), seed=seed, test_share=tested, validation_share=held_out)
    problem = data.read_problem(table, options=options)
    parts = [part for part in (problem.train, problem.validation, problem.test) if part]
    assert (problem.validation is None) == (held_out == 0)
    names = [name for part in parts for name in part.ids]
    assert sorted(names) == sorted(table["series"].unique())
    for code, (label, count) in enumerate(sorted(zip((3, 1, 2), counts, strict=True))):
        assert problem.schema.classes[code] == str(label)
        held = int((problem.test.targets == code).sum())
        assert held == min(max(1, round(count * tested)), count - 1)
        assert (problem.train.targets == code).any()
    labels = dict(table.select("series", "label").iter_rows())
    for part in parts:
        for n, name in enumerate(part.ids):
            assert problem.schema.classes[part.targets[n]] == str(labels[name])
            steps = table.filter(pl.col("series") == name)
            unscaled = part.inputs[n] * problem.scaling.input_deviation
            unscaled = unscaled + problem.scaling.input_mean
            expected = torch.tensor(steps.select("a", "b").to_numpy(), dtype=torch.float32)
            torch.testing.assert_close(unscaled[:, :2], expected, rtol=1e-4, atol=1e-3)
            moods = [problem.schema.input_names.index(f"mood={one}") for one in steps["mood"]]
            assert unscaled[:, 2:].argmax(1).tolist() == [mood - 2 for mood in moods]
            assert part.times[int(part.inputs.starts[n])] == 0


def test_a_seed_repeats_a_split_and_another_changes_it():
    def names(seed):
        options = Options(targets=("label",), seed=seed)
        return data.read_problem(labelled((20, 20, 20)), options=options).test.ids.to_list()

    assert names(1) == names(1)
    assert names(1) != names(2)


@given(
    steps=st.integers(12, 80),
    horizon=st.integers(1, 3),
    tested=st.floats(0.05, 0.4),
    held_out=st.floats(0.0, 0.3),
    several=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_forecasts_are_split_by_time(steps, horizon, tested, held_out, several):
    names = ["u", "v", "w"] if several else None
    table = daily(steps, series=names)
    options = Options(
        targets=("load",), horizon=horizon, test_share=tested, validation_share=held_out
    )
    problem = data.read_problem(table, options=options)
    train, validation, test = problem.train, problem.validation, problem.test
    assert (validation is None) == (held_out == 0)
    tests = max(int(steps * tested), horizon)
    for n in range(len(test)):
        series = table if names is None else table.filter(pl.col("site") == test.ids[n])
        mean, deviation = problem.scaling.target_mean, problem.scaling.target_deviation
        asked = []
        for part in (train, validation, test):
            if part is None:
                continue
            begin, end = part.inputs.starts[n : n + 2].tolist()
            expected = torch.tensor(series["load"].to_numpy()[: end - begin]).float()[:, None]
            unscaled = part.targets[begin:end] * deviation + mean
            torch.testing.assert_close(unscaled, expected, rtol=1e-4, atol=1e-4)
            assert part.times[begin:end].to_list() == series["day"][: end - begin].to_list()
            origins = torch.nonzero(part.origins[begin:end]).flatten().tolist()
            assert origins == list(range(origins[0], origins[-1] + 1))
            asked.append(set(range(origins[0] + 1, origins[-1] + horizon + 1)))
        assert min(asked[-1]) == steps - tests
        assert max(asked[-1]) == steps - 1
        assert sum(map(len, asked)) == steps - 1  # no step is asked for in two parts, none left out
        assert len(set.union(*asked)) == steps - 1


@pytest.mark.parametrize("missing", list(Missing))
@pytest.mark.parametrize("names", [None, ["u", "v"]])
def test_what_the_test_holds_changes_nothing_in_training(names, missing):
    first, second = daily(50, seed=1, series=names), daily(50, seed=2, series=names)
    first = first.with_columns(
        sky=pl.when(pl.col("wind") > 0).then(pl.lit("a")).otherwise(pl.lit("b"))
    )
    step = pl.int_range(pl.len()).over("site") if names else pl.int_range(pl.len())
    late = first.select(step.alias("n"))["n"] >= 40
    changed = first.with_columns(
        load=pl.when(late).then(second["load"] * 1e6).otherwise("load"),
        wind=pl.when(late).then(-7.0).otherwise("wind"),
        sky=pl.when(late).then(pl.lit("b")).otherwise("sky"),
    )
    options = Options(targets=("load",), missing=missing)
    one, other = (data.read_problem(table, options=options) for table in (first, changed))
    same_training(one, other)
    assert not torch.equal(one.test.inputs.values, other.test.inputs.values)


def test_what_the_test_sequences_hold_changes_nothing_in_training():
    table = labelled((9, 9, 9)).with_columns(
        split=pl.when(pl.col("series").str.slice(1).cast(pl.Int64) % 3 == 1)
        .then(pl.lit("TEST"))
        .otherwise(pl.lit("train"))
    )
    tested = pl.col("split") == "TEST"
    changed = table.with_columns(
        a=pl.when(tested).then(pl.col("a") * 1e5).otherwise("a"),
        mood=pl.when(tested).then(pl.lit("calm")).otherwise("mood"),
        label=pl.when(tested).then(2).otherwise("label"),
    )
    one, other = (data.read_problem(frame, options=LABEL) for frame in (table, changed))
    assert one.schema.split == "split"
    same_training(one, other)
    shorter = table.filter(~(tested & (pl.col("series") != "s1")))
    same_training(one, data.read_problem(shorter, options=LABEL))


def same_training(one, other):
    assert one.schema == other.schema
    for name in ("input_mean", "input_deviation", "target_mean", "target_deviation"):
        assert torch.equal(getattr(one.scaling, name), getattr(other.scaling, name))
    for part, twin in ((one.train, other.train), (one.validation, other.validation)):
        assert torch.equal(part.inputs.values, twin.inputs.values)
        assert torch.equal(part.inputs.starts, twin.inputs.starts)
        assert torch.equal(part.targets, twin.targets)


def test_training_is_scaled_to_mean_0_and_deviation_1():
    problem = data.read_problem(daily(50, series=["u", "v"]), options=Options(targets=("load",)))
    numbers = problem.train.inputs.values[:, :2].double()
    torch.testing.assert_close(numbers.mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    deviation = numbers.std(0, correction=0)
    torch.testing.assert_close(deviation, torch.ones(2).double(), atol=1e-6, rtol=0)


def test_large_numbers_that_differ_little_keep_their_differences():
    draw = np.random.default_rng(5)
    small = draw.normal(size=200)
    options = Options(targets=("x",))
    found = data.read_problem(pl.DataFrame({"x": small + 1.7e9}), options=options).test.targets
    expected = data.read_problem(pl.DataFrame({"x": small}), options=options).test.targets
    assert float((found - found.mean() - expected + expected.mean()).abs().max()) < 1e-4


def test_a_given_split_of_time():
    table = daily(30).with_columns(split=pl.Series(["train"] * 20 + ["valid"] * 4 + ["test"] * 6))
    problem = data.read_problem(table, options=Options(targets=("load",)))
    parts = (problem.train, problem.validation, problem.test)
    assert [int(part.origins.sum()) for part in parts] == [19, 4, 6]
    assert [len(part.inputs.values) for part in parts] == [20, 24, 30]


def test_a_given_split_by_series():
    table = daily(30, series=["u", "v", "w"]).with_columns(
        fold=pl.when(pl.col("site") == "w").then(pl.lit("test")).otherwise(pl.lit("train"))
    )
    options = Options(targets=("load",), split="fold", validation_share=0.0)
    problem = data.read_problem(table, options=options)
    assert problem.train.ids.to_list() == ["u", "v"]
    assert problem.test.ids.to_list() == ["w"]
    assert int(problem.test.origins.sum()) == 29


def test_given_splits_that_leak_are_refused(refused):
    table = daily(30).with_columns(split=pl.Series(["train"] * 20 + ["test"] * 4 + ["train"] * 6))
    refused(lambda: data.read_problem(table, options=Options(targets=("load",))), place="row 25")
    torn = labelled().with_columns(
        split=pl.Series(["train", "test"]).gather(pl.int_range(len(labelled()), eager=True) % 2)
    )
    refused(lambda: data.read_problem(torn, options=LABEL), "one split", "'s0'", place="row 2")
    odd = labelled().with_columns(part=pl.lit("both"))
    options = Options(targets=("label",), split="part")
    refused(lambda: data.read_problem(odd, options=options), "'both'", place="row 1")


def test_a_test_file_continues_the_series(write):
    table = daily(40, series=["u", "v"])
    early = pl.col("day") < table["day"][30]
    train, test = table.filter(early), table.filter(~early)
    options = Options(targets=("load",), validation_share=0.0)
    problem = data.read_problem(train, test=test, options=options)
    assert [int(part.origins.sum()) for part in (problem.train, problem.test)] == [58, 20]
    assert problem.test.inputs.lengths.tolist() == [40, 40]
    assert problem.test.times.to_list() == table["day"].to_list()


def test_a_test_file_that_begins_too_early_is_refused(write, refused):
    train, test = write("train.csv", daily(40).write_csv()), write("test.csv", daily(9).write_csv())
    options = Options(targets=("load",))
    refused(
        lambda: data.read_problem(train, test=test, options=options),
        "begin after the training data",
        "2020-03-30",
        place="test.csv, row 2, column 'day'",
    )


def test_sequences_of_a_test_file_are_others_of_the_same_name():
    train, test = labelled(seed=1), labelled((2, 3, 2), seed=2)
    problem = data.read_problem(train, test=test, options=LABEL)
    assert len(problem.test) == 7
    assert set(problem.test.ids) < set(train["series"])
    steps = test.filter(pl.col("series") == problem.test.ids[0])["a"]
    unscaled = problem.test.inputs[0][:, 0] * problem.scaling.input_deviation[0]
    unscaled = unscaled + problem.scaling.input_mean[0]
    torch.testing.assert_close(unscaled, torch.tensor(steps.to_numpy()).float())


def test_interleaved_series_are_put_together():
    table = daily(30, series=["u", "v", "w"])
    mixed = table.sort("day", "site", descending=[False, True])
    one = data.read_problem(
        table.sort("site", descending=True, maintain_order=True), options=Options(targets=("load",))
    )
    other = data.read_problem(mixed, options=Options(targets=("load",)))
    assert one.summary == other.summary
    assert torch.equal(one.test.inputs.values, other.test.inputs.values)
    assert torch.equal(one.test.origins, other.test.origins)
