"""Each fault is named with its file, row, column and remedy."""

import numpy as np
import polars as pl
import pytest
from tests.app.data.tables import daily, labelled

from cellwright.app import data
from cellwright.app.data import Options
from cellwright.app.errors import InputError
from cellwright.app.schema import Missing, Task

LOAD = Options(targets=("load",))
LABEL = Options(targets=("label",))


def read(path, options=None):
    return lambda: data.read_problem(path, options=options)


def test_files_that_cannot_be_read(write, refused, tmp_path):
    refused(read(tmp_path / "none.csv"), "there is none", "check the path", place="none.csv")
    refused(read(tmp_path), "a folder", place=str(tmp_path))
    refused(read(write("empty.csv", "")), "empty", place="empty.csv")
    refused(read(write("blank.csv", "\n\n")), "blank", place="blank.csv, row 1")
    refused(read(write("header.csv", "a,b\n")), "no", "rows", place="header.csv")
    refused(read(write("table.xlsx", "PK")), "'.xlsx'", ".csv", "convert", place="table.xlsx")
    refused(read(write("torn.parquet", "PAR1 and no more")), "Parquet", place="torn.parquet")
    refused(read(write("torn.arrow", "ARROW1 and no more")), "Arrow", place="torn.arrow")
    refused(read(write("torn.feather", "nothing")), "Arrow", place="torn.feather")
    refused(read(write("torn.npz", "PK and no more")), "NumPy", place="torn.npz")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_ragged_rows(write, refused, name):
    def table(text):
        return read(write(name, text.replace(",", "\t") if name == "t.tsv" else text))

    refused(table("a,b\n1,2\n3,4,5\n"), "2 fields", "got 3", place="row 3")
    refused(table("a,b\n1,2\n3\n5,6\n"), "2 fields", "got 1", place="row 3")
    refused(table('a,b\n"1\n2",2\n3,4,5\n'), "2 fields", "got 3", place="row 4")
    refused(table("a,b\n1,2\n\n5,6\n"), "blank line", place="row 3")


def test_headers(write, refused):
    refused(read(write("t.csv", "a,a\n1,2\n")), "'a' twice", place="row 1")
    refused(read(write("t.csv", "a,,b\n1,2,3\n")), "field 2", place="row 1")
    refused(read(write("t.csv", "1.5,2\n3,4\n")), "only numbers", "header", place="row 1")


def test_encodings(write, refused):
    refused(read(write("t.csv", b"a,b\n1,2\n3,caf\xe9\n")), "UTF-8", "byte 6", place="row 3")
    refused(read(write("t.csv", b"a,caf\xe9\n1,2\n")), "UTF-8", "0xe9", place="row 1")
    refused(read(write("t.jsonl", b'{"a":1}\n{"a":"\xe9"}\n')), "UTF-8", place="row 2")
    refused(read(write("t.txt", b"first\nsecond \xff line\n")), "UTF-8", place="row 2")


ARCHIVE = b"\x1f\x8b\x08\x00rest"


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.ts", "t.txt"])
def test_what_is_no_text(write, refused, name):
    refused(read(write(name, ARCHIVE)), "gzip", "gunzip", place=name)
    refused(read(write(name, b"PK\x03\x04..")), "Excel", "export", place=name)
    refused(read(write(name, "a,b\n1,2\n".encode("utf-16"))), "UTF-16", "iconv", place=name)
    refused(read(write(name, b"abc\n\0\1\2")), "byte 5", "is 0", place=name)
    refused(read(write(name, b"")), "is empty; write it again", place=name)
    refused(read(write(name, b"a\nb\xe9\n")), "byte 2", "latin1", place=f"{name}, row 2")


def test_bytes_may_be_anything(write):
    path = write("t.bin", ARCHIVE * 9)
    assert data.read_problem(path, options=Options(task=Task.TEXT, unit="byte")).train


def test_blank_files(write, refused):
    refused(read(write("t.csv", "  \n \n")), "blank", place="t.csv, row 1")
    refused(read(write("t.jsonl", "\n\n")), "there is none", place="t.jsonl")


def test_json_lines(write, refused):
    refused(read(write("t.jsonl", '{"a": 1}\n{"a": 2,\n')), "'{\"a\": 2,'", place="row 2")
    refused(read(write("t.jsonl", '{"a": 1}\n[2]\n')), "[2]", place="row 2")


def broken(column, row, value):
    """A daily table of text with one value replaced; the header is row 1."""
    table = daily(40).with_columns(pl.col("load", "wind").cast(pl.String))
    values = table[column].cast(pl.String).to_list()
    values[row - 2] = value
    return table.with_columns(pl.Series(column, values)).write_csv()


