"""Where the time of a series leaves steps out: a network counts steps, so a user is to know."""

import numpy as np

from cellwright.app.data.almanac import Floats, about_seconds, seconds_of, usual_step
from cellwright.app.data.index import Index, Ints

__all__ = ["unequal_steps"]

LONGER, SHORTER = 1.5, 0.5
"""Of the usual step, from where a step is a gap, or one too many: months differ by less."""


def unequal_steps(index: Index, frequency: str | None) -> str:
    """What to say of steps that are not of one length; nothing where all are.

    Args:
        index: of all parts of a forecast.
        frequency: as the schema has it; None where there is none, or where time is a number.
    """
    if index.times is None:
        return ""
    temporal = index.times.dtype.is_temporal()
    times = seconds_of(index.times) if temporal else index.times.cast(float).to_numpy()
    times = times[index.order]
    own = np.diff(index.codes[index.order]) == 0
    steps = np.where(own, np.diff(times), np.nan)
    usual = usual_step(steps[own]) if frequency is None else about_seconds(frequency)
    if not own.any():
        return ""
    if usual is None:
        return "the time between steps varies, and each is read as one step"
    gaps = np.flatnonzero(steps > LONGER * usual)
    extra = int((steps < SHORTER * usual).sum())
    said = [_gaps(index, times, steps, gaps, usual)] if len(gaps) else []
    if extra:
        said.append(f"{extra:,} {'step' if extra == 1 else 'steps'} shorter than the others")
    return f"{' and '.join(said)}, read as if all were of one length" if said else ""


def _gaps(index: Index, times: Floats, steps: Floats, gaps: Ints, usual: float) -> str:
    """How many there are, and where the first is: after which time of which series."""
    missing = round(float((steps[gaps] / usual).round().sum())) - len(gaps)
    first = int(index.order[gaps[times[gaps].argmin()]])
    name = "" if index.ids is None else f" in {index.name(int(index.codes[first]))}"
    assert index.times is not None  # or there are no gaps
    return (
        f"{len(gaps):,} {'gap' if len(gaps) == 1 else 'gaps'} in time ({missing:,} "
        f"{'step' if missing == 1 else 'steps'} missing), the first after "
        f"{index.times[first]}{name}"
    )
