"""Run a cell with torch operations, on any device, differentiable to any order.

This is the definition of what is right; each compiled kernel is tested against it.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from cellwright.graph.cell import INPUT, PROJECTION, Cell
from cellwright.graph.expr import Expr, topological

__all__ = ["MEANINGS", "Form", "Weights", "evaluate", "interpret_layer", "interpret_step"]


def _positive(a: Tensor) -> Tensor:
    return (~(a <= 0)).to(a.dtype)


MEANINGS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "sign": torch.sign,
    "positive": _positive,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
"""The meaning of each elementwise operation on tensors."""


class Form(NamedTuple):
    """Which parameters a layer has in one direction, in the order of ``Weights.tensors``.

    Attributes:
        bundles: the bundles with packed weights.
        biases: the bundles with packed biases; none without bias.
        vectors: the per-unit vectors.
        projects: whether a projection of the first state ends the list.
    """

    bundles: tuple[str, ...]
    biases: tuple[str, ...]
    vectors: tuple[str, ...]
    projects: bool = False


class Weights:
    """The parameters of one layer in one direction. Made on every call, so cheap to make.

    Attributes:
        form: what they are.
        tensors: for each bundle the packed weights (gates · H, width of the source), for each
            biased bundle the packed biases (gates · H), the per-unit vectors (H), and, where
            the form has one, the projection (H_out, H) of the first state.
    """

    __slots__ = ("form", "tensors")

    def __init__(self, form: Form, tensors: Sequence[Tensor]) -> None:
        self.form, self.tensors = form, tensors

    def to(self, dtype: torch.dtype) -> "Weights":
        """Return them in another dtype."""
        return Weights(self.form, [t.to(dtype) for t in self.tensors])

    @classmethod
    def of(
        cls,
        bundles: Mapping[str, Tensor],
        biases: Mapping[str, Tensor],
        vectors: Mapping[str, Tensor],
    ) -> "Weights":
        """Gather parameters by name."""
        form = Form(tuple(bundles), tuple(biases), tuple(vectors))
        return cls(form, [*bundles.values(), *biases.values(), *vectors.values()])

    def output_size(self, hidden_size: int) -> int:
        """Return H_out: what the projection makes of ``hidden_size`` units, if there is one."""
        return self.tensors[-1].shape[0] if self.form.projects else hidden_size

    def _part(self, names: tuple[str, ...], start: int) -> dict[str, Tensor]:
        return dict(zip(names, self.tensors[start : start + len(names)], strict=True))

    @property
    def bundles(self) -> dict[str, Tensor]:
        """The packed weights of each bundle; the projection's are a bundle of its own."""
        found = self._part(self.form.bundles, 0)
        return found | {PROJECTION: self.tensors[-1]} if self.form.projects else found

    @property
    def biases(self) -> dict[str, Tensor]:
        """The packed biases of each bundle; a missing one is 0."""
        return self._part(self.form.biases, len(self.form.bundles))

    @property
    def vectors(self) -> dict[str, Tensor]:
        """The per-unit vectors."""
        return self._part(self.form.vectors, len(self.form.bundles) + len(self.form.biases))


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _cached(function: Callable[[K], V]) -> Callable[[K], V]:
    """Remember results, but for torch.compile, which warns of functools' caches."""
    remembered = lru_cache(maxsize=256)(function)

    @wraps(function)
    def call(key: K) -> V:
        return function(key) if torch.compiler.is_compiling() else remembered(key)

    return call


def evaluate(roots: Sequence[Expr], leaves: Callable[[Expr, list[Tensor]], Tensor]) -> list[Tensor]:
    """Evaluate ``roots``; ``leaves`` gives the tensor of a node that is no elementwise operation.

    Numbers are 0-dimensional float64 tensors of the CPU: they take on the other operand's dtype and
    device.
    """
    values: dict[Expr, Tensor] = {}
    for e in _order(tuple(roots)):
        operands = [values[arg] for arg in e.args]
        if e.op == "const":
            values[e] = torch.tensor(e.value, dtype=torch.float64, device="cpu")
        elif e.op in MEANINGS:
            values[e] = MEANINGS[e.op](*operands)
        else:
            values[e] = leaves(e, operands)
    return [values[root] for root in roots]


