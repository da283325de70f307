"""A layer's backward call, in one or two directions, over tensors without gaps.

The walk of each direction leaves the gradient of every accumulator at every step. What needs no
order in time follows in a few products over all steps at once: the gradients of weights and input.
The walks and all products after them take one call into machine code each. As with the forward
call, what does not change from call to call is prepared: all but the table of addresses.
"""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, contiguous_format

from cellwright.cpu.call.backward_products import BackwardProducts
from cellwright.cpu.call.choice import share_of, takes_amx, walks_raw
from cellwright.cpu.call.forward import check_memory, prepared, shared_kind, start_lines
from cellwright.cpu.call.plan import CONSTANTS, ByLengths, Plan, Rows
from cellwright.cpu.call.walks import Distances, Places
from cellwright.cpu.machine.memory import Blanks, contiguous
from cellwright.cpu.walk.frame import ADDRESSES, LAYOUT, PACKED, RAW, SPLIT, SUM_ROWS

__all__ = ["BackwardCall", "backward_call"]

_address = Tensor.data_ptr


class _Scratch(NamedTuple):
    """Memory that nobody sees: its name, its direction, how many elements."""

    name: str
    direction: int
    size: int


_Blanks = tuple[Blanks, Blanks, list["array[int]"]]
"""What makes the scratch memory with the input's gradient, and ``da``; for packed sequences, the
first fields of each direction's struct."""
_MOST_STRUCTS = 8
"""For how many strides of the output's cotangent structs are kept."""


