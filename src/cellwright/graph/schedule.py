"""From a step and its adjoint to programs: which products, reads and writes make up one time step.

A program walks over time. Each step has one or more stages; a stage is a set of matrix products,
whose sums come to lie in tiles, and then equations that read the tiles and memory, and write.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Literal

from cellwright.graph.accumulate import Step, accumulate
from cellwright.graph.cell import PROJECTION, Cell
from cellwright.graph.derive import Adjoint, adjoint
from cellwright.graph.expr import Expr, const, leaf, node, substitute, topological
from cellwright.graph.runs import runs
from cellwright.graph.simplify import simplify

__all__ = ["Buffer", "Product", "Program", "Read", "Stage", "Write", "backward", "forward"]

When = Literal["now", "before", "after"]
"""Which step a read looks at, in the order in which the program walks."""


@dataclass(frozen=True)
class Buffer:
    """Memory that a program reads or writes.

    Attributes:
        space: ``step`` has a row for each step and batch row; ``row`` one for each batch row;
            ``unit`` one row for all; ``sum`` one for each thread, added to.
        start: for a ``step`` buffer read at another step, the ``row`` buffer that stands in where
            that step lies outside of the row's sequence.
    """

    name: str
    space: Literal["step", "row", "unit", "sum"]
    start: str | None = None


@dataclass(frozen=True)
class Read:
    """A vector of units of ``buffer``, from column ``column`` on."""

    buffer: str
    column: int = 0
    when: When = "now"


@dataclass(frozen=True)
class Write:
    """A vector of units that goes to ``buffer`` at the present step, or is added to a ``sum``."""

    buffer: str
    column: int
    value: Expr


@dataclass(frozen=True)
class Product:
    """Weights times a vector, added to the tiles ``tile`` … ``tile + count - 1``.

    Attributes:
        source: the vector, ``depth`` long.
        matrix: the bundle of the weights; rows start at ``row``.
        transposed: tile j's unit u sums over W[row + k, u] instead of W[row + j·H + u, k].
        given: the walk may be told to leave it out, because it was computed ahead.
        column: where in the weights' rows the vector starts.
    """

    source: Read
    depth: int
    tile: int
    count: int
    matrix: str
    row: int
    transposed: bool
    given: bool = False
    column: int = 0


@dataclass(frozen=True)
class Stage:
    """Products into ``tiles`` tiles, then equations over ``tile`` and ``read`` leaves.

    Attributes:
        units: how many units each tile and each write has.
        columns: for each tile of a forward walk, where it has its part of ``a``, ``gx`` and ``b``.
    """

    units: int
    tiles: int
    products: tuple[Product, ...]
    writes: tuple[Write, ...]
    columns: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """One time step of a walk.

    Attributes:
        finals: triples (step buffer, row buffer, width): where a row's sequence ends, its last
            value is copied.
        constants: what is the same at all steps, and so written once, ahead of them.
    """

    name: str
    stages: tuple[Stage, ...]
    buffers: tuple[Buffer, ...]
    finals: tuple[tuple[str, str, int], ...] = ()
    constants: tuple[Write, ...] = ()


@lru_cache(maxsize=512)
def forward(cell: Cell, inputs: int, units: int, outputs: int, bias: bool) -> Program:
    """Schedule the forward walk of a layer with ``inputs`` → ``units`` → ``outputs``.

    The last two differ only where the cell's first state is projected.

    Each state is kept in a step buffer of its own name, the accumulators go to ``a``. To each one's
    tile, the sum of its biases is added, from ``b``. For the input's gates it comes from ``gx``
    instead, together with the products with the input where they were computed ahead of the walk.
    """
    builder = _Forward(accumulate(cell), inputs, units, outputs, bias)
    stages = tuple(builder.stage(s) for s in range(builder.step.stages))
    buffers = [Buffer("x", "step"), Buffer("gx", "step"), Buffer("a", "step"), Buffer("b", "unit")]
    for state in cell.states:
        buffers += [Buffer(state, "step", f"{state}.start")]
        buffers += [Buffer(f"{state}.start", "row"), Buffer(f"{state}.final", "row")]
    buffers += [Buffer(f"e{j}", "step") for j in range(len(builder.step.expressions))]
    biased = [b for b in cell.bundles if bias and b != PROJECTION]
    buffers += [Buffer(f"bias.{b}", "unit") for b in biased]
    buffers += [Buffer(f"vector.{v}", "unit") for v in cell.vectors]
    widths = [outputs, *[units] * (len(cell.states) - 1)]
    finals = tuple((s, f"{s}.final", w) for s, w in zip(cell.states, widths, strict=True))
    constants = tuple(builder.constants())
    return Program(f"{cell.name}_forward", stages, tuple(buffers), finals, constants)


class _Forward:
    def __init__(self, step: Step, inputs: int, units: int, outputs: int, bias: bool) -> None:
        self.step, self.inputs, self.units, self.bias = step, inputs, units, bias
        self.outputs = outputs

    def stage(self, number: int) -> Stage:
        here = [k for k, a in enumerate(self.step.accumulators) if a.stage == number]
        tiles = {k: t for t, k in enumerate(here)}
        products = [p for bundle in self.step.cell.bundles for p in self._products(bundle, tiles)]
        narrow = number == self.step.rounds
        values = [] if narrow else [("a", k * self.units, leaf("accumulator", k)) for k in here]
        for j, e in enumerate(self.step.expressions):
            if self._stage_of(e) == number:
                values.append((f"e{j}", 0, e))
        values += self._states(number)
        replaced = substitute((v for _, _, v in values), lambda e: self._leaf(e, tiles))
        writes = [Write(b, c, e) for (b, c, _), e in zip(values, simplify(replaced), strict=True)]
        columns = tuple(k * self.units for k in here)
        units = self.outputs if narrow else self.units
        return Stage(units, len(here), tuple(products), tuple(writes), columns)

    def constants(self) -> Iterable[Write]:
        """Return the sum of each accumulator's biases."""
        for k in range(len(self.step.accumulators)):
            biases = self._biases(k)
            if biases:
                yield Write("b", k * self.units, reduce(Expr.__add__, biases))

    def _biases(self, k: int) -> list[Expr]:
        bundles = self.step.cell.bundles
        terms = self.step.accumulators[k].terms if self.bias else ()
        rows = [
            (t.bundle, bundles[t.bundle].index(t.gate)) for t in terms if t.bundle != PROJECTION
        ]
        return [leaf("read", Read(f"bias.{bundle}", row * self.units)) for bundle, row in rows]

    def _states(self, number: int) -> list[tuple[str, int, Expr]]:
        """Return the new states that a stage writes: the last one, but for a narrower output."""
        states = zip(self.step.cell.states, self.step.updates, strict=True)
        values = [(state, 0, update) for state, update in states]
        apart = int(self.step.narrow)
        if number == self.step.rounds - 1:
            return values[apart:]
        return values[:apart] if number == self.step.rounds else []

    def _stage_of(self, e: Expr) -> int:
        needs = [n.value for n in topological([e]) if n.op == "accumulator"]
        return max(
            (self.step.accumulators[n].stage for n in needs if isinstance(n, int)), default=0
        )

    def _products(self, bundle: str, tiles: dict[int, int]) -> Iterable[Product]:
        gates = zip(self.step.cell.bundles[bundle], self.step.slots(bundle), strict=True)
        keys = [
            (tiles[slot], row, self._source(bundle, gate, slot))
            for row, (gate, slot) in enumerate(gates)
            if slot in tiles
        ]
        for tile, row, count, read in runs(keys):
            given = read.buffer == "x"
            depth = self.inputs if given else self._width(read.buffer)
            yield Product(read, depth, tile, count, bundle, row * self.units, False, given)

    def _width(self, buffer: str) -> int:
        return self.outputs if buffer == self.step.cell.states[0] else self.units

    def _source(self, bundle: str, gate: str, slot: int) -> Read:
        terms = self.step.accumulators[slot].terms
        source = next(t.source for t in terms if (t.bundle, t.gate) == (bundle, gate))
        if source.op == "input":
            return Read("x")
        if source.op == "state":
            return Read(str(source.value), when="before")
        return Read(f"e{self.step.expressions.index(source)}")

    def _leaf(self, e: Expr, tiles: dict[int, int]) -> Expr | None:
        match e.op:
            case "accumulator":
                return self._accumulator(int(str(e.value)), tiles)
            case "state":
                return leaf("read", Read(str(e.value), when="before"))
            case "input":
                return leaf("read", Read("x"))
            case "vector":
                return leaf("read", Read(f"vector.{e.value}"))
        return None

    def _accumulator(self, k: int, tiles: dict[int, int]) -> Expr:
        if k not in tiles:
            return leaf("read", Read("a", k * self.units))
        value = leaf("tile", tiles[k])
        if any(term.source.op == "input" for term in self.step.accumulators[k].terms):
            value = value + leaf("read", Read("gx", k * self.units))
        elif self._biases(k):
            value = value + leaf("read", Read("b", k * self.units))
        function = self.step.accumulators[k].function
        return value if function is None else node(function, (value,))


