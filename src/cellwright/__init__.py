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
    from cellwright.cpu.machine.memory import release_memory
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
    "release_memory",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "sqrt",
    "tanh",
]


def __getattr__(name: str) -> object:
    # these bring torch and the compiler along, which `import cellwright` leaves out
    if name == "explain":
        from cellwright.explanation import explain  # noqa: PLC0415

        return explain
    if name == "release_memory":
        from cellwright.cpu.machine.memory import release_memory  # noqa: PLC0415

        return release_memory
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
