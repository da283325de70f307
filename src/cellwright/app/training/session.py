"""Train a network on a problem: from the data to a trained, judged model in memory."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.app.model.network import Network
from cellwright.app.problem import Problem
from cellwright.app.training.batches import epoch, make
from cellwright.app.training.checkpoint import checkpoint_path, fingerprint
from cellwright.app.training.evaluate import evaluate
from cellwright.app.training.interrupts import Interrupts
from cellwright.app.training.keeper import Keeper
from cellwright.app.training.loop import Loop, Progress, Update
from cellwright.app.training.recipe import Recipe
from cellwright.app.training.results import Run

__all__ = ["Interrupted", "Progress", "Trained", "Update", "initial_network", "train"]


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        network: with the weights of the best epoch, in evaluation mode.
        run: its curve, its score on the test part, its time.
        best_epoch: by the validation part, counted from 1; the last one where there is none.
    """

    network: Network
    run: Run
    best_epoch: int


class Interrupted(KeyboardInterrupt):
    """A training was stopped by Ctrl-C; what it had reached is kept.

    Attributes:
        trained: the best network so far; its best_epoch is 0 where no epoch was finished.
        checkpoint: what `resume` goes on from; None if the training was given no folder.
    """

    def __init__(self, trained: Trained, checkpoint: Path | None) -> None:
        where = "" if checkpoint is None else f"; its checkpoint is {checkpoint}"
        super().__init__(f"training stopped after {len(trained.run.history)} epochs{where}")
        self.trained = trained
        self.checkpoint = checkpoint


def train(
    problem: Problem,
    design: Design,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    devices: int = 1,
    progress: Progress | None = None,
    make_recurrent: Callable[[nn.Module], nn.Module] | None = None,
) -> Trained:
    """Train a network; the same arguments on the same machine give the same bits.

    Args:
        problem: the data.
        design: the recurrent stack.
        recipe: how to train. Default: `Recipe.for_problem(problem)`
        seed: of the initial weights, the batches' order, noise and dropout.
        folder: where a checkpoint is kept, as folder/checkpoint/last.safetensors; a killed training
            resumes from it. Default: nothing is kept
        resume: go on from the folder's checkpoint.
        devices: how many processes share each batch. Beside this one, Lightning starts the others
            with this process's own command line, so that all of them come to this call; under
            torchrun they are there already, and their number is torchrun's.
        progress: called after every step and every epoch.
        make_recurrent: makes, of the initialised recurrent stack, the one to train in its place.

    Raises:
        InputError: the loss is not finite, or a checkpoint or a number of devices does not fit.
        Interrupted: Ctrl-C, after the step at hand.
    """
    recipe = Recipe.for_problem(problem) if recipe is None else recipe
    if resume and folder is None:
        raise InputError("expected a folder to resume from, but got none; name the folder")
    fabric = _launch(devices, recipe)
    path = None if folder is None else checkpoint_path(folder)
    with torch.random.fork_rng(devices=[]), Interrupts() as interrupts:
        network = initial_network(problem, design, seed)
        if make_recurrent is not None:
            network.recurrent = make_recurrent(network.recurrent)
        _warm_up(network, problem, recipe)
        loop = Loop(fabric, problem, network, recipe, seed=seed, progress=progress)
        same = {} if path is None else fingerprint(problem, design, recipe, seed, fabric.world_size)
        keeper = Keeper(loop, path, same)
        if resume:
            keeper.restore()
        else:
            keeper.write()
        finished = loop.run(interrupts, keeper.keep)
        keeper.write()
        trained = _trained(loop, seed)
        if not finished or interrupts.pending:
            raise Interrupted(trained, path)
        return trained


def initial_network(problem: Problem, design: Design, seed: int = 0) -> Network:
    """The network that a training with this seed begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(problem.schema, design, problem.scaling)


def _trained(loop: Loop, seed: int) -> Trained:
    network, problem = loop.network, loop.problem
    if loop.best:
        network.load_state_dict(loop.best)
    network.float().eval()
    network.zero_grad()
    score, _ = evaluate(network, problem.test, problem.schema, problem.scaling)
    seconds = sum(epoch.seconds for epoch in loop.history) + loop.position.seconds
    run = Run(seed, tuple(loop.history), score, seconds)
    return Trained(network, run, loop.position.best_epoch)


def _warm_up(network: Network, problem: Problem, recipe: Recipe) -> None:
    """Compile the kernels, which is no part of a training's time; nothing else is changed."""
    generator = torch.Generator().manual_seed(0)
    whole = network.design.bidirectional
    cut = epoch(problem.train, problem.schema, recipe, generator, whole=whole)[0]
    batch = make(problem.train, problem.schema, cut)
    outputs, _ = network(batch.inputs)
    (outputs if isinstance(outputs, torch.Tensor) else outputs.data).sum().backward()
    network.zero_grad()


def _launch(devices: int, recipe: Recipe) -> Fabric:
    if devices < 1:
        raise InputError(f"expected at least 1 device, but got {devices}; choose another number")
    nodes = 1
    if torch.distributed.is_torchelastic_launched():
        world, devices = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = world // devices
    fabric = Fabric(
        accelerator="cpu",
        strategy="ddp" if devices * nodes > 1 else "auto",
        devices=devices,
        num_nodes=nodes,
        precision=recipe.precision,
    )
    fabric.launch()
    return fabric
