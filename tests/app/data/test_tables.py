"""Every kind of table comes back as it was written."""

from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from tests.app.data.tables import daily, labelled

from cellwright.app import data
from cellwright.app.data import Options

ENDINGS = ["csv", "parquet", "jsonl", "ndjson"]
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=5
).filter(lambda word: word not in {"NA", "NaN", "nan", "null", "NULL", "None", "?", "-"})


@pytest.mark.parametrize("ending", ENDINGS)
@given(
    numbers=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=9),
    draw=st.data(),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_written_comes_back(tmp_path, ending, numbers, draw):
    size = len(numbers)
    whole = draw.draw(st.lists(st.integers(-(2**53), 2**53), min_size=size, max_size=size))
    words = draw.draw(st.lists(WORDS, min_size=size, max_size=size))
    # a letter before each word: text of nothing but digits is a number in a file of text
    table = pl.DataFrame({"x": numbers, "n": whole, "w": [f"w{word}" for word in words]})
    path = tmp_path / f"table.{ending}"
    data.write_table(table, path)
    assert_frame_equal(data.read_table(path), table, check_dtypes=ending != "csv")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def problem_tensors(problem):
    parts = [part for part in (problem.train, problem.validation, problem.test) if part]
    return [tensor for part in parts for tensor in (part.inputs.values, part.targets)]


@pytest.mark.parametrize(
    "ending", ["csv", "tsv", "semicolon.csv", "parquet", "arrow", "stream.arrow", "jsonl"]
)
@pytest.mark.parametrize("table", [labelled(), daily(series=["x", "y", "z"])], ids=["c", "f"])
def test_each_kind_of_file_is_the_same_problem(tmp_path, ending, table):
    path = tmp_path / f"table.{ending}"
    match ending:
        case "csv":
            table.write_csv(path)
        case "tsv":
            table.write_csv(path, separator="\t")
        case "semicolon.csv":
            table.write_csv(path, separator=";", decimal_comma=True)
        case "parquet":
            table.write_parquet(path)
        case "arrow":
            table.write_ipc(path)
        case "stream.arrow":
            table.write_ipc_stream(path)
        case "jsonl":
            table.write_ndjson(path)
    options = Options(targets=("label",) if "label" in table.columns else ("load",))
    expected, found = (data.read_problem(source, options=options) for source in (table, path))
    assert found.schema == expected.schema
    assert found.name == path.stem
    assert found.summary == expected.summary
    for one, other in zip(problem_tensors(found), problem_tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2012/01/02", "2012/01/13"], [date(2012, 1, 2), date(2012, 1, 13)]),
        (["02.01.2012", "13.01.2012"], [date(2012, 1, 2), date(2012, 1, 13)]),
        (["2012-01", "2012-02"], [date(2012, 1, 1), date(2012, 2, 1)]),
        (["2012-01-02 03:04", "2012-01-02 03:05"], [datetime(2012, 1, 2, 3, m) for m in (4, 5)]),
        (
            ["2012-01-02T03:04:05.5", "2012-01-02T03:04:06"],
            [datetime(2012, 1, 2, 3, 4, 5, 500000), datetime(2012, 1, 2, 3, 4, 6)],
        ),
    ],
)
def test_times_in_usual_forms(write, texts, expected):
    path = write("t.csv", "when,x\n" + "".join(f"{text},1\n" for text in texts))
    assert data.read_table(path)["when"].to_list() == expected


def test_times_with_zones_are_utc(write):
    path = write("t.csv", "when,x\n2012-01-02T03:00:00Z,1\n2012-01-02T05:00:00+01:00,1\n")
    assert [one.hour for one in data.read_table(path)["when"]] == [3, 4]


def test_blanks_quotes_and_words_for_missing(write):
    path = write("t.csv", '\ufeffa,"b,c"\r\n 1 ,"x\ny"\r\nNA," z"\r\n')
    table = data.read_table(path)
    assert table.to_dict(as_series=False) == {"a": [1, None], "b,c": ["x\ny", "z"]}


def test_text_with_leading_zeros_stays_text_as_a_label(write):
    rows = "".join(f"{n},{step},{n + step * n}.5,00{n % 2}\n" for n in range(12) for step in (1, 2))
    path = write("t.csv", "id,step,x,label\n" + rows)
    assert data.read_problem(path).schema.classes == ("000", "001")


SERIES_ARRAYS = [np.random.default_rng(4).normal(size=(length, 3)) for length in (4, 2, 5, 3, 4, 6)]
LABELS = np.array([1, 0, 1, 0, 1, 0])


def test_arrays_of_any_form_are_the_same_problem(tmp_path):
    options = Options(validation_share=0.0)
    listed, packed = tmp_path / "listed.npz", tmp_path / "packed.npz"
    np.savez(listed, *SERIES_ARRAYS, y=LABELS)
    lengths = [len(one) for one in SERIES_ARRAYS]
    np.savez(packed, X=np.concatenate(SERIES_ARRAYS), lengths=lengths, y=LABELS)
    one, other = (data.read_problem(path, options=options) for path in (listed, packed))
    assert one.schema == other.schema
    assert one.schema.classes == ("0", "1")
    torch.testing.assert_close(one.train.inputs.values, other.train.inputs.values)
    mean, deviation = one.scaling.input_mean, one.scaling.input_deviation
    for n, name in enumerate(one.train.ids):
        unscaled = one.train.inputs[n] * deviation + mean
        expected = torch.tensor(SERIES_ARRAYS[int(name)], dtype=torch.float32)
        torch.testing.assert_close(unscaled, expected, rtol=1e-4, atol=1e-5)
        assert one.train.targets[n] == LABELS[int(name)]


def test_arrays_of_one_length_and_a_bare_series(tmp_path):
    draw = np.random.default_rng(1)
    cube, series = tmp_path / "cube.npz", tmp_path / "series.npz"
    np.savez(cube, X=draw.normal(size=(10, 4, 3)), y=np.array(["u", "v"] * 5))
    np.savez(series, draw.normal(size=(50, 2)))
    assert data.read_problem(cube).train.inputs.lengths.unique().tolist() == [4]
    problem = data.read_problem(series, options=Options(targets=("x2",), horizon=3))
    assert problem.schema.input_names == ("x1", "x2")
    assert problem.test.inputs.values.shape == (50, 2)
