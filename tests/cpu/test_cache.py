"""The cache on disk: what is stored is reused, what is damaged is never run."""

import ctypes
import gc
import os
import subprocess
import sys
from dataclasses import replace

import llvmlite.ir as ir
import pytest
import torch
from tests.cpu.agreement import FORMS, compare, make
from tests.cpu.processes import python

from cellwright import CacheWarning
from cellwright.cells import rnn_relu, rnn_tanh
from cellwright.cpu.call import plan
from cellwright.cpu.machine import jit
from cellwright.cpu.machine.target import host
from cellwright.errors import CompileError

SHOW = """
from cellwright.cpu.machine import jit
compare(make(rnn_tanh, directions=2))
print(len(jit._loaded), sum(code.compiled for code in jit._loaded.values()))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A new cache folder, and memory that holds no code."""
    monkeypatch.setenv("CELLWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "_loaded", {})
    return tmp_path / "cache"


def load(monkeypatch, number=42):
    """Load a function that returns ``number``, as a new process would; return its code."""

    def emit():
        module = ir.Module("answer")
        kind = ir.FunctionType(ir.IntType(64), [])
        builder = ir.IRBuilder(ir.Function(module, kind, "answer").append_basic_block())
        builder.ret(ir.Constant(ir.IntType(64), number))
        return module

    monkeypatch.setattr(jit, "_loaded", {})
    code = jit.load(host(), f"answer {number}", ["answer"], emit)
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code.address["answer"])() == number
    return code


def test_a_second_process_compiles_nothing(tmp_path):
    first = python(SHOW, CELLWRIGHT_CACHE_DIR=str(tmp_path)).split()
    second = python(SHOW, CELLWRIGHT_CACHE_DIR=str(tmp_path)).split()
    assert first[0] == first[1] == second[0]
    assert second[1] == "0"


def test_code_is_stored_once(folder, monkeypatch):
    assert load(monkeypatch).compiled
    (path,) = folder.iterdir()
    content = path.read_bytes()
    assert not load(monkeypatch).compiled
    assert [p.read_bytes() for p in folder.iterdir()] == [content]


def _flip(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "a bit of its magic": lambda content: _flip(content, 3),
    "a bit of its key": lambda content: _flip(content, 40),
    "a bit of its digest": lambda content: _flip(content, 100),
    "a bit of its code": lambda content: _flip(content, len(content) - 99),
    "the last bit": lambda content: _flip(content, len(content) - 1),
    "another kind": lambda content: b"\x7fELF" + content,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_compiled_anew(damage, folder, monkeypatch):
    load(monkeypatch)
    (path,) = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(DAMAGE[damage](content))
    linked, link = [], jit._link
    monkeypatch.setattr(jit, "_link", lambda t, code, *r: linked.append(code) or link(t, code, *r))
    assert load(monkeypatch).compiled
    assert path.read_bytes() == content
    assert len(linked) == 1
    assert content.endswith(linked[0])


def test_the_file_of_another_kernel_is_not_run(folder, monkeypatch):
    load(monkeypatch, 1)
    (one,) = folder.iterdir()
    load(monkeypatch, 2)
    (two,) = set(folder.iterdir()) - {one}
    two.write_bytes(one.read_bytes())
    assert load(monkeypatch, 2).compiled
    assert not load(monkeypatch, 1).compiled


def test_a_folder_in_the_place_of_a_file(folder, monkeypatch):
    load(monkeypatch)
    for path in list(folder.iterdir()):
        path.unlink()
        path.mkdir()
    with pytest.warns(CacheWarning, match="cannot be kept"):
        assert load(monkeypatch).compiled


def test_an_unwritable_folder_warns_and_works(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code = """
import warnings
from cellwright import CacheWarning
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("default")
    compare(make(lstm, 3))
named = {(w.category.__name__, str(w.message)) for w in seen}
print(*(category for category, _ in named), all("CELLWRIGHT_CACHE_DIR" in m for _, m in named))
"""
    assert python(code, CELLWRIGHT_CACHE_DIR=str(blocked / "cache")) == "CacheWarning True"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(folder, monkeypatch):
    folder.mkdir(mode=0o500)
    with pytest.warns(CacheWarning, match="CELLWRIGHT_CACHE_DIR"):
        assert load(monkeypatch).compiled


def test_processes_that_start_together(tmp_path):
    start = "import torch; from cellwright.cells import rnn_tanh\n"
    start += "from tests.cpu.agreement import compare, make; compare(make(rnn_tanh, 3))"
    environment = {**os.environ, "CELLWRIGHT_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", start]
    running = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert (process.returncode, error) == (0, "")
    assert {path.suffix for path in tmp_path.iterdir()} == {".o"}


@pytest.fixture
def kernels(folder):
    """The same folder, for layers: they load all their code again."""
    plan.plan_of.cache_clear()
    yield folder
    plan.plan_of.cache_clear()


def test_new_lengths_and_batches_compile_nothing(kernels):
    compare(make(rnn_tanh))
    compare(make(rnn_tanh, **FORMS["one step of one row"]))
    before = set(kernels.iterdir())
    for form in FORMS.values():
        if form.get("bias", True):
            compare(make(rnn_tanh, **form))
    for steps, batch in ((1, 9), (33, 1), (2, 33), (9, 9)):
        compare(make(rnn_tanh, steps=steps, batch=batch))
        compare(make(rnn_tanh, steps=steps, batch=batch, batch_first=True, directions=2))
    assert before
    assert set(kernels.iterdir()) == before


@pytest.mark.parametrize("other", ["hidden", "dtype", "cell"])
def test_what_kernels_depend_on_is_in_their_key(other, kernels):
    compare(make(rnn_tanh, 3))
    before = set(kernels.iterdir())
    hidden, cell = (5 if other == "hidden" else 3), (rnn_relu if other == "cell" else rnn_tanh)
    compare(make(cell, hidden, dtype=torch.float64 if other == "dtype" else torch.float32))
    assert set(kernels.iterdir()) > before


def test_the_instruction_set_is_in_the_key(folder, monkeypatch):
    load(monkeypatch)
    other = replace(host(), features="")
    assert jit.load(other, "answer 42", [], lambda: ir.Module("nothing")).compiled


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("CELLWRIGHT_CACHE_DIR", str(tmp_path))
    assert jit.cache_folder() == tmp_path
    monkeypatch.delenv("CELLWRIGHT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    if sys.platform == "linux":
        assert jit.cache_folder() == tmp_path / "x" / "cellwright"


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.usefixtures("folder")
def test_the_cycle_collector_rests_while_code_is_made(enabled):
    seen = []

    def emit():
        seen.append(gc.isenabled())
        raise CompileError("no code")

    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(CompileError):
            jit.load(host(), "nothing", ["nothing"], emit)
        seen.append(gc.isenabled())
    finally:
        (gc.enable if before else gc.disable)()
    assert seen == [False, enabled]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("folder")
def test_a_child_that_is_forked_meanwhile_collects_cycles():
    codes = []

    def emit():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert not gc.isenabled()
        raise CompileError("no code")

    with pytest.raises(CompileError):
        jit.load(host(), "nothing", ["nothing"], emit)
    assert codes == [0]
    assert gc.isenabled()


def test_the_cycle_collector_wakes_from_a_rest_within_a_rest():
    with jit._Collector.resting(), jit._Collector.resting():
        assert not gc.isenabled()
    assert gc.isenabled()
