"""Small tables with known contents, random values and odd sizes."""

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl


def labelled(counts=(7, 5, 9), seed=0, shortest=2, longest=9):
    """Sequences of three classes "3", "1", "2", with two numbers and a category, in long form."""
    draw = np.random.default_rng(seed)
    labels = [label for label, count in zip((3, 1, 2), counts, strict=True) for _ in range(count)]
    draw.shuffle(labels)
    rows = []
    for number, label in enumerate(labels):
        length = int(draw.integers(shortest, longest + 1))
        rows += [
            {
                "series": f"s{number}",
                "step": step,
                "a": float(draw.normal() + label),
                "b": float(draw.normal() * 1000),
                "mood": str(draw.choice(["calm", "wild", "odd"])),
                "label": label,
            }
            for step in range(length)
        ]
    return pl.DataFrame(rows)


def daily(steps=60, seed=0, series=None, begin=date(2020, 2, 20)):
    """A series of days with two numbers; several of the same length where `series` names them."""
    draw = np.random.default_rng(seed)
    frames = []
    for name in series or [None]:
        frame = pl.DataFrame(
            {
                "day": [begin + timedelta(days=n) for n in range(steps)],
                "load": draw.normal(50, 10, steps),
                "wind": draw.normal(0, 3, steps),
            }
        )
        frames.append(frame if name is None else frame.with_columns(site=pl.lit(name)))
    return pl.concat(frames)


def hourly(steps=24 * 40, seed=0):
    draw = np.random.default_rng(seed)
    begin = datetime(2021, 12, 20)
    return pl.DataFrame(
        {
            "when": [begin + timedelta(hours=n) for n in range(steps)],
            "load": np.sin(np.arange(steps) * 2 * np.pi / 24) + draw.normal(0, 0.1, steps),
        }
    )
