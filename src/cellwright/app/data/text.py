"""Texts as indices of a vocabulary, in memory or mapped."""

import codecs
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from cellwright.app.data.files import existing_file, stream_bytes
from cellwright.app.data.options import Options
from cellwright.app.data.storage import allocate
from cellwright.app.data.summary import summarise
from cellwright.app.data.utf8 import not_utf8, require_text
from cellwright.app.errors import InputError
from cellwright.app.problem import Part, Problem, Ragged
from cellwright.app.schema import UNKNOWN, Schema, Task

__all__ = ["encode_text", "read_text", "read_text_problem"]

HELD_OUT = 0.1
CHUNK = 2**20
LEAST = 2
"""Characters that a part has at least: one to read and one to tell."""

TextSource = Path | str | pl.DataFrame


def read_text(path: Path) -> str:
    """A whole file of text in UTF-8.

    Raises:
        InputError: there is no such file, it is empty or not UTF-8.
    """
    return "".join(_chunks(path, "character"))


def read_text_problem(source: TextSource, test: TextSource | None, options: Options) -> Problem:
    """A text by characters or bytes; split by position where no test is given.

    The vocabulary is that of the training part, or all bytes: what comes after it is not to be
    known beforehand.

    Raises:
        InputError: the text is too short.
    """
    unit = options.unit or "character"
    held_out = HELD_OUT if options.validation_share is None else options.validation_share
    tested = HELD_OUT if options.test_share is None else options.test_share
    if test is not None:
        tested = 0.0
    size = sum(map(len, _chunks(source, unit)))
    stop = size - round(size * tested)
    middle = stop - round(stop * held_out)
    schema = Schema(Task.TEXT, vocabulary=_vocabulary(source, unit, middle), unit=unit)
    values = encode_text(schema, source, options).inputs.values
    train, validation = _part(values[:middle]), _part(values[middle:stop]) if held_out else None
    last = _part(values[stop:]) if test is None else encode_text(schema, test, options)
    for part, name in ((train, "train"), (validation, "validate"), (last, "test")):
        if part is not None and len(part.inputs.values) < LEAST:
            raise InputError(
                f"expected at least {LEAST} {unit}s to {name} on, but got "
                f"{len(part.inputs.values)} of {len(values)}; give more text or other shares",
                file=source if isinstance(source, Path) else None,
            )
    name = source.stem if isinstance(source, Path) else "text"
    problem = Problem(name, "", schema, None, train, validation, last)
    note = _unknown(schema, [part for part in (validation, last) if part is not None])
    return replace(problem, summary=summarise(problem, notes=(note,)))


def _vocabulary(source: TextSource, unit: str, training: int) -> tuple[str, ...]:
    """The characters of the first `training` and UNKNOWN, or all bytes."""
    if unit == "byte":
        return tuple(map(chr, range(256)))
    letters = {UNKNOWN}
    for chunk in _chunks(source, unit):
        letters.update(chunk[: max(training, 0)])
        training -= len(chunk)
    return tuple(sorted(letters))


def _unknown(schema: Schema, parts: list[Part]) -> str:
    """How many characters the training part has not."""
    if schema.unknown is None:
        return ""
    count = sum(int((part.inputs.values == schema.unknown).sum()) for part in parts)
    what = "1 character" if count == 1 else f"{count:,} characters"
    return f"{what} that training has not, read as unknown" if count else ""


def encode_text(schema: Schema, source: TextSource, options: Options | None = None) -> Part:
    """A text as indices of the schema's vocabulary, one sequence.

    Raises:
        InputError: a character that the vocabulary has not, and it has no UNKNOWN.
    """
    size = sum(map(len, _chunks(source, schema.unit)))
    mapped = isinstance(source, Path) and source.stat().st_size > stream_bytes(options or Options())
    values = allocate((size,), np.int64, mapped=mapped)
    indices = values.numpy()
    points = np.array([ord(letter) for letter in schema.vocabulary], np.uint32)
    done, line = 0, 1
    for chunk in _chunks(source, schema.unit):
        codes = np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), "<u4")
        found = np.minimum(np.searchsorted(points, codes), len(points) - 1)
        unknown = np.flatnonzero(points[found] != codes)
        if schema.unknown is not None:
            found[unknown] = schema.unknown
        elif len(unknown):
            position = int(unknown[0])
            raise InputError(
                f"expected characters that training has, but got {chunk[position]!r} at character "
                f"{done + position + 1}; replace it, or train by bytes",
                file=source if isinstance(source, Path) else None,
                row=line + chunk.count("\n", 0, position),
            )
        indices[done : done + len(chunk)] = found
        done += len(chunk)
        line += chunk.count("\n")
    return _part(values)


def _part(values: torch.Tensor) -> Part:
    return Part(Ragged(values, torch.tensor([0, len(values)])), values)


def _chunks(source: TextSource, unit: str) -> Iterator[str]:
    """The text in pieces; a byte is the character of its number."""
    if isinstance(source, pl.DataFrame):
        raise InputError("expected a text, but got a data frame; give a path or a text")
    if isinstance(source, str):
        yield source if unit == "character" else source.encode().decode("latin-1")
        return
    path = existing_file(source)
    if unit == "character":
        require_text(path)
    coding = "utf-8-sig" if unit == "character" else "latin-1"  # no mark at the beginning is text
    decoder = codecs.getincrementaldecoder(coding)()
    try:
        with path.open("rb") as text:
            while chunk := text.read(CHUNK):
                yield decoder.decode(chunk)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise not_utf8(source) from None
