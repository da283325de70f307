"""One example sequence of the test part, as each network sees it from inside.

Shapes: L steps, H_in input columns, H units, V symbols of the vocabulary.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cellwright.app.model.network import Network
from cellwright.app.problem import Part, Problem
from cellwright.app.report.inside import Kind, Trace, look_inside
from cellwright.app.schema import Schema, Task
from cellwright.app.training.evaluate import which_unknown
from cellwright.app.training.results import Comparison, Entry
from cellwright.nn import Recurrent
from cellwright.printing.mathml import MATHML
from cellwright.printing.naming import Name

__all__ = ["Example", "choose", "seen_from_inside", "surprises"]

STEPS = {Task.CLASSIFY: 200, Task.FORECAST: 120, Task.TEXT: 90}
"""At most so many steps are shown."""

WARM_UP = 400
"""Steps before those shown, so that the states have forgotten where they began."""

MAX_UNITS = 96
PASSAGE = 600
"""Characters of the passage that is marked by surprise."""

ROLES = {
    ("lstm", "i_t"): "input gate: near 1 it lets the candidate in",
    ("lstm", "f_t"): "forget gate: near 1 it holds the cell state",
    ("lstm", "o_t"): "output gate: near 1 it shows the cell state",
    ("lstm", "g_t"): "candidate",
    ("gru", "r_t"): "reset gate: near 0 it hides the past",
    ("gru", "z_t"): "update gate: near 1 it holds the state",
    ("gru", "n_t"): "candidate",
}


@dataclass(frozen=True)
class Example:
    """Some steps of the test part.

    Attributes:
        title: what a reader is told it is.
        inputs: (L, H_in) or, of text, (L,): warm-up and the steps to show.
        shown: how many steps at the end are shown.
        marks: what stands under each step shown: a character, a date or a number.
    """

    title: str
    inputs: Tensor
    shown: int
    marks: tuple[str, ...]


def choose(problem: Problem) -> Example:
    """The test sequence of median length; of one long series its end."""
    part, task = problem.test, problem.schema.task
    if task is Task.CLASSIFY:
        lengths = part.inputs.lengths
        index = int(lengths.argsort(stable=True)[(len(lengths) - 1) // 2])
        inputs = part.inputs[index][: STEPS[task]]
        label = problem.schema.classes[int(part.targets[index])]
        name = "" if part.ids is None else f" {part.ids[index]}"
        title = f"Test sequence{name} of class {label}, {len(inputs)} steps"
        if len(inputs) < int(lengths[index]):
            title += f" of {int(lengths[index])}"
        return Example(title, inputs, len(inputs), _counted(1, len(inputs) + 1))
    index = int(part.inputs.lengths.argmax())
    whole = part.inputs[index]
    end = len(whole) // 2 if task is Task.TEXT else len(whole)  # a text's end is often an index
    end = max(end, min(len(whole), STEPS[task]))
    shown = min(STEPS[task], end)
    marks = _marks(problem.schema, part, whole, int(part.inputs.starts[index]), end, shown)
    what = "characters from the middle" if task is Task.TEXT else "steps at the end"
    title = f"{shown} {what} of the test part"
    return Example(title, whole[max(0, end - shown - WARM_UP) : end], shown, marks)


def _counted(first: int, end: int) -> tuple[str, ...]:
    return tuple(f"step {number}" for number in range(first, end))


def _marks(
    schema: Schema, part: Part, whole: Tensor, start: int, end: int, shown: int
) -> tuple[str, ...]:
    if schema.task is Task.TEXT:
        return tuple(schema.vocabulary[symbol] for symbol in whole[end - shown : end].tolist())
    if part.times is None:
        return _counted(end - shown + 1, end + 1)
    times = part.times[start + end - shown : start + end]
    return tuple(str(value).removesuffix(" 00:00:00") for value in times)


def seen_from_inside(comparison: Comparison) -> dict[str, Any]:
    """Heat maps of each gate and state of the first layer, for each network, for one example."""
    problem = comparison.problem
    example = choose(problem)
    entries = [
        {"entry": index, "says": says, "directions": directions}
        for index, entry in enumerate(comparison.entries)
        if entry.design is not None and entry.weights
        for says, directions in [_entry(problem, entry, example)]
    ]
    found: dict[str, Any] = {
        "title": example.title,
        "marks": list(example.marks),
        "text": problem.schema.task is Task.TEXT,
        "entries": entries,
    }
    if problem.schema.task is not Task.TEXT:
        shown = example.inputs[-example.shown :]
        trace = Trace("x_t", MATHML.at(Name("x")), Kind.VALUE, unit_interval=False, values=shown)
        found["input"] = _panel(trace, list(range(shown.shape[1])), "the input, scaled")
        found["columns"] = list(problem.schema.input_names)
    return found


def _entry(problem: Problem, entry: Entry, example: Example) -> tuple[str, list[dict[str, Any]]]:
    """What the network says of the example, and its panels for each direction."""
    network = _network(problem, entry)
    outputs, read = _run(network, example.inputs)
    recurrent = network.recurrent
    if not isinstance(recurrent, Recurrent):
        raise TypeError(f"expected a Recurrent stack, but got a {type(recurrent).__name__}")
    says = ""
    if problem.schema.task is Task.CLASSIFY:
        chance, label = outputs[0].softmax(-1).max(-1)
        says = f"{problem.schema.classes[int(label)]} ({100 * float(chance):.0f} %)"
    directions = []
    for traces in look_inside(recurrent, read):
        cut = [trace.values[-example.shown :] for trace in traces]
        order = _neighbours(torch.cat(cut))
        panels = [
            _panel(
                Trace(trace.name, trace.mathml, trace.kind, trace.unit_interval, values),
                order,
                ROLES.get((recurrent.cell.name, trace.name), str(trace.kind)),
            )
            for trace, values in zip(traces, cut, strict=True)
        ]
        directions.append({"panels": panels, "order": order})
    return says, directions


def surprises(comparison: Comparison) -> dict[str, Any]:
    """Bits that each network needs for each character of a passage of the test text."""
    problem = comparison.problem
    text = problem.test.inputs[0]
    start = len(text) // 2 if len(text) > 2 * PASSAGE else 0
    passage = text[max(0, start - WARM_UP) : start + PASSAGE]
    shown = min(PASSAGE, len(passage) - 1)
    entries = []
    for index, entry in enumerate(comparison.entries):
        if entry.design is not None and entry.weights:
            outputs, _ = _run(_network(problem, entry), passage)
            chances = outputs[:-1, 0].double().log_softmax(-1)
            bits = -chances.gather(1, passage[1:, None])[:, 0] / math.log(2)
            bits = (bits + which_unknown(problem.schema, passage[1:]))[-shown:]
            entries.append({"entry": index, "bits": [round(bit, 1) for bit in bits.tolist()]})
    characters = [problem.schema.vocabulary[symbol] for symbol in passage[-shown:].tolist()]
    return {"characters": characters, "entries": entries}


def _network(problem: Problem, entry: Entry) -> Network:
    if entry.design is None:
        raise ValueError(f"{entry.label} is a baseline and has no network")
    network = Network(problem.schema, entry.design, problem.scaling)
    network.load_state_dict(entry.weights)
    return network.eval()


def _run(network: Network, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The network's output for one sequence, as a batch of 1, and what its stack read (L, …)."""
    read: list[Tensor] = []
    hook = network.recurrent.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        with torch.no_grad():
            outputs, _ = network(inputs[:, None])
    finally:
        hook.remove()
    return outputs, read[0][:, 0]


