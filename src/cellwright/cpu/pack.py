"""Packing: weights laid out so that a tile's loop over k reads one straight stream."""

from collections.abc import Sequence

import llvmlite.ir as ir

from cellwright.cpu.simd import I64, POINTER, Simd, Value

__all__ = ["PACK", "emit_pack"]

PACK = (POINTER, I64, I64, I64, I64, POINTER, I64, I64, I64, I64)
"""Arguments of a pack: weights as they lie, their row stride, units, depth, number of tiles, packed
weights, where these tiles start within a block's depth, the block's whole depth, the thread, the
number of threads."""


def emit_pack(s: Simd, transposed: bool) -> None:
    """Lay weights out in the order in which tiles read them: [unit block][tile][k][unit].

    The weights are W[tile · H + u, k], or W[k, u] where ``transposed``. Each thread takes a share
    of the blocks.
    """
    weights, stride, units, depth, tiles, packed, offset, whole, thread, threads = s.function.args
    block, lanes = s.target.block(s.dtype), s.index(s.lanes)
    blocks = s.builder.sdiv(s.add(units, block - 1), s.index(block))
    start = s.builder.sdiv(s.mul(blocks, thread), threads)
    stop = s.builder.sdiv(s.mul(blocks, s.add(thread, 1)), threads)

    def each(number: Value, _: list[Value]) -> None:
        u = s.mul(number, block)
        valid = s.min(s.sub(units, u), block)
        width = s.mul(s.builder.sdiv(s.add(valid, s.lanes - 1), lanes), lanes)
        base = s.at(packed, s.add(s.mul(u, whole), s.mul(offset, width)))

        def tile(t: Value, _: list[Value]) -> None:
            target = s.at(base, s.mul(s.mul(t, depth), width))
            if transposed:
                _pack_depth(s, s.at(weights, u), stride, depth, (valid, width), target)
            else:
                source = s.at(weights, s.mul(s.add(s.mul(t, units), u), stride))
                _pack_units(s, source, stride, depth, (valid, width), target)

        s.loop(0, tiles, 1, tile)

    s.loop(start, stop, 1, each)
    s.finish()


def _transpose(s: Simd, vectors: Sequence[Value]) -> list[Value]:
    """Return the transpose of a square of vectors."""
    current = list(vectors)
    distance = s.lanes // 2
    kind = ir.VectorType(ir.IntType(32), s.lanes)
    while distance:
        following = list(current)
        low = [
            lane if not lane & distance else s.lanes + (lane ^ distance) for lane in range(s.lanes)
        ]
        high = [
            (lane | distance) if not lane & distance else s.lanes + lane for lane in range(s.lanes)
        ]
        for i in range(s.lanes):
            if not i & distance:
                a, b = current[i], current[i | distance]
                following[i] = s.builder.shuffle_vector(a, b, ir.Constant(kind, low))
                following[i | distance] = s.builder.shuffle_vector(a, b, ir.Constant(kind, high))
        current = following
        distance //= 2
    return current


def _pack_units(
    s: Simd,
    weights: Value,
    stride: Value,
    depth: Value,
    place: tuple[Value, Value],
    target: Value,
) -> None:
    """packed[k, u] = W[u, k]: squares of lanes × lanes are transposed in registers."""
    valid, width = place
    last = s.sub(valid, 1)
    whole = s.mul(s.builder.sdiv(depth, s.index(s.lanes)), s.lanes)
    tail = s.dynamic_mask(s.sub(depth, whole))

    def group(lane: Value, _: list[Value]) -> None:
        rows = [s.at(weights, s.mul(s.min(s.add(lane, j), last), stride)) for j in range(s.lanes)]
        out = s.at(target, lane)

        def square(k: Value, _: list[Value]) -> None:
            columns = _transpose(s, [s.load(row, k) for row in rows])
            for j, column in enumerate(columns):
                s.store(column, out, s.mul(s.add(k, j), width))

        s.loop(0, whole, s.lanes, square)

        def rest(k: Value, _: list[Value]) -> None:
            columns = _transpose(s, [s.load(row, k, tail) for row in rows])
            for j, column in enumerate(columns):
                at = s.add(k, j)
                with s.builder.if_then(s.less(at, depth)):
                    s.store(column, out, s.mul(at, width))

        s.loop(whole, depth, s.lanes, rest)

    s.loop(0, valid, s.lanes, group)


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
        whole = s.mul(s.builder.sdiv(valid, s.index(s.lanes)), s.lanes)
        s.loop(0, whole, s.lanes, lambda j, _: s.store(s.load(source, j), out, j))
        tail = s.dynamic_mask(s.sub(valid, whole))
        s.loop(whole, valid, s.lanes, lambda j, _: s.store(s.load(source, j, tail), out, j))

    s.loop(0, depth, 1, row)
