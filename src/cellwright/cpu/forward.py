"""The forward pass of a layer: a walk for each direction."""

from collections.abc import Sequence

from torch import Tensor

from cellwright.cpu.memory import new_matrix
from cellwright.cpu.plan import Kept, Plan, Rows, field, projects_first, share_of
from cellwright.cpu.walks import Field, Layout
from cellwright.graph.interpret import Weights

__all__ = ["forward_layer"]


def forward_layer(
    plan: Plan,
    layout: Layout,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, ...], list[Kept]]:
    """Run all directions. The last dimension of every tensor is contiguous.

    Args:
        plan: the layer.
        layout: how the rows of ``x`` lie.
        x: (L, N, H_in) or packed (rows, H_in).
        states: initial states (D, N, H_out), or None for zeros.
        weights: the parameters of each direction.
        keep: whether a backward walk may follow.

    Returns:
        The output (L, N, D · H_out) or (rows, D · H_out), the final states (D, N, H_out), and what
        was kept of each direction.
    """
    D, N = len(weights), layout.batch
    rows = Rows(x, layout)
    out = new_matrix(x, layout.rows, D * plan.outputs)
    finals = tuple([x.new_empty(D, N, plan.width(s)) for s in plan.cell.states])
    share = share_of(plan, layout)
    ahead = projects_first(plan, layout)
    kept: list[Kept] = []
    for d, held in enumerate(weights):
        fields = _state_fields(plan, rows, out, states, finals, d)
        fields["x"] = field(x)
        kept.append(_keep(plan, rows, x, keep, ahead, fields))
        for bundle, bias in held.biases.items():
            fields["bias." + bundle] = (bias.data_ptr(), 0, 0)
        for name, vector in held.vectors.items():
            fields["vector." + name] = (vector.data_ptr(), 0, 0)
        plan.forward_walk(layout, d == 1, share, fields, held.bundles, ahead)
    return rows.sequence(out), finals, kept


def _state_fields(
    plan: Plan,
    rows: Rows,
    out: Tensor,
    states: Sequence[Tensor] | None,
    finals: Sequence[Tensor],
    d: int,
) -> dict[str, Field]:
    """Address the output and the states of direction ``d``."""
    item = plan.item
    fields: dict[str, Field] = {}
    for k, (state, start, final) in enumerate(plan.ends):
        if states is None:
            fields[start] = plan.zero_row
        else:
            jump, stride, _ = states[k].stride()
            fields[start] = (states[k].data_ptr() + d * jump * item, 0, stride)
        ending = finals[k]
        # unless kept, a state is carried along in the memory of its final value
        address = ending.data_ptr() + d * ending.stride(0) * item
        fields[state] = fields[final] = (address, 0, plan.width(state))
    address, step_stride, row_stride = rows.field(out)
    fields[plan.cell.states[0]] = (address + d * plan.outputs * item, step_stride, row_stride)
    return fields


def _keep(
    plan: Plan, rows: Rows, x: Tensor, keep: bool, ahead: bool, fields: dict[str, Field]
) -> Kept:
    """Make and address the memory that a walk fills besides its output and final states."""
    step, H, count = plan.step, plan.units, rows.layout.rows
    fields["gx"] = plan.zero_row
    a = None
    if keep or ahead or step.rounds > 1:
        a = new_matrix(x, count, plan.accumulators)
        fields["a"] = rows.field(a)
        if ahead:
            fields["gx"] = fields["a"]
    else:
        fields["a"] = (plan.dump.data_ptr(), 0, 0)
    # a state that is read across units may not be overwritten while its step runs
    stored = plan.cell.states[1:] if keep else plan.streamed
    streams = [new_matrix(x, count, H) for _ in stored]
    expressions = [new_matrix(x, count, H) for _ in step.expressions]
    for state, stream in zip(stored, streams, strict=True):
        fields[state] = rows.field(stream)
    for j, e in enumerate(expressions):
        fields[f"e{j}"] = rows.field(e)
    return Kept(a, streams, expressions)
