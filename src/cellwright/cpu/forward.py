"""The forward pass of a layer: a walk for each direction."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cellwright.cpu.plan import (
    RAW_ROWS,
    Kept,
    Plan,
    empty_like,
    field,
    flat,
    projects_first,
    threads_for,
    zero_row,
)
from cellwright.cpu.walks import Field, Layout, Walk, forward_walk
from cellwright.graph.interpret import Weights
from cellwright.graph.schedule import ForwardOptions
from cellwright.graph.trace import INPUT

__all__ = ["forward_layer"]


def forward_layer(
    plan: Plan,
    layout: Layout,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, ...], list[Kept]]:
    """Run all directions.

    Args:
        plan: the layer.
        layout: how the rows of ``x`` lie.
        x: (L, N, H_in) or packed (rows, H_in), its last dimension contiguous.
        states: initial states (D, N, H_out), contiguous in the last dimension, or None for zeros.
        weights: the parameters of each direction.
        keep: whether a backward walk may follow.

    Returns:
        The output (L, N, D · H_out) or (rows, D · H_out), the final states (D, N, H_out), and what
        was kept of each direction.
    """
    packed = layout.counts is not None
    D, H, N = len(weights), plan.units, layout.batch
    out = empty_like(x, D * H, packed)
    finals = tuple(x.new_empty(D, N, H) for _ in plan.cell.states)
    kept: list[Kept] = []
    raw = not keep and layout.rows <= RAW_ROWS
    project_input = not projects_first(plan, layout)
    options = ForwardOptions(keep, project_input, plan.bias)
    walk = forward_walk(plan.cell, plan.inputs, H, plan.dtype, options, raw)
    threads = threads_for(plan, layout)
    for d, held in enumerate(weights):
        initial = None if states is None else [s[d] for s in states]
        output = out.narrow(-1, d * H, H) if D > 1 else out
        final = [f[d] for f in finals]
        fields, record = _forward_fields(plan, walk, x, output, initial, final, held, options, packed)
        walk(layout, d == 1, threads, fields, held.bundles)
        kept.append(record)
    return out, finals, kept


def _forward_fields(
    plan: Plan,
    walk: Walk,
    x: Tensor,
    output: Tensor,
    initial: list[Tensor] | None,
    final: list[Tensor],
    held: Weights,
    options: ForwardOptions,
    packed: bool,
) -> tuple[dict[str, Field], Kept]:
    H, cell = plan.units, plan.cell
    fields: dict[str, Field] = {"x": field(x, packed), "a": (0, 0, 0)}
    step = plan.step
    zero = zero_row(plan)
    streams: list[Tensor] = []
    for k, state in enumerate(cell.states):
        start = None if initial is None else initial[k]
        fields[f"{state}.start"] = (zero, 0, 0) if start is None else (start.data_ptr(), 0, start.stride(0))
        fields[f"{state}.final"] = (final[k].data_ptr(), 0, H)
        if state in walk.names:
            stream = output if k == 0 else empty_like(x, H, packed)
            fields[state] = field(stream, packed)
            streams.append(stream)
        elif start is None:
            final[k].zero_()
        else:
            final[k].copy_(start)
    a = _accumulators(plan, x, held, options, packed)
    if a is not None:
        fields["a"] = field(a, packed)
    expressions = []
    for j in range(len(step.expressions)):
        e = empty_like(x, H, packed)
        expressions.append(e)
        fields[f"e{j}"] = field(e, packed)
    for bundle, bias in held.biases.items():
        fields[f"bias.{bundle}"] = (bias.data_ptr(), 0, 0)
    for name, vector in held.vectors.items():
        fields[f"vector.{name}"] = (vector.data_ptr(), 0, 0)
    return fields, Kept(a if a is not None else x, streams, expressions)


def _accumulators(
    plan: Plan, x: Tensor, held: Weights, options: ForwardOptions, packed: bool
) -> Tensor | None:
    """Return the memory of the accumulators, where the walk wants it, with the input's products."""
    step = plan.step
    if not (options.keep or not options.project_input or step.stages > 1):
        return None
    inner = options.keep or step.stages > 1
    width = len(step.accumulators) if inner else step.input_width
    a = empty_like(x, width * plan.units, packed)
    if not options.project_input:
        columns = step.input_width * plan.units
        torch.mm(flat(x), held.bundles[INPUT].t(), out=flat(a)[:, :columns])
    return a
