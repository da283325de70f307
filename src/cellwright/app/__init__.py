"""The application: from data to a trained, judged, running model, over data frames and paths.

The command line is thin over these functions. What each one needs is imported when it is first
asked for, so that a light verb starts at once.
"""

import typing as _typing

from cellwright.app.lazy import lookup as _lookup

if _typing.TYPE_CHECKING:
    from cellwright.app.data.reading import read
    from cellwright.app.functions import compare, train
    from cellwright.app.report import write_report
    from cellwright.app.running.verbs import generate, load, predict, stream
    from cellwright.app.training.recipe import recipe_for

__all__ = [
    "compare",
    "generate",
    "load",
    "predict",
    "read",
    "recipe_for",
    "stream",
    "train",
    "write_report",
]

_HOMES = {
    "compare": "functions",
    "generate": "running.verbs",
    "load": "running.verbs",
    "predict": "running.verbs",
    "read": "data.reading",
    "recipe_for": "training.recipe",
    "stream": "running.verbs",
    "train": "functions",
    "write_report": "report",
}

__getattr__ = _lookup(__name__, _HOMES)
