"""What kernels read and write: poisoned memory, fences around every buffer, pages behind them."""

import ctypes
import mmap
import platform
import subprocess
import sys

import pytest
import torch
from tests.cpu.agreement import FORMS, apply, compare, make, results, run
from tests.cpu.cells import CELLS, NARROW
from tests.cpu.fences import Fences, extent
from tests.cpu.processes import python
from tests.cpu.test_agreement import VIEWS

import cellwright
import cellwright.nn as nn
from cellwright.cells import gru, lstm
from cellwright.cpu.call import backward, choice, plan
from cellwright.cpu.machine import memory

FENCED = ["time first", "two rows, both ways", "one step of one row", "one row", "many rows"]
FENCED += ["zeros, both ways", "batch first, both ways", "packed, both ways", "no bias"]
FENCED += ["one step of seven rows"]


@pytest.fixture
def fences(monkeypatch):
    """Fences around all that a call gets and makes; plans are new, as they keep memory."""
    plan.plan_of.cache_clear()
    made = Fences()
    made.install(monkeypatch)
    yield made
    monkeypatch.undo()
    plan.plan_of.cache_clear()


def fenced_compare(case, fences):
    """Check results in fenced memory against those in torch's own, and the fences."""
    compare(apply(case, fences.copy))
    fences.check()
    assert fences.count > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("form", FENCED)
def test_fences(name, form, dtype, fences):
    fenced_compare(make(CELLS[name], dtype=dtype, **FORMS[form]), fences)


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "two_stages"])
@pytest.mark.parametrize("hidden", [1, 20, 40, 65])  # blocks of one to four vectors
def test_fences_of_other_sizes(name, hidden, fences):
    for form in ("one row", "two rows, both ways", "packed, both ways", "one step of one row"):
        fenced_compare(make(CELLS[name], hidden, **FORMS[form]), fences)


@pytest.mark.parametrize("name", ["lstm", "gru", "two_stages"])
@pytest.mark.parametrize("hidden", [1, 7])
def test_fences_of_wide_inputs(name, hidden, fences):
    for form in ("time first", "many rows", "packed, both ways"):
        fenced_compare(make(CELLS[name], hidden, 70, **FORMS[form]), fences)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("form", FENCED)
def test_fences_of_narrow_outputs(name, form, fences):
    fenced_compare(make(NARROW[name], outputs=5, **FORMS[form]), fences)


@pytest.mark.parametrize("view", VIEWS)
def test_fences_around_views(view, fences):
    for form in ("time first", "packed, both ways", "one step of one row"):
        fenced_compare(apply(make(lstm, **FORMS[form]), VIEWS[view]), fences)


def test_cotangents_are_only_read(fences):
    case = make(lstm, directions=2)
    shapes = {"output": (4, 5, 34), "h.final": (2, 5, 17), "c.final": (2, 5, 17)}
    run(case, {n: fences.copy(torch.randn(s)) for n, s in shapes.items()})
    fences.check()


def test_fences_see_a_write_outside(fences):
    fences.make((4,), torch.float32).as_strided((1,), (1,), 3).fill_(1.0)
    with pytest.raises(AssertionError, match="outside of its memory"):
        fences.check()


def test_fences_see_a_write_to_what_was_given(fences):
    fences.copy(torch.ones(4)).fill_(2.0)
    with pytest.raises(AssertionError, match="what it was given"):
        fences.check()


@pytest.mark.parametrize("shape", [(7,), (2, 3, 5), (3, 0, 2), (1, 4, 1)])
def test_blanks_are_as_torch_makes_them(shape, monkeypatch):
    for maker in (memory._empty, memory._empty_strided):
        monkeypatch.setattr(memory, "_empty", maker)
        for dtype in ("float32", "float64"):
            (made,) = memory.Blanks(dtype, memory.contiguous(*shape))()
            expected = torch.empty(shape, dtype=getattr(torch, dtype))
            assert (made.shape, made.stride()) == (expected.shape, expected.stride())
            assert (made.dtype, made.device) == (expected.dtype, expected.device)


def test_a_spare_block_goes_to_one_taker_at_a_time():
    shelf = memory.Spares("float64").shelf(100)
    first, second = shelf.take(100), shelf.take(100)
    assert first.address != second.address
    assert (first.elements.dtype, first.elements.numel()) == (torch.float64, 100)
    assert (first.elements.data_ptr(), 100) == (first.address, first.size)
    shelf.put_back(first)
    assert shelf.take(50) is first
    shelf.put_back(first)
    larger = shelf.take(101)
    assert larger.size == 101
    assert shelf.take(101) is not larger


