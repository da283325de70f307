"""What goes through a network together, step after step of a training or of an evaluation.

Nothing is padded: pieces of sequences are packed, longest first, so that at each step the rows are
those of the sequences that still run. A sequence longer than a window comes in several cuts, one
after another; those that have ended leave at the end of the rows.

Shapes: N pieces of a cut, R rows of them together, K targets, P steps ahead.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from cellwright.app.errors import InputError
from cellwright.app.problem import Part
from cellwright.app.schema import Schema, Task
from cellwright.app.training.recipe import Recipe

__all__ = ["Batch", "Cut", "epoch", "make", "passes"]


@dataclass(frozen=True)
class Cut:
    """Which pieces of which sequences, longest first; still no values.

    Attributes:
        sequences: (N,) their indices in the part.
        starts: (N,) the row of the part where each piece starts.
        lengths: (N,) steps of each piece, falling.
        fresh: whether states begin anew; if not, they are those after the cut before, whose first
            N sequences these are.
        warm_up: (N,) steps at the beginning of each piece that have no loss; None for none.
    """

    sequences: Tensor
    starts: Tensor
    lengths: Tensor
    fresh: bool = True
    warm_up: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """The values of a cut, or of one process's share of it.

    Attributes:
        inputs: packed, R rows.
        targets: of the losses: classify (N,), text (R,), forecast (count, K, P).
        rows: (count,) the rows of the outputs that have a loss; None where all have one.
        count: how many losses there are; 0 for a process that has nothing to do.
        total: how many the whole cut has, over all processes.
        fresh: as of the cut.
    """

    inputs: PackedSequence
    targets: Tensor
    rows: Tensor | None
    count: int
    total: int
    fresh: bool


def epoch(
    part: Part, schema: Schema, recipe: Recipe, generator: torch.Generator, *, whole: bool
) -> list[Cut]:
    """One epoch of cuts in random order: all that the part teaches, once.

    Args:
        part: the training part.
        schema: its task and horizon.
        recipe: batch size, window and context.
        generator: makes the order.
        whole: whether the network must read sequences whole, whatever the window.
    """
    match schema.task:
        case Task.CLASSIFY:
            lengths = part.inputs.lengths
            order = torch.randperm(len(part), generator=generator)
            order = order[lengths[order].argsort(descending=True, stable=True)]
            groups = order.split(recipe.batch_size)
            window = int(lengths.max()) if whole else recipe.window
            shuffled = torch.randperm(len(groups), generator=generator).tolist()
            starts = part.inputs.starts
            return [
                cut
                for group in shuffled
                for cut in _in_windows(groups[group], starts, lengths, window)
            ]
        case Task.FORECAST:
            return _forecast_epoch(part, recipe, generator)
        case Task.TEXT:
            return _text_epoch(part, recipe, generator)


def passes(part: Part, schema: Schema, rows: int, *, whole: bool) -> Iterator[Cut]:
    """Every step of `part` once, in order, at most about `rows` rows at a time, states carried.

    With `whole`, sequences are not parted, and a single longer one is a cut of its own. The last
    symbol of a text is left out: it has no next one.
    """
    lengths = part.inputs.lengths
    if schema.task is Task.TEXT:
        lengths = lengths - 1
    order = lengths.argsort(descending=True, stable=True)
    while len(order):
        longest = int(lengths[order[0]])
        window = longest if whole else min(longest, rows)
        size = max(1, rows // max(1, window))
        yield from _in_windows(order[:size], part.inputs.starts, lengths, window)
        order = order[size:]


def make(
    part: Part,
    schema: Schema,
    cut: Cut,
    *,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    share: tuple[int, int] = (0, 1),
) -> Batch:
    """The values of a cut.

    Args:
        part: where they are.
        schema: its task and horizon.
        cut: which pieces.
        noise: deviation of the noise added to inputs.
        generator: makes the noise: the same for all processes, each of which keeps its share.
        share: (r, n) keeps every n-th piece, from the r-th on. With no piece left, a batch of one
            step comes whose count is 0.
    """
    steps = torch.arange(int(cut.lengths[0]))[:, None]
    valid = steps < cut.lengths
    rows = (cut.starts + steps)[valid]
    inputs = part.inputs.values[rows]
    if noise and inputs.is_floating_point():
        inputs = inputs + noise * torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    learned = _learned(part, schema, cut, rows, (steps, valid))
    total = len(cut.sequences) if learned is None else int(learned.sum())
    sequences = cut.sequences
    rank, processes = share
    if processes > 1:
        if rank >= len(sequences):
            return _idle(part, schema, int(cut.starts[0]), total)
        mine = (torch.arange(len(sequences)) % processes == rank).expand_as(valid)[valid]
        rows, inputs, sequences = rows[mine], inputs[mine], sequences[rank::processes]
        learned = None if learned is None else learned[mine]
        valid = valid[:, rank::processes]
    sizes = valid.sum(1)
    packed = PackedSequence(inputs, sizes[sizes > 0])
    if learned is None:
        return Batch(packed, part.targets[sequences], None, len(sequences), total, cut.fresh)
    if schema.task is Task.TEXT:
        return Batch(packed, part.targets[rows + 1], None, len(rows), total, cut.fresh)
    chosen = learned.nonzero()[:, 0]
    targets = _ahead(part, schema, rows[chosen])
    return Batch(packed, targets, chosen, len(chosen), total, cut.fresh)


def _learned(
    part: Part, schema: Schema, cut: Cut, rows: Tensor, grid: tuple[Tensor, Tensor]
) -> Tensor | None:
    """Which of `rows` have a loss, (R,) of bool; None where sequences have, not steps."""
    if schema.task is Task.CLASSIFY:
        return None
    if part.origins is None:  # a text
        return torch.ones(len(rows), dtype=torch.bool)
    steps, valid = grid
    origins = part.origins[rows]
    return origins if cut.warm_up is None else origins & (steps >= cut.warm_up)[valid]


def _ahead(part: Part, schema: Schema, rows: Tensor) -> Tensor:
    """The scaled targets 1 to P steps after each of `rows`, (len(rows), K, P)."""
    return part.targets[rows[:, None] + torch.arange(1, schema.horizon + 1)].transpose(1, 2)


def _idle(part: Part, schema: Schema, row: int, total: int) -> Batch:
    """One step that has no loss, for a process that must take part all the same."""
    inputs = PackedSequence(part.inputs.values[row : row + 1], torch.ones(1, dtype=torch.int64))
    targets = part.targets[:0]
    if schema.task is Task.FORECAST:
        targets = targets[:, :, None].expand(0, -1, schema.horizon)
    return Batch(inputs, targets, torch.empty(0, dtype=torch.int64), 0, total, fresh=True)


def _in_windows(group: Tensor, starts: Tensor, lengths: Tensor, window: int) -> Iterator[Cut]:
    """The sequences of `group`, longest first, in windows; starts and lengths are of all."""
    starts, lengths = starts[group], lengths[group]
    for begin in range(0, int(lengths[0]), window):
        alive = int((lengths > begin).sum())
        left = (lengths[:alive] - begin).clamp(max=window)
        yield Cut(group[:alive], starts[:alive] + begin, left, fresh=begin == 0)


def _forecast_epoch(part: Part, recipe: Recipe, generator: torch.Generator) -> list[Cut]:
    """Windows that together hold each origin once, cut at random places, in random order."""
    window = recipe.window
    pieces: list[tuple[int, int, int, int]] = []  # sequence, start, length, warm-up
    phases = torch.randint(window, (len(part),), generator=generator).tolist()
    if part.origins is None:
        raise ValueError("a part of a forecast needs its origins")
    least, longest = min(window, recipe.context), int(part.inputs.lengths.max())
    if longest < least:
        raise InputError(
            f"expected a series of at least {least} steps to train on, but the longest has "
            f"{longest}; give longer series, or lower --window from {window} to {longest} or less"
        )
    known = torch.cat((torch.zeros(1, dtype=torch.int64), part.origins.cumsum(0)))
    for sequence, phase in enumerate(phases):
        start, stop = part.inputs.starts[sequence : sequence + 2].tolist()
        for begin in range(start - phase, stop, window):
            first, end = max(start, begin), min(stop, begin + window)
            if end > first and known[end] > known[first]:
                warm = max(start, first - recipe.context)
                pieces.append((sequence, warm, end - warm, first - warm))
    if not pieces:
        raise InputError(
            "expected a training part with a step whose forecast lies in it, but got none; give "
            "longer series or a shorter horizon"
        )
    table = torch.tensor(pieces)
    cuts: list[Cut] = []
    for chosen in torch.randperm(len(pieces), generator=generator).split(recipe.batch_size):
        rows = table[chosen]
        rows = rows[rows[:, 2].argsort(descending=True, stable=True)]
        sequences, starts, lengths, warm_up = rows.unbind(1)
        cuts.append(Cut(sequences, starts, lengths, warm_up=warm_up))
    return cuts


def _text_epoch(part: Part, recipe: Recipe, generator: torch.Generator) -> list[Cut]:
    """Streams of equal length through the text, read side by side from a random first place."""
    symbols = len(part.targets) - 1  # the last has no next one
    streams = max(1, min(recipe.batch_size, symbols // recipe.window))
    most = max(1, min(recipe.window, symbols // 2))
    skipped = int(torch.randint(most, (1,), generator=generator))
    length = (symbols - skipped) // streams
    offsets = skipped + length * torch.arange(streams)
    cuts: list[Cut] = []
    for begin in range(0, length, recipe.window):
        steps = torch.full((streams,), min(recipe.window, length - begin))
        cuts.append(Cut(torch.zeros_like(offsets), offsets + begin, steps, fresh=begin == 0))
    return cuts
