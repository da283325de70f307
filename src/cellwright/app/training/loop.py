"""The training loop, on Lightning Fabric: its processes, its precision, its gradients' averages."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor

from cellwright.app.errors import InputError
from cellwright.app.model.network import Network, first_sequences, map_states
from cellwright.app.problem import Problem
from cellwright.app.training import results
from cellwright.app.training.batches import Cut, epoch, make
from cellwright.app.training.evaluate import assess
from cellwright.app.training.interrupts import Interrupts
from cellwright.app.training.metrics import METRICS
from cellwright.app.training.recipe import Recipe

__all__ = ["Loop", "Progress", "Update"]

WARM_UP = 0.3  # the part of a training in which the learning rate rises
FIRST, LAST = 1 / 25, 1 / 250_000  # the learning rates there, of the highest
MOMENTUM = 0.95, 0.85  # at the lowest and at the highest learning rate


@dataclass(frozen=True)
class Update:
    """How far a training is, after a step or, with `finished`, after an epoch.

    Attributes:
        epoch: its number, from 1; `epochs` is the most there will be.
        step: its number within the epoch, from 1; `steps` is how many the epoch has.
        loss: of the step's batch; nan at the end of an epoch.
        score: of the validation part after the epoch before; None where there is none.
        sequences_per_second: through the network since the epoch began, all processes together.
        finished: what the epoch came to, in the one update at its end.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    score: float | None
    sequences_per_second: float
    finished: results.Epoch | None = None


class Progress(Protocol):
    """What is called after every step and every epoch, in the first process alone."""

    def __call__(self, update: Update, /) -> None:
        """Take note of it."""


@dataclass
class Position:
    """Where a training is: all that a checkpoint holds beside tensors."""

    epoch: int = 0  # epochs finished
    cut: int = 0  # cuts of the epoch finished
    loss: float = 0.0  # summed over the epoch's losses, of which there are `count`
    count: int = 0
    seconds: float = 0.0  # of the epoch
    best_epoch: int = 0  # 0 where none is finished
    best_score: float = math.nan
    best_loss: float = math.nan


