"""Long short-term memory."""

from cellwright.graph.trace import Symbol, cell, sigmoid, tanh

__all__ = ["lstm"]


@cell
def lstm(x: Symbol, h: Symbol, c: Symbol) -> tuple[Symbol, Symbol]:
    """Long short-term memory. Hochreiter & Schmidhuber 1997, forget gate of Gers et al. 2000.

    No peepholes; the order of gates is torch's.
    """
    i = sigmoid(x.i + h.i)
    f = sigmoid(x.f + h.f)
    g = tanh(x.g + h.g)
    o = sigmoid(x.o + h.o)
    c = f * c + i * g
    h = o * tanh(c)
    return h, c
