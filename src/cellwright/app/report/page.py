"""The report as one HTML file that needs no network and no other file."""

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import cellwright
from cellwright.app.data import atomic_write
from cellwright.app.model.design import Design
from cellwright.app.report import example, figures, strips
from cellwright.app.report.verdict import best, judge, ratio, score_text, seconds
from cellwright.app.schema import Task
from cellwright.app.training.results import Comparison, Entry
from cellwright.describe import describe
from cellwright.graph.cell import Cell

__all__ = ["render", "write_report"]

DASH = "–"


@dataclass(frozen=True)
class Row:
    """A line of the table, as text; a figure that was not measured is a dash."""

    label: str
    score: str
    gates: str
    parameters: str
    seconds: str
    torch_seconds: str
    ratio: str
    step: str
    ink: str
    best: bool


@dataclass(frozen=True)
class Group:
    """The networks, or the baselines; `badge` marks the best of them."""

    title: str
    badge: str
    rows: tuple[Row, ...]


def write_report(path: str | Path, comparison: Comparison) -> None:
    """Write the report; a file of that name is replaced at once or not at all.

    Args:
        path: the HTML file.
        comparison: what is reported.

    Raises:
        OSError: the file cannot be written.
    """
    atomic_write(Path(path), render(comparison).encode())