class Loop:
    """One training, step by step; `run` is all of it, from wherever it stands.

    Args:
        fabric: launched.
        problem: what is learned.
        network: what learns; trained in place.
        recipe: how.
        seed: of the batches' order, of their noise and of dropout.
        progress: told of every step, if given.
    """

    def __init__(
        self,
        fabric: Fabric,
        problem: Problem,
        network: Network,
        recipe: Recipe,
        *,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        self.fabric, self.problem, self.recipe = fabric, problem, recipe
        self.network, self.seed = network, seed
        self.progress = progress if fabric.is_global_zero else None
        self.optimiser = torch.optim.AdamW(
            network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.module, self._fabric_optimiser = fabric.setup(network, self.optimiser)
        self.parameters = list(network.parameters())
        self.generator = torch.Generator().manual_seed(seed)
        self.at_epoch = self.generator.get_state()  # of the generator, where the epoch began
        self.position = Position()
        self.history: list[results.Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.states: Any = None  # carried from cut to cut
        self.metric = METRICS[problem.schema.task]

    def run(self, interrupts: Interrupts, keep: Callable[[], None]) -> bool:
        """Train to the end, or to the end of a step that was interrupted; whether it is the end.

        Args:
            interrupts: entered.
            keep: called after every step and epoch.

        Raises:
            InputError: the loss or a gradient is not finite.
        """
        while self.position.epoch < self.recipe.epochs and not self._patience_is_out():
            if not self._epoch(interrupts, keep):
                return False
            keep()
        return True

    def _patience_is_out(self) -> bool:
        patience, position = self.recipe.patience, self.position
        if patience is None or self.problem.validation is None:
            return False
        return position.epoch - position.best_epoch >= patience

    def _epoch(self, interrupts: Interrupts, keep: Callable[[], None]) -> bool:
        """Run all cuts of an epoch, or those left after a checkpoint; whether it was finished."""
        position = self.position
        cuts = self._cuts()
        self.module.train()
        started = perf_counter() - position.seconds
        sequences = sum(len(cut.sequences) for cut in cuts[: position.cut])
        for index in range(position.cut, len(cuts)):
            self._set_rates((position.epoch + index / len(cuts)) / self.recipe.epochs)
            loss, stop = self._step(cuts[index], interrupts)
            position.cut = index + 1
            position.seconds = perf_counter() - started
            sequences += len(cuts[index].sequences)
            self._tell(loss, len(cuts), sequences)
            if stop:
                return False
            keep()
        self._finish_epoch(started)
        self._tell(math.nan, len(cuts), sequences)
        return True

    def _cuts(self) -> list[Cut]:
        """The epoch's cuts; in the middle of one, those it began with."""
        problem, position = self.problem, self.position
        current = self.generator.get_state()
        self.generator.set_state(self.at_epoch)
        whole = self.network.design.bidirectional
        cuts = epoch(problem.train, problem.schema, self.recipe, self.generator, whole=whole)
        if position.cut:
            self.generator.set_state(current)
        else:  # for dropout, which every process draws for itself
            mixed = (self.seed * 1_000_003 + position.epoch) * 4_096 + self.fabric.global_rank
            torch.manual_seed(mixed % 2**63)
        return cuts

    def _step(self, cut: Cut, interrupts: Interrupts) -> tuple[float, bool]:
        """One step of the optimiser; the loss over all processes, and whether to stop."""
        fabric, schema = self.fabric, self.problem.schema
        processes = fabric.world_size
        batch = make(
            self.problem.train,
            schema,
            cut,
            noise=self.recipe.noise,
            generator=self.generator,
            share=(fabric.global_rank, processes),
        )
        begun = (
            None if batch.fresh else first_sequences(self.states, int(batch.inputs.batch_sizes[0]))
        )
        outputs, states = self.module(batch.inputs, begun)
        self.states = map_states(states, Tensor.detach)
        losing = outputs if isinstance(outputs, Tensor) else outputs.data
        if batch.rows is not None:
            losing = losing[batch.rows]
        # Processes average their gradients: so weighted, they make the mean over the whole cut.
        weight = batch.count * processes / batch.total
        loss = self.network.loss(losing, batch.targets) * weight if batch.count else losing.sum()
        value, stop = loss.item(), interrupts.pending
        if processes > 1:
            shared = fabric.all_reduce(torch.tensor([value, float(stop)]), reduce_op="mean")
            value, stop = shared[0].item(), shared[1].item() > 0
        for parameter in self.parameters:
            parameter.grad = None
        fabric.backward(loss)
        norm = self._clip()
        if not (math.isfinite(value) and math.isfinite(norm)):
            self._refuse(value)
        self._fabric_optimiser.step()
        self.position.loss += value * batch.total
        self.position.count += batch.total
        return value, stop

    def _clip(self) -> float:
        """Shorten a gradient that is too long; its length before.

        A sixth of the time of torch's clip_grad_norm_, which measures each tensor on its own.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
        if norm > self.recipe.gradient_norm:
            for gradient in gradients:
                gradient.mul_(self.recipe.gradient_norm / norm)
        return norm

    def _refuse(self, loss: float) -> None:
        what = "gradient" if math.isfinite(loss) else f"loss of {loss}"
        raise InputError(
            f"expected a finite loss and gradient, but got a {what} that is not, in epoch "
            f"{self.position.epoch + 1}, step {self.position.cut + 1}; lower the learning rate "
            f"(now {self.recipe.learning_rate:g}), or look for extreme values in the data"
        )

    def _set_rates(self, done: float) -> None:
        """Set learning rate and momentum by the one-cycle rule; `done` is from 0 to 1."""
        if done < WARM_UP:
            height = (1 - math.cos(math.pi * done / WARM_UP)) / 2
            rate = FIRST + height * (1 - FIRST)
        else:
            height = (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
            rate = LAST + height * (1 - LAST)
        low, high = MOMENTUM
        for group in self.optimiser.param_groups:
            group["lr"] = rate * self.recipe.learning_rate
            group["betas"] = (low + height * (high - low), group["betas"][1])

    def _finish_epoch(self, started: float) -> None:
        position, problem = self.position, self.problem
        number = position.epoch + 1
        loss = score = None
        if problem.validation is not None:
            loss, score, _ = assess(
                self.network, problem.validation, problem.schema, problem.scaling, keep=False
            )
            if self._is_better(score, loss):
                position.best_epoch, position.best_score = number, score
                position.best_loss = loss
                self.best = {k: v.clone() for k, v in self.network.state_dict().items()}
        else:
            position.best_epoch = number
        mean = position.loss / position.count
        seconds = perf_counter() - started
        self.history.append(results.Epoch(number, mean, loss, score, seconds))
        self.at_epoch = self.generator.get_state()
        self.states = None
        position.epoch, position.cut = number, 0
        position.loss, position.count, position.seconds = 0.0, 0, 0.0

    def _is_better(self, score: float, loss: float) -> bool:
        """By score; among equal ones, as a share of right labels often is, by loss."""
        sign = 1 if self.metric.more_is_better else -1
        position = self.position
        if position.best_epoch == 0:
            return True
        return (sign * score, -loss) > (sign * position.best_score, -position.best_loss)

    def _tell(self, loss: float, steps: int, sequences: int) -> None:
        if self.progress is None:
            return
        position, history = self.position, self.history
        ended = position.cut == 0
        last = history[-1] if history else None
        seconds = last.seconds if ended and last is not None else position.seconds
        self.progress(
            Update(
                epoch=position.epoch + (not ended),
                epochs=self.recipe.epochs,
                step=steps if ended else position.cut,
                steps=steps,
                loss=loss,
                score=None if last is None else last.validation_score,
                sequences_per_second=sequences / max(seconds, 1e-9),
                finished=last if ended else None,
            )
        )
