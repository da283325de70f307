"""Markdown tables of what was measured, to be read in a terminal or pasted into the README."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from benchmarks.memory import Memory, noise
from benchmarks.peers.measure import OURS, TORCH, Beside
from benchmarks.startup import CACHED_LIMIT, COMPILE_LIMIT, IMPORT_LIMIT, Startup
from cellwright.app.bench.machine import line as described
from cellwright.app.bench.measure import Result
from cellwright.app.bench.row import CELLS, WORK_NAMES, Row, Variant
from cellwright.app.bench.timing import Times

FAILED = "FAILED"
_NONE = "–"
_NUMBER = re.compile(r"-?[\d,.]+(×|%|$| \()")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too; text left, numbers right."""
    body = [list(row) for row in rows]
    columns = list(zip(header, *body, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        "-" * (width + 1) + ":" if right else "-" * (width + 2)
        for width, right in zip(widths, numeric, strict=True)
    )
    return "\n".join([line(header), f"|{rule}|", *(line(row) for row in body)])


def _is_number(cell: str) -> bool:
    return cell in (_NONE, FAILED, "") or _NUMBER.match(cell) is not None


def micros(seconds: float) -> str:
    """Microseconds to three or more figures: 0.87, 12.3, 1,234."""
    value = seconds * 1e6
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _spread(times: Times | None) -> str:
    if times is None:
        return _NONE
    return f"{micros(times.median)} ({micros(times.low)} to {micros(times.high)})"


def _verdict(reached: bool | None) -> str:
    return FAILED if reached is None else "yes" if reached else "no"


def with_scaling(results: Sequence[Result]) -> list[Result]:
    """Fill in, for each row at several threads, our time at one thread over our time there."""
    single = {
        result.row: result.ours.median
        for result in results
        if result.ours is not None and result.row.threads == 1
    }
    filled = []
    for result in results:
        alone = single.get(replace(result.row, threads=1))
        if result.row.threads > 1 and result.ours is not None and alone is not None:
            filled.append(replace(result, scaling=alone / result.ours.median))
        else:
            filled.append(result)
    return filled


def _detail(result: Result) -> list[str]:
    row = result.row
    share = _NONE if result.share is None else f"{result.share:.0%}"
    return [
        str(row.shape),
        row.variant.name,
        WORK_NAMES[row.work],
        row.cell,
        str(row.threads),
        _spread(result.torch),
        _spread(result.ours),
        FAILED if result.ratio is None else f"{result.ratio:.2f}",
        f"{row.target:g}",
        _verdict(result.reached),
        _NONE if result.gflops is None else f"{result.gflops:.1f}",
        share,
        _NONE if result.scaling is None else f"{result.scaling:.2f}",
    ]


def details(results: Iterable[Result]) -> str:
    """Every row with its times, ratio and rate."""
    header = ("I, H, B, T", "variant", "what", "cell", "threads", "torch.nn µs (20 to 80 %)",
              "Cellwright µs (20 to 80 %)", "ratio", "target", "reached", "GFLOP/s", "of mm",
              "over 1 thread")  # fmt: skip
    return table(header, map(_detail, results))


def _ratio_cell(result: Result | None) -> str:
    if result is None:
        return _NONE
    if result.ratio is None:
        return FAILED
    missed = "" if result.reached else f" (target {result.row.target:g})"
    return f"{result.ratio:.2f}×{missed}"


def overview(results: Iterable[Result]) -> str:
    """One line a shape and piece of work, one ratio a cell, with the target where it is missed."""
    lines: dict[Row, dict[str, Result]] = {}
    for result in results:
        key = replace(result.row, cell="LSTM", target=0.0)
        lines.setdefault(key, {})[result.row.cell] = result
    header = ["I, H, B, T", "variant", "what", "threads", *CELLS]
    body = [
        [str(key.shape), key.variant.name, WORK_NAMES[key.work], str(key.threads),
         *(_ratio_cell(line.get(cell)) for cell in CELLS)]
        for key, line in lines.items()
    ]  # fmt: skip
    if all(key.variant == Variant() for key in lines):
        for cells in (header, *body):
            del cells[1]
    return table(header, body)


def summary(results: Sequence[Result]) -> str:
    """How many rows reached their target, and the names of those that didn't."""
    missed = [result for result in results if result.reached is False]
    failed = [result for result in results if result.failure is not None]
    reached = len(results) - len(missed) - len(failed)
    lines = [f"{reached} of {len(results)} rows reach their target."]
    if missed:
        lines.append("")
    lines += [f"- missed: {r.row.name}: {r.ratio:.2f} of {r.row.target:g}" for r in missed]
    if failed:
        lines.append("")
    lines += [f"- {FAILED}: {result.row.name}: {result.failure}" for result in failed]
    return "\n".join(lines)


def peers_table(results: Sequence[Beside]) -> str:
    """Median times of each library, and how often the fastest peer's is Cellwright's."""
    peers = dict.fromkeys(name for r in results for name in r.times if name not in (OURS, TORCH))
    names = (OURS, TORCH, *peers)

    def line(result: Beside) -> list[str]:
        row, times, best = result.row, result.times, result.best_peer
        medians = [micros(times[name].median) if name in times else _NONE for name in names]
        ahead = _NONE if best is None else f"{times[best].median / times[OURS].median:.2f}×"
        return [str(row.shape), WORK_NAMES[row.work], row.cell, *medians, ahead]

    header = ("I, H, B, T", "what", "cell", *(f"{name} µs" for name in names), "best peer / ours")
    return table(header, map(line, results))


def peers_summary(results: Sequence[Beside]) -> str:
    """In how many rows no peer is faster, and what was wrong with whom."""
    timed = [(r, r.best_peer) for r in results if r.best_peer is not None]
    behind = [(r, p) for r, p in timed if r.times[p].median < r.times[OURS].median]
    ahead = f"{len(timed) - len(behind)} of {len(timed)}"
    lines = [
        f"No peer is faster than Cellwright in {ahead} rows." if timed else "No peer was timed."
    ]
    if behind:
        lines.append("")
    lines += [f"- {peer} is faster: {r.row.cell} {r.row.work} {r.row.shape}" for r, peer in behind]
    failures = [(r.row, *failure) for r in results for failure in r.failures.items()]
    if failures:
        lines.append("")
    lines += [f"- {FAILED}: {name}: {row.name}: {why}" for row, name, why in failures]
    return "\n".join(lines)


def memory_table(memories: Iterable[Memory]) -> str:
    """Peak memory of a training step, ours beside torch.nn's."""
    return table(
        ("I, H, B, T", "cell", "torch.nn MiB", "Cellwright MiB", "ours / torch.nn", "at most 1"),
        (
            (str(m.shape), m.cell, FAILED, FAILED, FAILED, str(m.failure))
            if m.ours is None or m.torch is None or m.ratio is None
            else (str(m.shape), m.cell, f"{m.torch:.1f}", f"{m.ours:.1f}", f"{m.ratio:.2f}",
                  _verdict(m.ours - m.torch <= noise(m.torch)))
            for m in memories
        ),
    )  # fmt: skip


def _startup_row(startup: Startup) -> tuple[str, ...]:
    name = (startup.cell, WORK_NAMES[startup.work])
    if (
        startup.cold is None
        or startup.cached is None
        or startup.again is None
        or startup.new_shape_extra is None
    ):
        return (*name, FAILED, FAILED, FAILED, FAILED, FAILED, str(startup.failure))
    reached = startup.cold < COMPILE_LIMIT and startup.cached < CACHED_LIMIT
    return (
        *name,
        f"{startup.cold * 1e3:.0f}",
        f"{startup.cached * 1e3:.0f}",
        f"{startup.again * 1e3:.1f}",
        f"{startup.new_shape_extra * 1e3:.1f}",
        str(startup.new_files),
        _verdict(reached and startup.new_files == 0),
    )


def startup_table(startups: Iterable[Startup]) -> str:
    """What first calls cost, in ms, and whether a new length or batch compiled anything."""
    limits = f"under {COMPILE_LIMIT * 1e3:.0f}, {CACHED_LIMIT * 1e3:.0f}, 0 files"
    header = ("cell", "what", "first call, empty cache ms", "from disk cache ms", "later calls ms",
              "new length or batch adds ms", "new files", limits)  # fmt: skip
    return table(header, map(_startup_row, startups))


def import_line(seconds: float) -> str:
    """What the import adds to torch's, with the bound on it."""
    verdict = "under" if seconds < IMPORT_LIMIT else "NOT under"
    bound = f"{verdict} {IMPORT_LIMIT * 1e3:.0f} ms"
    return f"`import cellwright` adds {seconds * 1e3:.0f} ms to `import torch` ({bound})."


def machine_line(machine: Mapping[str, str | int | float], rates: Mapping[int, float]) -> str:
    """The machine, its versions, and its matrix-product rate, in one paragraph."""
    products = ", ".join(
        f"{rate:.0f} GFLOP/s on {n} thread{'s' if n > 1 else ''}" for n, rate in rates.items()
    )
    return f"{described(machine)}; matrix product 1024³ in float32: {products or 'not measured'}."