@pytest.mark.parametrize(
    ("column", "row", "value", "words"),
    [
        ("wind", 17, "abc", ("a number", "'abc'")),
        ("load", 2, "1,5", ("a number", "'1,5'")),
        ("wind", 41, "inf", ("finite", "inf")),
        ("load", 30, "", ("missing", "ffill", "mask")),
        ("wind", 5, "NA", ("missing",)),
        ("day", 8, "yesterday", ("a time", "'yesterday'")),
        ("day", 8, "", ("a time",)),
        ("day", 9, "2020-02-26", ("again", "2020-02-26", "sort")),
        ("day", 9, "2020-01-26", ("earlier", "2020-01-26", "series apart")),
    ],
)
def test_values_are_named_by_row_and_column(write, refused, column, row, value, words):
    path = write("t.csv", broken(column, row, value))
    refused(read(path, LOAD), *words, place=f"t.csv, row {row}, column {column!r}")


def test_times_that_cannot_be_told_are_not_passed_over(write, refused):
    days = "".join(f"{day}/{month}/2020,{day}\n" for month in (1, 2, 3) for day in range(1, 12))
    path = write("t.csv", "date,load\n" + days)
    refused(read(path), "2012-01-31", "'1/1/2020'", place="row 2, column 'date'")
    left_out = Options(exclude=("date",))
    assert data.read_problem(path, options=left_out).schema.time is None


def test_a_data_frame_counts_its_rows_from_1(refused):
    table = daily(40).with_columns(
        wind=pl.when(pl.int_range(pl.len()) == 6).then(None).otherwise("wind")
    )
    refused(read(table, LOAD), "missing", place="row 7, column 'wind'")


def test_rows_beyond_the_first_batch_are_named(refused):
    values = np.random.default_rng(0).normal(size=70_001)
    values[70_000] = np.nan
    table = pl.DataFrame({"x": values})
    refused(read(table), "missing", place="row 70001, column 'x'")


@pytest.mark.parametrize("missing", [Missing.FFILL, Missing.MASK])
def test_a_column_without_values_in_training(refused, missing):
    table = daily(40).with_columns(
        wind=pl.when(pl.int_range(pl.len()) > 35).then("wind"),
    )
    options = Options(targets=("load",), missing=missing)
    refused(read(table, options), "no value", "leave it out", place="'wind'")


def test_constant_columns(refused):
    table = daily(40).with_columns(flat=pl.lit(0.1), word=pl.lit("same"))
    told = data.read_problem(table, options=LOAD).summary
    assert "not read: flat (always 0.1), word (always same)" in told
    asked = Options(targets=("load",), features=("flat",))
    refused(read(table, asked), "varies", "0.1", "leave it out", place="column 'flat'")
    # what varies in the test alone is constant where it is learned
    late = daily(40).with_columns(late=(pl.int_range(pl.len()) > 38).cast(pl.Float64))
    refused(read(late, LOAD), "0.0", place="column 'late'")


def test_a_target_that_is_constant(refused):
    flat, words = Options(targets=("flat",)), ("a target that varies", "0.1", "another target")
    table = daily(40).with_columns(flat=pl.lit(0.1))
    refused(read(table, flat), *words, "--target", place="column 'flat'")


def test_classes(refused):
    refused(read(labelled((9, 0, 0)), LABEL), "two classes", "'3'", place="'label'")
    torn = labelled().with_columns(
        label=pl.when(pl.int_range(pl.len()) == 20).then(9).otherwise("label")
    )
    options = Options(targets=("label",), task=Task.CLASSIFY)
    name = torn["series"][20]
    refused(read(torn, options), "one label", f"'{name}'", "'9'", place="column 'label'")
    absent = labelled().with_columns(
        label=pl.when(pl.col("series") != "s3").then("label").otherwise(None)
    )
    row = absent["label"].is_null().arg_true()[0] + 1
    refused(read(absent, LABEL), "a label", "missing", place=f"row {row}, column 'label'")
    alone = labelled().drop("series", "step")
    refused(read(alone, options), "tells them apart", "--series", "a row of its own")


def test_labels_that_training_has_not(refused):
    train = labelled()
    test = labelled((2, 2, 2), seed=1).with_columns(
        label=pl.when(pl.col("series") == "s4").then(7).otherwise("label")
    )
    row = test["series"].to_list().index("s4") + 1
    refused(
        lambda: data.read_problem(train, test=test, options=LABEL),
        "'7'",
        "1, 2, 3",
        "'s4'",
        place=f"row {row}, column 'label'",
    )


