"""Texts as indices of a vocabulary, in memory or mapped."""

import codecs
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch

from cellwright.app.data.delimited import not_utf8
from cellwright.app.data.files import existing_file, stream_bytes
from cellwright.app.data.options import Options
from cellwright.app.data.splits import share
from cellwright.app.data.storage import allocate
from cellwright.app.data.summary import summarise
from cellwright.app.errors import InputError
from cellwright.app.problem import Part, Problem, Ragged
from cellwright.app.schema import Schema, Task

__all__ = ["encode_text", "read_text", "read_text_problem"]

HELD_OUT = 0.1
CHUNK = 2**20
UNITS = ("character", "byte")
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

    The vocabulary is that of all of `source`, or all bytes.

    Raises:
        InputError: the text is too short, or the test has a character that `source` has not.
    """
    unit = options.unit or "character"
    if unit not in UNITS:
        raise InputError(f"expected the unit character or byte, but got {unit!r}")
    tested = 0.0 if test is not None else share(options.test_share, HELD_OUT, "test")
    held_out = share(options.validation_share, HELD_OUT, "validation")
    if unit == "byte":
        vocabulary = tuple(map(chr, range(256)))
    else:
        letters: set[str] = set()
        for chunk in _chunks(source, unit):
            letters.update(chunk)
        vocabulary = tuple(sorted(letters))
    schema = Schema(Task.TEXT, vocabulary=vocabulary, unit=unit)
    whole = encode_text(schema, source, options)
    values = whole.inputs.values
    stop = len(values) - round(len(values) * tested)
    middle = stop - round(stop * held_out)
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
    return Problem(name, summarise(problem), schema, None, train, validation, last)


def encode_text(schema: Schema, source: TextSource, options: Options | None = None) -> Part:
    """A text as indices of the schema's vocabulary, one sequence.

    Raises:
        InputError: a character that the vocabulary has not.
    """
    size = sum(len(chunk) for chunk in _chunks(source, schema.unit))
    mapped = isinstance(source, Path) and source.stat().st_size > stream_bytes(options or Options())
    values = allocate((size,), np.int64, mapped=mapped)
    indices = values.numpy()
    points = np.array([ord(letter) for letter in schema.vocabulary], np.uint32)
    done, line = 0, 1
    for chunk in _chunks(source, schema.unit):
        codes = np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), "<u4")
        found = np.minimum(np.searchsorted(points, codes), len(points) - 1)
        unknown = np.flatnonzero(points[found] != codes)
        if len(unknown):
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
    coding = "utf-8" if unit == "character" else "latin-1"
    decoder = codecs.getincrementaldecoder(coding)()
    try:
        with existing_file(source).open("rb") as text:
            while chunk := text.read(CHUNK):
                yield decoder.decode(chunk)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise not_utf8(source) from None
