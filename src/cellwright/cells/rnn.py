"""The simple recurrent network."""

from cellwright.graph.trace import Symbol, cell, relu, tanh

__all__ = ["rnn_relu", "rnn_tanh"]


@cell
def rnn_tanh(x: Symbol, h: Symbol) -> Symbol:
    """Simple recurrent network. Elman 1990."""
    return tanh(x.h + h.h)


@cell
def rnn_relu(x: Symbol, h: Symbol) -> Symbol:
    """Simple recurrent network with rectified units. Le, Jaitly & Hinton 2015."""
    return relu(x.h + h.h)
