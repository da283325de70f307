"""`cellwright stream`: a line of JSON or CSV in, a line of JSON out, the state carried on."""

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from cellwright import app
from cellwright.app.errors import InputError
from cellwright.app.schema import Task

__all__ = ["add_to"]

PLACE = "standard input"
DELIMITERS = ",\t;"

Row = Mapping[str, Any]


def verb(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a trained model.")],
    key: Annotated[
        str | None,
        typer.Option(metavar="COL", help="Column whose values name streams with a state each."),
    ] = None,
) -> None:
    """Read one step a line from standard input; after each, print what the model says now.

    Lines are JSON objects, or CSV beneath a header. A language model reads each line as it is.
    Every line of output is one JSON object and is flushed at once.
    """
    stream = app.stream(model)
    lines = typer.get_text_stream("stdin", encoding="utf-8")
    if stream.model.schema.task is Task.TEXT:
        if key is not None:
            raise InputError("expected no --key: a line of text has no columns; leave it out")
        rows: Iterator[tuple[int, Any]] = _texts(lines, "\n" in stream.model.schema.vocabulary)
    else:
        rows = _rows(lines)
    try:
        for number, row in rows:
            with _placed(number):
                name = None if key is None else _key(row, key)
                said = stream.step(row, key=name)
            if key is not None:
                said = {key: name, **said}
            typer.echo(json.dumps(_short(said), ensure_ascii=False))  # flushed at once
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected UTF-8, but got the byte 0x{error.object[error.start]:02x}; convert it",
            file=PLACE,
        ) from error


def add_to(program: typer.Typer) -> None:
    """Add the verb."""
    program.command(
        "stream", epilog="Example: tail -f readings.csv | cellwright stream model/ --key sensor"
    )(verb)


def _short(said: Any) -> Any:
    """Numbers with the digits that float32 has."""
    if isinstance(said, dict):
        return {name: _short(value) for name, value in said.items()}
    if isinstance(said, list):
        return [_short(value) for value in said]
    return float(f"{said:.7g}") if isinstance(said, float) else said


@contextmanager
def _placed(number: int) -> Iterator[None]:
    """Tell of an error which line it is of."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error), file=PLACE, row=number) from error


def _texts(lines: TextIO, keep_end: bool) -> Iterator[tuple[int, str]]:
    """Lines of text; with their ends, where the model knows these."""
    for number, line in enumerate(lines, 1):
        text = line if keep_end else line.rstrip("\n")
        if text:
            yield number, text


def _rows(lines: TextIO) -> Iterator[tuple[int, Row]]:
    """Numbered rows of JSON or of CSV, which the first line with something in it tells."""
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        return
    if first[1].lstrip("\ufeff ").startswith("{"):
        for number, line in chain([first], numbered):
            yield number, _object(line.removeprefix("\ufeff"), number)
        return
    delimiter = max(DELIMITERS, key=first[1].count)
    header = _fields(first[1].removeprefix("\ufeff"), delimiter)
    for number, line in numbered:
        yield number, _record(header, _fields(line, delimiter), number)


def _object(line: str, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(
            f"expected a JSON object, but got {line.strip()[:40]!r}; correct the line",
            file=PLACE,
            row=number,
        ) from error
    if not isinstance(row, dict):
        raise InputError(
            f"expected a JSON object, but got {line.strip()[:40]!r}; give one in {{}}",
            file=PLACE,
            row=number,
        )
    return row


def _fields(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter))


def _record(header: list[str], values: list[str], number: int) -> Row:
    if len(values) != len(header):
        raise InputError(
            f"expected {len(header)} values, as the header has, but got {len(values)}; "
            "correct the line",
            file=PLACE,
            row=number,
        )
    return dict(zip(header, values, strict=True))


def _key(row: Row, column: str) -> Any:
    if column not in row:
        raise InputError(
            f"expected the column that --key names, but there are {', '.join(row)}; name one",
            column=column,
        )
    value = row[column]
    return json.dumps(value) if isinstance(value, list | dict) else value
