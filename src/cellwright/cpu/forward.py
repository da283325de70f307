"""A layer's forward call, in one or two directions, over tensors without gaps.

Most of what a call of a small model costs is Python. A call of a given (L, N) differs from the last
one in addresses alone, so its structs are prepared once, and only addresses are filled in. Packed
sequences of a given N differ in their lengths too.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

from torch import Tensor

from cellwright.cpu.choice import Way, forward_way, share_of, takes_amx, walks_raw
from cellwright.cpu.frame import INPUT_PLANES, LAYOUT, PACKED, RAW, SPLIT, TURN
from cellwright.cpu.memory import Blanks, Strided, contiguous, lacks_memory
from cellwright.cpu.plan import Plan, Rows
from cellwright.cpu.target import LINE
from cellwright.cpu.team import Team
from cellwright.cpu.walks import Field, Layout, Walk

__all__ = [
    "ForwardCall",
    "check_memory",
    "forward_call",
    "matrix_fields",
    "no_gaps",
    "remember",
    "shared_kind",
    "start_lines",
]

_MOST_PREPARED = 1024
"""How many calls a plan remembers; the oldest one goes."""


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

    ``addresses``: of x, then of the parameters of each direction.
    """
    each, states = len(plan.parameters), plan.state_weights
    numbers = (1 + d * each + k for d in range(directions) for k in states)
    return all(addresses[number] % LINE == 0 for number in numbers)


def matrix_fields(plan: Plan, walk: Walk) -> dict[str, Field]:
    """Return the distances of contiguous weights, without addresses."""
    return {b: (0, plan.width(b), 1) for b in walk.matrices}


class _Made(NamedTuple):
    """What a call makes: its form, the buffer's name, and of which direction; 0 too for all."""

    form: Strided
    name: str
    direction: int = 0


class _Given(NamedTuple):
    """A direction's struct without addresses, and how to fill them in.

    Attributes:
        struct: the struct.
        arrange: puts addresses into the struct's order: those of a call, then ``fixed``.
        fixed: addresses that are the same in each call.
    """

    struct: "array[int]"
    arrange: Callable[[list[int]], tuple[int, ...]]
    fixed: list[int]


