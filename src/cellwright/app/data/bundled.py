"""The data that comes with the package."""

import pydoc_data.topics
from dataclasses import fields, replace
from importlib import resources

from cellwright.app.data.options import Options
from cellwright.app.data.problems import read_problem
from cellwright.app.errors import InputError
from cellwright.app.problem import Problem
from cellwright.app.schema import Task

__all__ = ["BUNDLED", "bundled"]

BUNDLED = ("japanese_vowels", "seattle_weather", "python_topics")

FILES = {
    "japanese_vowels": (
        "japanese_vowels.parquet",
        "Japanese Vowels",
        Options(
            task=Task.CLASSIFY,
            targets=("speaker",),
            series="utterance",
            time="step",
            split="split",
            validation_share=0.0,
        ),
    ),
    "seattle_weather": (
        "seattle_weather.csv",
        "Seattle weather",
        Options(task=Task.FORECAST, targets=("temp_max",), time="date", calendar=("year",)),
    ),
}


def bundled(name: str, options: Options | None = None) -> Problem:
    """A bundled problem: "japanese_vowels", "seattle_weather" or "python_topics".

    Japanese Vowels has its given split and no validation. Seattle's weather is tested on the last
    20 % of its days. The text is what Python's own help says of its topics, in their order.

    Args:
        name: one of these.
        options: what is to be read otherwise; the fields that differ from their defaults count.

    Raises:
        InputError: another name, or options that do not suit the data.
    """
    asked = options or Options()
    given = {
        one.name: getattr(asked, one.name)
        for one in fields(Options)
        if getattr(asked, one.name) != one.default
    }
    if name == "python_topics":
        topics = pydoc_data.topics.topics
        text = "".join(topics[topic] for topic in sorted(topics))
        return replace(read_problem(text, options=asked), name="Python topics")
    if name not in FILES:
        raise InputError(f"expected one of {', '.join(BUNDLED)}, but got {name!r}")
    file, title, own = FILES[name]
    with resources.as_file(resources.files("cellwright.app").joinpath("bundled", file)) as path:
        return replace(read_problem(path, options=replace(own, **given)), name=title)
