"""The application: from data to a trained, judged, running model, over data frames and paths.

The command line is thin over these functions. What each one needs is imported when it is first
asked for, so that a light verb starts at once.
"""

import importlib as _importlib
import typing as _typing

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


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(_importlib.import_module(f"cellwright.app.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
