"""Random small cells, to hold one way of running a cell against another.

``random_cell(seed, …)`` is a function of its arguments alone, and the cell's name states them: a
failing example is made again with ``random_cell(*numbers of its name)``. No new state is larger
than both 1 and the state before it, so any number of steps may be run, and every operation is kept
inside its domain (no division by 0, no logarithm of 0, no overflow of exp).
"""

import inspect
from random import Random
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st

import cellwright as cw
from cellwright.graph.trace import Symbol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REPRODUCIBLE", "cells", "random_cell"]

REPRODUCIBLE = settings(derandomize=True, database=None, deadline=None, max_examples=60)
"""The same examples in every run; a failure prints the cell, whose name holds its seed."""


def random_cell(seed: int, states: int = 2, gates: int = 3, vectors: int = 1) -> cw.Cell:
    """Return a cell of 1 to 3 states, 1 to 4 gates and 0 to 2 vectors."""
    draft = _Draft(Random(f"{seed} {states} {gates} {vectors}"), gates)

    def equations(*symbols: Symbol, **learned: Symbol) -> tuple[Symbol, ...]:
        return draft(symbols[0], symbols[1:], list(learned.values()))

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = [inspect.Parameter(name, positional) for name in ("x", "h", "c", "m")[: states + 1]]
    signature += [
        inspect.Parameter(f"p_{k}", inspect.Parameter.KEYWORD_ONLY, default=0.5 - 0.3 * k)
        for k in range(vectors)
    ]
    equations.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    return cw.cell(name=f"random_cell_{seed}_{states}_{gates}_{vectors}")(equations)


def cells() -> st.SearchStrategy[cw.Cell]:
    """Return the strategy; smaller numbers of states, gates and vectors are tried first."""
    return st.builds(
        random_cell,
        seed=st.integers(0, 2**31 - 1),
        states=st.integers(1, 3),
        gates=st.integers(1, 4),
        vectors=st.integers(0, 2),
    )


class _Draft:
    """Draws the equations of one cell."""

    def __init__(self, random: Random, gates: int) -> None:
        self.random, self.gates = random, gates

    def __call__(
        self, x: Symbol, states: tuple[Symbol, ...], vectors: list[Symbol]
    ) -> tuple[Symbol, ...]:
        self.x, self.states, self.vectors = x, states, vectors
        self.values: list[Symbol] = [*states]  # what later equations may use; all bounded
        self.unused = list(vectors)
        self.bare_input = self.random.random() < 0.2
        for k in range(self.gates):
            sums = self._pre_activation(f"g{k}")
            self.values.append(self._squashed(sums))
        while self.unused:  # a cell may not declare a vector and leave it out
            self.values.append(self._squashed(self.unused.pop() * self._pick()))
        made, n = self.values[len(states) :], len(states)
        shares = [made[k::n] for k in range(n)]  # each value is read, so that no gate is dead
        return tuple(self._update(*pair) for pair in zip(states, shares, strict=True))

    def _pre_activation(self, gate: str) -> Symbol:
        """Sum projections to ``gate`` and, now and then, products and peepholes."""
        random = self.random
        sources = [s for s in self.states if random.random() < 0.6]
        terms = [getattr(source, gate) for source in sources]
        if not terms and random.random() < 0.7:  # no state feeds this gate: an expression may
            factor = self._pick()
            terms.append(getattr(factor * random.choice(self.states), gate))
        if not terms or random.random() < 0.8:
            terms.append(getattr(self.x, gate))
        if random.random() < 0.3:
            terms[0] = self._pick() * terms[0]  # as GRU's reset: a product parts the sum
        if random.random() < 0.15:
            terms.append(self._pick() * terms[0])  # a term used twice
        if self.unused and random.random() < 0.6:
            terms.append(self.unused.pop() * self._pick())
        if self.bare_input and random.random() < 0.5:
            terms.append(0.3 * self.x)
        random.shuffle(terms)
        return self._sum(terms)

    def _sum(self, terms: list[Symbol]) -> Symbol:
        """Add terms in a random nesting; a few are subtracted."""
        while len(terms) > 1:
            a, b = terms.pop(self.random.randrange(len(terms))), terms.pop()
            terms.append(a - b if self.random.random() < 0.2 else a + b)
        return terms[0]

    def _squashed(self, a: Symbol) -> Symbol:
        """Map any real vector to a bounded one, by every operation in turn."""
        b = self._pick()
        shapes: list[Callable[[], Symbol]] = [
            lambda: cw.sigmoid(a),
            lambda: cw.tanh(a),
            lambda: cw.tanh(cw.relu(a)),
            lambda: cw.exp(-abs(a)),
            lambda: a / (1.0 + abs(a)),
            lambda: a / cw.sqrt(1.0 + a * a),
            lambda: cw.tanh(cw.log(1.5 + a**2)),
            lambda: cw.minimum(cw.maximum(a, -0.9), 0.8),
            lambda: cw.maximum(cw.tanh(a), b),
            lambda: cw.minimum(cw.sigmoid(a), 1 - b),
            lambda: cw.tanh(cw.softplus(a)),
            lambda: cw.tanh(cw.silu(a)),
        ]
        weights = [4, 4] + [1] * (len(shapes) - 2)  # the most of gates are σ and tanh
        return self.random.choices(shapes, weights)[0]()

    def _pick(self) -> Symbol:
        return self.random.choice(self.values)

    def _update(self, state: Symbol, share: list[Symbol]) -> Symbol:
        """Combine a share of the values into a new state."""
        new = share[0] if share else self._pick()
        for value in share[1:]:
            new = new * value if self.random.random() < 0.5 else (new + value) / 2
        a, b = self._pick(), self._pick()
        shapes: list[Callable[[], Symbol]] = [
            lambda: cw.tanh(new) * cw.sigmoid(a),
            lambda: cw.tanh(a + new * b),
            lambda: 0.5 * state + 0.5 * cw.tanh(new - a),
            lambda: (1 - cw.sigmoid(a)) * state + cw.sigmoid(a) * cw.tanh(new),
            lambda: -cw.tanh(new) / 2,
        ]
        result = self.random.choice(shapes)()
        self.values.append(result)  # later states may use this one, as h uses the new c
        return result
