"""The products after prepared backward walks, listed once: only addresses are filled in."""

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cellwright.cpu.frame import SUM_ROWS
from cellwright.cpu.plan import Fed, Plan, Rows
from cellwright.cpu.product import HEADER, depth_table
from cellwright.cpu.products import all_depths, one_depth
from cellwright.cpu.shifts import edges, shifts
from cellwright.cpu.walks import products
from cellwright.graph.expr import leaf

__all__ = ["Fill", "Places", "PreparedProducts", "fill_in"]

Places = Mapping[tuple[str, int], tuple[int, int]]
"""For each name and direction, which of a call's addresses it is at, and how many elements on."""
Fill = tuple[int, int, int]
"""A field, which of a call's addresses goes there, and how many bytes are added."""
_ADDRESSES = (0, 3, 5)
"""Where a product has its addresses; see ``cellwright.cpu.product``."""


def fill_in(
    template: "array[int]", fills: Sequence[Fill], addresses: Sequence[int]
) -> "array[int]":
    """Return a copy of a struct that has a call's addresses."""
    struct = template[:]
    for field, number, offset in fills:
        struct[field] = addresses[number] + offset
    return struct


class _Matrix(NamedTuple):
    """A matrix: its name, its first element, the distance between rows."""

    name: str
    first: int
    distance: int


class _Job(NamedTuple):
    """A product to list; see ``cellwright.cpu.product``.

    ``depth_of_a``: distance between depths of A; 0: the first one meets all depths of B.
    """

    a: _Matrix
    depth_of_a: int
    b: _Matrix
    c: _Matrix
    rows: int
    columns: int
    depths: "array[int]"


