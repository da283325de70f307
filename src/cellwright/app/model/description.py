"""What `model.json` says of a model, as JSON values and back, each value held to its type."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from cellwright.app.model.design import Design
from cellwright.app.problem import Scaling
from cellwright.app.schema import CALENDAR, Schema, Task
from cellwright.cells import CELLS
from cellwright.graph.cell import Cell
from cellwright.graph.serial import cell_from_json, cell_to_json

__all__ = ["Description", "from_json", "to_json"]

MAX_HIDDEN, MAX_LAYERS, MAX_HORIZON = 2**20, 1_000, 2**20
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, eq=False)
class Description:
    """A model but for its weights."""

    design: Design
    schema: Schema
    scaling: Scaling | None
    about: Mapping[str, Any]


def to_json(described: Description) -> dict[str, Any]:
    """The description as plain JSON values.

    Raises:
        CellError: the cell has names that no file may carry.
    """
    design = described.design
    values = {one.name: getattr(design, one.name) for one in fields(design)}
    scaling = described.scaling
    return {
        "design": values | {"cell": cell_to_json(design.cell)},
        "schema": _lists(described.schema.to_json()),
        "scaling": None
        if scaling is None
        else {one.name: _tensor_to_json(getattr(scaling, one.name)) for one in fields(scaling)},
        "about": dict(described.about),
    }


def from_json(values: Mapping[str, Any]) -> Description:
    """The description that `to_json` wrote.

    A bundled cell comes back as itself, whatever else changed in the words around its equations.

    Raises:
        CellError, KeyError, TypeError, ValueError: the values are not those of a description.
    """
    schema = _schema(values["schema"])
    scaling = None if values["scaling"] is None else _scaling(values["scaling"], schema)
    if (scaling is None) is not (schema.task is Task.TEXT):
        raise ValueError(f"scaling is not as the task {schema.task} has it")
    about = values["about"]
    if not isinstance(about, dict):
        raise TypeError("about is no object")
    return Description(_design(values["design"]), schema, scaling, about)


def _design(values: Mapping[str, Any]) -> Design:
    _check_keys("design", values, Design)
    design = Design(**dict(values) | {"cell": _known(cell_from_json(values["cell"]))})
    _whole("hidden_size", design.hidden_size, MAX_HIDDEN)
    _whole("num_layers", design.num_layers, MAX_LAYERS)
    if not isinstance(design.bidirectional, bool):
        raise TypeError(f"bidirectional is {design.bidirectional!r}, neither true nor false")
    if type(design.dropout) not in (int, float) or not 0 <= design.dropout <= 1:
        raise ValueError(f"dropout is {design.dropout!r}, not from 0 to 1")
    return design


def _known(cell: Cell) -> Cell:
    """The bundled cell of the same name and equations, if there is one, else `cell`."""
    bundled = CELLS.get(cell.name)
    if bundled is not None and all(
        getattr(bundled, name) == getattr(cell, name)
        for name in ("states", "updates", "gates", "bundles", "vectors")
    ):
        return bundled
    return cell


def _schema(values: object) -> Schema:
    if not isinstance(values, Mapping):
        raise TypeError("schema is no object")
    schema = Schema.from_json(values)
    for name in ("targets", "calendar", "classes", "vocabulary"):
        _texts(name, getattr(schema, name))
    for name in ("series", "time", "split", "frequency"):
        if not isinstance(getattr(schema, name), str | None):
            raise TypeError(f"{name} is neither text nor null")
    for feature in schema.features:
        _texts("features", (feature.name,))
        _texts("categories", feature.categories or ())
    _whole("season", schema.season, MAX_HORIZON)
    _whole("horizon", schema.horizon, MAX_HORIZON)
    if not set(schema.calendar) <= set(CALENDAR) or schema.unit not in ("character", "byte"):
        raise ValueError("calendar or unit is none that there is")
    _check_task(schema)
    return schema


def _check_task(schema: Schema) -> None:
    """Hold the columns to what the task's network is made of."""
    match schema.task:
        case Task.TEXT:
            symbols = schema.vocabulary
            good = bool(symbols) and len(set(symbols)) == len(symbols) == len("".join(symbols))
        case Task.CLASSIFY:
            classes = schema.classes
            good = len(schema.targets) == 1 and 1 < len(classes) == len(set(classes))
        case Task.FORECAST:
            good = bool(schema.targets) and set(schema.targets) <= set(schema.input_names)
    if not good or (schema.task is not Task.TEXT and not schema.input_names):
        raise ValueError(f"the schema's columns are not those of the task {schema.task}")


def _scaling(values: Mapping[str, Any], schema: Schema) -> Scaling:
    _check_keys("scaling", values, Scaling)
    scaling = Scaling(**{name: _tensor(name, one) for name, one in values.items()})
    inputs = len(schema.input_names)
    if scaling.input_mean.shape != (inputs,) or scaling.input_deviation.shape != (inputs,):
        raise ValueError(f"input_mean and input_deviation have not one number for {inputs} inputs")
    targets = len(schema.targets) if schema.task is Task.FORECAST else len(scaling.target_mean)
    if scaling.target_mean.shape != (targets,) or scaling.target_deviation.shape != (targets,):
        raise ValueError(f"target_mean and target_deviation have not one number for {targets}")
    if not (bool((scaling.input_deviation > 0).all()) and (scaling.target_deviation > 0).all()):
        raise ValueError("a deviation is not above 0")
    return scaling


def _tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "values": tensor.tolist()}


def _tensor(name: str, values: Mapping[str, Any]) -> Tensor:
    numbers = values["values"]
    if not isinstance(numbers, list) or any(type(one) not in (int, float) for one in numbers):
        raise TypeError(f"{name} is no list of numbers")
    tensor = torch.tensor(numbers, dtype=DTYPES[values["dtype"]])
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} has numbers that are not finite")
    return tensor


def _check_keys(what: str, values: object, kind: type[Design | Scaling]) -> None:
    names = {one.name for one in fields(kind)}
    if not isinstance(values, Mapping) or set(values) != names:
        raise ValueError(f"{what} has not {', '.join(sorted(names))}")


def _texts(name: str, values: object) -> None:
    if not isinstance(values, tuple) or not all(isinstance(one, str) for one in values):
        raise TypeError(f"{name} is no list of texts")


def _whole(name: str, value: object, limit: int) -> None:
    if type(value) is not int or not 1 <= value <= limit:
        raise ValueError(f"{name} is {value!r}, no whole number from 1 to {limit:,}")


def _lists(values: Any) -> Any:
    """`values` with lists for tuples, as JSON has them."""
    if isinstance(values, Mapping):
        return {key: _lists(one) for key, one in values.items()}
    return [_lists(one) for one in values] if isinstance(values, list | tuple) else values
