"""The short way of a layer's backward call: dense, one direction, everything contiguous.

The walk and all products after it take two calls into machine code. As with the forward call, what
does not change from call to call is prepared, and only addresses are filled in.
"""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, contiguous_format

from cellwright.cpu.frame import PACKED, SUM_ROWS
from cellwright.cpu.memory import Blanks
from cellwright.cpu.plan import Plan, share_of
from cellwright.cpu.prepared import MISSING, matrix_fields, plain, remember
from cellwright.cpu.product import HEADER
from cellwright.cpu.products import all_depths, one_depth
from cellwright.cpu.walks import Field, Layout, products
from cellwright.graph.expr import leaf

__all__ = ["PreparedBackward", "prepare_backward"]

_Matrix = tuple[str, int, int]
"""Name, first element, distance between rows."""


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
    depths: int


_ADDRESSES = (0, 3, 5)
"""Where a product has its addresses; see ``cellwright.cpu.product``."""
_Fill = tuple[int, int, int]
"""A field, which of a call's addresses goes there, and how many bytes are added."""


class PreparedBackward:
    """A backward call that lacks nothing but addresses.

    Args:
        plan: the layer. layout: its rows, dense.
        given: whether initial states were given, so that their gradients are returned.
        want_x: whether the input's gradient is returned.
    """

    def __init__(self, plan: Plan, layout: Layout, given: bool, want_x: bool) -> None:
        self.plan, self.layout = plan, layout
        self.given, self.want_x = given, want_x
        self.share = share_of(plan, layout)
        self.threads = self.share.threads
        self.walk, self.products = plan.backward_walk, products(plan.dtype)
        H, N, rows = plan.units, layout.batch, layout.rows
        self.width = len(plan.step.accumulators) * H
        self.states = [state for state, _, _ in plan.ends]
        scratch = self._scratch()
        self.writes_x = want_x or plan.reads_input
        dx = [(layout.steps, N, plan.inputs)] if self.writes_x else []
        self.new_scratch = Blanks(plan.dtype, (sum(size for _, size in scratch),), *dx)
        self.new_da = Blanks(plan.dtype, (rows, self.width))
        self.new_state = Blanks(plan.dtype, (1, N, H))
        self.new_packed = Blanks(plan.dtype, (self.walk.packed_size,))
        self.new_gradients = Blanks(plan.dtype, *plan.shapes)
        self.places = self._places(scratch)
        self.struct = self._struct()
        self.start_names = {f"d{state}" for state in self.states}
        at = self.walk.places.buffers
        fills = [self._fill(at[name], name) for name in at if name in self.places]
        fills += [self._fill(p, f"w.{b}") for b, p in self.walk.places.matrices.items()]
        self.struct_fills = fills
        self.tables: list[array[int]] = []
        self.jobs, self.job_fills = self._list_products()
        self.dy_field, self.dy_strides = at["dy"], self.walk.places.strides["dy"]
        self.zero_row = plan.zero_row
        self.dstate_fields = [at[f"d{state}"] for state in self.states]
        self.dstate_targets = [self._targets(f"d{state}") for state in self.states]

    def _scratch(self) -> list[tuple[str, int]]:
        """Name the memory that nobody sees: sums over rows, and rows that only the walk needs."""
        N, H, threads = self.layout.batch, self.plan.units, self.threads
        vectors = [f"dvector.{v}" for v in self.plan.cell.vectors]
        rows_of_sums = SUM_ROWS * threads
        sizes = {"db": rows_of_sums * self.width} | dict.fromkeys(vectors, rows_of_sums * H)
        rows = [f"d{state}" for state in self.states]
        shared = {"a", "da", "da.start", "dy", "dx", "x", *sizes, *rows}
        shared |= {name for end in self.plan.ends for name in end}
        shared |= {f"vector.{v}" for v in self.plan.cell.vectors}
        rows += [name for name in self.walk.names if name not in shared]
        return [*sizes.items(), *((name, N * H) for name in rows)]

    def _places(self, scratch: list[tuple[str, int]]) -> dict[str, tuple[int, int]]:
        """Say for each name which of the addresses of a call it is at, and how far from there."""
        names = ["scratch", "a", "da", "dy", "dx", "one", *self.states, "x"]
        names += self._parameters("w.", "b.", "vector.")
        names += [start for _, start, _ in self.plan.ends] if self.given else []
        names += self._parameters("g.", "gb.", "gv.")
        places = {name: (k, 0) for k, name in enumerate(names)}
        offset = 0
        for name, size in scratch:
            places[name] = (0, offset)
            offset += size
        return places

    def _parameters(self, weight: str, bias: str, vector: str) -> list[str]:
        """Name the parameters, or what belongs to each of them, in their order."""
        cell = self.plan.cell
        biases = [bias + bundle for bundle in cell.bundles if self.plan.bias]
        return [*(weight + b for b in cell.bundles), *biases, *(vector + v for v in cell.vectors)]

    def _struct(self) -> "array[int]":
        plan, walk, H, N = self.plan, self.walk, self.plan.units, self.layout.batch
        fields: dict[str, Field] = dict.fromkeys(walk.names, (0, 0, H))
        fields["a"] = fields["da"] = (0, N * self.width, self.width)
        fields["da.start"] = plan.zero_row
        fields["dy"] = fields["dx"] = (0, N * H, H)
        fields["x"] = (0, N * plan.inputs, plan.inputs)
        fields["db"] = (0, 0, SUM_ROWS * self.width)
        for v in plan.cell.vectors:
            fields[f"dvector.{v}"] = (0, 0, SUM_ROWS * H)
        for state, start, _ in plan.ends:
            fields[state] = (0, N * H, H)
            fields[start] = (0, 0, H) if self.given else plan.zero_row
        matrices = matrix_fields(plan, walk)
        return walk.struct(self.layout, True, self.threads, fields, matrices, 1, False)

    def _list_products(self) -> "tuple[array[int], list[_Fill]]":
        """Lay out the products, and say where their addresses go."""
        jobs = [*self._input_jobs(), *self._state_jobs(), *self._sum_jobs()]
        memory = [len(jobs), self.threads, *[0] * (HEADER - 2)]
        filled = {("dx", 0)} if self.plan.reads_input else set()
        fills: list[_Fill] = []
        for job in jobs:
            for field, (name, first, _) in zip(_ADDRESSES, (job.a, job.b, job.c), strict=True):
                fills.append(self._fill(len(memory) + field, name, first))
            target = job.c[:2]
            adds = int(target in filled or job.c[0] in self.start_names)
            filled.add(target)
            memory += [0, job.a[2], job.depth_of_a, 0, job.b[2], 0, job.c[2]]
            depths = all_depths(job.depths) if job.depth_of_a else one_depth(job.depths)
            self.tables.append(depths)  # the list has its address
            memory += [job.rows, job.columns, adds, depths.buffer_info()[0]]
        return array("q", memory), fills

    def _targets(self, name: str) -> list[int]:
        """Return the fields of the products that have the address of ``name``."""
        place = self.places[name]
        wanted = place[0], place[1] * self.plan.item
        return [field for field, *found in self.job_fills if tuple(found) == wanted]

    def _fill(self, field: int, name: str, first: int = 0) -> _Fill:
        number, offset = self.places[name]
        return field, number, (offset + first) * self.plan.item

    def _input_jobs(self) -> list[_Job]:
        """The gradients of the input and of its weights."""
        I, width, rows = self.plan.inputs, self.width, self.layout.rows  # noqa: E741
        fed = self.plan.fed.get(leaf("input"), [])
        x, dx = ("x", 0, I), ("dx", 0, I)
        jobs = [
            _Job(("da", f.column, 1), width, x, (f"g.{f.bundle}", f.row * I, I), f.width, I, rows)
            for f in fed
        ]
        if self.want_x:
            for f in fed:
                weights = (f"w.{f.bundle}", f.row * I, I)
                jobs.append(_Job(("da", f.column, width), 1, weights, dx, rows, I, f.width))
            if not fed and not self.plan.reads_input:
                jobs.append(_Job(("one", 0, 0), 0, ("one", 0, 0), dx, rows, I, 0))
        return jobs

    def _state_jobs(self) -> list[_Job]:
        """The gradients of the states' weights and of the initial states."""
        plan, H, N, width = self.plan, self.plan.units, self.layout.batch, self.width
        later = self.layout.rows - N  # rows of the steps that have a step before them
        jobs: list[_Job] = []
        for state, start, _ in plan.ends:
            for f in plan.fed.get(leaf("state", state), []):
                target, column = (f"g.{f.bundle}", f.row * H, H), f.column
                da = ("da", N * width + column, 1)
                jobs.append(_Job(da, width, (state, 0, H), target, f.width, H, later))
                if self.given:
                    first, weights = ("da", column, 1), (f"w.{f.bundle}", f.row * H, H)
                    jobs.append(_Job(first, width, (start, 0, H), target, f.width, H, N))
                    edge, dstart = ("da", column, width), (f"d{state}", 0, H)
                    jobs.append(_Job(edge, 1, weights, dstart, N, H, f.width))
        return jobs

    def _sum_jobs(self) -> list[_Job]:
        """The gradients of biases and vectors: what the threads have summed up, added."""
        H, one, rows, jobs = self.plan.units, ("one", 0, 0), SUM_ROWS * self.threads, []
        for bundle in self.plan.cell.bundles if self.plan.bias else ():
            row = 0
            for columns in self.plan.bias_slices[bundle]:
                count = columns.stop - columns.start
                db, target = ("db", columns.start, self.width), (f"gb.{bundle}", row, 0)
                jobs.append(_Job(one, 0, db, target, 1, count, rows))
                row += count
        for v in self.plan.cell.vectors:
            sums = (f"dvector.{v}", 0, H)
            jobs.append(_Job(one, 0, sums, (f"gv.{v}", 0, 0), 1, H, rows))
        return jobs

    def __call__(
        self,
        tensors: Sequence[Tensor],
        out: Tensor,
        kept: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        last: bool,
    ) -> list[Tensor | None]:
        """Return the gradients of x, the parameters and, if they were given, the initial states.

        Args:
            tensors: x (L, N, H_in), the parameters, the initial states (1, N, H_out) if given. They
                and what follows have no gaps.
            out: the forward call's output.
            kept: what it kept: the accumulators, then all states but the first.
            cotangents: of the output and of the final states; None is 0.
            last: whether ``kept`` is not needed again, so that its memory may be written over.
        """
        dy, *dfinals = cotangents
        if dy is not None:
            dy = dy.contiguous()
        a, *streams = kept
        da = a if last else self.new_da()[0]
        scratch, *made = self.new_scratch()
        scratch.zero_()
        dx = made[0] if made else None
        owned = (scratch, a, da, dy, dx, self.plan.one, out, *streams, *tensors)
        addresses = [0 if t is None else t.data_ptr() for t in owned]
        struct = self.struct[:]
        for field, number, offset in self.struct_fills:
            struct[field] = addresses[number] + offset
        dstates = self._state_cotangents(dfinals, struct)
        if dy is None:
            places = self.dy_field, self.dy_strides, self.dy_strides + 1
            for place, value in zip(places, self.zero_row, strict=True):
                struct[place] = value
        packed = self.new_packed()
        struct[PACKED] = packed[0].data_ptr()
        self.walk.run(struct, self.share)
        del packed  # before more is made: it may be as large
        gradients = self.new_gradients()
        addresses += [g.data_ptr() for g in gradients]
        self._multiply(addresses, struct)
        return [dx if self.want_x else None, *gradients, *(dstates if self.given else ())]

    def _multiply(self, addresses: list[int], struct: "array[int]") -> None:
        """Run the products, on the states' gradients that the walk was given."""
        jobs = self.jobs[:]
        for field, number, offset in self.job_fills:
            jobs[field] = addresses[number] + offset
        for place, targets in zip(self.dstate_fields, self.dstate_targets, strict=True):
            for target in targets:
                jobs[target] = struct[place]
        self.products.run(jobs, self.threads)

    def _state_cotangents(
        self, dfinals: Sequence[Tensor | None], struct: "array[int]"
    ) -> list[Tensor]:
        """Give the walk cotangents of the final states to turn into those of the initial ones."""
        made: list[Tensor] = []
        for g, field in zip(dfinals, self.dstate_fields, strict=True):
            if g is None and not self.given:
                continue  # zeros that nobody asks for again: in the scratch memory
            if g is None:
                made.append(self.new_state()[0].zero_())
            else:
                made.append(g.clone(memory_format=contiguous_format))
            struct[field] = made[-1].data_ptr()
        return made


def prepare_backward(
    plan: Plan, layout: Layout, threads: int, given: bool, want_x: bool
) -> PreparedBackward | None:
    """Return the prepared call, or None if the cell needs more memory than it has room for."""
    key = (layout.steps, layout.batch, threads, given, want_x)
    found: PreparedBackward | None = plan.prepared.get(key, MISSING)
    if found is MISSING:
        found = PreparedBackward(plan, layout, given, want_x) if plain(plan) else None
        remember(plan, key, found)
    return found