class BackwardCall:
    """A backward call that lacks nothing but the table of addresses.

    Args:
        plan: the layer. rows: its rows; those of a packed call may differ in their lengths.
        directions: D.
        given: whether initial states were given, so that their gradients are returned.
        want_x: whether the input's gradient is returned.
    """

    def __init__(self, plan: Plan, rows: Rows, directions: int, given: bool, want_x: bool) -> None:
        self.plan, self.rows, self.layout = plan, rows, rows.layout
        self.directions, self.given, self.want_x = range(directions), given, want_x
        self.share, self.walk = share_of(plan, rows.layout), plan.backward_walk
        self.width = plan.accumulators
        self.expressions = [f"e{j}" for j in range(len(plan.step.expressions))]
        stages = self.walk.program.stages
        within = any(p.source.when == "now" for stage in stages for p in stage.products)
        self.packs = self.layout.steps > 1 or within  # else there is no step to take products with
        self.amx = self.packs and takes_amx(plan, self.layout, "backward")
        self.raw_walk = self.packs and walks_raw(plan, self.layout, "backward")
        weights, split = self.walk.room(self.layout.batch, self.share, amx=self.amx)
        self.hidden, self.split = weights + split, weights * plan.item
        self.shelf = self.walk.spares.shelf(self.hidden)
        # tensors that the forward pass keeps of a direction
        self.each = len(plan.ends) + len(self.expressions)
        # a walk that reads the input writes its gradient, the other direction's beside it
        self.inputs = directions if plan.reads_input else int(want_x)
        self.packed, self.one_round = rows.layout.counts is not None, plan.step.rounds == 1
        scratch = self._scratch()
        self.room = sum(one.size for one in scratch)
        self._make_blanks()
        places = self.places = self._places(scratch)
        self.structs: dict[tuple[int, ...] | None, list[array[int]]] = {}  # by strides of dy
        self.first = places["x", 0][0] + 1  # which address has the first parameter
        states = plan.cell.states
        self.zeros = [places[f"zeros.{state}", 0][1] * plan.item for state in states]
        threads = self.share.threads
        self.products = BackwardProducts(plan, rows, places, given, want_x, threads)

    def _make_blanks(self) -> None:
        plan, D, dtype = self.plan, len(self.directions), self.plan.dtype
        self.by_lengths = ByLengths(self._new_blanks)
        self.blanks = self.by_lengths(self.rows)
        widths = map(plan.width, plan.cell.states)
        self.new_states = [Blanks(dtype, contiguous(D, self.layout.batch, w)) for w in widths]
        self.new_gradients = Blanks(dtype, *[contiguous(*shape) for shape in plan.shapes] * D)

    def _new_blanks(self, rows: Rows) -> _Blanks:
        plan, D, threads = self.plan, len(self.directions), self.share.threads
        dx = [rows.form(plan.inputs)] * self.inputs
        da = [contiguous(rows.layout.rows, self.width)] * D
        own = self.directions if self.packed else ()
        heads = [array("q", rows.layout.fields(d == 0, threads)) for d in own]
        scratch = Blanks(plan.dtype, contiguous(self.room), *dx)
        return scratch, Blanks(plan.dtype, *da), heads

    def _scratch(self) -> list[_Scratch]:
        """Return what is needed of sums over rows, of zeros, and of rows that only a walk needs."""
        plan, walk, count = self.plan, self.walk, SUM_ROWS * self.share.threads
        sizes = {"db": count * self.width}
        sizes |= {f"dvector.{v}": count * plan.units for v in plan.cell.vectors}
        shared = {"a", "da", "da.start", "dy", "dx", "x", *self.expressions, *sizes}
        shared |= {name for end in plan.ends for name in (*end, f"d{end[0]}")}
        shared |= {f"vector.{v}" for v in plan.cell.vectors}
        rows = self.layout.batch * plan.units
        sizes |= {name: rows for name in walk.names if name not in shared}
        found = [_Scratch(name, d, n) for d in self.directions for name, n in sizes.items()]
        zeros = self.layout.batch * len(self.directions)
        states = plan.cell.states
        return [*found, *(_Scratch(f"zeros.{s}", 0, zeros * plan.width(s)) for s in states)]

    def _places(self, scratch: list[_Scratch]) -> Places:
        """Say for each name which of the addresses of a call it is at, and how far from there."""
        plan, P = self.plan, self.plan.outputs
        first, *others = plan.cell.states
        # elements of one direction's states
        sizes = {state: self.layout.batch * plan.width(state) for state in plan.cell.states}
        # what directions share, and how far apart their parts lie
        jumps = dict.fromkeys((*CONSTANTS, "scratch"), 0) | {"dy": P, first: P}
        jumps |= {f"d{state}": size for state, size in sizes.items()} | {"x": 0}
        starts = {start: sizes[state] for state, start, _ in plan.ends} if self.given else {}
        names: list[list[tuple[str, int, int]]] = [
            [(name, d, d * jump) for d in self.directions] for name, jump in jumps.items()
        ]
        parameters = [f"{kind}.{name}" for kind, name in plan.parameters]
        names += self._own(parameters)
        names += [[(s, d, d * jump) for d in self.directions] for s, jump in starts.items()]
        names += [*self._own(["a", *others, *self.expressions]), *self._own(["da"])]
        if self.inputs:
            shares = [[d] for d in self.directions] if self.inputs > 1 else [self.directions]
            names += [[("dx", d, 0) for d in share] for share in shares]
        names += self._own([f"grad.{name}" for name in parameters])
        places = {(name, d): (k, on) for k, owners in enumerate(names) for name, d, on in owners}
        number, offset = places["scratch", 0]
        for one in scratch:
            places[one.name, one.direction] = (number, offset)
            offset += one.size
        stand_ins = {"dx": "null", "da.start": "zeros"}
        stand_ins |= {start: "zeros" for _, start, _ in plan.ends}
        for d in self.directions:
            for name, stand_in in stand_ins.items():
                places.setdefault((name, d), places[stand_in, d])
        return places

    def _own(self, names: Sequence[str]) -> list[list[tuple[str, int, int]]]:
        """Return what each direction has for itself."""
        return [[(name, d, 0)] for d in self.directions for name in names]

    def _structs(self, dy: Tensor | None) -> list["array[int]"]:
        """Return the structs of calls whose output's cotangent has these strides."""
        strides = None if dy is None else dy.stride()
        found = self.structs.get(strides)
        if found is None:
            found = [self._struct(d, strides) for d in self.directions]
            if len(self.structs) < _MOST_STRUCTS:
                self.structs[strides] = found
        return found

    def _struct(self, d: int, strides: tuple[int, ...] | None) -> "array[int]":
        plan, walk, rows, H = self.plan, self.walk, self.rows, self.plan.units
        found: dict[str, Distances] = dict.fromkeys(walk.names, (0, H))
        found |= dict.fromkeys(("a", "da"), rows.distances(self.width))
        found |= {"dx": rows.distances(H), "x": rows.distances(plan.inputs)}
        places = self.places
        if strides is None:
            places, found["dy"] = places | {("dy", d): places["zeros", d]}, (0, 0)
        else:
            found["dy"] = strides[0], strides[-2]
        found |= {"da.start": (0, 0), "db": (0, SUM_ROWS * self.width)}
        found |= {f"dvector.{v}": (0, SUM_ROWS * H) for v in plan.cell.vectors}
        for state, start, _ in plan.ends:
            found[state] = rows.distances(H)
            found[f"d{state}"] = (0, plan.width(state))
            found[start] = found[f"d{state}"] if self.given else (0, 0)
        found[plan.cell.states[0]] = rows.distances(len(self.directions) * plan.outputs)
        widths, threads = plan.matrix_widths(walk.matrices), self.share.threads
        return walk.struct(self.layout, d == 0, threads, places, d, found, widths, ahead=False)

    def __call__(
        self,
        tensors: Sequence[Tensor],
        out: Tensor,
        kept: Sequence[Tensor],
        cotangents: Sequence[Tensor | None],
        last: bool,
        rows: Rows,
    ) -> list[Tensor | None]:
        """Return the gradients of x, the parameters and, if they were given, the initial states.

        Args:
            tensors: x (L, N, H_in) or packed (rows, H_in), the parameters of each direction, the
                initial states (D, N, H_out) if given. They and what follows have no gaps; x and the
                output lie in the order of the rows.
            out: the forward call's output.
            kept: what it kept of each direction: the accumulators, all states but the first, the
                projected expressions.
            cotangents: of the output and of the final states; None is 0.
            last: whether ``kept`` is not needed again, so that its memory may be written over.
            rows: the call's rows.
        """
        constants, (dy, *dfinals) = self.plan.constants, cotangents
        structs = self.structs.get(None if dy is None else dy.stride())
        if structs is None:
            if dy is not None and dy.stride(-1) != 1:
                dy = dy.contiguous()
            structs = self._structs(dy)
        new_scratch, new_da, heads = self.by_lengths(rows) if self.packed else self.blanks
        scratch, *dxs = new_scratch()
        scratch.zero_()
        das = kept[:: self.each] if last and self.one_round else new_da()
        dstates = dfinals
        if self.given or [g for g in dfinals if g is not None]:  # any() would take longer
            dstates = [*map(self._state_cotangent, dfinals, self.new_states)]
        at = scratch.data_ptr()
        addresses = [*constants, at, 0 if dy is None else dy.data_ptr(), out.data_ptr()]
        pairs = zip(dstates, self.zeros)  # noqa: B905  # lengths are equal
        addresses += [at + on if t is None else t.data_ptr() for t, on in pairs]
        addresses += map(_address, (*tensors, *kept, *das, *dxs))
        table = array("q", addresses)
        if addresses.count(0) > 1 + (dy is None):
            check_memory((*tensors, out, *kept, *([] if dy is None else [dy])))
        self._walk(structs, table, heads)
        gradients = self.new_gradients()
        table.extend(map(_address, gradients))
        self.products.run(table, rows)
        dx = dxs[0] if self.want_x else None
        if dx is not None and self.inputs > 1:
            dx.add_(dxs[1])
        return [dx, *gradients, *(dstates if self.given else ())]

    def _walk(
        self,
        structs: Sequence["array[int]"],
        table: "array[int]",
        heads: Sequence["array[int]"],
    ) -> None:
        """Go through the steps; memory for the packed weights is held no longer than that."""
        walk, raw_walk = self.walk, self.raw_walk
        if raw_walk:
            raw_walk = start_lines(self.plan, table[self.first :], len(self.directions))
        packed = self.shelf.take(self.hidden) if self.packs else None
        for d, template in enumerate(structs):
            struct = template[:]
            if heads:
                struct[:LAYOUT] = heads[d]
            struct[ADDRESSES], _ = table.buffer_info()
            struct[RAW] = raw_walk
            if packed is not None:
                struct[PACKED] = packed.address
                struct[SPLIT] = packed.address + self.split if self.amx else 0
            walk.run(struct, self.share)
        if packed is not None:
            self.shelf.put_back(packed)

    def _state_cotangent(self, g: Tensor | None, new: Blanks) -> Tensor | None:
        """Return the cotangent of a final state, for the walk to turn into that of the initial one.

        None stands for zeros that nobody asks for again: they are in the scratch memory.
        """
        if g is not None:
            check_memory((g,))
            return g.clone(memory_format=contiguous_format)
        return new()[0].zero_() if self.given else None


def backward_call(
    plan: Plan, rows: Rows, directions: int, given: bool, want_x: bool
) -> BackwardCall:
    """Return the prepared call."""
    key = (*shared_kind(plan, rows, "backward"), directions, given, want_x)
    return prepared(plan, key, lambda: BackwardCall(plan, rows, directions, given, want_x))
