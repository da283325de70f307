"""What a first call costs: compiling, loading from the disk cache, a new shape, and the import."""

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.subprocesses import ProbeError, run_probe
from cellwright.app.bench.row import CELLS, Cell, Row, Shape, Work
from cellwright.app.bench.workload import Library, Workload, build

COMPILE_LIMIT, CACHED_LIMIT, IMPORT_LIMIT = 1.0, 0.150, 0.3
_SHAPE = Shape(128, 256, 32, 20)
_NEW_SHAPES = (Shape(128, 256, 32, 33), Shape(128, 256, 7, 20), Shape(128, 256, 1, 9))


@dataclass(frozen=True)
class Startup:
    """Seconds of the first call in a fresh process, and what a new length or batch adds."""

    cell: str
    work: Work
    cold: float | None = None
    cached: float | None = None
    again: float | None = None
    new_shape_extra: float | None = None
    new_files: int | None = None
    failure: str | None = None


def _seconds(call: Callable[[], object]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def _reshaped(workload: Workload, library: Library, shape: Shape) -> Workload:
    """The same module, so the same kernels, on input of another length or batch."""
    other = build(library, replace(workload.row, shape=shape))
    return replace(other, module=workload.module)


def _probe_call(library_name: str, cell: Cell, work: Work, cache: Path) -> dict[str, float]:
    """First call, then the same again, then new shapes and how much their first call costs more."""
    torch.set_num_threads(1)
    library: Any = importlib.import_module(library_name)
    row = Row("targets", cell, work, _SHAPE, 1, 1.0)
    # torch sets up its own machinery in a first backward pass: that is not ours to count.
    build(torch.nn, replace(row, shape=Shape(2, 2, 1, 2))).timed()()
    workload = build(library, row)
    with torch.set_grad_enabled(work == "train"):
        first = _seconds(workload.timed())
        again = median(_seconds(workload.timed()) for _ in range(9))
        files = sum(path.is_file() for path in cache.rglob("*"))
        extra = 0.0
        for shape in _NEW_SHAPES:
            call = _reshaped(workload, library, shape).timed()
            new = _seconds(call)
            extra = max(extra, new - median(_seconds(call) for _ in range(5)))
        new_files = sum(path.is_file() for path in cache.rglob("*")) - files
    return {"first": first, "again": again, "extra": extra, "new_files": new_files}


def measure_startup(cell: Cell, work: Work, ours: str, repeats: int) -> Startup:
    """Medians over fresh processes, each with an empty cache folder and then with a filled one."""
    cold: list[dict[str, float]] = []
    cached: list[dict[str, float]] = []
    try:
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                for answers in (cold, cached):
                    answers.append(
                        run_probe("benchmarks.startup", ours, cell, work, cache,
                                  CELLWRIGHT_CACHE_DIR=cache)
                    )  # fmt: skip
    except ProbeError as problem:
        return Startup(cell, work, failure=str(problem))
    return Startup(
        cell,
        work,
        cold=median(answer["first"] for answer in cold),
        cached=median(answer["first"] for answer in cached),
        again=median(answer["again"] for answer in cold),
        new_shape_extra=median(answer["extra"] for answer in cold),
        new_files=int(max(answer["new_files"] for answer in cold)),
    )


def measure_import(ours: str, repeats: int) -> float:
    """Median seconds that importing our package adds to importing torch."""
    run_probe("benchmarks.importing", ours)  # byte-compiles and fills the file cache
    return median(run_probe("benchmarks.importing", ours)["seconds"] for _ in range(repeats))


def _main(library: str, cell_name: str, work_name: str, cache: str) -> None:
    cell = next(cell for cell in CELLS if cell == cell_name)
    work: Work = "train" if work_name == "train" else "forward"
    print(json.dumps(_probe_call(library, cell, work, Path(cache))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
