"""A list of products, made by hand; see ``cellwright.cpu.products.product`` for what runs it."""

from array import array

from cellwright.cpu.call.walks import products
from cellwright.cpu.machine.target import DTYPES
from cellwright.cpu.products.product import HEADER

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
        pair: "tuple[array[int], array[int], int] | None" = None,
    ) -> None:
        """List C = A · B, or with ``adds`` C += A · B. Distances count elements.

        Args:
            a: address, distance between rows, distance between depths.
            b: address, distance between depths; columns lie one after another.
            c: address, distance between rows; columns as in b.
            shape: rows and columns of C.
            depths: a table of ``depth_table``: which depths of A meet which of B.
            adds: whether to add to C.
            pair: of a product that AMX takes together with the next one: the tables of its depths
                and of the other's, and the address of a row of zeros.
        """
        self._products.need(*shape, self._threads, crosswise=a[1] == 1)
        for address, *distances in (a, b, c):
            self._memory.extend((*self._place(address), *distances))
        *tables, blank = (array("q"), array("q"), 0) if pair is None else pair
        joint = [table.buffer_info()[0] if pair else 0 for table in tables]
        self._memory.extend((*shape, adds, depths.buffer_info()[0], *joint, *self._place(blank)))
        self._memory[0] += 1
        self._tables += [depths, *tables]

    def _place(self, address: int) -> tuple[int, int]:
        self._addresses.append(address - self._item)  # from where it lies one element on
        return len(self._addresses) - 1, 1

    def run(self) -> None:
        """Compute all of them, in order."""
        self._products.run(self._memory, self._addresses, self._threads)
