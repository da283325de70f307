"""All that is no model: an error with the file's name and a remedy, and nothing is run."""

import copy
import hashlib
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.app.model.makers import make_model

from cellwright.app.errors import InputError
from cellwright.app.model.folder import load_model, save_model
from cellwright.app.schema import Task


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(make_model(), tmp_path / "model")
    return tmp_path / "model"


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
