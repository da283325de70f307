"""What the columns of a user's data mean: the part of a model that lets it read another file."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = ["CALENDAR", "UNKNOWN", "Feature", "Missing", "Schema", "Task"]

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What stands in a vocabulary of characters for all that training has not seen."""
CHARACTERS = 0x110000 - 0x800
"""How many there are in Unicode."""

CALENDAR: Mapping[str, tuple[str, ...]] = {
    "hour": ("hour_sin", "hour_cos"),
    "weekday": ("weekday_sin", "weekday_cos"),
    "year": ("year_sin", "year_cos"),
}
"""Cycles of the calendar and the two input columns that each becomes."""


class Task(StrEnum):
    """What is learned: a label for a sequence, the next values of a series, the next character."""

    CLASSIFY = "classify"
    FORECAST = "forecast"
    TEXT = "text"


class Missing(StrEnum):
    """What is done about missing values of features.

    ``error`` refuses them; ``ffill`` repeats the last value of the same series (the training mean
    before the first); ``mask`` does so too and adds an input column that is 1 where a value was
    missing.
    """

    ERROR = "error"
    FFILL = "ffill"
    MASK = "mask"


@dataclass(frozen=True)
class Feature:
    """One column that a network reads: a number, or a category with one input for each value."""

    name: str
    categories: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        """How many input columns it takes."""
        return 1 if self.categories is None else len(self.categories)


@dataclass(frozen=True)
class Schema:
    """How a table or a text is read; inferred from the training data, overridden by the user.

    Attributes:
        task: what is learned.
        targets: classify: the column of labels; forecast: the columns to forecast; text: none.
        features: the columns that are read, in the order of the input's columns. A forecast reads
            its own targets' past, so they are among them.
        series: the column that tells sequences apart; None where the file is one series.
        time: the column that orders the steps; None where the rows' order does.
        split: the column whose values train, validation and test are the user's own split.
        frequency: time between two steps as Polars writes it, "1d"; None where it varies.
        calendar: keys of CALENDAR that become inputs, from the time of a step.
        season: steps of a season, for seasonal baselines; 1 where there is none.
        horizon: forecast: how many steps ahead, each of 1 to horizon.
        classes: classify: the labels as text, in the order of the logits.
        missing: what is done about missing values.
        vocabulary: text: the characters of the training part and UNKNOWN, or all bytes (as
            one-character strings of latin-1), sorted. Without UNKNOWN, a character outside it is
            an error that names it.
        unit: text: "character" or "byte".
    """

    task: Task
    targets: tuple[str, ...] = ()
    features: tuple[Feature, ...] = ()
    series: str | None = None
    time: str | None = None
    split: str | None = None
    frequency: str | None = None
    calendar: tuple[str, ...] = ()
    season: int = 1
    horizon: int = 1
    classes: tuple[str, ...] = ()
    missing: Missing = Missing.ERROR
    vocabulary: tuple[str, ...] = ()
    unit: str = "character"

    @property
    def input_names(self) -> tuple[str, ...]:
        """The input's columns, H_in of them: features, then missing marks, then the calendar."""
        names: list[str] = []
        for feature in self.features:
            if feature.categories is None:
                names.append(feature.name)
            else:
                names += [f"{feature.name}={value}" for value in feature.categories]
        if self.missing is Missing.MASK:
            names += [f"{feature.name} missing" for feature in self.features]
        for cycle in self.calendar:
            names += CALENDAR[cycle]
        return tuple(names)

    @property
    def unknown(self) -> int | None:
        """Text: the index of UNKNOWN; None where nothing is unknown."""
        if self.unit == "byte" or UNKNOWN not in self.vocabulary:
            return None
        return self.vocabulary.index(UNKNOWN)

    @property
    def known(self) -> int:
        """Text: how many characters or bytes the vocabulary has, without UNKNOWN."""
        return len(self.vocabulary) - (self.unknown is not None)

    @property
    def unknown_bits(self) -> float:
        """Text: what it takes to say which unknown character came, all being equally likely.

        A score counts them beside the bits of UNKNOWN itself: else a model that has seen fewer
        characters would look better.
        """
        return math.log2(CHARACTERS - self.known)

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Schema":
        """The schema that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the values are not those of a schema.
        """
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        fields["features"] = tuple(
            Feature(one["name"], None if one["categories"] is None else tuple(one["categories"]))
            for one in values["features"]
        )
        fields["task"] = Task(values["task"])
        fields["missing"] = Missing(values["missing"])
        return cls(**fields)
