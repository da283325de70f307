"""A stage's equations cut into levels that are evaluated one after the other, each for all rows.

exp, tanh and the like are long chains of operations that wait for each other. Rows are independent,
so a processor works on several at once, as many as it can look ahead to. Where one such function
waits for another (tanh(c) for the gates), it would not see the next row in time: the second goes
into a loop of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cellwright.graph.expr import Expr, topological
from cellwright.graph.schedule import Read, Stage, Write

__all__ = ["Level", "Levels", "levels"]

_LONG = frozenset({"exp", "log", "sigmoid", "tanh"})
_LEAVES = frozenset({"const", "read", "tile"})
_SHARED = {"a": ("gx",), "da": ("a",)}
"""What may lie in the same memory as what is written: its reads must come first."""


@dataclass
class Level:
    """What one loop over the rows evaluates.

    Attributes:
        order: the expressions, operands before their users.
        loads: values of levels before, and the slot that each is in.
        stores: values for levels to come, and the slot that each goes to.
        writes: what is written at the end.
    """

    order: list[Expr] = field(default_factory=list)
    loads: dict[Expr, int] = field(default_factory=dict)
    stores: dict[Expr, int] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)


@dataclass(frozen=True)
class Levels:
    """All levels; ``slots``: vectors of a row's memory, the stage's tiles first."""

    levels: tuple[Level, ...]
    slots: int


def levels(stage: Stage) -> Levels:
    """Cut a stage's equations."""
    roots = [w.value for w in stage.writes]
    of = {e: max(0, n - 1) for e, n in _depths(roots).items()}
    made = [Level() for _ in range(max(of.values(), default=0) + 1)]
    users: dict[Expr, set[int]] = {e: set() for e in of}
    for e, level in of.items():
        for arg in e.args:
            users[arg].add(level)
    reads = [set[str]() for _ in made]
    for e in (e for e in of if e.op == "read"):
        assert isinstance(e.value, Read)
        for user in users[e]:
            reads[user].add(e.value.buffer)
    for w, written in _written(stage, of, reads):
        made[written].writes.append(w)
        users[w.value].add(written)
    for e, level in of.items():
        # leaves are read again by each level that uses them
        for user in sorted(users[e]) if e.op in _LEAVES else [level]:
            made[user].order.append(e)
    return Levels(tuple(made), _carry(stage.tiles, made, of, users))


def _written(stage: Stage, of: dict[Expr, int], reads: list[set[str]]) -> list[tuple[Write, int]]:
    """Say at which level each write happens; ``reads`` gets what is copied from memory to memory.

    Such a copy is a read too, where it is written: it may put off other writes, and they others.
    """
    while True:
        before = sum(map(len, reads))
        written = [(w, _writing_level(w, of[w.value], reads)) for w in stage.writes]
        for w, level in written:
            if isinstance(w.value.value, Read):
                reads[level].add(w.value.value.buffer)
        if sum(map(len, reads)) == before:
            return written


def _writing_level(write: Write, first: int, reads: list[set[str]]) -> int:
    """Return the first level after which nobody reads the memory that is written."""
    memory = {write.buffer, *_SHARED.get(write.buffer, ())}
    return max([first, *(level for level, names in enumerate(reads) if names & memory)])


def _carry(tiles: int, made: list[Level], of: dict[Expr, int], users: dict[Expr, set[int]]) -> int:
    """Give a slot to each value that a later level uses; return how many slots there are.

    The tiles that no later level reads are free by then.
    """
    later = {str(e.value) for level in made[1:] for e in level.order if e.op == "tile"}
    free = [t for t in range(tiles) if str(t) not in later]
    slots = tiles
    for e, level in of.items():
        crossings = [user for user in users[e] if user > level]
        if e.op in _LEAVES or not crossings:
            continue
        if free:
            slot = free.pop(0)
        else:
            slot, slots = slots, slots + 1
        made[level].stores[e] = slot
        for user in crossings:
            made[user].loads[e] = slot
    return slots


def _depths(roots: Iterable[Expr]) -> dict[Expr, int]:
    """Count the long functions on the way to each expression, its own included."""
    depth: dict[Expr, int] = {}
    for e in topological(roots):
        below = max((depth[arg] for arg in e.args), default=0)
        depth[e] = below + (e.op in _LONG)
    return depth
