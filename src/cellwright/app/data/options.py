"""What a user may say about the data; everything that is left out is inferred."""

import re
from dataclasses import dataclass

from cellwright.app.errors import InputError
from cellwright.app.schema import CALENDAR, Missing, Task

__all__ = ["Options"]


UNITS = ("character", "byte")

_FREQUENCY = re.compile(r"[1-9]\d*(ns|us|ms|s|m|h|d|w|mo|q|y)")


@dataclass(frozen=True)
class Options:
    """Overrides of what `read_problem` infers. Every field may be left out.

    Attributes:
        task: what is learned.
        targets: the column of labels, or the columns to forecast.
        features: the only columns that are read; a forecast's targets are always among them.
        exclude: columns that are not read.
        series: the column that tells sequences apart.
        time: the column that orders the steps.
        split: the column whose values are train, validation and test.
        frequency: time between two steps as Polars writes it, "1d".
        calendar: keys of `schema.CALENDAR` that become inputs of a forecast.
        horizon: how many steps ahead are forecast. Default: 1
        season: steps of a season, for seasonal baselines.
        missing: what is done about missing values. Default: they are an error
        unit: of a text, "character" or "byte". Default: "character"
        validation_share: share of the training data that is held out, where no split is given.
            Default: 0.15; of a text 0.1. 0 for none
        test_share: share of all data that is tested on, where no test is given. Default: 0.2; of
            a text 0.1
        seed: of the random split of sequences. Default: 0
        stream_bytes: files larger than this stream from disk. Default: the environment's
            CELLWRIGHT_STREAM_BYTES, or 256 MiB

    Raises:
        InputError: a value that makes no sense whatever the data.
    """

    task: Task | None = None
    targets: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    series: str | None = None
    time: str | None = None
    split: str | None = None
    frequency: str | None = None
    calendar: tuple[str, ...] | None = None
    horizon: int | None = None
    season: int | None = None
    missing: Missing = Missing.ERROR
    unit: str | None = None
    validation_share: float | None = None
    test_share: float | None = None
    seed: int = 0
    stream_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.frequency is not None and not _FREQUENCY.fullmatch(self.frequency):
            raise InputError(
                "expected the time between two steps as a number and a unit (us, ms, s, m, h, d, "
                f"w, mo, q, y), such as 1d or 15m, but got {self.frequency!r}; mend --frequency"
            )
        for name, least in (("horizon", 1), ("season", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(
                    f"expected a {name} of at least {least}, but got {value}; give a larger one"
                )
        for name in ("validation_share", "test_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(
                    f"expected a {name.replace('_', ' ')} from 0 to below 1, but got {value}; mend "
                    f"--{name.replace('_', '-')}"
                )
        for word, known, option in (
            *((cycle, tuple(CALENDAR), "--calendar") for cycle in self.calendar or ()),
            (self.unit or UNITS[0], UNITS, "--unit"),
        ):
            if word not in known:
                raise InputError(f"expected {' or '.join(known)}, but got {word!r}; mend {option}")
