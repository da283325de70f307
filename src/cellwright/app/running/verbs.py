"""What a trained model does, by its folder or in memory, over paths and data frames."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from cellwright.app.model.folder import Model, load_model
from cellwright.app.running import generation, prediction
from cellwright.app.running.stream import Stream

__all__ = ["generate", "load", "predict", "stream"]


def load(folder: Path | str) -> Model:
    """The trained model in `folder`. No code of it is run.

    Raises:
        InputError: the folder is no model, or a file of it was truncated or altered.
    """
    return load_model(Path(folder))


def predict(
    model: Model | Path | str, data: pl.DataFrame | Path | str, *, every_step: bool = False
) -> pl.DataFrame:
    """What a model says of data: classes with probabilities, or quantiles of what comes next.

    Args:
        model: a model or its folder.
        data: a path or a data frame with the columns that the model reads.
        every_step: forecasts from each step, not from the last of each series alone.

    Raises:
        InputError: the model or the data cannot be used as it is.
    """
    source = Path(data) if isinstance(data, str) else data
    return prediction.predict(_model(model), source, every_origin=every_step)


def stream(model: Model | Path | str) -> Stream:
    """A model that reads one step at a time: `.step(row, key=…)`, the state carried on.

    Raises:
        InputError: the model cannot be loaded, or reads in two directions.
    """
    return Stream(_model(model))


def generate(
    model: Model | Path | str,
    prompt: str,
    *,
    length: int = 200,
    temperature: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """The text that a language model writes after `prompt`, piece by piece.

    Raises:
        InputError: the model writes no text, or a value makes no sense to it.
    """
    return generation.generate(_model(model), prompt, length, temperature, seed)


def _model(model: Model | Path | str) -> Model:
    return model if isinstance(model, Model) else load(model)
