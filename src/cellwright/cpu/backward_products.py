"""The products after prepared backward walks, listed once, over the addresses of each call."""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from cellwright.cpu.frame import SUM_ROWS
from cellwright.cpu.plan import ByLengths, Fed, Plan, Rows
from cellwright.cpu.product import HEADER
from cellwright.cpu.product_job import DEPTHS, GROUP_DEPTH, ROWS, depth_table
from cellwright.cpu.shifts import Run, edges, shifts
from cellwright.cpu.target import DTYPES, own_cache
from cellwright.cpu.walks import Places, products
from cellwright.graph.expr import leaf

__all__ = ["BackwardProducts"]


_LEAST_PIECE = 512
"""Rows from which a piece of them is worth another sum in all gradients of weights."""


@lru_cache(maxsize=1024)
def _all_depths(count: int) -> "array[int]":
    """Return the table of a product over the first ``count`` depths."""
    return depth_table([(0, 0, count)])


@lru_cache(maxsize=64)
def _one_depth(count: int) -> "array[int]":
    """Return the table of a product of the first depth of A and each of ``count`` of B: a sum."""
    return depth_table([(0, k, 1) for k in range(count)])


class _Matrix(NamedTuple):
    """A matrix: its name, its first element, the distance between rows."""

    name: str
    first: int
    distance: int


_Depths = Literal["all", "before", "first"]
"""Depths that are rows of the sequence: each one; each with the row of the step before it; those of
the first steps, each with its sequence."""


_ROWWISE: tuple[_Depths, ...] = ("all", "before")
"""Those of which there are about as many as rows."""


class _Job(NamedTuple):
    """A product to list; see ``cellwright.cpu.product``.

    Attributes:
        depth_of_a: distance between depths of A; 0: the first one meets all depths of B.
        rows: of C; None for those of the sequence.
        depths: the table of its depths, or which table of the sequence.
    """

    a: _Matrix
    depth_of_a: int
    b: _Matrix
    c: _Matrix
    rows: int | None
    columns: int
    depths: "array[int] | _Depths"

    @property
    def over_rows(self) -> bool:
        """Whether it goes through the rows of the sequence, by all of which its work grows."""
        return self.rows is None or self.depths in _ROWWISE


class _Listed(NamedTuple):
    """A list of products, and the tables that it has addresses of."""

    memory: "array[int]"
    tables: "dict[object, array[int]]"


def _runs(depths: _Depths, rows: Rows, d: int) -> list[Run]:
    match depths:
        case "all":
            return [(0, 0, rows.layout.rows)]
        case "before":
            return shifts(rows, d == 1)
        case "first":
            return edges(rows, d == 1)


def _cut(runs: Sequence[Run], each: int) -> dict[int, list[Run]]:
    """Return the runs of each piece of so many rows of A, by its first row."""
    pieces: dict[int, list[Run]] = {}
    for from_a, from_b, size in runs:
        done = 0
        while done < size:
            start = (from_a + done) // each * each
            count = min(size - done, start + each - from_a - done)
            pieces.setdefault(start, []).append((from_a + done, from_b + done, count))
            done += count
    return pieces


