"""Matrix products by Intel's AMX: float32 rows and weights as sums of bfloat16 planes.

AMX multiplies bfloat16 alone, at sixteen times the rate of float32's vector instructions. A float32
is the sum of three bfloat16, x = a + b + c, so that

    x · w ≈ a·a' + (a·b' + b·a' + b·b' + a·c' + c·a')

and what is left out is below 2⁻²⁴ of it (Henry, Tang & Heinecke, "Leveraging the bfloat16
artificial intelligence datatype for higher-precision computations", 2019). The terms in brackets
are summed up first, over all depths, while the sums are small: the sum of the first terms then
rounds as often as any float32 product does.

A tile of the unit is 16 rows of 16 pairs of bfloat16. Depths go in blocks of 32; pair j of a block
is depths j and 16 + j. ``cellwright.cpu.amx.planes`` lays rows and weights out. Numbers here count
elements of float32.
"""

from collections.abc import Callable, Sequence

import llvmlite.ir as ir

from cellwright.cpu.vector.simd import I64, POINTER, Simd, Value

__all__ = [
    "AMX_DEPTH",
    "AMX_ROWS",
    "MATRIX",
    "PLANE",
    "ROW_BLOCK",
    "ROW_PLANES",
    "WEIGHT_PLANES",
    "Unit",
    "emit_busy",
    "emit_matrix",
    "emit_release",
    "emit_setup",
]

AMX_ROWS, AMX_DEPTH = 16, 32
"""Rows and depths of a tile."""
PLANE = AMX_ROWS * AMX_DEPTH // 2
"""The size of a tile."""
ROW_PLANES, WEIGHT_PLANES = 4, 3
"""Planes of rows: a; a with 0 for infinity, nan and large numbers; b; c. Of weights: a; b; c."""
ROW_BLOCK = ROW_PLANES * PLANE
"""The size of a block of depths of 16 rows."""

MATRIX = (POINTER, I64, POINTER, I64, POINTER, POINTER, I64)
"""Arguments of a product: results, their row stride; planes of rows, the distance to those of the
next 16 rows; a table of where each block of depths is in them; planes of weights, blocks."""

_BYTE = ir.IntType(8)


class Unit:
    """Calls the unit's instructions. Its tiles are numbered from 0 to 7."""

    def __init__(self, s: Simd) -> None:
        self.s = s

    def _do(self, name: str, kinds: Sequence[ir.Type], args: Sequence[Value]) -> None:
        self.s.call(f"llvm.x86.{name}", ir.VoidType(), kinds, args)

    def zero(self, tile: int) -> None:
        """Set sums to 0."""
        self._do("tilezero", [_BYTE], [ir.Constant(_BYTE, tile)])

    def load(self, tile: int, pointer: Value) -> None:
        """Load a tile."""
        kinds, args = [_BYTE, POINTER, I64], [ir.Constant(_BYTE, tile), pointer, self.s.index(64)]
        self._do("tileloadd64", kinds, args)

    def store(self, tile: int, pointer: Value, stride: Value) -> None:
        """Store sums, rows ``stride`` elements apart."""
        args = [ir.Constant(_BYTE, tile), pointer, self.s.mul(stride, self.s.scalar_bytes)]
        self._do("tilestored64", [_BYTE, POINTER, I64], args)

    def multiply(self, total: int, rows: int, weights: int) -> None:
        """Add a product to sums."""
        args = [ir.Constant(_BYTE, tile) for tile in (total, rows, weights)]
        self._do("tdpbf16ps", [_BYTE] * 3, args)


def emit_setup(s: Simd) -> None:
    """Give all tiles of the unit their full size."""
    size, rows = 0x0040_0040_0040_0040, 0x1010_1010_1010_1010  # 64 bytes each; 16 each
    words = [1, 0, size, size, 0, 0, rows, 0]  # the first palette
    memory = s.reserve(I64, len(words))
    for j, word in enumerate(words):
        s.builder.store(s.index(word), s.entry(memory, j))
    s.call("llvm.x86.ldtilecfg", ir.VoidType(), [POINTER], [memory])


def emit_release(s: Simd) -> None:
    """Tell the system that nothing in the unit needs to be kept."""
    s.call("llvm.x86.tilerelease", ir.VoidType(), [], [])


def emit_busy(s: Simd) -> None:
    """Multiply tiles that nobody reads, now and then, so that the unit stays awake.

    It falls asleep within half a microsecond, about as long as a small model's equations take, and
    takes a third of one to wake up.
    """
    Unit(s).multiply(*reversed(range(_OPERANDS + 1, _OPERANDS + 4)))


