"""Products of the same A that AMX takes together: gradients of the input's and states' weights."""

import random

import pytest
import torch
from tests.cpu.agreement import compare, make
from tests.cpu.product_list import ProductList
from tests.tolerance import assert_close

from cellwright import cell, sigmoid, tanh
from cellwright.cells import gru, lstm
from cellwright.cpu.call import backward_products, plan
from cellwright.cpu.machine.target import host
from cellwright.cpu.products.amx_product import pair_pays
from cellwright.cpu.products.job import NONE, depth_table

pytestmark = pytest.mark.skipif(not host().has_amx("float32"), reason="this machine has no AMX")


def runs_with_gaps(depth, rng):
    """Return runs of all depths of A, of which some meet none of the other B."""
    runs, done = [], 0
    while done < depth:
        count = min(rng.choice([1, 5, 40, 200]), depth - done)
        runs.append((done, NONE if rng.random() < 0.3 else rng.randrange(3), count))
        done += count
    return [(a, b if b == NONE else a + b, count) for a, b, count in runs]


class Pair:
    """Two products C = Aᵀ B of random matrices within larger ones, and what they should be."""

    def __init__(self, rows, columns, depth, seed, *, adds=False, blank=0.0):
        self.rng = random.Random(seed)
        torch.manual_seed(seed)
        self.sizes, self.adds = (rows, columns, depth), adds
        self.a = torch.randn(depth, rows + 7)[:, 3 : 3 + rows]
        self.b = [torch.randn(depth + 3, n + 5)[:, 1 : 1 + n] for n in columns]
        self.whole = [torch.randn(rows + 2, n + 4) for n in columns]
        self.before = [c.clone() for c in self.whole]
        self.c = [c[1:-1, 2:-2] for c in self.whole]
        self.blank = torch.full((max(columns) + 64,), blank)
        self.runs = runs_with_gaps(depth, self.rng)

    def run(self, threads, own):
        """Compute both; ``own``: the depths of each one if it is taken alone, as runs."""
        rows, columns, _ = self.sizes
        tables = [depth_table([(a, a, n) for a, _, n in self.runs]), depth_table(self.runs)]
        jobs = ProductList("float32", threads)
        for k, (b, c) in enumerate(zip(self.b, self.c, strict=True)):
            pair = None if k else (*tables, self.blank.data_ptr())
            places = (b.data_ptr(), b.stride(0)), (c.data_ptr(), c.stride(0))
            a = self.a.data_ptr(), 1, self.a.stride(0)
            shape = rows, columns[k]
            jobs.add(a, *places, shape, depth_table(own[k]), adds=self.adds, pair=pair)
        jobs.run()

    def expected(self):
        """Return both results in float64, and check that nothing around them was written."""
        start = [c[1:-1, 2:-2].double() * self.adds for c in self.before]
        first = start[0] + self.a.double().T @ self.b[0][: self.sizes[2]].double()
        second = start[1]
        for a, b, count in self.runs:
            if b != NONE:
                second = second + self.a[a : a + count].double().T @ self.b[1][b:][:count].double()
        for whole, before, c in zip(self.whole, self.before, self.c, strict=True):
            kept = c.clone()
            c.copy_(before[1:-1, 2:-2])
            assert torch.equal(whole, before), "memory around the product was written"
            c.copy_(kept)
        return first, second


NOTHING = [(0, 0, 0)], [(0, 0, 0)]


@pytest.mark.parametrize("seed", range(16))
def test_pair(seed):
    """Both results, though each product alone would have no depths."""
    rng = random.Random(seed)
    rows, depth = rng.choice([128, 130, 161, 257, 520, 1041]), rng.choice([128, 129, 300, 417])
    columns = rng.choice([(32, 64), (64, 128), (48, 50), (5, 200), (128, 128), (33, 31), (1, 97)])
    pair = Pair(rows, columns, depth, seed, adds=rng.random() < 0.5)
    pair.run(rng.choice([1, 1, 2, 3]), NOTHING)
    for found, right in zip(pair.c, pair.expected(), strict=True):
        assert_close(found, right)


@pytest.mark.parametrize("threads", [1, 2])
def test_pair_of_several_chunks(threads):
    pair = Pair(1041, (128, 128), 300, 3)
    pair.run(threads, NOTHING)
    for found, right in zip(pair.c, pair.expected(), strict=True):
        assert_close(found, right)


