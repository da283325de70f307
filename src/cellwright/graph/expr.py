"""Immutable, deduplicated expression nodes."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from weakref import WeakValueDictionary

from cellwright.graph.ops import ELEMENTWISE, LEAVES
from cellwright.locks import ForkLock

__all__ = ["Expr", "const", "leaf", "node", "substitute", "topological", "use_counts"]


class Expr:
    """One node. Equal nodes are the same object, so ``is`` compares and common terms are shared.

    Args:
        op: a key of ``ELEMENTWISE`` or ``LEAVES``.
        args: the operands.
        value: what a leaf carries: a number, a name, an index.
    """

    __slots__ = ("__weakref__", "args", "op", "value")
    op: str
    args: tuple["Expr", ...]
    value: Hashable

    def __reduce__(self) -> tuple[object, ...]:
        return node, (self.op, self.args, self.value)

    def __deepcopy__(self, memo: object) -> "Expr":
        return self

    def __copy__(self) -> "Expr":
        return self

    def __repr__(self) -> str:
        inner = [repr(a) for a in self.args] + (
            [repr(self.value)] if self.value is not None else []
        )
        return f"{self.op}({', '.join(inner)})"

    def __add__(self, other: "Expr | float") -> "Expr":
        return node("add", (self, _lift(other)))

    def __radd__(self, other: float) -> "Expr":
        return node("add", (_lift(other), self))

    def __sub__(self, other: "Expr | float") -> "Expr":
        return node("sub", (self, _lift(other)))

    def __rsub__(self, other: float) -> "Expr":
        return node("sub", (_lift(other), self))

    def __mul__(self, other: "Expr | float") -> "Expr":
        return node("mul", (self, _lift(other)))

    def __rmul__(self, other: float) -> "Expr":
        return node("mul", (_lift(other), self))

    def __truediv__(self, other: "Expr | float") -> "Expr":
        return node("div", (self, _lift(other)))

    def __rtruediv__(self, other: float) -> "Expr":
        return node("div", (_lift(other), self))

    def __neg__(self) -> "Expr":
        return node("neg", (self,))


# Children keep their parents' keys valid: a node holds its arguments, so their ids stay taken.
_nodes: WeakValueDictionary[tuple[object, ...], Expr] = WeakValueDictionary()
_lock = ForkLock()


def node(op: str, args: tuple[Expr, ...] = (), value: Hashable = None) -> Expr:
    """Return the one node with this operation, these operands and this value."""
    if op not in LEAVES and (op not in ELEMENTWISE or ELEMENTWISE[op].arity != len(args)):
        raise ValueError(f"unknown operation {op!r} of {len(args)} arguments")
    # repr tells 0.0 from -0.0 and makes every nan equal to itself
    key = (op, *map(id, args), repr(value) if isinstance(value, float) else value)
    with _lock:  # two threads must not make two of the same node
        found = _nodes.get(key)
        if found is None:
            found = object.__new__(Expr)
            found.op, found.args, found.value = op, args, value
            _nodes[key] = found
        return found


def leaf(op: str, value: Hashable = None) -> Expr:
    """Return a node without operands."""
    return node(op, (), value)


def const(value: float) -> Expr:
    """Return the node of a number."""
    return node("const", (), float(value))


def _lift(value: "Expr | float") -> Expr:
    return value if isinstance(value, Expr) else const(value)


def topological(roots: Iterable[Expr]) -> Iterator[Expr]:
    """Yield every node below ``roots`` once, operands before their users."""
    seen: set[Expr] = set()
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        current, expanded = stack.pop()
        if expanded:
            yield current
        elif current not in seen:
            seen.add(current)
            stack.append((current, True))
            stack.extend((arg, False) for arg in reversed(current.args))


def use_counts(roots: Iterable[Expr]) -> dict[Expr, int]:
    """Count, for every node below ``roots``, the uses by other nodes and as a root."""
    roots = list(roots)
    counts: dict[Expr, int] = {}
    for current in topological(roots):
        for arg in current.args:
            counts[arg] = counts.get(arg, 0) + 1
    for root in roots:
        counts[root] = counts.get(root, 0) + 1
    return counts


def substitute(roots: Iterable[Expr], replace: Callable[[Expr], Expr | None]) -> list[Expr]:
    """Rebuild ``roots`` bottom-up; where ``replace`` returns a node, it stands for the old one.

    ``replace`` sees each node with its operands already rebuilt.
    """
    done: dict[Expr, Expr] = {}
    roots = list(roots)
    for current in topological(roots):
        args = tuple(done[arg] for arg in current.args)
        rebuilt = current if args == current.args else node(current.op, args, current.value)
        done[current] = replace(rebuilt) or rebuilt
    return [done[root] for root in roots]
