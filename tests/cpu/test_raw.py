"""Walks that read weights as they lie, though their input is multiplied ahead."""

from functools import partial

import pytest
import torch
from tests.cpu.agreement import FORMS, apply, compare, make, results, run
from tests.cpu.cells import BUNDLED, CELLS, NARROW
from tests.cpu.fences import Fences
from tests.cpu.test_threads import everything, layout_of, same
from tests.tolerance import assert_close

from cellwright.cells import gru, lstm, rnn_tanh
from cellwright.cpu.call import backward, choice, forward, plan
from cellwright.cpu.call.library import library
from cellwright.cpu.call.walks import dense
from cellwright.cpu.machine import memory
from cellwright.cpu.machine.target import host, own_cache
from cellwright.cpu.vector.dot import held_vectors
from cellwright.cpu.walk.frame import ROW_DOT

FEW = [form for form in FORMS if layout_of(make(**FORMS[form])).batch <= host().dot_rows]
SPECIAL = (torch.inf, -torch.inf, torch.nan)


@pytest.fixture(autouse=True)
def raw(monkeypatch):
    """Let all calls take that way that can, however small they are."""
    plan.plan_of.cache_clear()
    monkeypatch.setattr(choice, "_reads_raw", lambda *_: False)
    monkeypatch.setattr(choice, "_projects_first", _can)
    for module in (choice, backward):
        monkeypatch.setattr(module, "walks_raw", _could)
    yield
    plan.plan_of.cache_clear()


def _can(layer, layout):
    shared = choice._shares_rows(choice.share_of(layer, layout))
    return layer.products_first > 0 and (layout.counts is None or not shared)


def _could(layer, layout, way):
    if way == "forward":
        return 0 < layout.batch <= host().dot_rows
    return layout.batch == 1 and all(n % 64 == 0 for n in layer.state_rows)


def takes(case, way="forward"):
    """Whether a case goes that way."""
    outputs = case.weights[0].output_size(case.hidden)
    dtype, biased = str(case.x.dtype).removeprefix("torch."), bool(case.weights[0].form.biases)
    layer = plan.plan_of(case.cell, case.x.shape[-1], case.hidden, outputs, dtype, biased)
    layout = layout_of(case)
    if way == "forward":
        return choice.forward_way(layer, layout).raw_walk
    return choice.walks_raw(layer, layout, "backward")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("form", FEW)
def test_forms(name, form, dtype):
    case = make(CELLS[name], 32, 5, dtype=dtype, **FORMS[form])
    assert takes(case)
    assert takes(case, "backward") == (layout_of(case).batch == 1)
    compare(case)


@pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
@pytest.mark.parametrize("hidden", [16, 17, 48, 50, 80, 128, 144, 256, 272, 300, 528])
def test_sizes(cell, hidden):
    """Whole and part blocks of units; rows that a dot holds whole, in part or not at all."""
    for form in ("one row", "two rows, both ways"):
        case = make(cell, hidden, 3, **FORMS[form])
        assert takes(case)
        compare(case)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(("hidden", "outputs"), [(32, 16), (48, 272), (1120, 16)])
def test_narrow_outputs(name, hidden, outputs):
    case = make(NARROW[name], hidden, 3, outputs=outputs, **FORMS["one row"])
    assert takes(case, "backward")
    compare(case)


@pytest.mark.parametrize("name", ["lstm", "gru", "two_stages"])
def test_weights_that_start_within_a_cache_line(name):
    """They are packed after all; the results are the same but for rounding."""
    for form in ("one row", "two rows, both ways"):
        case = make(CELLS[name], 48, 3, **FORMS[form])
        compare(apply(case, _moved))


def _moved(t):
    """Return a copy that starts four bytes or eight behind the start of a cache line."""
    memory = t.new_empty(t.numel() + 1)[1:]
    return memory.copy_(t.reshape(-1)).view(t.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("hidden", [16, 17, 48, 300, 336])
@pytest.mark.parametrize("name", ["lstm", "gru", "mgu", "two_stages"])
def test_fences(name, hidden, dtype, monkeypatch):
    plan.plan_of.cache_clear()
    fences = Fences()
    fences.install(monkeypatch)
    for form in ("one row", "two rows, both ways"):
        case = make(CELLS[name], hidden, 3, dtype=dtype, **FORMS[form])
        compare(apply(case, partial(fences.copy, aligned=True)))
        fences.check()


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "peephole", "two_stages"])
@pytest.mark.parametrize("form", ["one row", "two rows, both ways", "packed, zeros, both ways"])
def test_threads_that_share_units(name, form, monkeypatch):
    monkeypatch.setattr(choice, "_UNITS_FROM", 0)  # as for weights of many MiB
    case = make(CELLS[name], 336, 17, **FORMS[form])
    expected, count = everything(case), len(results(case))
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            layer = plan.plan_of(case.cell, 17, 336, 336, "float32", True)
            assert choice.share_of(layer, layout_of(case)) == (threads, True)
            found = everything(case)
            assert same(found[:count], expected[:count])
            for ours, alone in zip(found, expected, strict=True):
                assert_close(ours, alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["lstm", "gru", "two_stages"])
