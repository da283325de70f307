"""The application: from data to a trained, judged, running model, over data frames and paths.

The command line is thin over these functions. What each one needs is imported when it is first
asked for, so that a light verb starts at once.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from cellwright.app.functions import (
        compare,
        generate,
        load,
        predict,
        read,
        recipe_for,
        stream,
        train,
        write_report,
    )

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


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(_importlib.import_module("cellwright.app.functions"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
