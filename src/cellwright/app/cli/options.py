"""The options that several verbs share."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellwright.app.cli import late
from cellwright.app.cli.checks import at_least, is_seed, share
from cellwright.app.model.choice import choose_design
from cellwright.app.model.design import Design
from cellwright.app.schema import CALENDAR, Missing, Task

if TYPE_CHECKING:
    from cellwright.app.data import Options

__all__ = ["DataOptions", "NetworkOptions", "TrainingOptions"]

DATA = "What the data means (inferred where left out)"
NETWORK = "Network"
TRAINING = "Training (chosen for the task where left out)"


def _option(panel: str, text: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **settings)


@dataclass(frozen=True)
class DataOptions:
    """Overrides of what is inferred from the data, and a file of its own to test on."""

    target: Annotated[
        list[str] | None,
        _option(DATA, "Column to learn: the labels, or what is forecast. May be repeated."),
    ] = None
    test: Annotated[Path | None, _option(DATA, "A file of its own to test on.", metavar="FILE")] = (
        None
    )
    task: Annotated[Task | None, _option(DATA, "What is learned.")] = None
    series: Annotated[str | None, _option(DATA, "Column that tells sequences apart.")] = None
    time: Annotated[str | None, _option(DATA, "Column that orders the steps.")] = None
    split: Annotated[str | None, _option(DATA, "Column that says train, validation or test.")] = (
        None
    )
    feature: Annotated[
        list[str] | None, _option(DATA, "Column to read; the others are not. May be repeated.")
    ] = None
    exclude: Annotated[list[str] | None, _option(DATA, "Column not to read. May be repeated.")] = (
        None
    )
    horizon: Annotated[
        int | None, _option(DATA, "Forecast: how many steps ahead.", callback=at_least(1))
    ] = None
    season: Annotated[
        int | None, _option(DATA, "Forecast: steps of a season.", callback=at_least(1))
    ] = None
    frequency: Annotated[str | None, _option(DATA, "Time between two steps, as 1d, 15m or 1h.")] = (
        None
    )
    calendar: Annotated[
        list[str] | None,
        _option(DATA, f"Forecast: {', '.join(CALENDAR)}, read as inputs. May be repeated."),
    ] = None
    missing: Annotated[Missing, _option(DATA, "What is done about missing values.")] = Missing.ERROR
    unit: Annotated[str | None, _option(DATA, "Text: character or byte. Default: character")] = None
    validation_share: Annotated[
        float | None,
        _option(DATA, "Share of the training data for early stopping.", callback=share),
    ] = None
    test_share: Annotated[
        float | None, _option(DATA, "Share of the data to test on.", callback=share)
    ] = None
    split_seed: Annotated[
        int, _option(DATA, "Seed of a random split of sequences.", callback=is_seed)
    ] = 0

    @property
    def options(self) -> "Options":
        """The same for `read_problem`; what can be judged without the data is."""
        return late.Options(
            task=self.task,
            targets=tuple(self.target) if self.target else None,
            features=tuple(self.feature) if self.feature else None,
            exclude=tuple(self.exclude or ()),
            series=self.series,
            time=self.time,
            split=self.split,
            frequency=self.frequency,
            calendar=tuple(self.calendar) if self.calendar else None,
            horizon=self.horizon,
            season=self.season,
            missing=self.missing,
            unit=self.unit,
            validation_share=self.validation_share,
            test_share=self.test_share,
            seed=self.split_seed,
        )


@dataclass(frozen=True)
class NetworkOptions:
    """The sizes of a recurrent stack."""

    hidden_size: Annotated[
        int, _option(NETWORK, "Hidden units of a layer and direction.", callback=at_least(1))
    ] = 64
    layers: Annotated[int, _option(NETWORK, "Stacked layers.", callback=at_least(1))] = 1
    dropout: Annotated[
        float,
        _option(NETWORK, "Probability between layers and before the readout.", callback=share),
    ] = 0.0

    @property
    def sizes(self) -> dict[str, Any]:
        """The same for `choose_design`."""
        return {
            "hidden_size": self.hidden_size, "num_layers": self.layers, "dropout": self.dropout,
        }  # fmt: skip

    def design(self, cell: str) -> Design:
        """The stack of a cell."""
        return choose_design(cell, **self.sizes)


@dataclass(frozen=True)
class TrainingOptions:
    """How networks are trained; what is left out is chosen for the task."""

    epochs: Annotated[int | None, _option(TRAINING, "Passes over the training part.")] = None
    batch_size: Annotated[int | None, _option(TRAINING, "Sequences of a batch.")] = None
    learning_rate: Annotated[float | None, _option(TRAINING, "The highest of its cycle.")] = None
    weight_decay: Annotated[float | None, _option(TRAINING, "Of AdamW.")] = None
    gradient_norm: Annotated[
        float | None, _option(TRAINING, "A longer gradient is shortened to this length.")
    ] = None
    noise: Annotated[
        float | None, _option(TRAINING, "Classify: deviation of noise on scaled inputs.")
    ] = None
    patience: Annotated[
        int | None, _option(TRAINING, "Epochs without a better validation score before it ends.")
    ] = None
    window: Annotated[int | None, _option(TRAINING, "Steps through which gradients flow back.")] = (
        None
    )
    context: Annotated[
        int | None, _option(TRAINING, "Forecast: steps before a window that warm the state.")
    ] = None

    @property
    def changes(self) -> dict[str, Any]:
        """What was given, by the names of a recipe, if one can be made of it."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        given = {name: value for name, value in values.items() if value is not None}
        late.Recipe(**given)
        return given