class ForwardCall:
    """A forward call whose structs lack nothing but addresses.

    Args:
        plan: the layer. rows: its rows; those of a packed call may differ in their lengths.
        directions: D.
        keep: whether what the backward pass needs is kept.
    """

    def __init__(self, plan: Plan, rows: Rows, directions: int, keep: bool) -> None:
        layout = self.layout = rows.layout  # the structs have the address of its bounds
        self.plan, self.rows, self.walk = plan, rows, plan.forward_walk
        self.packed = layout.counts is not None
        self.directions = range(directions)
        self.width = plan.accumulators
        self.keep, self.share, way = keep, share_of(plan, layout), forward_way(plan, layout, keep)
        self.raw, self.amx, self.ahead, self.amx_ahead, self.raw_walk = way
        made = self._made(rows)
        kept = directions * (len(plan.ends) + len(plan.step.expressions)) if keep else 0
        self.kept = slice(1 + len(plan.ends), 1 + len(plan.ends) + kept)
        self.blanks = self._blanks(made)
        self.hidden, self.room, self.each_row = self._hidden()
        self.end = self.walk.places.end
        self.ways = [self._ways(made, stated) for stated in (False, True)]
        # of weights that lie: the last call left those in the caches that it read last
        self.turn = 0
        self._latest: tuple[Layout, Blanks, list[array[int]]] | None = None

    def _blanks(self, made: list[_Made]) -> Blanks:
        """Return what makes them; the kept ones come last."""
        kept = self.kept.stop - self.kept.start
        return Blanks(self.plan.dtype, *(one.form for one in made), kept=kept)

    def _of(self, rows: Rows) -> tuple[Blanks, list["array[int]"]]:
        """Return what depends on the lengths of packed sequences; those of the last call stay.

        That is what makes tensors, and the first fields of each direction's struct.
        """
        layout, latest = rows.layout, self._latest
        if latest is not None and latest[0] is layout:
            return latest[1:]
        threads = self.share.threads
        heads = [array("q", layout.fields(d == 1, threads)) for d in self.directions]
        blanks = self._blanks(self._made(rows))
        self._latest = layout, blanks, heads
        return blanks, heads

    def _made(self, rows: Rows) -> list[_Made]:
        """Return what is made anew on each call.

        The output, the final states; what is kept of each direction: the accumulators, then the
        states of all steps but the first, the projected expressions.
        """
        plan, D = self.plan, len(self.directions)
        N, count = rows.layout.batch, rows.layout.rows
        made = [_Made(rows.form(D * plan.outputs), plan.ends[0][0])]
        made += [_Made(contiguous(D, N, plan.width(state)), end) for state, _, end in plan.ends]
        each = [*plan.cell.states[1:], *(f"e{j}" for j in range(len(plan.step.expressions)))]
        for d in self.directions if self.keep else ():
            made.append(_Made(contiguous(count, self.width), "a", d))
            made += [_Made(contiguous(count, plan.units), name, d) for name in each]
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
            sizes["input planes"] = self.walk.projection_room(self.share)
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

    def _ways(self, made: list[_Made], stated: bool) -> tuple[list[_Given], list[tuple[int, int]]]:
        """Return what each direction is given, and the addresses that follow from others.

        The addresses of a call are those of x, the parameters, the initial states if ``stated``,
        what is made, the hidden memory; then those that lie so many bytes behind one of them.
        """
        plan, places = self.plan, self.walk.places
        at = places.buffers | {"packed": PACKED, "split": SPLIT, "input planes": INPUT_PLANES}
        own = [
            places.matrices[name] if kind == "weight" else at[f"{kind}.{name}"]
            for kind, name in plan.parameters
        ]
        starts = [at[start] for _, start, _ in plan.ends] if stated else []
        known = [(0, at["x"]), *((d, place) for d in self.directions for place in own)]
        known += [(0, start) for start in starts]
        known += [(one.direction, at[one.name]) for one in made]
        block = len(known)  # the hidden memory
        number = {place: k for k, place in enumerate(known)}
        behind: list[tuple[int, int]] = []
        for name, offset in self.hidden.items():
            behind.append((block, offset * plan.item))
            number[0, at[name]] = block + len(behind)
        jumps = {at[plan.ends[0][0]]: plan.outputs}
        for state, start, end in plan.ends:
            width = self.layout.batch * plan.width(state)  # elements of one direction's
            jumps |= {at[end]: width, **({at[start]: width} if stated else {})}
        for d in self.directions[1:]:
            for place, jump in jumps.items():
                behind.append((number[0, place], d * jump * plan.item))
                number[d, place] = block + len(behind)
            for place in (at["x"], *(at[name] for name in self.hidden)):
                number.setdefault((d, place), number[0, place])
        for d in self.directions:
            if self.ahead:
                number[d, at["gx"]] = number[d, at["a"]]
            elif "b" in self.hidden:
                number[d, at["gx"]] = number[d, at["b"]]
            for carried, _, final in plan.ends[1:]:  # carried along in place, where not kept
                number.setdefault((d, at[carried]), number[d, at[final]])
        total = block + 1 + len(behind)
        return [self._given(number, total, d, stated) for d in self.directions], behind

    def _given(
        self, number: dict[tuple[int, int], int], total: int, d: int, stated: bool
    ) -> _Given:
        """Say how a direction's struct is filled from ``total`` addresses and the fixed ones."""
        struct, places = self._struct(d, stated), range(PACKED, self.end)
        order = [number.get((d, place), total + place - PACKED) for place in places]
        return _Given(struct, itemgetter(*order), list(struct[PACKED : self.end]))

    def _struct(self, d: int, stated: bool) -> "array[int]":
        plan, walk, rows = self.plan, self.walk, self.rows
        accumulators = (0, *rows.distances(self.width))
        each = (0, *rows.distances(plan.units))  # of what is kept for each step
        fields: dict[str, Field] = dict.fromkeys(walk.names, (0, 0, plan.units))
        fields["x"] = (0, *rows.distances(plan.inputs))
        fields["a"] = (0, 0, self.width) if "a" in self.hidden else (plan.dump.data_ptr(), 0, 0)
        # where weights are read as they lie, tiles start from the biases: not to be added again
        fields["gx"] = fields["b"] = plan.zero_row
        if self.ahead and not self.keep:
            accumulators = (0, *rows.distances(self.each_row))
        if self.keep or self.ahead:
            fields["a"] = accumulators
        if self.ahead:
            fields["gx"] = accumulators
        fields |= {f"e{j}": each for j in range(len(plan.step.expressions)) if self.keep}
        for state, start, final in plan.ends:
            fields[final] = (0, 0, plan.width(state))
            fields[start] = fields[final] if stated else plan.zero_row
            if self.keep:
                fields[state] = each
            elif state in plan.streamed:
                fields[state] = (0, *rows.distances(self.each_row))
        width = len(self.directions) * plan.outputs
        fields[plan.cell.states[0]] = (0, *rows.distances(width))
        matrices, packed = matrix_fields(plan, walk), int(not self.raw)
        threads = self.share.threads
        return walk.struct(self.layout, d == 1, threads, fields, matrices, packed, self.ahead)

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
        layout, blanks = rows.layout, self.blanks
        heads: list[array[int]] = []
        if self.packed:
            blanks, heads = self._of(rows)
        made = blanks()
        ways, behind = self.ways[stated]
        addresses = [*map(_address, given), *map(_address, made)]
        if 0 in addresses:
            check_memory(given)
        room = self.room + self.each_row * layout.rows
        hidden = self.walk.spares.take(room) if room else None
        addresses.append(0 if hidden is None else hidden.data_ptr())
        raw_walk = self.raw_walk and start_lines(self.plan, addresses, len(self.directions))
        lies = self.raw or raw_walk
        turn = self.turn if lies else 1  # what was packed last is in the caches
        for number, offset in behind:
            addresses.append(addresses[number] + offset)
        for d, (form, arrange, fixed) in enumerate(ways):
            struct = form[:]
            if self.packed:
                struct[:LAYOUT] = heads[d]
            struct[PACKED : self.end] = array("q", arrange(addresses + fixed))
            struct[RAW] = raw_walk
            struct[TURN] = turn
            self.walk.run(struct, self.share)
        if hidden is not None:
            self.walk.spares.put_back(hidden, large=not self.keep)
        if lies:
            self.turn = (self.turn + layout.steps) % 2
        return made[0], tuple(made[1 : self.kept.start]), made[self.kept]


