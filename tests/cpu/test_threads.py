"""Threads and processes: Python's, the team's, forked children and data loaders."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.cpu.agreement import compare, make, normal, results, run
from tests.cpu.cells import CELLS
from tests.cpu.processes import python
from tests.tolerance import assert_close
from torch.utils.data import DataLoader, Dataset

import cellwright.nn as nn
from cellwright.cells import gru, lstm, rnn_tanh
from cellwright.cpu.call import backward, choice, forward, plan
from cellwright.cpu.call.team import Team
from cellwright.cpu.call.walks import Layout, dense

BIG = {"steps": 12, "batch": 37, "directions": 2}
"""Enough work that a call is shared out over the team."""
FORMS = {
    "dense": BIG,
    "batch first": {**BIG, "batch_first": True},
    "packed": {"lengths": (40, 38, 38, 31, 30, 9, 9, 8, 2, 1, 1), "directions": 2},
}
forked = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def everything(case):
    """Return all results and gradients, with fixed cotangents."""
    torch.manual_seed(3)
    with torch.no_grad():
        alone = results(case)
    found, gradients = run(case, {n: normal(*t.shape, dtype=t.dtype) for n, t in alone.items()})
    return [*alone.values(), *(t.detach() for t in found.values()), *gradients.values()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("cell", [lstm, gru, rnn_tanh], ids=lambda c: c.name)
@pytest.mark.parametrize("form", FORMS)
def test_two_threads_agree_with_one(cell, form):
    agree_on_threads(make(cell, 40, 17, **FORMS[form]))


def test_an_empty_batch_of_a_large_layer(two_threads):
    compare(make(lstm, 48, 400, batch=0, steps=3))


@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
@pytest.mark.parametrize("form", [{"batch": 5}, {"batch": 8, "directions": 2}])
def test_threads_that_project_their_rows_ahead(cell, form):
    case = make(cell, 20, 5000, steps=6, **form)
    layer = plan.plan_of(cell, 5000, 20, 20, "float32", True)
    assert choice._projects_first(layer, dense(*case.x.shape[:2]))
    agree_on_threads(case)


@pytest.mark.parametrize("cell", [lstm, gru], ids=lambda c: c.name)
@pytest.mark.parametrize("hidden", [20, 330])
def test_packed_rows_are_projected_ahead(cell, hidden):
    """All in the order of memory, so not where threads have rows of their own."""
    case = make(cell, hidden, 100_000 // hidden, lengths=(6, 4, 4, 1), directions=2)
    layer = plan.plan_of(cell, case.x.shape[-1], hidden, hidden, "float32", True)
    compare(case)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            shares_rows = choice._shares_rows(choice.share_of(layer, layout_of(case)))
            assert choice._projects_first(layer, layout_of(case)) is not shares_rows
    finally:
        torch.set_num_threads(1)
    agree_on_threads(case)


@pytest.fixture
def vectors(monkeypatch):
    """Let no call take AMX, which is another choice with a share of the rows or units."""
    for module in (choice, forward, backward):
        monkeypatch.setattr(module, "takes_amx", lambda *_: False)
    monkeypatch.setattr(choice, "_projects_by_amx", lambda *_: False)
    plan.plan_of.cache_clear()
    yield
    plan.plan_of.cache_clear()


def test_large_weights_are_projected_ahead_where_no_cache_holds_them(monkeypatch, vectors):
    layer = plan.plan_of(lstm, 512, 1024, 1024, "float32", True)
    weights = 4 * 4 * 1024 * (512 + 1024)
    for cache, ahead in ((0, True), (2 * weights, True), (2 * weights + 2, False)):
        monkeypatch.setattr(choice, "shared_cache", lambda cache=cache: cache)
        assert choice._projects_first(layer, dense(3, 32)) == ahead
    small = plan.plan_of(lstm, 512, 512, 512, "float32", True)
    monkeypatch.setattr(choice, "shared_cache", lambda: 0)
    assert not choice._projects_first(small, dense(3, 32))


def agree_on_threads(case):
    found = {}
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert Team.threads() == threads
            found[threads] = everything(case)
            assert same(everything(case), found[threads])  # to the bit
            compare(case)
    finally:
        torch.set_num_threads(1)
    for one, two in zip(found[1], found[2], strict=True):
        assert_close(two, one)


@pytest.mark.parametrize("lengths", [(6, 4, 4, 1), (3, 3, 3), (9, 1, 1, 1, 1, 1, 1), (5,)])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_rows_of_mixed_lengths_are_shared_out_by_their_steps(lengths, threads):
    sizes = [sum(n > t for n in lengths) for t in range(lengths[0])]
    *starts, end = Layout(len(sizes), sizes[0], sizes).bounds(threads)
    assert end == len(lengths)
    for i, start in enumerate(starts):
        share = sum(lengths) * i / threads
        assert sum(lengths[:start]) >= share
        assert start == 0 or sum(lengths[: start - 1]) < share


def test_each_thread_of_a_packed_walk_back_finds_its_rows(two_threads):
    case = make(lstm, 40, 17, **FORMS["packed"])
    plan.plan_of.cache_clear()
    everything(case)
    layer = plan.plan_of(lstm, 17, 40, 40, "float32", True)
    calls = [c for c in layer.prepared.values() if isinstance(c, backward.BackwardCall)]
    (call,) = calls
    layout, (_, _, heads) = call.by_lengths._latest
    assert call.share.threads == 2
    for d, head in enumerate(heads):
        assert tuple(head) == layout.fields(d == 0, 2)


BY_UNITS = {
    "one row": {"steps": 9, "batch": 1},
    "one step": {"steps": 1, "batch": 2},
    "three rows": {"steps": 5, "batch": 3, "given": False},
    "many rows of large weights": {"steps": 3, "batch": 41},
    "batch first, both ways": {"steps": 4, "batch": 2, "directions": 2, "batch_first": True},
    "packed": {"lengths": (6, 4, 4, 1)},
    "packed, zeros, both ways": {"lengths": (4, 1, 1), "directions": 2, "given": False},
}


def layout_of(case):
    sizes = case.batch_sizes
    return dense(*case.x.shape[:2]) if sizes is None else Layout(len(sizes), sizes[0], sizes)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "peephole", "two_stages"])
@pytest.mark.parametrize("form", BY_UNITS)
def test_threads_that_share_units_agree_with_one(name, form, monkeypatch, vectors):
    monkeypatch.setattr(choice, "_UNITS_FROM", 0)  # as for weights of many MiB
    case = make(CELLS[name], 330, 17, **BY_UNITS[form])
    try:
        expected, count = everything(case), len(results(case))
        for threads in (2, 3):
            torch.set_num_threads(threads)
            layer = plan.plan_of(case.cell, 17, 330, 330, "float32", True)
            share = choice.share_of(layer, layout_of(case))
            assert share == (threads, True)
            found = everything(case)
            assert same(found[:count], expected[:count])  # any thread computes a unit alike
            assert same(everything(case), found)
            for ours, alone in zip(found, expected, strict=True):
                assert_close(ours, alone)
    finally:
        torch.set_num_threads(1)
    compare(case)


SMALL_TEAM = """
import torch
import cellwright.nn as nn
model, x = nn.LSTM(17, 300), torch.randn(9, 1, 17)
alone = model(x)[0]
torch.set_num_threads(2)
assert torch.get_num_threads() == 2
model(x)[0].sum().backward()
assert torch.equal(model(x)[0], alone)
"""


def test_a_team_smaller_than_asked_for():
    """Threads that wait for each other must not wait for one that never starts."""
    python(SMALL_TEAM, OMP_THREAD_LIMIT="1", OMP_NUM_THREADS="1")


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_from_several_python_threads(threads):
    torch.set_num_threads(threads)
    try:
        cases = [make(cell, 40, 17, **FORMS[form]) for cell in (lstm, gru) for form in FORMS]
        cases.append(make(lstm, 300, 17, **BY_UNITS["one row"]))
        alone = [everything_of(case, threads) for case in cases]
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(everything_of, c, threads) for _ in range(4) for c in cases]
            for number, job in enumerate(jobs):
                assert same(job.result(timeout=120), alone[number % len(cases)])
    finally:
        torch.set_num_threads(1)


def everything_of(case, threads):
    """Return all results and gradients; cotangents without a generator that threads share."""
    torch.set_num_threads(threads)  # OpenMP keeps the number for each thread
    with torch.no_grad():
        alone = results(case)
    found, gradients = run(case, {n: t.clone() for n, t in alone.items()})
    return [*alone.values(), *(t.detach() for t in found.values()), *gradients.values()]


def test_threads_that_compile_at_once(tmp_path):
    code = """
