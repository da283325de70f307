"""ONNX Runtime: its LSTM, GRU and RNN operators, called with arrays."""

import onnxruntime

from benchmarks.peers.onnx_layer import inputs, model
from benchmarks.peers.peer import Array, Run
from cellwright.app.bench.row import Work
from cellwright.app.bench.workload import Workload

__all__ = ["PEER"]


class _OnnxRuntime:
    name = f"ONNX Runtime {onnxruntime.__version__}"
    works: tuple[Work, ...] = ("call", "forward")

    def prepare(self, reference: Workload) -> Run:
        """Load a model of the layer on one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            model(reference), options, providers=["CPUExecutionProvider"]
        )
        given = inputs(reference)

        def results() -> list[Array]:
            y, *finals = session.run(None, given)
            return [y[:, 0], *finals]

        return Run(lambda: session.run(None, given), results)


PEER = _OnnxRuntime()
