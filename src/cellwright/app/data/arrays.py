"""NumPy `.npz` files as tables."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cellwright.app.data.options import Options
from cellwright.app.data.table import Table
from cellwright.app.errors import InputError

__all__ = ["read_arrays"]

Array = NDArray[np.generic]
FORMS = (
    "X (N, L, H) and y (N,); X (S, H), lengths (N,) and y (N,); arrays arr_0, arr_1, … (L, H) and "
    "y (N,), as np.savez(path, *sequences, y=y) writes them; or one array (L,) or (L, H), a series"
)


def read_arrays(path: Path) -> Table:
    """Sequences with labels in long form, columns series, step, x1 … and label; or one series.

    Nothing is unpickled. Forms: X (N, L, H) or (N, L) with y (N,); X (S, H) with lengths (N,) and
    y; sequences arr_0, arr_1, … of (L, H) with y; one array (L,) or (L, H) alone.

    Raises:
        InputError: another form, object arrays, no numbers.
    """
    arrays = _load(path)
    labels = arrays.pop("y", None)
    if labels is None:
        if len(arrays) != 1 or next(iter(arrays.values())).ndim > 2:
            raise _unknown(path, arrays)
        series = _frame(path, [next(iter(arrays.values()))])
        return Table(series.lazy(), series.height, path.stem, path)
    sequences = _sequences(path, arrays)
    if labels.shape != (len(sequences),):
        raise InputError(
            f"expected a label for each of {len(sequences)} sequences, but got y of shape "
            f"{labels.shape}; complete it",
            file=path,
        )
    lengths = [len(one) for one in sequences]
    frame = _frame(path, sequences).with_columns(
        pl.Series("series", np.repeat(np.arange(len(lengths)), lengths)),
        pl.Series("step", np.concatenate([np.arange(length) for length in lengths])),
        pl.Series("label", np.repeat(labels.astype(str), lengths)),
    )
    hints = Options(series="series", time="step", targets=("label",))
    return Table(frame.lazy(), frame.height, path.stem, path, hints=hints)


def _load(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive raises whatever its damage leads to
        if "Object arrays" in str(error):
            raise InputError(
                "expected arrays of numbers, but got objects, which only unpickling could read "
                "and that may run code; save the sequences as np.savez(path, *sequences, y=y)",
                file=path,
            ) from error
        raise InputError(
            "expected a whole NumPy .npz file, but got something else; write it with np.savez",
            file=path,
        ) from error


def _sequences(path: Path, arrays: dict[str, Array]) -> list[Array]:
    if set(arrays) == {"X"} and arrays["X"].ndim in {2, 3}:
        return list(arrays["X"])
    if set(arrays) == {"X", "lengths"}:
        lengths = arrays["lengths"].astype(np.int64)
        if lengths.ndim != 1 or (lengths < 1).any() or lengths.sum() != len(arrays["X"]):
            raise InputError(
                f"expected lengths of at least 1 that add up to the {len(arrays['X'])} rows of X, "
                f"but they add up to {lengths.sum()}; correct them",
                file=path,
            )
        return np.split(arrays["X"], np.cumsum(lengths)[:-1])
    names = [f"arr_{number}" for number in range(len(arrays))]
    if arrays and set(arrays) == set(names):
        return [arrays[name] for name in names]
    raise _unknown(path, arrays)


def _frame(path: Path, sequences: list[Array]) -> pl.DataFrame:
    shaped = [one[:, None] if one.ndim == 1 else one for one in sequences]
    widths = {one.shape[1:] for one in shaped}
    if len(widths) != 1 or any(one.ndim != 2 for one in shaped):
        raise InputError(
            f"expected sequences (L, H) with one H, but got {sorted(map(str, widths))}",
            file=path,
        )
    values = np.concatenate(shaped)
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_):
        raise InputError(f"expected numbers, but got {values.dtype}; convert them", file=path)
    if np.iscomplexobj(values):
        raise InputError("expected real numbers, but got complex ones; split them", file=path)
    return pl.DataFrame({f"x{n + 1}": values[:, n] for n in range(values.shape[1])})


def _unknown(path: Path, arrays: dict[str, Array]) -> InputError:
    found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
    return InputError(
        f"expected {FORMS}; but got {found}; save it in one of these forms", file=path
    )
