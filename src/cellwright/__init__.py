"""Cellwright: recurrent cells, from textbook equations to fused kernels, on PyTorch."""

from cellwright.describe import describe
from cellwright.errors import (
    CacheWarning,
    CellError,
    CellwrightError,
    CompileError,
    InterpreterWarning,
)
from cellwright.graph.trace import (
    Cell,
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
