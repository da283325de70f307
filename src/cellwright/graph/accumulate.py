"""Find what one accumulator can hold: projections that only ever meet in one sum.

LSTM's x.i and h.i share an accumulator. GRU's x.n and h.n do not, for r stands between them.

Where a sum is read by nothing but a sigmoid or the like, the accumulator holds that function of it:
the derivative then follows from what the forward pass kept, and need not compute it again.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from cellwright.graph.cell import PROJECTION, Cell, projection
from cellwright.graph.expr import Expr, leaf, node, substitute, topological, use_counts
from cellwright.graph.ops import ELEMENTWISE

__all__ = ["Accumulator", "Step", "Term", "accumulate"]


@dataclass(frozen=True)
class Term:
    """One projection: gate ``gate`` of the weights ``bundle`` times ``source``, plus its bias."""

    bundle: str
    gate: str
    source: Expr

    @property
    def is_expression(self) -> bool:
        """Whether the source is computed within the step, not known before it."""
        return self.source.op not in ("input", "state")


@dataclass(frozen=True)
class Accumulator:
    """A sum of projections, available from ``stage`` on (0: before any equation has run).

    Its leaf stands for ``function`` of the sum, or for the sum itself where that is None.
    """

    terms: tuple[Term, ...]
    stage: int
    function: str | None = None

    @property
    def narrow(self) -> bool:
        """Whether it is the projection of the first state: as wide as that, not as the units."""
        return self.terms[0].bundle == PROJECTION


@dataclass(frozen=True)
class Step:
    """A cell's step over accumulators: new states as expressions of ``accumulator`` leaves."""

    cell: Cell
    accumulators: tuple[Accumulator, ...]
    updates: tuple[Expr, ...]

    @property
    def stages(self) -> int:
        """How many rounds of matrix products and equations one step has."""
        return 1 + max((a.stage for a in self.accumulators), default=0)

    @property
    def narrow(self) -> bool:
        """Whether the first state is projected: by the last accumulator, alone in its stage."""
        return any(a.narrow for a in self.accumulators)

    @property
    def rounds(self) -> int:
        """How many of the stages are as wide as the units."""
        return self.stages - self.narrow

    @property
    def input_width(self) -> int:
        """How many accumulators have a term in the bare input: they stand first, in gate order."""
        return sum(any(t.source.op == "input" for t in a.terms) for a in self.accumulators)

    def slots(self, bundle: str) -> tuple[int, ...]:
        """Return the accumulator of each gate of ``bundle``, in the order of the weights' rows."""
        terms = ((t, k) for k, a in enumerate(self.accumulators) for t in a.terms)
        found = {t.gate: k for t, k in terms if t.bundle == bundle}
        return tuple(found[gate] for gate in self.cell.bundles[bundle])

    @property
    def projected(self) -> tuple[str, ...]:
        """The states whose previous value is projected."""
        terms = [t for a in self.accumulators for t in a.terms]
        read = {t.source.value for t in terms if t.source.op == "state"}
        return tuple(s for s in self.cell.states if s in read)

    @property
    def expressions(self) -> tuple[Expr, ...]:
        """The expressions that are themselves projected, in the order of their accumulators."""
        sources = (t.source for a in self.accumulators for t in a.terms if t.is_expression)
        return tuple(dict.fromkeys(sources))


@lru_cache(maxsize=256)
def accumulate(cell: Cell) -> Step:
    """Rewrite a cell's updates over accumulators."""
    sources = [p.args[0] for p in topological(cell.updates) if p.op == "project"]
    groups = _groups([*cell.updates, *sources], use_counts(cell.updates))
    order = sorted(groups, key=lambda root: _rank(cell, groups[root]))
    rewriter = _Rewriter({root: (k, groups[root]) for k, root in enumerate(order)})
    updates = tuple(rewriter(update) for update in cell.updates)
    terms = [[_term(p, rewriter) for p in groups[root]] for root in order]
    stages = _stages(terms)
    accumulators = tuple(Accumulator(tuple(t), stages[k]) for k, t in enumerate(terms))
    return _absorb(Step(cell, accumulators, updates))


