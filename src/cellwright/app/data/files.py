"""Files of any known kind as tables, in memory or, if they are large, in a scratch file."""

import json
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from cellwright.app.data.archive import read_archive
from cellwright.app.data.arrays import read_arrays
from cellwright.app.data.delimited import explain_failure, find_ragged, scan_delimited
from cellwright.app.data.options import Options
from cellwright.app.data.table import BATCH_ROWS, Table
from cellwright.app.data.utf8 import not_utf8, require_text
from cellwright.app.errors import InputError

__all__ = ["TEXT_ENDINGS", "existing_file", "read_any", "scratch_folder", "stream_bytes"]

DELIMITED = (".csv", ".tsv")
ARROW = (".arrow", ".ipc", ".feather")
JSON_LINES = (".jsonl", ".ndjson")
TEXT_ENDINGS = (".txt", ".text", ".md", ".rst")
TABLES = (*DELIMITED, ".parquet", *ARROW, *JSON_LINES, ".ts", ".npz")
STREAM_BYTES = 256 * 2**20
UNREADABLE = (PolarsError, PanicException, OSError)


def stream_bytes(options: Options) -> int:
    """The size from which a file streams from disk."""
    if options.stream_bytes is not None:
        return options.stream_bytes
    named = os.environ.get("CELLWRIGHT_STREAM_BYTES")
    if named is None:
        return STREAM_BYTES
    if not named.isdecimal():
        raise InputError(
            f"expected CELLWRIGHT_STREAM_BYTES as a number of bytes, but got {named!r}"
        )
    return int(named)


def scratch_folder() -> Path:
    """Where streamed data is mapped from: CELLWRIGHT_SCRATCH_DIR, or the system's own.

    Mapped tensors have no name in it; a table's rows lie there while it is read and are removed
    afterwards, unless the process is killed in between. Where the system's own folder lies in
    memory, name one on a disk.
    """
    return Path(os.environ.get("CELLWRIGHT_SCRATCH_DIR") or tempfile.gettempdir())


def existing_file(path: Path) -> Path:
    """`path`, if it is a file with something in it."""
    if path.is_dir():
        raise InputError("expected a file, but got a folder; name a file in it", file=path)
    if not path.exists():
        raise InputError("expected a file, but there is none; check the path", file=path)
    if path.stat().st_size == 0:
        raise InputError(
            "expected data, but the file is empty; write it again, or name another", file=path
        )
    return path


def read_any(source: Path | pl.DataFrame, options: Options) -> Table:
    """A file or a data frame as a table with at least one row.

    Tables larger than `stream_bytes` stream into a scratch file; `.ts` and `.npz` are read into
    memory whatever their size.

    Raises:
        InputError: it cannot be read; the message names the file and, if known, the row.
    """
    if isinstance(source, pl.DataFrame):
        table = Table(source.lazy(), source.height, "data frame")
    else:
        table = _read_file(existing_file(source), stream_bytes(options))
    if table.height == 0:
        raise InputError("expected rows of data, but there are none", file=table.file)
    return table


def _read_file(path: Path, threshold: int) -> Table:
    ending = path.suffix.lower()
    streamed = path.stat().st_size > threshold
    if ending in (*DELIMITED, *JSON_LINES, ".ts"):
        require_text(path)
    if ending in DELIMITED:
        return _read_delimited(path, streamed)
    if ending == ".parquet":
        return _read_scan(path, lambda: pl.scan_parquet(path), "Parquet", streamed)
    if ending in ARROW:
        return _read_scan(path, lambda: _scan_arrow(path), "Arrow", streamed)
    if ending in JSON_LINES:
        return _read_json_lines(path, streamed)
    if ending == ".ts":
        return read_archive(path)
    if ending == ".npz":
        return read_arrays(path)
    raise InputError(
        f"expected a table, a file that ends in {', '.join(TABLES)}, but got {ending!r}; convert "
        "it, or train on it as text (--task text)",
        file=path,
    )


def _read_delimited(path: Path, streamed: bool) -> Table:
    lazy, line, separator = scan_delimited(path)
    try:
        table = _table(lazy, path, streamed=streamed, line=line, decimal_comma=separator == ";")
        last = table.lazy.select(pl.last().null_count()).collect().item()
    except UNREADABLE as error:
        raise explain_failure(path, separator, error) from error
    # Polars fills up a short row; a short row has no last field.
    problem = find_ragged(path, separator) if last else None
    if problem is not None:
        raise problem
    return table


def _read_json_lines(path: Path, streamed: bool) -> Table:
    try:
        return _table(pl.scan_ndjson(path, infer_schema_length=None), path, streamed=streamed)
    except UNREADABLE as error:
        raise _explain_json(path, error) from error


def _explain_json(path: Path, error: Exception) -> InputError:
    number, line = 0, ""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007  # told below
                if line.strip() and not isinstance(json.loads(line), dict):
                    raise ValueError
    except UnicodeDecodeError:
        return not_utf8(path)
    except ValueError:
        return InputError(
            f"expected a JSON object in each line, but got {line.strip()[:40]!r}; correct it",
            file=path,
            row=number,
        )
    if not line.strip():
        return InputError("expected a JSON object in each line, but there is none", file=path)
    reason = str(error).splitlines()[0]
    return InputError(f"expected JSON lines, but got: {reason}", file=path)


def _read_scan(path: Path, scan: Callable[[], pl.LazyFrame], kind: str, streamed: bool) -> Table:
    try:
        return _table(scan(), path, streamed=streamed)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"expected a whole {kind} file, but got: {reason}; write it again", file=path
        ) from error


def _scan_arrow(path: Path) -> pl.LazyFrame:
    with path.open("rb") as start:
        file_format = start.read(6) == b"ARROW1"
    return pl.scan_ipc(path) if file_format else pl.read_ipc_stream(path).lazy()


def _table(lazy: pl.LazyFrame, path: Path, *, streamed: bool, **fields: Any) -> Table:
    """The rows in memory, or in a scratch file: parsed once, and quick to read a part of."""
    if not streamed:
        frame = lazy.collect()
        return Table(frame.lazy(), frame.height, path.stem, path, **fields)
    handle, name = tempfile.mkstemp(".parquet", "cellwright-", scratch_folder())
    os.close(handle)
    scratch = _Scratch()
    weakref.finalize(scratch, Path(name).unlink, missing_ok=True)
    lazy.sink_parquet(name, compression="lz4", row_group_size=BATCH_ROWS)
    rows = pl.scan_parquet(name)
    height = rows.select(pl.len()).collect().item()
    return Table(rows, height, path.stem, path, streamed=True, scratch=scratch, **fields)


class _Scratch:
    """Holds a scratch file in place as long as it lives."""
