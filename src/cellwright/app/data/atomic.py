"""Files that are there whole or not at all."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from cellwright.app.errors import InputError

__all__ = [
    "atomic_path",
    "atomic_write",
    "csv_of",
    "require_folder",
    "require_place",
    "require_table",
    "write_table",
]


def csv_of(frame: pl.DataFrame) -> str:
    """The frame as CSV, whole seconds without their microseconds."""
    found = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Datetime)]
    whole = all(bool((frame[name].dt.microsecond() == 0).all()) for name in found)
    zone = "%:z" if any(getattr(frame.schema[name], "time_zone", None) for name in found) else ""
    pattern = f"%Y-%m-%dT%H:%M:%S{zone}" if found and whole else None
    return frame.write_csv(datetime_format=pattern)


WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    ".csv": lambda frame, path: path.write_bytes(csv_of(frame).encode()),
    ".parquet": lambda frame, path: frame.write_parquet(path),
    ".jsonl": lambda frame, path: frame.write_ndjson(path),
    ".ndjson": lambda frame, path: frame.write_ndjson(path),
}


def require_folder(folder: Path) -> None:
    """Raise if nothing can be written into `folder`."""
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is none"
        raise InputError(
            f"expected a folder that can be written, but {what}; make the folder or choose another",
            file=folder,
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            "expected a folder that can be written, but this one cannot; choose another",
            file=folder,
        )


def require_place(path: Path) -> None:
    """See beforehand that a file can be written to `path`: what is written may take its time.

    Raises:
        InputError: it is a folder, or its own folder is not there or cannot be written.
    """
    if path.is_dir():
        raise InputError("expected a file to write, but got a folder; name a file", file=path)
    require_folder(path.parent)


def require_table(path: Path) -> None:
    """The same for a table, whose ending says how it is written."""
    if path.suffix.lower() not in WRITERS:
        raise InputError(
            f"expected a name that ends in {', '.join(WRITERS)}, but got {path.suffix!r}; "
            "choose one of these",
            file=path,
        )
    require_place(path)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends without an error.

    What was there before stays until then, and stays for good if the block raises. The content
    reaches the disk before the name does.

    Raises:
        InputError: the folder is not there or cannot be written, or `path` is a folder.
    """
    path = Path(path)
    require_place(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InputError(
            f"expected a folder that can be written, but got: {error.strerror}; make the folder "
            "or choose another",
            file=path,
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _settle(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all; raises as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_table(frame: pl.DataFrame, path: str | Path) -> None:
    """Write `frame` as CSV, Parquet or JSON lines, by the ending of `path`, whole or not at all.

    Raises:
        InputError: another ending, or as of `atomic_path`.
    """
    path = Path(path)
    require_table(path)
    with atomic_path(path) as temporary:
        WRITERS[path.suffix.lower()](frame, temporary)


def _settle(temporary: Path, path: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)  # a temporary file is private, a result is not
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
