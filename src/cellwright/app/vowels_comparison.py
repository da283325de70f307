"""Train a few recurrent models over several seeds, and the same on torch.nn; nothing is printed.

Shapes: L steps, N sequences of a batch, H_in features of a step, H hidden units.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter_ns

import torch
from torch import Tensor, nn

from cellwright.app.vowels_data import Batch, Dataset, Split, pack
from cellwright.app.vowels_training import Recipe, accuracy, epochs_of, train
from cellwright.cells import CELLS
from cellwright.describe import describe
from cellwright.errors import CellwrightError
from cellwright.nn import SequenceModel

# From the same weights both libraries must give the same logits, or no time is reported.
AGREEMENT = 1e-4
WARM_UP_BATCHES = 3
STREAM_WARM_UP_STEPS = 200
STREAM_STEPS = 3000

Progress = Callable[[str], None]
TORCH_CLASSES: dict[str, Callable[..., nn.RNNBase]] = {
    "rnn_tanh": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


@dataclass(frozen=True)
class Candidate:
    """One row of the comparison: a bundled cell, run one way or both ways."""

    label: str
    cell: str
    bidirectional: bool = False


CANDIDATES = (
    Candidate("RNN", "rnn_tanh"),
    Candidate("GRU", "gru"),
    Candidate("LSTM", "lstm"),
    Candidate("Bi-GRU", "gru", bidirectional=True),
    Candidate("Bi-LSTM", "lstm", bidirectional=True),
)


@dataclass(frozen=True)
class Plan:
    """What to run: `torch_seeds` of the `seeds` trainings are run on torch.nn as well."""

    recipe: Recipe = field(default_factory=Recipe)
    hidden_size: int = 64
    seeds: int = 3
    torch_seeds: int = 1
    candidates: tuple[Candidate, ...] = CANDIDATES

    @property
    def trainings(self) -> int:
        """How often `compare` calls its progress function."""
        return len(self.candidates) * (self.seeds + self.torch_seeds)


@dataclass(frozen=True)
class Outcome:
    """What one candidate reached, one entry a seed; the torch.nn entries pair with the first."""

    candidate: Candidate
    gates: int
    parameters: int
    accuracies: tuple[float, ...]
    seconds: tuple[float, ...]
    torch_accuracies: tuple[float, ...]
    torch_seconds: tuple[float, ...]
    step_microseconds: float | None  # None where streaming is impossible: both directions


def compare(dataset: Dataset, plan: Plan, progress: Progress) -> list[Outcome]:
    """Run `plan` on `dataset`; `progress` gets a line before each training."""
    for candidate in plan.candidates:  # compiling is no part of a training's time
        model = _model(candidate, dataset, plan, seed=0)
        _warm_up(model, dataset.train, plan.recipe)
        _warm_up(_torch_twin(model, candidate), dataset.train, plan.recipe)
    return [_outcome(candidate, dataset, plan, progress) for candidate in plan.candidates]


def _outcome(candidate: Candidate, dataset: Dataset, plan: Plan, progress: Progress) -> Outcome:
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    model = _model(candidate, dataset, plan, seed=0)
    for seed in range(plan.seeds):
        model = _model(candidate, dataset, plan, seed)
        work = epochs_of(dataset.train, plan.recipe, seed)
        if seed < plan.torch_seeds:
            progress(f"{candidate.label}, seed {seed}, torch.nn")
            twin = _torch_twin(model, candidate)
            _check_agreement(candidate, model, twin, dataset.test)
            theirs.append(_trained(twin, work, dataset.test, plan.recipe))
        progress(f"{candidate.label}, seed {seed}")
        ours.append(_trained(model, work, dataset.test, plan.recipe))
    return Outcome(
        candidate,
        gates=describe(CELLS[candidate.cell]).gates,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        accuracies=tuple(score for score, _ in ours),
        seconds=tuple(seconds for _, seconds in ours),
        torch_accuracies=tuple(score for score, _ in theirs),
        torch_seconds=tuple(seconds for _, seconds in theirs),
        step_microseconds=(
            None if candidate.bidirectional else _stream(model.recurrent, dataset.test)
        ),
    )


def _model(candidate: Candidate, dataset: Dataset, plan: Plan, seed: int) -> SequenceModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SequenceModel(
            candidate.cell,
            dataset.features,
            plan.hidden_size,
            dataset.classes,
            bidirectional=candidate.bidirectional,
            readout="mean",
        )


def _torch_twin(model: SequenceModel, candidate: Candidate) -> SequenceModel:
    """A copy of `model` with its weights whose recurrent stack is torch.nn's own."""
    weights = model.recurrent.state_dict()
    first = weights["weight_ih_l0"]
    recurrent = TORCH_CLASSES[candidate.cell](
        first.shape[1],
        weights["weight_hh_l0"].shape[1],
        bidirectional=candidate.bidirectional,
        dtype=first.dtype,
    )
    recurrent.load_state_dict(weights)
    twin = deepcopy(model)
    twin.add_module("recurrent", recurrent)  # by name: its class is not the one it replaces
    return twin


def _warm_up(model: SequenceModel, split: Split, recipe: Recipe) -> None:
    batch = pack(split, range(min(recipe.batch_size, len(split))))
    train(deepcopy(model), [batch] * WARM_UP_BATCHES, recipe)


def _check_agreement(
    candidate: Candidate, model: SequenceModel, twin: SequenceModel, split: Split
) -> None:
    batch = pack(split, range(len(split)))
    with torch.no_grad():
        difference = float((model(batch.packed)[0] - twin(batch.packed)[0]).abs().max())
    if not difference <= AGREEMENT:  # written so that NaN fails too
        raise CellwrightError(
            f"expected {candidate.label} and torch.nn to give the same logits from the same "
            f"weights within {AGREEMENT:g}, but they differ by {difference:g}; no time is worth "
            "reporting for a wrong result, please report this as a bug"
        )


def _trained(
    model: SequenceModel, work: list[Batch], test: Split, recipe: Recipe
) -> tuple[float, float]:
    """Train `model`; its accuracy on `test` and the seconds that the training took."""
    seconds = train(model, work, recipe)
    return accuracy(model, test), seconds


def _stream(recurrent: nn.Module, split: Split) -> float:
    """Median microseconds of one step: a module call on (1, 1, H_in), its state carried over."""
    recurrent.eval()
    steps = torch.cat(split.sequences)[:STREAM_STEPS, None, None].unbind()
    state: Tensor | tuple[Tensor, Tensor] | None = None
    taken: list[int] = []
    with torch.no_grad():
        for step in steps:
            started = perf_counter_ns()
            _, state = recurrent(step, state)
            taken.append(perf_counter_ns() - started)
    return median(taken[STREAM_WARM_UP_STEPS:]) / 1000
