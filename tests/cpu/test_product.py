"""The matrix products after a walk: both orientations, odd sizes, runs of depths."""

import random

import pytest
import torch
from tests.cpu.product_list import ProductList
from tests.tolerance import assert_close

from cellwright.cpu.products.job import depth_table

SIZES = [1, 3, 16, 17, 64, 65, 130, 300]
DEPTHS = [0, 1, 2, 15, 16, 17, 127, 128, 129, 300]


def runs_of(depth, rng):
    """Return runs in any order that cover ``depth`` rows of A, with the rows of B they meet."""
    runs, done, shift = [], 0, 0
    while done < depth:
        count = min(rng.choice([1, 5, 40, 200]), depth - done)
        shift += rng.choice([0, 0, 3])
        runs.append((done, done + shift, count))
        done += count
    rng.shuffle(runs)
    return runs, shift


def multiply(rows, columns, depth, by_columns, adds, threads, dtype, rng, runs=None):
    """Return a product and what it should be, the memory around it guarded."""
    runs, shift = runs or runs_of(depth, rng)
    far = rng.choice([2, 2, 1030, 2060])  # lines one or two pages apart, or not
    if by_columns:  # A lies depth by depth, as gradients of gates do
        a = torch.randn(depth, rows + far, dtype=dtype)[:, 1 : 1 + rows].t()
    else:
        a = torch.randn(rows, depth + far, dtype=dtype)[:, 1 : 1 + depth]
    b = torch.randn(depth + shift, columns + far + 1, dtype=dtype)[:, 2 : 2 + columns]
    whole = torch.randn(rows + 2, columns + 4, dtype=dtype)
    before = whole.clone()
    c = whole[1:-1, 2:-2]
    exact = c.double() if adds else torch.zeros(rows, columns, dtype=torch.float64)
    for from_a, from_b, count in runs:
        exact = exact + a[:, from_a : from_a + count].double() @ b[from_b:][:count].double()
    jobs = ProductList(str(dtype).removeprefix("torch."), threads)
    jobs.add(
        (a.data_ptr(), *a.stride()),
        (b.data_ptr(), b.stride(0)),
        (c.data_ptr(), c.stride(0)),
        (rows, columns),
        depth_table(runs),
        adds=adds,
    )
    jobs.run()
    found = c.clone()
    c.copy_(before[1:-1, 2:-2])
    assert torch.equal(whole, before), "memory around the product was written"
    return found, exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_product(seed, by_columns, dtype):
    rng = random.Random(f"{seed} {by_columns} {dtype}")
    rows, columns = rng.choice(SIZES), rng.choice(SIZES)
    depth, adds, threads = rng.choice(DEPTHS), rng.random() < 0.5, rng.choice([1, 2, 3])
    found, exact = multiply(rows, columns, depth, by_columns, adds, threads, dtype, rng)
    assert_close(found, exact)
