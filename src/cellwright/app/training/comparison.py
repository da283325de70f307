"""Networks of several designs under the same budget, beside torch.nn and beside plain methods."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from time import perf_counter, perf_counter_ns
from typing import Any, Protocol

import torch

from cellwright.app.bench.timing import summarise
from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.app.model.network import Network
from cellwright.app.problem import Problem
from cellwright.app.schema import Task
from cellwright.app.training.baselines import baselines
from cellwright.app.training.evaluate import evaluate
from cellwright.app.training.recipe import Recipe
from cellwright.app.training.results import Comparison, Entry, Run
from cellwright.app.training.session import Trained, Update, initial_network, train
from cellwright.app.training.twin import (
    check_agreement,
    has_twin,
    outputs_on_test,
    torch_layers,
    twin_of,
)
from cellwright.describe import describe

__all__ = ["Watch", "compare", "trainings"]

STREAM_WARM_UP_STEPS = 200
STREAM_STEPS = 3000


class Watch(Protocol):
    """What is told of each training: before it, with no update, and of every step of it."""

    def __call__(self, description: str, update: Update | None, /) -> None:
        """Take note of it."""


def _unwatched(_description: str, _update: Update | None, /) -> None:
    """Watch nothing."""


def trainings(designs: Sequence[Design], seeds: int, torch_seeds: int) -> int:
    """How many trainings `compare` runs."""
    return sum(seeds + (torch_seeds if has_twin(design.cell) else 0) for design in designs)


def compare(
    problem: Problem,
    designs: Sequence[Design],
    recipe: Recipe,
    *,
    seeds: int = 3,
    torch_seeds: int = 1,
    command: str = "",
    progress: Watch | None = None,
) -> Comparison:
    """Train every design with every seed by the same recipe, and judge all on the test part.

    Args:
        problem: the data.
        designs: the networks, in the order of the table.
        recipe: how each is trained.
        seeds: trainings of each design, from seed 0 on.
        torch_seeds: how many of these are repeated on torch.nn, from the same initial weights and
            with the same batches, where torch.nn has the cell.
        command: what the report says made it.
        progress: told of each training.

    Raises:
        InputError: no designs, or numbers of seeds that make no sense.
        CellwrightError: torch.nn's outputs differ from ours.
    """
    if not designs:
        raise InputError("expected at least one cell, but got none; name one")
    if seeds < 1 or not 0 <= torch_seeds <= seeds:
        raise InputError(
            f"expected at least one seed and at most as many on torch.nn, but got {seeds} and "
            f"{torch_seeds}; raise --seeds or lower --torch-seeds"
        )
    started = perf_counter()
    watch: Watch = progress or _unwatched
    for design in designs:
        _prepare(problem, design)
    entries = [_entry(problem, one, recipe, seeds, torch_seeds, watch) for one in designs]
    return Comparison(
        problem,
        (*entries, *baselines(problem)),
        _budget(problem, designs, recipe, seeds),
        command,
        perf_counter() - started,
    )


def _entry(
    problem: Problem,
    design: Design,
    recipe: Recipe,
    seeds: int,
    torch_seeds: int,
    watch: Watch,
) -> Entry:
    runs: list[Run] = []
    first: Trained | None = None
    for seed in range(seeds):
        theirs: Run | None = None
        if seed < torch_seeds and has_twin(design.cell):
            theirs = _trained(problem, design, recipe, seed, watch, on_torch=True).run
        made = _trained(problem, design, recipe, seed, watch)
        first = first or made
        run = made.run
        if theirs is not None:
            run = replace(run, torch_score=theirs.score, torch_seconds=theirs.seconds)
        runs.append(run)
    assert first is not None  # there is at least one seed
    network = first.network
    _, predictions = evaluate(network, problem.test, problem.schema, problem.scaling)
    return Entry(
        design.label,
        design,
        gates=describe(design.cell).gates,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        runs=tuple(runs),
        step_microseconds=None if design.bidirectional else _stream(network, problem),
        predictions=predictions,
        weights={name: value.detach().clone() for name, value in network.state_dict().items()},
    )


def _prepare(problem: Problem, design: Design) -> None:
    """See that torch.nn agrees; compile beforehand what judges a network between epochs."""
    network = initial_network(problem, design)
    outputs = outputs_on_test(network, problem)
    if has_twin(design.cell):
        check_agreement(design.label, outputs, outputs_on_test(twin_of(network), problem))


def _trained(
    problem: Problem,
    design: Design,
    recipe: Recipe,
    seed: int,
    watch: Watch,
    *,
    on_torch: bool = False,
) -> Trained:
    name = f"{design.label}, seed {seed}" + (", torch.nn" if on_torch else "")
    watch(name, None)
    return train(
        problem,
        design,
        recipe,
        seed=seed,
        progress=lambda update: watch(name, update),
        make_recurrent=torch_layers if on_torch else None,
    )


def _stream(network: Network, problem: Problem) -> float:
    """Median microseconds of one step: the layers called on (1, 1, H), their state carried over."""
    network.eval()
    values = problem.test.inputs.values[:STREAM_STEPS]
    state: Any = None
    taken: list[float] = []
    with torch.no_grad():
        if problem.schema.task is Task.TEXT:
            values = network.embedding(values)
        steps = values.to(next(network.parameters()).dtype)[:, None, None].unbind()
        for step in islice(cycle(steps), STREAM_WARM_UP_STEPS + STREAM_STEPS):
            started = perf_counter_ns()
            _, state = network.recurrent(step, state)
            taken.append((perf_counter_ns() - started) / 1000)
    return summarise(taken[STREAM_WARM_UP_STEPS:]).median


def _budget(problem: Problem, designs: Sequence[Design], recipe: Recipe, seeds: int) -> str:
    """How every network was trained, in one paragraph."""
    sizes = sorted({design.hidden_size for design in designs})
    parts = [f"Hidden size {', '.join(map(str, sizes))}"]
    if problem.schema.task is Task.CLASSIFY:
        parts.append("mean readout")
    stopped = problem.validation is not None and recipe.patience is not None
    most = "at most " if stopped else ""
    parts.append(most + _plural(recipe.epochs, "epoch") + _batches(problem, recipe))
    parts.append(f"AdamW with a one-cycle learning rate up to {recipe.learning_rate:g}")
    if recipe.noise:
        parts.append(f"input noise of {recipe.noise:g}")
    parts.append(_plural(seeds, "seed"))
    kept = "after the last epoch"
    if problem.validation is not None:
        kept = "of the epoch with the best validation score"
        if recipe.patience is not None:
            kept += f", {_plural(recipe.patience, 'epoch')} without a better one ending a training"
    return f"{', '.join(parts)}. Weights {kept}."


def _batches(problem: Problem, recipe: Recipe) -> str:
    match problem.schema.task:
        case Task.CLASSIFY:
            return f" in batches of {recipe.batch_size} of similar length"
        case Task.FORECAST:
            warm = f" after {recipe.context} to warm up" if recipe.context else ""
            return f" in batches of {recipe.batch_size} windows of {recipe.window} steps{warm}"
        case Task.TEXT:
            return (
                f" in batches of {recipe.batch_size} streams, {recipe.window} characters at a time "
                "with the state carried on"
            )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