def test_depths_that_are_not_there_meet_the_blank_row():
    pair = Pair(128, (32, 64), 300, 0, blank=2.0)
    pair.runs = [(0, NONE, 100), (100, 0, 200)]
    pair.run(1, NOTHING)
    _, right = pair.expected()
    assert_close(pair.c[1], right + 2.0 * pair.a[:100].double().sum(0)[:, None])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("place", ["a", "first", "second"])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_is_left_to_vectors(place, value, threads):
    """Of both products, each with its own depths; in the rows of a chunk that it is part of."""
    pair = Pair(300, (40, 70), 260, 5)
    own = [[(0, 0, 260)], [(a, b, n) for a, b, n in pair.runs if b != NONE]]
    side = {"a": pair.a, "first": pair.b[0], "second": pair.b[1]}[place]
    side[100, 7] = value
    pair.run(threads, own)
    for found, right in zip(pair.c, pair.expected(), strict=True):
        assert torch.equal(found.isnan(), right.isnan())
        assert torch.equal(found.isinf(), right.isinf())
        finite = right.isfinite()
        assert_close(found[finite], right[finite])


@pytest.fixture
def listed(monkeypatch):
    """Return for each list of products how many of them are pairs."""
    found = []
    whole = backward_products.paired

    def paired(*args):
        jobs = whole(*args)
        found.append(sum(job.pair is not None for job in jobs))
        return jobs

    monkeypatch.setattr(backward_products, "paired", paired)
    plan.plan_of.cache_clear()
    yield found
    plan.plan_of.cache_clear()


@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"batch_first": True},
        {"directions": 2},
        {"directions": 2, "batch_first": True, "given": False},
        {"given": False, "steps": 1, "batch": 600},
        {"steps": 600, "batch": 1},
    ],
)
@pytest.mark.parametrize("piece", [False, True])
def test_gradients(cell, form, piece, listed, monkeypatch):
    if piece:
        monkeypatch.setattr(backward_products.BackwardProducts, "_piece_rows", lambda *_: 256)
    options = {"steps": 17, "batch": 33} | form
    compare(make(cell, 64, 33, **options))
    assert listed
    assert all(count == 1 for count in listed)


@cell
def with_expression(x, h, c):
    """The product of an expression comes after those of states, with the same gates' gradients."""
    r = sigmoid(x.r)
    n = tanh(x.n + h.n + (r * c).n)
    return n, 0.5 * c + 0.5 * n


@cell
def more_of_h(x, h):
    """The state feeds gates that the input does not."""
    a, b, c = sigmoid(x.a + h.a), sigmoid(x.b + h.b), sigmoid(x.c + h.c)
    d, e = tanh(x.d + h.d), sigmoid(h.e)
    return a * h + b * c * d * e


@cell
def more_of_x(x, h):
    """The input feeds gates that the state does not."""
    a, b, c = sigmoid(x.a + h.a), sigmoid(x.b + h.b), tanh(x.c)
    return a * h + b * c


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("cell", "hidden"), [(with_expression, 128), (more_of_h, 64), (more_of_x, 100)]
)
def test_cells_whose_gates_overlap_in_part(cell, hidden, given, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(3):  # threads that got into each other's way would not each time
            compare(make(cell, hidden, 64, steps=4, batch=300, given=given))
    finally:
        torch.set_num_threads(before)


def test_packed_sequences_and_other_dtypes_have_none(listed):
    compare(make(lstm, 64, 33, lengths=[300, 300, 40]))
    compare(make(lstm, 64, 33, steps=20, batch=33, dtype=torch.float64))
    assert not any(listed)


def test_layers_choose():
    assert pair_pays(256, 0, (32, 64), 2048)
    assert pair_pays(128, 64, (32, 64), 2048)
    assert not pair_pays(256, 128, (64, 128), 2048)  # what is left would be split again
    assert not pair_pays(256, 0, (128, 160), 2048)  # a chunk has no room for all columns
    assert not pair_pays(127, 0, (32, 64), 2048)
    assert not pair_pays(1024, 0, (32, 64), 127)
    assert not pair_pays(256, 0, (1, 1), 1 << 15)
    assert not pair_pays(128, 0, (32, 64), 300)