def test_categories_that_training_has_not(refused):
    table = daily(40).with_columns(
        sky=pl.when(pl.int_range(pl.len()) == 39)
        .then(pl.lit("green"))
        .otherwise(pl.when(pl.col("wind") > 0).then(pl.lit("blue")).otherwise(pl.lit("grey")))
    )
    refused(read(table, LOAD), "'green'", "blue, grey", place="row 40, column 'sky'")


def test_series_shorter_than_the_horizon(refused):
    table = pl.concat([daily(60, series=["long"]), daily(6, series=["short"])])
    options = Options(targets=("load",), horizon=3)
    refused(read(table, options), "3 ahead", "'short' has 6", "at most 1", place="row 61")
    far = Options(targets=("load",), horizon=3)
    refused(read(daily(4), far), "has 4 (to validate and to test take 6)", "give more data")
    assert data.read_problem(daily(10), options=options).train.origins.sum() == 1


@pytest.mark.parametrize("steps", [10, 41, 97])
@pytest.mark.parametrize("split", [False, True])
def test_the_largest_horizon_that_fits_is_told(refused, steps, split):
    table = daily(steps)
    if split:
        last = steps // 4
        table = table.with_columns(split=pl.Series(["train"] * (steps - last) + ["test"] * last))
    most = max(h for h in range(1, steps) if fits(table, h))
    for horizon in (most + 1, steps, 10 * steps):
        asked = Options(targets=("load",), horizon=horizon)
        refused(read(table, asked), f"(--horizon) to at most {most}, or give more data")


def fits(table, horizon):
    try:
        data.read_problem(table, options=Options(targets=("load",), horizon=horizon))
    except InputError:
        return False
    return True


def test_columns_that_are_not_there(refused):
    table = daily(40)
    refused(read(table, Options(targets=("laod",))), "'laod'", "did you mean 'load'?")
    refused(read(table, Options(targets=("load",), series="zone")), "'zone'", "there are day")
    refused(read(table, Options(targets=("load",), features=("wnd",))), "did you mean 'wind'?")
    refused(read(table, Options(targets=("load",), exclude=("x",))), "'x'")
    refused(read(table), "name one of", "load, wind")
    refused(read(table.drop("wind", "load"), None), "name one of")
    refused(
        lambda: data.read_problem(table, test=table.drop("wind"), options=LOAD),
        "'wind'",
        "training",
    )
    refused(read(table, Options(targets=("load",), features=("day",))), "a feature", place="'day'")


def test_options_out_of_range(refused):
    for name, value in (
        ("horizon", 0),
        ("season", 0),
        ("seed", -1),
        ("test_share", 1.0),
        ("validation_share", -0.1),
        ("calendar", ("hour", "moon")),
        ("unit", "word"),
    ):
        word = value[-1] if isinstance(value, tuple) else value
        refused(lambda name=name, value=value: Options(**{name: value}), str(word))
    refused(read(daily(40).drop("wind"), Options(test_share=0.0)), "--test-share")
    refused(read(daily(40).drop("day", "wind"), Options(calendar=("year",))), "time column")


def test_arrays(tmp_path, refused):
    def check(*words, **arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        refused(read(tmp_path / "a.npz"), *words, place="a.npz")

    ragged = np.empty(2, object)
    ragged[:] = [np.zeros((2, 3)), np.zeros((4, 3))]
    check("objects", "np.savez(path, *sequences, y=y)", X=ragged, y=np.arange(2))
    check("y of shape (3,)", X=np.zeros((2, 4, 1)), y=np.arange(3))
    check("add up", X=np.zeros((9, 1)), lengths=np.array([4, 4]), y=np.arange(2))
    check("got Z (2, 2)", "lengths (N,)", Z=np.zeros((2, 2)), y=np.arange(2))
    check("one H", arr_0=np.zeros((2, 2)), arr_1=np.zeros((2, 3)), y=np.arange(2))
    check("complex", X=np.zeros((2, 2, 2), complex), y=np.arange(2))
    check("convert", X=np.array([[["a"]], [["b"]]]), y=np.arange(2))


def test_a_scratch_size_that_is_no_number(write, refused, monkeypatch):
    monkeypatch.setenv("CELLWRIGHT_STREAM_BYTES", "1GB")
    refused(read(write("t.csv", "a\n1\n")), "CELLWRIGHT_STREAM_BYTES", "'1GB'")
