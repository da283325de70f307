"""A plain training loop: AdamW, one-cycle learning rate, cross-entropy, all set by a seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional as F

from cellwright.app.vowels_data import Batch, Split, batches, pack


@dataclass(frozen=True)
class Recipe:
    """How every model of a comparison is trained."""

    epochs: int = 60
    batch_size: int = 30
    learning_rate: float = 6e-3
    weight_decay: float = 1e-2
    gradient_norm: float = 1.0
    noise: float = 0.6  # deviation of Gaussian noise on the standardised training features


def epochs_of(split: Split, recipe: Recipe, seed: int) -> list[Batch]:
    """The batches of a whole training, epoch after epoch, the same for the same seed.

    Each comes with noise of its own: with thirty utterances a speaker, a network would otherwise
    learn the recordings by heart.
    """
    generator = torch.Generator().manual_seed(seed)
    made: list[Batch] = []
    for _ in range(recipe.epochs):
        epoch = batches(split, recipe.batch_size, generator)
        made.extend(_noisy(batch, recipe.noise, generator) for batch in epoch)
    return made


def train(model: nn.Module, work: Iterable[Batch], recipe: Recipe) -> float:
    """Train `model` in place on every batch of `work` once; the seconds that it took.

    `model` takes a packed batch and returns logits (N, classes) and final states.
    """
    work = list(work)
    model.train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=len(work) + 1
    )
    started = perf_counter()
    for batch in work:
        logits, _ = model(batch.packed)
        loss = F.cross_entropy(logits, batch.labels)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm)
        optimiser.step()
        schedule.step()
    return perf_counter() - started


def accuracy(model: nn.Module, split: Split) -> float:
    """The share of the sequences of `split` that `model` labels right."""
    batch = pack(split, range(len(split)))
    model.eval()
    with torch.no_grad():
        logits, _ = model(batch.packed)
    return float((logits.argmax(dim=-1) == batch.labels).double().mean())


def _noisy(batch: Batch, deviation: float, generator: torch.Generator) -> Batch:
    data = batch.packed.data
    noise = torch.randn(data.shape, generator=generator, dtype=data.dtype)
    return Batch(batch.packed._replace(data=data + deviation * noise), batch.labels)
