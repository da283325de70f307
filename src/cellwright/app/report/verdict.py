"""Whether a recurrent network pays, in plain sentences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from cellwright.app.schema import Task
from cellwright.app.training.results import Comparison, Entry

__all__ = ["Verdict", "best", "judge", "mean", "ratio", "score_text", "seconds", "spread"]


@dataclass(frozen=True)
class Verdict:
    """What the report says first.

    Attributes:
        headline: a short sentence.
        sentences: the figures behind it, and what else a reader should know.
    """

    headline: str
    sentences: tuple[str, ...]


def mean(entry: Entry) -> float:
    """The mean score over the seeds; nan if one of them is."""
    return fmean(run.score for run in entry.runs)


def spread(entry: Entry) -> float | None:
    """The standard deviation of the score over the seeds; None of a single one."""
    scores = [run.score for run in entry.runs]
    return stdev(scores) if len(scores) > 1 and all(map(math.isfinite, scores)) else None


def seconds(entry: Entry) -> float:
    """The mean time of a training."""
    return fmean(run.seconds for run in entry.runs)


def ratio(entry: Entry) -> tuple[float, float] | None:
    """torch.nn's mean time and its ratio to ours, of the same seeds; None where none was timed."""
    pairs = [
        (run.torch_seconds, run.seconds) for run in entry.runs if run.torch_seconds is not None
    ]
    if not pairs:
        return None
    theirs, ours = (fmean(times) for times in zip(*pairs, strict=True))
    return theirs, theirs / ours if ours else math.nan


def best(comparison: Comparison, entries: Sequence[Entry]) -> Entry | None:
    """The entry of the best mean score; None if no entry has a finite one."""
    sign = 1 if comparison.metric.more_is_better else -1
    finite = [entry for entry in entries if math.isfinite(mean(entry))]
    return max(finite, key=lambda entry: sign * mean(entry), default=None)


def score_text(comparison: Comparison, entry: Entry) -> str:
    """A score as tables show it: "98.5 ± 0.2 %", "2.03 ± 0.05"."""
    percent = comparison.problem.schema.task is Task.CLASSIFY
    if not math.isfinite(mean(entry)):
        return "not a number"
    scale, unit = (100, "\N{NO-BREAK SPACE}%") if percent else (1, "")
    digits = 1 if percent else _decimals(mean(entry))
    text = f"{mean(entry) * scale:.{digits}f}"
    deviation = spread(entry)
    if deviation is not None:
        text += f" ± {deviation * scale:.{digits}f}"
    return text.replace(" ", "\N{NO-BREAK SPACE}") + unit


def judge(comparison: Comparison) -> Verdict:
    """Judge the best network against the best baseline.

    A network pays if its mean over the seeds is better; narrowly, if the lead is no larger than
    its spread over the seeds.
    """
    networks = [entry for entry in comparison.entries if entry.design is not None]
    baselines = [entry for entry in comparison.entries if entry.design is None]
    network, baseline = best(comparison, networks), best(comparison, baselines)
    if network is None:
        return Verdict("No network was trained to the end.", _unjudged(comparison, baseline))
    ours = f"{network.label} reaches {_figure(comparison, network)}"
    if baseline is None:
        several = f"{network.label} is the best of {len(networks)} networks."
        headline = several if len(networks) > 1 else f"{network.label} was trained."
        return Verdict(headline, (f"{ours}. No plain baseline was run beside it.",))
    sign = 1 if comparison.metric.more_is_better else -1
    lead = sign * (mean(network) - mean(baseline))
    theirs = f"the best plain baseline, {baseline.label}, {score_text(comparison, baseline)}"
    if lead <= 0:
        words = (
            f"The best network, {network.label}, reaches {_figure(comparison, network)} and does "
            f"not beat {theirs}."
        )
        return Verdict("A recurrent network does not pay here.", (words,))
    narrow = lead <= (spread(network) or 0.0)
    words = f"{ours}; {theirs}."
    if narrow:
        words += " The lead is no larger than the spread over the seeds."
    headline = "A recurrent network pays here" + (", but narrowly." if narrow else ".")
    return Verdict(headline, (words, *_frugal(comparison, networks, network, baseline)))


def _unjudged(comparison: Comparison, baseline: Entry | None) -> tuple[str, ...]:
    if baseline is None:
        return ("Every score is missing or not a number.",)
    return (f"The best plain baseline, {baseline.label}: {_figure(comparison, baseline)}.",)


def _frugal(
    comparison: Comparison, networks: Sequence[Entry], best_one: Entry, baseline: Entry
) -> tuple[str, ...]:
    """Name the smallest network that is as good within the best one's spread."""
    sign = 1 if comparison.metric.more_is_better else -1
    least = sign * mean(best_one) - (spread(best_one) or 0.0)
    least = max(least, sign * mean(baseline))
    able = [e for e in networks if e.parameters is not None and sign * mean(e) >= least]
    smallest = min(able, key=lambda e: e.parameters or 0, default=best_one)
    if smallest is best_one or smallest.parameters is None:
        return ()
    words = f"{smallest.parameters:,} parameters, {score_text(comparison, smallest)}"
    return (f"The smallest network as good within its spread is {smallest.label}: {words}.",)


def _figure(comparison: Comparison, entry: Entry) -> str:
    """A score with its name: "an accuracy of 98.5 ± 0.2 %", "2.1 bits per byte"."""
    text = score_text(comparison, entry)
    task = comparison.problem.schema.task
    if task is Task.TEXT:
        words = f"{text} bits per {comparison.problem.schema.unit}"
    else:
        article = "an accuracy" if task is Task.CLASSIFY else "a mean absolute error"
        words = f"{article} of {text}"
    return words + (f" over {len(entry.runs)} seeds" if len(entry.runs) > 1 else "")


def _decimals(value: float) -> int:
    """Decimals that show four significant digits."""
    return 3 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