def _neighbours(over_time: Tensor) -> list[int]:
    """An order of the units (columns) in which alike ones are neighbours, at most MAX_UNITS.

    The angle in the plane of the first two principal components: a circle has no ends that a
    unit could be far from.
    """
    units = over_time.shape[1]
    order = torch.arange(units)
    if units > 2 and bool(over_time.isfinite().all()):
        centred = (over_time - over_time.mean(0)).double()
        _, weight, plane = torch.linalg.svd(centred, full_matrices=False)
        if len(weight) > 1:
            order = torch.atan2(weight[1] * plane[1], weight[0] * plane[0]).argsort()
    if units > MAX_UNITS:
        order = order[torch.linspace(0, units - 1, MAX_UNITS).round().long()]
    return order.tolist()


def _panel(trace: Trace, order: Sequence[int], role: str) -> dict[str, Any]:
    """A heat map: one byte a value, 1 to 255 from `low` to `high`, 0 where it is not finite."""
    values = trace.values[:, list(order)].T.double()  # (units, L)
    finite = values.isfinite()
    known = values[finite]
    bound = float(known.abs().max()) if len(known) else 1.0
    low, high = (0.0, 1.0) if trace.unit_interval else (-(bound or 1.0), bound or 1.0)
    scaled = (1 + 254 * (values - low) / (high - low)).round().clamp(1, 255)
    data = torch.where(finite, scaled, 0).to(torch.uint8).contiguous()
    return {
        "name": trace.name,
        "mathml": trace.mathml,
        "role": role,
        "gate": trace.unit_interval,
        "low": low,
        "high": high,
        "rows": values.shape[0],
        "steps": values.shape[1],
        "data": base64.b64encode(data.numpy().tobytes()).decode(),
        "facts": _facts(known, gate=trace.unit_interval),
    }


def _facts(known: Tensor, *, gate: bool) -> str:
    if not len(known):
        return "no finite value"
    if gate:
        above, below = (float(some.double().mean()) for some in (known > 0.9, known < 0.1))
        return f"mean {float(known.mean()):.2f}, {100 * above:.0f} % open, {100 * below:.0f} % shut"
    return f"{float(known.min()):.2g} to {float(known.max()):.2g}".replace("-", "−")
