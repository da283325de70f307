"""A model's folder: whole round trips, and a kill that leaves one of two models."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.app.model.makers import SCHEMAS, coupled, make_model

from cellwright.app.errors import InputError
from cellwright.app.model.folder import Model, holds_finished, load_model, save_model
from cellwright.app.problem import Scaling
from cellwright.app.schema import Feature, Missing, Schema, Task
from cellwright.cells import CELLS

ROOT = Path(__file__).parents[3]


def same(read: Model, written: Model) -> None:
    assert read.schema == written.schema
    assert read.network.design == written.network.design
    assert read.network.schema == written.schema
    ours, theirs = read.network.state_dict(), written.network.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert (read.scaling is None) == (written.scaling is None)
    if read.scaling is not None:
        for name in asdict(read.scaling):
            assert torch.equal(getattr(read.scaling, name), getattr(written.scaling, name))
            assert getattr(read.scaling, name).dtype == getattr(written.scaling, name).dtype


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(make_model(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("one", [*CELLS, coupled], ids=str)
def test_models_come_back(task: Task, one: Any, tmp_path: Path) -> None:
    written = make_model(task, one)
    save_model(written, tmp_path / "a" / "model")
    read = load_model(tmp_path / "a" / "model")
    same(read, written)
    assert not read.network.training
    inputs = torch.randint(0, 8, (5, 2)) if task is Task.TEXT else torch.randn(5, 2, 3)
    if task is Task.CLASSIFY:
        inputs = torch.randn(5, 2, 4)
    written.network.eval()
    assert torch.equal(read.network(inputs)[0], written.network(inputs)[0])


def test_a_schema_with_everything_and_float64_scaling_come_back(tmp_path: Path) -> None:
    schema = Schema(
        Task.FORECAST,
        targets=("a",),
        features=(Feature("a"), Feature("sky", ("clear", 'dull "grey"'))),
        series="station",
        time="hour",
        split="part",
        frequency="1h",
        calendar=("hour", "weekday"),
        season=24,
        horizon=2,
        missing=Missing.MASK,
    )
    base = make_model(schema=schema)
    scaling = Scaling(*(value.double() / 3 for value in vars(base.scaling).values()))
    written = Model(base.network, schema, scaling, {})
    save_model(written, tmp_path)
    same(load_model(tmp_path), written)


@pytest.mark.parametrize("task", Task)
def test_a_model_of_float64_comes_back(task: Task, tmp_path: Path) -> None:
    written = make_model(task)
    written.network.double()
    save_model(written, tmp_path)
    same(load_model(tmp_path), written)


def test_a_two_way_model_comes_back(tmp_path: Path) -> None:
    written = make_model(Task.CLASSIFY, "lstm", bidirectional=True)
    save_model(written, tmp_path)
    same(load_model(tmp_path), written)


def test_what_is_said_of_the_training(tmp_path: Path) -> None:
    base = make_model()
    about = {"command": "train", "metrics": {"loss": math.nan, "best": 0.25}, "seeds": (1, 2)}
    save_model(replace(base, about=about), tmp_path)
    read = load_model(tmp_path).about
    assert read["command"] == "train"
    assert read["metrics"] == {"loss": None, "best": 0.25}
    assert read["seeds"] == [1, 2]
    assert read["versions"]["torch"] == torch.__version__
    assert {"cellwright", "python"} < read["versions"].keys()
    save_model(replace(base, about=read | {"versions": {"cellwright": "0.0.9"}}), tmp_path)
    assert load_model(tmp_path).about["versions"] == {"cellwright": "0.0.9"}


@pytest.mark.parametrize(
    ("training", "finished"),
    [({"finished": True}, True), ({"finished": False}, False), ({}, False), (None, False)],
)
def test_whether_a_training_was_finished(training: Any, finished: bool, tmp_path: Path) -> None:
    assert not holds_finished(tmp_path)
    save_model(replace(make_model(), about={"training": training}), tmp_path)
    assert holds_finished(tmp_path) == finished


def test_a_bundled_cell_is_known_by_its_equations(tmp_path: Path) -> None:
    for one, known in (
        (CELLS["lstm"], True),
        (replace(CELLS["lstm"], doc="other words"), True),
        (replace(coupled, name="lstm"), False),
        (replace(CELLS["gru"], name="my_gru"), False),
    ):
        save_model(make_model(cell=one), tmp_path)
        read = load_model(tmp_path).network.design.cell
        assert (read is CELLS["lstm"]) is known
        assert known or read == one


def test_loading_spends_no_random_number(saved: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(saved)
    assert torch.equal(torch.rand(3), expected)


def test_a_users_own_cell_loads_without_its_source(tmp_path: Path) -> None:
    source = tmp_path / "own.py"
    source.write_text(
        "from cellwright import cell, sigmoid, tanh\n\n@cell\ndef mine(x, h, m):\n"
        "    f = sigmoid(x.f + h.f)\n    m = f * m + (1 - f) * tanh(x.g)\n    return tanh(m), m\n"
    )
    script = (
        "import sys, torch\n"
        "from own import mine\n"
        "from tests.app.model.makers import make_model\n"
        "from cellwright.app.model.folder import save_model\n"
        "torch.manual_seed(3)\nmodel = make_model(cell=mine)\n"
        "save_model(model, sys.argv[1])\n"
        "print(model.network.eval()(torch.ones(4, 2, 3))[0].sum().item())\n"
    )
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "src")])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model")],
        env=os.environ | paths,
        check=True,
        capture_output=True,
        text=True,
    )
    source.unlink()
    model = load_model(tmp_path / "model")
    assert model.network.design.cell.name == "mine"
    total = model.network(torch.ones(4, 2, 3))[0].sum().item()
    assert total == pytest.approx(float(done.stdout), abs=1e-5)


def test_a_kill_at_any_moment_of_a_save_leaves_the_old_model_or_the_new(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from cellwright.app.model import folder\n"
        "from tests.app.model.makers import make_model\n"
        "def dying(path, content):\n"
        "    global left\n"
        "    path.write_bytes(content)\n"
        "    left -= 1\n"
        "    if not left:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "folder.atomic_write = dying\n"
        "for left in (1, 2):\n"
        "    for name in ('new', 'old'):\n"
        "        child = os.fork()\n"
        "        if not child:\n"
        "            folder.save_model(make_model(cell='gru'), f'{sys.argv[1]}/{name}{left}')\n"
        "        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    old = make_model()
    for name in ("old1", "old2"):
        save_model(old, tmp_path / name)
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | paths,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == 4 * [str(int(-signal.SIGKILL))]
    with pytest.raises(InputError, match=r"it has no model\.json"):
        load_model(tmp_path / "new1")
    same(load_model(tmp_path / "old1"), old)
    for name in ("new2", "old2"):
        assert load_model(tmp_path / name).network.design.cell is CELLS["gru"]
        save_model(old, tmp_path / name)
        same(load_model(tmp_path / name), old)
        assert len(list((tmp_path / name).iterdir())) == 2


def test_saving_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match="taken: expected a folder to write a model into"):
        save_model(make_model(), tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_other_files_in_the_folder_stay(saved: Path) -> None:
    (saved / "checkpoint").mkdir()
    (saved / "checkpoint" / "state").write_text("kept")
    written = make_model(Task.TEXT)
    save_model(written, saved)
    same(load_model(saved), written)
    assert (saved / "checkpoint" / "state").read_text() == "kept"
    names = ["checkpoint", "model.json", "weights.safetensors"]
    assert sorted(path.name for path in saved.iterdir()) == names


def test_the_file_reads_as_json_of_the_same_tasks(saved: Path) -> None:
    values = json.loads((saved / "model.json").read_text(), parse_constant=pytest.fail)
    assert values["format"] == "cellwright model"
    assert re.fullmatch("[0-9a-f]{64}", values["sha256"]["weights.safetensors"])
    assert Schema.from_json(values["model"]["schema"]) == SCHEMAS[Task.FORECAST]
