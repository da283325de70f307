"""Gradients of long sequences of narrow cells, whose products go through pieces of the rows."""

import pytest
import torch
from tests.cpu.agreement import compare, make, results
from tests.cpu.cells import CELLS

from cellwright.cells import lstm
from cellwright.cpu.call import backward_products, plan
from cellwright.cpu.call.backward_products import BackwardProducts

FORMS = {
    "time first": {},
    "batch first": {"batch_first": True},
    "both ways": {"directions": 2},
    "both ways, batch first, zeros": {"directions": 2, "batch_first": True, "given": False},
    "no bias": {"bias": False},
}


@pytest.fixture
def starts(monkeypatch):
    """Return where pieces start that are made."""
    found = []

    def piece(self, job, start, *others):
        found.append(start)
        return whole(self, job, start, *others)

    whole = BackwardProducts._piece
    monkeypatch.setattr(BackwardProducts, "_piece", piece)
    plan.plan_of.cache_clear()  # with it goes what was prepared for other pieces
    yield found
    plan.plan_of.cache_clear()


@pytest.fixture
def pieces(starts, monkeypatch):
    """Have pieces of one group of depths where there would be any; return where they start."""
    monkeypatch.setattr(BackwardProducts, "_piece_rows", lambda self, jobs: 128)
    return starts


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gradients(pieces, name, form):
    compare(make(CELLS[name], steps=9, batch=41, **form))
    assert any(pieces)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("steps", "batch"), [(1, 300), (300, 1), (2, 257), (129, 3)])
def test_rows_of_few_or_many_steps(pieces, dtype, threads, steps, batch):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare(make(hidden=9, steps=steps, batch=batch, dtype=dtype))
    finally:
        torch.set_num_threads(before)
    assert any(pieces)


@pytest.mark.parametrize(
    ("inputs", "form", "expected"),
    [
        (3, {}, {0, 896}),  # 256 KiB of 68 sums a row are 963
        (3, {"dtype": torch.float64}, set()),  # 481 are too few
        (3, {"lengths": [400, 400, 400, 1]}, set()),
        (300, {}, set()),  # the weights' gradients take 86 KB: an eighth of the cache is 64
    ],
)
def test_how_many_rows_a_piece_has(starts, monkeypatch, inputs, form, expected):
    monkeypatch.setattr(backward_products, "own_cache", lambda: 1 << 19)
    case = make(lstm, 17, inputs, steps=400, batch=3, **form)
    case.x.requires_grad_()
    results(case)["output"].sum().backward()
    assert set(starts) == expected
