"""A trained model as a folder: `model.json` and `weights.safetensors`. Loading runs no code.

`model.json` holds the design with its cell's graph, the schema, the scaling and what is known of
the training, and the SHA-256 of both parts. When a model takes the place of another, its weights
are first written beside the other's, and `model.json` is the one step from the old to the new: a
kill at any moment leaves one of the two, whole.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from cellwright import __version__
from cellwright.app.data.atomic import atomic_write
from cellwright.app.errors import InputError
from cellwright.app.model.description import Description, from_json, to_json
from cellwright.app.model.network import Network
from cellwright.app.problem import Scaling
from cellwright.app.schema import Schema
from cellwright.errors import CellError

__all__ = ["DESCRIPTION", "WEIGHTS", "Model", "holds_finished", "load_model", "save_model"]

DESCRIPTION = "model.json"
WEIGHTS = "weights.safetensors"
NEXT_WEIGHTS = "weights.next.safetensors"

FORMAT = "cellwright model"
FORMAT_VERSION = 1
MAX_DESCRIPTION = 64 * 2**20
"""Bytes of `model.json`: far above any vocabulary, far below a machine's memory."""


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network and all that it takes to use it on other data.

    Attributes:
        network: of float32 or float64; in the mode for evaluation once it is loaded.
        schema: how a table or a text is read.
        scaling: of the training part; None for text.
        about: plain JSON values on the training: "command", "metrics" and what else there is to
            say; `save_model` adds "versions" of cellwright, torch and python.
    """

    network: Network
    schema: Schema
    scaling: Scaling | None
    about: Mapping[str, Any]


def save_model(model: Model, folder: str | Path) -> None:
    """Write `model` into `folder`, which is made if it is not there; other files in it stay.

    A number in `about` that is not finite is written as null, for JSON has no other way.

    Raises:
        InputError: `folder` is a file, or cannot be written.
        CellError: the cell has names that no file may carry.
    """
    folder = Path(folder)
    versions = {
        "cellwright": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "safetensors": version("safetensors"),
    }
    about = {"versions": versions, **_finite(dict(model.about))}
    described = Description(model.network.design, model.schema, model.scaling, about)
    body = to_json(described)
    state = model.network.state_dict()
    weights = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in state.items()})
    values = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "sha256": {WEIGHTS: _digest(weights), "model": _digest_of_values(body)},
        "model": body,
    }
    text = json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / NEXT_WEIGHTS, weights)
        atomic_write(folder / DESCRIPTION, text.encode())
        (folder / NEXT_WEIGHTS).replace(folder / WEIGHTS)
    except OSError as error:
        raise InputError(
            f"expected a folder to write a model into, but got: {error.strerror}; name another one",
            file=folder,
        ) from error


def load_model(folder: str | Path) -> Model:
    """Read the model in `folder`; its network is ready for evaluation. No code of it is run.

    Raises:
        InputError: the folder is no model, or one that was truncated, altered, or written by a
            newer format; names the file and the remedy.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    values = _read_description(folder)
    body = _checked_body(values, path)
    try:
        described = from_json(body)
    except (CellError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"expected the description of a model, but {error}; train it again", file=path
        ) from error
    tensors = _read_weights(folder, values["sha256"].get(WEIGHTS))
    network = _network(described, tensors, folder / WEIGHTS)
    return Model(network, described.schema, described.scaling, described.about)


def holds_finished(folder: str | Path) -> bool:
    """Whether `folder` holds a whole model, of a training that was not interrupted."""
    try:
        about = load_model(folder).about
    except InputError:
        return False
    training = about.get("training")
    return isinstance(training, dict) and training.get("finished") is True


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(
            f"expected the folder of a model, but there is {found} of that name; `cellwright "
            "train` makes one, at the path that its --out names",
            file=folder,
        )
    if not path.is_file():
        raise InputError(
            f"expected the folder of a model, but it has no {DESCRIPTION}; give the folder that "
            "`cellwright train` was given as --out, or finish a training there with --resume",
            file=folder,
        )
    try:
        if path.stat().st_size > MAX_DESCRIPTION:
            _altered(path, f"expected at most {MAX_DESCRIPTION:,} bytes")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from error
    except (ValueError, RecursionError) as error:
        _altered(path, f"expected JSON, but got: {error}")
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(
            f'expected "format": "{FORMAT}", which is not there: this is no model of Cellwright',
            file=path,
        )
    return values


