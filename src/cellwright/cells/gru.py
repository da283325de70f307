"""Gated recurrent unit."""

from cellwright.graph.trace import Symbol, cell, sigmoid, tanh

__all__ = ["gru"]


@cell
def gru(x: Symbol, h: Symbol) -> Symbol:
    """Gated recurrent unit. Cho et al. 2014, in the form of arXiv 1406.1078v1 that cuDNN computes.

    The reset gate acts after the product with the hidden weights: r ⊙ (W_hn h + b_hn). Where the
    paper has z ⊙ h + (1 - z) ⊙ n, this computes the same as n + z ⊙ (h - n).
    """
    r = sigmoid(x.r + h.r)
    z = sigmoid(x.z + h.z)
    n = tanh(x.n + r * h.n)
    return n + z * (h - n)