@_cached
def _order(roots: tuple[Expr, ...]) -> tuple[Expr, ...]:
    return tuple(topological(roots))


@dataclass(frozen=True)
class _Product:
    """The gates that a bundle projects from one source: one matrix product."""

    bundle: str
    source: Expr
    gates: tuple[str, ...]


@_cached
def _products(cell: Cell) -> dict[Hashable, tuple[_Product, str]]:
    """Return, for the (bundle, gate) of each projection, its product and its gate."""
    sources = {e.value: e.args[0] for e in topological(cell.updates) if e.op == "project"}
    fed: dict[tuple[str, Expr], tuple[str, ...]] = {}
    for bundle, gates in cell.bundles.items():
        for gate in gates:
            key = bundle, sources[bundle, gate]
            fed[key] = (*fed.get(key, ()), gate)
    products = [_Product(*key, gates) for key, gates in fed.items()]
    return {(p.bundle, gate): (p, gate) for p in products for gate in p.gates}


class _Step:
    """One step of a cell, with the weights of one layer in one direction."""

    def __init__(self, cell: Cell, weights: Weights, hidden_size: int) -> None:
        self.cell = cell
        self.vectors = weights.vectors
        self.hidden_size = hidden_size
        self.output_size = weights.output_size(hidden_size)
        self.products = _products(cell)
        packs = weights.bundles, weights.biases
        self.rows = {
            product: tuple(
                _rows(packed[product.bundle], cell.bundles[product.bundle], product.gates)
                for packed in packs
                if product.bundle in packed
            )
            for product, _ in self.products.values()
        }

    def project(self, product: _Product, value: Tensor) -> dict[str, Tensor]:
        """Multiply ``value`` (…, width) with the weights; return each gate (…, H)."""
        gates = linear(value, *self.rows[product]).chunk(len(product.gates), -1)
        return dict(zip(product.gates, gates, strict=True))

    def __call__(
        self, x: Tensor, states: Sequence[Tensor], known: Mapping[_Product, Mapping[str, Tensor]]
    ) -> list[Tensor]:
        """Return the new states, given ``known`` products of the input."""
        previous = dict(zip(self.cell.states, states, strict=True))
        projected = dict(known)

        def leaves(e: Expr, operands: list[Tensor]) -> Tensor:
            if e.op == "project":
                product, gate = self.products[e.value]
                if product not in projected:
                    projected[product] = self.project(product, self._full(operands[0], states[-1]))
                return projected[product][gate]
            if e.op == "state":
                return previous[str(e.value)]
            return x if e.op == "input" else self.vectors[str(e.value)]

        return [self._full(v, states[-1]) for v in evaluate(self.cell.updates, leaves)]

    def _full(self, value: Tensor, like: Tensor) -> Tensor:
        """Give a state its full shape, also where its equation is a constant or a vector."""
        if value.dim() >= 2:
            return value
        if value.dim() == 0:  # a number has no dtype or device of its own
            value = value.to(like)
        return value.expand(like.shape[0], self.hidden_size)


def _rows(packed: Tensor, names: tuple[str, ...], gates: tuple[str, ...]) -> Tensor:
    """Select the rows of ``gates`` from those of ``names``.

    By index: autocast to one half precision refuses to concatenate tensors of the other.
    """
    if gates == names:
        return packed
    blocks: Tensor = packed.unflatten(0, (len(names), -1))
    return blocks[[*map(names.index, gates)]].flatten(0, 1)


def interpret_step(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Mapping[str, Tensor],
    biases: Mapping[str, Tensor],
    vectors: Mapping[str, Tensor],
) -> list[Tensor]:
    """Compute one step.

    Args:
        cell: the cell.
        x: input (N, H_in).
        states: previous states, each (N, H_out).
        weights: for each bundle, the packed weights (gates · H_out, width of the source).
        biases: for each bundle, the packed biases (gates · H_out); a missing one is 0.
        vectors: the per-unit vectors (H_out).

    Returns:
        The new states, each (N, H_out).
    """
    bound = Weights.of(weights, biases, vectors)
    return _Step(cell, bound, states[-1].shape[-1])(x, states, {})