@pytest.mark.parametrize("form", ["one row", "two rows, both ways", "time first", "packed"])
def test_calls_that_pack_nothing(name, form, monkeypatch):
    """Of units about as many as depths that a dot holds, which fill vectors or do not."""
    monkeypatch.setattr(choice, "_reads_raw", lambda *_: True)
    lanes = host().lanes("float32")
    held = [vectors * lanes for vectors in held_vectors(host().registers)]
    for hidden in {17, *(n + more for n in held for more in (1 - lanes, -6, -1, 0, 1, 44))}:
        compare(make(CELLS[name], hidden, 3, **FORMS[form]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru", "two_stages"])
@pytest.mark.parametrize("packs", [True, False], ids=["input packed", "nothing packed"])
def test_weights_read_in_one_stream(name, packs, dtype, monkeypatch):
    """Units that fill vectors or do not; depths of whole groups of vectors, of some, of a part."""
    fences, seen = Fences(), []
    fences.install(monkeypatch)
    monkeypatch.setattr(choice, "_reads_raw", lambda *_: not packs)
    monkeypatch.setattr(forward, "reads_far", lambda *_: seen.append(True) or True)
    for hidden in (1, 3, 16, 17, 64, 65, 80, 130, 300):
        for form in ("one row", "two rows, both ways"):
            case = make(CELLS[name], hidden, 3, dtype=dtype, **FORMS[form])
            compare(apply(case, partial(fences.copy, aligned=True)))
            fences.check()
    assert seen


@pytest.mark.parametrize("far", [True, False])
def test_which_dot_reads_one_row(far, monkeypatch):
    monkeypatch.setattr(forward, "reads_far", lambda *_: far)
    case = make(lstm, 48, 3, batch=1, steps=5)
    compare(case)
    layer = plan.plan_of(lstm, 3, 48, 48, "float32", True)
    calls = [one for one in layer.prepared.values() if isinstance(one, forward.ForwardCall)]
    dots = {struct[ROW_DOT] for one in calls for pair in one.structs for struct in pair}
    assert dots == {library("float32").number("dot_1_far" if far else "dot_1")}


def test_far_weights_are_read_in_one_stream():
    few, many = (plan.plan_of(lstm, 256, n, n, "float32", True) for n in (256, 1024))
    for raw in (True, False):
        way = choice.ForwardWay(raw, amx=False, ahead=not raw, amx_ahead=False, raw_walk=not raw)
        assert choice.reads_far(many, dense(1, 1), way)
        assert choice.reads_far(many, dense(1, 4), way) == raw
        assert choice.reads_far(few, dense(1, 1), way) == (not raw and own_cache() < 1 << 20)


def _packs(case, monkeypatch):
    """Return how many elements of the memory for packed weights a call writes."""
    blocks = []

    def take(self, size):
        blocks.append(torch.full((size,), torch.nan, dtype=self._dtype))
        return memory.Block(blocks[-1], blocks[-1].data_ptr(), size)

    monkeypatch.setattr(memory.Shelf, "take", take)
    with torch.no_grad():
        results(case)
    (block,) = blocks
    return int((~block.isnan()).sum())


def test_weights_that_lie_are_not_packed(monkeypatch):
    monkeypatch.setattr(choice, "_projects_by_amx", lambda *_: False)
    case = make(lstm, 48, 3, batch=1, steps=5)
    columns = 4 * 48
    ahead = columns * (3 + 5 + 1)  # packed weights of the input, its products, the biases
    assert _packs(case, monkeypatch) == ahead
    assert _packs(apply(case, _moved), monkeypatch) == ahead + columns * 48


def test_it_is_weights_of_states_that_must_start_with_a_cache_line(monkeypatch):
    case = make(lstm, 48, 3, batch=1, steps=5, directions=2)
    expected = [t.data_ptr() for w in case.weights for t in w.tensors]
    seen = []

    def see(_plan, addresses, directions):
        seen.append([*addresses[: len(expected)]])
        assert directions == 2
        return True

    for module in (forward, backward):
        monkeypatch.setattr(module, "start_lines", see)
    run(case, {"output": torch.randn(5, 1, 96)})
    assert seen == [expected, expected]


@pytest.mark.parametrize("change", [lambda t: t, _moved], ids=["aligned", "not aligned"])
def test_a_second_call_starts_where_the_first_ended_and_finds_the_same(change):
    case = apply(make(lstm, 48, 3, batch=1, steps=5), change)
    with torch.no_grad():
        first, second = results(case), results(case)
    for name, expected in first.items():
        assert torch.equal(second[name], expected)


@pytest.mark.skipif(not host().has_amx("float32"), reason="this machine has no AMX")
@pytest.mark.parametrize("name", ["lstm", "gru", "two_stages"])
def test_amx_takes_the_input_ahead(name, monkeypatch):
    monkeypatch.setattr(choice, "_projects_by_amx", lambda *_: True)
    for form in ("one row", "two rows, both ways"):
        compare(make(CELLS[name], 48, 20, **FORMS[form]))


@pytest.mark.parametrize("value", SPECIAL, ids=str)
def test_special_values(value):
    """They come through as they do from packed weights."""
    for of in ("x", "bundles.hidden.0"):
        case = make(lstm, 48, 3, batch=1, steps=6, given=False)
        changed = case.x if of == "x" else case.weights[0].tensors[1]
        changed.view(-1)[changed.numel() // 2] = value
        cotangents = {"output": torch.randn(6, 1, 48)}
        found = run(case, cotangents)
        expected = run(apply(case, _moved), cotangents)
        for ours, right in zip(found, expected, strict=True):
            for name, tensor in right.items():
                assert torch.equal(ours[name].isnan(), tensor.isnan()), f"{name}, {of}"
                assert_close(ours[name].nan_to_num(), tensor.nan_to_num(), name)


def test_layers_choose(monkeypatch):
    """By steps, rows and sizes: packing takes as long as some steps of few rows."""
    monkeypatch.undo()

    def ways(cell, units, steps, batch=1, inputs=128):
        layer = plan.plan_of(cell, inputs, units, units, "float32", True)
        layout = dense(steps, batch)
        back = choice.walks_raw(layer, layout, "backward")
        return choice.forward_way(layer, layout).raw_walk, back

    long, short = choice._RAW_ROW // 4, choice._RAW_ROW // 4 - 16
    held = held_vectors(host().registers)[0] * host().bits // 8 >= choice._RAW_ROW
    assert ways(rnn_tanh, long, choice._RAW_STEPS)[0]
    assert ways(rnn_tanh, long, choice._RAW_STEPS + 1)[0] == held
    assert ways(rnn_tanh, 12 * long, choice._RAW_STEPS)[0]
    assert not ways(rnn_tanh, 12 * long, choice._RAW_STEPS + 1)[0]  # no core's own cache holds them
    assert not ways(rnn_tanh, long + 1, 100)[0]
    assert ways(lstm, long + 64, choice._RAW_SHORT)[0]
    assert not ways(lstm, long + 64, choice._RAW_SHORT + 1)[0]
    assert ways(lstm, short, choice._RAW_SHORT)[0]
    assert not ways(lstm, short, choice._RAW_SHORT + 1)[0]
    assert ways(gru, long, choice._RAW_SHORT, 2)[0]
    assert not ways(gru, long, choice._RAW_SHORT + 1, 2)[0]
    assert not ways(rnn_tanh, 64, 20)[0]
    assert ways(rnn_tanh, long, 100)[1] == (4 * long * long <= own_cache() // 2)
    assert not ways(rnn_tanh, long, 100, 2)[1]
    assert not ways(rnn_tanh, 12 * long, 100)[1]
    rows = host().dot_rows
    assert ways(rnn_tanh, 4 * long, 20, rows)[0]
    assert not ways(rnn_tanh, 4 * long, 20, rows + 1)[0]
    assert not ways(rnn_tanh, 64, 20, inputs=4096)[0]  # the input's weights do not count
    assert not ways(rnn_tanh, long, 2)[0]
    unaligned = 4 * 300 * 300 * 4
    far = unaligned > own_cache()
    most = choice._UNALIGNED_FAR_STEPS if far else choice._UNALIGNED_STEPS
    assert unaligned >= choice._OWN_CACHE
    assert ways(lstm, 300, most)[0]
    assert not ways(lstm, 300, most + 1)[0]
    assert not ways(lstm, 200, most)[0]  # they are packed in no time
    assert not ways(lstm, 300, choice._UNALIGNED_PASSES)[0]  # all weights are read as they lie


@pytest.mark.parametrize(
    ("inputs", "units", "passes"), [(64, 48, 5), (128, 128, 7), (128, 256, 11)]
)
def test_rows_that_are_cache_lines_are_read_more_often(inputs, units, passes, monkeypatch):
    monkeypatch.undo()
    layer = plan.plan_of(lstm, inputs, units, units, "float32", True)
    other = plan.plan_of(lstm, inputs + 1, units, units, "float32", True)
    for rows in (1, host().dot_rows):
        assert choice.forward_way(layer, dense(passes, rows)).raw
        assert not choice.forward_way(layer, dense(passes + 1, rows)).raw
        assert not choice.forward_way(other, dense(passes, rows)).raw or units == 256


def test_a_packed_sequence_of_one_step_and_one_of_several():
    plan.plan_of.cache_clear()
    for steps in (1, 5):
        compare(make(lstm, 256, 3, lengths=(steps,)))
