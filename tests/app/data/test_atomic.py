"""Files are written whole or not at all."""

import signal
import subprocess
import sys
from datetime import UTC, datetime

import polars as pl
import pytest

from cellwright.app import data


def test_content_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    for content in (b"first", b"second, longer", b""):
        data.atomic_write(path, content)
        assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == ["a.bin"]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def interrupted():
        with data.atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.bin"]


PROGRAM = """
import os, signal, sys
from cellwright.app import data
with data.atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_others_may_read_what_is_written(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    data.atomic_write(tmp_path / "atomic", b"x")
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode


def test_times_of_whole_seconds_are_written_without_fractions(tmp_path):
    def written(*times):
        data.write_table(pl.DataFrame({"at": times}), tmp_path / "t.csv")
        return (tmp_path / "t.csv").read_text().splitlines()[1]

    moment = datetime(2024, 2, 29, 7, 30)
    assert written(moment) == "2024-02-29T07:30:00"
    assert written(moment.replace(tzinfo=UTC)) == "2024-02-29T07:30:00+00:00"
    assert written(moment, moment.replace(microsecond=5)) == "2024-02-29T07:30:00.000000"
    assert written(moment.date()) == "2024-02-29"


def test_what_cannot_be_written_is_said(tmp_path, refused):
    table = pl.DataFrame({"a": [1]})
    refused(lambda: data.write_table(table, tmp_path / "none" / "t.csv"), "make the folder")
    refused(lambda: data.write_table(table, tmp_path / "t.xlsx"), "'.xlsx'", ".parquet")
    refused(lambda: data.atomic_write(tmp_path, b""), "a folder")
    nested = table.with_columns(a=pl.concat_list("a"))
    with pytest.raises(pl.exceptions.ComputeError):
        data.write_table(nested, tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []
