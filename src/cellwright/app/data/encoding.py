"""New data as a trained model reads it: whole tables, and rows one by one."""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from cellwright.app.data.columns import Kind, kind_of, typed
from cellwright.app.data.files import read_any
from cellwright.app.data.index import index_of
from cellwright.app.data.matrix import fill_matrix
from cellwright.app.data.options import Options
from cellwright.app.data.parts import forecast_part, label_part
from cellwright.app.data.problems import Source
from cellwright.app.data.sequences import class_codes, sequence_labels
from cellwright.app.data.table import Stack, Table, fail, require_columns
from cellwright.app.data.text import encode_text
from cellwright.app.errors import InputError
from cellwright.app.problem import Part, Scaling
from cellwright.app.schema import Schema, Task

__all__ = ["encode", "read_table"]


def read_table(path: Path) -> pl.DataFrame:
    """A file of any kind of table in memory; text becomes numbers and times where all of it is.

    Raises:
        InputError: the file cannot be read.
    """
    return typed(read_any(path, Options()))


def encode(schema: Schema, scaling: Scaling | None, source: Source) -> Part:
    """A file, data frame or text as a model with this schema reads it.

    All sequences are one part. Targets: classify: -1 everywhere where the column of labels is
    absent. Forecast: the origins are all steps whose whole horizon is in the data.

    Raises:
        InputError: a column is missing or of another type, or as `read_problem`.
    """
    if schema.task is Task.TEXT:
        return encode_text(schema, source)
    if isinstance(source, str) or scaling is None:
        raise InputError("expected a path or a data frame, but got a text; give Path(…)")
    table = read_any(source, Options())
    columns = [feature.name for feature in schema.features]
    columns += [name for name in (schema.series, schema.time) if name]
    require_columns(table, columns, "as in the training data")
    _check_types(table, schema)
    stack = Stack((table,))
    label = schema.targets[0] if schema.task is Task.CLASSIFY else None
    label = label if label in table.schema.names() else None
    index = index_of(
        stack, schema.task, series=schema.series, time=schema.time, split=None, label=label
    )
    temporal = index.times is not None and index.times.dtype.is_temporal()
    if schema.calendar and not temporal:
        raise fail(table, "expected dates as in the training data; write them so", 0, schema.time)
    matrix, known = fill_matrix(stack, schema, scaling, index.order, index.starts, index.times)
    series = np.arange(len(index.starts) - 1)
    if schema.task is Task.FORECAST:
        spans = np.stack((np.zeros_like(series), np.diff(index.starts)), 1)
        return forecast_part(matrix, known, index, schema, spans, mapped=stack.streamed)
    targets = np.full(len(series), -1)
    if label is not None:
        labels = sequence_labels(stack, index, label)
        targets = class_codes(stack, index, labels, schema.classes, label)
    return label_part(matrix, index, index.order, series, 0, torch.from_numpy(targets))


def _check_types(table: Table, schema: Schema) -> None:
    """Raise if a column holds text where training had numbers."""
    for feature in schema.features:
        kind = kind_of(table, feature.name)
        if feature.categories is None and kind in {Kind.CATEGORY, Kind.TIME, Kind.OTHER}:
            column = table.column(feature.name)
            first = next((n for n, value in enumerate(column) if value is not None), 0)
            raise fail(
                table,
                f"expected a number, as in the training data, but got {column[first]!r}; correct "
                "the column",
                first,
                feature.name,
            )
