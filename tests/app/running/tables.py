"""Random tables that the models of `tests.app.model.makers` read."""

from datetime import date, timedelta

import polars as pl
import torch

from cellwright.app.schema import Schema

LENGTHS = (3, 11, 1, 4, 11, 7, 2)


def make_table(schema: Schema, lengths: tuple[int, ...] = LENGTHS) -> pl.DataFrame:
    """Sequences one after another, in an order that is neither that of names nor of lengths."""
    rows = sum(lengths)
    columns = {}
    for feature in schema.features:
        drawn = torch.randn(rows).tolist()
        known = feature.categories
        columns[feature.name] = drawn if known is None else [known[x > 0] for x in drawn]
    if schema.series is not None:
        names = [f"s{(5 * k) % 7} é" for k in range(len(lengths))]
        columns[schema.series] = [
            name for name, length in zip(names, lengths, strict=True) for _ in range(length)
        ]
    if schema.time is not None:
        first = date(2024, 2, 20)
        columns[schema.time] = [
            first + timedelta(days=9 * k + step)
            for k, length in enumerate(lengths)
            for step in range(length)
        ]
    return pl.DataFrame(columns)


def sequences(schema: Schema, table: pl.DataFrame) -> list[pl.DataFrame]:
    return [table] if schema.series is None else table.partition_by(schema.series)
