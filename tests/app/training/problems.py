"""Small problems of random data and odd sizes, one for each task."""

import torch

from cellwright.app.problem import Part, Problem, Ragged, Scaling
from cellwright.app.schema import Feature, Schema, Task


def ragged(lengths, make):
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), torch.tensor(lengths).cumsum(0)))
    return Ragged(make(int(starts[-1])), starts)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def classify_problem(train=23, *, validation=True, features=3, longest=11, seed=7):
    """Two classes that differ by the sign of the first feature's mean."""
    g = generator(seed)

    def part(count):
        lengths = torch.randint(1, longest + 1, (count,), generator=g).tolist()
        labels = torch.arange(count) % 2
        inputs = ragged(lengths, lambda steps: torch.randn(steps, features, generator=g))
        owner = torch.arange(count).repeat_interleave(inputs.lengths)
        inputs.values[:, 0] += 2.0 * labels[owner] - 1.0
        return Part(inputs, labels)

    names = tuple(Feature(f"x{i}") for i in range(features))
    schema = Schema(Task.CLASSIFY, ("label",), names, classes=("no", "yes"))
    zero = torch.zeros(features)
    return Problem(
        "signs",
        "",
        schema,
        Scaling(zero, zero + 1, zero[:0], zero[:0]),
        part(train),
        part(17) if validation else None,
        part(19),
    )


def forecast_problem(lengths=(61, 47, 5), horizon=2, *, seed=8):
    """Noisy waves; the target is the second input column, on another scale than the input's."""
    g = generator(seed)

    def values(steps):
        wave = torch.sin(torch.arange(steps) * 0.7) + 0.1 * torch.randn(steps, generator=g)
        return torch.stack((torch.randn(steps, generator=g), wave), 1)

    inputs = ragged(lengths, values)
    scaling = Scaling(
        torch.tensor([0.0, 10.0]),
        torch.tensor([1.0, 4.0]),
        torch.tensor([9.0]),
        torch.tensor([3.0]),
    )
    targets = (inputs.values[:, 1:] * 4 + 10 - 9) / 3

    def part(begin, end):  # shares of each series
        origins = torch.zeros(len(targets), dtype=torch.bool)
        for start, stop in zip(
            inputs.starts[:-1].tolist(), inputs.starts[1:].tolist(), strict=True
        ):
            first = start + int((stop - start) * begin)
            origins[first : max(first, start + int((stop - start) * end) - horizon)] = True
        return Part(inputs, targets, origins)

    schema = Schema(
        Task.FORECAST, ("b",), (Feature("a"), Feature("b")), series="id", horizon=horizon
    )
    return Problem("waves", "", schema, scaling, part(0, 0.6), part(0.6, 0.8), part(0.8, 1))


def text_problem(length=403, *, seed=9):
    """Letters of which each is most often followed by the next one of the alphabet."""
    g = generator(seed)
    letters = (torch.arange(length) + (torch.rand(length, generator=g) < 0.1).cumsum(0)) % 7

    def part(values):
        return Part(Ragged(values, torch.tensor([0, len(values)])), values)

    schema = Schema(Task.TEXT, vocabulary=tuple("abcdefg"))
    cuts = int(length * 0.8), int(length * 0.9)
    return Problem(
        "letters",
        "",
        schema,
        None,
        part(letters[: cuts[0]]),
        part(letters[cuts[0] : cuts[1]]),
        part(letters[cuts[1] :]),
    )


PROBLEMS = {
    "classify": classify_problem,
    "forecast": forecast_problem,
    "text": text_problem,
}
