"""Run a step and its adjoint as the graphs say, in float64, to hold them against autograd."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cellwright import Cell
from cellwright.graph.accumulate import Step, Term, accumulate
from cellwright.graph.derive import adjoint
from cellwright.graph.expr import Expr
from cellwright.graph.interpret import evaluate

ROWS, UNITS, INPUTS = 3, 4, 5


@dataclass
class Values:
    """Everything that one step reads."""

    x: Tensor
    states: dict[str, Tensor]
    weights: dict[str, Tensor]
    biases: dict[str, Tensor]
    vectors: dict[str, Tensor]

    @staticmethod
    def random(cell: Cell, seed: int = 0, *, gradients: bool = False) -> "Values":
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            return drawn.requires_grad_(gradients)

        inputs = UNITS if cell.reads_input else INPUTS
        widths = {"x": inputs}
        rows = {bundle: len(gates) * UNITS for bundle, gates in cell.bundles.items()}
        return Values(
            draw(ROWS, inputs),
            {state: draw(ROWS, UNITS) for state in cell.states},
            {bundle: draw(n, widths.get(bundle, UNITS)) for bundle, n in rows.items()},
            {bundle: draw(n) for bundle, n in rows.items()},
            {vector: draw(UNITS) for vector in cell.vectors},
        )

    def all(self) -> dict[str, Tensor]:
        found = {"x": self.x}
        for kind in ("states", "weights", "biases", "vectors"):
            found |= {f"{kind} {name}": value for name, value in getattr(self, kind).items()}
        return found


class Run:
    """One step of ``cell`` over accumulators, and its derivative."""

    def __init__(self, cell: Cell, values: Values) -> None:
        self.cell, self.values = cell, values
        self.step: Step = accumulate(cell)
        self.held: dict[int, Tensor] = {}

    def rows(self, term: Term) -> slice:
        first = self.cell.bundles[term.bundle].index(term.gate) * UNITS
        return slice(first, first + UNITS)

    def forward(self) -> list[Tensor]:
        """Fill the accumulators stage by stage; return the new states."""
        for stage in range(self.step.stages):
            for k, accumulator in enumerate(self.step.accumulators):
                if accumulator.stage == stage:  # a source that is not ready is a KeyError
                    total = sum((self.product(t) for t in accumulator.terms), torch.zeros(()))
                    function = accumulator.function
                    self.held[k] = total if function is None else getattr(torch, function)(total)
        return [self.value(update) for update in self.step.updates]

    def product(self, term: Term) -> Tensor:
        rows = self.rows(term)
        weight, bias = self.values.weights[term.bundle][rows], self.values.biases[term.bundle][rows]
        return self.value(term.source) @ weight.T + bias

    def value(self, e: Expr, more: Callable[[Expr], Tensor] | None = None) -> Tensor:
        def leaves(found: Expr, _: list[Tensor]) -> Tensor:
            match found.op:
                case "accumulator":
                    return self.held[int(str(found.value))]
                case "state":
                    return self.values.states[str(found.value)]
                case "vector":
                    return self.values.vectors[str(found.value)]
                case "input":
                    return self.values.x
            assert more is not None, f"{found.op} has no value here"
            return more(found)

        return evaluate([e], leaves)[0].expand(ROWS, -1 if e.op != "const" else UNITS)

    def backward(self, cotangents: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradient of everything in ``Values.all``, in its order."""
        self.derived, self.cotangents = adjoint(self.step), cotangents
        found = {name: torch.zeros_like(value) for name, value in self.values.all().items()}
        for state, gradient in zip(self.cell.states, self.derived.states, strict=True):
            found[f"states {state}"] += 0 if gradient is None else self.gradient(gradient)
        for vector, gradient in self.derived.vectors.items():
            found[f"vectors {vector}"] += self.gradient(gradient).sum(0)
        bare = self.derived.input
        found["x"] += 0 if bare is None else self.gradient(bare)
        for k, accumulator in enumerate(self.step.accumulators):
            gate = self.gradient(self.derived.accumulators[k])
            for term in accumulator.terms:
                rows = self.rows(term)
                found[f"weights {term.bundle}"][rows] += gate.T @ self.value(term.source)
                found[f"biases {term.bundle}"][rows] += gate.sum(0)
                if not term.is_expression:
                    name = "x" if term.source.op == "input" else f"states {term.source.value}"
                    found[name] += gate @ self.values.weights[term.bundle][rows]
        return found

    def gradient(self, e: Expr) -> Tensor:
        def more(found: Expr) -> Tensor:
            if found.op == "cotangent":
                return self.cotangents[str(found.value)]
            assert found.op == "backproject"
            return self.through(self.step.expressions[int(str(found.value))])

        return self.value(e, more).double()

    def through(self, source: Expr) -> Tensor:
        """Gather the gradient of an expression from the gates that it feeds."""
        total = torch.zeros(ROWS, UNITS, dtype=torch.float64)
        for k, accumulator in enumerate(self.step.accumulators):
            for term in accumulator.terms:
                if term.source is source:
                    weight = self.values.weights[term.bundle][self.rows(term)]
                    total = total + self.gradient(self.derived.accumulators[k]) @ weight
        return total
