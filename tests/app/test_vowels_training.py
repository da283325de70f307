"""The training loop: it learns, it is set by its seed, its noise stays out of the data."""

import math

import torch
from torch import nn

from cellwright.app.vowels_data import Split, load_japanese_vowels
from cellwright.app.vowels_training import Recipe, accuracy, epochs_of, train


class LastStep(nn.Module):
    """Logits from each sequence's last step: a model with nothing of Cellwright in it."""

    def __init__(self, features, classes):
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, packed):
        padded, lengths = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        return self.linear(padded[torch.arange(len(lengths)), lengths - 1]), None


def separable_split(count):
    labels = torch.arange(count) % 2
    signs = (2.0 * labels - 1.0)[:, None, None]
    return Split(tuple(signs.expand(count, 3, 2).unbind()), labels)


def test_training_learns_and_repeats_bit_for_bit():
    split, recipe = separable_split(24), Recipe(epochs=20, batch_size=8, learning_rate=5e-2)
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        model = LastStep(2, 2)
        seconds = train(model, epochs_of(split, recipe, seed=1), recipe)
        assert math.isfinite(seconds)
        assert seconds > 0
        assert accuracy(model, split) == 1.0
        weights.append(model.linear.weight.detach().clone())
    assert torch.equal(*weights)


def test_accuracy_counts_the_sequences_labelled_right():
    split = separable_split(10)
    model = LastStep(2, 2)
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.copy_(torch.tensor([0.0, 1.0]))
    flipped = Split(split.sequences, torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]))
    assert accuracy(model, flipped) == 0.3


def test_noise_is_fresh_each_epoch_and_never_in_the_data():
    split = load_japanese_vowels().train
    before = torch.cat(split.sequences)
    made = epochs_of(split, Recipe(epochs=2, batch_size=270, noise=0.5), seed=0)
    assert torch.equal(torch.cat(split.sequences), before)
    clean = epochs_of(split, Recipe(epochs=2, batch_size=270, noise=0.0), seed=0)[0]
    first, second = (batch.packed.data for batch in made)
    assert not torch.equal(first, second)
    # Noise is drawn after the order of the first epoch, so that order is the clean one's.
    deviation = (first - clean.packed.data).std().item()
    assert abs(deviation - 0.5) < 0.01


def test_a_seed_is_a_training_of_its_own():
    split, recipe = separable_split(12), Recipe(epochs=1, batch_size=12)
    first, second = (epochs_of(split, recipe, seed)[0].packed.data for seed in (0, 1))
    again = epochs_of(split, recipe, seed=0)[0].packed.data
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