def render(comparison: Comparison) -> str:
    """The report's HTML."""
    made = Environment(
        loader=PackageLoader("cellwright.app.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.jinja")
    return made.render(_context(comparison))


def _context(comparison: Comparison) -> dict[str, Any]:
    problem = comparison.problem
    task = problem.schema.task
    inside = example.seen_from_inside(comparison)
    inside["options"] = [entry["entry"] for entry in inside["entries"]]
    charts = figures.curves(comparison)
    plots: dict[str, Any] = {"curves": charts, "maps": dict(_maps(inside))}
    options: dict[str, list[int]] = {"confusion": [], "forecasts": [], "surprises": []}
    for wanted, name, make in (
        (Task.CLASSIFY, "confusion", figures.confusion),
        (Task.FORECAST, "forecasts", figures.forecasts),
        (Task.TEXT, "surprises", example.surprises),
    ):
        if task is wanted:
            plots[name] = make(comparison)
            options[name] = _entries(plots[name])
    plots["inside"] = {key: inside[key] for key in ("marks", "text", "columns") if key in inside}
    drawn, axis = strips.draw(comparison)
    champion = best(comparison, [e for e in comparison.entries if e.design is not None])
    plots["models"] = [
        {"label": entry.label, "ink": strip.ink}
        for entry, strip in zip(comparison.entries, drawn, strict=True)
    ]
    rows = _rows(comparison, [strip.ink for strip in drawn])
    return options | {
        "name": problem.name,
        "task": str(task),
        "summary": problem.summary,
        "verdict": judge(comparison),
        "strips": drawn,
        "chosen": next((k for k, e in enumerate(comparison.entries) if e is champion), 0),
        "axis": axis,
        "rows": rows,
        "networks": [k for k, e in enumerate(comparison.entries) if e.runs and e.runs[0].history],
        "groups": _groups(comparison, rows),
        "notes": list(_notes(comparison)),
        "charts": charts,
        "inside": inside if inside["entries"] else None,
        "cells": [_equations(cell) for cell in _cells(comparison)],
        "command": comparison.command,
        "budget": comparison.budget,
        "about": _about(comparison),
        "data": _json(plots),
        "css": _asset("templates", "report.css"),
        "js": _asset("templates", "report.js"),
        "uplot_css": _asset("vendor", "uplot.css"),
        "uplot_js": Markup("/*\n{}*/\n{}").format(
            _asset("vendor", "LICENSE"), _asset("vendor", "uplot.js")
        ),
    }


def _asset(*names: str) -> Markup:
    """A file of this package, trusted as it is."""
    return Markup(files("cellwright.app.report").joinpath(*names).read_text("utf-8"))


def _json(values: Mapping[str, Any]) -> Markup:
    """JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _maps(inside: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each heat map's numbers by the name that its place in the page has."""
    keys = ("name", "gate", "low", "high", "rows", "steps", "data")
    if "input" in inside:
        yield "input", {key: inside["input"][key] for key in keys}
    for k, entry in enumerate(inside["entries"]):
        for d, direction in enumerate(entry["directions"]):
            for p, panel in enumerate(direction["panels"]):
                shown = {key: panel[key] for key in keys}
                yield f"{k}/{d}/{p}", shown | {"order": direction["order"]}


def _entries(plot: Mapping[str, Any]) -> list[int]:
    """Which entries of the comparison a plot shows."""
    views = plot.get("views", [plot])
    return [one["entry"] for one in views[0]["entries"]] if views else []


def _rows(comparison: Comparison, inks: Sequence[str]) -> tuple[Row, ...]:
    winners = [
        best(comparison, [e for e in comparison.entries if (e.design is None) == baseline])
        for baseline in (False, True)
    ]
    return tuple(
        _row(comparison, entry, ink, winner=any(entry is one for one in winners))
        for entry, ink in zip(comparison.entries, inks, strict=True)
    )


def _row(comparison: Comparison, entry: Entry, ink: str, *, winner: bool) -> Row:
    beside = ratio(entry)
    step = entry.step_microseconds
    return Row(
        label=entry.label,
        score=score_text(comparison, entry),
        gates=DASH if entry.gates is None else str(entry.gates),
        parameters=DASH if entry.parameters is None else f"{entry.parameters:,}",
        seconds=_time(seconds(entry)),
        torch_seconds=DASH if beside is None else _time(beside[0]),
        ratio=DASH if beside is None else f"{beside[1]:.2f}×",
        step=DASH if step is None else f"{step:.1f} µs",
        ink=ink,
        best=winner,
    )


def _time(value: float) -> str:
    if value < 0.1:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} s" if value < 60 else f"{int(value // 60)} min {value % 60:.0f} s"


def _groups(comparison: Comparison, rows: Sequence[Row]) -> list[Group]:
    pairs = list(zip(comparison.entries, rows, strict=True))
    networks = tuple(row for entry, row in pairs if entry.design is not None)
    baselines = tuple(row for entry, row in pairs if entry.design is None)
    groups = [
        Group("Recurrent networks", "best network", networks),
        Group("Plain baselines", "best baseline", baselines),
    ]
    return [group for group in groups if group.rows]


def _notes(comparison: Comparison) -> Iterator[str]:
    """How to read the table's columns."""
    timed = [entry for entry in comparison.entries if ratio(entry) is not None]
    if timed:
        runs = [run for entry in timed for run in entry.runs if run.torch_seconds is not None]
        seeds = len({run.seed for run in runs})
        words = (
            f"On torch.nn: the same training of {seeds} {'seed' if seeds == 1 else 'seeds'}, with "
            "the same initial weights and batches. Ratio: its time over Cellwright's, of the same "
            "seeds."
        )
        gaps = [abs(run.score - run.torch_score) for run in runs if run.torch_score is not None]
        if gaps:
            words += f" Its scores differ from Cellwright's by at most {max(gaps):.1g}."
        yield words
    if any(entry.step_microseconds is not None for entry in comparison.entries):
        yield (
            "Streamed step: the median of one step of one sequence, state carried; what reads in "
            "both directions cannot stream."
        )


def _cells(comparison: Comparison) -> list[Cell]:
    """Each network's cell once."""
    designs = (entry.design for entry in comparison.entries if entry.design is not None)
    return list(dict.fromkeys(design.cell for design in designs))


def _equations(cell: Cell) -> dict[str, Any]:
    found = describe(cell)
    return {
        "name": Design(cell).label,
        "doc": [part for part in cell.doc.split("\n\n") if part.strip()],
        "mathml": found.mathml,
        "gates": "1 gate" if found.gates == 1 else f"{found.gates} gates",
        "parameters": found.parameters,
    }


def _about(comparison: Comparison) -> dict[str, Any]:
    now = datetime.now().astimezone()
    machine = f"{_processor()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads used"
    versions = (
        f"Cellwright {cellwright.__version__}, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
    return {
        "cellwright": cellwright.__version__,
        "date": f"{now.day} {now:%B %Y, %H:%M}",
        "date_iso": now.isoformat(timespec="minutes"),
        "facts": [
            ("Time", f"{_time(comparison.seconds)} for the whole comparison"),
            ("Versions", versions),
            ("Machine", f"{machine}, {platform.system()} {platform.release()}"),
            ("Date", f"{now:%Y-%m-%d %H:%M %Z}"),
        ],
    }


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
