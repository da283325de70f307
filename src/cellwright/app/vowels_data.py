"""The bundled recordings as packed batches of standardised float32 sequences.

Shapes: L steps, N sequences of a batch, H_in features of a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import polars as pl
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence


@dataclass(frozen=True)
class Split:
    """Labelled sequences: `sequences[n]` has shape (L_n, H_in), `labels` (N,) of int64."""

    sequences: tuple[Tensor, ...]
    labels: Tensor

    def __len__(self) -> int:
        """The number of sequences, N."""
        return len(self.sequences)


@dataclass(frozen=True)
class Dataset:
    """A training and a test split of the same features and classes."""

    name: str
    train: Split
    test: Split
    features: int
    classes: int


@dataclass(frozen=True)
class Batch:
    """Packed sequences and their labels (N,), both in the same order."""

    packed: PackedSequence
    labels: Tensor


def load_japanese_vowels() -> Dataset:
    """The Japanese Vowels with the archive's own split, scaled by the training split alone."""
    with resources.as_file(_resource()) as path:
        table = pl.read_parquet(path).sort("utterance", "step")
    features = [name for name in table.columns if name.startswith("lpc")]
    train = _split_of(table.filter(pl.col("split") == "train"), features)
    test = _split_of(table.filter(pl.col("split") == "test"), features)
    train, test = standardise(train, test)
    classes = int(table["speaker"].n_unique())
    return Dataset("Japanese Vowels", train, test, len(features), classes)


def standardise(train: Split, test: Split) -> tuple[Split, Split]:
    """Both splits with the mean and deviation of every feature in `train` taken out.

    The test split has no say in the scale: that would leak it into training.
    """
    steps = torch.cat(train.sequences)
    deviation, mean = torch.std_mean(steps, dim=0, correction=0)
    if bool((deviation == 0).any()):
        constant = torch.nonzero(deviation == 0).flatten().tolist()
        raise ValueError(
            f"expected features that vary over the training split, but columns {constant} are "
            "constant there; leave these columns out"
        )
    return _scaled(train, mean, deviation), _scaled(test, mean, deviation)


def batches(split: Split, batch_size: int, generator: torch.Generator) -> list[Batch]:
    """One epoch of batches of neighbours in length, in random order.

    Sequences are shuffled, then sorted by length, so that equal lengths meet in a new company each
    epoch, and a packed batch keeps nearly all its rows to its last step.
    """
    order = torch.randperm(len(split), generator=generator).tolist()
    order.sort(key=lambda index: -len(split.sequences[index]))
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    shuffled = torch.randperm(len(groups), generator=generator).tolist()
    return [pack(split, groups[group]) for group in shuffled]


def pack(split: Split, indices: Sequence[int]) -> Batch:
    """The sequences at `indices` packed together; a model's output row n belongs to indices[n]."""
    sequences = [split.sequences[index] for index in indices]
    return Batch(pack_sequence(sequences, enforce_sorted=False), split.labels[list(indices)])


def _resource() -> resources.abc.Traversable:
    return resources.files("cellwright.app").joinpath("bundled", "japanese_vowels.parquet")


def _split_of(table: pl.DataFrame, features: list[str]) -> Split:
    utterances = table.partition_by("utterance", maintain_order=True)
    sequences = tuple(torch.tensor(one.select(features).to_numpy()) for one in utterances)
    speakers = [int(one["speaker"][0]) for one in utterances]
    return Split(sequences, torch.tensor(speakers) - 1)


def _scaled(split: Split, mean: Tensor, deviation: Tensor) -> Split:
    sequences = tuple((sequence - mean) / deviation for sequence in split.sequences)
    return Split(sequences, split.labels)
