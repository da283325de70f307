"""The calendar of a series: its frequency, its season, its cycles as inputs."""

import math
from bisect import bisect_right
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = [
    "Floats",
    "about_seconds",
    "calendar_columns",
    "cycles_of",
    "frequency_of",
    "moment",
    "phases",
    "seasons_of",
    "seconds_of",
    "usual_step",
]

Floats = NDArray[np.float64]

USUAL = 0.9
"""Share of the steps that must be alike to speak of a frequency: gaps are no change of it."""

UNITS = (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
MONTHS = (("1mo", 28, 31), ("1q", 89, 92), ("1y", 365, 366))
SEASONS = {"1mo": (12,), "1q": (4,), "1w": (52,)}
DAY, WEEK, YEAR = 86400, 604800, 31557600
LENGTHS = {
    **dict(UNITS), "ms": 1e-3, "us": 1e-6, "ns": 1e-9,
    "mo": YEAR / 12, "q": YEAR / 4, "y": YEAR,
}  # fmt: skip
CYCLES = (60, 3600, DAY, WEEK, 365 * DAY)
FIRST_CYCLE = (10, 600, DAY)
"""Seconds of a step from which the next of the cycles is the shortest that may be a season."""
DATE_WORDS = ("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%Y-%m")


def seconds_of(times: pl.Series) -> Floats:
    """Dates or datetimes as seconds since 1970."""
    return times.cast(pl.Datetime("us")).cast(pl.Int64).to_numpy() / 1e6


def frequency_of(steps: Floats) -> str | None:
    """The frequency of most of the steps, given in seconds; None where they vary."""
    if not len(steps):
        return None
    days = steps / DAY
    for name, least, most in MONTHS:
        alike = np.mean((days >= least) & (days <= most)) >= USUAL
        if alike and (days % 1 == 0).all() and len(np.unique(days)) > 1:
            return name
    usual = usual_step(steps)
    if usual is None:
        return None
    for unit, length in UNITS:
        if usual % length == 0:
            return f"{int(usual // length)}{unit}"
    return f"{round(usual * 1e6)}us"


def usual_step(steps: Floats) -> float | None:
    """The length of most of the steps; None where they vary."""
    if not len(steps):
        return None
    values, counts = np.unique(steps, return_counts=True)
    return float(values[counts.argmax()]) if counts.max() >= USUAL * len(steps) else None


def about_seconds(frequency: str) -> float:
    """The length of a step as Polars writes it, "15m" or "1mo", months by their mean."""
    unit = frequency.lstrip("0123456789")
    return int(frequency.removesuffix(unit)) * LENGTHS[unit]


def seconds_in(frequency: str) -> float | None:
    """The length of "15m" or "1d" in seconds; None of months, quarters, years, or unknown words."""
    number, unit = frequency[:-1], frequency[-1:]
    if number.isdecimal() and unit in dict(UNITS):
        return int(number) * dict(UNITS)[unit]
    return None


def seasons_of(frequency: str | None) -> tuple[int, ...]:
    """How many steps a season may have, shortest first: a minute's, hour's, day's, week's, year's.

    Two cycles come into question: of steps of seconds the minute and the hour, of up to ten minutes
    the hour and the day, of hours the day and the week, of days and longer the week and the year.
    """
    if frequency is None:
        return ()
    if frequency in SEASONS:
        return SEASONS[frequency]
    length = seconds_in(frequency)
    if length is None:
        return ()
    first = bisect_right(FIRST_CYCLE, length)
    both = CYCLES[first : first + 2]
    return tuple(int(one // length) for one in both if one % length == 0 and one // length > 1)


def cycles_of(frequency: str | None, span: float) -> tuple[str, ...]:
    """The cycles that a series of this frequency and span, in seconds, can show twice or more."""
    step = None if frequency is None else seconds_in(frequency)
    if frequency is None:
        return ()
    length = YEAR / 13 if step is None else step  # months and longer
    names = (("hour", DAY), ("weekday", WEEK), ("year", YEAR))
    return tuple(name for name, cycle in names if length * 2 <= cycle and span >= 2 * cycle)


def phases(times: pl.Series, cycles: tuple[str, ...]) -> Floats:
    """(S, 2 · cycles): sine and cosine of where each time stands in each cycle."""
    seconds = seconds_of(times)
    weekday = times.dt.weekday().to_numpy() - 1.0
    days = times.dt.ordinal_day().to_numpy() - 1.0
    leap = times.dt.is_leap_year().to_numpy()
    return calendar_columns(seconds % DAY / DAY, weekday, days, leap, cycles)


def calendar_columns(
    part_of_day: Floats,
    weekday: Floats,
    day_of_year: Floats,
    leap: NDArray[np.bool_],
    cycles: tuple[str, ...],
) -> Floats:
    """(S, 2 · cycles) from the calendar's numbers, days of a week and a year counted from 0."""
    shares = {
        "hour": part_of_day,
        "weekday": (weekday + part_of_day) / 7,
        "year": (day_of_year + part_of_day) / np.where(leap, 366, 365),
    }
    angles = [2 * math.pi * shares[cycle] for cycle in cycles]
    columns = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.stack(columns, 1) if columns else np.empty((len(weekday), 0))


def moment(value: object) -> datetime | None:
    """A time as Python's datetime, in UTC if it has a zone; None where it is none."""
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime(value.year, value.month, value.day)  # dates have no zone
    elif isinstance(value, str):
        read = _read_moment(value.strip())
        if read is None:
            return None
        found = read
    else:
        return None
    return found.astimezone(UTC) if found.tzinfo else found


def _read_moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        pass
    for words in DATE_WORDS:
        try:
            return datetime.strptime(text, words)
        except ValueError:
            continue
    return None
