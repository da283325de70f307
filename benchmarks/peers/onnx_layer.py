"""A layer of torch.nn as an ONNX model of one operator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from benchmarks.peers.peer import Array, starts
from cellwright.app.bench.row import Cell
from cellwright.app.bench.workload import Workload

__all__ = ["inputs", "model"]

_GATES: dict[Cell, tuple[int, ...]] = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Which of torch's gates (i, f, g, o; r, z, n) come where in ONNX's order (i, o, f, g; z, r, n)."""
_OPSET, _IR_VERSION = 17, 9


def inputs(workload: Workload) -> dict[str, Array]:
    """The input and the initial states by their names."""
    states = starts(workload)
    names = ["x", "h0", "c0"][: 1 + len(states)]
    return dict(zip(names, [workload.x_data.detach().numpy(), *states], strict=True))


def model(workload: Workload) -> bytes:
    """A model from x and the initial states to the output (L, 1, N, H) and the final states."""
    row, parameters = workload.row, dict(workload.module.named_parameters())
    L, N, H = row.shape.steps, row.shape.batch, row.shape.hidden_size

    def ordered(name: str) -> Array:
        gates = np.split(parameters[f"{name}_l0"].detach().numpy(), len(_GATES[row.cell]))
        return np.concatenate([gates[number] for number in _GATES[row.cell]])

    weights = {
        "W": ordered("weight_ih")[None],
        "R": ordered("weight_hh")[None],
        "B": np.concatenate([ordered("bias_ih"), ordered("bias_hh")])[None],
    }
    given = inputs(workload)
    _, *states = given
    options: dict[str, Any] = {"linear_before_reset": 1} if row.cell == "GRU" else {}
    made = {"y": (L, 1, N, H)} | {f"{state}.final": (1, N, H) for state in states}
    node = helper.make_node(
        row.cell, ["x", "W", "R", "B", "", *states], [*made], hidden_size=H, **options
    )
    taken = [_end(name, value.shape) for name, value in given.items()]
    returned = [_end(name, shape) for name, shape in made.items()]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph([node], row.cell, taken, returned, constants)
    opset = helper.make_opsetid("", _OPSET)
    whole = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    serialized: bytes = whole.SerializeToString()
    return serialized


def _end(name: str, shape: Sequence[int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
