"""Data larger than memory: the same tensors, mapped from disk; nothing is left behind."""

import gc
import sys
from pathlib import Path

import pytest
import torch
from tests.app.data.tables import daily, labelled

from cellwright.app import data
from cellwright.app.data import Options, storage
from cellwright.app.data import table as table_module
from cellwright.app.schema import Missing


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("CELLWRIGHT_SCRATCH_DIR", str(folder))
    return folder


def tensors(problem):
    parts = [part for part in (problem.train, problem.validation, problem.test) if part]
    return [one for part in parts for one in (part.inputs.values, part.inputs.starts, part.targets)]


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl", "arrow"])
@pytest.mark.parametrize("kind", ["labelled", "one", "several", "text"])
def test_streamed_or_not_is_the_same(tmp_path, scratch, monkeypatch, ending, kind):
    monkeypatch.setattr(table_module, "BATCH_ROWS", 13)
    monkeypatch.setattr(storage, "BATCH_ROWS", 13)
    table = {
        "labelled": labelled(),
        "one": daily(100),
        "several": daily(50, series=["u", "v", "w"]).sort("day", maintain_order=True),
        "text": daily(20),
    }[kind]
    if kind == "text":
        ending = "txt"
        (tmp_path / "t.txt").write_text(table.write_csv())
    elif ending == "arrow":
        table.write_ipc(tmp_path / "t.arrow")
    else:
        data.write_table(table, tmp_path / f"t.{ending}")
    targets = {"labelled": ("label",), "text": None}.get(kind, ("load",))
    usual = Options(targets=targets, missing=Missing.MASK)
    small = Options(targets=targets, missing=Missing.MASK, stream_bytes=10)
    path = tmp_path / f"t.{ending}"
    expected, found = (data.read_problem(path, options=options) for options in (usual, small))
    assert found.schema == expected.schema
    assert found.summary == expected.summary
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        assert torch.equal(one, other)
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_the_environment_sets_the_size(tmp_path, scratch, monkeypatch):
    daily(50).write_csv(tmp_path / "t.csv")
    made = []
    allocate = storage.allocate
    monkeypatch.setattr(
        "cellwright.app.data.matrix.allocate",
        lambda *a, mapped: made.append(mapped) or allocate(*a, mapped=mapped),
    )
    for size in ("10", "100000"):
        monkeypatch.setenv("CELLWRIGHT_STREAM_BYTES", size)
        data.read_problem(tmp_path / "t.csv", options=Options(targets=("load",)))
    assert made == [True, False]


def test_faults_leave_no_scratch(tmp_path, scratch, refused):
    path = tmp_path / "t.csv"
    path.write_text(daily(50).write_csv() + "2020-05-01,1,abc\n")
    options = Options(targets=("load",), stream_bytes=10)
    refused(lambda: data.read_problem(path, options=options), "'abc'", place="row 52")
    path.write_text(daily(50).write_csv() + "2020-05-01,1,2,3\n")
    refused(lambda: data.read_problem(path, options=options), "got 4", place="row 52")
    gc.collect()
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what memory is mapped")
def test_the_tensors_are_mapped_from_a_file_without_a_name(tmp_path, scratch):
    daily(50, series=["u", "v"]).write_csv(tmp_path / "t.csv")
    options = Options(targets=("load",), stream_bytes=10)
    problem = data.read_problem(tmp_path / "t.csv", options=options)
    (tmp_path / "t.txt").write_text("some text " * 9)
    text = data.read_problem(tmp_path / "t.txt", options=Options(stream_bytes=10))
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [
        [int(place, 16) for place in line[0].split("-")]
        for line in maps
        if line[-1] == "(deleted)" and line[5].startswith(str(scratch))
    ]
    assert len(mapped) == 4  # two series: a matrix of all, copies for training and validation
    for part in (problem.train, problem.validation, problem.test, text.train, text.test):
        for tensor in (part.inputs.values, part.targets):
            assert any(begin <= tensor.data_ptr() < end for begin, end in mapped)