def interpret_layer(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Weights],
    batch_sizes: list[int] | None,
    hidden_size: int,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a layer over a sequence, in D directions.

    Args:
        cell: the cell.
        x: input (L, N, H_in), or (sum of lengths, H_in) if packed.
        states: initial states, each (D, N, H_out); None is 0.
        weights: the parameters of each of the D directions; the second runs backwards in time.
        batch_sizes: how many sequences reach each step, falling, or None if all reach all.
        hidden_size: H, the rows of a gate.

    Returns:
        The first state after each step, (L, N, D · H_out) or (sum of lengths, D · H_out), and the
        states after the last step of each sequence, each (D, N, H_out).
    """
    outputs: list[Tensor] = []
    finals: list[list[Tensor]] = []
    for direction, held in enumerate(weights):
        step = _Step(cell, held, hidden_size)
        if states is None:
            initial = _zeros(step, x, x.shape[1] if batch_sizes is None else batch_sizes[0])
        else:
            initial = [state[direction] for state in states]
        output, final = _scan(step, x, initial, batch_sizes, reverse=direction == 1)
        outputs.append(output)
        finals.append(final)
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
    return output, tuple(torch.stack(final) for final in zip(*finals, strict=True))


def _zeros(step: _Step, x: Tensor, rows: int) -> list[Tensor]:
    widths = [step.output_size, *[step.hidden_size] * (len(step.cell.states) - 1)]
    return [x.new_zeros(rows, width) for width in widths]


def _scan(
    step: _Step,
    x: Tensor,
    initial: list[Tensor],
    batch_sizes: list[int] | None,
    *,
    reverse: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Run one direction; return its outputs in the order of ``x`` and the final states."""
    xs = _steps(x, batch_sizes)
    known = _input_products(step, x, batch_sizes)
    order = range(len(xs))[::-1] if reverse else range(len(xs))
    sizes = batch_sizes or [initial[0].shape[0]] * len(xs)
    states = [state[: sizes[order[0]]] for state in initial]
    ended: list[list[Tensor]] = []
    outputs: list[Tensor] = []
    for t in order:
        rows = states[0].shape[0]
        if sizes[t] < rows:  # forwards, the last sequences end
            ended.append([state[sizes[t] :] for state in states])
            states = [state[: sizes[t]] for state in states]
        elif sizes[t] > rows:  # backwards, they begin
            new = [state[rows : sizes[t]] for state in initial]
            states = [torch.cat(pair) for pair in zip(states, new, strict=True)]
        states = step(xs[t], states, {product: gates[t] for product, gates in known.items()})
        outputs.append(states[0])
    if reverse:
        outputs.reverse()
    output = torch.stack(outputs) if batch_sizes is None else torch.cat(outputs)
    parts = zip(states, *reversed(ended), strict=True)
    return output, [torch.cat(part) if ended else part[0] for part in parts]


def _input_products(
    step: _Step, x: Tensor, batch_sizes: list[int] | None
) -> dict[_Product, list[dict[str, Tensor]]]:
    """Project the whole input at once; return, for each product of it, each step's gates."""
    known: dict[_Product, list[dict[str, Tensor]]] = {}
    for product in step.rows:
        if product.bundle == INPUT and product.source.op == "input":
            gates = step.project(product, x)
            cut = [_steps(gate, batch_sizes) for gate in gates.values()]
            known[product] = [dict(zip(gates, now, strict=True)) for now in zip(*cut, strict=True)]
    return known


def _steps(sequence: Tensor, batch_sizes: list[int] | None) -> tuple[Tensor, ...]:
    """Cut a sequence into its steps."""
    return sequence.unbind(0) if batch_sizes is None else sequence.split(batch_sizes)
