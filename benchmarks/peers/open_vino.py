"""OpenVINO: the same ONNX model, compiled for latency in float32."""

from typing import Any

import openvino

from benchmarks.peers.onnx_layer import inputs, model
from benchmarks.peers.peer import Array, Run
from cellwright.app.bench.row import Work
from cellwright.app.bench.workload import Workload

__all__ = ["PEER"]

_SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_NUM_THREADS": 1,
    "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the machine has it
}


class _OpenVino:
    name = f"OpenVINO {openvino.__version__.partition('-')[0]}"
    works: tuple[Work, ...] = ("call", "forward")

    def __init__(self) -> None:
        self._core = openvino.Core()

    def prepare(self, reference: Workload) -> Run:
        """Compile a model of the layer for one thread."""
        read = self._core.read_model(model=model(reference), weights=b"")
        request = self._core.compile_model(read, "CPU", _SETTINGS).create_infer_request()
        given = inputs(reference)

        def call() -> Any:
            return request.infer(given, share_inputs=True, share_outputs=True)

        def results() -> list[Array]:
            y, *finals = (value.copy() for value in call().values())
            return [y[:, 0], *finals]

        return Run(call, results)


PEER = _OpenVino()
