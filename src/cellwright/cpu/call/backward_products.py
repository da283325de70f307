"""The products after prepared backward walks, listed once, over the addresses of each call."""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from cellwright.cpu.call.backward_jobs import (
    Depths,
    Job,
    Matrix,
    all_depths,
    cut,
    paired,
    runs_of,
    table_of,
)
from cellwright.cpu.call.plan import ByLengths, Fed, Plan, Rows
from cellwright.cpu.call.shifts import Run, edges
from cellwright.cpu.call.walks import Places, products
from cellwright.cpu.machine.target import DTYPES, host, own_cache
from cellwright.cpu.products.amx_product import pair_pays
from cellwright.cpu.products.job import DEPTHS, GROUP_DEPTH, ROWS, depth_table
from cellwright.cpu.products.product import HEADER, shares_of
from cellwright.cpu.walk.frame import SUM_ROWS
from cellwright.graph.expr import leaf

__all__ = ["BackwardProducts"]


_LEAST_PIECE = 512
"""Rows from which a piece of them is worth another sum in all gradients of weights."""


@lru_cache(maxsize=64)
def _one_depth(count: int) -> "array[int]":
    """Return the table of a product of the first depth of A and each of ``count`` of B: a sum."""
    return depth_table([(0, k, 1) for k in range(count)])


class _Listed(NamedTuple):
    """A list of products, and the tables that it has addresses of."""

    memory: "array[int]"
    tables: "dict[object, array[int]]"


