"""A comparison as a table with a caption that says how each figure was measured."""

import math
import platform
from collections.abc import Sequence

import torch
from rich import box
from rich.table import Table

from cellwright.app.problem import Part, Problem
from cellwright.app.report import verdict as judgement
from cellwright.app.schema import Task
from cellwright.app.training.results import Comparison, Entry

__all__ = ["caption", "row", "table", "verdict"]

# Lines are broken by hand so that the table keeps its form in 80 columns.
SCORES: dict[Task, str] = {
    Task.CLASSIFY: "test accuracy",
    Task.FORECAST: "test error",
    Task.TEXT: "test bits",
}
DASH = "–"


def table(comparison: Comparison) -> Table:
    """The networks and, beneath them, the plain methods, one row each."""
    problem = comparison.problem
    made = Table(
        title=f"{problem.name}: {_sizes(problem)}",
        caption=caption(comparison),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    made.add_column("model")
    headers = ("gates", "parameters", SCORES[problem.schema.task], "training",
               "the same\non torch.nn", "streamed\nstep")  # fmt: skip
    for header in headers:
        made.add_column(header, justify="right", no_wrap=True)
    decimals = _decimals(comparison.entries)
    entries = comparison.entries
    for entry, following in zip(entries, (*entries[1:], None), strict=True):
        last = entry.design is not None and following is not None and following.design is None
        made.add_row(*row(entry, decimals), end_section=last)
    return made


def row(entry: Entry, decimals: int = 3) -> tuple[str, ...]:
    """One entry's cells; a figure that was not measured is a dash."""
    beside = judgement.ratio(entry)
    step = entry.step_microseconds
    return (
        entry.label,
        DASH if entry.gates is None else str(entry.gates),
        DASH if entry.parameters is None else f"{entry.parameters:,}",
        _score(entry, decimals),
        _seconds(judgement.seconds(entry)),
        DASH if beside is None else _seconds(beside[0]),
        DASH if step is None else f"{step:.1f} µs",
    )


def caption(comparison: Comparison) -> str:
    """How the figures were measured, with the numbers of this run."""
    task = comparison.problem.schema.task
    targets = ", ".join(comparison.problem.schema.targets)
    score = {
        Task.CLASSIFY: "Accuracy",
        Task.FORECAST: f"Error (mean absolute, of {targets}, in its own unit)",
        Task.TEXT: f"Bits per {comparison.problem.schema.unit} (fewer are better)",
    }[task]
    several = any(len(entry.runs) > 1 for entry in comparison.entries)
    spread = "mean ± standard deviation over the seeds" if several else "of the one seed"
    training = (
        f"{comparison.budget} {score}: {spread}. Training: mean time over the seeds, kernels "
        "compiled beforehand."
    )
    streamed = (
        "Streamed step: median of a module call on one step of one sequence, state carried, no "
        "gradient; two directions cannot stream."
    )
    machine = (
        f"PyTorch {torch.__version__}, {_plural(torch.get_num_threads(), 'thread')}, "
        f"{platform.machine()}."
    )
    return "\n".join((training, _torch_line(comparison), streamed, machine))


def verdict(comparison: Comparison) -> str:
    """Whether a recurrent network pays, in a line or two."""
    said = judgement.judge(comparison)
    return " ".join((said.headline, *said.sentences))


def _torch_line(comparison: Comparison) -> str:
    pairs = [
        (run, run.torch_score) for entry in comparison.entries for run in entry.runs
        if run.torch_score is not None
    ]  # fmt: skip
    if not pairs:
        return "Nothing was trained on torch.nn."
    seeds = sorted({run.seed for run, _ in pairs})
    which = "seed 0" if len(seeds) == 1 else f"seeds 0 to {seeds[-1]}"
    decimals = _decimals(comparison.entries)
    gap = max(abs(run.score - theirs) for run, theirs in pairs)
    return (
        f"On torch.nn: the same training of {which}, with the same initial weights and batches; "
        f"its score is within {gap:.{decimals}f} of ours."
    )


def _sizes(problem: Problem) -> str:
    """How much there is to train and to test on, in the task's own measure."""
    noun = {
        Task.CLASSIFY: "sequences",
        Task.FORECAST: "steps",
        Task.TEXT: f"{problem.schema.unit}s",
    }[problem.schema.task]
    return f"{_size(problem.train):,} {noun} to train on, {_size(problem.test):,} to test"


def _size(part: Part) -> int:
    if part.origins is not None:
        return int(part.origins.sum())
    return len(part.targets)  # of a sequence each; of text, of each symbol


def _score(entry: Entry, decimals: int) -> str:
    deviation = judgement.spread(entry)
    mean = f"{judgement.mean(entry):.{decimals}f}"
    return mean if deviation is None else f"{mean} ± {deviation:.{decimals}f}"


def _decimals(entries: Sequence[Entry]) -> int:
    """Three for scores of about 1, so that all of a table have at least three figures."""
    smallest = min((abs(judgement.mean(entry)) for entry in entries), default=1.0)
    if not 0 < smallest < math.inf:
        return 3
    return max(0, 3 - max(0, math.floor(math.log10(smallest)))) if smallest >= 0.05 else 5


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1000 else f"{value:,.0f} s"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
