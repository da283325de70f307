"""How a call runs: over how many threads, with or without AMX, from which weights.

Every number here was measured; ``docs/kernels.md`` says what for.
"""

from collections.abc import Sequence
from math import ceil, inf
from typing import Literal, NamedTuple

from cellwright.cpu.amx.unit import AMX_ROWS, ROW_PLANES
from cellwright.cpu.call.plan import Plan
from cellwright.cpu.call.team import Team, team
from cellwright.cpu.call.walks import Layout, Share
from cellwright.cpu.machine.target import LINE, host, own_cache, shared_cache
from cellwright.cpu.vector.dot import held_vectors

__all__ = [
    "ForwardWay",
    "Way",
    "forward_way",
    "may_project_by_amx",
    "reads_far",
    "share_of",
    "takes_amx",
    "takes_pairs",
    "walks_raw",
]

Way = Literal["forward", "backward"]
"""Which walk."""
_PROJECTED_BATCH = 2
"""Up to so many rows at a step, the input is projected ahead of the walk."""
_OWN_CACHE = 1 << 20
"""Bytes of weights that a core's own cache does not hold from step to step: all of them where the
rows fill no tile, the input's alone where they do."""
_SOME_ROWS = 16
"""Up to so many rows, the input may be projected ahead for the sake of such weights."""
_PROJECTED_WEIGHTS = 1 << 24
"""Bytes of weights from which it is with any number of rows, if they also take half of the cache
that cores share: a step then finds none of them there."""
_TEAM_WORK, _READING = 500_000, 5
"""Multiply-adds from which a call is shared out over the team. Reading a weight in a step takes as
long as so many of them."""
_FEW_ROWS, _FEW_STEPS = 8, 4
"""Up to so many rows or steps, threads may share the units of a step instead of its rows."""
_MANY_WEIGHTS = 1 << 18
"""Bytes of weights from which a step takes longer than waiting for the other threads."""
_UNITS_FROM = 6 << 20
"""Bytes of weights from which they do so with any number of rows: no thread's cache holds them."""
_PROJECTED_BYTES = 1 << 26
"""The product of the whole input with its weights is stored only up to this size."""
_RAW_ROWS, _RAW_PASSES = 3, ((1 << 18, 2), (1 << 20, 4), (1 << 22, 8), (1 << 62, 6))
"""Calls of up to so many rows over all steps read the weights as they lie: packing would cost more.
So do calls that go through weights of up to so many bytes up to so many times, over all steps and
groups of rows: the less of them a core's own caches hold, the more packing costs."""
_ALIGNED_PASSES = ((1 << 18, 5), (1 << 20, 7), (1 << 22, 11), (1 << 62, 6))
"""The same number of times where each row of weights has whole cache lines."""
_RAW_INPUTS = 4
"""Out of a cache that cores share, the input's weights are read no longer than packing takes, which
would let them be multiplied ahead: as long as reading all weights so many times."""
_RAW_BEFORE_AMX = 2
"""The same of all weights where AMX multiplies the input ahead, which packs none of its weights."""
_SINGLE_STEPS, _SINGLE_PASSES = 2, 8
"""Up to so many steps the input is not multiplied ahead, so large weights are read up to so many
times as they lie."""
_WIDE_INPUT, _MORE_INPUT, _NARROW = 64, 10, 3 / 4
"""Elements of the input, and times the units, from which units that fill at most that part of a
vector are taken by dots, over depths: a tile would multiply empty lanes at each of them."""
_RAW_FROM = 1 << 17
"""Bytes of weights from which packing them takes as long as several steps of few rows."""
_RAW_STEPS, _RAW_SHORT, _RAW_ROW = 192, 48, 1 << 10
"""Up to so many steps packing costs more than it gains with one row where rows of weights are whole
pieces of so many bytes, and however many where registers hold such a piece and the core's own cache
all weights; else, or with several rows of so many bytes at least, up to the smaller number."""
_UNALIGNED_STEPS, _UNALIGNED_FAR_STEPS, _UNALIGNED_PASSES = 10, 20, 5
"""The same where rows of weights have no whole cache lines, from ``_OWN_CACHE`` bytes on and of as
many rows as a dot takes; more where a core's own cache does not hold the weights. And up to how
many times such a call reads the input's weights so too."""
_FAR_WEIGHTS = 6 << 20
"""Bytes of weights from which calls of few steps read them in one stream: fewer may still be in a
cache since the last call."""
_PAIRS = ((1 << 22, 4, 2), (1 << 62, 20, 5))
"""Bytes of weights in float32 up to which that many rows over all steps, and passes of dots through
the weights, are enough for packing pairs to take less time than dots do."""
_ALONE = Share(1, by_units=False)


