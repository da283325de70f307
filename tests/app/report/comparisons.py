"""Small comparisons of each task: networks that nobody trained, figures drawn at random."""

import math
from datetime import date, timedelta
from functools import cache

import polars as pl
import torch
from torch import Tensor

import cellwright as cw
from cellwright.app.model.design import Design
from cellwright.app.model.network import Network
from cellwright.app.problem import Part, Problem, Ragged, Scaling
from cellwright.app.schema import Feature, Schema, Task
from cellwright.app.training.results import Comparison, Entry, Epoch, Run
from cellwright.cells import gru, lstm, rnn_tanh
from cellwright.graph.cell import Cell

__all__ = ["EVIL", "classify", "comparison", "forecast", "minimal", "text"]

EVIL = "</script><script>window.broken=1</script><b>&amp;\"'"
"""A name that a page must show as it is."""


@cw.cell
def minimal(x, h):
    """One gate. Zhou et al. 2016 <b>bold</b>."""
    f = cw.sigmoid(x.f + h.f)
    n = cw.tanh(x.n + (f * h).n)
    return h + f * (n - h)


def ragged(lengths: list[int], values: Tensor) -> Ragged:
    starts = torch.tensor([0, *lengths]).cumsum(0)
    return Ragged(values, starts)


def runs(scores: list[float], epochs: int = 5, validation: bool = True) -> tuple[Run, ...]:
    """Runs of seeds 0, 1, …; the first has been repeated on torch.nn."""
    made = []
    for seed, score in enumerate(scores):
        history = tuple(
            Epoch(
                number,
                2.0 / number + 0.1 * seed,
                2.5 / number if validation else None,
                score if validation else None,
                0.01,
            )
            for number in range(1, epochs + 1)
        )
        beside = (score, 3.0) if seed == 0 else (None, None)
        made.append(Run(seed, history, score, 1.5 + seed, *beside))
    return tuple(made)


def network_entry(
    problem: Problem, cell: Cell, scores: list[float], hidden: int = 7, **options: object
) -> Entry:
    """An entry with the predictions of a network as it was initialised."""
    torch.manual_seed(0)
    design = Design(cell, hidden, **options)  # type: ignore[arg-type]
    network = Network(problem.schema, design, problem.scaling).eval()
    return Entry(
        design.label,
        design,
        cw.describe(cell).gates,
        sum(parameter.numel() for parameter in network.parameters()),
        runs(scores),
        None if design.bidirectional else 12.3,
        predictions(problem, network),
        network.state_dict(),
    )


def predictions(problem: Problem, network: Network) -> Tensor | None:
    part = problem.test
    if problem.schema.task is Task.TEXT:
        return None
    with torch.no_grad():
        each = [network(part.inputs[n][:, None])[0] for n in range(len(part))]
    if problem.schema.task is Task.CLASSIFY:
        return torch.cat(each).softmax(-1)
    scaling = problem.scaling
    assert scaling is not None
    scaled = torch.cat([one[:, 0] for one in each])
    return scaled * scaling.target_deviation[:, None, None] + scaling.target_mean[:, None, None]


def baseline(label: str, score: float, made: Tensor | None = None) -> Entry:
    return Entry(label, None, None, None, (Run(0, (), score, 0.002),), None, made)


def comparison(problem: Problem, entries: list[Entry]) -> Comparison:
    return Comparison(problem, tuple(entries), "5 epochs each.", f"cellwright compare {EVIL}", 61.0)


@cache
def classify(names: tuple[str, ...] = ("a", EVIL, "c")) -> Comparison:
    """Five networks and two baselines on 11 sequences of 2 to 9 steps."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 10, (11,), generator=generator).tolist()
    values = torch.randn(sum(lengths), 4, generator=generator)
    targets = torch.randint(0, len(names), (11,), generator=generator)
    part = Part(ragged(lengths, values), targets, ids=pl.Series([f"{EVIL} {n}" for n in range(11)]))
    features = tuple(Feature(name) for name in ("one", EVIL, "three", "four"))
    schema = Schema(Task.CLASSIFY, ("label",), features, series="id", classes=names)
    scaling = Scaling(torch.zeros(4), torch.ones(4), torch.zeros(1), torch.ones(1))
    problem = Problem(f"Data {EVIL}", f"summary {EVIL}", schema, scaling, part, part, part)
    chances = torch.rand(11, len(names), generator=generator)
    return comparison(
        problem,
        [
            network_entry(problem, rnn_tanh, [0.8, 0.82, 0.85]),
            network_entry(problem, gru, [0.9, 0.92, 0.91]),
            network_entry(problem, lstm, [0.9, 0.88, 0.93], num_layers=2),
            network_entry(problem, gru, [0.95, 0.94, 0.96], bidirectional=True),
            network_entry(problem, minimal, [0.7, 0.71, math.nan]),
            baseline("majority class", 0.1, chances),
            baseline(f"logistic {EVIL}", 0.86, chances),
        ],
    )


@cache
def forecast(*, horizon: int = 2, beaten: bool = False, dated: bool = True) -> Comparison:
    """Two networks and a baseline without quantiles on two series and two targets."""
    generator = torch.Generator().manual_seed(2)
    lengths = [40, 31]
    values = torch.randn(71, 3, generator=generator).cumsum(0)
    mean, deviation = torch.tensor([3.0, -1.0, 5.0]), torch.tensor([2.0, 0.5, 1.0])
    origins = torch.zeros(71, dtype=torch.bool)
    origins[9 : 40 - horizon] = True
    origins[40 + 6 : 71 - horizon] = True
    days = [date(2020, 1, 1) + timedelta(days=step) for step in (*range(40), *range(31))]
    part = Part(
        ragged(lengths, values),
        values[:, :2],
        origins,
        pl.Series(["north", EVIL]),
        pl.Series(days) if dated else None,
    )
    schema = Schema(
        Task.FORECAST,
        ("warm", EVIL),
        tuple(Feature(name) for name in ("warm", EVIL, "rain")),
        series="place",
        time="day",
        horizon=horizon,
    )
    scaling = Scaling(mean, deviation, mean[:2], deviation[:2])
    problem = Problem("Weather", "two places", schema, scaling, part, None, part)
    held = torch.full((71, 2, horizon, 3), math.nan)
    held[..., 1] = torch.randn(71, 2, horizon, generator=generator)
    return comparison(
        problem,
        [
            network_entry(problem, gru, [2.0, 2.1]),
            network_entry(problem, lstm, [2.2, 2.3]),
            baseline("last value", 1.5 if beaten else 2.5, held),
        ],
    )


@cache
def text() -> Comparison:
    """Two networks and two baselines on 700 characters, markup and line ends among them."""
    generator = torch.Generator().manual_seed(3)
    vocabulary = tuple(sorted("abcd <>&\n\t\"'é"))
    symbols = torch.randint(0, len(vocabulary), (700,), generator=generator)
    part = Part(ragged([700], symbols), symbols)
    schema = Schema(Task.TEXT, vocabulary=vocabulary)
    problem = Problem("Prose", "700 characters", schema, None, part, None, part)
    entries = [network_entry(problem, cell, [3.1]) for cell in (lstm, minimal)]
    return comparison(problem, [*entries, baseline("unigram", 4.5), baseline("bigram", 3.4)])
