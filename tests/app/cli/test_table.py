"""The table of a comparison: every figure where it belongs, a dash for what was not measured."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from cellwright.app.cli.table import caption, row, table, verdict
from cellwright.app.data import bundled
from cellwright.app.model.choice import choose_design
from cellwright.app.training.results import Comparison, Entry, Run


def network(name, *runs, step=None):
    design = choose_design(name)
    return Entry(design.label, design, 2, 12345, runs, step_microseconds=step)


GRU = network(
    "gru",
    Run(0, (), 0.9, 1.0, torch_score=0.94, torch_seconds=5.0),
    Run(1, (), 0.96, 2.0),
    step=31.25,
)
PLAIN = Entry("majority class", None, None, None, (Run(0, (), 0.25, 0.004),))


@pytest.fixture(scope="module")
def compared():
    entries = (GRU, replace(network("bi-gru", Run(0, (), 0.5, 12.0)), gates=7), PLAIN)
    return Comparison(bundled("japanese_vowels"), entries, "As asked.", "typed", 60.0)


def test_rows_show_what_was_measured_and_dash_what_was_not(compared):
    both = compared.entries[1]
    assert row(GRU) == ("GRU", "2", "12,345", "0.930 ± 0.042", "1.50 s", "5.00 s", "31.2 µs")
    assert row(both) == ("Bi-GRU", "7", "12,345", "0.500", "12.00 s", "–", "–")
    assert row(PLAIN) == ("majority class", "–", "–", "0.250", "0.00 s", "–", "–")


def test_the_table_keeps_its_form_in_80_columns(compared):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(compared))
    text = console.export_text()
    assert "Japanese Vowels: 270 sequences to train on, 370 to test" in text
    assert "0.930 ± 0.042" in text
    assert "…" not in text
    firsts = [line.split()[:1] for line in text.splitlines()]
    section = firsts[firsts.index(["GRU"]) : firsts.index(["majority"])]
    assert section == [["GRU"], ["Bi-GRU"], []]  # a gap between networks and plain methods


def test_the_caption_says_how_torch_was_timed(compared):
    said = caption(compared)
    assert said.startswith("As asked. Accuracy: mean ± standard deviation over the seeds.")
    assert "the same training of seed 0, with the same initial" in said
    assert "its score is within 0.040 of ours" in said
    assert f"PyTorch {torch.__version__}, 1 thread," in said
    untimed = replace(compared, entries=(compared.entries[1], PLAIN))
    assert "Nothing was trained on torch.nn." in caption(untimed)
    assert "Accuracy: of the one seed." in caption(untimed)


def test_errors_and_bits_are_called_by_their_names(compared):
    weather = replace(compared, problem=bundled("seattle_weather"))
    assert "mean absolute, of temp_max" in caption(weather)
    large = replace(GRU, runs=(Run(0, (), 23456.7, 1.0), Run(1, (), 23456.9, 1.0)))
    assert row(large, decimals=0)[3] == "23457 ± 0"
    topics = replace(compared, problem=bundled("python_topics"))
    assert "Bits per character (fewer are better)" in caption(topics)


def test_the_verdict_is_plain(compared):
    assert verdict(compared).startswith("A recurrent network pays here.")
    better = replace(PLAIN, runs=(Run(0, (), 0.99, 0.0),))
    beaten = replace(compared, entries=(*compared.entries[:2], better))
    assert verdict(beaten).startswith("A recurrent network does not pay here.")