def test_few_and_small_blocks_are_kept():
    spares = memory.Spares("float32")
    for largest, count in memory._SHELVES:
        size = largest // 4
        shelf = spares.shelf(size, large=True)
        blocks = [shelf.take(size) for _ in range(count + 1)]
        for block in blocks:
            shelf.put_back(block)
        for block in blocks[-2::-1]:
            assert shelf.take(size) is block
        assert all(shelf.take(size) is not block for block in blocks)
    shelf = spares.shelf(size + 1, large=True)
    block = shelf.take(size + 1)
    shelf.put_back(block)
    assert shelf.take(size + 1) is not block


def test_large_blocks_do_not_stand_in_for_small_ones_and_are_kept_if_told():
    spares = memory.Spares("float32")
    many = memory._SHELVES[0][0] // 4 + 1
    shelf, forgets, keeps = spares.shelf(10), spares.shelf(many), spares.shelf(many, large=True)
    small, large = shelf.take(10), forgets.take(many)
    forgets.put_back(large)
    assert keeps.take(many) is not large
    keeps.put_back(large)
    assert shelf.take(10) is not large
    shelf.put_back(small)
    assert forgets.take(many) is large
    assert spares.shelf(10).take(10) is small


def test_memory_is_released():
    shelves = [memory.spares(dtype).shelf(10) for dtype in ("float32", "float64")]
    blocks = [shelf.take(10) for shelf in shelves]
    for shelf, block in zip(shelves, blocks, strict=True):
        shelf.put_back(block)
    cellwright.release_memory()
    pairs = zip(shelves, blocks, strict=True)
    assert all(shelf.take(10) is not block for shelf, block in pairs)


def test_fences_see_what_was_never_written(fences):
    assert torch.empty(3).isnan().all()
    assert torch.ones(2).new_empty(2, 3).isnan().all()
    assert torch.empty_like(torch.ones(3, 2).t()).stride() == (1, 2)


