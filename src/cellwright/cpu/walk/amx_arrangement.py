"""How a stage's vectors and weights lie as planes: which blocks of depths each tile sums over.

Of each row, the blocks of all vectors that the stage multiplies lie one after another; of a block
of units, those of all weights, tile by tile. A tile's weights are one stream, whatever vectors they
are multiplied with; a table says where its blocks are in the rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from cellwright.cpu.amx.planes import weight_size
from cellwright.cpu.amx.unit import AMX_DEPTH, ROW_BLOCK, WEIGHT_PLANES
from cellwright.graph.schedule import Product, Program, Read, Stage

__all__ = [
    "AmxNeed",
    "Arrangement",
    "amx_need",
    "arrange",
    "group_size",
    "place_table",
    "plane_size",
    "stage_size",
    "table_size",
]

_LINE = 16
"""Elements of a cache line."""
Runs = tuple[tuple[int, int], ...]
"""Blocks of a row that a tile sums over: the first and how many, for each product."""


@dataclass(frozen=True)
class Arrangement:
    """Where a stage's blocks of depths are.

    Attributes:
        vectors: what is multiplied, with its length: the first of its blocks in a row.
        row_blocks: how many a row has.
        tiles: for each tile, the first of its blocks of weights, and which of a row it meets.
        starts: the first block of weights of each product's tiles.
        weight_blocks: how many a block of units has.
    """

    vectors: dict[tuple[Read, int], int]
    row_blocks: int
    tiles: tuple[tuple[int, Runs], ...]
    starts: dict[tuple[Product, int], int]
    weight_blocks: int

    @property
    def filled(self) -> list[int]:
        """The tiles that products fill."""
        return [tile for tile, (_, runs) in enumerate(self.tiles) if runs]


def _blocks(depth: int) -> int:
    return -(-depth // AMX_DEPTH)


def arrange(stage: Stage) -> Arrangement:
    """Lay out a stage's blocks."""
    vectors: dict[tuple[Read, int], int] = {}
    row_blocks = 0
    for p in stage.products:
        if (p.source, p.depth) not in vectors:
            vectors[p.source, p.depth] = row_blocks
            row_blocks += _blocks(p.depth)
    tiles: list[tuple[int, Runs]] = []
    starts: dict[tuple[Product, int], int] = {}
    end = 0
    for tile in range(stage.tiles):
        start, runs = end, []
        for p in stage.products:
            if p.tile <= tile < p.tile + p.count:
                starts[p, tile - p.tile] = end
                runs.append((vectors[p.source, p.depth], _blocks(p.depth)))
                end += _blocks(p.depth)
        tiles.append((start, tuple(runs)))
    return Arrangement(vectors, row_blocks, tuple(tiles), starts, end)


def group_size(stages: Iterable[Stage]) -> int:
    """Return the elements that the planes of 16 rows take in the widest of the stages."""
    return max((arrange(stage).row_blocks * ROW_BLOCK for stage in stages), default=0)


def plane_size(program: Program, lanes: int) -> int:
    """Return the elements that the planes of all weights of a program take."""
    return sum(stage_size(stage, lanes) for stage in program.stages)


def place_table(stages: Iterable[Stage]) -> tuple[dict[Runs, int], int]:
    """Return where each tile's list of its blocks starts in a table, and the table's length."""
    runs = [runs for stage in stages for _, runs in arrange(stage).tiles]
    unique = list(dict.fromkeys(runs))
    ends = [*accumulate((sum(count for _, count in one) for one in unique), initial=0)]
    return dict(zip(unique, ends, strict=False)), ends[-1]


def table_size(stages: Iterable[Stage]) -> int:
    """Return the elements that the table takes, in whole cache lines."""
    _, length = place_table(stages)
    return -(-2 * length // _LINE) * _LINE


class AmxNeed(NamedTuple):
    """What the products of a step need.

    Attributes:
        work: multiply-adds of a row with whole vectors. padded: the same with whole tiles.
        depths: elements of a row that are split, in whole blocks.
        planes: bytes of the weights' planes.
    """

    work: int
    padded: int
    depths: int
    planes: int


def amx_need(program: Program, lanes: int) -> AmxNeed:
    """Return what the products of a program's step need."""
    products = [(p, stage.units) for stage in program.stages for p in stage.products]
    planes = plane_size(program, lanes)
    return AmxNeed(
        work=sum(p.depth * p.count * -(-units // lanes) * lanes for p, units in products),
        padded=planes // WEIGHT_PLANES * 2,  # two numbers of a plane take one element
        depths=sum(arrange(stage).row_blocks * AMX_DEPTH for stage in program.stages),
        planes=4 * planes,
    )


def stage_size(stage: Stage, lanes: int) -> int:
    """Return the elements that the planes of a stage's weights take."""
    return weight_size(arrange(stage).weight_blocks, -(-stage.units // lanes))
