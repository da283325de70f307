"""From what a user types to a cell: a bundled name, `bi-` before it, or one of the user's own."""

import importlib.util
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path

from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.cells import CELLS
from cellwright.errors import CellError
from cellwright.graph.cell import Cell

__all__ = ["NAMES", "choose_cell", "choose_design"]

NAMES: dict[str, Cell] = {"rnn": CELLS["rnn_tanh"], **CELLS}
"""What a cell may be called."""

TWO_WAYS = "bi-"
"""Before a cell's name: a second direction that runs backwards."""


def choose_design(
    cell: Cell | str, *, hidden_size: int = 64, num_layers: int = 1, dropout: float = 0.0
) -> Design:
    """The recurrent stack of a cell, in two directions where its name begins with `bi-`.

    Args:
        cell: a cell, or what `choose_cell` takes, with or without `bi-` before it.
        hidden_size: H_out, units of a layer and direction.
        num_layers: stacked layers.
        dropout: probability that an element is zeroed, between layers and before the readout.

    Raises:
        InputError: there is no such cell, or a size is out of range.
    """
    for name, value in (("hidden size", hidden_size), ("number of layers", num_layers)):
        if value < 1:
            raise InputError(f"expected a {name} of at least 1, but got {value}; give a larger one")
    if not 0 <= dropout < 1:
        raise InputError(f"expected a dropout from 0 to below 1, but got {dropout:g}; lower it")
    both = isinstance(cell, str) and cell.lower().startswith(TWO_WAYS)
    found = choose_cell(cell[len(TWO_WAYS) :] if isinstance(cell, str) and both else cell)
    return Design(found, hidden_size, num_layers, bidirectional=both, dropout=dropout)


def choose_cell(cell: Cell | str) -> Cell:
    """A cell by its bundled name, or `file.py:name`, a cell in a file of the user's own.

    The file is run, as `python file.py` would run it; a model that comes of it loads without.

    Raises:
        InputError: there is no such name, file or cell in the file, or the file does not run.
    """
    if isinstance(cell, Cell):
        return cell
    file, colon, name = cell.rpartition(":")
    if colon and file.endswith(".py"):
        return _from_file(Path(file), name)
    if cell.endswith(".py"):
        return _from_file(Path(cell), "")
    if cell.lower() in NAMES:
        return NAMES[cell.lower()]
    near = get_close_matches(cell.lower(), NAMES, n=1)
    raise InputError(
        f"expected one of {', '.join(NAMES)}, or a cell of your own as file.py:name, but got "
        f"{cell!r}" + (f"; did you mean {near[0]}?" if near else "; choose one of these")
    )


def _from_file(path: Path, name: str) -> Cell:
    if not path.is_file():
        raise InputError(
            f"expected a Python file with a cell, but there is none; check the path before "
            f"{':' + name if name else 'its end'}",
            file=path,
        )
    found = {key: one for key, one in _run(path).items() if isinstance(one, Cell)}
    own = {key: one for key, one in found.items() if not key.startswith("_")}
    if not name and len(own) == 1:
        return next(iter(own.values()))
    if name in found:
        return found[name]
    listed = ", ".join(own) or "no cells"
    raise InputError(
        f"expected {f'a cell {name!r}' if name else 'one cell'}, but the file has {listed}; write "
        f"{path}:name for one that @cell made",
        file=path,
    )


def _run(path: Path) -> dict[str, object]:
    """The names that a file of the user's own defines."""
    spec = importlib.util.spec_from_file_location(f"_cellwright_user_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise InputError("expected a Python file, but it cannot be read as one", file=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and others look their module up
    sys.path.insert(0, str(path.resolve().parent))  # as for a script: its neighbours are found
    try:
        spec.loader.exec_module(module)
    except CellError as error:
        raise InputError(str(error), file=path) from error
    except Exception as error:  # whatever a user's file may raise
        raise InputError(
            f"the file does not run: {type(error).__name__}: {error}; correct it",
            file=path,
            row=_line(error, path),
        ) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
        del sys.modules[spec.name]
    return dict(vars(module))


def _line(error: Exception, path: Path) -> int | None:
    """The last line of the user's file that an error passed through."""
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next(
        (one.lineno for one in reversed(frames) if Path(one.filename) == path.resolve()), None
    )
