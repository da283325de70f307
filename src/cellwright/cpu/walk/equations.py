"""A stage's equations on one block of units: from tiles and memory to what the stage writes."""

from functools import partial

from cellwright.cpu.amx.unit import emit_busy
from cellwright.cpu.vector.simd import Value
from cellwright.cpu.vector.stored import Stored
from cellwright.cpu.vector.vecmath import evaluate
from cellwright.cpu.walk.frame import SUM_ROWS, Frame
from cellwright.cpu.walk.levels import Level, levels
from cellwright.cpu.walk.pairs import is_paired
from cellwright.graph.expr import Expr
from cellwright.graph.schedule import Read, Stage, Write

__all__ = ["Equations"]


class Equations:
    """Emits them for ``vectors`` vectors from unit ``u`` on, ``valid`` units of which exist."""

    def __init__(self, frame: Frame, stage: Stage, u: Value, vectors: int, valid: int) -> None:
        self.frame, self.s, self.stage = frame, frame.s, stage
        self.u, self.vectors, self.valid = u, vectors, valid
        self.width = vectors * frame.s.lanes
        self.levels = levels(stage)
        self.partial: dict[Write, Value] = {}

    def emit(self, row: Value, count: Value) -> None:
        """Evaluate the equations for the ``count`` rows of a chunk.

        What goes into a sum is added up over the chunk first, then to the sum over all steps, of
        which what rounding takes away is kept as a second row.
        """
        s, frame = self.s, self.frame
        sums = [w for w in self.stage.writes if frame.is_sum(w.buffer)]
        self.partial = {w: s.at(frame.sums, j * self.width) for j, w in enumerate(sums)}
        for w in sums:
            for v in range(self.vectors):
                s.store(s.constant(0.0), self.partial[w], v * s.lanes)
        for level in self.levels.levels:
            frame.if_amx(lambda: emit_busy(s))
            s.loop(0, count, 1, partial(self._each, level, row), hot=True)
        for w in sums:
            self._add(w, row)

    def _add(self, w: Write, row: Value) -> None:
        """Add a chunk's part to a sum. The rounding's error: Knuth's TwoSum."""
        s, frame = self.s, self.frame
        total = s.at(frame.row(Read(w.buffer), row), s.add(self.u, w.column))
        lost = s.at(total, s.builder.sdiv(frame.buffers[w.buffer][2], s.index(SUM_ROWS)))
        plus, minus = s.builder.fadd, s.builder.fsub
        for v in range(self.vectors):
            mask = s.mask(self.valid - v * s.lanes)
            part = s.load(self.partial[w], v * s.lanes)
            before = s.load(total, v * s.lanes, mask)
            after = plus(before, part)
            taken = minus(after, before)
            error = plus(minus(before, minus(after, taken)), minus(part, taken))
            error = s.choose("==", error, error, error, s.constant(0.0))  # infinity loses nothing
            s.store(after, total, v * s.lanes, mask)
            error = plus(s.load(lost, v * s.lanes, mask), error)
            s.store(error, lost, v * s.lanes, mask)

    def _each(self, level: Level, row: Value, i: Value, _: list[Value]) -> None:
        """Evaluate a level for one row, a vector of units at a time."""
        s = self.s
        tiles = s.at(self.frame.tiles, s.mul(i, self.levels.slots * self.width))
        lanes = _Lanes(self, tiles, s.add(row, i))
        for v in range(self.vectors):
            lanes.start, lanes.mask = v * s.lanes, s.mask(self.valid - v * s.lanes)
            lanes.emit(level)


class _Lanes:
    """One row of a block, of which one vector is evaluated after the other."""

    start: int
    mask: Value

    def __init__(self, equations: Equations, tiles: Value, row: Value) -> None:
        self.equations, self.s = equations, equations.s
        self.tiles, self.row = tiles, row
        self.places: dict[Read, Value] = {}

    def emit(self, level: Level) -> None:
        """Evaluate a level for the present vector."""
        s = self.s
        values = {e: s.load(self.tiles, self._slot(number)) for e, number in level.loads.items()}
        for e in level.order:
            values[e] = evaluate(s, e, values, self._leaf)
        for e, number in level.stores.items():
            s.store(values[e], self.tiles, self._slot(number))
        for write in level.writes:
            self._write(write, values[write.value])

    def _leaf(self, e: Expr) -> Value:
        """Load what is read from memory or from a tile."""
        if isinstance(e.value, Read):
            return self.s.load(self._place(e.value), 0, self.mask)
        return self.s.load(self.tiles, self._slot(int(str(e.value))))

    def _write(self, write: Write, value: Value) -> None:
        s, part = self.s, self.equations.partial.get(write)
        if part is not None:
            s.store(s.builder.fadd(s.load(part, self.start), value), part, self.start)
        elif is_paired(write.buffer):
            rows, unit = self._start(Read(write.buffer)), s.add(self.equations.u, self.start)
            halves = Stored(s, s.target.pairs(s.dtype))
            halves.store(value, rows, s.add(unit, write.column), self.mask)
        else:
            s.store(value, self._place(Read(write.buffer, write.column)), 0, self.mask)

    def _slot(self, number: int) -> int:
        return number * self.equations.width + self.start

    def _place(self, read: Read) -> Value:
        """Return the address of the present vector of what is read."""
        unit = self.s.add(self.equations.u, self.start)
        return self.s.at(self._start(read), self.s.add(unit, read.column))

    def _start(self, read: Read) -> Value:
        """Return the address of the present row of what is read, before its column."""
        key = Read(read.buffer, 0, read.when)
        if key not in self.places:
            self.places[key] = self.equations.frame.row(key, self.row)
        return self.places[key]
