"""Cells beyond the bundled ones: each asks something else of a kernel."""

import cellwright as cw
from cellwright.cells import gru, lstm, rnn_relu, rnn_tanh
from cellwright.graph.trace import Symbol

__all__ = ["BUNDLED", "CELLS", "COPYING", "NARROW", "SQUARE", "WRITTEN", "bare", "coupled"]
__all__ += ["highway", "mgu", "peephole", "projects_c", "reset_before", "two_stages"]

Pair = tuple[Symbol, Symbol]


@cw.cell
def coupled(x: Symbol, h: Symbol, c: Symbol) -> Pair:
    """LSTM whose input gate is 1 - f. Greff et al. 2017."""
    f = cw.sigmoid(x.f + h.f)
    g = cw.tanh(x.g + h.g)
    o = cw.sigmoid(x.o + h.o)
    c = f * c + (1 - f) * g
    return o * cw.tanh(c), c


@cw.cell
def mgu(x: Symbol, h: Symbol) -> Symbol:
    """Minimal gated unit: one gate, which resets the state too. Zhou et al. 2016."""
    f = cw.sigmoid(x.f + h.f)
    n = cw.tanh(x.n + (f * h).n)
    return (1 - f) * h + f * n


@cw.cell
def peephole(
    x: Symbol, h: Symbol, c: Symbol, *, p_i: float = 0.2, p_f: float = -0.3, p_o: float = 0.4
) -> Pair:
    """LSTM whose gates see the cell state through learned vectors. Gers & Schmidhuber 2000."""
    i = cw.sigmoid(x.i + h.i + p_i * c)
    f = cw.sigmoid(x.f + h.f + p_f * c)
    c = f * c + i * cw.tanh(x.g + h.g)
    o = cw.sigmoid(x.o + h.o + p_o * c)
    return o * cw.tanh(c), c


@cw.cell
def reset_before(x: Symbol, h: Symbol) -> Symbol:
    """GRU whose reset acts before the product. Cho et al. 2014, v3."""
    r = cw.sigmoid(x.r + h.r)
    z = cw.sigmoid(x.z + h.z)
    n = cw.tanh(x.n + (r * h).n)
    return n + z * (h - n)


@cw.cell
def highway(x: Symbol, h: Symbol) -> Symbol:
    """A gate between the state and the bare input, which so has as many units."""
    f = cw.sigmoid(x.f + h.f)
    return f * cw.tanh(h + 0.5 * x) + (1 - f) * x


@cw.cell
def projects_c(x: Symbol, h: Symbol, c: Symbol) -> Pair:
    """LSTM whose gates see the whole cell state, by matrices."""
    i = cw.sigmoid(x.i + h.i + c.i)
    f = cw.sigmoid(x.f + h.f + c.f)
    c = f * c + i * cw.tanh(x.g + h.g)
    return cw.sigmoid(x.o + h.o) * cw.tanh(c), c


@cw.cell
def two_stages(x: Symbol, h: Symbol) -> Symbol:
    """A projected expression of a projected expression: each step has three rounds of products."""
    a = cw.sigmoid(x.a + h.a)
    b = cw.tanh(x.b + (a * h).b)
    n = cw.tanh(x.n + (b * a).n)
    return 0.5 * h + 0.5 * n


BUNDLED = (rnn_tanh, rnn_relu, lstm, gru)


@cw.cell
def lag(x: Symbol, h: Symbol, c: Symbol, m: Symbol) -> tuple[Symbol, Symbol, Symbol]:
    """A state that is another one's last value, and used with it."""
    new = cw.sigmoid(x.i + h.i) * cw.tanh(x.g + h.g)
    return cw.sigmoid(x.o + h.o) * cw.tanh(new) * m + 0.1 * m, new, c


@cw.cell
def delay(x: Symbol, h: Symbol, c: Symbol) -> Pair:
    """A state that is a projection of the input, seen one step later."""
    r = cw.sigmoid(x.r + h.r)
    return cw.tanh(x.n + r * h.n) + r * c, x.v


@cw.cell
def swap(x: Symbol, h: Symbol, c: Symbol) -> Pair:
    """A state that is the last output."""
    return cw.tanh(x.g + h.g) * cw.tanh(cw.sigmoid(x.o) * c), h


@cw.cell
def late(x: Symbol, h: Symbol, c: Symbol) -> Pair:
    """A cell whose output nothing reads but gates, with two rounds of products."""
    r = cw.sigmoid(x.r + h.r)
    n = cw.tanh(x.n + (r * c).n + c.s)
    return cw.sigmoid(x.o + h.o) * n, 0.5 * c + 0.5 * n


@cw.cell
def bare(x: Symbol, h: Symbol, c: Symbol) -> Pair:
    """A cell whose output is another state's last value."""
    return c, cw.tanh(x.n + h.n) + 0.5 * c


COPYING = (lag, delay, swap)
"""Cells with a state or a gradient that is a bare copy of another value."""

WRITTEN = (coupled, mgu, peephole, reset_before, highway, projects_c, two_stages)
CELLS = {cell.name: cell for cell in (*BUNDLED, *WRITTEN)}
NARROW = {cell.name: cell for cell in (lstm, rnn_relu, peephole, projects_c, delay, late, bare)}
"""Cells whose output may be narrower than their units: gates alone read it."""
SQUARE = ("highway",)
"""Cells whose input has as many features as the state has units."""