def remember(plan: Plan, key: tuple[object, ...], prepared: object) -> None:
    """Keep a prepared call for the next one like it."""
    if len(plan.prepared) >= _MOST_PREPARED:
        plan.prepared.pop(next(iter(plan.prepared.copy())), None)
    plan.prepared[key] = prepared


def shared_kind(plan: Plan, rows: Rows, way: Way) -> tuple[object, ...]:
    """Return what calls forward or back have in common that may share what is prepared."""
    layout = rows.layout
    if layout.counts is not None:
        share = share_of(plan, layout)
        if way == "forward":  # whether all is kept is told apart by the caller
            return ("packed", layout.batch, share, *forward_way(plan, layout, keep=False))
        ways = takes_amx(plan, layout, way), walks_raw(plan, layout, way)
        return ("packed", layout.batch, share, layout.steps > 1, *ways)
    return (layout.steps, layout.batch, rows.batch_first, Team.threads())


def forward_call(plan: Plan, rows: Rows, directions: int, keep: bool) -> ForwardCall:
    """Return the prepared call."""
    key = (*shared_kind(plan, rows, "forward"), directions, keep)
    found: ForwardCall | None = plan.prepared.get(key)
    if found is None:
        found = ForwardCall(plan, rows, directions, keep)
        remember(plan, key, found)
    return found