def _absorb(step: Step) -> Step:
    """Let accumulators hold the one function that reads their sums."""
    roots = [*step.updates, *step.expressions]
    users: dict[Expr, list[Expr]] = {}
    for e in topological(roots):
        for arg in e.args:
            users.setdefault(arg, []).append(e)
    held: dict[Expr, Expr] = {}
    for k in range(len(step.accumulators)):
        one = leaf("accumulator", k)
        readers = users.get(one, [])
        if one in roots or len(readers) != 1 or not ELEMENTWISE[readers[0].op].by_value:
            continue
        if all(user.op != readers[0].op for user in users.get(readers[0], [])):  # no tanh(tanh(Σ))
            held[readers[0]] = one
    replaced = substitute(roots, held.get)
    source = dict(zip(roots, replaced, strict=True))
    functions = {one.value: e.op for e, one in held.items()}
    accumulators = tuple(
        Accumulator(
            tuple(replace(t, source=source.get(t.source, t.source)) for t in a.terms),
            a.stage,
            functions.get(k),
        )
        for k, a in enumerate(step.accumulators)
    )
    return Step(step.cell, accumulators, tuple(replaced[: len(step.updates)]))


def _groups(roots: list[Expr], counts: dict[Expr, int]) -> dict[Expr, list[Expr]]:
    """Return, for each sum and each lone projection, the projections that one accumulator holds."""
    groups: dict[Expr, list[Expr]] = {}
    inner: set[Expr] = set()
    for e in reversed(list(topological(roots))):  # users first, so that the longest sum wins
        if e.op == "add" and e not in inner:
            operands, joined = _operands(e, counts)
            inner |= joined
            held: dict[str, Expr] = {}
            for p in operands:
                if p.op == "project" and counts[p] == 1:
                    held.setdefault(projection(p)[0], p)  # one term a bundle
            if held:
                groups[e] = list(held.values())
    taken = {p for group in groups.values() for p in group}
    lone = (e for e in topological(roots) if e.op == "project" and e not in taken)
    return groups | {e: [e] for e in lone}


def _operands(e: Expr, counts: dict[Expr, int]) -> tuple[list[Expr], set[Expr]]:
    """Flatten a sum; return its operands and the inner sums that only it uses."""
    operands: list[Expr] = []
    inner: set[Expr] = set()
    pending = list(e.args)
    while pending:
        current = pending.pop(0)
        if current.op == "add" and counts[current] == 1:
            inner.add(current)
            pending = [*current.args, *pending]
        else:
            operands.append(current)
    return operands, inner


def _rank(cell: Cell, group: list[Expr]) -> tuple[int, int]:
    """Order accumulators with the bare input's gates first, so that one product fills them all."""
    gates = {p.args[0].op: cell.gates.index(projection(p)[1]) for p in reversed(group)}
    return (0, gates["input"]) if "input" in gates else (1, min(gates.values()))


class _Rewriter:
    """Replaces each group of projections by the leaf of its accumulator."""

    def __init__(self, index: dict[Expr, tuple[int, list[Expr]]]) -> None:
        self.index = index
        self.done: dict[Expr, Expr] = {}

    def __call__(self, e: Expr) -> Expr:
        if e not in self.done:
            self.done[e] = self._rewrite(e)
        return self.done[e]

    def _rewrite(self, e: Expr) -> Expr:
        if e not in self.index:
            return node(e.op, tuple(map(self, e.args)), e.value) if e.args else e
        number, group = self.index[e]
        held = leaf("accumulator", number)
        return held if e.op == "project" else self._sum(e, held, set(group))

    def _sum(self, e: Expr, held: Expr, group: set[Expr]) -> Expr:
        rest: list[Expr] = []
        pending = list(e.args)
        while pending:
            current = pending.pop(0)
            if current in group:
                continue
            if current.op == "add" and group & set(topological([current])):
                pending = [*current.args, *pending]
            else:
                rest.append(self(current))
        for term in rest:
            held = held + term
        return held


def _term(p: Expr, rewriter: _Rewriter) -> Term:
    bundle, gate = projection(p)
    source = p.args[0]
    return Term(bundle, gate, source if source.op in ("input", "state") else rewriter(source))


def _stages(terms: list[list[Term]]) -> dict[int, int]:
    """Return the stage of each accumulator: one past the accumulators that its sources read."""
    stages: dict[int, int] = {}

    def stage(k: int) -> int:
        if k not in stages:
            sources = [t.source for t in terms[k] if t.is_expression]
            needs = [e.value for e in topological(sources) if e.op == "accumulator"]
            stages[k] = max((1 + stage(n) for n in needs if isinstance(n, int)), default=0)
            if sources:
                stages[k] = max(1, stages[k])  # even an expression of states alone is stored first
        return stages[k]

    found = {k: stage(k) for k in range(len(terms))}
    for k, own in enumerate(terms):
        if own[0].bundle == PROJECTION:
            found[k] = 1 + max((s for other, s in found.items() if other != k), default=0)
    return found
