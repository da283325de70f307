"""The bundled recordings: whole, scaled by the training split alone, packed in the right order."""

import polars as pl
import pytest
import torch
from torch.nn.utils.rnn import pad_packed_sequence

from cellwright.app import vowels_data as data
from cellwright.app.vowels_data import Split, batches, load_japanese_vowels, pack, standardise


@pytest.fixture(scope="module")
def vowels():
    return load_japanese_vowels()


@pytest.fixture(scope="module")
def raw():
    return pl.read_parquet(data._resource().read_bytes())


def numbered_split(lengths):
    """Sequence n holds n·1000 + its step, so that every number tells where it belongs."""
    sequences = [1000.0 * n + torch.arange(length)[:, None] for n, length in enumerate(lengths)]
    return Split(tuple(sequences), torch.arange(len(lengths)))


def test_sizes_are_those_of_the_archive(vowels):
    assert (len(vowels.train), len(vowels.test)) == (270, 370)
    assert (vowels.features, vowels.classes) == (12, 9)
    lengths = [len(one) for one in vowels.train.sequences + vowels.test.sequences]
    assert (min(lengths), max(lengths), sum(lengths)) == (7, 29, 9961)
    assert all(one.dtype == torch.float32 for one in vowels.train.sequences)
    assert torch.bincount(vowels.train.labels).tolist() == [30] * 9
    counts = [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert torch.bincount(vowels.test.labels).tolist() == counts


def test_every_sequence_is_its_utterance_in_order_scaled_by_the_training_split(vowels, raw):
    names = [f"lpc{number}" for number in range(1, 13)]
    train = raw.filter(pl.col("split") == "train")
    mean = torch.tensor(train.select(names).to_numpy().astype("float64").mean(axis=0))
    deviation = torch.tensor(train.select(names).to_numpy().astype("float64").std(axis=0))
    for split, name in ((vowels.train, "train"), (vowels.test, "test")):
        rows = raw.filter(pl.col("split") == name).sort("utterance", "step")
        unscaled = torch.cat(split.sequences).double() * deviation + mean
        torch.testing.assert_close(
            unscaled, torch.tensor(rows.select(names).to_numpy()).double(), atol=1e-5, rtol=0
        )
        speakers = rows.group_by("utterance", maintain_order=True).agg(
            pl.col("speaker").first(), pl.len()
        )
        assert (split.labels + 1).tolist() == speakers["speaker"].to_list()
        assert [len(one) for one in split.sequences] == speakers["len"].to_list()


def test_the_test_split_has_no_say_in_the_scale():
    train = Split((torch.tensor([[1.0], [3.0]]),), torch.tensor([0]))
    near = Split((torch.tensor([[2.0], [4.0]]),), torch.tensor([0]))
    far = Split((torch.tensor([[2.0], [4000.0]]),), torch.tensor([0]))
    for test in (near, far):
        scaled_train, scaled_test = standardise(train, test)
        assert scaled_train.sequences[0].flatten().tolist() == [-1.0, 1.0]
        assert scaled_test.sequences[0][0].item() == 0.0
    assert scaled_test.sequences[0][1].item() == 3998.0


def test_a_constant_feature_is_refused_with_its_column():
    split = Split((torch.tensor([[1.0, 5.0], [3.0, 5.0]]),), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"expected features that vary.*\[1\].*leave these"):
        standardise(split, split)


def test_packing_comes_back_in_the_order_asked_for():
    split = numbered_split([3, 7, 1, 5, 7])
    indices = [2, 4, 0, 3, 1]
    batch = pack(split, indices)
    assert batch.labels.tolist() == indices
    padded, lengths = pad_packed_sequence(batch.packed, batch_first=True)
    for row, index in enumerate(indices):
        assert torch.equal(padded[row, : lengths[row]], split.sequences[index])
    assert len(batch.packed.data) == 3 + 7 + 1 + 5 + 7


def test_an_epoch_holds_every_sequence_once_beside_those_of_like_length():
    lengths = [4, 9, 9, 4, 4, 9, 6, 6, 6, 9]
    split = numbered_split(lengths)
    epoch = batches(split, 4, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([batch.labels for batch in epoch]).tolist()) == list(range(10))
    spans = sorted(
        sorted((lengths[label] for label in batch.labels.tolist()), reverse=True) for batch in epoch
    )
    assert spans == [[4, 4], [6, 6, 6, 4], [9, 9, 9, 9]]


def test_epochs_differ_but_a_seed_repeats_them(vowels):
    def labels(generator):
        epoch = batches(vowels.train, 30, generator)
        return torch.cat([batch.labels for batch in epoch]).tolist()

    generator = torch.Generator().manual_seed(3)
    first, second = labels(generator), labels(generator)
    assert first != second
    assert labels(torch.Generator().manual_seed(3)) == first
