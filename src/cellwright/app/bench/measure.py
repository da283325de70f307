"""What a row's times come to: no speed is told of a wrong result."""

from dataclasses import dataclass

import torch

from cellwright.app.bench import agreement
from cellwright.app.bench.row import Row
from cellwright.app.bench.timing import Budget, Times, interleave, summarise
from cellwright.app.bench.workload import Library, build

__all__ = ["Result", "measure_row"]


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


def measure_row(
    row: Row, ours: Library, theirs: Library, budget: Budget, rate_gflops: float | None = None
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
        share=gflops / rate_gflops if rate_gflops and row.variant.dtype == "float32" else None,
        reached=ratio >= row.target,
    )
