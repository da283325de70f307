"""Classification problems as the UEA and UCR archives keep them: `.ts` files."""

from itertools import chain
from pathlib import Path

import polars as pl

from cellwright.app.data.options import Options
from cellwright.app.data.table import Table
from cellwright.app.data.utf8 import not_utf8
from cellwright.app.errors import InputError

__all__ = ["read_archive"]


def read_archive(path: Path) -> Table:
    """A `.ts` file in long form: columns series, step, one a dimension, and label.

    Lengths may differ between cases; "?" is a missing value.

    Raises:
        InputError: a regression problem, time stamps, or a row or label that does not fit its
            header.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    header, first = _header(path, lines)
    declared = header["classlabel"].split()[1:]
    cases: list[tuple[int, list[list[float | None]], str]] = []
    for number, line in enumerate(lines[first:], first + 1):
        if line.strip() and not line.startswith(("#", "%")):
            cases.append((number, *_case(path, number, line, declared)))
    if not cases:
        raise InputError("expected a case in each line after @data, but there are none", file=path)
    dimensions = len(cases[0][1])
    for number, values, _ in cases:
        if len(values) != dimensions:
            raise InputError(
                f"expected {dimensions} dimensions as in the first case, but got {len(values)}; "
                "dimensions are separated by ':'",
                file=path,
                row=number,
            )
    lengths = [len(values[0]) for _, values, _ in cases]
    rows = list(
        chain.from_iterable([n] * length for (n, _, _), length in zip(cases, lengths, strict=True))
    )
    columns: dict[str, list[object]] = {
        "series": list(chain.from_iterable([n] * length for n, length in enumerate(lengths))),
        "step": list(chain.from_iterable(map(range, lengths))),
    }
    for dimension in range(dimensions):
        parts = (values[dimension] for _, values, _ in cases)
        columns[f"dim_{dimension}"] = list(chain.from_iterable(parts))
    columns["label"] = list(
        chain.from_iterable([c[2]] * length for c, length in zip(cases, lengths, strict=True))
    )
    types = {f"dim_{dimension}": pl.Float64 for dimension in range(dimensions)}
    return Table(
        pl.LazyFrame(columns, schema_overrides=types),
        len(rows),
        header.get("problemname", path.stem),
        path,
        rows.__getitem__,
        Options(series="series", time="step", targets=("label",)),
    )


def _header(path: Path, lines: list[str]) -> tuple[dict[str, str], int]:
    """The @ lines by name in lower case, and the first line of data."""
    header: dict[str, str] = {}
    for number, line in enumerate(lines):
        if line.startswith("@"):
            name, _, value = line[1:].strip().partition(" ")
            header[name.lower()] = value.strip()
            if name.lower() == "data":
                _check_header(path, header)
                return header, number + 1
    raise InputError("expected a line '@data', but there is none; is it a .ts file?", file=path)


def _check_header(path: Path, header: dict[str, str]) -> None:
    if header.get("targetlabel", "false").lower().startswith("true"):
        raise InputError(
            "expected a classification problem (@classLabel true), but got a regression "
            "(@targetlabel true), which is not supported; use a file with classes",
            file=path,
        )
    if header.get("timestamps", "false").lower().startswith("true"):
        raise InputError(
            "expected plain values, but got time stamps (@timeStamps true), which are not "
            "supported; write the file as a long CSV table with a time column",
            file=path,
        )
    if not header.get("classlabel", "false").lower().startswith("true"):
        raise InputError(
            "expected labels (@classLabel true …), but the header declares none; "
            "write the file as a long table to forecast it",
            file=path,
        )


def _case(
    path: Path, number: int, line: str, declared: list[str]
) -> tuple[list[list[float | None]], str]:
    """The values of each dimension, and the label, one of `declared` where there are some."""
    *dimensions, label = line.strip().split(":")
    if not dimensions or not label.strip():
        raise InputError(
            "expected dimensions and a label, separated by ':', but got "
            f"{line.strip()[:40]!r}; complete the line",
            file=path,
            row=number,
        )
    if declared and label.strip() not in declared:
        raise InputError(
            f"expected a label that @classLabel declares, {', '.join(declared)}, but got "
            f"{label.strip()!r}; correct it, or add it to @classLabel",
            file=path,
            row=number,
        )
    values = [
        [_value(path, number, dimension, text.strip()) for text in part.split(",")]
        for dimension, part in enumerate(dimensions)
    ]
    lengths = {len(one) for one in values}
    if len(lengths) > 1:
        raise InputError(
            f"expected dimensions of one length in a case, but got {sorted(lengths)} values; "
            "complete the case",
            file=path,
            row=number,
        )
    return values, label.strip()


def _value(path: Path, number: int, dimension: int, text: str) -> float | None:
    if text in {"?", "NaN", "nan", ""}:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"expected a number or '?', but got {text!r}; correct it",
            file=path,
            row=number,
            column=f"dim_{dimension}",
        ) from None
