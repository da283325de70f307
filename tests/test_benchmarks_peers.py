"""Other libraries beside Cellwright: what is timed, and what is said of it."""

import importlib
import json

import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.peers import peer as peers_module
from benchmarks.peers.measure import OURS, TORCH, Beside, measure_beside
from benchmarks.peers.peer import Run, find_peers

from cellwright.app.bench.row import CELLS, Row, Shape
from cellwright.app.bench.timing import Budget, Times

TINY = Budget(seconds=0.0, rounds=2, warmup_seconds=0.0)


def row(cell, work):
    steps = 1 if work == "call" else 6
    return Row("targets", cell, work, Shape(3, 5, 4, steps), 1, 1.0)


class Fake:
    """torch.nn by another name; ``damage`` goes through its results."""

    name = "Fake 1.0"
    works = ("forward", "train")

    def __init__(self, damage=lambda results: results):
        self.damage = damage

    def prepare(self, reference):
        def results():
            found = [t.detach() for t in reference.results(with_states=False)]
            if reference.row.work == "train":
                reference.training_step()
                leaves = (reference.x_data, *reference.module.parameters())
                found += [leaf.grad for leaf in leaves]
            return self.damage([t.numpy() for t in found])

        return Run(reference.timed(), results)


@pytest.mark.parametrize("work", ["forward", "train"])
def test_all_that_agree_are_timed(work):
    found = measure_beside(row("LSTM", work), torch.nn, [Fake()], TINY)
    assert list(found.times) == [OURS, TORCH, "Fake 1.0"]
    assert found.failures == {}
    assert found.best_peer == "Fake 1.0"


def test_a_peer_has_no_row_of_work_that_it_does_not_do():
    found = measure_beside(row("GRU", "call"), torch.nn, [Fake()], TINY)
    assert list(found.times) == [OURS, TORCH]
    assert found.best_peer is None


@pytest.mark.parametrize("which", [0, 1, 2, 3, 4, 5, 6])
def test_a_peer_that_is_wrong_gets_no_speed(which):
    def damage(results):
        changed = results[which].copy()
        changed.flat[-1] += 0.1
        return [*results[:which], changed, *results[which + 1 :]]

    found = measure_beside(row("RNN", "train"), torch.nn, [Fake(damage)], TINY)
    assert list(found.times) == [OURS, TORCH]
    assert f"result {which}" in found.failures["Fake 1.0"]


def test_a_peer_that_breaks_hides_no_other():
    class Broken(Fake):
        name = "Broken 2"

        def prepare(self, reference):
            raise NotImplementedError("no such layer")

    found = measure_beside(row("RNN", "forward"), torch.nn, [Broken(), Fake()], TINY)
    assert found.failures == {"Broken 2": "NotImplementedError: no such layer"}
    assert "Fake 1.0" in found.times


def test_what_is_not_installed_is_named(monkeypatch):
    known = importlib.import_module

    def without(name):
        if name.endswith("jax_scan"):
            raise ModuleNotFoundError("No module named 'jax'", name="jax")
        if name.startswith("benchmarks.peers."):
            return type("Module", (), {"PEER": Fake()})
        return known(name)

    monkeypatch.setattr(peers_module.importlib, "import_module", without)
    found, missing = find_peers()
    assert len(found) == len(peers_module._MODULES) - 1
    assert missing == ["jax"]


def times(median):
    return Times(median, median, median, 3)


def test_tables_put_all_libraries_side_by_side():
    fast = Beside(row("LSTM", "forward"), {OURS: times(2e-6), TORCH: times(8e-6), "A": times(4e-6)})
    slow = Beside(
        row("GRU", "train"),
        {OURS: times(4e-6), TORCH: times(8e-6), "B": times(2e-6)},
        {"A": "ValueError: no"},
    )
    header, _, *lines = report.peers_table([fast, slow]).splitlines()
    assert [c.strip() for c in header.split("|")[4:-1]] == [
        "Cellwright µs", "torch.nn µs", "A µs", "B µs", "best peer / ours"]  # fmt: skip
    assert [c.strip() for c in lines[0].split("|")[4:-1]] == ["2.00", "8.00", "4.00", "–", "2.00×"]
    assert [c.strip() for c in lines[1].split("|")[4:-1]] == ["4.00", "8.00", "–", "2.00", "0.50×"]
    said = report.peers_summary([fast, slow])
    assert "in 1 of 2 rows" in said
    assert "- B is faster: GRU train 3, 5, 4, 6" in said
    assert "- FAILED: A: targets GRU train 3, 5, 4, 6 plain threads=1: ValueError: no" in said


def test_the_command_times_peers_when_asked(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "find_peers", lambda: ([Fake()], ["jax"]))
    monkeypatch.setattr(command, "target_rows", lambda: [row("RNN", "forward")])
    path = tmp_path / "bench.json"
    status = command.main(["--parts", "peers", "--quick", "--json", str(path)])
    out, err = capsys.readouterr()
    assert status == 0
    assert "left out, as they are not installed: jax" in err
    assert "Fake 1.0 µs" in out
    assert set(json.loads(path.read_text())["peers"][0]["times"]) == {OURS, TORCH, "Fake 1.0"}


@pytest.mark.parametrize("module", peers_module._MODULES)
@pytest.mark.parametrize("cell", CELLS)
def test_installed_peers_agree(module, cell):
    needed = {"onnx_runtime": ("onnx", "onnxruntime"), "open_vino": ("onnx", "openvino")}
    for name in needed.get(module, ("jax",)):
        pytest.importorskip(name)
    peer = importlib.import_module(f"benchmarks.peers.{module}").PEER
    for work in peer.works:
        found = measure_beside(row(cell, work), torch.nn, [peer], TINY)
        assert found.failures == {}
