"""The sentence at the top says what the figures say."""

import math

import pytest
from tests.app.report.comparisons import baseline, comparison, forecast, network_entry, text

from cellwright.app.report.verdict import judge, ratio, score_text
from cellwright.app.training.results import Comparison
from cellwright.cells import gru, lstm

PROBLEM = forecast().problem


def judged(networks: list[list[float]], baselines: list[float]) -> tuple[str, str]:
    entries = [
        network_entry(PROBLEM, gru, scores, hidden=5 + k) for k, scores in enumerate(networks)
    ]
    entries += [baseline(f"baseline {k}", score) for k, score in enumerate(baselines)]
    verdict = judge(comparison(PROBLEM, entries))
    return verdict.headline, " ".join(verdict.sentences)


@pytest.mark.parametrize(
    ("networks", "baselines", "headline"),
    [
        ([[2.0, 2.1]], [2.5, 3.0], "A recurrent network pays here."),
        ([[2.0, 2.4]], [2.3, 3.0], "A recurrent network pays here, but narrowly."),
        ([[2.0, 2.1]], [3.0, 2.01], "A recurrent network does not pay here."),
        ([[2.0]], [2.0], "A recurrent network does not pay here."),
        ([[2.0], [math.nan]], [2.5, math.nan], "A recurrent network pays here."),
        ([[math.nan]], [2.5], "No network was trained to the end."),
        ([[math.nan]], [], "No network was trained to the end."),
        ([], [2.5], "No network was trained to the end."),
        ([[2.0], [3.0]], [], "GRU is the best of 2 networks."),
        ([[2.0]], [], "GRU was trained."),
    ],
)
def test_headlines(networks: list[list[float]], baselines: list[float], headline: str) -> None:
    assert judged(networks, baselines)[0] == headline


def test_a_defeat_is_said_plainly() -> None:
    _, words = judged([[2.0, 2.1], [2.3, 2.4]], [3.0, 1.51])
    assert words.replace("\N{NO-BREAK SPACE}", " ") == (
        "The best network, GRU, reaches a mean absolute error of 2.050 ± 0.071 over 2 seeds and "
        "does not beat the best plain baseline, baseline 1, 1.510."
    )


def test_more_is_better_for_accuracy_alone() -> None:
    made = Comparison(text().problem, text().entries, "", "", 1.0)
    assert judge(made).headline == "A recurrent network pays here."
    words = judge(made).sentences[0].replace("\N{NO-BREAK SPACE}", " ")
    assert words == "LSTM reaches 3.100 bits per character; the best plain baseline, bigram, 3.400."


def test_the_smallest_network_as_good_is_named() -> None:
    _, words = judged([[2.11, 2.11], [2.0, 2.3], [3.0, 3.0]], [2.5])
    assert "smallest" not in words  # the best one is the smallest as well
    _, words = judged([[2.12, 2.12], [2.0, 2.2], [3.0, 3.0]], [2.5])
    small = network_entry(PROBLEM, gru, [2.12], hidden=5).parameters
    assert f"The smallest network as good within its spread is GRU: {small:,} parameters" in words


def test_the_ratio_is_of_the_same_seeds() -> None:
    entry = network_entry(PROBLEM, lstm, [1.0, 1.0])  # seeds take 1.5 and 2.5 s, torch.nn 3 s
    assert ratio(entry) == (3.0, 2.0)
    assert ratio(baseline("none", 1.0)) is None


def test_scores_have_four_digits() -> None:
    made = comparison(PROBLEM, [])
    shown = [score_text(made, baseline("", score)) for score in (12.3456, 0.0123456, 0.0, 1234.56)]
    assert shown == ["12.35", "0.01235", "0.000", "1235"]
    assert score_text(made, baseline("", math.nan)) == "not a number"
