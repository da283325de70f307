"""Which values of a cell's graph get an equation of their own, and what they are called.

The graph keeps no variable names. A nonlinearity of projections to one gate is named after that
gate, a state's update after the state, and a long value that is used twice gets a spare letter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from cellwright.graph.cell import Cell, projection
from cellwright.graph.expr import Expr, const, node
from cellwright.graph.ops import ELEMENTWISE
from cellwright.graph.trace import ARITHMETIC

__all__ = ["Equation", "Name", "Reading", "composite"]

SPARE = "suvqkmdew"
"""Letters for shared values that no gate names."""

LONG = 3
"""A shared value with this many terms gets an equation of its own."""


@dataclass(frozen=True)
class Name:
    """A symbol at time t. ``mark`` is ``""``, ``"~"`` (a candidate for a state) or primes."""

    base: str
    mark: str = ""


@dataclass(frozen=True)
class Equation:
    """``name`` = ``value``."""

    name: Name
    value: Expr


def composite(e: Expr) -> tuple[str, Expr] | None:
    """Recognise a function that is made of several operations: its name and its argument."""
    if e.op == "mul" and e.args[1] is node("sigmoid", e.args[:1]):
        return "silu", e.args[0]
    if e.op == "add" and e.args[0].op == "maximum":
        a = e.args[0].args[0]
        tail = node("log", (1.0 + node("exp", (-node("abs", (a,)),)),))
        if e is node("maximum", (a, const(0.0))) + tail:
            return "softplus", a
    return None


class Reading:
    """A cell as a reader sees it: named values, in the order of their equations.

    Attributes:
        names: the name of each value that has one.
        equations: in an order in which each uses only those before it.
        gates: how many sigmoids multiply something.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.names: dict[Expr, Name] = {}
        self._taken = {Name("x"), *map(Name, cell.states)}
        self._order = list(self._visible())
        self._users: dict[Expr, list[Expr]] = {e: [] for e in self._order}
        for e in self._order:
            for operand in self.operands(e):
                self._users[operand].append(e)
        self._name_updates()
        self._name_gates()
        self._name_shared()
        self.equations = tuple(self._sorted())
        self.gates = sum(e.op == "sigmoid" and self._multiplies(e) for e in self._order)

    @staticmethod
    def operands(e: Expr) -> tuple[Expr, ...]:
        """Return the operands that a reader sees."""
        made = composite(e)
        return (made[1],) if made else e.args

    def _visible(self) -> Iterator[Expr]:
        """Yield what a reader sees, operands before their users."""
        seen: set[Expr] = set()
        stack = [(update, False) for update in reversed(self.cell.updates)]
        while stack:
            e, expanded = stack.pop()
            if expanded:
                yield e
            elif e not in seen:
                seen.add(e)
                stack.append((e, True))
                stack.extend((operand, False) for operand in reversed(self.operands(e)))

    def _name_updates(self) -> None:
        for state, update in zip(self.cell.states, self.cell.updates, strict=True):
            if update.args:
                self.names.setdefault(update, Name(state))

    def _name_gates(self) -> None:
        named: set[Expr] = set()
        for e in self._order:
            if e in self.names or not self._bends(e):
                continue
            (inner,) = self._varying(e)
            gates = {projection(p)[1] for p in self._projections(inner)}
            if inner in named and self._users[inner] == [e]:
                self.names[e] = self.names.pop(inner)  # min(max(·)): the outermost is the gate
                named.add(e)
            elif len(gates) == 1:
                self.names[e] = self._free(gates.pop())
                named.add(e)

    def _bends(self, e: Expr) -> bool:
        """Whether ``e`` is a nonlinear function of one value."""
        if composite(e) is None and (e.op in ARITHMETIC or e.op not in ELEMENTWISE):
            return False
        return len(self._varying(e)) == 1

    def _varying(self, e: Expr) -> list[Expr]:
        return [operand for operand in self.operands(e) if operand.op != "const"]

    def _projections(self, e: Expr) -> set[Expr]:
        """Return the projections at or below ``e`` that no named value stands before."""
        found: set[Expr] = set()
        seen: set[Expr] = set()
        stack = [e]
        while stack:
            current = stack.pop()
            if current in seen or current in self.names:
                continue
            seen.add(current)
            if current.op == "project":
                found.add(current)
            else:
                stack.extend(self.operands(current))
        return found

    def _free(self, gate: str) -> Name:
        candidates = [Name(gate)]
        if gate == "x" or gate in self.cell.states:
            candidates.append(Name(gate, "~"))
        name = next((n for n in candidates if n not in self._taken), None)
        name = name or next(n for k in count(1) if (n := Name(gate, "'" * k)) not in self._taken)
        self._taken.add(name)
        return name

    def _name_shared(self) -> None:
        spare = (Name(letter) for letter in SPARE if letter not in self.cell.gates)
        for e in self._order:
            uses = len(self._users[e]) + self.cell.updates.count(e)
            if uses > 1 and e not in self.names and e.args and self._terms(e) >= LONG:
                name = next((n for n in spare if n not in self._taken), None)
                self.names[e] = name or self._free(SPARE[0])

    def _terms(self, e: Expr) -> int:
        if e.op == "project":
            return LONG
        if e in self.names or not e.args:
            return int(e.op != "const")
        return sum(map(self._terms, self.operands(e)))

    def _sorted(self) -> Iterator[Equation]:
        gates = {gate: k for k, gate in enumerate(self.cell.gates)}
        wanted = [e for e in self._order if e in self.names and e not in self.cell.updates]
        wanted.sort(key=lambda e: gates.get(self.names[e].base, len(gates)))
        done: set[Expr] = set()

        def emit(e: Expr) -> Iterator[Equation]:
            if e in done:
                return
            done.add(e)
            for operand in self.operands(e):
                yield from emit(operand)
            if e in self.names:
                yield Equation(self.names[e], e)

        for e in wanted:
            yield from emit(e)
        for state, update in zip(self.cell.states, self.cell.updates, strict=True):
            yield from emit(update)
            if self.names.get(update) != Name(state):  # a copy of a leaf or of another state
                yield Equation(Name(state), update)

    def _multiplies(self, e: Expr) -> bool:
        """Whether ``e``, or a function of it alone such as 1 - z, is a factor of something."""
        for user in self._users[e]:
            others = [operand for operand in user.args if operand is not e]
            alone = all(operand.op == "const" for operand in others)
            if user.op in ELEMENTWISE and (
                self._multiplies(user) if alone else user.op in ("mul", "div")
            ):
                return True
        return False