class ForwardWay(NamedTuple):
    """How a forward call takes its products.

    Attributes:
        raw: whether all weights are read as they lie.
        amx: whether AMX takes those of the steps.
        ahead: whether those with the input are taken ahead of the walk.
        amx_ahead: whether AMX takes these.
        raw_walk: whether all other weights are read as they lie.
    """

    raw: bool
    amx: bool
    ahead: bool
    amx_ahead: bool
    raw_walk: bool


def forward_way(plan: Plan, layout: Layout) -> ForwardWay:
    """Return how a forward call takes its products."""
    ahead = _projects_first(plan, layout)
    raw_walk = ahead and walks_raw(plan, layout, "forward")
    if _reads_raw(plan, layout, raw_walk):
        return ForwardWay(raw=True, amx=False, ahead=False, amx_ahead=False, raw_walk=False)
    return ForwardWay(
        raw=False,
        amx=takes_amx(plan, layout, "forward"),
        ahead=ahead,
        amx_ahead=ahead and _projects_by_amx(plan, layout),
        raw_walk=raw_walk,
    )


def share_of(plan: Plan, layout: Layout) -> Share:
    """Return how a call is shared out.

    Rows are independent, so sharing them costs nothing. Where a step waits for its weights, since
    its rows are few or no cache holds them, or where packing them takes long for few steps, threads
    take a share of the units each, read that share of the weights alone, and wait for each other at
    every step.
    """
    threads = Team.threads()
    work = plan.work * max(layout.rows, _READING * layout.steps)
    if threads == 1 or layout.rows == 0 or work < _TEAM_WORK:
        return _ALONE
    blocks = plan.units // host().block(plan.dtype)
    weights = plan.work * plan.item
    few = layout.batch <= _FEW_ROWS or layout.steps <= _FEW_STEPS
    many = weights >= (_MANY_WEIGHTS if few else _UNITS_FROM)
    by_units = Share(min(threads, blocks), by_units=True)
    if blocks > 1 and (many or _fills_tiles(plan, layout, by_units)) and team(host()).at_once:
        return by_units
    return _ALONE if layout.batch == 1 else Share(min(threads, layout.batch), by_units=False)


def _fills_tiles(plan: Plan, layout: Layout, by_units: Share) -> bool:
    """Whether threads that share the units, evenly enough, give AMX the rows that it wants.

    It also wants the planes of weights in a core's own cache.
    """
    if not host().has_amx(plan.dtype):
        return False
    threads, block = by_units.threads, host().block(plan.dtype)
    largest = plan.units - plan.units // block * (threads - 1) // threads * block
    return (
        AMX_ROWS <= layout.batch < _AMX_WHOLE * threads
        and plan.amx_need["forward"].planes > own_cache() // 2
        and largest * threads <= _EVEN * plan.units
        and _amx_is_faster(plan, layout, "forward", by_units)
    )


_EVEN = 1.25
"""How many times its fair share of the units a thread may have."""
_AMX_WHOLE, _AMX_UNITS = 2 * AMX_ROWS, 32
"""Fewer rows or units leave most of a tile empty; so many rows read the weights once."""
_AMX_AHEAD, _AMX_AHEAD_FAR = 4_000_000, 1_500_000
"""Multiply-adds with the input, over all steps, from which AMX is faster ahead of a walk; fewer
where the walk reads ``_OWN_CACHE`` bytes of other weights, since AMX leaves it a faster clock."""
_AMX_DEEP = 96
"""Elements of the input from which it is with any number of rows."""
_AMX_LEAST_INPUTS, _AMX_INPUTS = 1 << 15, 1 << 17
"""Fewer weights of the input are not worth what has to be compiled. So many are multiplied faster,
whatever with: they would have to be packed."""
_VECTOR_RATE, _FAR_VECTOR_RATE, _AMX_RATE = 27, 24, 55
"""Multiply-adds a cycle of vectors, slower with far weights, and of AMX, over whole tiles. Its
slower clock is counted in."""
_SPLIT, _SLEEP = {"forward": 0.7, "backward": 1.0}, 100
"""Cycles that splitting a number into planes takes, longer where it was just written; and those of
waiting for the unit at each step."""
_PACK = 0.15
"""Cycles a byte that packing planes takes beyond what packing vectors does."""
_READ_RATES = ((1 / 64, inf), (0.5, 60), (1, 28), (1.25, 17))
"""Bytes of planes read a cycle, if so many times a core's own cache would hold them; else"""
_FAR_READ_RATE = 13


