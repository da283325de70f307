"""Time Cellwright against torch.nn in one process and print Markdown tables.

Exit status 1 means that some result was wrong or some probe broke; a missed target is reported,
and no error: timings depend on the machine.
"""

import argparse
import dataclasses
import importlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.grid import MEMORY_SHAPES, half_rows, target_rows, wide_rows
from benchmarks.memory import Memory, measure_memory
from benchmarks.peers.measure import Beside, measure_beside
from benchmarks.peers.peer import find_peers
from benchmarks.startup import Startup, measure_import, measure_startup
from benchmarks.subprocesses import ProbeError
from cellwright.app.bench import machine
from cellwright.app.bench.measure import Result, measure_row
from cellwright.app.bench.row import CELLS, Row, Work
from cellwright.app.bench.timing import QUICK, Budget
from cellwright.app.bench.workload import Library

PARTS = ("targets", "wide", "halves", "memory", "startup")
PEERS, INSTALL_PEERS = "peers", "pip install -c constraints.txt -e '.[peers]'"
_BUSY = 0.5


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=(*PARTS, PEERS), default=PARTS,
        help="what to measure (default: all but peers, which times other libraries on the rows "
             f"with a target; {INSTALL_PEERS} first)")  # fmt: skip
    add("--rows", type=re.compile, metavar="PATTERN",
        help="only rows whose name matches, such as 'LSTM train' or '128, 256, 32, 100'; "
             "leaves out memory and startup unless --parts names them")  # fmt: skip
    add("--threads", nargs="+", type=int, metavar="N", default=[1, 2], help="default: 1 2")
    add("--quick", action="store_true", help="few calls a row: a look, not a measurement")
    add("--list", action="store_true", help="print the rows' names and stop")
    add("--json", type=Path, metavar="PATH", default="bench.json", help="default: %(default)s")
    add("--ours", metavar="MODULE", default="cellwright.nn", help="the rival of torch.nn")
    options = parser.parse_args(arguments)
    if options.rows and options.parts is PARTS:
        options.parts = PARTS[:3]
    return options


def choose_rows(options: argparse.Namespace) -> list[Row]:
    """The rows that the options ask for and the machine has the cores for."""
    rows: list[Row] = []
    if "targets" in options.parts:
        rows += target_rows()
    if "wide" in options.parts:
        rows += wide_rows(options.threads)
    if "halves" in options.parts:
        rows += half_rows()
    cores = machine.available_cores()
    chosen = (row for row in rows if row.threads in options.threads and row.threads <= cores)
    return _matching(options, chosen)


def _matching(options: argparse.Namespace, rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if options.rows is None or options.rows.search(row.name)]


def _log(message: str) -> None:
    """Progress goes to stderr: stdout is the report."""
    print(message, file=sys.stderr, flush=True)


def run_rows(
    rows: Sequence[Row], ours: Library, budget: Budget, rates: dict[int, float]
) -> list[Result]:
    """Measure all rows against torch.nn, each pinned and with its number of threads."""
    results = []
    for number, row in enumerate(rows, 1):
        with machine.on_threads(row.threads):
            result = measure_row(row, ours, torch.nn, budget, rates[row.threads])
        outcome = result.failure or f"{result.ratio:.2f} ×"
        _log(f"[{number}/{len(rows)}] {row.name}: {outcome}")
        results.append(result)
    return report.with_scaling(results)


def run_memory(options: argparse.Namespace) -> list[Memory]:
    """Measure the peak memory of training steps."""
    shapes = MEMORY_SHAPES[::2] if options.quick else MEMORY_SHAPES
    _log(f"peak memory: {2 * len(shapes) * len(CELLS)} processes")
    return [measure_memory(cell, shape, options.ours) for shape in shapes for cell in CELLS]


def run_startup(options: argparse.Namespace) -> tuple[list[Startup], float | None]:
    """Measure first calls and the import; None where the import broke."""
    repeats = 1 if options.quick else 3
    works: tuple[Work, ...] = ("forward", "train")
    _log(f"first calls: {2 * repeats * len(works) * len(CELLS)} processes")
    startups = [measure_startup(c, w, options.ours, repeats) for c in CELLS for w in works]
    try:
        return startups, measure_import(options.ours, 2 * repeats + 1)
    except ProbeError as problem:
        _log(str(problem))
        return startups, None