def emit_matrix(s: Simd, groups: int, vectors: int) -> None:
    """C[r, u] = Σ_k A[r, k] W[k, u] for 16 or 32 rows and so many vectors of units."""
    each = 2 if groups == 2 else 4  # four sums at once, so that none waits
    for start in range(0, vectors, each):
        _Columns(s, groups, range(start, min(start + each, vectors)), vectors).emit()
    s.finish()


_A, _SAFE, _B, _C = range(ROW_PLANES)
"""Planes of rows; those of weights are ``_A``, ``_W_B``, ``_W_C``."""
_W_B, _W_C = 1, 2
_OPERANDS = 4
"""The first tile that holds no sums."""


class _Columns:
    """Emits the products of some vectors of units."""

    def __init__(self, s: Simd, groups: int, columns: range, vectors: int) -> None:
        self.s, self.unit, self.columns, self.vectors = s, Unit(s), columns, vectors
        self.results, self.stride, self.rows, self.distance, self.places, *more = s.function.args
        self.weights, self.blocks = more
        self.groups = range(groups)

    def emit(self) -> None:
        """Emit the small terms of all depths, then the large ones, and the stores."""
        s, width = self.s, len(self.columns)
        small = self._small_pairs if len(self.groups) == 2 else self._small_row
        large = self._large_pairs if len(self.groups) == 2 else self._large_row
        for total in range(len(self.groups) * width):
            self.unit.zero(total)
        s.loop(0, self.blocks, 1, lambda j, _: self._block(j, small))
        last = s.sub(self.blocks, 1)  # whose planes are still in the first-level cache
        s.loop(0, self.blocks, 1, lambda j, _: self._block(s.sub(last, j), large))
        for g in self.groups:
            row = s.at(self.results, s.mul(self.stride, g * AMX_ROWS))
            for n, column in enumerate(self.columns):
                self.unit.store(g * width + n, s.at(row, column * s.lanes), self.stride)

    def _block(self, j: Value, body: Callable[[], None]) -> None:
        s = self.s
        self.row_block = s.at(self.rows, s.field(self.places, j))
        self.weight_block = s.at(self.weights, s.mul(j, WEIGHT_PLANES * PLANE * self.vectors))
        body()

    def _load_row(self, tile: int, plane: int, group: int) -> None:
        at = self.s.add(self.s.mul(self.distance, group), plane * PLANE)
        self.unit.load(tile, self.s.at(self.row_block, at))

    def _load_weights(self, tile: int, plane: int, column: int) -> None:
        at = (plane * self.vectors + column) * PLANE
        self.unit.load(tile, self.s.at(self.weight_block, at))

    # two groups of rows and up to two columns: tiles for two of each

    def _load_rows(self, plane: int) -> None:
        for g in self.groups:
            self._load_row(_OPERANDS + 2 + g, plane, g)

    def _load_columns(self, plane: int) -> None:
        for n, column in enumerate(self.columns):
            self._load_weights(_OPERANDS + n, plane, column)

    def _multiply_pairs(self) -> None:
        width = len(self.columns)
        for g in self.groups:
            for n in range(width):
                self.unit.multiply(g * width + n, _OPERANDS + 2 + g, _OPERANDS + n)

    def _small_pairs(self) -> None:
        """Each term loads what the one before it does not have."""
        for weights, rows in ((_W_B, _SAFE), (None, _B), (_A, None), (None, _C), (_W_C, _SAFE)):
            if weights is not None:
                self._load_columns(weights)
            if rows is not None:
                self._load_rows(rows)
            self._multiply_pairs()

    def _large_pairs(self) -> None:
        self._load_columns(_A)
        self._load_rows(_A)
        self._multiply_pairs()

    # one group of rows and up to four columns: all planes of the rows, one tile of weights

    def _small_row(self) -> None:
        planes = (_SAFE, _B, _C)
        tiles = dict(zip(planes, range(_OPERANDS, _OPERANDS + 3), strict=True))
        for plane, tile in tiles.items():
            self._load_row(tile, plane, 0)
        last = _OPERANDS + 3
        for weights, terms in ((_W_B, (_SAFE, _B)), (_A, (_B, _C)), (_W_C, (_SAFE,))):
            for n, column in enumerate(self.columns):
                self._load_weights(last, weights, column)
                for plane in terms:
                    self.unit.multiply(n, tiles[plane], last)

    def _large_row(self) -> None:
        self._load_row(_OPERANDS, _A, 0)
        for n, column in enumerate(self.columns):
            tile = _OPERANDS + 1 + n % 3
            self._load_weights(tile, _A, column)
            self.unit.multiply(n, _OPERANDS, tile)
