"""Packing: weights laid out so that a tile's loop over k reads one straight stream."""

from collections.abc import Callable, Sequence

import llvmlite.ir as ir

from cellwright.cpu.vector.functions import stored_name
from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value
from cellwright.cpu.vector.stored import Stored

__all__ = ["PACK", "TRANSPOSE", "emit_pack", "emit_transpose", "transposed"]

PACK = (POINTER, I64, I64, I64, I64, POINTER, I64, I64, I64, I64)
"""Arguments of a pack: weights as they lie, their row stride, units, depth, number of tiles, packed
weights, where these tiles start within a block's depth, the block's whole depth, the thread, the
number of threads."""

TRANSPOSE = (POINTER, I64, I64, I64, POINTER, I64)
"""Arguments of a transposition: a matrix, its row stride, rows, columns; the result, its row
stride."""


def emit_pack(s: Simd, *, transposed: bool, half: str = "") -> None:
    """Lay weights out in the order in which tiles read them: [unit block][tile][k][unit].

    The weights are W[tile · H + u, k], or W[k, u] where ``transposed``. Each thread takes a share
    of the blocks. The module must have ``transpose``, or ``transpose_`` with ``half``: what the
    weights are stored as, if not as the function's numbers; transposed ones always are.
    """
    weights, stride, units, depth, tiles, packed, offset, whole, thread, threads = s.function.args
    stored, transpose = Stored(s, half), stored_name("transpose", half)
    block = s.target.block(s.dtype)
    blocks = s.builder.sdiv(s.add(units, block - 1), s.index(block))
    start = s.builder.sdiv(s.mul(blocks, thread), threads)
    stop = s.builder.sdiv(s.mul(blocks, s.add(thread, 1)), threads)

    def each(number: Value, _: list[Value]) -> None:
        u = s.mul(number, block)
        valid = s.min(s.sub(units, u), block)
        width = s.whole(s.add(valid, s.lanes - 1))
        base = s.at(packed, s.add(s.mul(u, whole), s.mul(offset, width)))

        def tile(t: Value, _: list[Value]) -> None:
            target = s.at(base, s.mul(s.mul(t, depth), width))
            if transposed:
                _pack_depth(s, s.at(weights, u), stride, depth, (valid, width), target)
            else:
                source = stored.at(weights, s.mul(s.add(s.mul(t, units), u), stride))
                args = [source, stride, valid, depth, target, width]
                s.call(transpose, ir.VoidType(), TRANSPOSE, args)

        s.loop(0, tiles, 1, tile)

    s.loop(start, stop, 1, each)
    s.finish()


_QUARTER = 16
"""Bytes within which processors interleave vectors in one instruction; across them, they pick whole
pieces of so many bytes."""


def transposed(s: Simd, vectors: Sequence[Value]) -> list[Value]:
    """Return the transpose of a square of vectors."""
    n = _QUARTER // s.scalar_bytes
    pieces = [_interleave(s, vectors[g : g + n], 1) for g in range(0, s.lanes, n)]
    columns = [_gather(s, [piece[j] for piece in pieces]) for j in range(n)]
    return [columns[j][k] for k in range(s.lanes // n) for j in range(n)]


def _interleave(s: Simd, vectors: Sequence[Value], unit: int) -> list[Value]:
    """Transpose each piece of 16 bytes of vectors: by pairs, ``unit`` elements in turn."""
    if len(vectors) == 1:
        return list(vectors)
    n, halves = _QUARTER // s.scalar_bytes, []
    for half in (0, n // 2):
        order = [
            side + base + half + k * unit + e
            for base in range(0, s.lanes, n)
            for k in range(n // 2 // unit)
            for side in (0, s.lanes)
            for e in range(unit)
        ]
        halves.append(_by_pairs(s, vectors, order))
    return [column for half in halves for column in _interleave(s, half, 2 * unit)]


def _gather(s: Simd, vectors: Sequence[Value]) -> list[Value]:
    """Return the vectors of all first pieces of 16 bytes, of all second ones, and so on."""
    if len(vectors) == 1:
        return list(vectors)
    n, found = _QUARTER // s.scalar_bytes, []
    for odd in (0, n):
        order = [
            side + base + e
            for side in (0, s.lanes)
            for base in range(odd, s.lanes, 2 * n)
            for e in range(n)
        ]
        found.append(_gather(s, _by_pairs(s, vectors, order)))
    return [column for pair in zip(*found, strict=True) for column in pair]


def _by_pairs(s: Simd, vectors: Sequence[Value], order: Sequence[int]) -> list[Value]:
    """Return a shuffle of each two successive vectors."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), s.lanes), list(order))
    pairs = zip(vectors[::2], vectors[1::2], strict=True)
    return [s.builder.shuffle_vector(x, y, mask) for x, y in pairs]


def emit_transpose(s: Simd, half: str = "") -> None:
    """target[column, row] = source[row, column], a square of vectors at a time, in registers.

    ``half``: what the source is stored as, if not as the function's numbers.

    Rows of the target are written in whole vectors, the last one past its end: it must have room.
    What lies there repeats the last row.
    """
    source, stride, rows, columns, target, target_stride = s.function.args
    stored = Stored(s, half)
    last = s.sub(rows, 1)

    def group(row: Value, _: list[Value]) -> None:
        numbers = [s.min(s.add(row, j), last) for j in range(s.lanes)]
        lines = [stored.at(source, s.mul(n, stride)) for n in numbers]
        out = s.at(target, row)

        def square(k: Value, _: list[Value]) -> None:
            left = s.sub(columns, k)
            mask = s.dynamic_mask(left)
            turned = transposed(s, [stored.load(line, k, mask) for line in lines])
            with s.builder.if_else(s.less(left, s.lanes)) as (cut, whole):
                for branch, exists in ((cut, lambda j: s.less(j, left)), (whole, None)):
                    with branch:
                        _put(s, turned, s.at(out, s.mul(k, target_stride)), target_stride, exists)

        s.loop(0, columns, s.lanes, square)

    s.loop(0, rows, s.lanes, group)
    s.finish()


def _put(
    s: Simd,
    vectors: Sequence[Value],
    target: Value,
    stride: Value,
    exists: Callable[[int], Value] | None,
) -> None:
    """Store vectors in rows so far apart: all of them, or those that exist."""
    for j, vector in enumerate(vectors):
        if exists is None:
            s.store(vector, target, s.mul(stride, j))
            continue
        with s.builder.if_then(exists(j)):
            s.store(vector, target, s.mul(stride, j))


def _pack_depth(
    s: Simd,
    weights: Value,
    stride: Value,
    depth: Value,
    place: tuple[Value, Value],
    target: Value,
) -> None:
    """packed[k, u] = W[k, u]: pieces of rows, copied."""
    valid, width = place

    def row(k: Value, _: list[Value]) -> None:
        source = s.at(weights, s.mul(k, stride))
        out = s.at(target, s.mul(k, width))
        s.vectors(valid, lambda j, mask: s.store(s.load(source, j, mask), out, j))

    s.loop(0, depth, 1, row)