class BackwardProducts:
    """All products of a layer's backward pass.

    Args:
        plan: the layer. rows: its rows; those of a packed call may differ in their lengths.
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
        self.packed = rows.layout.counts is not None
        self.tables: list[array[int]] = []
        self.late: list[tuple[int, Depths | None, int]] = []  # what the lengths decide
        self.by_lengths = ByLengths(self._with_lengths)
        self.directions = sorted({d for _, d in places})
        lists = ((d, self._in_pieces(self._paired(self._jobs(d)), d)) for d in self.directions)
        jobs = [(d, job) for d, some in lists for job in some]
        self.memory = array("q", (len(jobs), threads, *[0] * (HEADER - 2)))
        self._list(jobs)

    def run(self, addresses: "array[int]", rows: Rows) -> None:
        """Compute the products of the call with these addresses and rows."""
        listed = self.by_lengths(rows) if self.packed else None  # which keeps its tables alive
        memory = self.memory if listed is None else listed.memory
        self.products.run(memory[:], addresses, self.threads)

    def _with_lengths(self, rows: Rows) -> _Listed:
        """Return the list for packed sequences."""
        memory = self.memory[:]
        tables: dict[object, array[int]] = {}
        for field, depths, d in self.late:
            if depths is None:
                memory[field] = rows.layout.rows
                continue
            if (depths, d) not in tables:
                tables[depths, d] = table_of(depths, rows, d)
            memory[field], _ = tables[depths, d].buffer_info()
        if self.given and 1 in self.directions:
            self._list_edges(memory, tables, rows)
        return _Listed(memory, tables)

    def _list_edges(
        self, memory: "array[int]", tables: "dict[object, array[int]]", rows: Rows
    ) -> None:
        """List what reaches the initial states of sequences that end at different steps."""
        width = self.width
        for state, f in self._fed_states():
            H = self.plan.width(state)
            matrices = Matrix("da", 0, 0), self._weights(f, H), Matrix(f"d{state}", 0, 0)
            (da, first), weights, (target, start) = (self._place(m, 1) for m in matrices)
            tables[f.width] = all_depths(f.width)
            depths, _ = tables[f.width].buffer_info()
            for row, n, count in edges(rows, reverse=True):
                memory.extend((da, first + row * width + f.column, width, 1))
                memory.extend((*weights, H, target, start + n * H, H))
                memory.extend((count, H, 1, depths, 0, 0, 0, 0))
                memory[0] += 1

    def _list(self, jobs: Sequence[tuple[int, Job]]) -> None:
        """Lay out the products."""
        starts = {f"d{state}" for state in self.plan.cell.states}
        written = {self.places["dx", d] for d in self.directions if self.plan.reads_input}
        filled = set[tuple[int, int]]()
        for d, job in jobs:
            target = self._place(job.c, d)
            there = self.places[job.c.name, d] in written or job.c.name in starts
            adds = int(target in filled or there)
            filled.add(target)
            rows = self.rows.layout.rows if job.rows is None else job.rows
            if self.packed and job.rows is None:
                self.late.append((len(self.memory) + ROWS, None, d))
            if self.packed and isinstance(job.depths, str):
                self.late.append((len(self.memory) + DEPTHS, job.depths, d))
            depths = self._address(job.depths, d)
            pair = [self._address(part, d) for part in job.pair] if job.pair else (0, 0)
            crosswise = job.a.distance == 1
            fixed = None if self.packed and job.rows is None else rows
            self.products.need(fixed, job.columns, self.threads, crosswise=crosswise)
            a, b = self._place(job.a, d), self._place(job.b, d)
            self.memory.extend((*a, job.a.distance, job.depth_of_a, *b, job.b.distance))
            self.memory.extend((*target, job.c.distance, rows, job.columns, adds, depths))
            self.memory.extend((*pair, *self.places["zeros", d]))

    def _address(self, depths: "array[int] | Depths", d: int) -> int:
        """Return the address of a table, which is kept for it."""
        table = depths if isinstance(depths, array) else table_of(depths, self.rows, d)
        self.tables.append(table)
        return table.buffer_info()[0]

    def _paired(self, jobs: Sequence[Job]) -> list[Job]:
        """Pair jobs where AMX takes both."""
        if self.packed or not host().has_amx(self.plan.dtype):
            return [*jobs]
        depth, lanes = self.rows.layout.rows, host().lanes(self.plan.dtype)

        def pays(rows: int, more: int, columns: tuple[int, int]) -> bool:
            return pair_pays(min(shares_of(rows, self.threads, lanes)), more, columns, depth)

        return paired(jobs, pays)

    def _in_pieces(self, jobs: Sequence[Job], d: int) -> list[Job]:
        """Cut jobs over all rows of a sequence, so that they take turns with a piece of them."""
        long = [job for job in jobs if job.over_rows]
        count, each = self.rows.layout.rows, self._piece_rows(long)
        if each >= count:
            return [*jobs]
        kinds = {kind for job in long for kind in job.kinds}
        parts = {kind: cut(runs_of(kind, self.rows, d), each) for kind in kinds}
        starts = range(0, count, each)
        pieces = [self._piece(job, start, each, parts) for start in starts for job in long]
        return [*pieces, *(job for job in jobs if not job.over_rows)]

    def _piece_rows(self, jobs: Sequence[Job]) -> int:
        """Return the rows of a piece that a core's cache holds from one of the jobs to the next.

        It has to hold all that is summed up, too, as each piece adds to that.
        """
        item, count = DTYPES[self.plan.dtype], self.rows.layout.rows
        sums = sum(job.rows * job.columns * item for job in jobs if job.rows is not None)
        if self.packed or self.width == 0 or sums > own_cache() // 8:
            return count
        each = own_cache() // 2 // (self.width * item) * self.threads
        return count if each < _LEAST_PIECE else each - each % GROUP_DEPTH

    def _piece(
        self, job: Job, start: int, each: int, parts: dict[Depths, dict[int, list[Run]]]
    ) -> Job:
        """Return a job over so many rows from one on, or those that there are."""
        if job.rows is None:
            return job.from_row(start, min(each, self.rows.layout.rows - start))

        def part(depths: "array[int] | Depths") -> "array[int]":
            assert not isinstance(depths, array), "what goes through all rows is not listed yet"
            return depth_table(parts[depths].get(start, ()))

        pair = None if job.pair is None else (part(job.pair[0]), part(job.pair[1]))
        return job._replace(depths=part(job.depths), pair=pair)

    def _place(self, matrix: Matrix, d: int) -> tuple[int, int]:
        number, offset = self.places[matrix.name, d]
        return number, offset + matrix.first

    def _jobs(self, d: int) -> list[Job]:
        parts = (self._input_jobs(), self._state_jobs(d), self._expression_jobs(), self._sum_jobs())
        return [job for part in parts for job in part]

    def _input_jobs(self) -> list[Job]:
        """The gradients of the input and of its weights."""
        plan, I = self.plan, self.plan.inputs  # noqa: E741
        fed = plan.fed.get(leaf("input"), [])
        x, dx = Matrix("x", 0, I), Matrix("dx", 0, I)
        jobs: list[Job] = []
        jobs += [self._weight_job(f, x, I, "all") for f in fed]
        for f in fed if self.want_x else ():
            da = Matrix("da", f.column, self.width)
            jobs.append(Job(da, 1, self._weights(f, I), dx, None, I, all_depths(f.width)))
        if self.want_x and not fed and not plan.reads_input:
            one = Matrix("one", 0, 0)
            jobs.append(Job(one, 0, one, dx, None, I, _one_depth(0)))
        return jobs

    def _fed_states(self) -> list[tuple[str, Fed]]:
        """Return the states that are multiplied with weights, and what that makes."""
        states = self.plan.cell.states
        return [(s, f) for s in states for f in self.plan.fed.get(leaf("state", s), [])]

    def _state_jobs(self, d: int) -> list[Job]:
        """The gradients of the states' weights and of the initial states."""
        plan, first = self.plan, self.plan.cell.states[0]
        jobs: list[Job] = []
        for state, f in self._fed_states():
            H = plan.width(state)
            # the first state is the output, with both directions side by side
            values = Matrix(state, 0, len(self.directions) * H if state == first else H)
            jobs.append(self._weight_job(f, values, H, "before"))
            if self.given:
                initial = Matrix(f"{state}.start", 0, H)
                jobs.append(self._weight_job(f, initial, H, "first"))
                jobs += [] if self.packed and d == 1 else [self._start_job(state, f, d)]
        return jobs

    def _expression_jobs(self) -> list[Job]:
        """The gradients of the weights that projected expressions are multiplied with."""
        H = self.plan.units
        values = [(Matrix(f"e{j}", 0, H), e) for j, e in enumerate(self.plan.step.expressions)]
        return [self._weight_job(f, v, H, "all") for v, e in values for f in self.plan.fed[e]]

    def _weight_job(self, f: Fed, values: Matrix, columns: int, depths: Depths) -> Job:
        """The gradient of weights that values of each step are multiplied with."""
        da = Matrix("da", f.column, 1)
        target = Matrix(f"grad.weight.{f.bundle}", f.row * columns, columns)
        return Job(da, self.width, values, target, f.width, columns, depths)

    def _start_job(self, state: str, f: Fed, d: int) -> Job:
        """What reaches an initial state through its product with weights."""
        H, N = self.plan.width(state), self.rows.layout.batch
        at_first, between = self.rows.distances(self.width)
        edge = (self.rows.layout.steps - 1) * at_first if d == 1 else 0
        da, target = Matrix("da", edge + f.column, between), Matrix(f"d{state}", 0, H)
        return Job(da, 1, self._weights(f, H), target, N, H, all_depths(f.width))

    def _weights(self, f: Fed, columns: int) -> Matrix:
        return Matrix(f"weight.{f.bundle}", f.row * columns, columns)

    def _sum_jobs(self) -> list[Job]:
        """The gradients of biases and vectors: what the threads have summed up, added."""
        plan, H, one = self.plan, self.plan.units, Matrix("one", 0, 0)
        depths = _one_depth(SUM_ROWS * self.threads)
        jobs: list[Job] = []
        for bundle, slices in plan.bias_slices.items():
            row = 0
            for columns in slices:
                count = columns.stop - columns.start
                db = Matrix("db", columns.start, self.width)
                jobs.append(
                    Job(one, 0, db, Matrix(f"grad.bias.{bundle}", row, 0), 1, count, depths)
                )
                row += count
        for v in plan.cell.vectors:
            sums = Matrix(f"dvector.{v}", 0, H)
            jobs.append(Job(one, 0, sums, Matrix(f"grad.vector.{v}", 0, 0), 1, H, depths))
        return jobs
