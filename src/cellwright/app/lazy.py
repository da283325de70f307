"""Names of a module that are imported when they are first asked for."""

import importlib
from collections.abc import Callable, Mapping

__all__ = ["lookup"]


def lookup(module: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a module: where each of its names is, below `cellwright.app`."""

    def find(name: str) -> object:
        if name in homes:
            return getattr(importlib.import_module(f"cellwright.app.{homes[name]}"), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find
