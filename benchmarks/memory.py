"""Peak memory of a training step, each library in a fresh process."""

import ctypes
import gc
import importlib
import json
import os
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import cellwright
from benchmarks.subprocesses import ProbeError, run_probe
from cellwright.app.bench.row import CELLS, Cell, Row, Shape
from cellwright.app.bench.workload import build

_MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Freed blocks go back to the system at once, so that resident memory is what is in use. With
# glibc's own thresholds one step's peak varies by a tenth between processes, with these by 0.2 MiB.
_PROMPT_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "8192",
    "MALLOC_TRIM_THRESHOLD_": "8192",
    "MALLOC_TOP_PAD_": "0",
}


@dataclass(frozen=True)
class Memory:
    """Peak MiB of a training step over what was held before it; ``first`` may have compiled."""

    cell: str
    shape: Shape
    ours: float | None = None
    torch: float | None = None
    ratio: float | None = None
    ours_first: float | None = None
    torch_first: float | None = None
    failure: str | None = None


def noise(mebibytes: float) -> float:
    """The difference between two processes doing the same that says nothing, in MiB."""
    return max(0.01 * mebibytes, 0.25)


def _status_bytes(key: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith(f"{key}:")), None)
    return int(found) * 1024 if found else None


def peak_bytes() -> int:
    """The process's peak resident memory.

    Linux's VmHWM comes first: ru_maxrss of a child starts from its parent's peak there.
    """
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def resident_bytes() -> int:
    """The process's resident memory, or its peak where the OS doesn't tell."""
    return _status_bytes("VmRSS") or peak_bytes()


def _settle() -> None:
    """Give free memory back, and restart the peak from here where the OS can."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
        if trim is not None:
            trim(0)
        if os.access(_CLEAR, os.W_OK):
            _CLEAR.write_text("5")


def _probe(library_name: str, cell: Cell, shape: Shape) -> dict[str, float]:
    """Peak of the first training step and of those after it, over the memory before them.

    The floor is taken after a tiny step of the same sizes, so that it holds code and weights; what
    a library keeps from one step to the next counts, what compiling took for a moment doesn't.
    """
    torch.set_num_threads(1)
    library: Any = importlib.import_module(library_name)
    row = Row("targets", cell, "train", shape, 1, 1.0)
    tiny = build(library, replace(row, shape=replace(shape, batch=1, steps=2)))
    tiny.training_step()
    full = replace(build(library, row), module=tiny.module)
    full.clear_gradients()
    del tiny
    cellwright.release_memory()
    _settle()
    floor = resident_bytes()
    full.training_step()
    first = peak_bytes() - floor
    _settle()
    for _ in range(3):
        full.training_step()
    return {"first": first, "peak": peak_bytes() - floor}


def measure_memory(cell: Cell, shape: Shape, ours: str) -> Memory:
    """Peak memory of ours and of torch.nn; ``ours`` is the name of a module to import."""
    sizes = [str(n) for n in (shape.input_size, shape.hidden_size, shape.batch, shape.steps)]
    try:
        mine, theirs = (
            run_probe("benchmarks.memory", library, cell, *sizes, **_PROMPT_MALLOC)
            for library in (ours, "torch.nn")
        )
    except ProbeError as problem:
        return Memory(cell, shape, failure=str(problem))
    return Memory(
        cell,
        shape,
        ours=mine["peak"] / _MIB,
        torch=theirs["peak"] / _MIB,
        ratio=mine["peak"] / theirs["peak"],
        ours_first=mine["first"] / _MIB,
        torch_first=theirs["first"] / _MIB,
    )


def _main(library: str, cell_name: str, *sizes: str) -> None:
    cell = next(cell for cell in CELLS if cell == cell_name)
    print(json.dumps(_probe(library, cell, Shape(*(int(size) for size in sizes)))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
