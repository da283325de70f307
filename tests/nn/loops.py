"""Cells as Cellwright reads them, each beside the same equations as a plain loop of torch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

import cellwright as cw

States = tuple[Tensor, ...]
Step = Callable[[Tensor, States, Mapping[str, Tensor]], States]


@cw.cell
def coupled(x, h, c):
    """LSTM whose input gate is 1 - f. Greff et al. 2017, CIFG."""
    f = cw.sigmoid(x.f + h.f)
    g = cw.tanh(x.g + h.g)
    o = cw.sigmoid(x.o + h.o)
    c = f * c + (1.0 - f) * g
    return o * cw.tanh(c), c


def coupled_step(x, states, p):
    h, c = states
    a = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
    f, g, o = a.chunk(3, -1)
    f, g, o = torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * c + (1 - f) * g
    return o * torch.tanh(c), c


@cw.cell
def minimal(x, h):
    """Minimal gated unit: the forget gate acts before the product. Zhou et al. 2016."""
    f = cw.sigmoid(x.f + h.f)
    n = cw.tanh(x.n + (f * h).n)
    return (1.0 - f) * h + f * n


def minimal_step(x, states, p):
    (h,) = states
    xf, xn = (x @ p["weight_ih"].T + p["bias_ih"]).chunk(2, -1)
    wf, wn = p["weight_hh"].chunk(2)
    bf, bn = p["bias_hh"].chunk(2)
    f = torch.sigmoid(xf + h @ wf.T + bf)
    n = torch.tanh(xn + (f * h) @ wn.T + bn)
    return ((1 - f) * h + f * n,)


@cw.cell
def peephole(x, h, c, *, p_i=0.5, p_f=1.0, p_o=0.0):
    """LSTM whose gates see the cell state. Gers, Schraudolph & Schmidhuber 2002."""
    i = cw.sigmoid(x.i + h.i + p_i * c)
    f = cw.sigmoid(x.f + h.f + p_f * c)
    g = cw.tanh(x.g + h.g)
    c = f * c + i * g
    o = cw.sigmoid(x.o + h.o + p_o * c)
    return o * cw.tanh(c), c


def peephole_step(x, states, p):
    h, c = states
    a = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
    i, f, g, o = a.chunk(4, -1)
    i, f = torch.sigmoid(i + p["p_i"] * c), torch.sigmoid(f + p["p_f"] * c)
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o + p["p_o"] * c)
    return o * torch.tanh(c), c


@cw.cell
def crossed(x, h, c, s):
    """Three states, each of which has projections; the bare input; every kind of function."""
    u = cw.sigmoid(x.u + h.u + c.u)
    v = cw.softplus(x.v - s.v) + cw.maximum(c.w, h.w)
    c = u * c + (1.0 - u) * cw.tanh(v)
    s = 0.5 * s + cw.exp(-abs(c.z)) / (2.0 + u)
    return cw.tanh(c + x) * u, c, s


def crossed_step(x, states, p):
    h, c, s = states
    xu, xv = (x @ p["weight_ih"].T + p["bias_ih"]).chunk(2, -1)
    hu, hw = (h @ p["weight_hh"].T + p["bias_hh"]).chunk(2, -1)
    cu, cw_, _ = (c @ p["weight_ch"].T + p["bias_ch"]).chunk(3, -1)
    sv = s @ p["weight_sh"].T + p["bias_sh"]
    u = torch.sigmoid(xu + hu + cu)
    v = torch.nn.functional.softplus(xv - sv) + torch.maximum(cw_, hw)
    c = u * c + (1 - u) * torch.tanh(v)
    cz = c @ p["weight_ch"].chunk(3)[2].T + p["bias_ch"].chunk(3)[2]
    s = 0.5 * s + torch.exp(-cz.abs()) / (2 + u)
    return torch.tanh(c + x) * u, c, s


LOOPS: dict[str, tuple[cw.Cell, Step]] = {
    "coupled": (coupled, coupled_step),
    "minimal": (minimal, minimal_step),
    "peephole": (peephole, peephole_step),
    "crossed": (crossed, crossed_step),
}


class Loop(torch.nn.Module):
    """The textbook's loop, one sequence after another, over the parameters of a Recurrent."""

    def __init__(self, module: Any, step: Step) -> None:
        super().__init__()
        self.step = step
        self.layers, self.directions = module.num_layers, 2 if module.bidirectional else 1
        self.hidden, self.states = module.hidden_size, len(module.cell.states)
        self.batch_first = module.batch_first
        for name, p in module.named_parameters():
            self.register_parameter(name, torch.nn.Parameter(p.detach().double()))

    def forward(self, x: Any, hx: Any = None) -> Any:
        batch = (
            x if isinstance(x, PackedSequence) else (x if self.batch_first else x.transpose(0, 1))
        )
        sequences = unpack_sequence(x) if isinstance(x, PackedSequence) else batch.unbind(0)
        given = hx if isinstance(hx, tuple) else (hx,) * self.states
        runs = [
            self._run(one, [None if h is None else h[:, n] for h in given])
            for n, one in enumerate(sequences)
        ]
        ends = tuple(torch.stack(parts, 1) for parts in zip(*(end for _, end in runs), strict=True))
        outs = [out for out, _ in runs]
        if isinstance(x, PackedSequence):
            out: Any = pack_sequence(outs, enforce_sorted=x.sorted_indices is None)
        else:
            out = torch.stack(outs, 0 if self.batch_first else 1)
        return out, ends if len(ends) > 1 else ends[0]

    def _run(self, x: Tensor, hx: list[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
        ends: list[States] = []
        for layer in range(self.layers):
            outs = []
            for direction in range(self.directions):
                row = layer * self.directions + direction
                zero = x.new_zeros(self.hidden)
                states = tuple(zero if h is None else h[row] for h in hx)
                suffix = f"_l{layer}" + "_reverse" * direction
                p = {
                    n.removesuffix(suffix): w
                    for n, w in self.named_parameters()
                    if n.endswith(suffix)
                }
                steps = []
                for x_t in x.flip(0) if direction else x:
                    states = self.step(x_t, states, p)
                    steps.append(states[0])
                out = torch.stack(steps)
                outs.append(out.flip(0) if direction else out)
                ends.append(states)
            x = torch.cat(outs, -1)
        return x, [torch.stack(parts) for parts in zip(*ends, strict=True)]
