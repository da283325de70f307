"""Whatever is in a file: a problem, or an InputError; nothing else."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.app.data.tables import daily, labelled

from cellwright.app import data
from cellwright.app.data import Options
from cellwright.app.errors import InputError


def bytes_of(ending):
    table = labelled((3, 3, 3)) if ending in {"csv", "parquet", "npz"} else daily(30)
    if ending == "npz":
        stream = io.BytesIO()
        sequences = [table.filter(series=name)["a"].to_numpy() for name in ("s0", "s1", "s2")]
        np.savez(stream, *sequences, y=np.arange(3) % 2)
        return stream.getvalue()
    if ending == "ts":
        return b"@problemName x\n@classLabel true a b\n@data\n1,2:3,4:a\n1:2:b\n5,6:7,8:a\n9:9:b\n"
    if ending == "txt":
        return "Grüße – und so weiter\n".encode() * 9
    stream = io.BytesIO()
    writers = {"csv": table.write_csv, "jsonl": table.write_ndjson, "arrow": table.write_ipc}
    writers.get(ending, table.write_parquet)(stream)
    return stream.getvalue()


KINDS = ["csv", "jsonl", "parquet", "arrow", "npz", "ts", "txt"]
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=12)), min_size=1, max_size=3
)


@pytest.mark.parametrize("ending", KINDS)
@pytest.mark.parametrize("task", [None, "forecast"])
@given(EDITS)
@example([(0.0, 10**6, b"\x00\xff")])
@example([(0.5, 10**6, b"")])
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_is_told(tmp_path, ending, task, edits):
    content = bytes_of(ending)
    for place, removed, added in edits:
        start = int(place * len(content))
        content = content[:start] + added + content[start + removed :]
    path = tmp_path / f"t.{ending}"
    path.write_bytes(content)
    options = Options(targets=("load",)) if task and ending in {"jsonl", "arrow"} else None
    with contextlib.suppress(InputError):
        data.read_problem(path, options=options)