class PreparedProducts:
    """All products of a layer's backward pass.

    Args:
        plan: the layer. rows: its rows, dense.
        places: where the matrices are.
        given: whether initial states were given, so that their gradients are wanted.
        want_x: whether the input's gradient is wanted.
        threads: how many share the work.
    """

    def __init__(
        self, plan: Plan, rows: Rows, places: Places, given: bool, want_x: bool, threads: int
    ) -> None:
        self.plan, self.rows, self.places = plan, rows, places
        self.given, self.want_x, self.threads = given, want_x, threads
        self.width = plan.accumulators
        self.products = products(plan.dtype)
        self.tables: list[array[int]] = []
        self.fills: list[Fill] = []
        self.directions = sorted({d for _, d in places})
        jobs = [(d, job) for d in self.directions for job in self._jobs(d)]
        self.memory = array("q", (len(jobs), threads, *[0] * (HEADER - 2)))
        self._list(jobs)

    def run(self, addresses: Sequence[int]) -> None:
        """Compute the products of the call with these addresses."""
        self.products.run(fill_in(self.memory, self.fills, addresses), self.threads)

    def _list(self, jobs: Sequence[tuple[int, _Job]]) -> None:
        """Lay out the products, and say where their addresses go."""
        starts = {f"d{state}" for state in self.plan.cell.states}
        filled = {self.places["dx", 0]} if self.plan.reads_input else set()
        for d, job in jobs:
            for field, matrix in zip(_ADDRESSES, (job.a, job.b, job.c), strict=True):
                number, offset = self._place(matrix, d)
                self.fills.append((len(self.memory) + field, number, offset * self.plan.item))
            target = self._place(job.c, d)
            adds = int(target in filled or job.c.name in starts)
            filled.add(target)
            self.tables.append(job.depths)  # the list has its address
            depths, _ = job.depths.buffer_info()
            self.memory.extend((0, job.a.distance, job.depth_of_a, 0, job.b.distance))
            self.memory.extend((0, job.c.distance, job.rows, job.columns, adds, depths))

    def _place(self, matrix: _Matrix, d: int) -> tuple[int, int]:
        number, offset = self.places[matrix.name, d]
        return number, offset + matrix.first

    def _jobs(self, d: int) -> list[_Job]:
        parts = (self._input_jobs(), self._state_jobs(d), self._expression_jobs(), self._sum_jobs())
        return [job for part in parts for job in part]

    def _input_jobs(self) -> list[_Job]:
        """The gradients of the input and of its weights."""
        plan, I, width = self.plan, self.plan.inputs, self.width  # noqa: E741
        rows = self.rows.layout.rows
        fed = plan.fed.get(leaf("input"), [])
        x, dx = _Matrix("x", 0, I), _Matrix("dx", 0, I)
        jobs: list[_Job] = []
        for f in fed:
            da, target = (
                _Matrix("da", f.column, 1),
                _Matrix(f"grad.weight.{f.bundle}", f.row * I, I),
            )
            jobs.append(_Job(da, width, x, target, f.width, I, all_depths(rows)))
        for f in fed if self.want_x else ():
            da = _Matrix("da", f.column, width)
            weights = _Matrix(f"weight.{f.bundle}", f.row * I, I)
            jobs.append(_Job(da, 1, weights, dx, rows, I, all_depths(f.width)))
        if self.want_x and not fed and not plan.reads_input:
            one = _Matrix("one", 0, 0)
            jobs.append(_Job(one, 0, one, dx, rows, I, one_depth(0)))
        return jobs

    def _state_jobs(self, d: int) -> list[_Job]:
        """The gradients of the states' weights and of the initial states."""
        plan, rows = self.plan, self.rows
        before, first = (depth_table(runs(rows, d == 1)) for runs in (shifts, edges))
        jobs: list[_Job] = []
        for k, (state, start, _) in enumerate(plan.ends):
            # the first state is the output, with both directions side by side
            H = plan.width(state)
            values = _Matrix(state, 0, H if k else len(self.directions) * H)
            for f in plan.fed.get(leaf("state", state), []):
                da = _Matrix("da", f.column, 1)
                target = _Matrix(f"grad.weight.{f.bundle}", f.row * H, H)
                jobs.append(_Job(da, self.width, values, target, f.width, H, before))
                if self.given:
                    initial = _Matrix(start, 0, H)
                    jobs.append(_Job(da, self.width, initial, target, f.width, H, first))
                    jobs.append(self._start_job(state, f, d))
        return jobs

    def _expression_jobs(self) -> list[_Job]:
        """The gradients of the weights that projected expressions are multiplied with."""
        H, depths = self.plan.units, all_depths(self.rows.layout.rows)
        jobs: list[_Job] = []
        for j, e in enumerate(self.plan.step.expressions):
            for f in self.plan.fed[e]:
                da = _Matrix("da", f.column, 1)
                target = _Matrix(f"grad.weight.{f.bundle}", f.row * H, H)
                jobs.append(
                    _Job(da, self.width, _Matrix(f"e{j}", 0, H), target, f.width, H, depths)
                )
        return jobs

    def _start_job(self, state: str, f: Fed, d: int) -> _Job:
        """What reaches an initial state through its product with weights."""
        H, N = self.plan.width(state), self.rows.layout.batch
        at_first, between = self.rows.distances(self.width)
        edge = (self.rows.layout.steps - 1) * at_first if d == 1 else 0
        da = _Matrix("da", edge + f.column, between)
        weights = _Matrix(f"weight.{f.bundle}", f.row * H, H)
        return _Job(da, 1, weights, _Matrix(f"d{state}", 0, H), N, H, all_depths(f.width))

    def _sum_jobs(self) -> list[_Job]:
        """The gradients of biases and vectors: what the threads have summed up, added."""
        plan, H, one = self.plan, self.plan.units, _Matrix("one", 0, 0)
        depths = one_depth(SUM_ROWS * self.threads)
        jobs: list[_Job] = []
        for bundle, slices in plan.bias_slices.items() if plan.bias else ():
            row = 0
            for columns in slices:
                count = columns.stop - columns.start
                db = _Matrix("db", columns.start, self.width)
                jobs.append(
                    _Job(one, 0, db, _Matrix(f"grad.bias.{bundle}", row, 0), 1, count, depths)
                )
                row += count
        for v in plan.cell.vectors:
            sums = _Matrix(f"dvector.{v}", 0, H)
            jobs.append(_Job(one, 0, sums, _Matrix(f"grad.vector.{v}", 0, 0), 1, H, depths))
        return jobs