def _checked_body(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what `model.json` says of the model, once its format and its checksum are right."""
    written, digests = values.get("version"), values.get("sha256")
    if type(written) is int and written > FORMAT_VERSION:
        raise InputError(
            f"expected format {FORMAT_VERSION} or older, but got format {written}, of a newer "
            f"Cellwright than this {__version__}; update it: pip install --upgrade cellwright",
            file=path,
        )
    body = values.get("model")
    if written != FORMAT_VERSION or not isinstance(digests, dict) or not isinstance(body, dict):
        _altered(path, f'expected "version": {FORMAT_VERSION}, "sha256" and "model"')
    if digests.get("model") != _digest_of_values(body):
        _altered(path, "its checksum is not that of its content")
    return body


def _read_weights(folder: Path, digest: object) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    data = _bytes_with(folder / NEXT_WEIGHTS, digest)  # there if a save was cut short at its end
    if data is None:
        data = _bytes_with(path, digest)
    if data is None and not path.is_file():
        raise InputError(
            "expected the weights of a model, but there is no such file; copy the whole folder, "
            "or train the model again",
            file=path,
        )
    if data is None:
        _altered(path, f"its checksum is not the one in {DESCRIPTION}")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        _altered(path, f"expected tensors of safetensors, but got: {error}")
    return tensors


def _bytes_with(path: Path, digest: object) -> bytes | None:
    """The content of `path`, if it is there and has this SHA-256."""
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from error
    return None if data is None or _digest(data) != digest else data


def _network(described: Description, tensors: Mapping[str, Tensor], path: Path) -> Network:
    """Make the network and give it its weights, once these are seen to fit.

    What they must be comes from a network without memory: a size that is absurd costs nothing.
    """
    schema, design, scaling = described.schema, described.design, described.scaling
    doubles = [tensor.dtype is torch.float64 for tensor in tensors.values()]
    dtype = torch.float64 if doubles and all(doubles) else torch.float32
    try:
        with torch.device("meta"):
            expected = Network(schema, design, scaling).to(dtype).state_dict()
    except (CellError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"expected a network that can be made, but {error}; train it again",
            file=path.with_name(DESCRIPTION),
        ) from error
    _check_tensors(expected, tensors, path)
    with torch.random.fork_rng(devices=[]):  # a user's seed is not spent on weights to replace
        network = Network(schema, design, scaling).to(dtype)
    network.load_state_dict(dict(tensors))
    return network.eval()


def _check_tensors(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path
) -> None:
    if expected.keys() != tensors.keys():
        missing = ", ".join(sorted(expected.keys() - tensors.keys())) or "none"
        extra = ", ".join(sorted(tensors.keys() - expected.keys())) or "none"
        _altered(path, f"expected the network's tensors; missing: {missing}; too many: {extra}")
    for name, want in expected.items():
        got = tensors[name]
        if got.shape != want.shape or got.dtype != want.dtype:
            _altered(
                path,
                f"expected {name} as {tuple(want.shape)} of {want.dtype}, but got "
                f"{tuple(got.shape)} of {got.dtype}",
            )


def _finite(value: Any) -> Any:
    """`value` with null for each number that JSON cannot write."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of_values(values: Mapping[str, Any]) -> str:
    return _digest(json.dumps(values, separators=(",", ":")).encode())


def _altered(path: Path, why: str) -> NoReturn:
    raise InputError(
        f"the file was truncated or altered: {why}; copy the whole folder anew from where it "
        "came, or train the model again",
        file=path,
    )