def takes_amx(plan: Plan, layout: Layout, way: Way) -> bool:
    """Whether AMX takes the products of a walk, forward or back.

    It does if a step takes fewer cycles so. What it takes has to be split into planes, their
    weights are larger than those of vectors, and it multiplies whole tiles.
    """
    if not host().has_amx(plan.dtype) or plan.units < _AMX_UNITS or not layout.steps:
        return False
    return _amx_is_faster(plan, layout, way, share_of(plan, layout))


def _amx_is_faster(plan: Plan, layout: Layout, way: Way, share: Share) -> bool:
    cache = own_cache()
    parts = share.threads if share.by_units else 1
    rows = layout.rows * parts / (layout.steps * share.threads)
    if rows < AMX_ROWS:
        return False
    need = plan.amx_need[way]
    whole = AMX_ROWS * ceil(rows / AMX_ROWS)
    fits = need.planes <= parts * cache * _READ_RATES[-1][0]
    if not fits and whole * need.depths * ROW_PLANES * 2 > cache / 4:
        return False  # each block of weights would find the rows' planes driven out
    rate = next((r for n, r in _READ_RATES if need.planes <= parts * cache * n), _FAR_READ_RATE)
    reads = ceil(rows / _AMX_WHOLE) / rate + _PACK / layout.steps
    cycles = whole * need.padded / _AMX_RATE + need.planes * reads
    cycles += parts * (whole * need.depths * _SPLIT[way] + _SLEEP)
    return cycles < rows * need.work / (_VECTOR_RATE if fits else _FAR_VECTOR_RATE)


