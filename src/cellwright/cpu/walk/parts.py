"""A program's products before there is machine code: parts, and the sizes of packed weights."""

from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from cellwright.graph.schedule import Product, Program, Read, Stage

__all__ = ["Part", "Vector", "depths", "packed_size", "padded", "split"]

Vector = tuple[Read, int, bool]
"""What weights are multiplied with, its length, and whether it may be left out."""


@dataclass(frozen=True)
class Part:
    """A product or some of its tiles; ``first``: it comes first in them, so nothing is added to.

    ``first_ahead`` is the same where the products with the input are left out.
    """

    product: Product
    first: bool
    first_ahead: bool

    @property
    def vector(self) -> Vector:
        """What the weights are multiplied with."""
        return self.product.source, self.product.depth, self.product.given


_DEPTH, _PIECES = 256, 32
"""How deep a product goes at once: the tile's weights and the rows then stay in a core's caches.
And into how many pieces it is cut at most, as each is code of its own."""


def _pieces(p: Product) -> list[Product]:
    """Cut a deep product into several that add up."""
    count = min(-(-p.depth // _DEPTH), _PIECES)
    cuts = [p.depth * j // count for j in range(count + 1)]
    pieces = []
    for start, stop in pairwise(cuts):
        source = replace(p.source, column=p.source.column + start)
        row, column = (p.row + start, 0) if p.transposed else (p.row, start)
        pieces.append(replace(p, source=source, depth=stop - start, row=row, column=column))
    return pieces


def split(stage: Stage, *, whole: bool = False) -> list[Part]:
    """Cut a stage's products where some tiles are filled for the first time and others added to.

    ``whole``: whether deep ones are left whole.
    """
    filled: set[int] = set()
    filled_ahead: set[int] = set()
    parts: list[Part] = []
    pieces = stage.products if whole else (q for p in stage.products for q in _pieces(p))
    for p in pieces:
        tiles = range(p.tile, p.tile + p.count)
        firsts = [(t not in filled, t not in filled_ahead) for t in tiles]
        for (first, ahead), run in groupby(range(p.count), key=lambda j: firsts[j]):
            chosen = list(run)
            moved = p.row + chosen[0] * stage.units
            cut = replace(p, tile=p.tile + chosen[0], count=len(chosen), row=moved)
            parts.append(Part(cut, first, ahead))
        filled.update(tiles)
        filled_ahead.update(() if p.given else tiles)
    return parts


def depths(program: Program) -> list[int]:
    """Return how deep each stage's packed weights are, over all its tiles."""
    return [sum(p.depth * p.count for p in stage.products) for stage in program.stages]


def padded(units: int, lanes: int) -> int:
    """Round units up to whole vectors."""
    return -(-units // lanes) * lanes


def packed_size(program: Program, lanes: int) -> int:
    """Return the number of elements of a program's packed weights."""
    sizes = zip(depths(program), program.stages, strict=True)
    return sum(depth * padded(stage.units, lanes) for depth, stage in sizes)
