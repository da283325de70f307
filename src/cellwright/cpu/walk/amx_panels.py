"""The input's weights in panels, as AMX takes them ahead of a walk, and the memory for that."""

from dataclasses import dataclass

import llvmlite.ir as ir

from cellwright.cpu.amx.lines import PANEL_DEPTH, PANEL_LINES, PANEL_SIZE
from cellwright.cpu.amx.panel import PANEL_SUMS
from cellwright.cpu.amx.unit import AMX_DEPTH
from cellwright.cpu.vector.simd import I64, POINTER, Value
from cellwright.cpu.walk.frame import Frame
from cellwright.graph.schedule import Product, Program, Stage

__all__ = ["Room", "WeightPanels"]

_BYTES = 1 << 19
"""Bytes of the planes of rows that are made at once."""
_LINE = 8
"""Fields of a cache line."""
_ADDRESS, _STRIDE, _LINES, _COLUMN, _FIELDS = range(5)
"""The fields of a panel: its weights, the distance between lines, how many; the column of ``gx``;
how many fields there are."""


def _given(program: Program) -> list[tuple[Product, Stage]]:
    """Return the products with the input."""
    return [(p, stage) for stage in program.stages for p in stage.products if p.given]


def _whole_lines(fields: int) -> int:
    """Return the elements of a table of so many fields, in whole cache lines."""
    return -(-fields // _LINE) * _LINE * 2


@dataclass(frozen=True)
class Room:
    """What the memory of a thread depends on.

    Attributes:
        depth: the length of the input.
        groups: of depths, each in one panel. blocks: of depths in each of them.
        panels: of weights, at most.
    """

    depth: int
    groups: int
    blocks: int
    panels: int

    @classmethod
    def of(cls, program: Program) -> "Room":
        """Return that of a program."""
        given = _given(program)
        depth = max((p.depth for p, _ in given), default=1)
        groups = -(-depth // PANEL_DEPTH)
        panels = sum(p.count * -(-stage.units // PANEL_LINES) for p, stage in given)
        return cls(depth, groups, -(-depth // (AMX_DEPTH * groups)), panels)

    @property
    def group(self) -> int:
        """Depths of a group."""
        return self.blocks * AMX_DEPTH

    @property
    def lines(self) -> int:
        """Depths of all groups, with those that the last one has in excess."""
        return self.groups * self.group

    @property
    def at_once(self) -> int:
        """Panels of rows whose planes are made at once."""
        return max(1, _BYTES // (4 * self.groups * PANEL_SIZE))

    def parts(self, panels: int) -> tuple[int, ...]:
        """Return the elements of each part of a thread's memory for so many panels of rows.

        They are the planes of rows, those of two panels of weights, sums, memory for two panels'
        sums, a panel of rows or weights that was turned; tables of rows of the input and of
        results, of turned depths, one of a single field, one of panels.
        """
        planes = self.groups * panels * PANEL_SIZE, 2 * PANEL_SIZE
        sums = panels * PANEL_SUMS, 2 * PANEL_SUMS
        rows = panels * PANEL_LINES
        tables = rows, rows, self.lines, 1, self.panels * _FIELDS
        return *planes, *sums, self.lines * PANEL_LINES, *map(_whole_lines, tables)

    def size(self, rows: int | None, threads: int) -> int:
        """Return the elements that threads need for so many rows of the sequence, or for any."""
        panels = self.at_once if rows is None else min(self.at_once, -(-rows // PANEL_LINES))
        return threads * sum(self.parts(panels))


class WeightPanels:
    """Lists this thread's panels of weights.

    Args:
        frame: of the walk, at its start. table: where to.
    """

    def __init__(self, frame: Frame, table: Value) -> None:
        self.frame, self.s, self._table = frame, frame.s, table
        self.count: Value = frame.s.index(0)
        for p, stage in _given(frame.program):
            for tile in range(p.tile, p.tile + p.count):
                self._list(p, stage, tile)

    def _list(self, p: Product, stage: Stage, tile: int) -> None:
        """List those of a tile."""
        s, row = self.s, p.row + (tile - p.tile) * stage.units
        source, stride = self.frame.weights(p.matrix, s.index(row), p.column)
        start, stop = self.frame.share(stage.units)
        # all have biases, or none has
        assert not self.frame.constants or stage.columns[tile] in self.frame.constants

        def panel(u: Value, carried: list[Value]) -> list[Value]:
            (count,) = carried
            weights, lines = s.at(source, s.mul(u, stride)), s.min(s.sub(stop, u), PANEL_LINES)
            for number, value in enumerate((weights, stride, lines, s.add(u, stage.columns[tile]))):
                place = s.add(s.mul(count, _FIELDS), number)
                s.builder.store(value, s.entry(self._table, place))
            return [s.add(count, 1)]

        (self.count,) = s.loop(start, stop, PANEL_LINES, panel, [self.count])

    def _field(self, e: Value, number: int, kind: ir.Type = I64) -> Value:
        return self.s.field(self._table, self.s.add(self.s.mul(e, _FIELDS), number), kind)

    def address(self, e: Value) -> Value:
        """Return where the ``e``-th panel's first line is."""
        return self._field(e, _ADDRESS, POINTER)

    def stride(self, e: Value) -> Value:
        """Return how far apart its lines are."""
        return self._field(e, _STRIDE)

    def lines(self, e: Value) -> Value:
        """Return how many it has."""
        return self._field(e, _LINES)

    def column(self, e: Value) -> Value:
        """Return the column of ``gx`` of its first line."""
        return self._field(e, _COLUMN)
