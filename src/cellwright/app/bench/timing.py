"""Timing rivals that take turns."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

__all__ = ["QUICK", "Budget", "Times", "interleave", "summarise", "time_calls"]


@dataclass(frozen=True)
class Budget:
    """How long to time a row: until both bounds are met, but never beyond ``most_rounds``."""

    seconds: float = 0.4
    rounds: int = 5
    most_rounds: int = 20_000
    warmup_seconds: float = 0.05


TURN_SECONDS, TURN_CALLS = 1e-3, 5
LONG_TURN_SECONDS = 50e-3

QUICK = Budget(seconds=0.05, rounds=3, warmup_seconds=0.0)


@dataclass(frozen=True)
class Times:
    """Median seconds of a call, and the times under which 20 and 80 of 100 calls fell."""

    median: float
    low: float
    high: float
    calls: int


def quantile(sorted_values: Sequence[float], q: float) -> float:
    """The q-quantile, linear between neighbours."""
    position = q * (len(sorted_values) - 1)
    below = int(position)
    above = min(below + 1, len(sorted_values) - 1)
    weight = position - below
    return sorted_values[below] * (1 - weight) + sorted_values[above] * weight


def summarise(seconds: Sequence[float]) -> Times:
    """Median and 20/80 quantiles of a list of times."""
    ordered = sorted(seconds)
    return Times(median(ordered), quantile(ordered, 0.2), quantile(ordered, 0.8), len(ordered))


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep Python's cycle collector out of the timings, as ``timeit`` does."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def interleave(rivals: Sequence[Callable[[], object]], budget: Budget) -> list[list[float]]:
    """Time each call of rivals that take short turns: a drifting machine slows all of them alike.

    A turn lasts until TURN_SECONDS and TURN_CALLS are both reached, or LONG_TURN_SECONDS are over:
    a program that calls a layer calls it again and again. So most calls find what their own kind
    left in the caches and in the heap, and not what a rival did. Every other round runs in reverse
    order, so that none always follows the same other.
    """
    times: list[list[float]] = [[] for _ in rivals]
    clock = time.perf_counter
    order = list(enumerate(rivals))
    with _no_collections():
        start = clock()
        for _ in range(budget.most_rounds):  # warm-up, at least two rounds
            for call in (*rivals, *rivals):
                call()
            if clock() - start >= budget.warmup_seconds:
                break
        start = clock()
        for done in range(1, budget.most_rounds + 1):
            for index, call in order:
                _take_turn(call, times[index])
            order.reverse()
            if done >= budget.rounds and clock() - start >= budget.seconds:
                break
    return times


def _take_turn(call: Callable[[], object], times: list[float]) -> None:
    """Call and append each call's time."""
    clock, calls = time.perf_counter, 0
    after = begun = clock()
    while after - begun < (TURN_SECONDS if calls >= TURN_CALLS else LONG_TURN_SECONDS):
        before = clock()
        call()
        after = clock()
        times.append(after - before)
        calls += 1


def time_calls(call: Callable[[], object], budget: Budget) -> Times:
    """Time one call without rivals."""
    return summarise(interleave([call], budget)[0])
