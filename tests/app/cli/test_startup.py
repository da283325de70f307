"""Help, refused options and light verbs do not wait for what trains."""

import subprocess
import sys

import pytest
from tests.app.model.makers import make_model

from cellwright.app.model.folder import save_model
from cellwright.app.schema import Task

HEAVY = {
    "jinja2",
    "lightning_fabric",
    "llvmlite",
    "numpy",
    "polars",
    "safetensors",
    "sklearn",
    "torch",
}
PROGRAM = """
import sys
from cellwright.app.cli import program
try:
    program(sys.argv[1:])
except SystemExit as end:
    print("code", end.code)
print("loaded", *{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("--help", 0),
        ("compare --help", 0),
        ("bench --help", 0),
        ("describe lstm", 0),
        ("describe gruu", 2),
        ("compare weather --horizon 0", 2),
        ("train weather --out m --cell gruu", 2),
    ],
)
def test_light_verbs_load_nothing_heavy(tmp_path, arguments, code):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments.split()],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    *_, ended, loaded = done.stdout.splitlines()
    assert ended == f"code {code}", done.stderr
    assert HEAVY & set(loaded.split()) == set()


@pytest.mark.parametrize("task", list(Task))
def test_a_model_loads_without_the_compiler_of_torch(tmp_path, task):
    save_model(make_model(task), tmp_path / "model")
    program = "import sys; from cellwright import app; app.load(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert {"torch._dynamo", "sympy"} & set(done.stdout.split()) == set()


def test_a_trained_model_needs_nothing_that_trains():
    program = "import sys; from cellwright import app; app.stream, app.read; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert {"lightning_fabric", "sklearn"} & set(done.stdout.split()) == set()
