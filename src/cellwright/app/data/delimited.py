"""CSV and TSV files: their separator, their header, and where a row is ragged."""

import csv
from collections.abc import Callable
from pathlib import Path

import polars as pl

from cellwright.app.data.utf8 import not_utf8
from cellwright.app.errors import InputError

__all__ = ["explain_failure", "find_ragged", "scan_delimited"]

SEPARATORS = (",", ";", "\t", "|")


def scan_delimited(path: Path) -> tuple[pl.LazyFrame, Callable[[int], int], str]:
    """All columns as text, the line of a row, and the separator.

    Raises:
        InputError: not UTF-8, empty, a header with unusable names. Ragged rows are only found when
            the frame is collected; `explain_failure` then says where.
    """
    separator, names = _header(path)
    frame = pl.scan_csv(path, separator=separator, infer_schema=False)

    def line(index: int) -> int:
        return _line_of(path, separator, index)

    found = frame.collect_schema().names()
    if len(found) != len(names):
        raise InputError(
            f"expected the names of the columns, but got {names[0]!r} with a line break or quote "
            "that does not end; correct the header",
            file=path,
            row=1,
        )
    return frame.rename(dict(zip(found, names, strict=True))), line, separator


def explain_failure(path: Path, separator: str, error: Exception) -> InputError:
    """What is wrong with a file that Polars refused."""
    problem = find_ragged(path, separator)
    reason = str(error).splitlines()[0]
    return problem or InputError(
        f"expected a table of delimited text, but got: {reason}", file=path
    )


def find_ragged(path: Path, separator: str) -> InputError | None:
    """The first row that has more or fewer fields than the header, or is not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter=separator)
            header = next(reader)
            start = reader.line_num + 1
            for fields in reader:
                blank = not fields and len(header) > 1
                if fields and len(fields) != len(header):
                    return InputError(
                        f"expected {len(header)} fields as in the header, but got {len(fields)}; "
                        "complete or remove the row",
                        file=path,
                        row=start,
                    )
                if blank:
                    return InputError(
                        "expected a row, but got a blank line; remove it", file=path, row=start
                    )
                start = reader.line_num + 1
    except UnicodeDecodeError:
        return not_utf8(path)
    except csv.Error as error:
        return InputError(f"expected delimited text, but got: {error}", file=path)
    return None


def _header(path: Path) -> tuple[str, list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            first = text.readline()
            counts = {one: first.count(one) for one in SEPARATORS}
            separator = max(SEPARATORS, key=lambda one: counts[one])
            text.seek(0)
            names = next(csv.reader(text, delimiter=separator), [])
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    names = [name.strip() for name in names]
    if len(names) > 1 and not names[0] and "index" not in names:
        names[0] = "index"  # pandas writes its numbers of the rows without a name
    if not any(names):
        raise InputError(
            "expected a header, but the first line is blank; remove it", file=path, row=1
        )
    for position, name in enumerate(names, 1):
        if not name or names.count(name) > 1:
            what = f"{name!r} twice" if name else f"none in field {position}"
            raise InputError(
                f"expected a name of its own for every column, but got {what}; change the header",
                file=path,
                row=1,
            )
    if all(map(_is_number, names)):
        raise InputError(
            f"expected the names of the columns, but got only numbers ({names[0]}, …); "
            "add a header line",
            file=path,
            row=1,
        )
    return separator, names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _line_of(path: Path, separator: str, index: int) -> int:
    """The line on which record `index` begins; quoted fields may hold line breaks."""
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=separator)
        next(reader)
        for _ in range(index):
            next(reader)
        return reader.line_num + 1
