"""Programs whose products take bfloat16 numbers, two at a time.

Weights and input are read as they are stored, each pair of numbers as one element. The state that
is multiplied is written twice: as the equations left it, and rounded, in pairs.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from cellwright.graph.expr import topological
from cellwright.graph.schedule import Buffer, Product, Program, Read, Stage, Write

__all__ = ["PAIRS", "is_paired", "over_pairs", "paired"]

PAIRS = ":pairs"
"""What the name of a state ends with where its pairs are meant."""
_SOURCE = "x"


def is_paired(buffer: str) -> bool:
    """Whether a buffer has pairs of bfloat16 of numbers that another one has too."""
    return buffer.endswith(PAIRS)


def over_pairs(program: Program) -> bool:
    """Whether a program's products take numbers in pairs."""
    return any(is_paired(buffer.name) for buffer in program.buffers)


@lru_cache(maxsize=512)
def paired(program: Program, state: str) -> Program | None:
    """Return a forward program over pairs; None where it has none.

    Sizes, columns and distances of x, of the weights and of the state's pairs count pairs. It has
    none where rows of weights are no whole pairs, where something else than the input and the first
    state is multiplied, or where the input is read elementwise as well.

    Args:
        program: the program of a cell whose first state is ``state``.
        state: which.
    """
    products = [p for stage in program.stages for p in stage.products]
    sources = {p.source.buffer for p in products}
    if not sources <= {_SOURCE, state} or state not in sources or _SOURCE in set(_read(program)):
        return None
    if any(n % 2 for p in products for n in (p.depth, p.column, p.source.column)):
        return None
    stages = tuple(_paired_stage(stage, state) for stage in program.stages)
    start = f"{state}.start{PAIRS}"
    more = Buffer(state + PAIRS, "step", start), Buffer(start, "row")
    return replace(program, stages=stages, buffers=(*program.buffers, *more))


def _read(program: Program) -> Iterator[str]:
    """Yield the buffers that equations read."""
    for e in topological(w.value for stage in program.stages for w in stage.writes):
        if isinstance(e.value, Read):
            yield e.value.buffer


def _paired_stage(stage: Stage, state: str) -> Stage:
    products = tuple(_paired_product(p) for p in stage.products)
    writes = [Write(w.buffer + PAIRS, w.column, w.value) for w in stage.writes if w.buffer == state]
    return replace(stage, products=products, writes=(*stage.writes, *writes))


def _paired_product(p: Product) -> Product:
    buffer = p.source.buffer if p.source.buffer == _SOURCE else p.source.buffer + PAIRS
    source = replace(p.source, buffer=buffer, column=p.source.column // 2)
    return replace(p, source=source, depth=p.depth // 2, column=p.column // 2)
