"""What is seen inside a layer is what the layer computes."""

import pytest
import torch
from tests.app.report.comparisons import minimal
from tests.cpu.cells import CELLS, SQUARE

import cellwright as cw
from cellwright import nn
from cellwright.app.report.inside import Kind, Trace, look_inside
from cellwright.cells import lstm

L, H = 9, 5


def stack(cell: cw.Cell, layers: int = 1, *, both: bool = False) -> nn.Recurrent:
    torch.manual_seed(0)
    return nn.Recurrent(cell, H, H, layers, bidirectional=both, dtype=torch.float64)


def by_name(traces: tuple[Trace, ...]) -> dict[str, torch.Tensor]:
    return {trace.name: trace.values for trace in traces}


PLACES = [
    (name, *place)
    for name in CELLS
    for place in ([(0, False), (1, False)] if name in SQUARE else [(0, False), (1, True)])
]
"""Cell, layer, whether in two directions: a square cell has no layer above two directions."""


@pytest.mark.parametrize(("name", "layer", "both"), PLACES)
def test_the_first_state_is_the_layers_output(name: str, layer: int, both: bool) -> None:
    module = stack(CELLS[name], layer + 1, both=both)
    inputs = torch.randn(L, H, dtype=torch.float64)
    below = inputs
    for k in range(layer + 1):
        single = nn.Recurrent(
            CELLS[name], below.shape[1], H, bidirectional=both, dtype=torch.float64
        )
        own = {key: value for key, value in module.state_dict().items() if f"_l{k}" in key}
        single.load_state_dict({key.replace(f"_l{k}", "_l0"): v for key, v in own.items()})
        below = single(below)[0].detach()
    for direction, traces in enumerate(look_inside(module, inputs, layer)):
        expected = below[:, direction * H : (direction + 1) * H]
        torch.testing.assert_close(by_name(traces)["h_t"], expected)
        assert [trace.name for trace in traces] == [
            line.split(" = ")[0] for line in cw.describe(CELLS[name]).equations
        ]


def test_the_gates_of_an_lstm_are_its_equations() -> None:
    module = stack(lstm)
    inputs = torch.randn(L, H, dtype=torch.float64)
    (traces,) = look_inside(module, inputs)
    seen = by_name(traces)
    held = dict(module.named_parameters())
    before = torch.cat([torch.zeros(1, H, dtype=torch.float64), seen["h_t"][:-1]])
    sums = inputs @ held["weight_ih_l0"].T + held["bias_ih_l0"]
    sums = (sums + before @ held["weight_hh_l0"].T + held["bias_hh_l0"]).detach()
    i, f, g, o = sums.chunk(4, 1)
    torch.testing.assert_close(seen["i_t"], i.sigmoid())
    torch.testing.assert_close(seen["f_t"], f.sigmoid())
    torch.testing.assert_close(seen["g_t"], g.tanh())
    torch.testing.assert_close(seen["o_t"], o.sigmoid())
    earlier = torch.cat([torch.zeros(1, H, dtype=torch.float64), seen["c_t"][:-1]])
    torch.testing.assert_close(seen["c_t"], seen["f_t"] * earlier + seen["i_t"] * seen["g_t"])
    kinds = [trace.kind for trace in traces]
    assert kinds == [Kind.GATE, Kind.GATE, Kind.VALUE, Kind.GATE, Kind.STATE, Kind.STATE]
    assert [trace.unit_interval for trace in traces] == [True, True, False, True, False, False]


def test_a_state_that_copies_another_and_one_that_is_a_sigmoid() -> None:
    @cw.cell
    def copies(x, h, c):
        return cw.sigmoid(x.h + c.h), h

    (traces,) = look_inside(stack(copies), torch.randn(L, H, dtype=torch.float64))
    seen = by_name(traces)
    assert torch.equal(seen["c_t"][1:], seen["h_t"][:-1])
    assert [(trace.kind, trace.unit_interval) for trace in traces] == [
        (Kind.STATE, True),
        (Kind.STATE, False),
    ]


def test_the_second_direction_is_in_the_order_of_the_input() -> None:
    inputs = torch.randn(L, H, dtype=torch.float64)
    _, backwards = look_inside(stack(minimal, both=True), inputs)
    changed = inputs.clone()
    changed[3] += 1.0
    _, other = look_inside(stack(minimal, both=True), changed)
    same = (by_name(backwards)["f_t"] == by_name(other)["f_t"]).all(1)
    assert same.tolist() == [False] * 4 + [True] * (L - 4)
