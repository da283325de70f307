"""The benchmark's own logic; no time is asserted here."""

import itertools
import json
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.grid import half_rows, target_rows, wide_rows

from cellwright.app.bench import timing
from cellwright.app.bench.measure import Result, measure_row
from cellwright.app.bench.row import CELLS, Row, Shape, Variant
from cellwright.app.bench.timing import Budget, Times, interleave, summarise
from cellwright.app.bench.workload import build

TINY = Budget(seconds=0.0, rounds=2, warmup_seconds=0.0)
SMALL = Shape(3, 5, 4, 6)
VARIANTS = (
    Variant(),
    Variant("packed bidirectional", packed=True, bidirectional=True, num_layers=2),
    Variant("batch first float64", batch_first=True, dtype="float64"),
)


def row(cell="LSTM", work="train", **changes):
    return replace(Row("targets", cell, work, SMALL, 1, 1.0), **changes)


def wrong_library(damage):
    """A torch.nn whose GRU's results went through ``damage``."""

    class Wrong(torch.nn.GRU):
        def forward(self, x, hx=None):
            return damage(*super().forward(x, hx))

    return SimpleNamespace(GRU=Wrong)


def test_summary_of_times():
    times = summarise([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (times.median, times.low, times.high, times.calls) == (3.5, 2.0, 5.0, 6)
    assert summarise([7.0]) == Times(7.0, 7.0, 7.0, 1)


def test_rivals_take_turns_in_alternating_order(monkeypatch):
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(timing, "TURN_CALLS", 2)
    seen = []
    times = interleave(
        [lambda: seen.append("a"), lambda: seen.append("b")], replace(TINY, rounds=4)
    )
    assert [len(each) for each in times] == [8, 8]
    assert "".join(seen[-16:]) == "aabbbbaaaabbbbaa"


def test_long_calls_have_turns_of_one(monkeypatch):
    monkeypatch.setattr(timing, "LONG_TURN_SECONDS", 0.0005)
    times = interleave([lambda: time.sleep(0.001)], replace(TINY, rounds=4))
    assert len(times[0]) == 4


def test_quick_rivals_call_several_times_a_turn():
    times = interleave([lambda: None, lambda: None], replace(TINY, rounds=2))
    assert all(len(each) > 10 for each in times)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("work", ["call", "forward", "train"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_torch_agrees_with_itself(cell, work, variant):
    result = measure_row(row(cell, work, variant=variant), torch.nn, torch.nn, TINY, 1.0)
    assert result.failure is None
    assert result.error == 0.0
    assert result.ratio > 0
    assert (result.share is None) == (variant.dtype == "float64")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda y, h: (y * 1.001, h), "output"),
        (lambda y, h: (y, h + 0.001), "final h"),
        (lambda y, h: (y.detach(), h), "does not require grad"),
        (lambda y, h: (y * float("nan"), h), "nan"),
        (lambda y, h: (y.transpose(0, 1), h), "of \\(4, 6, 5\\)"),
        (lambda y, h: (y.double(), h), "float64"),
        (lambda y, h: (y, h / 0), "final h"),
    ],
)
def test_a_wrong_rival_fails_and_gets_no_speed(damage, named):
    result = measure_row(row("GRU"), wrong_library(damage), torch.nn, TINY, 1.0)
    assert result.failure is not None
    assert re.search(named, result.failure)
    assert result.ours is result.torch is result.ratio is result.reached is None
    assert report.FAILED in report.details([result])
    assert report.FAILED in report.overview([result])
    assert result.failure in report.summary([result])


def test_wrong_gradients_alone_are_seen():
    class Wrong(torch.nn.GRU):
        def forward(self, x, hx=None):
            self.bias_hh_l0.register_hook(lambda gradient: 1.001 * gradient)
            return super().forward(x, hx)

    result = measure_row(row("GRU"), SimpleNamespace(GRU=Wrong), torch.nn, TINY, 1.0)
    assert "gradient of bias_hh_l0" in result.failure


def test_failure_sets_the_exit_status(monkeypatch, tmp_path, capsys):
    wrong = wrong_library(lambda y, h: (y + 1, h))
    monkeypatch.setattr(command.importlib, "import_module", lambda name: wrong)
    monkeypatch.setattr(command.machine, "matrix_product_rate", lambda threads, budget: 1.0)
    path = tmp_path / "bench.json"
    chosen = "GRU call 32, 64, 1, 1 plain threads=1"
    assert command.main(["--quick", "--rows", chosen, "--json", str(path)]) == 1
    assert "FAILED" in capsys.readouterr().out
    (written,) = json.loads(path.read_text())["rows"]
    assert written["failure"].startswith("DisagreementError: output")


def test_grids_hold_what_they_promise():
    targets, wide, halves = list(target_rows()), list(wide_rows()), list(half_rows())
    assert len(targets) == 3 * (13 + 5)
    every = targets + wide + halves
    assert len(set(every)) == len(every)
    assert {each.target for each in wide + halves} == {1.0}
    assert {each.variant.name for each in halves} == {"float16", "bfloat16", "autocast"}
    assert {each.work for each in halves if each.variant.autocast} == {"forward", "train"}
    assert {each.shape.hidden_size for each in wide} >= {1, 17, 40, 100, 300}
    assert {"bidirectional", "two layers", "batch first", "packed", "float64"} <= {
        each.variant.name for each in wide
    }


def test_arithmetic_of_a_row():
    assert row("LSTM", "forward").flops == 2 * 4 * 5 * (3 + 5) * 4 * 6
    assert row("GRU", "train").flops == 3 * 2 * 3 * 5 * (3 + 5) * 4 * 6
    deep = Variant(num_layers=2, bidirectional=True, packed=True)
    one = row("RNN", "forward", variant=deep)
    assert one.lengths == [6, 1, 2, 3]
    assert one.flops == 2 * 5 * 2 * ((3 + 5) + (10 + 5)) * 12
    narrow = row("LSTM", "forward", variant=Variant(proj_size=2))
    assert narrow.flops == 2 * (4 * 5 * (3 + 2) + 2 * 5) * 4 * 6


def test_scaling_compares_with_the_same_row_on_one_thread():
    def result(threads, median, **changes):
        times = Times(median, median, median, 1)
        return Result(row(threads=threads, **changes), ours=times, torch=times)

    filled = report.with_scaling([result(1, 3.0), result(2, 2.0), result(2, 1.0, work="forward")])
    assert [each.scaling for each in filled] == [None, 1.5, None]


def test_tables_line_up():
    text = report.table(("name", "µs"), [("a", "1.5"), ("bb", "1,000")])
    assert text.splitlines() == [
        "| name |    µs |",
        "|------|------:|",
        "| a    |   1.5 |",
        "| bb   | 1,000 |",
    ]


def test_overview_puts_the_cells_of_a_row_side_by_side():
    results = [
        Result(row(cell), ratio=ratio, reached=ratio >= 1, ours=None)
        for cell, ratio in (("LSTM", 2.0), ("GRU", 0.5))
    ]
    last = report.overview(results).splitlines()[-1]
    assert last.split("|")[4:7] == [" 2.00× ", " 0.50× (target 1) ", "   – "]
    assert "1 of 2 rows" in report.summary(results)


def test_both_rivals_get_the_same_data():
    for variant, work in itertools.product(VARIANTS, ("forward", "train")):
        one, other = (build(torch.nn, row(work=work, variant=variant)) for _ in range(2))
        assert torch.equal(one.x_data, other.x_data)
        assert one.x_data.requires_grad == (work == "train")
        assert one.x_data is not other.x_data