def page_end(t):
    """Return a copy whose last element ends a page of memory, with no memory behind it."""
    span = extent(t)
    pages = -(-span.numel() * t.itemsize // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    whole = torch.frombuffer(memory, dtype=t.dtype)
    behind = pages * mmap.PAGESIZE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + behind), mmap.PAGESIZE, 0) == 0
    first = behind // t.itemsize - span.numel()
    whole[first : behind // t.itemsize] = span
    return whole.as_strided(t.shape, t.stride(), first)


PAGE_ENDS = ["two rows, both ways", "one step of one row", "one row", "packed"]
PAGE_ENDS += ["one step of seven rows"]


def read_topage_ends():
    """Run calls whose tensors end where memory ends: a read beyond them is a crash."""
    for dtype in (torch.float32, torch.float64):
        for name in ("lstm", "gru", "peephole"):
            for form in PAGE_ENDS:
                case = apply(make(CELLS[name], dtype=dtype, **FORMS[form]), page_end)
                with torch.no_grad():
                    found = results(case)
                run(case, {n: page_end(torch.randn_like(t)) for n, t in found.items()})


@pytest.mark.skipif(sys.platform == "win32", reason="uses mprotect")
def test_nothing_is_read_beyond_the_end_of_memory():
    code = "from tests.cpu.test_memory import read_topage_ends as f; f(); print('read')"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (found.returncode, found.stdout) == (0, "read\n"), found.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU C library alone")
def test_large_blocks_come_from_a_heap_that_is_kept():
    found = python("""
import ctypes
from cellwright import nn

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def is_mapped():
    block = libc.malloc(ctypes.c_size_t(31 << 20))
    size_and_flags = ctypes.c_size_t.from_address(block - 8).value
    return size_and_flags & 2 > 0  # a block that is not freed changes nothing

small, large = (torch.randn(steps, 8, 8) for steps in (63, 64))
for x in small, large:
    nn.RNN(8, 64)(x)
    print(is_mapped())
""")
    assert found.split() == ["True", "False"]


@pytest.fixture
def lent(monkeypatch):
    """Lend whatever is kept for a backward pass, however small; return the blocks of float32."""
    plan.plan_of.cache_clear()
    memory.loans.cache_clear()
    monkeypatch.setattr(memory, "_HUGE_FROM", 1)
    yield memory.loans("float32")
    plan.plan_of.cache_clear()
    memory.loans.cache_clear()


@pytest.mark.parametrize("name", ["lstm", "gru", "two_stages", "peephole"])
@pytest.mark.parametrize("form", ["time first", "zeros, both ways", "packed, both ways", "no bias"])
def test_lent_memory(name, form, lent):
    for _ in range(3):
        compare(make(CELLS[name], **FORMS[form]))
    assert lent._blocks


def step(layer, x):
    out, _ = layer(x)
    out.sum().backward()
    gradients = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    return gradients


def test_memory_is_lent_again_after_the_backward_pass(lent):
    layer = nn.LSTM(5, 7)
    for _ in range(3):
        step(layer, torch.randn(4, 3, 5))
    places = {block.data_ptr() for block in lent._blocks}
    for steps in (4, 2, 3):  # what fits goes where it was
        step(layer, torch.randn(steps, 3, 5))
        assert {block.data_ptr() for block in lent._blocks} == places
    step(layer, torch.randn(40, 3, 5))
    assert not {block.data_ptr() for block in lent._blocks} & places  # too small ones are gone
    cellwright.release_memory()
    assert not lent._blocks


def test_memory_that_a_graph_keeps_is_not_lent(lent):
    layer, x = nn.LSTM(5, 7), torch.randn(6, 3, 5)
    expected = step(layer, x)
    first, _ = layer(x)
    for _ in range(2):  # while the first graph waits
        step(layer, torch.randn(6, 3, 5))
    for again in (True, False):  # twice by one graph
        first.sum().backward(retain_graph=again)
        step_between = step(nn.LSTM(5, 7), torch.randn(6, 3, 5))
        assert all(g.isfinite().all() for g in step_between)
        torch.testing.assert_close([p.grad for p in layer.parameters()], expected)
        layer.zero_grad()


def test_each_layer_gets_its_own_size_again(lent):
    small, large = nn.LSTM(5, 7), nn.LSTM(7, 30)
    x, places = torch.randn(4, 3, 5), []
    for _ in range(4):
        large(small(x)[0])[0].sum().backward()
        places.append(sorted((block.numel(), block.data_ptr()) for block in lent._blocks))
    assert places[1] == places[2] == places[3]
    assert len({size for size, _ in places[3]}) > 1


def test_no_memory_is_lent_where_torch_does_not_count(lent, monkeypatch):
    monkeypatch.delattr(torch._C, "_storage_Use_Count")
    memory._alone.cache_clear()
    try:
        step(nn.LSTM(5, 7), torch.randn(4, 3, 5))
        assert not lent._blocks
    finally:
        memory._alone.cache_clear()


def test_no_more_is_lent_than_so_much(lent, monkeypatch):
    monkeypatch.setattr(memory, "_MOST_LENT", 4 * 100)
    made = [lent.make((60,), (1,)) for _ in range(3)]
    assert len({t.data_ptr() for t in made}) == 3
    assert len(lent._blocks) == 1


def test_large_memory_of_weights_stays_after_calls_without_gradients_alone(monkeypatch):
    spares = memory.Spares("float32")
    monkeypatch.setattr("cellwright.cpu.call.walks.spares", lambda _: spares)
    plan.plan_of.cache_clear()
    small, large = (spares.shelf(size // 4, large=True) for size, _ in memory._SHELVES)
    module, x = nn.RNN(3, 1104), torch.randn(30, 5, 3)
    output, _ = module(x)
    assert output.requires_grad
    assert not large._blocks
    with torch.no_grad():
        module(x)
    (block,) = large._blocks
    assert block.elements.nbytes > memory._SHELVES[0][0]
    assert all(block.elements.nbytes <= memory._SHELVES[0][0] for block in small._blocks)
    plan.plan_of.cache_clear()


def test_longer_packed_sequences_find_room_of_their_size(monkeypatch):
    spares = memory.Spares("float32")
    monkeypatch.setattr("cellwright.cpu.call.walks.spares", lambda _: spares)
    monkeypatch.setattr(choice, "_projects_first", lambda *_: True)
    plan.plan_of.cache_clear()
    with torch.no_grad():
        for length in (3, 9000):
            results(make(gru, 32, 3, lengths=(length, 2)))
    small = spares.shelf(1)
    assert all(block.elements.nbytes <= memory._SHELVES[0][0] for block in small._blocks)
    plan.plan_of.cache_clear()


def test_few_kinds_of_cotangents_are_prepared():
    case = make(lstm, 17, 3)
    plan.plan_of.cache_clear()
    for gap in range(2 * backward._MOST_STRUCTS):
        run(case, {"output": torch.randn(4, 5, 17 + gap)[..., :17]})
    layer = plan.plan_of(lstm, 3, 17, 17, "float32", True)
    (call,) = [c for c in layer.prepared.values() if isinstance(c, backward.BackwardCall)]
    assert len(call.structs) == backward._MOST_STRUCTS