@lru_cache(maxsize=512)
def backward(cell: Cell, units: int, outputs: int) -> Program:
    """Schedule the backward walk, which goes through the steps in the opposite order.

    It writes the gradient of each accumulator to ``da`` and leaves the products that need no
    order in time (weights, input) to large matrix products.
    """
    return _Backward(adjoint(accumulate(cell)), units, outputs).program()


class _Backward:
    def __init__(self, derived: Adjoint, units: int, outputs: int) -> None:
        self.derived, self.units, self.outputs = derived, units, outputs
        self.step, self.cell = derived.step, derived.step.cell
        # what comes through a projection of the output has a first stage of its own
        self.start = int(self.step.narrow)
        self.ready: dict[int, int] = {}
        while len(self.ready) < len(self.step.expressions):
            for j, e in enumerate(self.step.expressions):
                self._settle(j, e)
        self.stages = 1 + max(self.ready.values(), default=0)

    def _settle(self, j: int, e: Expr) -> None:
        """Stage of expression j's gradient: one past the gradients of the gates that it feeds."""
        fed = [
            k for k, a in enumerate(self.step.accumulators) if any(t.source is e for t in a.terms)
        ]
        needs = {i for k in fed for i in self._needs(self.derived.accumulators[k])}
        if needs <= self.ready.keys():
            first = 0 if self.step.accumulators[fed[0]].narrow else self.start
            self.ready[j] = 1 + max((self.ready[i] for i in needs), default=first)

    @staticmethod
    def _needs(e: Expr) -> set[int]:
        return {
            n.value for n in topological([e]) if n.op == "backproject" and isinstance(n.value, int)
        }

    def _stage_of(self, e: Expr) -> int:
        return max((self.ready[j] for j in self._needs(e)), default=self.start)

    def program(self) -> Program:
        stages = tuple(self._stage(s) for s in range(self.stages))
        buffers = [Buffer("a", "step"), Buffer("da", "step", "da.start"), Buffer("da.start", "row")]
        buffers += [Buffer("dy", "step"), Buffer("db", "sum")]
        for state in self.cell.states:
            buffers += [Buffer(state, "step", f"{state}.start"), Buffer(f"{state}.start", "row")]
            buffers += [Buffer(f"d{state}", "row"), Buffer(f"g{state}", "row")]
        buffers += [Buffer(f"v{j}", "row") for j in range(len(self.step.expressions))]
        buffers += [Buffer(f"vector.{v}", "unit") for v in self.cell.vectors]
        buffers += [Buffer(f"dvector.{v}", "sum") for v in self.cell.vectors]
        buffers += [Buffer("x", "step"), Buffer("dx", "step")]
        return Program(f"{self.cell.name}_backward", stages, tuple(buffers))

    def _stage(self, number: int) -> Stage:
        filled = [leaf("cotangent", s) for s in self._arriving(number)]
        filled += [leaf("backproject", j) for j, r in sorted(self.ready.items()) if r == number]
        tiles = {e: t for t, e in enumerate(filled)}
        products = [p for e, tile in tiles.items() for p in self._products(e, tile)]
        values = self._values(number, tiles)
        replaced = substitute((v for _, _, v in values), lambda e: self._leaf(e, number, tiles))
        writes = [Write(b, c, e) for (b, c, _), e in zip(values, simplify(replaced), strict=True)]
        units = self.outputs if number < self.start else self.units
        return Stage(units, len(tiles), tuple(products), tuple(writes))

    def _arriving(self, number: int) -> list[str]:
        """Return the projected states whose cotangents a stage takes from the step before."""
        first = self.cell.states[0]
        return [s for s in self.step.projected if number == (0 if s == first else self.start)]

    def _products(self, e: Expr, tile: int) -> Iterable[Product]:
        when: When = "before" if e.op == "cotangent" else "now"
        if e.op == "cotangent":
            source = leaf("state", e.value)
        else:
            source = self.step.expressions[int(str(e.value))]
        for bundle, gates in self.cell.bundles.items():
            keys = [
                (slot, row, Read("da", 0, when))
                for row, (slot, gate) in enumerate(zip(self.step.slots(bundle), gates, strict=True))
                if any(
                    t.source is source and (t.bundle, t.gate) == (bundle, gate)
                    for t in self.step.accumulators[slot].terms
                )
            ]
            for slot, row, count, read in runs(keys):
                H = self.units
                moved = Read("da", slot * H, read.when)
                depth = self.outputs if bundle == PROJECTION else count * H
                yield Product(moved, depth, tile, 1, bundle, row * H, True)

    def _values(self, number: int, tiles: dict[Expr, int]) -> list[tuple[str, int, Expr]]:
        H, derived = self.units, self.derived
        if number < self.start:
            first = self.cell.states[0]
            column = (len(derived.accumulators) - 1) * H
            return [("da", column, leaf("cotangent", first)), (f"d{first}", 0, const(0.0))]
        values: list[tuple[str, int, Expr]] = []
        for k, gradient in enumerate(derived.accumulators):
            if self._stage_of(gradient) == number and not self.step.accumulators[k].narrow:
                values += [("da", k * H, gradient), ("db", k * H, gradient)]
        states = [*zip(self.cell.states, derived.states, strict=True)][self.start :]
        if number < self.stages - 1:
            if number == self.start:
                values += [(f"g{s}", 0, leaf("cotangent", s)) for s, _ in states]
            values += [(f"v{e.value}", 0, e) for e in tiles if e.op == "backproject"]
            return values
        for state, through in states:
            values.append((f"d{state}", 0, const(0.0) if through is None else through))
        values += [(f"dvector.{v}", 0, g) for v, g in derived.vectors.items()]
        if derived.input is not None:
            values.append(("dx", 0, derived.input))
        return values

    def _leaf(self, e: Expr, number: int, tiles: dict[Expr, int]) -> Expr | None:
        match e.op:
            case "accumulator":
                return leaf("read", Read("a", int(str(e.value)) * self.units))
            case "state":
                return leaf("read", Read(str(e.value), when="after"))
            case "vector":
                return leaf("read", Read(f"vector.{e.value}"))
            case "input":
                return leaf("read", Read("x"))
            case "backproject":
                return leaf("tile", tiles[e]) if e in tiles else leaf("read", Read(f"v{e.value}"))
            case "cotangent":
                return self._cotangent(str(e.value), number, tiles)
        return None

    def _cotangent(self, state: str, number: int, tiles: dict[Expr, int]) -> Expr:
        if number > self.start:
            return leaf("read", Read(f"g{state}"))
        value = leaf("read", Read(f"d{state}"))
        if state == self.cell.states[0]:
            value = value + leaf("read", Read("dy"))
        tile = tiles.get(leaf("cotangent", state))
        return value if tile is None else leaf("tile", tile) + value
