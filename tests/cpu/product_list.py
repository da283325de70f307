"""A list of products, made by hand; see ``cellwright.cpu.product`` for what runs it."""

from array import array

from cellwright.cpu.product import HEADER
from cellwright.cpu.target import DTYPES
from cellwright.cpu.walks import products

__all__ = ["ProductList"]


class ProductList:
    """Products that run in one call. What they read and write must be alive until then.

    Args:
        dtype: a key of ``target.DTYPES``.
        threads: how many share the rows of each product.
    """

    def __init__(self, dtype: str, threads: int) -> None:
        self._products, self._threads, self._item = products(dtype), threads, DTYPES[dtype]
        self._memory = array("q", (0, threads, *[0] * (HEADER - 2)))
        self._tables: list[array[int]] = []
        self._addresses = array("q")

    def add(
        self,
        a: tuple[int, int, int],
        b: tuple[int, int],
        c: tuple[int, int],
        shape: tuple[int, int],
        depths: "array[int]",
        *,
        adds: bool = False,
    ) -> None:
        """List C = A · B, or with ``adds`` C += A · B. Distances count elements.

        Args:
            a: address, distance between rows, distance between depths.
            b: address, distance between depths; columns lie one after another.
            c: address, distance between rows; columns as in b.
            shape: rows and columns of C.
            depths: a table of ``depth_table``: which depths of A meet which of B.
            adds: whether to add to C.
        """
        self._products.need(*shape, self._threads, crosswise=a[1] == 1)
        for address, *distances in (a, b, c):
            self._memory.extend((len(self._addresses), 1, *distances))
            self._addresses.append(address - self._item)  # from where it lies one element on
        self._memory.extend((*shape, adds, depths.buffer_info()[0]))
        self._memory[0] += 1
        self._tables.append(depths)

    def run(self) -> None:
        """Compute all of them, in order."""
        self._products.run(self._memory, self._addresses, self._threads)
