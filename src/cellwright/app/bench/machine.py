"""The machine under the numbers: what it is, its matrix-product rate, and pinning to it."""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch

from cellwright.app.bench.timing import Budget, time_calls

__all__ = ["available_cores", "describe", "line", "load", "matrix_product_rate", "on_threads"]

_ISA_FLAGS = ("sse4_2", "avx", "fma", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
_RATE_SIZE = 1024


def _cpuinfo(*keys: str) -> str | None:
    """The first value of any of these keys in Linux's list of processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), None)


def available_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def load() -> float:
    """How many processes wanted to run during the last minute: of the idle machine near 0."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0


def describe() -> dict[str, str | int | float]:
    """What a reader needs to judge the numbers."""
    flags = set((_cpuinfo("flags", "Features") or "").split())
    return {
        "cpu": _cpuinfo("model name", "Model") or platform.processor() or platform.machine(),
        "isa": " ".join(flag for flag in _ISA_FLAGS if flag in flags) or platform.machine(),
        "cores": available_cores(),
        "load": load(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "llvmlite": _version("llvmlite"),
        "cellwright": _version("cellwright"),
    }


def line(described: Mapping[str, str | int | float]) -> str:
    """What `describe` found, in a line."""
    return (
        f"{described['cpu']} ({described['isa']}), {described['cores']} "
        f"{'core' if described['cores'] == 1 else 'cores'} "
        f"(load {described['load']} at the start), {described['os']}, "
        f"Python {described['python']}, torch {described['torch']}, "
        f"llvmlite {described['llvmlite']}"
    )


def _set_affinity(cores: set[int]) -> None:
    """Move every thread of the process: one started while pinned would stay on its core."""
    try:
        tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    except OSError:
        tasks = [0]
    for task in tasks:
        try:
            os.sched_setaffinity(task, cores)
        except ProcessLookupError:  # it ended meanwhile
            continue


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """Run torch with so many threads; one thread is pinned to one core where the OS can."""
    before = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    if cores and threads == 1:
        _set_affinity({max(cores)})  # the first core takes most of the interrupts
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if cores and threads == 1:
            _set_affinity(cores)


def matrix_product_rate(threads: int, budget: Budget) -> float:
    """GFLOP/s of a float32 torch.mm of 1024 by 1024 matrices at this number of threads."""
    left, right, product = (torch.randn(_RATE_SIZE, _RATE_SIZE) for _ in range(3))
    with on_threads(threads), torch.no_grad():
        times = time_calls(lambda: torch.mm(left, right, out=product), budget)
    return 2 * _RATE_SIZE**3 / times.median / 1e9