def _projects_first(plan: Plan, layout: Layout) -> bool:
    """Whether the whole input is multiplied by its weights ahead of the walk.

    With few rows a step reads all weights for little work, and a large product of several steps at
    once, for one row after the other, reads the input's less often. Where it does not, or where
    a core's own cache holds the weights, the tiles do the same work without the detour over memory,
    unless AMX does it faster: by more than the detour takes, from so many depths on.
    """
    rows, tile, packed = layout.batch, host().rows, layout.counts is not None
    weights, inputs = plan.work * plan.item, plan.input_work * plan.item
    few = rows <= _PROJECTED_BATCH and not packed
    far = weights >= max(_PROJECTED_WEIGHTS, shared_cache() // 2)
    deep = plan.inputs >= _AMX_DEEP and _projects_by_amx(plan, layout)
    deep = deep and not share_of(plan, layout).by_units  # each thread would split the input again
    if layout.steps <= _SINGLE_STEPS or not (few or deep or weights >= _OWN_CACHE):
        return False
    if takes_amx(plan, layout, "forward") or (packed and _shares_rows(share_of(plan, layout))):
        return False  # packed rows are taken in their order in memory, not a thread's alone
    reads = -(-layout.rows // tile) if packed else rows * -(-layout.steps // tile)
    less = reads < layout.steps * -(-rows // tile)
    large = rows < tile or inputs > _OWN_CACHE
    worth = few or far or deep or (rows <= _SOME_ROWS and less and large)
    return worth and 0 < layout.rows * plan.products_first <= _PROJECTED_BYTES


def may_project_by_amx(plan: Plan) -> bool:
    """Whether AMX takes them in any call of the layer."""
    large = plan.units >= _AMX_UNITS and plan.input_work >= _AMX_LEAST_INPUTS
    return large and host().has_amx(plan.dtype)


def _projects_by_amx(plan: Plan, layout: Layout) -> bool:
    """Whether AMX takes the products with the input that are multiplied ahead of the walk."""
    if not may_project_by_amx(plan):
        return False
    far = (plan.work - plan.input_work) * plan.item >= _OWN_CACHE
    least = _AMX_AHEAD_FAR if far else _AMX_AHEAD
    if _shares_rows(share_of(plan, layout)):  # each may need the weights split for itself
        return plan.input_work * layout.steps >= least
    return plan.input_work >= _AMX_INPUTS or plan.input_work * layout.rows >= least


def _shares_rows(share: Share) -> bool:
    """Whether each thread has rows of its own."""
    return share.threads > 1 and not share.by_units


def _aligned(rows: Sequence[int]) -> bool:
    """Whether rows of so many bytes have whole cache lines."""
    return all(n % LINE == 0 for n in rows)


def _reads_raw(plan: Plan, layout: Layout, raw_walk: bool) -> bool:
    """Whether a call reads its weights as they lie.

    ``raw_walk``: whether it could read all but the input's so.
    """
    weights = plan.work * plan.item
    passes = _passes(layout)
    aligned = _aligned([*plan.state_rows, plan.inputs * plan.item])
    table = _ALIGNED_PASSES if aligned else _RAW_PASSES
    least, most = _RAW_ROWS, next(most for limit, most in table if weights < limit)
    if layout.steps <= _SINGLE_STEPS and weights >= _OWN_CACHE:
        most = max(most, _SINGLE_PASSES)
    elif weights > own_cache() and _projects_by_amx(plan, layout):
        least = most = min(most, _RAW_BEFORE_AMX)
    elif weights > own_cache():
        most = min(most, _RAW_INPUTS * plan.work // max(1, plan.input_work))
    if not aligned and raw_walk:
        most = min(most, _UNALIGNED_PASSES)
    return _is_narrow(plan) or layout.rows <= least or passes <= most


def _is_narrow(plan: Plan) -> bool:
    """Whether units fill so little of a vector, for a wide input, that dots take them."""
    wide = plan.inputs >= max(_WIDE_INPUT, _MORE_INPUT * plan.units)
    return wide and plan.units <= _NARROW * host().lanes(plan.dtype)


def takes_pairs(plan: Plan, layout: Layout, half: str) -> bool:
    """Whether a call in half precision multiplies its numbers in pairs, as they are stored.

    AMX takes those of float32, and dots, which read weights as they lie, widen them.
    """
    if half != host().pairs(plan.dtype) or plan.paired_program is None or not layout.rows:
        return False
    way = forward_way(plan, layout)
    if way.amx or way.amx_ahead:
        return False
    if not way.raw:
        return True
    weights = plan.work * plan.item
    rows, passes = next(least for limit, *least in _PAIRS if weights < limit)
    return not _is_narrow(plan) and layout.rows >= rows and _passes(layout) >= passes


def _passes(layout: Layout) -> int:
    """Return how often dots go through all weights."""
    return layout.steps * -(-layout.batch // host().dot_rows)


def reads_far(plan: Plan, layout: Layout, way: ForwardWay) -> bool:
    """Whether weights are read as they lie from beyond a core's own cache, so far that one straight
    stream of them is faster than four.
    """
    if way.raw:
        return plan.work * plan.item >= _FAR_WEIGHTS
    return layout.batch == 1 and (plan.work - plan.input_work) * plan.item > own_cache()


def walks_raw(plan: Plan, layout: Layout, way: Way) -> bool:
    """Whether a walk reads all weights as they lie but for those of products ahead.

    That is if they start with cache lines. With few rows a step waits for a cache whichever way the
    weights lie. It waits a little longer if they are not packed; but packing takes as long as some
    steps. A walk back reads them line by line, which is slow out of a cache that cores share.
    """
    weights = (plan.work - plan.input_work) * plan.item
    if layout.batch == 0 or weights < _RAW_FROM:
        return False
    if not _aligned(plan.state_rows):
        few = layout.batch <= host().dot_rows and weights >= _OWN_CACHE
        most = _UNALIGNED_FAR_STEPS if weights > own_cache() else _UNALIGNED_STEPS
        return way == "forward" and few and layout.steps <= most
    if way == "backward":
        return layout.batch == 1 and weights <= own_cache() // 2
    if layout.batch == 1:
        return layout.steps <= _raw_steps(plan, weights)
    long = min(plan.state_rows) >= _RAW_ROW
    return long and layout.batch <= host().dot_rows and layout.steps <= _RAW_SHORT


def _raw_steps(plan: Plan, weights: int) -> float:
    """Return up to how many steps a walk of one row forward reads so many bytes as they lie."""
    if any(size % _RAW_ROW for size in plan.state_rows):
        return _RAW_SHORT
    held = held_vectors(host().registers)[0] * host().bits // 8
    return inf if held >= _RAW_ROW and weights <= own_cache() else _RAW_STEPS
