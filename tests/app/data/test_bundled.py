"""The bundled problems."""

from importlib import resources

import polars as pl
import pytest
import torch

from cellwright.app import data
from cellwright.app.schema import Task


def test_japanese_vowels():
    problem = data.bundled("japanese_vowels")
    assert (len(problem.train), problem.validation, len(problem.test)) == (270, None, 370)
    assert problem.schema.classes == tuple("123456789")
    assert problem.train.targets.bincount().tolist() == [30] * 9
    assert problem.test.targets.bincount().tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    lengths = torch.cat((problem.train.inputs.lengths, problem.test.inputs.lengths))
    assert (int(lengths.min()), int(lengths.max()), int(lengths.sum())) == (7, 29, 9961)
    path = resources.files("cellwright.app").joinpath("bundled", "japanese_vowels.parquet")
    raw = pl.read_parquet(path.read_bytes())
    columns = [name for name in raw.columns if name.startswith("lpc")]
    halves = [raw.filter(pl.col("split") == name) for name in ("train", "test")]
    train = torch.tensor(halves[0].select(columns).to_numpy()).double()
    for part, half in zip((problem.train, problem.test), halves, strict=True):
        values = torch.tensor(half.select(columns).to_numpy()).double()
        expected = (values - train.mean(0)) / train.std(0, correction=0)
        assert part.inputs.values.dtype == torch.float32
        torch.testing.assert_close(part.inputs.values.double(), expected, atol=1e-5, rtol=0)
        speakers = half.group_by("utterance", maintain_order=True).first()["speaker"]
        assert (part.targets + 1).tolist() == speakers.to_list()


def test_seattle_weather():
    problem = data.bundled("seattle_weather")
    assert problem.schema.targets == ("temp_max",)
    assert problem.schema.frequency == "1d"
    assert "weather=snow" in problem.schema.input_names
    assert len(problem.test.inputs.values) == 1461
    assert torch.nonzero(problem.test.origins).flatten().tolist() == list(range(1168, 1460))
    assert str(problem.test.times[1169]) == "2015-03-15"
    assert "\n" not in problem.summary
    scale, mean = problem.scaling.target_deviation, problem.scaling.target_mean
    last = problem.test.targets[-1] * scale + mean
    assert last.item() == pytest.approx(5.6, abs=1e-5)


def test_python_topics():
    problem = data.bundled("python_topics")
    assert problem.schema.task is Task.TEXT
    size = sum(
        len(part.inputs.values) for part in (problem.train, problem.validation, problem.test)
    )
    assert size > 300_000
    letters = "".join(problem.schema.vocabulary[n] for n in problem.train.inputs.values[:2000])
    assert "assert" in letters


def test_another_name(refused):
    refused(lambda: data.bundled("iris"), "'iris'", "japanese_vowels")
