"""What the application raises when a file, a table or a model cannot be used as it is."""

from pathlib import Path

from cellwright.errors import CellwrightError

__all__ = ["InputError"]


class InputError(CellwrightError, ValueError):
    """A user's input cannot be used; the command line prints this message and ends with code 2.

    The message begins with the place: file, row and column, as far as they are known.

    Args:
        message: what was expected, what came, and how to mend it.
        file: the file that holds the input.
        row: its row, counted from 1, with a header as row 1: the line an editor shows.
        column: the name of its column.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        column: str | None = None,
    ) -> None:
        places = (
            str(file) if file is not None else "",
            f"row {row}" if row is not None else "",
            f"column {column!r}" if column is not None else "",
        )
        place = ", ".join(filter(None, places))
        super().__init__(f"{place}: {message}" if place else message)
