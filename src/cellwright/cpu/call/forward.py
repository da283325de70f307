"""A layer's forward call, in one or two directions, over tensors without gaps.

Most of what a call of a small model costs is Python. A call of a given (L, N) differs from the last
one in addresses alone, so its structs are prepared once, and each makes but a table of addresses.
Packed sequences of a given N differ in their lengths too.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

from torch import Tensor

from cellwright.cpu.call.choice import (
    ForwardWay,
    Way,
    forward_way,
    may_project_by_amx,
    reads_far,
    share_of,
    takes_amx,
    walks_raw,
)
from cellwright.cpu.call.plan import CONSTANTS, ByLengths, Plan, Rows
from cellwright.cpu.call.team import Team
from cellwright.cpu.call.walks import Distances, Layout, Places, Walk
from cellwright.cpu.machine.memory import Blanks, Shelf, Strided, contiguous, lacks_memory
from cellwright.cpu.machine.target import LINE
from cellwright.cpu.walk.frame import ADDRESSES, INPUT_PLANES, LAYOUT, PACKED, RAW, SPLIT, TURN

__all__ = [
    "ForwardCall",
    "Made",
    "check_memory",
    "forward_call",
    "no_gaps",
    "prepared",
    "shared_kind",
    "start_lines",
]

_MOST_PREPARED = 1024
"""How many calls a plan remembers; the oldest one goes."""
_ROOMS = {"packed": PACKED, "split": SPLIT, "input planes": INPUT_PLANES}
"""The fields of what lies in the hidden memory but is no buffer of the walk."""
T = TypeVar("T")
_address = Tensor.data_ptr
_has_no_gaps = Tensor.is_contiguous


def no_gaps(tensors: Iterable[Tensor]) -> bool:
    """Whether all are contiguous, as a prepared call takes them."""
    return all(map(_has_no_gaps, tensors))


def check_memory(tensors: Iterable[Tensor]) -> None:
    """Refuse tensors that have elements but nowhere to read them.

    Raises:
        RuntimeError: there is one.
    """
    for t in tensors:
        if lacks_memory(t):
            raise RuntimeError(
                f"expected tensors with memory, got one of shape {tuple(t.shape)} whose storage "
                "was freed (resize_(0)); fill it again before the layer runs"
            )


def start_lines(plan: Plan, addresses: Sequence[int], directions: int) -> bool:
    """Whether all weights but the input's start with a cache line.

    ``addresses``: of the parameters of each direction.
    """
    each, states = len(plan.parameters), plan.state_weights
    numbers = (d * each + k for d in range(directions) for k in states)
    return all(addresses[number] % LINE == 0 for number in numbers)


class Made(NamedTuple):
    """What a call makes: its form, the buffer's name, and of which direction; 0 too for all."""

    form: Strided
    name: str
    direction: int = 0


