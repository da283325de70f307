"""A model's folder: whole round trips, and an error with a remedy for all that is no model."""

import copy
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.app.model.makers import SCHEMAS, coupled, make_model

from cellwright.app.errors import InputError
from cellwright.app.model.folder import Model, load_model, save_model
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


def refused(folder: Path, *needles: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(folder)
    for needle in needles:
        assert needle in str(caught.value)


def test_what_is_no_model(saved: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere: expected the folder of a model", "there is nothing")
    refused(saved / "model.json", "model.json: expected the folder", "a file of that name")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty: ", "it has no model.json", "--resume")
    for text in ("{}", "[1]", '"x"', '{"format": "onnx"}'):
        (tmp_path / "empty" / "model.json").write_text(text)
        refused(tmp_path / "empty", "model.json: ", "no model of Cellwright")


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_truncated_or_altered_files(saved: Path, name: str) -> None:
    path = saved / name
    whole = path.read_bytes()
    for kept in (0, 1, 7, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:kept])
        refused(saved, f"{name}: the file was truncated or altered", "train the model again")
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(bytes(altered))
        refused(saved, name)
    path.unlink()
    refused(saved, "expected the ")


def test_a_newer_format(saved: Path) -> None:
    values = json.loads((saved / "model.json").read_text())
    values["version"] += 1
    (saved / "model.json").write_text(json.dumps(values))
    refused(saved, "model.json: expected format 1 or older", "pip install --upgrade cellwright")


def resign(saved: Path, change: Any) -> None:
    """Change what `model.json` says, and give it the checksum of its new content."""
    values = json.loads((saved / "model.json").read_text())
    change(values["model"])
    body = json.dumps(values["model"], separators=(",", ":")).encode()
    values["sha256"]["model"] = hashlib.sha256(body).hexdigest()
    (saved / "model.json").write_text(json.dumps(values))


def put(*path: Any) -> Any:
    """A change that sets the value at all but the last of ``path`` to the last."""

    def change(held: Any) -> None:
        *parents, last, value = path
        for key in parents:
            held = held[key]
        held[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("design", "cell", "nodes", 0, "op", "eval"), "op: expected one of const, input"),
        (put("design", "hidden_size", 8), "expected recurrent.|expected readout.weight as"),
        (put("design", "hidden_size", 10**6), "expected .* as"),
        (put("design", "hidden_size", 10**9), "hidden_size is 1000000000, no whole number"),
        (put("design", "hidden_size", 7.0), "hidden_size is 7.0, no whole number"),
        (put("design", "num_layers", 3), "missing: recurrent.bias_hh_l2"),
        (put("design", "num_layers", 1), "too many: recurrent.bias_hh_l1"),
        (put("design", "bidirectional", True), "its second direction would read the very steps"),
        (put("design", "bidirectional", 0), "neither true nor false"),
        (put("design", "dropout", 2), "not from 0 to 1"),
        (put("design", "more", 2), "design has not bidirectional, cell, dropout"),
        (put("schema", "task", "paint"), "'paint' is not a valid Task"),
        (put("schema", "task", "text"), "scaling is not as|the columns|schema's columns"),
        (put("schema", "targets", ["c"]), "schema's columns are not those of the task forecast"),
        (put("schema", "horizon", 0), "horizon is 0"),
        (put("schema", "horizon", 10**6), "expected readout.weight as"),
        (put("schema", "calendar", ["moon"]), "calendar or unit|'moon'"),
        (put("schema", "colour", "red"), "colour"),
        (put("schema", "series", 3), "series is neither text nor null"),
        (put("scaling", None), "scaling is not as the task forecast has it"),
        (put("scaling", "input_mean", "values", [1.0, 2.0]), "one number for 3 inputs"),
        (put("scaling", "input_mean", "values", "abc"), "no list of numbers"),
        (put("scaling", "input_mean", "dtype", "object"), "object"),
        (put("scaling", "input_deviation", "values", [1.0, 0.0, 1.0]), "not above 0"),
        (put("about", []), "about is no object"),
    ],
)
def test_a_description_that_makes_no_sense(saved: Path, change: Any, message: str) -> None:
    resign(saved, change)
    with pytest.raises(InputError, match=rf"(model.json|weights.safetensors): .*({message})"):
        load_model(saved)


OTHER: tuple[Any, ...] = (None, True, 0, -1, 3, 1.5, 10**19, "", "a", "text", "float64", [], {})
OTHER += ([1], ["a"], [["a"]], {"a": 1}, [{"name": 3, "categories": [1]}])


def replace_a_part(values: Any, random: Random) -> None:
    """Replace or delete a part of JSON values, at any depth."""
    while True:
        key = random.choice(range(len(values)) if isinstance(values, list) else [*values])
        inner = values[key]
        if not isinstance(inner, dict | list) or not inner or random.random() < 0.4:
            break
        values = inner
    if random.random() < 0.15:
        del values[key]
    else:
        values[key] = copy.deepcopy(random.choice(OTHER))


@pytest.mark.parametrize("task", Task)
def test_any_replaced_part_gives_a_model_or_an_input_error(task: Task, tmp_path: Path) -> None:
    save_model(make_model(task), tmp_path)
    whole, random = (tmp_path / "model.json").read_text(), Random(f"parts of {task}")
    refusals = 0
    for _ in range(150):
        (tmp_path / "model.json").write_text(whole)
        resign(tmp_path, lambda body: replace_a_part(body, random))
        try:
            load_model(tmp_path)
        except InputError:
            refusals += 1
    assert refusals > 50


def test_a_description_that_lacks_something(saved: Path) -> None:
    for key in ("design", "schema", "scaling", "about"):
        save_model(make_model(), saved)
        resign(saved, lambda body, key=key: body.pop(key))
        refused(saved, "model.json: expected the description of a model", key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("readout.bias"), "missing: readout.bias; too many: none"),
        (lambda t: t.update(more=torch.zeros(1)), "missing: none; too many: more"),
        (lambda t: t.update({"readout.bias": t["readout.bias"][:-1].clone()}), "readout.bias as"),
        (lambda t: t.update({"readout.bias": t["readout.bias"].double()}), "of torch.float64"),
    ],
)
def test_other_weights(saved: Path, change: Any, message: str) -> None:
    path = saved / "weights.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))
    values = json.loads((saved / "model.json").read_text())
    values["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (saved / "model.json").write_text(json.dumps(values))
    refused(saved, "weights.safetensors: the file was truncated or altered", message)


def test_weights_that_are_no_safetensors(saved: Path) -> None:
    path = saved / "weights.safetensors"
    path.write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    values = json.loads((saved / "model.json").read_text())
    values["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (saved / "model.json").write_text(json.dumps(values))
    refused(saved, "weights.safetensors: ", "expected tensors of safetensors")


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
    refused(tmp_path / "new1", "it has no model.json")
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
