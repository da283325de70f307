"""Large products, which AMX computes where there is one: borders, runs, infinity and nan."""

import random
import sys
from itertools import product

import llvmlite.ir as ir
import pytest
import torch
from tests.cpu.processes import python
from tests.cpu.product_list import ProductList
from tests.cpu.test_memory import page_end
from tests.cpu.test_product import multiply, runs_of
from tests.tolerance import assert_close

from cellwright.cpu.machine.target import host
from cellwright.cpu.products.amx_product import AmxChunks
from cellwright.cpu.products.chunks import Chunks
from cellwright.cpu.products.job import depth_table

ROWS = [127, 128, 130, 161, 257, 520, 1041]
COLUMNS = [32, 48, 63, 64, 65, 100, 128, 129, 144, 159, 161, 200, 257, 513, 700]
DEPTHS = [128, 129, 143, 160, 161, 255, 300, 417]


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("seed", range(24))
def test_large_product(seed, by_columns):
    """Sizes at the borders of tiles, panels and chunks, in several runs where depths are lines."""
    rng = random.Random(f"{seed} {by_columns}")
    rows, columns, depth = rng.choice(ROWS), rng.choice(COLUMNS), rng.choice(DEPTHS)
    adds, threads, one_run = rng.random() < 0.5, rng.choice([1, 1, 2, 3]), rng.random() < 0.5
    runs = ([(0, 0, depth)], 0) if one_run else None
    found, exact = multiply(
        rows, columns, depth, by_columns, adds, threads, torch.float32, rng, runs
    )
    assert_close(found, exact)
    assert (found - exact).abs().max() < 1e-6 * depth, "sums of other depths, rows or columns"


def test_last_chunk_of_one_row():
    rng = random.Random(0)
    runs = [(0, 0, 130)], 0
    found, exact = multiply(512 * 100 + 1, 128, 130, True, False, 1, torch.float32, rng, runs)
    assert_close(found, exact)


def multiplied(a, b, runs, *, adds_to=None, threads=1):
    """Return Σ A B over runs of depths, added to a matrix or not."""
    c = torch.empty(a.shape[0], b.shape[1]) if adds_to is None else adds_to.clone()
    jobs = ProductList("float32", threads)
    places = (a.data_ptr(), *a.stride()), (b.data_ptr(), b.stride(0)), (c.data_ptr(), c.stride(0))
    jobs.add(*places, tuple(c.shape), depth_table(runs), adds=adds_to is not None)
    jobs.run()
    return c


def matrices(rows, columns, depth, by_columns):
    a = torch.randn(depth, rows).t() if by_columns else torch.randn(rows, depth)
    return a, torch.randn(depth, columns)


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_accuracy(scale, by_columns):
    a, b = matrices(300, 200, 1000, by_columns)
    a, b = a * scale, b * torch.rand(1000, 1) * scale
    exact = a.double() @ b.double()
    found = (multiplied(a, b, [(0, 0, 1000)]) - exact).norm()
    assert found < 1.5 * (a @ b - exact).norm()


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 3.4e38])
def test_what_is_not_finite(value, side, by_columns):
    """Infinity and nan reach the sums that they are part of, in any place, and no others."""
    rng = random.Random(f"{value} {side} {by_columns}")
    for k in (0, 15, 16, 100, 139, rng.randrange(140)):
        a, b = matrices(300, 160, 140, by_columns)
        line = rng.choice([0, 31, 32, 159, rng.randrange(160)])
        if side == "a":
            line = rng.choice([line, 299, rng.randrange(300)])
            a[line, k] = value
            b[k, 5] = 0.0
        else:
            b[k, line] = value
            a[7, k] = 0.0
        before = torch.randn(300, 160)
        found, expected = multiplied(a, b, [(0, 0, 140)], adds_to=before), before + a @ b
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.isinf(), expected.isinf())
        bad = ~expected.isfinite()
        assert torch.equal(found[bad].sign().nan_to_num(), expected[bad].sign().nan_to_num())
        small = ~bad & (expected.abs() < 1e6)
        assert_close(found[small], expected[small].double())


def multiply_by_amx_alone():
    """Have nothing check what AMX finds, and nothing else do its work."""
    AmxChunks._finite = lambda self: ir.Constant(ir.IntType(1), 1)
    Chunks.emit = lambda self, rows, columns: None
    sizes = (128, 256, 128), (512, 257, 300), (2100, 64, 161), (700, 600, 150)
    for by_columns, (rows, columns, depth) in product((False, True), sizes):
        runs = [(0, 0, depth)]
        if by_columns:
            runs = [(a, a, count) for a, _, count in runs_of(depth, random.Random(0))[0]]
        a, b = matrices(rows, columns, depth, by_columns)
        for threads in (1, 2) if rows > 256 else (1,):
            found = multiplied(a, b, runs, threads=threads)
            assert_close(found, a.double() @ b.double())


@pytest.mark.skipif(not host().has_amx("float32"), reason="there is no AMX")
def test_amx_alone(tmp_path):
    """What comes out wrong is mostly nan, which vectors would put right."""
    code = f"from {__name__} import multiply_by_amx_alone as f; f(); print('right')"
    assert python(code, CELLWRIGHT_CACHE_DIR=str(tmp_path)) == "right"


def read_to_page_ends():
    """Multiply matrices that end where memory ends: a read beyond them is a crash."""
    for by_columns in (False, True):
        for rows, columns, depth in ((200, 150, 150), (257, 161, 129)):
            a, b = matrices(rows, columns, depth, by_columns)
            a, b = page_end(a.t()).t() if by_columns else page_end(a), page_end(b)
            assert_close(multiplied(a, b, [(0, 0, depth)]), a.double() @ b.double())


@pytest.mark.skipif(sys.platform == "win32", reason="uses mprotect")
def test_nothing_is_read_behind_matrices():
    code = f"from {__name__} import read_to_page_ends as f; f(); print('read')"
    assert python(code) == "read"


def test_overflow():
    """Terms that overflow have the sign of float32's, whichever part of them overflows."""
    a, b = torch.rand(128, 256) + 1, torch.rand(256, 128) + 1
    a[:64] *= 2.0e38
    b[:, 32:64] *= -1.5e38
    found, expected = multiplied(a, b, [(0, 0, 256)]), a @ b
    assert torch.equal(found, expected) or torch.equal(found.isinf(), expected.isinf())
    assert torch.equal(found.sign(), expected.sign())


@pytest.mark.parametrize("by_columns", [False, True])
def test_several_runs_of_nan_beside(by_columns):
    """Depths of no run are not read as if they were 0 times something."""
    rng = random.Random(by_columns)
    a, b = matrices(200, 150, 400, by_columns)
    a[:, 300:], b[300:] = float("nan"), float("inf")
    runs, _ = runs_of(300, rng)
    runs = [(start, start, count) for start, _, count in runs]
    exact = a[:, :300].double() @ b[:300].double()
    assert_close(multiplied(a, b, runs, threads=2), exact)