class ForwardCall:
    """A forward call that lacks nothing but the table of addresses.

    Args:
        plan: the layer. rows: its rows; those of a packed call may differ in their lengths.
        directions: D.
        keep: whether what the backward pass needs is kept.
        half: what weights are stored as, if not as the kernels' numbers.
    """

    def __init__(self, plan: Plan, rows: Rows, directions: int, keep: bool, half: str = "") -> None:
        layout = self.layout = rows.layout  # the structs have the address of its bounds
        self.plan, self.rows = plan, rows
        self.packed = layout.counts is not None
        self.directions = range(directions)
        self.width = plan.accumulators
        self.keep, self.share = keep, share_of(plan, layout)
        self.walk, way, self.far = self._ways(layout)
        self.raw, self.amx, self.ahead, self.amx_ahead, self.raw_walk = way
        # early, so that nothing is left to compile for other lengths
        if may_project_by_amx(plan):
            self.walk.need_projection()
        self.half = half
        made = self._made(rows)
        kept = directions * (len(plan.ends) + len(plan.step.expressions)) if keep else 0
        self.kept = slice(1 + len(plan.ends), 1 + len(plan.ends) + kept)
        self.blanks_of, self.heads_of = ByLengths(self._blanks), ByLengths(self._heads)
        self.blanks = self.blanks_of(rows)
        self.hidden, self.room, self.each_row = self._hidden()
        self.whole = self.room_of(rows)
        self.shelf = self._shelf(self.whole)
        self.structs = [self._structs(made, stated) for stated in (False, True)]
        self.rooms = [
            (field, self.hidden[name] * plan.item)
            for name, field in _ROOMS.items()
            if name in self.hidden
        ]
        # of weights that lie: the last call left those in the caches that it read last
        self.turn = 0

    def _ways(self, layout: Layout) -> tuple[Walk, ForwardWay, bool]:
        """Return the walk, how it takes products, whether it reads weights from far away."""
        way = forward_way(self.plan, layout)
        return self.plan.forward_walk, way, reads_far(self.plan, layout, way)

    def _shelf(self, room: int) -> Shelf:
        return self.walk.spares.shelf(room, large=not self.keep)

    def _blanks(self, rows: Rows) -> Blanks:
        """Return what makes tensors, the kept ones last."""
        forms = (one.form for one in self._made(rows))
        return Blanks(self.plan.dtype, *forms, kept=self.kept.stop - self.kept.start)

    def _heads(self, rows: Rows) -> list["array[int]"]:
        """Return each struct's first fields."""
        threads = self.share.threads
        return [array("q", rows.layout.fields(d == 1, threads)) for d in self.directions]

    def _made(self, rows: Rows) -> list[Made]:
        """Return what is made anew on each call.

        The output, the final states; what is kept of each direction: the accumulators, then the
        states of all steps but the first, the projected expressions.
        """
        plan, D = self.plan, len(self.directions)
        N, count = rows.layout.batch, rows.layout.rows
        made = [Made(rows.form(D * plan.outputs), plan.ends[0][0])]
        made += [Made(contiguous(D, N, plan.width(state)), end) for state, _, end in plan.ends]
        each = [*plan.cell.states[1:], *(f"e{j}" for j in range(len(plan.step.expressions)))]
        for d in self.directions if self.keep else ():
            made.append(Made(contiguous(count, self.width), "a", d))
            made += [Made(contiguous(count, plan.units), name, d) for name in each]
        return made

    def _hidden(self) -> tuple[dict[str, int], int, int]:
        """Return where what only the walks see starts in a block, and how long the block is.

        What each row of the sequence has comes last, side by side. So many elements are returned
        too: the block is longer by them for each row.
        """
        plan, step, N = self.plan, self.plan.step, self.layout.batch
        weights, rows = self.walk.room(N, self.share, amx=self.amx)
        sizes = {} if self.raw else {"packed": weights}
        if self.amx:
            sizes["split"] = rows
        if self.amx_ahead:
            sizes["input planes"] = self.walk.projection_room(self.layout, self.share)
        if not self.raw and self.walk.program.constants:
            sizes["b"] = self.width
        if not self.keep:
            if step.rounds > 1 and not self.ahead:
                sizes["a"] = N * self.width
            sizes |= {f"e{j}": N * plan.units for j in range(len(step.expressions))}
        ends = [*accumulate(sizes.values(), initial=0)]
        starts = dict(zip(sizes, ends, strict=False))
        each: dict[str, int] = {}
        if not self.keep:
            each = {"a": self.width} if self.ahead else {}
            each |= dict.fromkeys(plan.streamed, plan.units)
        within = [*accumulate(each.values(), initial=ends[-1])]
        starts |= dict(zip(each, within, strict=False))
        return starts, ends[-1], within[-1] - ends[-1]

    def _places(self, made: list[Made], stated: bool) -> Places:
        """Say for each name which of the addresses of a call it is at, and how far from there.

        They are those that ``_addresses`` names, then the hidden memory.
        """
        hidden = [(name, d, on) for name, on in self.hidden.items() for d in self.directions]
        names = enumerate([*self._addresses(made, stated), hidden])
        return {(name, d): (k, on) for k, owners in names for name, d, on in owners}

    def _addresses(self, made: list[Made], stated: bool) -> list[list[tuple[str, int, int]]]:
        """Return for each address the names that it is of, each's direction and how far from there.

        They are the plan's constants, then those of x, the parameters, the initial states if
        ``stated``, what is made.
        """
        plan, states, D = self.plan, slice(self.kept.start), self.directions
        jumps = {plan.ends[0][0]: plan.outputs}
        for state, *ends in plan.ends:
            jumps |= dict.fromkeys(ends, self.layout.batch * plan.width(state))
        shared = [start for _, start, _ in plan.ends] if stated else []
        shared += [one.name for one in made[states]]
        return [
            *([(name, d, 0) for d in D] for name in (*CONSTANTS, "x")),
            *([(f"{kind}.{name}", d, 0)] for d in D for kind, name in plan.parameters),
            *([(name, d, d * jumps[name]) for d in D] for name in shared),
            *([(one.name, one.direction, 0)] for one in made[self.kept]),
        ]

    def _structs(self, made: list[Made], stated: bool) -> list["array[int]"]:
        """Return each direction's struct, without what differs from call to call."""
        places, distances = self._places(made, stated), self._distances()
        return [self._struct(places, distances, d) for d in self.directions]

    def _struct(self, places: Places, distances: dict[str, Distances], d: int) -> "array[int]":
        """Return a direction's struct; give a place to what it has none of its own for."""
        plan, walk = self.plan, self.walk
        for name, stand_in in self._stand_ins().items():
            if (name, d) not in places:
                places[name, d], distances[name] = places[stand_in, d], (0, 0)
        for carried, _, final in plan.ends:  # carried along in place, where not kept
            places.setdefault((carried, d), places[final, d])
        # where weights are read as they lie, tiles start from the biases: not to be added again
        ahead = "a" if self.ahead else "b"
        places["gx", d], distances["gx"] = places[ahead, d], distances[ahead]
        widths = self._widths()
        threads = self.share.threads
        return walk.struct(
            self.layout,
            d == 1,
            threads,
            places,
            d,
            distances,
            widths,
            ahead=self.ahead,
            far=self.far,
            half=self.half,
        )

    def _stand_ins(self) -> dict[str, str]:
        """Say which constant stands in for what has no place of its own."""
        return {start: "zeros" for _, start, _ in self.plan.ends} | {"a": "dump", "b": "zeros"}

    def _widths(self) -> dict[str, int]:
        """Return the elements of a row of each matrix."""
        return self.plan.matrix_widths(self.walk.matrices)

    def _distances(self) -> dict[str, Distances]:
        """Return how far apart the rows of each buffer are."""
        plan, rows = self.plan, self.rows
        found: dict[str, Distances] = dict.fromkeys(self.walk.names, (0, plan.units))
        found |= {"x": rows.distances(plan.inputs), "a": (0, self.width), "b": (0, 0)}
        for state, *ends in plan.ends:
            found |= dict.fromkeys(ends, (0, plan.width(state)))
        if self.keep or self.ahead:
            found["a"] = rows.distances(self.width if self.keep else self.each_row)
        if self.keep:
            expressions = (f"e{j}" for j in range(len(plan.step.expressions)))
            each = rows.distances(plan.units)
            found |= dict.fromkeys((*plan.cell.states, *expressions), each)
        else:
            found |= dict.fromkeys(plan.streamed, rows.distances(self.each_row))
        found[plan.cell.states[0]] = rows.distances(len(self.directions) * plan.outputs)
        return found

    def __call__(
        self, given: Sequence[Tensor], stated: bool, rows: Rows
    ) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Return the output, the final states and what is kept.

        Args:
            given: x (L, N, H_in) or packed (rows, H_in), the parameters of each direction, and the
                initial states if ``stated``; all without gaps, and x in the order of the rows.
            stated: whether there are initial states.
            rows: the call's rows.
        """
        blanks = self.blanks_of(rows) if self.packed else self.blanks
        made = blanks()
        addresses = [*map(_address, given), *map(_address, made)]
        if 0 in addresses:
            check_memory(given)
        room, shelf = self.whole, self.shelf
        if self.packed:
            room = self.room_of(rows)
            shelf = self._shelf(room)
        hidden = shelf.take(room) if room else None
        self.run(addresses, stated, rows, 0 if hidden is None else hidden.address)
        if hidden is not None:
            shelf.put_back(hidden)
        return made[0], tuple(made[1 : self.kept.start]), made[self.kept]

    def room_of(self, rows: Rows) -> int:
        """Return the elements of the memory that only the walks see."""
        return self.room + self.each_row * rows.layout.rows

    def run(self, addresses: Sequence[int], stated: bool, rows: Rows, at: int) -> None:
        """Run the walks.

        Args:
            addresses: of what is given and what is made, in that order.
            stated: whether there are initial states among it.
            rows: the call's rows.
            at: the address of memory that only the walks see.
        """
        layout = rows.layout
        heads = self.heads_of(rows) if self.packed else []
        raw_walk = self.raw_walk and start_lines(self.plan, addresses[1:], len(self.directions))
        table = array("q", [*self.plan.constants, *addresses, at])
        lies = self.raw or raw_walk
        for d, template in enumerate(self.structs[stated]):
            struct = template[:]
            if self.packed:
                struct[:LAYOUT] = heads[d]
            for field, offset in self.rooms:
                struct[field] = at + offset
            struct[ADDRESSES], _ = table.buffer_info()
            struct[RAW] = raw_walk
            struct[TURN] = self.turn if lies else 1  # what was packed last is in the caches
            self.walk.run(struct, self.share)
        if lies:
            self.turn = (self.turn + layout.steps) % 2


def prepared(plan: Plan, key: tuple[object, ...], make: Callable[[], T]) -> T:
    """Return a plan's prepared call of a kind, which is made for the first one like it."""
    found: T | None = plan.prepared.get(key)
    if found is None:
        found = make()
        if len(plan.prepared) >= _MOST_PREPARED:
            plan.prepared.pop(next(iter(plan.prepared.copy())), None)
        plan.prepared[key] = found
    return found


def shared_kind(plan: Plan, rows: Rows, way: Way) -> tuple[object, ...]:
    """Return what calls forward or back have in common that may share what is prepared."""
    layout = rows.layout
    if layout.counts is not None:
        share = share_of(plan, layout)
        if way == "forward":  # whether all is kept is told apart by the caller
            return ("packed", layout.batch, share, *forward_way(plan, layout))
        ways = takes_amx(plan, layout, way), walks_raw(plan, layout, way)
        return ("packed", layout.batch, share, layout.steps > 1, *ways)
    return (layout.steps, layout.batch, rows.batch_first, Team.threads())


def forward_call(plan: Plan, rows: Rows, directions: int, keep: bool) -> ForwardCall:
    """Return the prepared call."""
    key = (*shared_kind(plan, rows, "forward"), directions, keep)
    return prepared(plan, key, lambda: ForwardCall(plan, rows, directions, keep))
