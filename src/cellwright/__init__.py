"""Cellwright: recurrent cells, from textbook equations to fused kernels, on PyTorch."""

import typing as _typing

from cellwright.describe import describe
from cellwright.errors import (
    CacheWarning,
    CellError,
    CellwrightError,
    CompileError,
    InterpreterWarning,
)
from cellwright.graph.cell import Cell
from cellwright.graph.trace import (
    cell,
    exp,
    log,
    maximum,
    minimum,
    relu,
    sigmoid,
    silu,
    softplus,
    sqrt,
    tanh,
)

if _typing.TYPE_CHECKING:
    from cellwright.explanation import explain

__version__ = "0.1.0"

__all__ = [
    "CacheWarning",
    "Cell",
    "CellError",
    "CellwrightError",
    "CompileError",
    "InterpreterWarning",
    "__version__",
    "cell",
    "describe",
    "exp",
    "explain",
    "log",
    "maximum",
    "minimum",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "sqrt",
    "tanh",
]


def __getattr__(name: str) -> object:
    if name == "explain":  # it brings the compiler along, which `import cellwright` leaves out
        from cellwright.explanation import explain  # noqa: PLC0415

        return explain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
