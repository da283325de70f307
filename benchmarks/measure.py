"""Timing rivals call by call, and what a row's times come to."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks import agreement
from benchmarks.grid import Row
from benchmarks.workload import Library, build


@dataclass(frozen=True)
class Budget:
    """How long to time a row: until both bounds are met, but never beyond ``most_rounds``."""

    seconds: float = 0.4
    rounds: int = 5
    most_rounds: int = 20_000
    warmup_seconds: float = 0.05


QUICK = Budget(seconds=0.05, rounds=3, warmup_seconds=0.0)


@dataclass(frozen=True)
class Times:
    """Median seconds of a call, and the times under which 20 and 80 of 100 calls fell."""

    median: float
    low: float
    high: float
    calls: int


@dataclass(frozen=True)
class Result:
    """A row's outcome; with ``failure`` set there are no times."""

    row: Row
    failure: str | None = None
    error: float | None = None
    ours: Times | None = None
    torch: Times | None = None
    ratio: float | None = None
    gflops: float | None = None
    share: float | None = None
    reached: bool | None = None
    scaling: float | None = None


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
    """Time rivals call by call, so that a drifting machine slows all of them alike.

    Every other round runs in reverse order: none always follows the same other.
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
                before = clock()
                call()
                times[index].append(clock() - before)
            order.reverse()
            if done >= budget.rounds and clock() - start >= budget.seconds:
                break
    return times


def time_calls(call: Callable[[], object], budget: Budget) -> Times:
    """Time one call without rivals."""
    return summarise(interleave([call], budget)[0])


def measure_row(
    row: Row, ours: Library, theirs: Library, budget: Budget, rate_gflops: float
) -> Result:
    """Check that both agree, then time them; ``rate_gflops`` is the matrix-product rate."""
    try:
        mine, reference = build(ours, row), build(theirs, row)
        error = agreement.check(mine, reference)
        with torch.set_grad_enabled(row.work == "train"):
            times = interleave([mine.timed(), reference.timed()], budget)
    except Exception as problem:  # one broken row must not hide the others
        return Result(row, failure=f"{type(problem).__name__}: {problem}")
    our_times, torch_times = (summarise(seconds) for seconds in times)
    ratio = torch_times.median / our_times.median
    gflops = row.flops / our_times.median / 1e9
    return Result(
        row=row,
        error=error,
        ours=our_times,
        torch=torch_times,
        ratio=ratio,
        gflops=gflops,
        # The rate is of float32, so a share of it says nothing about float64.
        share=gflops / rate_gflops if row.variant.dtype == "float32" else None,
        reached=ratio >= row.target,
    )
