"""The comparison as a table with a caption that says how each figure was measured."""

import platform
from collections.abc import Sequence
from statistics import fmean, stdev

import torch
from rich import box
from rich.table import Table

from cellwright.app.vowels_comparison import Outcome, Plan
from cellwright.app.vowels_data import Dataset

# Lines are broken by hand so that the table keeps its form in 80 columns.
HEADERS = (
    "gates",
    "parameters",
    "test accuracy",
    "training",
    "the same\non torch.nn",
    "streamed\nstep",
)


def table(outcomes: Sequence[Outcome], dataset: Dataset, plan: Plan) -> Table:
    """The outcomes, one row a model."""
    made = Table(
        title=f"{dataset.name}: {len(dataset.train)} sequences to train on, "
        f"{len(dataset.test)} to test",
        caption=caption(outcomes, plan),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    made.add_column("model", no_wrap=True)
    for header in HEADERS:
        made.add_column(header, justify="right", no_wrap=True)
    for outcome in outcomes:
        made.add_row(*row(outcome))
    return made


def row(outcome: Outcome) -> tuple[str, ...]:
    """One model's cells; a figure that was not measured is a dash."""
    return (
        outcome.candidate.label,
        str(outcome.gates),
        f"{outcome.parameters:,}",
        _mean_and_deviation(outcome.accuracies),
        f"{fmean(outcome.seconds):.2f} s",
        f"{fmean(outcome.torch_seconds):.2f} s" if outcome.torch_seconds else "–",
        "–" if outcome.step_microseconds is None else f"{outcome.step_microseconds:.1f} µs",
    )


def caption(outcomes: Sequence[Outcome], plan: Plan) -> str:
    """How the figures were measured, with the numbers of this run."""
    recipe = plan.recipe
    training = (
        f"Hidden size {plan.hidden_size}, mean readout, {_plural(recipe.epochs, 'epoch')} in "
        f"batches of {recipe.batch_size} of similar length, AdamW with a one-cycle learning rate "
        f"up to {recipe.learning_rate:g}, input noise of {recipe.noise:g} (chosen on thirds of the "
        f"training split held out), {_plural(plan.seeds, 'seed')}. Accuracy: mean ± standard "
        "deviation over the seeds, after the last epoch. Training: mean time over the seeds, "
        "batches made and kernels compiled beforehand."
    )
    streamed = (
        "Streamed step: median of a module call on one step of one sequence, state carried, "
        "no gradient; two directions cannot stream."
    )
    machine = (
        f"PyTorch {torch.__version__}, {_plural(torch.get_num_threads(), 'thread')}, "
        f"{platform.machine()}."
    )
    return "\n".join((training, _torch_line(outcomes, plan), streamed, machine))


def _torch_line(outcomes: Sequence[Outcome], plan: Plan) -> str:
    gaps = [
        abs(ours - theirs)
        for outcome in outcomes
        for ours, theirs in zip(outcome.accuracies, outcome.torch_accuracies, strict=False)
    ]
    if not gaps:
        return "Nothing was trained on torch.nn."
    which = "seed 0" if plan.torch_seeds == 1 else f"seeds 0 to {plan.torch_seeds - 1}"
    return (
        f"On torch.nn: the same training of {which}, with the same initial weights and batches; "
        f"its test accuracy is within {max(gaps):.3f} of ours."
    )


def _mean_and_deviation(scores: Sequence[float]) -> str:
    if len(scores) == 1:
        return f"{scores[0]:.3f}"
    return f"{fmean(scores):.3f} ± {stdev(scores):.3f}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
