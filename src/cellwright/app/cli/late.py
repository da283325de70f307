"""What a verb needs only once it runs, imported when it is first asked for.

PyTorch and Polars take seconds to import: help and a refused option shall not wait for them. The
modules of the verbs therefore import nothing that needs these; they take it from here, as they take
the functions from `cellwright.app`.
"""

import typing

from cellwright.app.lazy import lookup

if typing.TYPE_CHECKING:
    from cellwright.app.cli.table import table, verdict
    from cellwright.app.cli.timed import timed
    from cellwright.app.data import Options, write_table
    from cellwright.app.data.atomic import csv_of, require_place, require_table
    from cellwright.app.model.summary import summarise
    from cellwright.app.training.checkpoint import require_free
    from cellwright.app.training.recipe import Recipe

__all__ = [
    "Options",
    "Recipe",
    "csv_of",
    "require_free",
    "require_place",
    "require_table",
    "summarise",
    "table",
    "timed",
    "verdict",
    "write_table",
]

_HOMES = {
    "Options": "data",
    "Recipe": "training.recipe",
    "csv_of": "data.atomic",
    "require_free": "training.checkpoint",
    "require_place": "data.atomic",
    "require_table": "data.atomic",
    "summarise": "model.summary",
    "table": "cli.table",
    "timed": "cli.timed",
    "verdict": "cli.table",
    "write_table": "data",
}

__getattr__ = lookup(__name__, _HOMES)
