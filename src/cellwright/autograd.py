"""Run a layer: the seam between the modules and the kernels."""

from cellwright.graph.interpret import Weights, interpret_layer

__all__ = ["Weights", "run_layer"]

run_layer = interpret_layer