from concurrent.futures import ThreadPoolExecutor
torch.set_num_threads(1)
cases = [make(c, h) for c in (lstm, gru) for h in (3, 5)] * 2
def job(case):
    with torch.no_grad():
        return results(case)["output"]
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(job, cases))
assert all(torch.equal(f, job(c)) for f, c in zip(found, cases))
print("right")
"""
    assert python(code, CELLWRIGHT_CACHE_DIR=str(tmp_path)) == "right"


def _everything(case):
    """Work as a child does that keeps torch to one thread, as a data loader's worker is kept."""
    torch.set_num_threads(1)
    compare(case)
    return everything(case)


def _kernels_alone(case):
    """Run kernels where torch believes in a team of threads that stayed behind in the parent."""
    assert torch.get_num_threads() == 2
    with torch.no_grad():
        return list(results(case).values())


def in_child(work, case):
    """Return what ``work`` returns in a forked child; a child that hangs fails."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def run_and_send():
        try:
            send.send([t.numpy() for t in work(case)])
        except BaseException as error:
            send.send(repr(error))

    child = context.Process(target=run_and_send)
    child.start()
    try:
        assert receive.poll(timeout=60), "the child hangs"
        found = receive.recv()
    finally:
        child.kill()
        child.join()
    assert not isinstance(found, str), found
    return [torch.from_numpy(array) for array in found]


@forks
@forked
@pytest.mark.parametrize("work", [_everything, _kernels_alone])
@pytest.mark.parametrize("form", FORMS)
def test_a_forked_child_works(form, work, two_threads):
    case = make(lstm, 40, 17, **FORMS[form])
    compare(case)  # the parent's team is awake
    expected = everything(case)
    for found, right in zip(in_child(work, case), expected, strict=False):
        assert_close(found, right)
    assert same(everything(case), expected)  # and the parent goes on as before


@forks
@forked
@pytest.mark.parametrize("work", [_everything, _kernels_alone])
def test_a_child_that_meets_a_kernel_first(work, two_threads):
    case = make(gru, 41 if work is _everything else 42, 17, **BIG)
    torch.mm(torch.randn(500, 500), torch.randn(500, 500))  # torch's own team is awake
    found = in_child(work, case)
    for ours, right in zip(found, everything(case), strict=False):
        assert_close(ours, right)


@forks
@forked
def test_a_child_goes_back_through_its_parents_graph(two_threads):
    layer, x = nn.LSTM(64, 128), torch.randn(10, 8, 64)
    for _ in range(4):  # so that the backward pass is prepared, for two threads
        layer(x)[0].sum().backward()
    weights, total = list(layer.parameters()), layer(x)[0].sum()
    found = in_child(lambda _: torch.autograd.grad(total, weights), None)
    for ours, right in zip(found, torch.autograd.grad(total, weights), strict=True):
        assert_close(ours, right)


class Encoded(Dataset):
    """Sequences that a layer encodes as they are loaded."""

    def __init__(self, case):
        self.case = case

    def __len__(self):
        return 4

    def __getitem__(self, index):
        with torch.no_grad():
            return results(self.case)["output"] + index


@forks
@forked
def test_a_data_loader_calls_a_layer(two_threads):
    data = Encoded(make(lstm, 40, 17, **BIG))
    expected = [data[k] for k in range(4)]
    for _ in range(2):
        loader = DataLoader(
            data, batch_size=None, num_workers=1, timeout=60, multiprocessing_context="fork"
        )
        for found, right in zip(loader, expected, strict=True):
            assert_close(found, right)
