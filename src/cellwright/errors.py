"""The exception tree. Each message says what was expected, what came, and how to mend it."""

__all__ = ["CacheWarning", "CellError", "CellwrightError", "CompileError", "InterpreterWarning"]


class CellwrightError(Exception):
    """Base of every exception that Cellwright raises on its own account."""


class CellError(CellwrightError, TypeError):
    """A cell's equations cannot be traced; the message quotes the offending line."""


class CompileError(CellwrightError, RuntimeError):
    """A kernel cannot be built for this machine; callers fall back to the interpreter."""


class InterpreterWarning(UserWarning):
    """A call runs on the interpreter because no machine code can be made; names the cause."""


class CacheWarning(UserWarning):
    """The kernel cache on disk cannot be used; kernels are compiled anew in each process."""