def _table(depths: _Depths, rows: Rows, d: int) -> "array[int]":
    return _all_depths(rows.layout.rows) if depths == "all" else depth_table(_runs(depths, rows, d))


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
        self.late: list[tuple[int, _Depths | None, int]] = []  # what the lengths decide
        self.by_lengths = ByLengths(self._with_lengths)
        self.directions = sorted({d for _, d in places})
        jobs = [(d, job) for d in self.directions for job in self._in_pieces(self._jobs(d), d)]
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
                tables[depths, d] = _table(depths, rows, d)
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
            matrices = _Matrix("da", 0, 0), self._weights(f, H), _Matrix(f"d{state}", 0, 0)
            (da, first), weights, (target, start) = (self._place(m, 1) for m in matrices)
            tables[f.width] = _all_depths(f.width)
            depths, _ = tables[f.width].buffer_info()
            for row, n, count in edges(rows, reverse=True):
                memory.extend((da, first + row * width + f.column, width, 1))
                memory.extend((*weights, H, target, start + n * H, H))
                memory.extend((count, H, 1, depths))
                memory[0] += 1

    def _list(self, jobs: Sequence[tuple[int, _Job]]) -> None:
        """Lay out the products."""
        starts = {f"d{state}" for state in self.plan.cell.states}
        written = {self.places["dx", d] for d in self.directions if self.plan.reads_input}
        filled = set[tuple[int, int]]()
        for d, job in jobs:
            target = self._place(job.c, d)
            there = self.places[job.c.name, d] in written or job.c.name in starts
            adds = int(target in filled or there)
            filled.add(target)
            table, rows = job.depths, self.rows.layout.rows if job.rows is None else job.rows
            if self.packed and job.rows is None:
                self.late.append((len(self.memory) + ROWS, None, d))
            if isinstance(table, str):
                if self.packed:
                    self.late.append((len(self.memory) + DEPTHS, table, d))
                table = _table(table, self.rows, d)
            self.tables.append(table)  # the list has its address
            depths, _ = table.buffer_info()
            crosswise = job.a.distance == 1
            fixed = None if self.packed and job.rows is None else rows
            self.products.need(fixed, job.columns, self.threads, crosswise=crosswise)
            a, b = self._place(job.a, d), self._place(job.b, d)
            self.memory.extend((*a, job.a.distance, job.depth_of_a, *b, job.b.distance))
            self.memory.extend((*target, job.c.distance, rows, job.columns, adds, depths))

    def _in_pieces(self, jobs: Sequence[_Job], d: int) -> list[_Job]:
        """Cut jobs over all rows of a sequence, so that they take turns with a piece of them."""
        long = [job for job in jobs if job.over_rows]
        count, each = self.rows.layout.rows, self._piece_rows(long)
        if each >= count:
            return [*jobs]
        cut = {depths: _cut(_runs(depths, self.rows, d), each) for depths in _ROWWISE}
        starts = range(0, count, each)
        pieces = [self._piece(job, start, each, cut) for start in starts for job in long]
        return [*pieces, *(job for job in jobs if not job.over_rows)]

    def _piece_rows(self, jobs: Sequence[_Job]) -> int:
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
        self, job: _Job, start: int, each: int, cut: dict[_Depths, dict[int, list[Run]]]
    ) -> _Job:
        """Return a job over so many rows from one on, or those that there are."""
        if job.rows is None:
            a, c = (m._replace(first=m.first + start * m.distance) for m in (job.a, job.c))
            return job._replace(a=a, c=c, rows=min(each, self.rows.layout.rows - start))
        assert isinstance(job.depths, str), "what goes through all rows is not listed yet"
        return job._replace(depths=depth_table(cut[job.depths].get(start, ())))

    def _place(self, matrix: _Matrix, d: int) -> tuple[int, int]:
        number, offset = self.places[matrix.name, d]
        return number, offset + matrix.first

    def _jobs(self, d: int) -> list[_Job]:
        parts = (self._input_jobs(), self._state_jobs(d), self._expression_jobs(), self._sum_jobs())
        return [job for part in parts for job in part]

    def _input_jobs(self) -> list[_Job]:
        """The gradients of the input and of its weights."""
        plan, I = self.plan, self.plan.inputs  # noqa: E741
        fed = plan.fed.get(leaf("input"), [])
        x, dx = _Matrix("x", 0, I), _Matrix("dx", 0, I)
        jobs: list[_Job] = []
        jobs += [self._weight_job(f, x, I, "all") for f in fed]
        for f in fed if self.want_x else ():
            da = _Matrix("da", f.column, self.width)
            jobs.append(_Job(da, 1, self._weights(f, I), dx, None, I, _all_depths(f.width)))
        if self.want_x and not fed and not plan.reads_input:
            one = _Matrix("one", 0, 0)
            jobs.append(_Job(one, 0, one, dx, None, I, _one_depth(0)))
        return jobs

    def _fed_states(self) -> list[tuple[str, Fed]]:
        """Return the states that are multiplied with weights, and what that makes."""
        states = self.plan.cell.states
        return [(s, f) for s in states for f in self.plan.fed.get(leaf("state", s), [])]

    def _state_jobs(self, d: int) -> list[_Job]:
        """The gradients of the states' weights and of the initial states."""
        plan, first = self.plan, self.plan.cell.states[0]
        jobs: list[_Job] = []
        for state, f in self._fed_states():
            H = plan.width(state)
            # the first state is the output, with both directions side by side
            values = _Matrix(state, 0, len(self.directions) * H if state == first else H)
            jobs.append(self._weight_job(f, values, H, "before"))
            if self.given:
                initial = _Matrix(f"{state}.start", 0, H)
                jobs.append(self._weight_job(f, initial, H, "first"))
                jobs += [] if self.packed and d == 1 else [self._start_job(state, f, d)]
        return jobs

    def _expression_jobs(self) -> list[_Job]:
        """The gradients of the weights that projected expressions are multiplied with."""
        H = self.plan.units
        values = [(_Matrix(f"e{j}", 0, H), e) for j, e in enumerate(self.plan.step.expressions)]
        return [self._weight_job(f, v, H, "all") for v, e in values for f in self.plan.fed[e]]

    def _weight_job(self, f: Fed, values: _Matrix, columns: int, depths: _Depths) -> _Job:
        """The gradient of weights that values of each step are multiplied with."""
        da = _Matrix("da", f.column, 1)
        target = _Matrix(f"grad.weight.{f.bundle}", f.row * columns, columns)
        return _Job(da, self.width, values, target, f.width, columns, depths)

    def _start_job(self, state: str, f: Fed, d: int) -> _Job:
        """What reaches an initial state through its product with weights."""
        H, N = self.plan.width(state), self.rows.layout.batch
        at_first, between = self.rows.distances(self.width)
        edge = (self.rows.layout.steps - 1) * at_first if d == 1 else 0
        da, target = _Matrix("da", edge + f.column, between), _Matrix(f"d{state}", 0, H)
        return _Job(da, 1, self._weights(f, H), target, N, H, _all_depths(f.width))

    def _weights(self, f: Fed, columns: int) -> _Matrix:
        return _Matrix(f"weight.{f.bundle}", f.row * columns, columns)

    def _sum_jobs(self) -> list[_Job]:
        """The gradients of biases and vectors: what the threads have summed up, added."""
        plan, H, one = self.plan, self.plan.units, _Matrix("one", 0, 0)
        depths = _one_depth(SUM_ROWS * self.threads)
        jobs: list[_Job] = []
        for bundle, slices in plan.bias_slices.items():
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