def run_peers(options: argparse.Namespace, ours: Library, budget: Budget) -> list[Beside]:
    """Measure the rows with a target on one thread beside all peers that are installed."""
    peers, missing = find_peers()
    if missing:
        _log(f"left out, as they are not installed: {', '.join(missing)}; "
             f"{INSTALL_PEERS} installs all")  # fmt: skip
    rows = _matching(options, (row for row in target_rows() if row.threads == 1))
    results = []
    for number, row in enumerate(rows, 1):
        with machine.on_threads(1):
            results.append(measure_beside(row, ours, peers, budget))
        best = results[-1].best_peer or "no peer was timed"
        _log(f"[{number}/{len(rows)}] {PEERS} {row.name}: best peer: {best}")
    return results


def _print_section(title: str, *paragraphs: str) -> None:
    print(f"\n### {title}\n", *paragraphs, sep="\n", flush=True)


def print_rows(results: Sequence[Result]) -> None:
    """Print an overview, the details and a summary of each grid."""
    titles = {"targets": "Targets", "wide": "Wider grid, never under 1"}
    titles["halves"] = "Half precision and autocast"
    for grid, title in titles.items():
        of_grid = [result for result in results if result.row.grid == grid]
        if of_grid:
            _print_section(f"{title}: torch.nn's time over Cellwright's", report.overview(of_grid),
                           "", report.summary(of_grid))  # fmt: skip
            _print_section(f"{title}: details", report.details(of_grid))


def _plain(value: object) -> object:
    """Dataclasses as dictionaries, for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _any_failure(outcomes: Iterable[Result | Memory | Startup]) -> bool:
    return any(outcome.failure is not None for outcome in outcomes)


def _add_rows(
    options: argparse.Namespace, rows: Sequence[Row], found: dict[str, Any], budget: Budget
) -> bool:
    """Measure and print what runs in this process; whether any of it failed."""
    ours, failed = importlib.import_module(options.ours), False
    if rows:
        found["rows"] = run_rows(rows, ours, budget, found["matrix_product_gflops"])
        failed = _any_failure(found["rows"])
        print_rows(found["rows"])
    if PEERS in options.parts:
        beside = found[PEERS] = run_peers(options, ours, budget)
        failed |= any(one.failures for one in beside)
        _print_section("Other libraries", report.peers_table(beside), "",
                       report.peers_summary(beside))  # fmt: skip
    return failed


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Run and print all that was asked for; the findings for JSON and whether any failed."""
    rows, budget = choose_rows(options), QUICK if options.quick else Budget()
    described = machine.describe()  # before our own work adds to the load
    alone = {1} if PEERS in options.parts else set()
    counts = sorted({row.threads for row in rows} | alone)
    rates = {n: machine.matrix_product_rate(n, Budget()) for n in counts}
    found: dict[str, Any] = {"machine": described, "matrix_product_gflops": rates}
    if float(described["load"]) > _BUSY:
        _log("warning: other work is running here; above all the rows at two threads will suffer")
    print(report.machine_line(described, rates), flush=True)
    failed = False
    # First, while this process is small and nothing else of it runs.
    if "memory" in options.parts:
        found["memory"] = run_memory(options)
        failed |= _any_failure(found["memory"])
        _print_section("Peak memory of a training step", report.memory_table(found["memory"]))
    if "startup" in options.parts:
        found["startup"], found["import_seconds"] = run_startup(options)
        failed |= _any_failure(found["startup"]) or found["import_seconds"] is None
        line = found["import_seconds"] and report.import_line(found["import_seconds"])
        _print_section("First calls", report.startup_table(found["startup"]), "", line or "")
    if rows or PEERS in options.parts:
        failed |= _add_rows(options, rows, found, budget)
    return found, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    options = parse(arguments)
    if options.list:
        print(*(row.name for row in choose_rows(options)), sep="\n")
        return 0
    found, failed = measure(options)
    options.json.write_text(json.dumps(found, indent=1, default=_plain) + "\n")
    _log(f"wrote {options.json}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
