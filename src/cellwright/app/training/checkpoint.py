"""A training on disk: one file of safetensors, its JSON in the header, written whole or not at all.

Nothing in it is code, and nothing is unpickled.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from cellwright.app.data.atomic import atomic_write, require_folder
from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.app.model.folder import DESCRIPTION
from cellwright.app.problem import Problem
from cellwright.app.training.recipe import Recipe
from cellwright.graph.serial import cell_to_json

__all__ = [
    "check_same",
    "checkpoint_path",
    "fingerprint",
    "load_checkpoint",
    "remove_checkpoint",
    "require_free",
    "save_checkpoint",
]

VERSION = 1
HASHED = 1 << 20
"""How many values of the training part tell it from another."""


def checkpoint_path(folder: str | Path) -> Path:
    """Where the training into `folder` keeps its checkpoint."""
    return Path(folder) / "checkpoint" / "last.safetensors"


def require_free(out: Path, *, resume: bool) -> None:
    """See beforehand that a training can write into `out`: nothing else, nothing unfinished.

    Raises:
        InputError: it is a file, holds other files or a training that can be resumed, or cannot be
            made; or there is nothing to resume.
    """
    if out.is_file():
        raise InputError("expected a folder to write, but it is a file; name another", file=out)
    there = checkpoint_path(out).exists()
    if resume and not there:
        raise nothing_to_resume(checkpoint_path(out))
    if not out.is_dir():
        require_folder(next(one for one in out.resolve().parents if one.exists()))
    elif there and not resume:
        raise InputError(
            "expected a new folder, but it holds a training that was interrupted; go on with "
            "--resume, name another folder, or remove this one",
            file=out,
        )
    elif not there and any(out.iterdir()) and not (out / DESCRIPTION).exists():
        raise InputError(
            "expected a new folder or an older model's, but it holds other files; name another",
            file=out,
        )


def nothing_to_resume(path: Path) -> InputError:
    """The error that there is no checkpoint."""
    return InputError(
        "expected a checkpoint to resume from, but there is none; train without resuming",
        file=path,
    )


def save_checkpoint(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a checkpoint; the one before stays until the new one is whole.

    Raises:
        InputError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"about": json.dumps({"version": VERSION, **about})}
    atomic_write(path, safetensors.torch.save(tensors, header))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the JSON values of a checkpoint.

    Raises:
        InputError: there is none, or it is damaged or another version's.
    """
    if not path.is_file():
        raise nothing_to_resume(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version = about["version"]
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(
            f"expected a checkpoint, but it cannot be read ({error}); train without resuming",
            file=path,
        ) from error
    if version != VERSION:
        raise InputError(
            f"expected a checkpoint of version {VERSION}, but got version {version}; train "
            "without resuming, or resume with the version of Cellwright that wrote it",
            file=path,
        )
    return tensors, about


def remove_checkpoint(folder: str | Path) -> None:
    """Remove the checkpoint of a training whose model is saved; do nothing where there is none."""
    path = checkpoint_path(folder)
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def fingerprint(
    problem: Problem, design: Design, recipe: Recipe, seed: int, processes: int
) -> dict[str, Any]:
    """What must be the same for a resumed training to end as an uninterrupted one."""
    inputs = problem.train.inputs
    data = hashlib.sha256(inputs.starts.numpy().tobytes())
    data.update(inputs.values[: HASHED // max(1, inputs.values[0].numel())].numpy().tobytes())
    network = {
        "cell": cell_to_json(design.cell),
        "hidden_size": design.hidden_size,
        "num_layers": design.num_layers,
        "bidirectional": design.bidirectional,
        "dropout": design.dropout,
    }
    values = {
        "data": data.hexdigest(),
        "schema": problem.schema.to_json(),
        "network": network,
        "recipe": recipe.to_json(),
        "seed": seed,
        "processes": processes,
    }
    same: dict[str, Any] = json.loads(json.dumps(values))  # tuples are lists, as when read back
    return same


def check_same(path: Path, here: dict[str, Any], there: dict[str, Any]) -> None:
    """Refuse to resume another training, by the name of what differs.

    Raises:
        InputError: a value differs.
    """
    for name, value in here.items():
        if there.get(name) != value:
            raise InputError(
                f"expected a checkpoint of the same training, but its {name} differs; resume with "
                "the same data, options and seed, or train without resuming",
                file=path,
            )
